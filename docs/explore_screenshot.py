"""Makes docs/explore.png: trains two small runs on synthetic rooms, opens the page and uses it.

    pip install -e '.[explore]' playwright && python docs/explore_screenshot.py

A few minutes; needs a Chromium.
"""

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

OUT = Path(__file__).with_name("explore.png")
SETS = (
    *("train.steps=150", "train.batch_size=4", "train.queries=128", "train.lr=3e-4", "data.image_size=[308, 308]"),
    *("data.dataset.train_scenes=12", "baselines=[constant]"),
)
GRAPHICS = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
COLOURS = 128
"""Colours of the picture: few enough to keep the file small."""


def main() -> None:
    """Trains, serves, clicks and writes the picture."""
    command = str(Path(sys.executable).with_name("spd-bench"))
    with tempfile.TemporaryDirectory() as folder:
        more = [part for text in SETS for part in ("--set", text)]
        subprocess.run([command, "run", "smoke", "--skip", "no-b3", *more], cwd=folder, check=True)  # noqa: S603
        said = Path(folder) / "said.txt"
        with said.open("w") as log, subprocess.Popen([command, "explore"], stderr=log, cwd=folder) as server:  # noqa: S603
            try:
                _write(_picture(_address(said, server)))
            finally:
                server.terminate()


def _address(said: Path, server: "subprocess.Popen[bytes]") -> str:
    while server.poll() is None:
        if found := re.search(r"http://\S+", said.read_text()):
            return found[0]
        time.sleep(0.2)
    raise SystemExit(said.read_text())


def _picture(url: str) -> bytes:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *GRAPHICS])
        page = chromium.new_page(viewport={"width": 1180, "height": 900})
        page.goto(url)
        page.wait_for_selector("#picture img[src*=jpg]")
        _use(page)
        picture: bytes = page.screenshot(full_page=True)
        chromium.close()
    return picture


def _use(page: Any) -> None:
    """Two runs, a point with its anchors and attention, a line and a cloud."""
    page.locator("#runs").click()
    page.get_by_role("option", name="constant", exact=True).click()
    page.keyboard.press("Escape")
    box = page.locator("#picture img").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.locator("#attention").click()
    page.locator("#samples").click()
    page.locator("#anchors").click()
    page.mouse.click(*at(0.33, 0.3))
    page.mouse.move(*at(0.1, 0.75))
    page.mouse.down()
    page.mouse.move(*at(0.9, 0.6), steps=5)
    page.mouse.up()
    page.wait_for_selector("#profile svg")
    page.locator("#cloud").click()
    page.wait_for_selector("#cloud-place canvas")
    page.locator("#turn [tabindex='0']").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(4000)


def _write(picture: bytes) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size / 1e3:.0f} kB, {image.size[0]}×{image.size[1]}")


if __name__ == "__main__":
    main()
