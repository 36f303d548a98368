"""`spd-bench explore` used as a person would, in a headless Chromium: `nox -s browser`."""

import http.client
import importlib.util
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explore.browser import GRAPHICS, Served, Visit, browser_path, explorer
from explore.test_pictures import claims
from PIL import Image
from trained import HEIGHT, WIDTH, train_tiny

import spd_bench
from spd_bench.explore.pictures import MOST_BYTES

LACKS = [name for name in ("nicegui", "playwright") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(not os.environ.get("SPD_BENCH_BROWSER"), reason="drives a browser for minutes: nox -s browser"),
    pytest.mark.skipif(bool(LACKS), reason=f"not installed: {', '.join(LACKS)}"),
    pytest.mark.skipif(browser_path() is None, reason="no Chromium is installed here: apt-get install chromium"),
]

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows v13 and constant on frames of 64×48 whose depth rises to the right."""
    return train_tiny(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def served(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    where = tmp_path_factory.mktemp("where")
    with explorer(root, where=where) as running:
        yield running
    assert [path.name for path in where.iterdir()] == ["explore.log"], "the server leaves nothing in its folder"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox", *GRAPHICS])
        yield browser
        browser.close()


@pytest.fixture
def visit(served: Served, chromium: Any) -> Iterator[Open]:
    """Opens the page in a browser profile of its own; in the end it asked nobody else, and complained of nothing."""
    visits: list[Visit] = []

    def open_page(*, width: int = 1280, height: int = 900, **profile: Any) -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, **profile)
        found = Visit(context.new_page())
        visits.append(found)
        found.listen()
        found.page.goto(served.url)
        found.sees("#picture img[src*=jpg]")
        return found

    yield open_page
    for each in visits:
        each.page.context.close()
    assert {host for each in visits for host in each.hosts} == {"127.0.0.1"}
    assert [text for each in visits for text in each.complaints] == []


def png(image_HW3: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HW3).save(buffer, format="PNG")
    return buffer.getvalue()


def shot(seen: Visit, name: str) -> None:
    """Keeps a screenshot where SPD_BENCH_BROWSER names a folder."""
    if (folder := Path(os.environ["SPD_BENCH_BROWSER"])).is_dir():
        seen.page.wait_for_timeout(500)
        seen.page.screenshot(path=folder / f"{name}.png", full_page=True)


# a first look


def test_a_click_is_answered_with_what_predict_says(visit: Open, root: Path) -> None:
    """The same image and pixel through Python; the truth of frame test 0 at that pixel stands beside it."""
    seen = visit()
    seen.click_at(40.5, 20.5)
    (row,) = seen.rows(1)
    about = seen.reads("#about", r"^\d+: pixel \(40, 20\) of 64×48 · truth \d\.\d\d\d m")
    model = spd_bench.load("tiny/v13", runs=root, device="cpu")
    path = root.parent / "frames" / "rgb" / f"{about.split(':')[0]}.png"
    (depth_m,) = model.depth(model.encode(path), [(40, 20)])
    assert row[0] == "v13"
    assert row[1].rstrip("*") == f"{depth_m:.3f} m"
    truth_m = float(about.split("truth ")[1].removesuffix(" m"))
    assert row[2].startswith(f"{depth_m - truth_m:+.2f}")
    assert all(cell.endswith(" ms") for cell in row[3:])
    assert "STAND-INS: patch descriptors" in seen.reads("#stand-ins", "STAND-INS")


@pytest.mark.parametrize("scale", [1, 2, 0.75])
def test_the_pixel_is_right_at_every_size_of_the_window(visit: Open, scale: float) -> None:
    """At window widths of 400 and 1280 and on finer screens, in every corner."""
    for width in (400, 1280):
        seen = visit(width=width, device_scale_factor=scale)
        for u, v in [(0, 0), (WIDTH - 1, 0), (0, HEIGHT - 1), (WIDTH - 1, HEIGHT - 1), (31, 17)]:
            seen.click_at(u + 0.5, v + 0.5)
            seen.reads("#about", rf"pixel \({u}, {v}\)")


def test_runs_are_compared(visit: Open) -> None:
    seen = visit()
    seen.click_at(10.5, 10.5)
    seen.rows(1)
    seen.pick("runs", "constant")
    rows = seen.rows(2)
    assert [row[0] for row in rows] == ["v13", "constant"]
    assert len({row[1] for row in rows}) == 2
    seen.pick("runs", "v13")
    assert [row[0] for row in seen.rows(1)] == ["constant"]


def test_another_test_image_takes_the_point_away(visit: Open) -> None:
    seen = visit()
    seen.click_at(10.5, 10.5)
    seen.rows(1)
    before = seen.page.locator("#picture img").get_attribute("src")
    seen.page.locator("#images").click()
    seen.page.get_by_role("option").nth(1).click()
    seen.rows(0)
    assert seen.page.locator("#picture img").get_attribute("src") != before
    seen.click_at(5.5, 5.5)
    seen.reads("#about", r"pixel \(5, 5\)")


# lines, inside, cloud


def test_a_line_drawn_gives_a_profile(visit: Open) -> None:
    seen = visit()
    seen.pick("runs", "constant")
    seen.drag((4.5, 10.5), (50.5, 30.5))
    seen.sees("#picture .line")
    seen.sees("#profile svg")
    texts = seen.page.locator("#profile svg").text_content()
    for shown in ("v13", "constant", "truth", "depth (m)", "pixels along the line"):
        assert shown in texts
    seen.page.locator("#clear").click()
    seen.sees("#picture .line", count=0)
    assert not seen.page.locator("#profile").is_visible()


def test_a_line_by_taps(visit: Open) -> None:
    """On a screen that one touches, dragging scrolls: a point, the button, another point."""
    seen = visit(width=400, has_touch=True, is_mobile=True)
    seen.page.touchscreen.tap(*seen.place(10.5, 10.5))
    seen.rows(1)
    seen.page.locator("#line").tap()
    seen.reads("#line", "Line to here")
    seen.page.touchscreen.tap(*seen.place(50.5, 20.5))
    seen.sees("#profile svg")
    seen.reads("#about", r"pixel \(50, 20\)")


def test_what_a_run_looked_at(visit: Open) -> None:
    """Layers follow the boxes and the run; a baseline says that it has nothing inside."""
    seen = visit()
    seen.pick("runs", "constant")
    seen.click_at(30.5, 20.5)
    seen.rows(2)
    for name in ("attention", "samples", "anchors"):
        seen.page.locator(f"#{name}").click()
        seen.page.wait_for_selector(f"#picture .{name}", state="attached")
    seen.reads("#inside-note", r"b4 samples of L2 \(\d+\)")
    seen.pick("inside-run", "constant")
    seen.reads("#inside-note", "is a baseline")
    seen.sees("#picture .anchors", count=0)
    assert seen.rows(2)


def test_a_point_cloud_turns(visit: Open) -> None:
    seen = visit()
    seen.page.locator("#cloud").click()
    seen.sees("#cloud-place canvas")
    seen.reads("#cloud-place", "points by v13")
    seen.page.wait_for_timeout(2000)
    canvas = seen.page.locator("#cloud-place canvas")
    first = canvas.screenshot()
    seen.page.locator("#turn [tabindex='0']").focus()
    for _ in range(8):
        seen.page.keyboard.press("ArrowRight")
    seen.page.wait_for_timeout(2000)
    assert canvas.screenshot() != first
    seen.complaints[:] = [text for text in seen.complaints if "GPU stall" not in text]


# files that are dropped in


def test_an_image_of_ones_own(visit: Open) -> None:
    seen = visit()
    seen.drop("wide.png", png(np.full((30, 120, 3), 120, np.uint8)))
    seen.page.wait_for_function("document.querySelector('#picture img').naturalWidth == 120")
    seen.click_at(100.5, 20.5)
    seen.reads("#about", r"^wide\.png: pixel \(100, 20\) of 120×30 · no true depth")
    (row,) = seen.rows(1)
    assert row[2] == "–"
    seen.reads("#unfamiliar", r"aspect 4\.00")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("broken.png", lambda: png(NOISE)[:2000], r"^broken\.png: .*damaged or foreign file"),
        ("notes.txt", lambda: b"no image at all\n", r"^notes\.txt: .*damaged or foreign file"),
        ("bomb.png", lambda: claims(30_000, 30_000), r"^bomb\.png: .*damaged or foreign file"),
        ("huge.png", lambda: bytes(MOST_BYTES + 1), r"^Larger than 32 MB: not sent\.$"),
        ("<b>x.png", lambda: b"", r"^<b>x\.png: .*\(no known image format\)"),
    ],
    ids=["broken", "no image", "claims too many pixels", "huge", "name"],
)
def test_what_is_no_image_is_one_line(visit: Open, name: str, content: Callable[[], bytes], says: str) -> None:
    """And the page goes on: the picture is still there and a good image is taken next."""
    seen = visit()
    seen.drop(name, content())
    assert "\n" not in seen.reads("#status", says)
    seen.click_at(3.5, 3.5)
    seen.reads("#about", r"pixel \(3, 3\) of 64×48")
    seen.reads("#status", "^$")
    seen.drop("good.png", png(np.zeros((20, 20, 3), np.uint8)))
    seen.page.wait_for_function("document.querySelector('#picture img').naturalWidth == 20")


# keys, screens, colours


def test_all_of_it_by_keys(visit: Open) -> None:
    """Tab to the picture; the first arrow shows the middle, (31, 23) of 64×48."""
    seen = visit()
    keys = seen.page.keyboard
    for _ in range(12):
        keys.press("Tab")
        if seen.page.evaluate("document.activeElement.id") == "picture":
            break
    keys.press("ArrowRight")
    seen.reads("#about", r"pixel \(31, 23\)")
    keys.press("ArrowRight")
    keys.press("Shift+ArrowUp")
    seen.reads("#about", r"pixel \(32, 13\)")
    keys.press("l")
    seen.reads("#line", "Line to here")
    keys.press("Shift+ArrowRight")
    keys.press("l")
    seen.sees("#profile svg")
    keys.press("Escape")
    seen.reads("#about", "click into it")
    assert seen.page.evaluate("document.activeElement.id") == "picture"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1280])
def test_nothing_is_cut_off(visit: Open, width: int, scheme: str) -> None:
    seen = visit(width=width, color_scheme=scheme)
    seen.is_not_cut_off()
    seen.pick("runs", "constant")
    seen.click_at(40.5, 20.5)
    seen.rows(2)
    for layer in ("attention", "samples", "anchors"):
        seen.page.locator(f"#{layer}").click()
    seen.drag((4.5, 10.5), (50.5, 30.5))
    seen.sees("#profile svg")
    seen.page.locator("#cloud").click()
    seen.sees("#cloud-place canvas")
    seen.is_not_cut_off()
    shot(seen, f"explore-{width}-{scheme}")
    dark = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 20, 20)"}[scheme]
    seen.page.locator("#dark").click()
    seen.page.wait_for_function(f"getComputedStyle(document.body).backgroundColor != '{dark}'")


# many people, and strangers


def test_ten_people_click_at_once(visit: Open) -> None:
    """Each gets the answer for the own pixel."""
    people = [visit() for _ in range(10)]
    for number, seen in enumerate(people):
        seen.click_at(5 * number + 0.5, 3.5)
    for number, seen in enumerate(people):
        seen.reads("#about", rf"pixel \({5 * number}, 3\)")
        seen.rows(1)


def test_strangers_are_refused(served: Served) -> None:
    """Without the token neither the page, nor a picture, nor the WebSocket; and with it no huge body."""

    def status(path: str, method: str = "GET", **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
        connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        return connection.getresponse().status

    socket = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    upgrade = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    token = served.url.split("token=")[1]
    cookie = f"spd_bench_explore_{served.port}={token}"
    assert status("/") == status("/?token=guess") == status(f"/picture/{'0' * 32}.jpg") == status(socket) == 403
    assert status(socket, **upgrade) == 403
    assert status(socket, **upgrade, cookie=cookie, origin="http://127.0.0.1:1") == 403
    assert status(f"/?token={token}") == 200
    assert status(socket, **upgrade, cookie=cookie) == 101
    assert status("/_nicegui/client/x/upload/1", "POST", cookie=cookie, content_length=str(MOST_BYTES * 2)) == 413


def test_ctrl_c_ends_it(root: Path, tmp_path: Path) -> None:
    with explorer(root, "tiny/constant", where=tmp_path) as running:
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(timeout=30) in (0, 130)
    said = (tmp_path / "explore.log").read_text(encoding="utf-8")
    assert "runs: constant; 4 test images" in said
    assert "Traceback" not in said
