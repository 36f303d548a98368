"""`spd-bench explore` through its entry point: what it offers, and what it refuses before anything is served."""

import builtins
import importlib.util
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import train_tiny

from spd_bench import cli
from spd_bench.ask.load import load_folder
from spd_bench.explore import command
from spd_bench.explore.frames import known_images
from spd_bench.explore.looked import LAYERS, drawn, legend, numbers
from spd_bench.explore.offers import offers
from spd_bench.inside.trace import look_inside

Explore = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows v13 and constant, two seeds each, on frames of 64×48; four of them are test images."""
    return train_tiny(tmp_path_factory.mktemp("explored"))


@pytest.fixture
def explore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explore:
    """Runs the command; its exit code and what it printed. The extra seems to be installed, nothing is served."""
    found = importlib.util.find_spec
    monkeypatch.setattr(command, "find_spec", lambda name: found("json" if name == "nicegui" else name))
    monkeypatch.setattr(command, "serve", lambda listening, *rest: listening.close())

    def run(*args: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["spd-bench", "explore", *args, "--device", "cpu"])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_without_names_every_row_of_the_last_suite_is_offered(root: Path, explore: Explore) -> None:
    assert explore("--runs", str(root)) == (0, "runs: v13, constant; 4 test images\n")


def test_named_runs_are_offered_by_names_that_differ(root: Path) -> None:
    folder = next(root.glob("trained/v13-s1-*"))
    found = offers(["tiny/constant", "tiny/v13", str(folder)], root=root, seed=None)
    assert [offer.label for offer in found] == ["constant", "tiny/v13", str(folder)]
    assert [offer.label for offer in offers(["tiny/v13", "tiny"], root=root, seed=None)] == ["v13"]
    assert [offer.folder.name[:6] for offer in offers([], root=root, seed=1)] == ["v13-s1", "consta"]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--runs", "nowhere"], 2, "no suite has been run below nowhere"),
        (["tiny/nothing"], 2, 'unknown composition "nothing"'),
        (["--seed", "9"], 2, "no trained run of seed 9"),
        (["--port", "70000"], 2, "65535"),
    ],
)
def test_what_cannot_be_is_one_message(root: Path, explore: Explore, args: list[str], code: int, says: str) -> None:
    given = args if "--runs" in args else [*args, "--runs", str(root)]
    found, said = explore(*given)
    assert found == code
    assert says in said
    assert "Traceback" not in said


def test_a_port_that_is_taken(root: Path, explore: Explore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = explore("--runs", str(root), "--port", str(port))
    assert code == 2
    assert f"--port {port}: cannot listen there" in said
    assert said.count("error:") == 1


def test_a_named_run_that_cannot_be_loaded(root: Path, explore: Explore, tmp_path: Path) -> None:
    """Its checkpoint is damaged: saved state, exit code 7."""
    copy = tmp_path / "copy"
    shutil.copytree(next(root.glob("trained/v13-s0-*")), copy)
    content = bytearray((copy / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "checkpoint.pt").write_bytes(content)
    code, said = explore(str(copy))
    assert code == 7
    assert "checkpoint.pt" in said
    assert said.count("error:") == 1


def test_without_the_extra_it_says_what_to_install(
    root: Path, explore: Explore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    code, said = explore("--runs", str(root))
    assert code == 2
    assert "pip install 'spd-bench[explore]'" in said


def test_the_command_line_does_not_import_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """`spd-bench --help` costs no second of NiceGUI; nor does anything but the server import it."""
    imported: list[str] = []
    original = builtins.__import__

    def noted(name: str, *rest: Any) -> Any:
        imported.append(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", noted)
    monkeypatch.setattr(sys, "argv", ["spd-bench", "explore", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert not [name for name in imported if name.split(".")[0] in ("nicegui", "uvicorn", "fastapi")]


# test images


def test_images_of_the_test_split_come_with_their_truth(root: Path) -> None:
    """The frames' depth rises from 1 to 4 m, times a factor of 0.7 to 1.3."""
    images, problems = known_images(offers([], root=root, seed=None))
    assert problems == []
    assert [image.name for image in images] == ["016", "017", "018", "019"]
    picture = images[0].open()
    assert picture.size == {"width": 64, "height": 48}
    left_m, right_m = picture.truth_m(0, 20), picture.truth_m(63, 20)
    assert left_m is not None
    assert right_m is not None
    assert 0.7 <= left_m <= 1.3
    assert right_m == pytest.approx(4 * left_m, rel=0.01)


def test_data_that_are_gone_or_changed_leave_a_page_without_test_images(root: Path, tmp_path: Path) -> None:
    """Both are one line; images can still be dropped in."""
    moved = tmp_path / "runs"
    shutil.copytree(root, moved)
    frames = root.parent / "frames"
    try:
        frames.rename(tmp_path / "elsewhere")
        images, problems = known_images(offers([], root=moved, seed=None))
        assert images == []
        assert len(problems) == 1
        assert problems[0].startswith("no test images of suite tiny: ")
    finally:
        (tmp_path / "elsewhere").rename(frames)
    last = sorted((frames / "rgb").glob("*.png"))[-1]
    kept = last.read_bytes()
    try:
        last.unlink()
        images, problems = known_images(offers([], root=moved, seed=None))
        assert (images, len(problems)) == ([], 1)
        assert "has changed" in problems[0] or "no test images" in problems[0]
    finally:
        last.write_bytes(kept)


# what a run looked at


def test_layers_and_numbers_of_a_run(root: Path) -> None:
    """Every anchor is a diamond, every sample within the image a dot; a suite without a row's layer says so."""
    offered = offers(["tiny/v13"], root=root, seed=None)
    model = load_folder(offered[0].folder, device=torch.device("cpu"))
    picture = known_images(offered)[0][0].open()
    seen = look_inside(model, model.encode(picture.image_HW3), (40, 20))
    anchors = drawn(seen, ("anchors",), picture.size)
    assert anchors.count("M") == len(seen.anchors) > 1
    assert "attention" not in anchors
    everything = drawn(seen, LAYERS, picture.size)
    assert everything.index('class="attention"') < everything.index('class="samples"') < everything.index("anchors")
    inside = [((p[:, :2] >= -0.5) & (p[:, :2] <= [63.5, 47.5])).all(axis=1).sum() for p in seen.places.values()]
    assert everything.count("h0") == sum(inside)
    assert all(f"<li>{line}</li>" in numbers(seen) for line in seen.lines())
    assert "no " not in legend(seen, LAYERS)
    lacking = legend(replace(seen, attention=None, anchors=seen.anchors[:0], places={}), LAYERS)
    assert all(f"no {name} here" in lacking for name in LAYERS)
