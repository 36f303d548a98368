"""What does not look like rooms in the unit that is assumed is a problem, and said to be assumed; nothing is silent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from spd_bench.cli import app
from spd_bench.data.inspect import Inspection, inspect_data
from spd_bench.data.planes import LEAST_VOTES, inverse_votes
from spd_bench.data.sets.rgbd_folder import RGBDFolder
from spd_bench.errors import DataError

HEIGHT, WIDTH, COUNT = 96, 128, 20
Depths = Callable[[Any], Any]


def room_mm(i: int) -> Any:
    """A floor, a wall and a cupboard, 1.2 to 3.4 m away, median about 2 m, with holes; another one for every i."""
    rng = np.random.default_rng(i)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    wall = 2400 + 3 * u + 20 * np.sin(v / 9 + i)
    floor = 1e6 / (9 * v - 60).clip(1)  # a plane: its inverse is linear
    depth = np.minimum(wall, floor).clip(1200)
    depth[20:60, 30 : 60 + i] = 1700 + 2 * (u[20:60, 30 : 60 + i] - 30)
    depth = np.rint(depth + rng.normal(0, 4, depth.shape)).astype(np.int64)
    depth[rng.random(depth.shape) < 0.05] = 0
    return depth


def folder(
    root: Path, depths: Depths = lambda d: d, *, name: str = "{:04d}", color: str = "rgb", count: int = COUNT
) -> Path:
    for side in (color, "depth"):
        (root / side).mkdir(parents=True)
    for i in range(count):
        depth = room_mm(i)
        bright = (255 * 1000 / np.maximum(depth, 1000)).astype(np.uint8)
        Image.fromarray(np.repeat(bright[..., None], 3, axis=2)).save(root / color / (name.format(i) + ".png"))
        Image.fromarray(depths(depth).astype(np.uint16)).save(root / "depth" / (name.format(i) + ".png"))
    return root


def inspect(path: Path, **options: Any) -> Inspection:
    quiet = {"dataset": None, "protocol": "full_frame", "on_frame": lambda done, total: None}
    return inspect_data(path, **{**quiet, **options})


def said(found: Inspection) -> str:
    return "\n".join(f"{problem.message} | {problem.hint}" for problem in found.problems)


def test_a_room_in_millimetres_has_no_problem_and_its_unit_is_said_to_be_assumed(tmp_path: Path) -> None:
    found = inspect(folder(tmp_path / "room"))
    assert found.problems == ()
    assert found.assumed == "the unit, 1000 file units per metre; another: --option depth_scale=N"
    assert "ASSUMED" in "\n".join(found.lines())
    assert inspect(tmp_path / "room", options={"depth_scale": 1000}).assumed == ""


def times_5(depth: Any) -> Any:
    return depth * 5


CASES: dict[str, tuple[Depths, tuple[str, ...]]] = {
    "5000 a metre": (times_5, ("beyond the protocol's 10 m", "median depth is", "multiples of 5", "5000 (median")),
    "4000 a metre": (lambda d: d * 4, ("median depth is", "multiples of 4", "4000 (median")),
    "256 a metre": (lambda d: d * 0.23, ("median depth is 0.4",)),  # nearer than the gate of single frames
    "rotated bits": (lambda d: (d << 3) & 0xFFFF | d >> 13, ("multiples of 8, as the rotated bits of SUN RGB-D",)),
    "a constant at holes": (lambda d: np.where(d == 0, 60000, d), ("60000 (60.000 m)", "invalid=[0, 65535, 60000]")),
    "disparity": (
        lambda d: np.where(d > 0, 2e6 / np.maximum(d, 1), 0),  # 2000 / metres: a median of 1 m, if it were depth
        ("20 of 20 frames floors and walls are flat only if the values are inverse depth", "baseline / disparity"),
    ),
    "exchanged bytes": (lambda d: d.astype(np.uint16).byteswap(), ("the two bytes of each value are exchanged",)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_unit_is_a_problem(tmp_path: Path, case: str) -> None:
    depths, parts = CASES[case]
    found = inspect(folder(tmp_path / "wrong", depths))
    assert found.problems
    for part in parts:
        assert part in said(found), said(found)


def test_the_unit_that_a_hint_names_ends_the_problem(tmp_path: Path) -> None:
    found = inspect(folder(tmp_path / "wrong", times_5), options={"depth_scale": 5000})
    assert (found.problems, found.assumed) == ((), "")


def test_planes_vote_for_depth_or_its_inverse() -> None:
    """A floor 1 / (0.2 + v / 96), in depth and inverted; one that is linear in depth votes as an inverted one does."""
    v, _ = np.mgrid[:96, :128]
    floor_m = 1 / (0.2 + v / 96)
    depth, inverse = inverse_votes(floor_m)
    assert depth > LEAST_VOTES
    assert inverse == 0
    assert inverse_votes(1 / floor_m) == (0, depth)
    assert inverse_votes(np.zeros((96, 128))) == inverse_votes(np.ones((3, 3))) == (0, 0)


def test_a_frame_behind_a_link_to_nothing_is_a_problem(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    for side in ("rgb", "depth"):
        (root / side / "0005.png").unlink()
        (root / side / "0005.png").symlink_to(tmp_path / "gone.png")
    found = inspect(root)
    assert (found.digest, found.splits["train"].read) == ("", 13)
    assert "no such file" in said(found)
    assert any("0005.png" in place for p in found.problems for place in p.places if "looked at" in p.message)
    with pytest.raises(DataError, match=r"0005.png: cannot be looked at"):
        RGBDFolder(RGBDFolder.Config(root=str(root))).digest()


def test_stamps_in_names_are_no_unit_and_lists_are_looked_at(tmp_path: Path) -> None:
    stamped = inspect(folder(tmp_path / "stamps", name="1551915398.{:04d}"))
    assert stamped.problems == ()
    assert stamped.depth is not None
    assert 1.5 < stamped.depth.median_m < 3
    icl = folder(tmp_path / "icl", times_5, name="{}")
    (icl / "associations.txt").write_text("\n".join(f"{i} depth/{i}.png {i} rgb/{i}.png" for i in range(COUNT)))
    found = inspect(icl)
    assert "(icl_nuim, 5000 units per metre ASSUMED" in found.description
    assert found.truth == "rendered"
    assert found.problems == ()


def test_a_sequence_of_another_unit_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "all" / "near")
    folder(tmp_path / "all" / "far", lambda d: d * 4)
    assert "1 of 2 scenes have a median depth far from the others'" in said(inspect(tmp_path / "all"))
    places = [place for problem in inspect(tmp_path / "all").problems for place in problem.places]
    assert any(place.startswith("far: median") for place in places)


def test_sequences_of_several_layouts_are_not_read_in_one_unit(tmp_path: Path) -> None:
    folder(tmp_path / "a")
    tum = folder(tmp_path / "b", times_5, name="1305031102.{:06d}")
    (tum / "rgb.txt").write_text("# color images\n")
    (tum / "depth.txt").write_text("# depth maps\n")
    (problem,) = inspect(tmp_path).problems
    assert "a (folders), b (tum): their units differ" in problem.message
    assert inspect(tmp_path / "b").problems == ()


def test_the_same_picture_in_two_splits_is_a_problem(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    shutil.copy(root / "rgb" / "0003.png", root / "rgb" / "0019.png")  # the last one is a test frame
    shutil.copy(root / "rgb" / "0004.png", root / "rgb" / "0005.png")  # both are training frames
    found = inspect(root)
    (problem,) = found.problems
    assert problem.message == "1 pictures are in two splits: what is scored was trained on"
    assert problem.places == ("train frame 0003 and test frame 0019",)
    assert any("1 frames repeat the picture" in note for note in found.notes)


def test_files_that_are_no_frames_are_ignored_and_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    before = inspect(root)
    for side in ("rgb", "depth"):
        for junk in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0001.png", "0003 (1).png", "0004 - Copy.png"):
            (root / side / junk).write_bytes(b"x")
    for i in range(COUNT):
        (root / "depth" / f"{i:04d}.json").write_text("{}")
        Image.new("L", (WIDTH, HEIGHT)).save(root / "depth" / f"{i:04d}.jpg")
    found = inspect(root)
    assert (found.problems, found.splits) == ((), before.splits)
    # hidden files are not counted: 2 × (db, ini, 2 copies), 20 json, 20 previews
    assert (
        "48 files that are no frames ignored (.db 2, .ini 2, .jpg 20 (8-bit previews), .json 20, copies 4)"
        in found.description
    )


@pytest.mark.parametrize("color", ["rgb", "color", "colour", "image", "images", "RGB"])
def test_usual_names_of_folders_are_known(tmp_path: Path, color: str) -> None:
    assert inspect(folder(tmp_path / "room", color=color)).problems == ()


@pytest.mark.parametrize(("color", "depth"), [("left", "gt"), ("image_02/data", "proj_depth/groundtruth")])
def test_what_is_not_recognised_is_answered_with_options_that_read_it(tmp_path: Path, color: str, depth: str) -> None:
    root = folder(tmp_path / "room")
    for name, other in (("rgb", color), ("depth", depth)):
        (root / other).parent.mkdir(exist_ok=True)
        (root / name).rename(root / other)
    answer = CliRunner().invoke(app, ["data", "inspect", str(root)])
    assert answer.exit_code != 0
    hint = answer.exception.hint  # type: ignore[union-attr]
    assert "20 frames have both colour and depth" in hint
    pasted = hint[hint.index("--dataset") : hint.index("; known layouts")].replace("'", "").split(" ")
    again = CliRunner().invoke(app, ["data", "inspect", str(root), "--protocol", "full_frame", "--json", *pasted])
    assert again.exit_code == 0, again.output
    assert json.loads(again.output)["splits"]["train"]["frames"] == 14  # 0.7 of 20


@pytest.mark.parametrize(
    ("side", "suffix", "said"),
    [
        ("depth", ".jpg", "found depth/{id}.jpg 20, rgb/{id}.png 20; .jpg is a picture for the eye"),
        ("depth", ".mat", ".mat is not read as depth, convert it: numpy.save"),
        ("depth", ".pkl", "found rgb/{id}.png 20; files of other formats are not looked at (.pkl 20)"),
        ("rgb", ".heic", "found depth/{id}.png 20; files of other formats are not looked at (.heic 20)"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, side: str, suffix: str, said: str) -> None:
    root = folder(tmp_path / "room")
    for path in list((root / side).iterdir()):
        path.rename(path.with_suffix(suffix))
    assert said in RGBDFolder.advise(root)
    assert "share a frame" not in RGBDFolder.advise(root)


def test_unpaired_names_are_shown_with_options_that_pair_them(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    for path in list((root / "rgb").iterdir()):
        path.rename(path.with_name(f"c{path.name}"))
    (problem,) = inspect(root).problems
    assert "20 colour files such as c0000.png, c0001.png" in problem.message
    assert "--option 'color=rgb/c{id}.png' --option 'depth=depth/{id}.png'" in (problem.hint or "")


def test_a_sequence_in_which_nothing_pairs_is_a_problem(tmp_path: Path) -> None:
    folder(tmp_path / "good")
    folder(tmp_path / "bad", name="x{:04d}")
    for path in list((tmp_path / "bad" / "depth").iterdir()):
        path.rename(path.with_name(path.name.replace("x", "y")))
    assert "20 colour files such as x0000.png, x0001.png and 20 depth files" in said(inspect(tmp_path))


def test_metres_are_met_with_the_option_that_reads_them(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    for i in range(COUNT):
        (root / "depth" / f"{i:04d}.png").unlink()
        np.save(root / "depth" / f"{i:04d}.npy", (room_mm(i) / 1000).astype(np.float32))
    (problem,) = inspect(root).problems
    assert "--option depth_scale=1 (metres, median" in (problem.hint or "")
    assert inspect(root, options={"depth_scale": 1}).problems == ()


def test_sizes_that_differ_need_the_user_s_word(tmp_path: Path) -> None:
    root = folder(tmp_path / "room")
    for path in (root / "rgb").iterdir():
        Image.open(path).resize((2 * WIDTH, 2 * HEIGHT)).save(path)
    (problem,) = inspect(root).problems
    assert "--option resize=color" in (problem.hint or "")
    assert inspect(root, options={"resize": "color"}).sizes == {f"{HEIGHT}×{WIDTH}": COUNT}
    enlarged = inspect(root, options={"resize": "depth"})
    assert (enlarged.sizes, enlarged.problems) == ({f"{2 * HEIGHT}×{2 * WIDTH}": COUNT}, ())


def test_one_sequence_of_five_times_the_values_is_named(tmp_path: Path) -> None:
    # medians 2 m and 2.5 × 2 m: no factor of 3 between them, as where the second room is half as large
    folder(tmp_path / "all" / "plain")
    folder(tmp_path / "all" / "fives", lambda d: d // 2 * 5)
    found = inspect(tmp_path / "all")
    (problem,) = found.problems
    assert problem.message.startswith("in 1 of 2 scenes the stored values are multiples of 5, as 5000 units per metre")
    assert problem.places == ("fives",)
    assert "its --option depth_scale=N" in (problem.hint or "")
    folder(tmp_path / "same" / "a")
    folder(tmp_path / "same" / "b", lambda d: d // 2 * 3)  # control: multiples of 3 by halves and thirds are found too
    assert "in 1 of 2 scenes the stored values are multiples of 3, as no sensor" in said(inspect(tmp_path / "same"))
    assert inspect(tmp_path / "all" / "plain").problems == ()


def arrays(root: Path, values: Depths) -> Path:
    """The rooms as float32 arrays of another quantity, NaN where unknown."""
    folder(root)
    for i in range(COUNT):
        (root / "depth" / f"{i:04d}.png").unlink()
        depth_m = np.where(room_mm(i) > 0, room_mm(i) / 1000, np.nan)
        np.save(root / "depth" / f"{i:04d}.npy", values(depth_m).astype(np.float32))
    return root


RELATIVE = "every value is a fraction up to 1, as in files of disparity, inverse or relative depth"


def test_fractions_up_to_one_are_named_and_frames_scaled_by_themselves_are_a_problem(tmp_path: Path) -> None:
    inverse = inspect(arrays(tmp_path / "inverse", lambda d: 1 / d), options={"depth_scale": 1})
    assert inverse.problems == ()  # 0.3 to 0.85: these may be metres
    assert any(note.startswith(RELATIVE) for note in inverse.notes)
    scaled = inspect(arrays(tmp_path / "scaled", lambda d: d / np.nanmax(d)), options={"depth_scale": 1})
    assert f"{RELATIVE}; the largest is the same in 20 of 20 frames" in said(scaled)
    metres = inspect(arrays(tmp_path / "metres", lambda d: d), options={"depth_scale": 1})
    assert (metres.problems, [note for note in metres.notes if "disparity" in note]) == ((), [])
