"""The picture with what is drawn over it; clicks, drags and keys become changes of the session."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from nicegui import ui

from spd_bench.explore.overlays import layers, line, marker
from spd_bench.explore.session import Session

STEP, STRIDE = 1, 10
"""Pixels of the image that an arrow key moves the point, without and with Shift."""
ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}

ON_KEY = """(event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const known = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Escape", "Enter", "l", "L"];
  if (!known.includes(event.key)) return;
  event.preventDefault();
  emit({key: event.key, shift: event.shiftKey});
}"""
Do = Callable[..., Awaitable[None]]


class PicturePanel:
    """The picture, its overlays and its keys."""

    def __init__(self, session: Session, do: Do) -> None:
        """do: `ExplorePage._do`."""
        self._session = session
        self._do = do
        self.under = ""
        """SVG that lies below point and line."""
        script = files("spd_bench.explore").joinpath("page.js").read_text(encoding="utf-8")
        ui.add_body_html(f"<script>{script}</script>")
        label = "Picture. Arrow keys move the point, with Shift by ten pixels; L begins and ends a line; Escape clears."
        self._image = (
            ui.interactive_image(sanitize=False)  # overlays hold numbers alone
            .props(f'id=picture tabindex=0 role=application aria-label="{label}"')
            .on("ask", self._asked, js_handler="(event) => emit(event.detail)")
            .on("keydown", self._pressed, js_handler=ON_KEY)
        )
        with ui.element("div").classes("bar"):
            self._line = ui.button("Line from here", icon="timeline", on_click=lambda: do(session.begin_or_end_line))
            self._line.props("outline dense no-caps size=sm id=line")
            ui.button("Clear", on_click=lambda: do(session.clear)).props("flat dense no-caps size=sm id=clear")
            ui.html(
                "Click for depth, drag for a line. Keys: <kbd>←↑↓→</kbd> <kbd>Shift</kbd> <kbd>L</kbd> <kbd>Esc</kbd>",
                sanitize=False,
            ).classes("keys")

    def draw(self) -> None:
        """Shows the session's picture, point and line."""
        picture = self._session.picture
        if picture is None:
            return
        source = f"/picture/{picture.key}.jpg"
        if self._image.source != source:
            self._image.set_source(source)
            self._image.style(f"max-width: calc(78vh * {picture.width / picture.height:.4f})")
        size = picture.size
        parts = [self.under]
        if self._session.line is not None:
            parts.append(line(*self._session.line, **size))
        if self._session.start is not None:
            parts.append(line(self._session.start, self._session.point or self._session.start, **size))
        if self._session.point is not None:
            parts.append(marker(self._session.point, **size))
        self._image.set_content(layers(parts))
        self._line.set_text("Line to here" if self._session.start else "Line from here")

    async def _asked(self, event: Any) -> None:
        place = event.args
        if "at" in place:
            await self._do(lambda: self._session.point_at(*place["at"]))
        else:
            await self._do(lambda: self._session.draw(*place["from"], *place["to"]))

    async def _pressed(self, event: Any) -> None:
        key, session = event.args["key"], self._session
        if key in ARROWS:
            step = STRIDE if event.args["shift"] else STEP
            right, down = ARROWS[key]
            await self._do(lambda: session.move(step * right, step * down))
        elif key == "Enter":
            await self._do(lambda: session.move(0, 0))
        elif key == "Escape":
            await self._do(session.clear)
        else:
            await self._do(session.begin_or_end_line)
