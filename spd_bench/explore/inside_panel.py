"""What one run looked at for the point: layers over the picture, and numbers."""

import html

from nicegui import ui

from spd_bench.errors import SpdError
from spd_bench.explore.looked import LAYERS, drawn, legend, numbers
from spd_bench.explore.picture_panel import Do, PicturePanel
from spd_bench.explore.session import Session, one_line


class InsidePanel:
    """A card with a box for each layer, and the run that is looked into."""

    def __init__(self, session: Session, picture: PicturePanel, do: Do) -> None:
        self._session = session
        self._picture = picture
        with ui.element("section").classes("card"):
            ui.html("<h2>What it looked at</h2>", sanitize=False)
            with ui.element("div").classes("bar"):
                self._run = ui.select([], label="of", on_change=lambda _: do())
                self._run.props("dense outlined options-dense for=inside-run").classes("whole")
                self._boxes = {
                    name: ui.checkbox(name, on_change=lambda _: do()).props(f"dense id={name}") for name in LAYERS
                }
            self._note = ui.html("", sanitize=False).classes("note").props("id=inside-note")
            with ui.expansion("In numbers").classes("numbers").props("dense id=inside-numbers") as self._fold:
                self._numbers = ui.html("", sanitize=False).classes("note")
            self._fold.set_visibility(False)
        self.offer()

    def offer(self) -> None:
        """Offers the chosen runs."""
        chosen = list(self._session.chosen)
        kept = self._run.value if self._run.value in chosen else next(iter(chosen), None)
        self._run.set_options(chosen, value=kept)

    async def refresh(self) -> None:
        """Draws the layers whose boxes are ticked."""
        wanted = tuple(name for name in LAYERS if self._boxes[name].value)
        under, note, said = await self._looked(self._run.value, wanted) if wanted else ("", "", "")
        self._note.set_content(note)
        self._numbers.set_content(said)
        self._fold.set_visibility(bool(said))
        if under != self._picture.under:
            self._picture.under = under
            self._picture.draw()

    async def _looked(self, run: str | None, wanted: tuple[str, ...]) -> tuple[str, str, str]:
        """SVG of the layers, their legend and the numbers, both as HTML; only why, where a run has nothing inside."""
        if run is None or self._session.picture is None or self._session.point is None:
            return "", "", ""
        try:
            seen = await self._session.inside(run)
        except SpdError as error:
            return "", html.escape(one_line(error)), ""
        return drawn(seen, wanted, self._session.picture.size), legend(seen, wanted), numbers(seen)
