"""How long a click on the page of `spd-bench explore` waits for its answer, once the image is encoded.

    python benchmarks/explore.py

Trains v13 for four steps at 518×518 on synthetic rooms with the weight-free encoder, which does not change what a
click costs, and measures what stands between a click and its answer: waiting, decoding, truth and table. The targets
are 100 ms for one click, and less than a second for the last of ten people who click at once. A browser adds its own
drawing and two passes of a local WebSocket, which `--browser` measures (Playwright and a Chromium).
"""

import asyncio
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer

from spd_bench.ask.load import load_folder
from spd_bench.explore.frames import known_images
from spd_bench.explore.models import Models
from spd_bench.explore.offers import offers
from spd_bench.explore.pictures import Picture
from spd_bench.explore.session import Session
from spd_bench.explore.table import readings_table
from spd_bench.run.request import Request
from spd_bench.run.session import run_suite
from spd_bench.suite.axes import Selection

PEOPLE = 10
SIZE = "data.image_size=[518, 518]"


def main(
    clicks: Annotated[int, typer.Option(help="Clicks of one person.")] = 50,
    rounds: Annotated[int, typer.Option(help="Times that ten people click at once.")] = 20,
    browser: Annotated[bool, typer.Option("--browser", help="Also click in a headless Chromium.")] = False,
) -> None:
    """Prints medians and worst cases in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        run_suite(Request(suite="smoke", sets=(SIZE,), root=root, device="cpu", selection=Selection(("v13",))))
        asyncio.run(measure(root, clicks, rounds))
        if browser:
            _report("click in Chromium until the table changes", in_browser(root, Path(folder), clicks))


async def measure(root: Path, clicks: int, rounds: int) -> None:
    """Clicks of one person, then of ten at once, in this process."""
    offered = offers(["smoke/v13"], root=root, seed=None)
    models = Models(offered, lambda offer: load_folder(offer.folder, device=torch.device("cpu")))
    known, _ = known_images(offered)
    picture = known[0].open()
    encoded = await models.encoded("v13", picture)
    print(f"encode: {encoded.encode_ms:.0f} ms; an encoded image holds {_megabytes(encoded.scene):.0f} MB")
    alone = Session(models)
    alone.show(picture)
    _report("one click", [await click(alone, picture) for _ in range(clicks)])
    people = [Session(models) for _ in range(PEOPLE)]
    for person in people:
        person.show(picture)
    last = [max(await asyncio.gather(*(click(person, picture) for person in people))) for _ in range(rounds)]
    _report(f"the last of {PEOPLE} people who click at once", last)


async def click(session: Session, picture: Picture) -> float:
    """Milliseconds from a click at a random place until its table is made."""
    started = time.perf_counter()
    session.point_at(random.uniform(0, picture.width), random.uniform(0, picture.height))
    readings_table(await session.readings(), session.colours)
    return 1e3 * (time.perf_counter() - started)


def in_browser(root: Path, folder: Path, clicks: int) -> list[float]:
    """Milliseconds from a mouse click until the point's line and the table have changed on the page."""
    from playwright.sync_api import sync_playwright

    said = folder / "said.txt"
    command: list[str] = [str(Path(sys.executable).with_name("spd-bench")), "explore", "smoke/v13", "--runs", str(root)]
    with (
        said.open("w") as log,
        subprocess.Popen(command, stderr=log, cwd=folder) as server,  # noqa: S603 our own command
        sync_playwright() as driver,
    ):
        while not (url := re.search(r"http://\S+", said.read_text())) and server.poll() is None:
            time.sleep(0.2)
        assert url is not None, said.read_text()
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url[0])
        page.wait_for_selector("#picture img[src*=jpg]")
        found = [_one_click(page, number) for number in range(clicks + 1)]
        chromium.close()
        server.terminate()
    return found[1:]  # the first click encodes


def _one_click(page: Any, number: int) -> float:
    # the page itself takes the time, so that the driver's own passes do not count
    return float(
        page.evaluate(
            """async (number) => {
              const image = document.querySelector("#picture img"), box = image.getBoundingClientRect();
              const table = document.querySelector("#readings");
              const place = {bubbles: true, clientX: box.left + 9 * number + 5, clientY: box.top + 7 * number + 5};
              const changed = new Promise((done) => new MutationObserver(done).observe(table, {childList: true}));
              const started = performance.now();
              image.dispatchEvent(new MouseEvent("mousedown", place));
              document.dispatchEvent(new MouseEvent("mouseup", place));
              await changed;
              return performance.now() - started;
            }""",
            number,
        )
    )


def _report(what: str, found_ms: list[float]) -> None:
    print(f"{what}: median {median(found_ms):.1f} ms, worst of {len(found_ms)} {max(found_ms):.1f} ms")


def _megabytes(scene: Any) -> float:
    """Distinct tensors that an encoded image holds, found through every field."""
    storages: dict[int, int] = {}
    seen: set[int] = set()

    def walk(value: Any) -> None:
        if id(value) in seen or isinstance(value, torch.nn.Module):
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            [walk(item) for item in value.values()]
        elif isinstance(value, list | tuple):
            [walk(item) for item in value]
        elif hasattr(value, "__dict__"):
            walk(vars(value))

    walk([scene.features, scene.prepared])
    return sum(storages.values()) / 1e6


if __name__ == "__main__":
    typer.run(main)
