"""The chart of depth along the line."""

from nicegui import ui

from spd_bench.explore.profile import chart
from spd_bench.explore.session import Problem, Session


class ProfilePanel:
    """A card that is there while a line is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown: object = None
        with ui.element("section").classes("card").props("id=profile") as self._card:
            ui.html("<h2>Depth along the line</h2>", sanitize=False)
            self._place = ui.element("div")
        self._card.set_visibility(False)

    async def refresh(self) -> list[Problem]:
        """Asks along the line, if it or the runs have changed; the runs that did not answer."""
        session = self._session
        wanted = (session.line, session.chosen, session.picture)
        if wanted == self._shown:
            return []
        self._card.set_visibility(session.line is not None)
        problems: list[Problem] = []
        if session.line is not None:
            profile, problems = await session.profile()
            self._place.clear()
            with self._place:
                ui.echart(chart(profile, session.colours), renderer="svg")
        self._shown = wanted
        return problems
