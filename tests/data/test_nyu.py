"""NYU Depth V2: the shipped scene table, the official .mat in its exact layout, and BTS-lineage folders."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from spd_bench.api import FrameId
from spd_bench.data.sets.nyu_bts import NYUBTS
from spd_bench.data.sets.nyu_mat import MAT, SPLITS, NYUEigen, blacken_border, read_splits
from spd_bench.data.sets.nyu_scenes import is_validation_scene, labelled_frames, scene_of_folder
from spd_bench.errors import DataError

FRAMES, SIZE = 140, (6, 8)  # the first frames of the data set, shrunk to 6 rows of 8 pixels


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.data.sets.nyu_layouts.SIZE", SIZE)


# the table of labelled frames


def test_table_is_the_eigen_split() -> None:
    table = labelled_frames()
    assert list(table) == list(range(1449))
    frames = {split: [row for row in table.values() if row.split == split] for split in ("train", "test")}
    scenes = {split: {row.scene for row in rows} for split, rows in frames.items()}
    assert (len(frames["train"]), len(frames["test"])) == (795, 654)
    assert (len(scenes["train"]), len(scenes["test"])) == (249, 215)
    assert not scenes["train"] & scenes["test"]
    # the first and last rows, as the split file and the scene field of the release have them
    assert table[0] == ("test", 0, "kitchen_0004")
    assert table[2] == ("train", 2, "office_0003")


def test_validation_scenes_are_a_fixed_tenth() -> None:
    train = [row for row in labelled_frames().values() if row.split == "train"]
    held_out = {row.scene for row in train if is_validation_scene(row.scene)}
    # 249 / 10 = 25, sd √(249·0.1·0.9) = 4.7; the very numbers are part of every stored result
    assert len(held_out) == 21
    assert sum(row.scene in held_out for row in train) == 62


@pytest.mark.parametrize(
    ("folder", "scene"),
    [("kitchen_0028b", "kitchen_0028"), ("kitchen_0028", "kitchen_0028"), ("nyu_office_0", "nyu_office_0")],
)
def test_scene_of_folder(folder: str, scene: str) -> None:
    assert scene_of_folder(folder) == scene


# the official file


def depth_of(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Metres [H, W] that name their frame and pixel; the corner is a hole."""
    v, u = np.mgrid[: size[0], : size[1]]
    depth_m_HW = (1 + index / 100 + v / 1000 + u / 10000).astype(np.float32)
    depth_m_HW[0, 0] = 0
    return depth_m_HW


def image_of(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    v, u = np.mgrid[: size[0], : size[1]]
    return np.stack([np.full_like(u, index), v, u], axis=-1).astype(np.uint8)


def write_mat(path: Path, frames: int = FRAMES, size: tuple[int, int] = SIZE) -> None:
    """The first frames of the data set as MATLAB v7.3 lays them down: reversed axes, cells of references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        file["images"] = np.stack([image_of(i, size).transpose(2, 1, 0) for i in range(frames)])
        file["rawDepths"] = np.stack([depth_of(i, size).T for i in range(frames)])
        file["depths"] = np.stack([np.maximum(depth_of(i, size), 1).T for i in range(frames)])
        cells = file.create_dataset("scenes", (1, frames), dtype=h5py.ref_dtype)
        for i in range(frames):
            file[f"#refs#/{i}"] = np.array([[ord(letter)] for letter in labelled_frames()[i].scene], dtype=np.uint16)
            cells[0, i] = file[f"#refs#/{i}"].ref


def write_splits(path: Path, frames: int = FRAMES, first: int = 1) -> None:
    numbers = {
        f"{split}Ndxs": np.array([[i + first] for i in range(frames) if labelled_frames()[i].split == split], np.uint16)
        for split in ("train", "test")
    }
    savemat(path, numbers, do_compression=True)


@pytest.fixture
def nyu(tmp_path: Path) -> Path:
    write_mat(tmp_path / MAT)
    write_splits(tmp_path / SPLITS)
    return tmp_path


def eigen_config(root: Path, **options: Any) -> NYUEigen.Config:
    return NYUEigen.Config(root=str(root), **options)


def eigen(root: Path, **options: Any) -> NYUEigen:
    return NYUEigen(eigen_config(root, **options))


def test_mat_frames_keep_pixels_scenes_and_splits(nyu: Path) -> None:
    data = eigen(nyu)
    table = labelled_frames()
    frames = {split: data.frames(split) for split in ("train", "val", "test")}
    assert sum(map(len, frames.values())) == FRAMES
    assert {int(f.frame) for f in frames["test"]} == {i for i in range(FRAMES) if table[i].split == "test"}
    assert frames["val"][0] == FrameId("00057", "bedroom_0012")
    assert all(is_validation_scene(f.scene) for f in frames["val"])
    assert is_validation_scene(table[136].scene)  # a test scene with such a hash stays in test
    assert not any(is_validation_scene(f.scene) for f in frames["train"])
    for frame in [*frames["train"][:2], *frames["test"][-2:]]:
        index = int(frame.frame)
        assert frame.scene == table[index].scene
        read = data.read(frame)
        np.testing.assert_array_equal(read.image_HW3, image_of(index))
        np.testing.assert_array_equal(read.depth_m_HW, depth_of(index))
        assert (read.image_HW3.dtype, read.depth_m_HW.dtype) == (np.uint8, np.float32)
    assert "raw depth" in data.describe()


def test_filled_depth_is_another_truth_and_another_identity(nyu: Path) -> None:
    data = eigen(nyu, depth="filled")
    frame = data.frames("test")[0]
    assert data.read(frame).depth_m_HW[0, 0] == 1
    assert "filled depth" in data.describe()
    assert data.digest() != eigen(nyu).digest()
    assert eigen(nyu).digest() == eigen(nyu).digest()


def test_filled_map_in_place_of_raw_is_refused(nyu: Path) -> None:
    with h5py.File(nyu / MAT, "r+") as file:
        file["rawDepths"][:] = file["depths"][:]
    with pytest.raises(DataError, match=r"(?s)rawDepths: expected raw depth, found no unknown pixel.*depth: filled"):
        eigen(nyu)


def test_black_border_touches_test_images_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (16, 18)
    monkeypatch.setattr("spd_bench.data.sets.nyu_layouts.SIZE", size)
    write_mat(tmp_path / MAT, 58, size)  # frame 57 is the first one for validation
    write_splits(tmp_path / SPLITS, 58)
    data = eigen(tmp_path, black_border=True)
    expected_HW3 = image_of(0, size)
    expected_HW3[:7] = expected_HW3[:, :7] = 0
    np.testing.assert_array_equal(data.read(data.frames("test")[0]).image_HW3, expected_HW3)
    train = data.frames("train")[0]
    np.testing.assert_array_equal(data.read(train).image_HW3, image_of(int(train.frame), size))
    assert "black border" in data.describe()


def test_black_border_of_a_whole_frame() -> None:
    white_HW3 = np.full((480, 640, 3), 255, np.uint8)
    inside_HW = np.zeros((480, 640), bool)
    inside_HW[7:474, 7:632] = True
    np.testing.assert_array_equal(blacken_border(white_HW3), white_HW3 * inside_HW[..., None])


def test_frames_of_another_size_are_refused(nyu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.data.sets.nyu_layouts.SIZE", (480, 640))
    with pytest.raises(DataError, match=r"(?s)frame 0: expected image of 480 rows × 640 columns, found 6 × 8.*resized"):
        eigen(nyu)


def test_truth_is_the_depth_that_was_asked_for(nyu: Path, bts: Path) -> None:
    assert (eigen(nyu).truth, eigen(nyu, depth="filled").truth, lineage(bts).truth) == ("raw", "filled", "raw")


def test_root_may_be_the_labelled_file_itself(nyu: Path) -> None:
    assert NYUEigen.recognise(nyu / MAT)
    assert not NYUEigen.recognise(nyu / SPLITS)
    assert eigen(nyu / MAT).digest() == eigen(nyu).digest()
    (nyu / SPLITS).unlink()
    assert f"{nyu} lacks splits.mat (the train/test split" in (NYUEigen.missing(eigen_config(nyu / MAT)) or "")


def test_raw_map_in_place_of_filled_is_refused(nyu: Path) -> None:
    with h5py.File(nyu / MAT, "r+") as file:
        file["depths"][:] = file["rawDepths"][:]
    # a hole in the corner of each frame
    with pytest.raises(DataError, match=r"depths: expected filled depth, found 1 unknown pixels"):
        eigen(nyu, depth="filled")


def test_missing_files_are_named_with_their_source(nyu: Path) -> None:
    config = NYUEigen.Config(root=str(nyu))
    assert NYUEigen.missing(config) is None
    (nyu / SPLITS).unlink()
    missing = NYUEigen.missing(config) or ""
    assert "splits.mat (the train/test split" in missing
    assert "NYU_ROOT" in missing
    assert MAT not in missing
    (nyu / MAT).unlink()
    assert "Labeled dataset" in (NYUEigen.missing(config) or "")
    with pytest.raises(DataError, match=r"(?s)splits.mat.*NYU_ROOT"):
        NYUEigen(config)


def test_root_comes_from_the_environment(nyu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYU_ROOT", str(nyu))
    assert NYUEigen(NYUEigen.Config()).frames("test")
    monkeypatch.delenv("NYU_ROOT")
    assert NYUEigen.Config().root == "./data/nyu"


def test_mat_is_recognised(nyu: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert NYUEigen.recognise(nyu)
    assert not NYUEigen.recognise(tmp_path_factory.mktemp("empty"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_mat_crosses_processes(nyu: Path) -> None:
    data = eigen(nyu)
    data.read(data.frames("test")[0])
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301 our own
    child = os.fork()
    if child == 0:  # the forked child opens the file for itself
        os._exit(0 if np.array_equal(copy.read(copy.frames("test")[1]).depth_m_HW, depth_of(1)) else 1)
    assert os.waitpid(child, 0)[1] == 0


# damaged, foreign and hostile .mat files


def resave(field: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            array = change(file[field][()])
            del file[field]
            file[field] = array

    return edit


def delete(field: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[field]

    return edit


def external_link(path: Path) -> None:
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as file:
        file["images"] = np.zeros((FRAMES, 3, SIZE[1], SIZE[0]), np.uint8)
    delete("images")(path)
    with h5py.File(path, "r+") as file:
        file["images"] = h5py.ExternalLink(str(other), "/images")


def soft_link(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.move("rawDepths", "elsewhere")
        file["rawDepths"] = h5py.SoftLink("/elsewhere")


def external_storage(path: Path) -> None:
    secret = path.with_name("secret")
    secret.write_bytes(bytes(FRAMES * 3 * SIZE[0] * SIZE[1]))
    delete("images")(path)
    with h5py.File(path, "r+") as file:
        shape = (FRAMES, 3, SIZE[1], SIZE[0])
        file.create_dataset("images", shape, np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(path: Path) -> None:
    delete("depths")(path)
    layout = h5py.VirtualLayout((FRAMES, SIZE[1], SIZE[0]), np.float32)
    layout[:] = h5py.VirtualSource(str(path.with_name("other.h5")), "depths", (FRAMES, SIZE[1], SIZE[0]), np.float32)
    with h5py.File(path, "r+") as file:
        file.create_virtual_dataset("depths", layout)


def other_scene(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["scenes"][0, 5] = file["#refs#/0"].ref


def text_scene(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["scenes"][0, 5] = file["depths"].ref


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file"), r"expected a MATLAB v7\.3 \(HDF5\) file"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), r"expected a MATLAB v7\.3 \(HDF5\) file"),
        (delete("rawDepths"), "expected a field 'rawDepths', found"),
        (resave("images", lambda a: a.transpose(0, 1, 3, 2)), r"W ≥ H.*found \(140, 3, 6, 8\)"),
        (resave("images", lambda a: a.transpose(3, 2, 1, 0)), r"found \(6, 8, 3, 140\)"),
        (resave("images", lambda a: a[0]), r"found \(3, 8, 6\)"),
        (resave("images", lambda a: a.astype(np.float32)), "type uint8, found .* and float32"),
        (resave("rawDepths", lambda a: (a * 1000).astype(np.uint16)), "type float32, found .* and uint16"),
        (resave("depths", lambda a: a[:-1]), r"expected depths of shape \(140, 8, 6\).*found \(139, 8, 6\)"),
        (resave("rawDepths", lambda a: a * 1000), "unit is probably wrong"),
        (external_link, "'/images' is a link to another place or file"),
        (soft_link, "'/rawDepths' is a link to another place or file"),
        (external_storage, "'/images' keeps its values in another file"),
        (virtual, "'/depths' keeps its values in another file"),
        (text_scene, "scene names as columns of characters"),
        (other_scene, r"expected frame 5 \(0-based\) as \('(train|test)', '\w+'\), found"),
    ],
)
def test_foreign_mat_is_refused(nyu: Path, edit: Callable[[Path], None], message: str) -> None:
    edit(nyu / MAT)
    with pytest.raises(DataError, match=message) as error:
        eigen(nyu)
    assert str(nyu) in (error.value.where or "")
    assert error.value.hint


def test_splits_count_from_one(nyu: Path) -> None:
    write_splits(nyu / SPLITS, first=0)
    with pytest.raises(DataError, match=r"each frame 1\.\.140 of the \.mat in exactly one split(?s:.*)counts from 1"):
        eigen(nyu)


def test_swapped_splits_are_refused(nyu: Path) -> None:
    ids = read_splits(nyu / SPLITS)
    savemat(nyu / SPLITS, {"trainNdxs": np.array(ids["test"]), "testNdxs": np.array(ids["train"])})
    with pytest.raises(DataError, match=r"expected frame \d+ \(0-based\) as \('\w+', '\w+'\), found"):
        eigen(nyu)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected MATLAB 5 vectors trainNdxs and testNdxs, found"),
        (b"no mat file at all" * 20, "expected MATLAB 5 vectors trainNdxs and testNdxs, found"),
        (bytes(200), "expected MATLAB 5 vectors trainNdxs and testNdxs, found"),
        (bytes(70_000), "expected about 2.6 kB, found 70000 bytes"),
    ],
    ids=["empty", "text", "zeros", "large"],
)
def test_damaged_splits_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / SPLITS).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path / SPLITS)


def test_a_crash_of_the_splits_reader_is_survived(nyu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.data.sets.nyu_mat._LOAD_SPLITS", "import os; os.abort()")
    with pytest.raises(DataError, match="found a reader killed with status -6"):
        read_splits(nyu / SPLITS)


# BTS-lineage folders

TRAIN = [("kitchen_0028b", 45), ("kitchen_0028c", 7), ("bookstore_0001d", 1), ("bedroom_0012", 3)]
TEST = [("kitchen", 0), ("kitchen", 1), ("office", 8)]  # scene types; the scenes follow from the numbers


def write_pair(folder: Path, number: int, millimetres: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), number, np.uint8)).save(folder / f"rgb_{number:05d}.jpg", quality=100)
    depth_HW = np.full(SIZE, millimetres, np.uint16)
    depth_HW[0, 0] = 0
    Image.fromarray(depth_HW).save(folder / f"sync_depth_{number:05d}.png")


def lines(pairs: list[tuple[str, int]], slash: str, focal: str) -> str:
    return "".join(f"{slash}{f}/rgb_{n:05d}.jpg {slash}{f}/sync_depth_{n:05d}.png{focal}\n" for f, n in pairs)


@pytest.fixture
def bts(tmp_path: Path) -> Path:
    for i, (folder, number) in enumerate(TRAIN):
        write_pair(tmp_path / "sync" / folder, number, 1000 + i)
    for i, (folder, number) in enumerate(TEST):
        write_pair(tmp_path / "official_splits/test" / folder, number, 2000 + i)
    train = lines(TRAIN, "/", " 518.8579") + "/kitchen_0028b/rgb_00046.jpg None 518.8579\n"
    (tmp_path / "nyudepthv2_train_files_with_gt.txt").write_text(train)
    (tmp_path / "nyudepthv2_test_files_with_gt.txt").write_text(lines(TEST, "", " 518.8579"))
    return tmp_path


def lineage(root: Path, **options: Any) -> NYUBTS:
    return NYUBTS(NYUBTS.Config(root=str(root), **options))


def test_bts_splits_and_scenes(bts: Path) -> None:
    data = lineage(bts)
    assert [(f.frame, f.scene) for f in data.frames("train")] == [
        ("kitchen_0028b/00045", "kitchen_0028"),
        ("kitchen_0028c/00007", "kitchen_0028"),
        ("bookstore_0001d/00001", "bookstore_0001"),
    ]
    assert [(f.frame, f.scene) for f in data.frames("val")] == [("bedroom_0012/00003", "bedroom_0012")]
    assert [(f.frame, f.scene) for f in data.frames("test")] == [
        ("00000", "kitchen_0004"),
        ("00001", "kitchen_0004"),
        ("00008", "office_0005"),
    ]
    assert "1 list lines without depth skipped" in data.describe()


def test_bts_reads_millimetres(bts: Path) -> None:
    data = lineage(bts)
    frame = data.read(data.frames("train")[1])
    assert frame.depth_m_HW[0, 0] == 0
    assert frame.depth_m_HW[3, 3] == np.float32(1.001)
    assert (frame.image_HW3 == 7).all()
    assert data.read(data.frames("test")[2]).depth_m_HW[3, 3] == np.float32(2.002)


def test_bts_names_test_frames_as_the_mat_loader_does(bts: Path, nyu: Path) -> None:
    of_mat = {f.frame: f.scene for f in eigen(nyu).frames("test")}
    assert all(of_mat[f.frame] == f.scene for f in lineage(bts).frames("test"))


def test_bts_tells_of_training_pairs_from_test_scenes(bts: Path) -> None:
    assert "0 training pairs carry the name of a test scene" in lineage(bts).describe()
    number = next(row.index0 for row in labelled_frames().values() if row.scene == "bookstore_0001")
    write_pair(bts / "official_splits/test/bookstore", number, 2000)
    with (bts / "nyudepthv2_test_files_with_gt.txt").open("a") as file:
        file.write(lines([("bookstore", number)], "", ""))
    assert "1 training pairs carry the name of a test scene" in lineage(bts).describe()


def test_bts_takes_lists_of_two_fields_and_absolute_places(bts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("lists") / "train.txt"
    elsewhere.write_text("\n" + lines(TRAIN, "", "") + "\n")
    data = lineage(bts, train_list=str(elsewhere))
    assert len(data.frames("train")) == 3
    assert data.digest() == lineage(bts).digest()


def test_bts_reads_the_raw_depth_where_a_filled_one_is_listed_too(bts: Path) -> None:
    train = bts / "nyudepthv2_train_files_with_gt.txt"
    before = lineage(bts).digest()
    # the third field of lists with filled depth: a path, or None where there is no filled map
    third = [" /kitchen_0028b/filled_00045.png", " None", " /no/such/file.png", " None"]
    train.write_text("".join(lines([pair], "/", text) for pair, text in zip(TRAIN, third, strict=True)))
    assert lineage(bts).digest() == before
    assert "0 list lines without depth skipped" in lineage(bts).describe()


def test_bts_test_pairs_alone(bts: Path) -> None:
    (bts / "nyudepthv2_train_files_with_gt.txt").unlink()
    assert NYUBTS.recognise(bts)
    with pytest.raises(DataError, match=r"(?s)train_files_with_gt.txt not there.*test_only: true"):
        lineage(bts)
    data = lineage(bts, test_only=True)
    assert [len(data.frames(split)) for split in ("train", "val", "test")] == [0, 0, 3]
    assert data.read(data.frames("test")[2]).depth_m_HW[3, 3] == np.float32(2.002)
    assert "test 3 of 654 frames alone" in data.describe()


def test_bts_filled_test_depth_is_refused(bts: Path) -> None:
    folder = bts / "official_splits/test/kitchen"
    Image.fromarray(np.full(SIZE, 2000, np.uint16)).save(folder / "sync_depth_00000.png")
    with pytest.raises(
        DataError, match=r"(?s)sync_depth_00000.png: expected raw depth, found no unknown.*second field"
    ):
        lineage(bts)


def test_bts_digest_follows_the_files(bts: Path) -> None:
    before = lineage(bts).digest()
    noise_HW = np.random.default_rng(0).integers(1000, 2000, SIZE).astype(np.uint16)
    Image.fromarray(noise_HW).save(bts / "sync/kitchen_0028b/sync_depth_00045.png")
    assert lineage(bts).digest() != before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train", "/a/rgb_00001.jpg\n", r"train_files_with_gt\.txt:1: expected `FOLDER/rgb_NNNNN.jpg"),
        ("train", "/a/rgb_1.jpg /a/d_1.png 1 2\n", "expected `FOLDER/rgb_NNNNN.jpg"),
        ("train", "/a/image.jpg /a/d_1.png\n", "expected `FOLDER/rgb_NNNNN.jpg"),
        ("train", "/../../etc/rgb_1.jpg /a/d_1.png\n", "expected `FOLDER/rgb_NNNNN.jpg"),
        ("train", lines(TRAIN[:1] * 2, "/", ""), r"txt:2: frame kitchen_0028b/00045 is listed twice"),
        ("train", lines([("gone_0001", 1)], "/", ""), "2 of them missing, the first .*gone_0001/rgb_00001.jpg"),
        ("train", "", "found an empty list"),
        ("train", lines(TRAIN[:2], "/", ""), "expected frames in every split, found none in val"),
        ("test", lines(TRAIN[1:2], "", ""), r"txt:1: expected the 0-based index of a labelled test frame, found 7"),
        ("test", lines([("kitchen", 1449)], "", ""), "labelled test frame, found 1449"),
    ],
)
def test_bad_lists_are_refused(bts: Path, name: str, content: str, message: str) -> None:
    (bts / f"nyudepthv2_{name}_files_with_gt.txt").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        lineage(bts)
    assert error.value.hint


def test_bts_in_metres_is_refused(bts: Path) -> None:
    write_pair(bts / "official_splits/test/kitchen", 0, 3)
    with pytest.raises(DataError, match=r"(?s)sync_depth_00000.png: expected indoor depth.*millimetres"):
        lineage(bts)


def test_bts_missing_and_recognised(bts: Path) -> None:
    assert NYUBTS.recognise(bts)
    assert NYUBTS.missing(NYUBTS.Config(root=str(bts))) is None
    (bts / "nyudepthv2_test_files_with_gt.txt").unlink()
    assert not NYUBTS.recognise(bts)
    assert not NYUBTS.recognise(bts / "nyudepthv2_train_files_with_gt.txt")
    assert "nyudepthv2_test_files_with_gt.txt not there" in (NYUBTS.missing(NYUBTS.Config(root=str(bts))) or "")
    with pytest.raises(DataError, match="not there"):
        lineage(bts)
