"""Every NYU layout that users have: the same frames from each, one owner per layout, damaged and hostile files refused.

Files are those of `nyu_files`.
"""

import io
import multiprocessing
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from nyu_files import (
    HEIGHT,
    NAMES,
    TEST,
    TRAIN,
    WIDTH,
    bts_files,
    filled_mm,
    frame_h5,
    h5,
    h5_files,
    image_of,
    marigold_files,
    metres,
    png,
    raw_mm,
    write_densedepth,
    write_mat,
    write_tar,
    write_tree,
    write_zip,
)
from torch.utils.data import DataLoader, Dataset

from spd_bench import registry
from spd_bench.api import DepthDataset, FrameId
from spd_bench.data.elsewhere import TestElsewhere
from spd_bench.data.reading import archives
from spd_bench.data.reading.archives import tar_members, zip_members
from spd_bench.data.sets.nyu_densedepth import CROP, DEPTH, RGB, ZIP, NYUDenseDepth
from spd_bench.data.sets.nyu_h5 import NYUH5
from spd_bench.data.sets.nyu_marigold import TAR, NYUMarigold
from spd_bench.errors import DataError
from spd_bench.suite.load import recognised
from spd_bench.testing import DatasetContract


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every layout by name; not to be changed."""
    root = tmp_path_factory.mktemp("nyu")
    frames = h5_files()
    test = {name: content for name, content in frames.items() if name.startswith("val")}
    write_tar(root / "shards/train-000000.tar", {n: c for n, c in frames.items() if n not in test})
    for shard, names in enumerate((list(test)[:2], list(test)[2:])):
        write_tar(root / f"shards/val-{shard:06d}.tar", {f"./{name}": test[name] for name in names})
    labelled = marigold_files()
    write_tar(root / "packed" / TAR, labelled)
    return {
        "mat": write_mat(root / "mat"),
        "bts": write_tree(root / "bts", bts_files()),
        "h5": write_tree(root / "h5", frames),
        "h5 shards": root / "shards",
        "h5 tar": write_tar(root / "all.tar", {f"nyudepthv2/{name}": c for name, c in frames.items()}),
        "marigold": write_tree(root / "marigold", labelled),
        "marigold tar": root / "packed" / TAR,
        "marigold packed": root / "packed",
        "marigold filled": write_tree(root / "filled", marigold_files(filled=filled_mm)),
        "densedepth": write_densedepth(root / "densedepth"),
    }


def make(name: str, root: Path, **options: Any) -> DepthDataset:
    component: Any = registry.load("dataset", name)
    data: DepthDataset = component(component.Config(root=str(root), **options))
    return data


FILLED = {"depth": "filled"}
LOADERS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "mat raw": ("nyu_eigen", "mat", {}),
    "mat filled": ("nyu_eigen", "mat", FILLED),
    "bts": ("nyu_bts", "bts", {}),
    "bts test only": ("nyu_bts", "bts", {"test_only": True}),
    "h5": ("nyu_h5", "h5", {}),
    "h5 shards": ("nyu_h5", "h5 shards", {}),
    "h5 tar": ("nyu_h5", "h5 tar", {}),
    "marigold": ("nyu_marigold", "marigold", {}),
    "marigold tar": ("nyu_marigold", "marigold tar", {}),
    "marigold filled": ("nyu_marigold", "marigold filled", FILLED),
    "densedepth": ("nyu_densedepth", "densedepth", {}),
}
ALONE = ("bts test only", "densedepth")


def loader(key: str, layouts: Mapping[str, Path]) -> DepthDataset:
    name, layout, options = LOADERS[key]
    return make(name, layouts[layout], **options)


# the same frames from every layout


@pytest.mark.parametrize("key", LOADERS)
def test_all_loaders_give_the_same_test_frames(layouts: dict[str, Path], key: str) -> None:
    data = loader(key, layouts)
    assert list(data.frames("test"))[:3] == NAMES
    truth = {"raw": raw_mm, "filled": filled_mm}[data.truth]
    for frame, index in zip(NAMES, TEST, strict=True):
        read = data.read(frame)
        np.testing.assert_array_equal(read.depth_m_HW, metres(truth(index)))
        assert (read.image_HW3.dtype, read.depth_m_HW.dtype) == (np.uint8, np.float32)
        off = np.abs(read.image_HW3.astype(float) - image_of(index)).mean()
        assert off <= (1.5 if key.startswith("bts") else 0)  # bts: JPEG
        # control: the images of two frames differ by 40 or more in red, so by 13 in the mean of three channels
        assert np.abs(read.image_HW3.astype(float) - image_of(index + 1)).mean() > 10


def test_truth_is_what_the_layout_holds(layouts: dict[str, Path]) -> None:
    filled = {key for key in LOADERS if loader(key, layouts).truth == "filled"}
    assert filled == {"mat filled", "h5", "h5 shards", "h5 tar", "marigold filled", "densedepth"}


def test_training_frames(layouts: dict[str, Path]) -> None:
    for key in ("h5", "h5 shards", "h5 tar"):
        data = loader(key, layouts)
        assert list(data.frames("train")) == [FrameId("office_0003a/00001", "office_0003")]
        assert list(data.frames("val")) == [FrameId("bedroom_0012a/00001", "bedroom_0012")]
        np.testing.assert_array_equal(data.read(data.frames("train")[0]).depth_m_HW, metres(raw_mm(2)))
    for key in ("marigold", "marigold tar"):
        data = loader(key, layouts)
        assert list(data.frames("train")) == [FrameId("00002", "office_0003")]
        assert list(data.frames("val")) == [FrameId("00057", "bedroom_0012")]
        np.testing.assert_array_equal(data.read(data.frames("val")[0]).depth_m_HW, metres(raw_mm(57)))
    for key in ALONE:
        assert [len(loader(key, layouts).frames(split)) for split in ("train", "val")] == [0, 0]


def test_descriptions_say_what_matters(layouts: dict[str, Path]) -> None:
    said = {key: loader(key, layouts).describe() for key in LOADERS}
    counted = "train 1, val 1 (held-out training scenes), test 3 of 654; "
    assert said["h5"].endswith(counted + "test depth filled, training depth raw")
    assert said["marigold"].endswith(counted + "raw depth")
    assert said["marigold filled"].endswith("filled depth")
    assert "test 654 frames alone; filled depth; made for protocol nyu_densedepth" in said["densedepth"]


def test_identity_does_not_depend_on_the_tar_around(layouts: dict[str, Path]) -> None:
    digests = {key: loader(key, layouts).digest() for key in LOADERS}
    assert digests["h5"] == digests["h5 shards"] == digests["h5 tar"]
    assert digests["marigold"] == digests["marigold tar"]
    assert len(set(digests.values())) == len(digests) - 3


class TestContract(DatasetContract):
    """Data sets of test frames alone are taken as suites take them: beside another one to train on."""

    @pytest.fixture(autouse=True, params=[key for key in LOADERS if key != "mat filled"])
    def chosen(self, request: pytest.FixtureRequest, layouts: dict[str, Path]) -> None:
        name, layout, options = LOADERS[request.param]
        self.component = registry.load("dataset", name)
        self.options = {**options, "root": str(layouts[layout])}
        self.trained = loader("h5", layouts) if request.param in ALONE else None

    def made(self) -> DepthDataset:
        return TestElsewhere(self.trained, super().made()) if self.trained else super().made()


class Sums(Dataset[tuple[int, int]]):
    """Sums over image and depth of each test frame, as a worker reads it."""

    def __init__(self, data: DepthDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(TEST)

    def __getitem__(self, place: int) -> tuple[int, int]:
        read = self.data.read(NAMES[place])
        return int(read.image_HW3.sum()), round(1000 * float(read.depth_m_HW.astype(float).sum()))


@pytest.mark.parametrize("key", LOADERS)
def test_two_workers_read_it(layouts: dict[str, Path], key: str) -> None:
    data = loader(key, layouts)
    data.read(NAMES[0])  # whatever the parent has open must not disturb its children
    sums = [(int(image), int(depth)) for image, depth in DataLoader(Sums(data), num_workers=2)]
    truth = {"raw": raw_mm, "filled": filled_mm}[data.truth]
    assert [depth for _, depth in sums] == [int(truth(index).sum()) for index in TEST]
    if not key.startswith("bts"):
        assert [image for image, _ in sums] == [int(image_of(index).sum()) for index in TEST]


def test_spawned_processes_read_shards(layouts: dict[str, Path]) -> None:
    data = loader("h5 shards", layouts)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        read = pool.map(data.read, NAMES)
    assert [np.array_equal(r.image_HW3, image_of(i)) for r, i in zip(read, TEST, strict=True)] == [True] * 3


def test_tars_are_listed_once(layouts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.loads(pickle.dumps(loader("h5 shards", layouts)))  # noqa: S301 our own
    monkeypatch.setattr(archives.tarfile, "open", lambda *_, **__: pytest.fail("listed again"))
    for frame in NAMES:
        data.read(frame)


# who owns which layout


def rgbd(root: Path, color: str, depth: str) -> Path:
    return write_tree(root, {color: png(image_of(0, (6, 8))), depth: png(filled_mm(0, (6, 8)))})


def test_each_layout_has_one_owner(layouts: dict[str, Path], tmp_path: Path) -> None:
    owners = {layouts[layout]: name for name, layout, _ in LOADERS.values()}
    owners |= {layouts["mat"] / "nyu_depth_v2_labeled.mat": "nyu_eigen", layouts["marigold packed"]: "nyu_marigold"}
    owners[layouts["h5 shards"] / "val-000000.tar"] = "nyu_h5"
    write_tree(tmp_path, {f"zipped/{ZIP}": b""})
    owners |= {tmp_path / "zipped": "nyu_densedepth", tmp_path / "zipped" / ZIP: "nyu_densedepth"}
    for name, files in {
        "seven": ("frame-000000.color.png", "frame-000000.depth.png"),
        "tum": ("rgb/1305031102.175304.png", "depth/1305031102.160407.png"),
        "folders": ("kitchen/rgb/1.png", "kitchen/depth/1.png"),
    }.items():
        owners[rgbd(tmp_path / "rgbd" / name, *files)] = "rgbd_folder"
    found = {path: recognised(path, where=str(path), hint="") for path in owners}
    assert found == owners


def test_what_only_looks_like_a_layout_has_no_owner(layouts: dict[str, Path], tmp_path: Path) -> None:
    write_tree(tmp_path / "a", {"nyu_test.txt": b"", "val-000000.tar": b"no tar", "test/scene/rgb_00001.jpg": b""})
    write_tar(tmp_path / "b.tar", {"train/scene/00001.txt": b""})
    (tmp_path / "c.zip").write_bytes(b"")
    for path in (tmp_path / "a", tmp_path / "b.tar", tmp_path / "c.zip", layouts["mat"] / "splits.mat"):
        with pytest.raises(DataError, match="no data set has this layout"):
            recognised(path, where="", hint="")


@pytest.mark.parametrize("component", [NYUH5, NYUMarigold, NYUDenseDepth])
def test_missing_files_are_named_with_their_source(component: Any, tmp_path: Path) -> None:
    config = component.Config(root=str(tmp_path / "none"))
    assert "none has neither" in (component.missing(config) or "")
    with pytest.raises(DataError, match=r"(?s)has neither .* nor .*come|has neither .* nor .*archive"):
        component(config)


# HDF5 frames


def h5_tree(root: Path, name: str, content: bytes) -> Path:
    """A good test frame, 00001.h5, and one more file, which may replace it."""
    return write_tree(root, {"val/official/00001.h5": frame_h5(0, filled_mm(0)), name: content})


def altered(rgb: Callable[[Any], Any] = np.asarray, depth: Callable[[Any], Any] = np.asarray) -> bytes:
    return h5(rgb(image_of(0).transpose(2, 0, 1)), depth(metres(filled_mm(0))))


def linked(link: Any) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["rgb"], file["elsewhere"] = image_of(0).transpose(2, 0, 1), metres(filled_mm(0))
        file["depth"] = link
    return stream.getvalue()


def stored_outside() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["rgb"] = image_of(0).transpose(2, 0, 1)
        outside = [("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("depth", (HEIGHT, WIDTH), np.float32, external=outside)
    return stream.getvalue()


def with_hole(depth_m_HW: Any) -> Any:
    return np.where(np.arange(WIDTH) < 2, np.float32(0), depth_m_HW)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"no HDF5 at all", "expected an HDF5 file, found"),
        (lambda: b"", "expected an HDF5 file, found"),
        (lambda: altered()[:200_000], "expected an HDF5 file, found"),
        (lambda: altered(depth=lambda a: a.astype(np.float16)), "float32, found float16.*\n.*allow_float16: true"),
        (lambda: altered(depth=lambda a: (a * 1000).astype(np.uint16)), r"type float32, found \(480, 640\) and uint16"),
        (lambda: altered(depth=lambda a: (a * 25).astype(np.uint8)), r"type float32, found \(480, 640\) and uint8"),
        (lambda: altered(depth=np.float64), r"type float32, found \(480, 640\) and float64"),
        (lambda: altered(depth=np.transpose), r"depth of shape \(480, 640\).*found \(640, 480\)"),
        (lambda: altered(rgb=lambda a: a.transpose(1, 2, 0)), r"rgb of shape \(3, 480, 640\).*found \(480, 640, 3\)"),
        (lambda: altered(rgb=lambda a: a[:, ::2, ::2]), r"rgb of shape \(3, 480, 640\).*found \(3, 240, 320\)"),
        (lambda: altered(rgb=np.float32), r"type uint8, found \(3, 480, 640\) and float32"),
        (lambda: altered(depth=lambda a: a * 1000), "unit is probably wrong"),
        (lambda: altered(depth=np.zeros_like), "no pixel has a known depth"),
        (
            lambda: altered(depth=with_hole),
            "expected filled depth, found 960 unknown pixels(?s:.*)nyu_eigen or nyu_bts",
        ),
        (lambda: linked(h5py.SoftLink("/elsewhere")), "'/depth' is a link to another place or file"),
        (lambda: linked(h5py.ExternalLink("/etc/hostname", "/depth")), "'/depth' is a link to another place"),
        (stored_outside, "'/depth' keeps its values in another file"),
    ],
)
def test_foreign_h5_is_refused(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    h5_tree(tmp_path, "val/official/00001.h5", content())
    with pytest.raises(DataError, match=message) as error:
        make("nyu_h5", tmp_path)
    assert "00001.h5" in (error.value.where or "")
    assert error.value.hint


def test_missing_array_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["depth"] = metres(filled_mm(0))
    h5_tree(tmp_path, "val/official/00001.h5", stream.getvalue())
    with pytest.raises(DataError, match=r"expected a field 'rgb', found \['depth'\]"):
        make("nyu_h5", tmp_path)


def test_float16_is_taken_if_asked_for_and_told(tmp_path: Path) -> None:
    h5_tree(tmp_path, "val/official/00001.h5", altered(depth=lambda a: a.astype(np.float16)))
    data = make("nyu_h5", tmp_path, allow_float16=True)
    read_m_HW = data.read(NAMES[0]).depth_m_HW
    assert read_m_HW.dtype == np.float32
    np.testing.assert_array_equal(read_m_HW, metres(filled_mm(0)).astype(np.float16))
    assert "float16 depth has steps of 4 mm from 4 m on and of 8 mm from 8 m on (found in test)" in data.describe()
    # half precision has 10 bits after the leading one: 4 m / 1024 = 3.9 mm, 8 m / 1024 = 7.8 mm
    assert np.spacing(np.float16(4)) == 4 / 1024
    h5_tree(tmp_path, "val/official/00001.h5", altered())
    assert make("nyu_h5", tmp_path, allow_float16=True).describe().endswith("; allow_float16, which no split needs")
    assert "float16" not in make("nyu_h5", tmp_path).describe()


def test_unknown_values_in_training_depth_become_zero(tmp_path: Path) -> None:
    depth_m_HW = metres(filled_mm(2))
    depth_m_HW[0, :3] = np.nan, np.inf, -1
    files = {f"train/{scene}a/00001.h5": h5(image_of(2).transpose(2, 0, 1), depth_m_HW) for scene in TRAIN.values()}
    data = make("nyu_h5", write_tree(h5_tree(tmp_path, "val/official/notes.txt", b""), files))
    assert data.read(data.frames("train")[0]).depth_m_HW[0, :4].tolist() == [0, 0, 0, depth_m_HW[0, 3]]


@pytest.mark.parametrize("number", [0, 3, 1450])  # index -1, a training frame (2), one beyond the last (1449)
def test_h5_numbers_count_from_one(tmp_path: Path, number: int) -> None:
    h5_tree(tmp_path, f"val/official/{number:05d}.h5", b"")
    with pytest.raises(
        DataError, match=rf"1-based index of a labelled test frame, found {number}(?s:.*)counts .* from 1"
    ):
        make("nyu_h5", tmp_path)


def test_h5_splits_must_not_be_empty(tmp_path: Path) -> None:
    train = f"train/{TRAIN[2]}a/00001.h5"
    with pytest.raises(DataError, match="expected frames in every split, found none in val"):
        make("nyu_h5", h5_tree(tmp_path / "a", train, altered()))
    (write_tree(tmp_path / "b", {train: altered()}) / "val/official").mkdir(parents=True)
    with pytest.raises(DataError, match="found none in val and test"):
        make("nyu_h5", tmp_path / "b")
    alone = make("nyu_h5", h5_tree(tmp_path / "c", "notes.txt", b""))
    assert [len(alone.frames(split)) for split in ("train", "val", "test")] == [0, 0, 1]
    assert "test 1 of 654 frames alone; test depth filled" in alone.describe()


def test_shards_beside_their_content_are_refused(tmp_path: Path) -> None:
    h5_tree(tmp_path, "notes.txt", b"")
    write_tar(tmp_path / "val-000000.tar", {"val/official/00001.h5": b""})
    with pytest.raises(DataError, match=r"frame 00000 is there twice(?s:.*)keep either the shards or the unpacked"):
        make("nyu_h5", tmp_path)


# archives


def link_member(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("val/official/00001.h5")
        info.type, info.linkname = kind, "../../../etc/hostname"
        tar.addfile(info)
    return stream.getvalue()


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def damaged_header() -> bytes:
    """The second member's header, at 512 + 1024 bytes, has a wrong checksum."""
    content = bytearray(tar_of({"a": bytes(1000), "b": b"b"}))
    content[1536 + 150] ^= 1
    return bytes(content)


TWO = {"a": b"x" * 1000, "b": b"y" * 1000}  # each a header of 512 and 1024 bytes of data, then the end mark


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: b"", "expected an uncompressed tar archive, found"),
        (lambda: b"no tar" * 200, "expected an uncompressed tar archive, found"),
        (lambda: tar_of(TWO)[:2500], "expected an uncompressed tar archive, found"),  # within the data of b
        (lambda: tar_of(TWO)[:1536], "expected an end mark after 1 members, found none"),  # after a
        (lambda: tar_of(TWO)[:1700], "expected an end mark after 1 members, found none"),  # within the header of b
        (lambda: tar_of(TWO)[:3072], "expected an end mark after 2 members, found none"),  # after b
        (damaged_header, "expected an end mark after 1 members, found none"),
        (lambda: tar_of(TWO, "w:gz"), r"(?s)expected an uncompressed tar.*\.tar\.gz has to be unpacked first"),
        (lambda: tar_of({"val/../../a.h5": b""}), "names below the archive's own folder, found 'val/../../a.h5'"),
        (lambda: tar_of({"/etc/a.h5": b""}), "names below the archive's own folder, found '/etc/a.h5'"),
        (lambda: link_member(tarfile.SYMTYPE), "expected plain files, found 'val/official/00001.h5', a link"),
        (lambda: link_member(tarfile.LNKTYPE), "expected plain files, found 'val/official/00001.h5', a link"),
        (lambda: link_member(tarfile.FIFOTYPE), "expected plain files, found 'val/official/00001.h5', a link"),
    ],
)
def test_damaged_and_hostile_tars_are_refused(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = write_tree(tmp_path, {"val-000000.tar": content()}) / "val-000000.tar"
    for read in (tar_members, lambda path: make("nyu_h5", path), lambda path: make("nyu_h5", path.parent)):
        with pytest.raises(DataError, match=message) as error:
            read(path)
        assert error.value.where == str(path)
        assert error.value.hint


def test_tar_members_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"./a": b"x" * 1000, "b" * 150: b"yz"}, mode="w")  # the second has a long name
    assert {span.name: span.read() for span in tar_members(path)} == {"a": b"x" * 1000, "b" * 150: b"yz"}
    (span,) = [span for span in tar_members(path) if span.name == "a"]
    path.write_bytes(path.read_bytes()[:700])  # cut short after it was listed
    with pytest.raises(DataError, match=r"a\.tar: a: expected 1000 bytes, found 188"):  # 700 - 512
        span.read()
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        span.read()


def test_a_member_larger_than_any_frame_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", {"a": bytes(1000)})
    monkeypatch.setattr(archives, "LARGEST_BYTES", 999)
    with pytest.raises(DataError, match="expected at most 999 bytes, found 1000"):
        tar_members(path)[0].read()


def test_zip_members_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a": b"x" * 1000, "folder/b": b"yz"})
    assert {span.name: span.read() for span in zip_members(path)} == {"a": b"x" * 1000, "folder/b": b"yz"}


# Marigold's archive


def marigold_without(*names: str) -> dict[str, bytes]:
    return {name: content for name, content in marigold_files().items() if name not in names}


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (lambda: {"test/kitchen_0003/rgb_0001.png": b""}, {}, "labelled test frame of scene kitchen_0003, found 1"),
        (lambda: {"test/office_0003/rgb_0003.png": b""}, {}, "labelled test frame of scene office_0003, found 3"),
        (lambda: {"test/kitchen_0004/rgb_0000.png": b""}, {}, r"found 0(?s:.*)counts frames from 1"),
        (lambda: {"train/kitchen_0004/rgb_0001.png": b""}, {}, "labelled train frame of scene kitchen_0004, found 1"),
        (lambda: marigold_without("test/kitchen_0004/depth_0002.png"), {}, "expected depth_0002.png beside"),
        (lambda: marigold_without("test/kitchen_0004/rgb_0002.png"), {}, "expected rgb_0002.png beside"),
        (marigold_files, FILLED, r"expected filled depth, found 270 unknown(?s:.*)published equals the raw"),  # 9 × 30
        (
            lambda: marigold_files() | {"test/kitchen_0004/depth_0001.png": png(filled_mm(0))},
            {},
            "kitchen_0004/depth_0001.png: expected raw depth, found no unknown pixel",
        ),
        (
            lambda: marigold_files() | {"test/kitchen_0004/depth_0001.png": png((raw_mm(0) // 40).astype(np.uint8))},
            {},
            "16 bits or more, found PIL mode L",
        ),
        (
            lambda: marigold_files() | {"test/kitchen_0004/depth_0001.png": png(raw_mm(0)[::2, ::2])},
            {},
            "expected depth of 480 rows × 640 columns, found 240 × 320",
        ),
        (
            lambda: marigold_files() | {"test/kitchen_0004/rgb_0001.png": png(image_of(0))[:300]},
            {},
            "rgb_0001.png: expected an image, found a damaged",
        ),
        (lambda: {"notes.txt": b""}, {}, "found none in test"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["tree", "tar"])
def test_foreign_marigold_files_are_refused(
    tmp_path: Path, packed: bool, files: Callable[[], dict[str, bytes]], options: Mapping[str, Any], message: str
) -> None:
    root = write_tar(tmp_path / TAR, files()) if packed else write_tree(tmp_path, {"test/notes": b"", **files()})
    with pytest.raises(DataError, match=message) as error:
        make("nyu_marigold", root, **options)
    assert str(root) in (error.value.where or "")
    assert error.value.hint


def test_archive_beside_its_content_is_refused(tmp_path: Path) -> None:
    name = "test/kitchen_0004/rgb_0001.png"
    write_tar(write_tree(tmp_path, {name: b""}) / TAR, {name: b""})
    with pytest.raises(DataError, match="rgb of frame 00000 is there twice"):
        make("nyu_marigold", tmp_path)


# DenseDepth's arrays


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Frames of 6 × 8 pixels, so that all 654 fit into a zip."""
    monkeypatch.setattr("spd_bench.data.sets.nyu_layouts.SIZE", (6, 8))
    monkeypatch.setattr("spd_bench.data.sets.nyu_densedepth.SIZE", (6, 8))
    return 6, 8


def small_arrays(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in write_densedepth(root, (6, 8)).iterdir()}


@pytest.mark.usefixtures("small")
def test_zip_is_read_in_place(tmp_path: Path) -> None:
    arrays = small_arrays(tmp_path / "arrays")
    archive = write_zip(tmp_path / ZIP, {f"nyu_test/{name}": content for name, content in arrays.items()})
    loose = make("nyu_densedepth", tmp_path / "arrays")
    for root in (archive, tmp_path):
        data = make("nyu_densedepth", root)
        assert data.digest() == loose.digest()
        for frame in (*NAMES, data.frames("test")[-1]):
            np.testing.assert_array_equal(data.read(frame).image_HW3, loose.read(frame).image_HW3)
            np.testing.assert_array_equal(data.read(frame).depth_m_HW, loose.read(frame).depth_m_HW)
    # the last test frame has index 1448 and was written with the depth of frame 1448 % 100 = 48: 1 + 4.8 m
    assert data.frames("test")[-1].frame == "01448"
    assert data.read(data.frames("test")[-1]).depth_m_HW[0, 0] == np.float32(5.8)


@pytest.mark.usefixtures("small")
def test_float64_metres_are_taken(tmp_path: Path) -> None:
    data = make("nyu_densedepth", write_densedepth(tmp_path, (6, 8), dtype="f8"))
    np.testing.assert_array_equal(data.read(NAMES[2]).depth_m_HW, metres(filled_mm(8, (6, 8))))


def resaved(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda root: np.save(root / name, array, allow_pickle=True)


def cut(name: str, length: int) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:length])

    return edit


ONES = np.ones((654, 6, 8), np.float32)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (resaved(DEPTH, ONES[:653]), r"expected an array of shape \(654, 6, 8\).*found \(653, 6, 8\)"),
        (resaved(DEPTH, ONES.transpose(0, 2, 1).copy()), r"found \(654, 8, 6\)"),
        (resaved(DEPTH, np.asfortranarray(ONES)), "float32 in Fortran order"),
        (resaved(DEPTH, ONES.astype(np.float16)), r"found \(654, 6, 8\) and float16(?s:.*)lost precision"),
        (resaved(DEPTH, ONES.astype(np.uint8)), r"found \(654, 6, 8\) and uint8"),
        (resaved(DEPTH, ONES.astype(">f4")), r"found \(654, 6, 8\) and >f4"),
        (resaved(DEPTH, ONES * 1000), "found a median of 1000(?s:.*)unit is probably wrong"),
        (resaved(DEPTH, ONES * (np.arange(8) > 0)), "expected filled depth, found 6 unknown pixels"),
        (resaved(DEPTH, np.array([{}, None], dtype=object)), "expected numbers, found pickled objects"),
        (resaved(RGB, np.zeros((654, 6, 8, 3), np.float32)), r"\(654, 6, 8, 3\) and type uint8, found .* float32"),
        (resaved(RGB, np.zeros((654, 3, 6, 8), np.uint8)), r"found \(654, 3, 6, 8\)"),
        (cut(DEPTH, 10_000), "found 10000: the file is cut short"),
        (cut(DEPTH, 40), "expected a NumPy array, found a damaged or foreign file"),
        (cut(RGB, 0), "expected a NumPy array, found a damaged or foreign file"),
        (resaved(CROP, np.array([45, 470, 41, 600])), r"expected \[20, 459, 24, 615\].*found \[45, 470, 41, 600\]"),
        (resaved(CROP, np.zeros(3)), r"expected \[20, 459, 24, 615\].*found an array of shape \(3,\)"),
        (resaved(CROP, np.zeros((2, 2))), r"expected \[20, 459, 24, 615\].*found \[0.0, 0.0, 0.0, 0.0\]"),
    ],
)
@pytest.mark.usefixtures("small")
def test_foreign_arrays_are_refused(tmp_path: Path, edit: Callable[[Path], None], message: str) -> None:
    edit(write_densedepth(tmp_path, (6, 8)))
    with pytest.raises(DataError, match=message) as error:
        make("nyu_densedepth", tmp_path)
    assert str(tmp_path) in (error.value.where or "")
    assert error.value.hint


def test_arrays_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(654, 480, 640, 3\) and type uint8, found \(654, 6, 8, 3\)"):
        make("nyu_densedepth", write_densedepth(tmp_path, (6, 8)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda a, path: write_zip(path, a, how=zipfile.ZIP_DEFLATED),
            r"compressed(?s:.*)unzip nyu_test.zip -d nyu_test",
        ),
        (lambda a, path: write_zip(path, {RGB: a[RGB]}), rf"expected {DEPTH} in it, found \['{RGB}'\]"),
        (lambda a, path: write_zip(path, {**a, "../a": b""}), "names below the archive's own folder, found '../a'"),
        (lambda a, path: path.write_bytes(b"no zip"), "expected a zip archive, found"),
        (lambda a, path: path.write_bytes(write_zip(path, a).read_bytes()[:-100]), "expected a zip archive, found"),
        (lambda a, path: path.write_bytes(write_zip(path, a).read_bytes()[1000:]), "expected a zip archive, found"),
    ],
    ids=["deflated", "incomplete", "hostile name", "text", "cut at its end", "cut at its start"],
)
@pytest.mark.usefixtures("small")
def test_foreign_zips_are_refused(tmp_path: Path, content: Callable[[Any, Path], object], message: str) -> None:
    content(small_arrays(tmp_path / "arrays"), tmp_path / ZIP)
    with pytest.raises(DataError, match=message) as error:
        make("nyu_densedepth", tmp_path / ZIP)
    assert error.value.where == str(tmp_path / ZIP)
    assert error.value.hint


def test_test_frames_alone_join_training_frames_of_another_layout(layouts: dict[str, Path]) -> None:
    data = TestElsewhere(loader("h5 shards", layouts), loader("densedepth", layouts))
    assert [len(data.frames(split)) for split in ("train", "val", "test")] == [1, 1, 654]
    assert data.truth == "filled"
    np.testing.assert_array_equal(data.read(NAMES[1]).depth_m_HW, metres(filled_mm(1)))
