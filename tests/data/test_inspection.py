"""`data inspect`: what lies at a path, and every kind of problem in one pass."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.data import inspect as inspection
from spd_bench.data import pack
from spd_bench.data.inspect import Inspection, inspect_data
from spd_bench.errors import ConfigError, DataError

SIZE = (40, 48)  # 1920 pixels, 1919 of which are known
COUNT = 20  # of which 14 are train, 2 val, 4 test


def write_color(path: Path, size: tuple[int, int] = SIZE) -> None:
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)


def write_depth(path: Path, size: tuple[int, int] = SIZE, value: int = 2000, known: int | None = None) -> None:
    """Depth with its first pixels unknown: one, or all but `known`."""
    depth_HW = np.full(size, value, np.uint16)
    depth_HW.flat[: 1 if known is None else depth_HW.size - known] = 0
    Image.fromarray(depth_HW).save(path)


def color(folder: Path, i: int) -> Path:
    return folder / f"frame-{i:06d}.color.png"


def depth(folder: Path, i: int) -> Path:
    return folder / f"frame-{i:06d}.depth.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound folder in the layout of 7-Scenes."""
    folder = tmp_path / "my kitchen"
    folder.mkdir()
    for i in range(COUNT):
        write_color(color(folder, i))
        write_depth(depth(folder, i))
    return folder


def inspect(path: Path, **options: Any) -> Inspection:
    return inspect_data(
        path, **{"dataset": None, "protocol": "full_frame", "on_frame": lambda done, total: None, **options}
    )


# what is there


def test_a_sound_folder(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = inspect(folder, on_frame=lambda done, total: seen.append((done, total)))
    assert found.problems == ()
    assert (found.dataset, found.truth, found.stand_in) == ("rgbd_folder", "raw", "")
    assert found.recognised == "recognised: a folder below which one of the known layouts fits"
    assert found.description.startswith("RGB-D folder my kitchen (seven_scenes")
    assert re.fullmatch("[0-9a-f]{64}", found.digest)
    # scenes are blocks of ten frames: 14 → 2
    assert {name: (s.frames, s.scenes, s.read) for name, s in found.splits.items()} == {
        "train": (14, 2, 14),
        "val": (2, 1, 2),
        "test": (4, 1, 4),
    }
    known = found.splits["test"].known
    assert known is not None
    assert known.least == known.median == known.greatest == 1919 / 1920
    assert found.sizes == {"40×48": 20}
    assert found.notes == ("no scene is in two splits",)
    assert seen == [(i, 20) for i in range(1, 21)]
    lines = "\n".join(found.lines())
    assert "depth     2.000 to 2.000 m; 1 % 2.000, median 2.000, 99 % 2.000; whole millimetres in 20 of 20" in lines
    assert "99.9 % / 99.9 % / 99.9 %" in lines
    assert lines.endswith("no problem found")
    plain = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert plain["splits"]["val"]["frames"] == 2
    assert plain["problems"] == []


def test_a_limit_reads_frames_spread_over_each_split() -> None:
    read: list[str] = []

    class Listening(InMemory):
        def read(self, frame: FrameId) -> Frame:
            read.append(frame.frame)
            return super().read(frame)

    found = inspect_in_memory(Listening({"train": 14, "val": 2, "test": 4}), limit=3)
    # 14 frames, three of them: 0, 14/3 = 4, 28/3 = 9; 4 frames: 0, 4/3 = 1, 8/3 = 2
    assert read == ["train-0", "train-4", "train-9", "val-0", "val-1", "test-0", "test-1", "test-2"]
    assert [(split.frames, split.read) for split in found.splits.values()] == [(14, 3), (2, 2), (4, 3)]


def test_what_cannot_be_opened_is_the_problem(folder: Path, tmp_path: Path) -> None:
    write_depth(depth(folder, 0), value=1)  # the first frame is read by the data set's constructor
    found = inspect(folder)
    assert (found.dataset, found.splits) == ("rgbd_folder", {})
    assert [problem.count for problem in found.problems] == [1]
    assert "the unit is probably wrong" in found.problems[0].message
    assert found.problems[0].hint is not None
    assert "frame-000000.depth.png" in found.problems[0].places[0]
    assert "1 kind of problem found" in found.lines()
    with pytest.raises(DataError, match="no such file or folder"):
        inspect(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no data set has this layout.*\n.*--dataset NAME"):
        inspect(tmp_path / "empty")
    with pytest.raises(ConfigError, match='unknown dataset "rgbd"'):
        inspect(folder, dataset="rgbd")
    with pytest.raises(ConfigError, match='unknown protocol "nyu"'):
        inspect(folder, protocol="nyu")
    assert inspect(tmp_path / "none", dataset="rgbd_folder").recognised == "as asked for"


# what is wrong


def test_every_fault_of_a_folder_shows_in_one_pass(folder: Path) -> None:
    color(folder, 1).write_bytes(b"")
    color(folder, 2).write_bytes(color(folder, 3).read_bytes()[:60])
    Image.fromarray(np.full(SIZE, 200, np.uint8)).save(depth(folder, 3))  # 8 bits
    for i in (4, 5, 6, 7, 8, 9, 10):
        write_depth(depth(folder, i), value=20 + i)  # 24 to 30 mm
    write_depth(depth(folder, 11), size=(20, 24))  # not the size of its colour image
    write_depth(depth(folder, 12), known=0)
    write_color(color(folder, 13), size=(44, 48))
    write_depth(depth(folder, 13), size=(44, 48))
    write_depth(depth(folder, 15), known=300)  # val
    write_depth(depth(folder, 16), known=SIZE[0] * SIZE[1])  # test: no hole
    write_depth(depth(folder, 17), known=1023)  # test: one too few
    write_depth(depth(folder, 18), known=1024)  # test: just enough
    found = inspect(folder)
    expected = [
        ("expected an image, found a damaged or foreign file", 2, "train frame 000001: "),
        ("expected depth with 16 bits or more, found PIL mode L", 1, "train frame 000003: "),
        ("the unit is probably wrong", 7, "train frame 000004: "),
        ("expected 40 rows × 48 columns like its colour image", 1, "train frame 000011: "),
        ("no pixel has a known depth", 1, "train frame 000012: "),
        ("has 300 valid pixels inside the crop of protocol full_frame, fewer than 1024", 2, "val frame 000015"),
        ("expected raw depth, found no unknown pixel", 1, "test frame 000016"),
        ("is 44×48, most frames are 40×48", 1, "train frame 000013"),
    ]
    for message, count, place in expected:
        [problem] = [problem for problem in found.problems if message in problem.message]
        assert problem.count == count, message
        assert problem.places[0].startswith(place)
        assert len(problem.places) == min(count, 5)
        assert problem.hint
    assert len(found.problems) == len(expected)
    assert found.splits["train"].read == 14 - 12
    lines = "\n".join(found.lines())
    assert "problem, 7 ×: expected indoor depth" in lines
    assert "  and 2 more" in lines
    assert lines.endswith("8 kinds of problem found")


class InMemory(DepthDataset):
    """Frames of 40 × 48 that a function of their name may change."""

    def __init__(self, counts: Mapping[str, int], change: Callable[[str, Frame], Frame] = lambda name, frame: frame):
        self.names = {split: [FrameId(f"{split}-{i}", split) for i in range(n)] for split, n in counts.items()}
        self.change = change

    def frames(self, split: str) -> Sequence[FrameId]:
        return self.names[split]

    def read(self, frame: FrameId) -> Frame:
        depth_m_HW = np.full(SIZE, 2, np.float32)
        depth_m_HW[0, 0] = 0
        return self.change(frame.frame, Frame(np.full((*SIZE, 3), 90, np.uint8), depth_m_HW))

    def digest(self) -> str:
        return "0" * 64

    def describe(self) -> str:
        return "in memory"


def inspect_in_memory(data: DepthDataset, **options: Any) -> Inspection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "open_dataset", lambda *_: data)
        return inspect(Path("memory"), dataset="rgbd_folder", **options)


def messages(found: Inspection) -> list[str]:
    return [f"{problem.count} {problem.message}" for problem in found.problems]


ONES = {"train": 1, "val": 1, "test": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda depth_m_HW: np.where(depth_m_HW > 0, depth_m_HW, np.float32("nan")),
            "negative or infinite values or NaN",
        ),
        (lambda depth_m_HW: depth_m_HW.astype(np.float64), "found uint8 [40, 48, 3] and float64 [40, 48]"),
        (lambda depth_m_HW: depth_m_HW * 1000, "the unit is probably wrong"),
        (np.zeros_like, "no pixel has a known depth"),
    ],
)
def test_data_sets_that_break_their_contract(change: Callable[[Any], Any], message: str) -> None:
    def spoilt(name: str, frame: Frame) -> Frame:
        return Frame(frame.image_HW3, change(frame.depth_m_HW)) if name.startswith("train") else frame

    found = inspect_in_memory(InMemory(ONES, spoilt))
    assert len(found.problems) == 1
    assert message in found.problems[0].message
    assert inspect_in_memory(InMemory(ONES)).problems == ()


def test_depth_quantiles_by_hand() -> None:
    # 1600 known pixels of 1000 … 2599 mm; every 16th: 1000, 1016, …, 2584, a hundred values.
    # 1 %: the 1st, 1000. Median: the 50th, 1000 + 49·16 = 1784. 99 %: the 99th, 1000 + 98·16 = 2568
    depth_m_HW = np.zeros(SIZE, np.float32)
    depth_m_HW.flat[:1600] = np.arange(1000, 2600, dtype=np.float32) / np.float32(1000)
    found = inspect_in_memory(InMemory(ONES, lambda name, frame: Frame(frame.image_HW3, depth_m_HW)))
    assert found.depth is not None
    assert (found.depth.percent_1_m, found.depth.median_m, found.depth.percent_99_m) == (1.0, 1.784, 2.568)
    assert (found.depth.least_m, round(found.depth.greatest_m, 6)) == (1.0, 2.599)
    assert found.depth.whole_mm_frames == 3
    odd = inspect_in_memory(InMemory(ONES, lambda name, frame: Frame(frame.image_HW3, depth_m_HW * np.float32(1.1))))
    assert odd.depth is not None
    assert odd.depth.whole_mm_frames == 0


def test_shares_and_problems_are_those_of_the_crop() -> None:
    # rows 45:471, columns 41:601: 426 × 560 = 238560 pixels
    def large(name: str, frame: Frame) -> Frame:
        depth_m_HW = np.zeros((480, 640), np.float32)
        if name == "val-0":
            depth_m_HW[45:471, 41 : 41 + 140] = 2  # a quarter of the crop, 426 · 140 of 480 · 640
        elif name == "test-0":
            depth_m_HW[:45] = 2  # 28800 pixels, none in the crop
        elif name == "test-1":
            depth_m_HW[40:50, 41:141] = 2  # 1000 pixels, 500 in the crop
        else:
            depth_m_HW[45:471, 41:601] = 20
            depth_m_HW[:, :320] = 2
        return Frame(np.full((480, 640, 3), 90, np.uint8), depth_m_HW)

    found = inspect_in_memory(InMemory({"train": 1, "val": 1, "test": 2}, large), protocol="nyu_bts")
    assert messages(found) == [
        "1 has no valid pixel inside the crop of protocol nyu_bts",
        "1 has 500 valid pixels inside the crop of protocol nyu_bts, fewer than 1024",
    ]
    val = found.splits["val"]
    assert val.known is not None
    assert val.counted is not None
    assert val.known.median == 426 * 140 / (480 * 640)
    assert val.counted.median == 0.25


def test_frames_of_another_size_than_the_protocol_is_for() -> None:
    found = inspect_in_memory(InMemory({"train": 3, "val": 1, "test": 2}), protocol="nyu_bts")
    # training does not crop
    assert messages(found) == ["3 protocol nyu_bts is for frames of 480×640, found 40×48"]
    assert found.problems[0].places == ("val frame val-0", "test frame test-0", "test frame test-1")
    assert found.splits["test"].counted is None


def test_splits() -> None:
    assert "test frames alone: use it as data.test" in inspect_in_memory(InMemory({**ONES, "train": 0, "val": 0})).notes
    alone = inspect_in_memory(InMemory({**ONES, "val": 0}))
    assert messages(alone) == ["1 has no frames"]
    assert alone.problems[0].places == ("split val",)
    nothing = inspect_in_memory(InMemory(dict.fromkeys(SPLITS, 0)))
    assert messages(nothing) == ["3 has no frames"]
    assert nothing.depth is None
    leaky = InMemory(ONES)
    leaky.names["test"] = [*leaky.names["test"], leaky.names["train"][0]]
    found = inspect_in_memory(leaky)
    assert messages(found) == ["1 is there more than once"]
    assert "1 scenes are in train and in test" in found.notes


def test_truth_that_the_protocol_is_not_for_is_noted() -> None:
    data = InMemory(ONES, lambda name, frame: Frame(frame.image_HW3, np.full(SIZE, 2, np.float32)))
    assert messages(inspect_in_memory(data)) == [
        "3 expected raw depth, found no unknown pixel: the map is filled or rendered"
    ]
    data.truth = "filled"
    found = inspect_in_memory(data)
    assert found.problems == ()
    assert len(found.notes) == 1
    notes = inspect_in_memory(data, protocol="nyu_bts").notes
    assert any(note.startswith("protocol nyu_bts is for raw depth, the data set has filled depth") for note in notes)


def test_borders_are_noted_and_no_problem() -> None:
    def bordered(name: str, frame: Frame) -> Frame:
        image_HW3 = frame.image_HW3.copy()
        if name.startswith("train"):  # white, 5 pixels and 6 on the left
            image_HW3[:] = 235
            image_HW3[5:-5, 6:-5] = 90
        elif name.startswith("val"):  # black
            image_HW3[:] = 3
            image_HW3[7:-6, 8:-8] = 90
        else:  # a window that is overexposed at the top is no border
            image_HW3[:9] = 255
        return Frame(image_HW3, frame.depth_m_HW)

    found = inspect_in_memory(InMemory({"train": 2, "val": 1, "test": 1}, bordered))
    assert found.problems == ()
    assert found.notes[1:] == (
        "2 of 4 images have a white border of 6 to 6 pixels",
        "1 of 4 images have a black border of 8 to 8 pixels",
        "1 frames repeat the picture of another one of their split",
    )


def test_problems_differing_in_numbers_and_paths_are_one_kind(tmp_path: Path) -> None:
    class Broken(InMemory):
        def read(self, frame: FrameId) -> Frame:
            raise DataError(f"{tmp_path}/{frame.frame}.png has 3 of {len(frame.frame)} channels", hint="mend it")

    found = inspect_in_memory(Broken({"train": 7, "val": 1, "test": 1}))
    assert [problem.count for problem in found.problems] == [9]
    assert found.problems[0].places == tuple(f"train frame train-{i}" for i in range(5))
    assert "  and 4 more" in found.lines()


def test_packs_are_compared_with_their_digests(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "kitchen.h5"
    pack.pack(folder, output, dataset=None, options={}, workers=1, on_frame=lambda done, total: None)
    found = inspect(output)
    assert (found.dataset, found.problems) == ("packed", ())
    assert found.description.startswith("packed: RGB-D folder my kitchen")
    with h5py.File(output, "r+") as file:
        file["rgb"][3] = file["rgb"][3][()] + np.uint8(1)
    [problem] = inspect(output).problems
    assert (problem.message, problem.count) == ("not the frame that was packed", 1)
    assert problem.places[0].startswith("train frame 000003: ")
