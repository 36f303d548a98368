"""What one run looked at for the point, drawn over the picture."""

from nicegui import ui

from spd_bench.explore.inside import LAYERS, drawn
from spd_bench.explore.picture_panel import Do, PicturePanel
from spd_bench.explore.session import Session


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
            self._note = ui.label().classes("note").props("id=inside-note")
        self.offer()

    def offer(self) -> None:
        """Offers the chosen runs."""
        chosen = list(self._session.chosen)
        kept = self._run.value if self._run.value in chosen else next(iter(chosen), None)
        self._run.set_options(chosen, value=kept)

    async def refresh(self) -> None:
        """Draws the layers whose boxes are ticked."""
        wanted = tuple(name for name in LAYERS if self._boxes[name].value)
        under, note, run = "", "", self._run.value
        if wanted and run is not None and self._session.picture is not None and self._session.point is not None:
            size = self._session.picture.size
            under, note = drawn(await self._session.inside(run), wanted, run, size)
        self._note.set_text(note)
        if under != self._picture.under:
            self._picture.under = under
            self._picture.draw()
