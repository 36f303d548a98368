"""RGB-D folders: layouts found, frames paired honestly, splits by position, every fault named."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from spd_bench.data.sets.rgbd_folder import RGBDFolder, split_ranges
from spd_bench.data.sets.rgbd_layouts import natural, nearest_stamps
from spd_bench.errors import DataError

HEIGHT, WIDTH = 6, 8


def write_color(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), level, np.uint8)).save(path)


def write_depth(path: Path, units: int = 2000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    depth_HW = np.full((HEIGHT, WIDTH), units, np.uint16)
    depth_HW[0, :2] = 0, 65535
    Image.fromarray(depth_HW).save(path)


def seven_scenes(folder: Path, count: int, step: int = 1) -> Path:
    for i in range(0, count * step, step):
        write_color(folder / f"frame-{i:06d}.color.png", level=i % 256)
        write_depth(folder / f"frame-{i:06d}.depth.png", units=1000 + i)
    return folder


def dataset(root: Path, **options: Any) -> RGBDFolder:
    return RGBDFolder(RGBDFolder.Config(root=str(root), **options))


def names(data: RGBDFolder, split: str) -> list[str]:
    return [frame.frame for frame in data.frames(split)]


# splits and scenes


def test_one_sequence_is_split_by_position_and_cut_into_blocks(tmp_path: Path) -> None:
    data = dataset(seven_scenes(tmp_path, 50, step=3))
    # 50 frames: 0.7 → 35, 0.1 → 5, 0.2 → 10; frame numbers are multiples of 3
    assert names(data, "train") == [f"{3 * i:06d}" for i in range(35)]
    assert names(data, "val") == [f"{3 * i:06d}" for i in range(35, 40)]
    assert names(data, "test") == [f"{3 * i:06d}" for i in range(40, 50)]
    assert [f.scene for f in data.frames("train")] == ["train-000"] * 10 + ["train-001"] * 10 + ["train-002"] * 10 + [
        "train-003"
    ] * 5
    assert {f.scene for f in dataset(tmp_path, block=4).frames("test")} == {"test-000", "test-001", "test-002"}


def test_read_gives_the_frame_of_that_name(tmp_path: Path) -> None:
    data = dataset(seven_scenes(tmp_path, 20))
    frame = data.read(data.frames("test")[1])  # 0.8 · 20 = 16, so number 17
    assert (frame.image_HW3 == 17).all()
    np.testing.assert_array_equal(frame.depth_m_HW[0, :3], np.array([0, 0, 1.017], np.float32))


def test_several_sequences_are_scenes_and_each_is_split(tmp_path: Path) -> None:
    for name in ("seq-02", "seq-01"):
        seven_scenes(tmp_path / "office" / name, 10)
    data = dataset(tmp_path)
    assert names(data, "test") == [f"office/{s}/{i:06d}" for s in ("seq-01", "seq-02") for i in (8, 9)]
    assert [f.scene for f in data.frames("val")] == ["office/seq-01", "office/seq-02"]
    assert "in 2 sequence(s)" in data.describe()


@pytest.mark.parametrize(
    ("count", "shares", "gap", "expected"),
    [
        (300, (0.7, 0.1, 0.2), 0, [(0, 210), (210, 240), (240, 300)]),
        (300, (0.7, 0.1, 0.2), 10, [(0, 210), (220, 240), (250, 300)]),
        (10, (0.0, 0.0, 1.0), 3, [(0, 0), (0, 0), (0, 10)]),
        (10, (0.5, 0.0, 0.5), 2, [(0, 5), (7, 5), (7, 10)]),
    ],
)
def test_split_ranges_by_hand(count: int, shares: tuple[float, ...], gap: int, expected: list[tuple[int, int]]) -> None:
    assert split_ranges(count, shares, gap) == [range(a, b) for a, b in expected]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("a/Training", "a/val"), ("validation", "testing")])
def test_folders_that_look_like_splits_are_not_mixed(tmp_path: Path, train: str, test: str) -> None:
    for folder in (train, test):
        seven_scenes(tmp_path / folder, 20)
    with pytest.raises(DataError, match="look like splits of their own"):
        dataset(tmp_path)
    # by position because the user says so: 0.7 · 20 = 14 frames of each folder
    assert len(dataset(tmp_path, shares=(0.7, 0.1, 0.2)).frames("train")) == 28
    assert len(dataset(tmp_path / train).frames("train")) == 14  # the way to keep them: one folder each


def test_one_folder_named_like_a_split_is_any_folder(tmp_path: Path) -> None:
    for folder in ("train", "kitchen"):
        seven_scenes(tmp_path / folder, 20)
    assert len(dataset(tmp_path).frames("train")) == 28


def test_every_frame_is_in_exactly_one_split() -> None:
    for count in range(60):
        parts = split_ranges(count, (0.7, 0.1, 0.2), 0)
        assert [i for part in parts for i in part] == list(range(count))


def test_too_short_sequence_is_refused(tmp_path: Path) -> None:
    # 2 frames: 0.7 → 1, 0.8 → 2, so nothing is left for test
    with pytest.raises(DataError, match="expected frames in every split, found 0 of 2 in test"):
        dataset(seven_scenes(tmp_path, 2))
    assert names(dataset(tmp_path, shares=(0, 0, 1)), "test") == ["000000", "000001"]


# layouts and pairing


def test_unpaired_files_are_counted_and_never_guessed(tmp_path: Path) -> None:
    seven_scenes(tmp_path, 20, step=2)
    write_color(tmp_path / "frame-000101.color.png")
    write_color(tmp_path / "frame-000103.color.png")
    write_depth(tmp_path / "frame-000102.depth.png")
    data = dataset(tmp_path)
    assert sum(len(data.frames(split)) for split in ("train", "val", "test")) == 20
    assert "paired by equal ids, 2 colour and 1 depth files without partner" in data.describe()


def test_plain_folders_sort_numbers_as_numbers(tmp_path: Path) -> None:
    for i in range(1, 21):
        write_color(tmp_path / "rgb" / f"{i}.jpg")
        write_depth(tmp_path / "depth" / f"{i}.png")
    data = dataset(tmp_path)
    assert "(folders, 1000 units per metre ASSUMED, another: --option depth_scale=N, " in data.describe()
    said = dataset(tmp_path, depth_scale=1000.0)
    assert (said.assumed, data.assumed != "") == ("", True)
    assert "(folders, 1000 units per metre, unknown are 0, 65535)" in said.describe()
    assert names(data, "test") == ["17", "18", "19", "20"]


def test_natural_order() -> None:
    assert sorted(["a10", "a2", "b1", "10", "9"], key=natural) == ["9", "10", "a2", "a10", "b1"]


def test_nearest_stamps_by_hand() -> None:
    # 1.000 ↔ 1.015, whose nearest is 1.000 and not 1.031; 2.000 ↔ 2.021 is 0.021 s apart, too far;
    # 3.000 ↔ 2.995, so that 3.006, which is also nearest to 2.995, is left
    colors = ["3.006", "1.000", "1.031", "2.000", "3.000"]
    assert nearest_stamps(colors, ["2.021", "1.015", "2.995"]) == {"1.000": "1.015", "3.000": "2.995"}
    assert nearest_stamps([], ["1.0"]) == {}
    assert nearest_stamps(["1.000"], ["1.019"]) == {"1.000": "1.019"}


def tum(folder: Path, shift: float = 0.011) -> Path:
    for i in range(10):
        write_color(folder / "rgb" / f"{1000 + i / 10:.6f}.png", level=i)
        write_depth(folder / "depth" / f"{1000 + i / 10 + shift:.6f}.png", units=5000 + i)
    return folder


def test_stamps_in_names_decide_no_unit(tmp_path: Path) -> None:
    data = dataset(tum(tmp_path))
    assert "(folders, 1000 units per metre ASSUMED" in data.describe()
    assert "paired by nearest time stamps" in data.describe()
    assert dataset(tmp_path, layout="tum").assumed == ""


def test_tum_is_recognised_by_its_lists(tmp_path: Path) -> None:
    (tum(tmp_path) / "rgb.txt").write_text("# color images")
    (tmp_path / "depth.txt").write_text("# depth maps")
    data = dataset(tmp_path)
    assert "(tum, 5000 units per metre ASSUMED" in data.describe()
    assert names(data, "test") == ["1000.800000", "1000.900000"]
    frame = data.read(data.frames("test")[0])
    assert (frame.image_HW3 == 8).all()
    assert frame.depth_m_HW[3, 3] == np.float32(5008 / 5000)


def test_tum_associations_win_over_nearness(tmp_path: Path) -> None:
    tum(tmp_path, shift=0.05)
    with pytest.raises(DataError, match=r"no colour file has a depth file: 10 colour files such as 1000\.000"):
        dataset(tmp_path)  # 0.05 s is too far to pair by nearness
    stamps = [(f"{1000 + i / 10:.6f}", f"{1000 + i / 10 + 0.05:.6f}") for i in range(10)]
    lines = [f"{depth} depth/{depth}.png {color} rgb/{color}.png" for color, depth in stamps]
    (tmp_path / "associations.txt").write_text("# depth first\n" + "\n".join(lines))
    data = dataset(tmp_path)
    assert data.read(data.frames("val")[0]).depth_m_HW[3, 3] == np.float32(5007 / 5000)
    (tmp_path / "associations.txt").write_text(lines[0] + "\n1000.1 rgb/1000.100000.png 7 depth/none.png\n")
    with pytest.raises(DataError, match=r"associations.txt:2: expected `stamp rgb/FILE stamp depth/FILE`"):
        dataset(tmp_path)


def test_own_patterns(tmp_path: Path) -> None:
    for i in range(10):
        write_color(tmp_path / f"left_{i}.png")
        np.save(tmp_path / f"gt_{i}.npy", np.full((HEIGHT, WIDTH), 2.5, np.float32))
    data = dataset(tmp_path, color="left_{id}.png", depth="gt_{id}.npy", depth_scale=1.0)
    assert data.read(data.frames("test")[0]).depth_m_HW[3, 3] == 2.5
    with pytest.raises(DataError, match="found 20 files of other names"):
        dataset(tmp_path)


def test_two_files_for_one_id_are_refused(tmp_path: Path) -> None:
    seven_scenes(tmp_path, 10)
    write_color(tmp_path / "frame-000003.color.jpg")
    with pytest.raises(
        DataError, match=r"frame 000003 has two files: frame-000003.color.jpg and frame-000003.color.png"
    ):
        dataset(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    seven_scenes(tmp_path / "real", 10)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seq").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "data")
    assert len(names(dataset(tmp_path / "data"), "train")) == 7


# faults


def test_wrong_unit_is_named_with_its_option(tmp_path: Path) -> None:
    seven_scenes(tmp_path, 10)
    with pytest.raises(DataError, match=r"(?s)frame-000000.depth.png.*unit is probably wrong.*depth_scale=1000"):
        dataset(tmp_path, depth_scale=1.0)


def test_first_frame_of_every_sequence_is_checked(tmp_path: Path) -> None:
    seven_scenes(tmp_path / "a", 10)
    write_depth(seven_scenes(tmp_path / "b", 10) / "frame-000000.depth.png", units=1)
    with pytest.raises(DataError, match=r"b/frame-000000.depth.png: expected indoor depth"):
        dataset(tmp_path)


def test_damaged_frame_is_named_when_it_is_read(tmp_path: Path) -> None:
    data = dataset(seven_scenes(tmp_path, 10))
    (tmp_path / "frame-000009.color.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"frame-000009.color.png: expected an image"):
        data.read(data.frames("test")[-1])


def test_missing_folder(tmp_path: Path) -> None:
    config = RGBDFolder.Config(root=str(tmp_path / "none"))
    assert "there is no folder" in (RGBDFolder.missing(config) or "")
    with pytest.raises(DataError, match="there is no folder"):
        RGBDFolder(config)
    assert RGBDFolder.missing(RGBDFolder.Config(root=str(tmp_path))) is None


def test_recognise(tmp_path: Path) -> None:
    assert not RGBDFolder.recognise(tmp_path)
    assert not RGBDFolder.recognise(tmp_path / "none")
    assert RGBDFolder.recognise(seven_scenes(tmp_path / "a", 1))
    write_color(tmp_path / "b" / "rgb" / "1.png")
    assert not RGBDFolder.recognise(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"color": "c_{id}.png"}, "go together"),
        ({"color": "c.png", "depth": "d_{id}.png"}, "String should match pattern"),
        ({"color": "c_{id}.png", "depth": "d_{id}.png", "layout": "tum"}, "leave layout out"),
        ({"shares": [0.5, 0.1, 0.2]}, "sum to 1, but sum to 0.8"),
        ({"depth_scale": 0.0}, "greater than 0"),
        ({"gap": -1}, "greater than or equal to 0"),
        ({"layout": "kitti"}, "seven_scenes"),
        ({"seed": 1}, "Extra inputs"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RGBDFolder.Config.model_validate({"root": "x", **options})


# identity


def test_digest_follows_content_and_options_but_not_the_place(tmp_path: Path) -> None:
    first = dataset(seven_scenes(tmp_path / "a", 10)).digest()
    assert dataset(seven_scenes(tmp_path / "b", 10)).digest() == first
    assert dataset(tmp_path / "a", layout="seven_scenes", depth_scale=1000.0).digest() == first  # said, not guessed
    assert dataset(tmp_path / "a", gap=1, shares=(0.6, 0.2, 0.2)).digest() != first
    assert dataset(tmp_path / "a", invalid=(0,)).digest() != first
    assert dataset(tmp_path / "a", depth_scale=999.0).digest() != first
    seven_scenes(tmp_path / "b", 11)
    assert dataset(tmp_path / "b").digest() != first


def test_it_crosses_processes(tmp_path: Path) -> None:
    data = pickle.loads(pickle.dumps(dataset(seven_scenes(tmp_path, 10))))  # noqa: S301 our own
    assert data.read(data.frames("train")[0]).image_HW3.shape == (HEIGHT, WIDTH, 3)
