"""Hostile files: weights, data sets, archives, images and predictions that were made to run code, to read other files,
to fill the memory or to crash a library.

Each is refused with one DataError (exit code 3) that names the file. No code of theirs runs: a canary file is never
there. This process lives, and needs less than 1 GB more memory; benchmarks/refusals.py measures the time.
"""

import io
import json
import os
import pickle
import resource
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import PATIENCE_S

from spd_bench import cli
from spd_bench.api import FrameId
from spd_bench.data.reading import untrusted
from spd_bench.data.reading.archives import tar_members, zip_members
from spd_bench.data.reading.frames import read_depth_m
from spd_bench.data.reading.hdf5 import open_hdf5
from spd_bench.data.reading.images import read_rgb
from spd_bench.data.sets.nyu_mat import read_splits
from spd_bench.errors import DataError
from spd_bench.external.files import open_maps
from spd_components.encoders.dav2_sizes import SIZES
from spd_components.encoders.dav2_weights import read_tensors, read_weights

MOST_MEMORY = 2**30
FRAMES = ["a", "b"]
CANARY = Path("canary")


class Opener:
    """What unpickling this runs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(CANARY), "w")


Make = Callable[[Path], object]
Read = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _alive_and_lean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not CANARY.exists()
    assert not list(tmp_path.parent.glob("escaped*"))
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


def assert_refused(read: Read, path: Path, message: str = "") -> None:
    with pytest.raises(DataError) as caught:
        read(path)
    assert caught.value.exit_code == 3
    assert str(path) in (caught.value.where or "")
    assert "\n" not in caught.value.message
    assert message in caught.value.message


# ------------------------------------------------------------------------------------------------ weights


def pickled_zip(path: Path) -> None:
    torch.save({"backbone": Opener()}, path)


def pickled_legacy(path: Path) -> None:
    torch.save({"backbone": Opener()}, path, _use_new_zipfile_serialization=False)


def pickled_raw(path: Path) -> None:
    path.write_bytes(pickle.dumps(Opener()))


def pickled_text(path: Path) -> None:
    path.write_bytes(f"cos\nsystem\n(S'touch {CANARY}'\ntR.".encode())


def pickled_in_zip_by_hand(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Opener()))
        archive.writestr("archive/version", "3\n")


def pickled_whole_module(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)


def checkpoint_around_it(path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(2)}, "epoch": 3}, path)


def not_finite(path: Path) -> None:
    torch.save({"x": torch.tensor([float("nan")])}, path)


def stride_zero(path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(10**12)}, path)


def zip_claiming_much(path: Path) -> None:
    """A tensor that says 60,000 elements over a storage of 1000."""
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(1000)}, buffer)
    raw = buffer.getvalue().replace(struct.pack("<H", 1000), struct.pack("<H", 60000))
    path.write_bytes(raw)


def compressed_storage(path: Path) -> None:
    """A file of PyTorch's with its members compressed: 256 MB of zeros in 256 kB."""
    plain = io.BytesIO()
    torch.save({"x": torch.zeros(8)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            if name.endswith("data/0"):
                with target.open(name, "w", force_zip64=True) as member:
                    for _ in range(16):
                        member.write(bytes(16 * 2**20))
            else:
                target.writestr(name, source.read(name))


def spanning_disks(path: Path) -> None:
    """An archive that says that it lies on nine disks."""
    torch.save({"x": torch.zeros(8)}, path)
    raw = bytearray(path.read_bytes())
    locator = raw.index(b"PK\x06\x07")
    raw[locator + 16 : locator + 20] = struct.pack("<I", 9)
    path.write_bytes(raw)


def truncated_pth(path: Path) -> None:
    torch.save({"x": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-200])


def safetensors_header(path: Path, header: Any, body: bytes = bytes(16), length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def entry(start: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}


WEIGHTS: dict[str, tuple[str, Make]] = {
    "pickle-zip": ("x.pth", pickled_zip),
    "pickle-legacy": ("x.pth", pickled_legacy),
    "pickle-raw": ("x.pth", pickled_raw),
    "pickle-text": ("x.pth", pickled_text),
    "pickle-zip-by-hand": ("x.pth", pickled_in_zip_by_hand),
    "pickle-module": ("x.pth", pickled_whole_module),
    "pickle-as-safetensors": ("x.safetensors", pickled_zip),
    "checkpoint": ("x.pth", checkpoint_around_it),
    "stride-zero": ("x.pth", stride_zero),
    "size-larger-than-storage": ("x.pth", zip_claiming_much),
    "compressed-bomb": ("x.pth", compressed_storage),
    "truncated": ("x.pth", truncated_pth),
    "spanning-disks": ("x.pth", spanning_disks),
    "empty": ("x.pth", lambda path: path.write_bytes(b"")),
    "empty-safetensors": ("x.safetensors", lambda path: path.write_bytes(b"")),
    "header-length-huge": ("x.safetensors", lambda path: safetensors_header(path, {}, length=2**62)),
    "header-length-beyond": ("x.safetensors", lambda path: safetensors_header(path, {}, length=10**6)),
    "header-no-json": ("x.safetensors", lambda path: safetensors_header(path, b"{{{{")),
    "header-deep": ("x.safetensors", lambda path: safetensors_header(path, b'{"a":' * 100_000)),
    "offsets-overlap": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(0, 8), "b": entry(4, 12)})),
    "offsets-beyond": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(0, 1 << 40)})),
    "offsets-backwards": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(8, 4, [1])})),
    "shape-huge": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(0, 16, [2**40])})),
    "shape-overflows": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(0, 16, [2**62, 2**62])})),
    "dtype-unknown": ("x.safetensors", lambda path: safetensors_header(path, {"a": entry(0, 16, [4], "EVIL")})),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights(tmp_path: Path, case: str) -> None:
    name, make = WEIGHTS[case]
    make(tmp_path / name)
    assert_refused(read_tensors, tmp_path / name)


@pytest.mark.parametrize("name", ["depth_anything_v2_vits.pth", "model.safetensors"])
def test_weights_with_missing_extra_and_not_finite_tensors(tmp_path: Path, name: str) -> None:
    tensors = {"pretrained.cls_token": torch.full((1, 1, 384), float("nan")), "evil": torch.zeros(3)}
    save = save_file if name.endswith("safetensors") else torch.save
    save(tensors, tmp_path / name)
    assert_refused(read_weights_of_small, tmp_path / name)


def read_weights_of_small(path: Path) -> object:
    return read_weights(path, next(size for size in SIZES if size.encoder == "dav2_small"))


def test_the_canary_would_sing(tmp_path: Path) -> None:
    pickled_raw(tmp_path / "x")
    pickle.loads((tmp_path / "x").read_bytes()).close()  # noqa: S301 what must never happen elsewhere
    assert CANARY.exists()
    CANARY.unlink()


# ------------------------------------------------------------------------------------------------ HDF5


def hdf5(fill: Callable[[Any], object]) -> Make:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            fill(file)

    return make


def set_link(link: Any) -> Make:
    return hdf5(lambda file: file.__setitem__("depth", link))


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((2, 4, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "depth", (2, 4, 4))
    file.create_virtual_dataset("depth", layout)


def foreign_filter(file: Any) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((10,))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((100,))
    h5py.h5d.create(file.id, b"depth", h5py.h5t.NATIVE_UINT8, space, created)


def gzip_bomb(file: Any) -> None:
    """One chunk of 400 MB in 400 kB."""
    array = file.create_dataset("depth", (1, 10_000, 40_000), "u1", chunks=(1, 10_000, 40_000), compression="gzip")
    packed = zlib.compressobj()
    raw = b"".join([*(packed.compress(bytes(2**20)) for _ in range(400)), packed.flush()])
    array.id.write_direct_chunk((0, 0, 0), raw)


def too_deep(file: Any) -> None:
    group = file
    for _ in range(60):
        group = group.create_group("g")


def pickled_attribute(file: Any) -> None:
    file.attrs["config"] = np.void(pickle.dumps(Opener()))
    file.create_dataset("depth", data=np.full((3, 4, 4), np.void(pickle.dumps(Opener()))))


def damaged(offset: int, count: int) -> Make:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name in "abcdefghij":
                file.create_dataset(f"group/{name}", data=np.zeros((2, 4, 4)), chunks=(1, 4, 4))
        raw = bytearray(path.read_bytes())
        raw[offset : offset + count] = bytes(count)
        path.write_bytes(raw)

    return make


def heap_zeroed(path: Path) -> None:
    """Over the heap of strings that this leaves, the HDF5 library loops for ever."""
    with h5py.File(path, "w") as file:
        file["frames"] = FRAMES
        file["depth"] = np.ones((2, 4, 4), np.float32)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 40 : heap + 104] = bytes(64)
    path.write_bytes(raw)


HDF5: dict[str, tuple[Make, str]] = {
    "external-storage": (
        hdf5(lambda file: file.create_dataset("depth", (2, 4, 4), "u2", external=[("/etc/passwd", 0, 64)])),
        "keeps its values in another file",
    ),
    "external-link": (set_link(h5py.ExternalLink("/etc/passwd", "/")), "is a link to another place or file"),
    "soft-link-to-itself": (set_link(h5py.SoftLink("/depth")), "is a link to another place or file"),
    "soft-link-to-nothing": (set_link(h5py.SoftLink("/nowhere")), "is a link to another place or file"),
    "virtual": (hdf5(virtual), "keeps its values in another file"),
    "foreign-filter": (hdf5(foreign_filter), "needs filter 32015, which is not HDF5's own"),
    "declares-100-GB": (
        hdf5(lambda file: file.create_dataset("depth", (25, 32_000, 32_000), "f4")),
        "claims 102400000000 bytes, stored are 0",
    ),
    "huge-chunks": (
        hdf5(lambda file: file.create_dataset("depth", (9, 9000, 9000), "f4", chunks=(1, 9000, 9000))),
        "has chunks of 324000000 bytes",
    ),
    "gzip-bomb": (hdf5(gzip_bomb), "has chunks of 400000000 bytes"),
    "heap-zeroed": (heap_zeroed, "the HDF5 library did not finish within 0.5 s"),
    "deep": (hdf5(too_deep), "groups nested deeper than 50 levels"),
    "not-hdf5": (lambda path: path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(512)), "file signature not found"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "truncated": (lambda path: (damaged(0, 0)(path), os.truncate(path, 3000)), ""),
    "superblock-zeroed": (damaged(0, 96), ""),
    "group-zeroed": (damaged(96, 1000), ""),
}


@pytest.mark.parametrize("case", HDF5)
def test_hdf5(tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HDF5[case]
    make(tmp_path / "x.h5")
    if "did not finish within" in message:
        monkeypatch.setattr(untrusted, "LONGEST_S", 0.5)
    assert_refused(open_hdf5, tmp_path / "x.h5", message)
    assert_refused(lambda path: open_maps(path, [FrameId(name, name) for name in FRAMES]), tmp_path / "x.h5", message)


def test_hdf5_that_names_itself_and_holds_references_is_sound(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("a")["up"] = file  # a hard link: a cycle, but one that a walk can see
        file.create_dataset("names", data=["x", "y"], dtype=h5py.string_dtype())
        file.create_dataset("references", data=[file.ref], dtype=h5py.ref_dtype)
        file.create_dataset("depth", data=np.ones((2, 4, 4), "f4"), chunks=(1, 4, 4), compression="gzip")
    assert untrusted.problem_of(tmp_path / "x.h5") is None


def test_a_pickle_in_hdf5_is_bytes(tmp_path: Path) -> None:
    hdf5(pickled_attribute)(tmp_path / "x.h5")
    assert_refused(lambda path: open_maps(path, [FrameId(name, name) for name in FRAMES]), tmp_path / "x.h5")


def test_a_file_that_hangs_or_crashes_the_library_costs_its_examiner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good.h5"
    damaged(0, 0)(good)
    for script, message in [
        ("import time; time.sleep(1000)", "did not finish within 0.5 s"),
        ("import os; os.kill(os.getpid(), 11)", "crashed over it or ran out of memory (status -11)"),
        ("import os; os._exit(0)", "crashed over it"),
    ]:
        fake = tmp_path / "fake.py"
        fake.write_text(f"import sys\nsys.stdin.readline()\n{script}\n")
        with monkeypatch.context() as patch:
            patch.setattr(untrusted, "__file__", str(fake))
            patch.setattr(untrusted, "LONGEST_S", 0.5 if "sleep" in script else PATIENCE_S)
            patch.setattr(untrusted, "_examiners", {})
            patch.setattr(untrusted, "_sound", set())
            assert message in (untrusted.problem_of(good) or "")
    assert untrusted.problem_of(good) is None


def test_a_file_is_looked_at_once_until_it_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    damaged(0, 0)(path)
    assert untrusted.problem_of(path) is None

    def never() -> None:
        raise AssertionError("asked again")

    with monkeypatch.context() as patch:
        patch.setattr(untrusted, "_examiner", never)
        assert untrusted.problem_of(path) is None
    set_link(h5py.SoftLink("/x"))(path)
    assert "is a link" in (untrusted.problem_of(path) or "")


def test_the_examiner_has_little_memory(tmp_path: Path) -> None:
    damaged(0, 0)(tmp_path / "x.h5")
    assert untrusted.problem_of(tmp_path / "x.h5") is None
    limits = Path(f"/proc/{untrusted._examiner().process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max address space"))
    assert line.split()[3] == str(untrusted.MOST_MEMORY)


# ------------------------------------------------------------------------------------------------ MATLAB 5


def splits_mat(path: Path, **arrays: Any) -> None:
    from scipy.io import savemat

    savemat(path, arrays, do_compression=True)


def mat_bomb(path: Path) -> None:
    """60 kB that unfold into 60 MB."""
    splits_mat(path, trainNdxs=np.zeros((7_500_000, 1)), testNdxs=np.ones((2, 1)))


MATLAB: dict[str, Make] = {
    "v7.3": hdf5(lambda file: file.create_dataset("trainNdxs", data=[[1.0]])),
    "truncated": lambda path: (
        splits_mat(path, trainNdxs=np.arange(9), testNdxs=np.arange(9)),
        os.truncate(path, path.stat().st_size - 40),
    ),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "empty": lambda path: path.write_bytes(b""),
    "names-missing": lambda path: splits_mat(path, other=np.arange(9)),
    "text": lambda path: splits_mat(path, trainNdxs="import os", testNdxs=np.arange(9)),
    "fractions": lambda path: splits_mat(path, trainNdxs=np.array([1.5]), testNdxs=np.array([2.0])),
    "objects": lambda path: splits_mat(
        path, trainNdxs=np.array([{"a": 1}], dtype=object), testNdxs=np.array([1, 2], dtype=np.uint16)
    ),
    "too-large": lambda path: path.write_bytes(bytes(65 * 1024)),
}


@pytest.mark.parametrize("case", MATLAB)
def test_matlab_5(tmp_path: Path, case: str) -> None:
    MATLAB[case](tmp_path / "splits.mat")
    assert_refused(read_splits, tmp_path / "splits.mat")


def test_matlab_5_in_place_of_the_labelled_file(tmp_path: Path) -> None:
    splits_mat(tmp_path / "nyu_depth_v2_labeled.mat", images=np.zeros((2, 2)))
    assert_refused(
        lambda path: open_hdf5(path, kind="a MATLAB v7.3 (HDF5) file"), tmp_path / "nyu_depth_v2_labeled.mat"
    )


# ------------------------------------------------------------------------------------------------ archives


def tar_with(**changes: Any) -> Make:
    def make(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("a.png")
            for name, value in changes.items():
                setattr(member, name, value)
            tar.addfile(member, io.BytesIO(bytes(max(0, min(member.size, 10)))))

    return make


def tar_with_a_false_size(path: Path) -> None:
    tar_with(size=10)(path)
    raw = bytearray(path.read_bytes())
    raw[124:136] = b"77777777777\0"  # 8 GB
    raw[148:156] = b" " * 8
    raw[148:156] = f"{sum(raw[:512]):06o}\0 ".encode()
    path.write_bytes(raw)


TARS: dict[str, Make] = {
    "traversal": tar_with(name="../escaped"),
    "absolute": tar_with(name="/tmp/escaped"),  # noqa: S108
    "symlink": tar_with(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard-link": tar_with(type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": tar_with(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": tar_with(type=tarfile.FIFOTYPE),
    "false-size": tar_with_a_false_size,
    "backslash": tar_with(name="..\\escaped"),
    "compressed": lambda path: path.write_bytes(zlib.compress(bytes(10_000))),
    "truncated": lambda path: (tar_with(size=10)(path), os.truncate(path, 600)),
}


@pytest.mark.parametrize("case", TARS)
def test_tar(tmp_path: Path, case: str) -> None:
    TARS[case](tmp_path / "x.tar")
    assert_refused(tar_members, tmp_path / "x.tar")


def zip_with(name: str, content: bytes = b"x" * 10, how: int = zipfile.ZIP_STORED) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), content, how)

    return make


def zip_with_a_false_size(path: Path) -> None:
    zip_with("a.npy")(path)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"PK\x01\x02")
    raw[start + 20 : start + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(raw)


ZIPS: dict[str, Make] = {
    "traversal": zip_with("../escaped"),
    "absolute": zip_with("/tmp/escaped"),  # noqa: S108
    "bomb": zip_with("a.npy", bytes(10**7), zipfile.ZIP_DEFLATED),
    "false-size": zip_with_a_false_size,
    "truncated": lambda path: (zip_with("a.npy", bytes(1000))(path), os.truncate(path, 900)),
    "not-zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zip(tmp_path: Path, case: str) -> None:
    ZIPS[case](tmp_path / "x.zip")
    assert_refused(zip_members, tmp_path / "x.zip")


# ------------------------------------------------------------------------------------------------ images


def png_of(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def image(array: Any, **options: Any) -> Make:
    return lambda path: Image.fromarray(array).save(path, "PNG", **options)


def npy(array: Any) -> Make:
    return lambda path: np.save(path, array, allow_pickle=True)


def npy_header(text: str) -> Make:
    raw = text.encode().ljust(118) + b"\n"
    return lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + bytes(64))


def depth_of(path: Path) -> object:
    return read_depth_m(path, scale=1000, invalid=(0,))


IMAGES: dict[str, tuple[str, Make, Read]] = {
    "bomb": ("x.png", lambda path: path.write_bytes(png_of(60_000, 60_000, bytes(10**6))), read_rgb),
    "just-below-pillows-limit": (
        "x.png",
        lambda path: path.write_bytes(png_of(13_000, 13_000, bytes(10**6))),
        read_rgb,
    ),
    "bomb-depth": (
        "x.png",
        lambda path: path.write_bytes(png_of(60_000, 60_000, bytes(10**6), depth=16, colour=0)),
        depth_of,
    ),
    "truncated": ("x.png", lambda path: path.write_bytes(png_of(64, 64, bytes(64 * 193))[:-30]), read_rgb),
    "no-rows": ("x.png", lambda path: path.write_bytes(png_of(64, 64, b"")), read_rgb),
    "empty": ("x.png", lambda path: path.write_bytes(b""), read_rgb),
    "depth-of-8-bits": ("x.png", image(np.zeros((4, 4), np.uint8)), depth_of),
    "depth-in-colour": ("x.png", image(np.zeros((4, 4, 3), np.uint8)), depth_of),
    "colour-in-16-bits": ("x.png", image(np.zeros((4, 4), np.uint16)), read_rgb),
    "script": ("x.png", lambda path: path.write_bytes(b"#!/bin/sh\ntouch canary\n"), read_rgb),
    "svg": ("x.png", lambda path: path.write_bytes(b"<svg onload='x'/>"), read_rgb),
    "eps": ("x.png", lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF\n%%BoundingBox: 0 0 9 9\n"), read_rgb),
    "newline-in-name": ("a\nb.png", lambda path: path.write_bytes(b""), read_rgb),
    "unicode-in-name": ("a\u202e\u0416😀.png", lambda path: path.write_bytes(b""), read_rgb),
    "npy-pickle": ("x.npy", npy(np.array([Opener()], dtype=object)), depth_of),
    "npy-huge": (
        "x.npy",
        npy_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**6}, {10**6})}}"),
        depth_of,
    ),
    "npy-code": ("x.npy", npy_header("__import__('os').system('touch canary')"), depth_of),
    "npy-float16": ("x.npy", npy(np.ones((4, 4), np.float16)), depth_of),
    "npy-three-axes": ("x.npy", npy(np.ones((4, 4, 4), np.float32)), depth_of),
}


@pytest.mark.parametrize("case", IMAGES)
def test_image(tmp_path: Path, case: str) -> None:
    name, make, read = IMAGES[case]
    make(tmp_path / name)
    assert_refused(read, tmp_path / name)


# ------------------------------------------------------------------------------------------------ predictions


def in_folder(*names: str) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            np.save(path / name, np.ones((4, 4), np.float32))

    return make


def stack_of(names: list[str], count: int = 2) -> Make:
    def fill(file: Any) -> None:
        file["depth"] = np.ones((count, 4, 4), np.float32)
        file["frames"] = names

    return hdf5(fill)


PREDICTIONS: dict[str, tuple[str, Make]] = {
    "too-few": ("x.npy", npy(np.ones((1, 4, 4), np.float32))),
    "too-many": ("x.npy", npy(np.ones((3, 4, 4), np.float32))),
    "no-axis": ("x.npy", npy(np.float32(1))),
    "eight-bits": ("x.npy", npy(np.ones((2, 4, 4), np.uint8))),
    "text": ("x.npy", npy(np.array(["a", "b"]))),
    "complex": ("x.npy", npy(np.ones((2, 4, 4), np.complex64))),
    "pickle": ("x.npy", npy(np.array([Opener(), Opener()], dtype=object))),
    "huge-side": ("x.npy", npy_header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 100000000)}")),
    "name-twice": ("x.h5", stack_of(["a", "a"])),
    "name-missing": ("x.h5", stack_of(["a", "c"])),
    "names-too-few": ("x.h5", stack_of(["a"])),
    "names-are-numbers": (
        "x.h5",
        hdf5(
            lambda file: (
                file.create_dataset("depth", data=np.ones((2, 4, 4))),
                file.create_dataset("frames", data=[1, 2]),
            )
        ),
    ),
    "folder-lacks-one": ("x", in_folder("a.npy")),
    "folder-has-two-for-one": ("x", in_folder("a.npy", "b.npy", "pred_b.npy")),
    "folder-is-empty": ("x", in_folder()),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions(tmp_path: Path, case: str) -> None:
    name, make = PREDICTIONS[case]
    make(tmp_path / name)
    assert_refused(lambda path: open_maps(path, [FrameId(name, name) for name in FRAMES]), tmp_path / name)


# ------------------------------------------------------------------------------------------------ by command


@pytest.mark.parametrize(
    ("command", "name", "make"),
    [
        ("weights check", "depth_anything_v2_vits.pth", pickled_zip),
        ("weights check", "model.safetensors", WEIGHTS["offsets-beyond"][1]),
        ("score --name x --suite smoke", "x.h5", HDF5["external-storage"][0]),
        ("score --name x --suite smoke", "x.npy", PREDICTIONS["pickle"][1]),
        ("data inspect --dataset packed", "x.h5", HDF5["virtual"][0]),
        ("data inspect", "x.tar", TARS["traversal"]),
        ("check smoke --data", "x.tar", TARS["symlink"]),
    ],
)
def test_the_command_says_one_line_and_ends_with_3(
    tmp_path: Path,
    command: str,
    name: str,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / name)
    monkeypatch.setattr(sys, "argv", ["spd-bench", *command.split(), name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert end.value.code == 3
    assert "Traceback" not in out + err
    assert "bug in spd-bench" not in err


def test_the_corpus_is_large() -> None:
    assert sum(map(len, (WEIGHTS, HDF5, MATLAB, TARS, ZIPS, IMAGES, PREDICTIONS))) >= 40
