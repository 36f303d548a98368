"""A real server and a headless Chromium that uses it as a person would."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
GRAPHICS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""WebGL without a graphics card."""
START_S = 120


def browser_path() -> str | None:
    """A Chromium that is installed here."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass(frozen=True)
class Served:
    """A running `spd-bench explore`."""

    process: "subprocess.Popen[str]"
    url: str

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)


@contextmanager
def explorer(root: Path, *args: str, where: Path) -> Iterator[Served]:
    """The real command on the runs below `root`, started in the folder `where`."""
    command = [
        str(Path(sys.executable).with_name("spd-bench")),
        "explore",
        *args,
        "--runs",
        str(root),
        "--device",
        "cpu",
    ]
    said = where / "explore.log"
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, cwd=where, stderr=log, stdout=log, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
    try:
        yield Served(process, _address(process, said))
    finally:
        process.kill()
        process.wait()


def _address(process: "subprocess.Popen[str]", said: Path) -> str:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://\S+token=\S+", said.read_text(encoding="utf-8")):
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"the page did not come up:\n{said.read_text(encoding='utf-8')}")


@dataclass
class Visit:
    """A page, and what it asked for and complained of."""

    page: Any
    hosts: set[str] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Notes every request's host and every error."""
        page = self.page
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "blob:")):
            self.hosts.add(str(urlsplit(url).hostname))

    # what a person does

    def click_at(self, u: float, v: float) -> None:
        """Clicks at a place of the image, in its own pixels."""
        self.page.mouse.click(*self.place(u, v))

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draws a line between two places of the image."""
        mouse = self.page.mouse
        mouse.move(*self.place(*start))
        mouse.down()
        mouse.move(*self.place(*end), steps=4)
        mouse.up()

    def place(self, u: float, v: float) -> tuple[float, float]:
        """Where a place of the image, in its own pixels, lies in the window."""
        image = self.page.locator("#picture img")
        image.scroll_into_view_if_needed()
        box, sides = image.bounding_box(), image.evaluate("e => [e.naturalWidth, e.naturalHeight]")
        return box["x"] + u / sides[0] * box["width"], box["y"] + v / sides[1] * box["height"]

    def pick(self, control: str, *options: str) -> None:
        """Chooses options of a list by their names; a list that closed again is opened again, as a person would."""
        from playwright.sync_api import TimeoutError as Gone

        for option in options:
            found = self.page.get_by_role("option", name=option, exact=True)
            for patience_ms in (3_000, 3_000, 30_000):
                try:
                    if not found.is_visible():
                        self.page.locator(f"#{control}").click()
                    found.click(timeout=patience_ms)
                    break
                except Gone:
                    continue
            else:
                raise AssertionError(f"{option} is not offered by #{control}")
        self.page.keyboard.press("Escape")

    def drop(self, name: str, content: bytes, kind: str = "image/png") -> None:
        """Hands a file to the page."""
        given = {"name": name, "mimeType": kind, "buffer": content}
        self.page.locator("#upload input[type=file]").set_input_files([given])

    # what a person sees

    def reads(self, selector: str, pattern: str) -> str:
        """The text of an element, once it matches."""
        from playwright.sync_api import expect

        found = self.page.locator(selector)
        expect(found).to_have_text(re.compile(pattern), timeout=15_000)
        return str(found.inner_text())

    def rows(self, count: int) -> list[list[str]]:
        """The cells of the table of readings, once it has so many rows."""
        from playwright.sync_api import expect

        rows = self.page.locator("#readings tbody tr")
        expect(rows).to_have_count(count, timeout=15_000)
        return [row.locator("th, td").all_inner_texts() for row in rows.all()]

    def sees(self, selector: str, *, count: int = 1) -> None:
        """Waits until so many of these are on the page."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_have_count(count, timeout=15_000)

    def is_not_cut_off(self) -> None:
        """Nothing reaches beyond the window's right edge."""
        wide, window = self.page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window
