"""The page: what it shows and what its controls do. All state is in `Session`; nothing here computes."""

from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from nicegui import run, ui

from spd_bench.errors import SpdError
from spd_bench.explore.cloud_panel import CloudPanel
from spd_bench.explore.frames import KnownImage
from spd_bench.explore.inside_panel import InsidePanel
from spd_bench.explore.models import Models
from spd_bench.explore.picture_panel import PicturePanel
from spd_bench.explore.pictures import MOST_BYTES, Picture, Pictures, dropped
from spd_bench.explore.profile_panel import ProfilePanel
from spd_bench.explore.session import Latest, Session, one_line
from spd_bench.explore.table import about_point, readings_table

TITLE = "Depth at the pixel you ask for"
Work = Callable[[], Awaitable[None]]


class ExplorePage:
    """One page in one browser."""

    def __init__(
        self, models: Models, pictures: Pictures, known: Sequence[KnownImage], problems: Sequence[str]
    ) -> None:
        self.session = Session(models)
        self._pictures = pictures
        self._known = {str(number): image for number, image in enumerate(known)}
        self._latest = Latest()
        ui.add_css(files("spd_bench.explore").joinpath("page.css").read_text(encoding="utf-8"))
        self._dark = ui.dark_mode(None)
        self._build()
        self._tell(problems[0] if problems else "", wrong=True)

    async def begin(self) -> None:
        """Shows the first test image."""
        if self._known:
            await self._open_known(next(iter(self._known)))
        else:
            self._tell("No test images are on this machine: drop an image in.", wrong=False)

    # ---------------------------------------------------------------------------------------------------- layout

    def _build(self) -> None:
        with ui.element("header").classes("bar"):
            ui.html(f"<h1>{TITLE}</h1>", sanitize=False).classes("grow")
            ui.button(icon="dark_mode", on_click=self._turn_dark).props('flat dense id=dark aria-label="Dark or light"')
        with ui.element("div").classes("bar"):
            self._runs = (
                ui.select(list(self.session.models.offers), multiple=True, label="Runs", on_change=self._choose)
                .props("use-chips dense outlined options-dense for=runs")
                .classes("grow")
            )
            self._runs.value = list(self.session.chosen)
            self._images = (
                ui.select(
                    {key: image.name for key, image in self._known.items()},
                    label=f"Test image ({len(self._known)})",
                    with_input=True,
                    on_change=self._choose_image,
                )
                .props("dense outlined options-dense for=images")
                .classes("grow")
            )
            self._images.set_enabled(bool(self._known))
            self._upload()
        self._stand_ins = ui.label().classes("stand-ins").props("id=stand-ins")
        with ui.element("main").classes("two"):
            with ui.element("div").classes("stack"):
                self._picture = PicturePanel(self.session, self._do)
                self._status = ui.label().classes("status").props("id=status role=status aria-live=polite")
            with ui.element("div").classes("stack"):
                with ui.element("section").classes("card"):
                    self._about = ui.label().classes("status").props("id=about")
                    self._table = ui.html("", sanitize=False).classes("scroll").props("id=readings")
                    self._unfamiliar = ui.label().classes("note").props("id=unfamiliar")
                self._inside = InsidePanel(self.session, self._picture, self._do)
                self._profile = ProfilePanel(self.session)
                self._cloud = CloudPanel(self.session, self._do)
        self._say_stand_ins()

    def _upload(self) -> None:
        self._drop = (
            ui.upload(
                label=f"Or drop an image (at most {MOST_BYTES >> 20} MB)",
                max_file_size=MOST_BYTES,
                auto_upload=True,
                on_upload=self._dropped,
                on_rejected=lambda: self._tell(f"Larger than {MOST_BYTES >> 20} MB: not sent.", wrong=True),
            )
            .classes("upload grow")
            .props("flat id=upload")
        )

    # --------------------------------------------------------------------------------------------------- actions

    async def _do(self, change: Callable[[], None] | None = None, *, answer: Work | None = None) -> None:
        """Changes the session, shows that at once, then asks; errors become one line."""
        try:
            if change is not None:
                change()
            self._tell("", wrong=False)
            self._picture.draw()
            await self._latest(answer or self._answer)
        except SpdError as error:
            self._tell(one_line(error), wrong=True)

    async def _answer(self) -> None:
        """Asks for everything that the session wants: readings first, they are what one waits for."""
        picture = self.session.picture
        if picture is None:
            return
        self._about.set_text(about_point(picture, self.session.point))
        answers = await self.session.readings()
        self._table.set_content(readings_table(answers, self.session.colours) if answers else "")
        self._unfamiliar.set_text(" ".join(await self.session.unfamiliar()) if answers else "")
        await self._inside.refresh()
        for problem in await self._profile.refresh():
            self._tell(f"{problem.run}: {problem.text}", wrong=True)

    async def _choose(self, event: Any) -> None:
        def change() -> None:
            try:
                self.session.choose(event.value)
            finally:
                if list(self.session.chosen) != event.value:
                    self._runs.set_value(list(self.session.chosen))
            self._inside.offer()
            self._cloud.offer()
            self._say_stand_ins()

        await self._do(change)

    async def _choose_image(self, event: Any) -> None:
        if event.value is not None:
            await self._open_known(event.value)

    async def _open_known(self, key: str) -> None:
        try:
            picture = await run.io_bound(self._known[key].open)
        except SpdError as error:
            self._tell(one_line(error), wrong=True)
            return
        if self._images.value != key:
            self._images.set_value(key)
        else:
            await self._show(picture)

    async def _dropped(self, event: Any) -> None:
        content = await event.file.read()
        self._drop.reset()
        try:
            picture = await run.io_bound(dropped, event.file.name, content)
        except SpdError as error:
            self._tell(one_line(error), wrong=True)
            return
        self._images.set_value(None)
        await self._show(picture)

    async def _show(self, picture: Picture) -> None:
        self._pictures.keep(picture)

        def change() -> None:
            self.session.show(picture)
            self._cloud.clear()

        await self._do(change)

    # ------------------------------------------------------------------------------------------------------ words

    def _tell(self, text: str, *, wrong: bool) -> None:
        self._status.set_text(text)
        self._status.classes(add="wrong" if wrong else "", remove="" if wrong else "wrong")

    def _say_stand_ins(self) -> None:
        offers = [self.session.models.offers[label] for label in self.session.chosen]
        found = dict.fromkeys(line for offer in offers for line in offer.stand_ins)
        self._stand_ins.set_text(
            f"STAND-INS: {'; '.join(found)}: these depths say nothing about the paper's" if found else ""
        )
        self._stand_ins.set_visibility(bool(found))

    async def _turn_dark(self) -> None:
        dark = await ui.run_javascript("document.body.classList.contains('body--dark')")
        self._dark.set_value(not dark)
