"""Depth files by their container: stored numbers come out as they are, or the file is refused by its name."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from spd_bench.data.reading.depth_files import read_values
from spd_bench.data.reading.images import read_rgb
from spd_bench.errors import DataError

DEPTH_HW = (np.arange(12 * 10).reshape(12, 10) * 31 + 500).astype(np.uint16)
"""500 to 4189: both bytes vary, so that exchanged ones show."""


def tiff(
    values_HW: Any,
    *,
    order: str = "<",
    compressed: bool = False,
    form: int = 1,
    orientation: int = 1,
    photometric: int = 1,
) -> bytes:
    """A TIFF of one strip, written here: 8-byte header, pixels, directory."""
    pixels = values_HW.astype(values_HW.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if compressed else pixels
    height, width = values_HW.shape
    tags = {
        256: width, 257: height, 258: values_HW.dtype.itemsize * 8, 259: 8 if compressed else 1, 262: photometric,
        273: 8, 274: orientation, 277: 1, 278: height, 279: len(pixels), 339: form,
    }  # fmt: skip
    place = 8 + len(pixels) + len(pixels) % 2
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", place)
    rows = b"".join(
        struct.pack(order + "HHI", tag, 4 if tag in (273, 279) else 3, 1)
        + (struct.pack(order + "I", value) if tag in (273, 279) else struct.pack(order + "HH", value, 0))
        for tag, value in sorted(tags.items())
    )
    return head + pixels + b"\0" * (len(pixels) % 2) + struct.pack(order + "H", len(tags)) + rows + bytes(4)


def written(tmp_path: Path, name: str, content: bytes) -> Path:
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_values(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert "copy or download the file again" not in caught.value.hint  # it is a sound file
    return caught.value.message


@pytest.mark.parametrize("largest", [65535, 10000, 4189])
def test_a_pgm_s_maximum_scales_nothing(tmp_path: Path, largest: int) -> None:
    header = b"P5\n# made here\n10 12\n%d\n" % largest
    path = written(tmp_path, "a.pgm", header + DEPTH_HW.astype(">u2").tobytes())
    np.testing.assert_array_equal(read_values(path), DEPTH_HW)
    if largest != 65535:  # the control: Pillow stretches the values
        assert not np.array_equal(np.asarray(Image.open(path)), DEPTH_HW)


def test_pfm_rows_go_upwards_and_a_scale_is_refused(tmp_path: Path) -> None:
    values_HW = (DEPTH_HW / 1000).astype(np.float32)
    for scale, dtype in (("-1.0", "<f4"), ("1", ">f4")):
        content = b"Pf\n10 12\n%s\n" % scale.encode() + values_HW[::-1].astype(dtype).tobytes()
        np.testing.assert_array_equal(read_values(written(tmp_path, "a.pfm", content)), values_HW)
    content = b"Pf\n10 12\n-2.0\n" + values_HW[::-1].tobytes()
    assert "PFM with a scale of 2" in refusal(written(tmp_path, "b.pfm", content))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("dtype", "form"), [("u2", 1), ("i2", 2), ("i4", 2), ("f4", 3), ("f8", 3), ("f2", 3)])
def test_every_tiff_is_read_rightly_or_named(
    tmp_path: Path, order: str, compressed: bool, dtype: str, form: int
) -> None:
    values_HW = DEPTH_HW.astype(dtype)
    path = written(tmp_path, "a.tif", tiff(values_HW, order=order, compressed=compressed, form=form))
    read = dtype not in ("f8", "f2") and (order == "<" or not compressed or dtype == "u2")
    if read:
        np.testing.assert_array_equal(read_values(path), values_HW)
    else:
        bits, kind = 8 * np.dtype(dtype).itemsize, {"i": "signed integers", "f": "floats"}[dtype[0]]
        assert f"{bits}-bit {kind}" in refusal(path)


def test_what_a_tiff_says_of_its_pixels_is_refused_by_name(tmp_path: Path) -> None:
    assert "orientation 3" in refusal(written(tmp_path, "a.tif", tiff(DEPTH_HW, orientation=3)))
    assert "white as zero" in refusal(written(tmp_path, "b.tif", tiff(DEPTH_HW, photometric=0)))


def test_significant_bits_and_orientation_of_a_png_are_refused(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add(b"sBIT", b"\x0c")
    Image.fromarray(DEPTH_HW).save(tmp_path / "a.png", pnginfo=info)
    assert "12 of its 16 bits are significant (sBIT)" in refusal(tmp_path / "a.png")
    info = PngImagePlugin.PngInfo()
    info.add(b"sBIT", b"\x10")
    Image.fromarray(DEPTH_HW).save(tmp_path / "b.png", pnginfo=info)
    np.testing.assert_array_equal(read_values(tmp_path / "b.png"), DEPTH_HW)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEPTH_HW).save(tmp_path / "c.png", exif=exif)
    assert "EXIF orientation 6" in refusal(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_colour_that_is_to_be_turned_is_refused(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / name, exif=exif)
    if orientation == 1:
        assert read_rgb(tmp_path / name).shape == (4, 6, 3)
    else:
        with pytest.raises(DataError, match=f"EXIF orientation {orientation}: .*turned by"):
            read_rgb(tmp_path / name)


def test_jpeg_2000_without_losses_at_16_bits_is_read(tmp_path: Path) -> None:
    Image.fromarray(DEPTH_HW).save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read_values(tmp_path / "a.jp2"), DEPTH_HW)
    Image.fromarray(DEPTH_HW).save(tmp_path / "b.jp2", irreversible=True, quality_layers=[20])
    assert "losses" in refusal(tmp_path / "b.jp2")
    content = bytearray((tmp_path / "a.jp2").read_bytes())
    content[content.find(b"\xff\x4f\xff\x51") + 42] = 11  # 12 bits
    assert "of 12 bits is stretched" in refusal(written(tmp_path, "c.jp2", bytes(content)))


def test_npz_and_hdf5_that_say_what_is_depth_are_read(tmp_path: Path) -> None:
    metres_HW = (DEPTH_HW / 1000).astype(np.float32)
    np.savez(tmp_path / "one.npz", metres_HW)
    np.savez_compressed(tmp_path / "named.npz", depth=metres_HW, confidence=np.ones_like(metres_HW))
    np.savez(tmp_path / "two.npz", a=metres_HW, b=metres_HW)
    for name in ("one.npz", "named.npz"):
        np.testing.assert_array_equal(read_values(tmp_path / name), metres_HW)
    assert "expected one array, or one called depth, found a, b" in refusal(tmp_path / "two.npz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["depth"] = metres_HW
    np.testing.assert_array_equal(read_values(tmp_path / "a.h5"), metres_HW)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["dataset"] = metres_HW
    assert "found dataset" in refusal(tmp_path / "b.hdf5")


def test_a_zip_that_unfolds_is_not_unfolded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros((8192, 8192), np.float64))
    assert "larger than any frame" in refusal(tmp_path / "a.npz")


def test_formats_that_are_not_read_are_named(tmp_path: Path) -> None:
    eight = Image.fromarray((DEPTH_HW >> 5).astype(np.uint8))
    for name, word in (("a.jpg", "JPEG"), ("a.bmp", "BMP"), ("a.webp", "WebP")):
        eight.save(tmp_path / name)
        assert word in refusal(tmp_path / name)
    assert "PGM of 256 levels" in refusal(written(tmp_path, "b.pgm", b"P5 2 2 255 abcd"))
    assert "decimal text" in refusal(written(tmp_path, "c.pgm", b"P2 1 1 65535 700"))
    assert "MATLAB" in refusal(written(tmp_path, "c.mat", b"MATLAB 5.0 MAT-file"))


def test_exr_is_read_by_its_channel(tmp_path: Path) -> None:
    openexr = pytest.importorskip("OpenEXR")
    metres_HW = (DEPTH_HW / 1000).astype(np.float32)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    for name, channel in (("a.exr", "Z"), ("b.exr", "Y")):
        with openexr.File(header, {channel: metres_HW}) as file:
            file.write(str(tmp_path / name))
    np.testing.assert_array_equal(read_values(tmp_path / "a.exr"), metres_HW)
    assert "without one channel called Z" in refusal(tmp_path / "b.exr")
    assert "EXR" in refusal(written(tmp_path, "c.exr", b"\x76\x2f\x31\x01" + bytes(20)))


def test_exr_without_its_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "OpenEXR", None)
    assert "OpenEXR, which is not installed" in refusal(written(tmp_path, "c.exr", b"\x76\x2f\x31\x01" + bytes(20)))


@pytest.mark.parametrize("cut", [9, 40, 100])
def test_a_cut_file_is_damage(tmp_path: Path, cut: int) -> None:
    png = BytesIO()
    Image.fromarray(DEPTH_HW).save(png, "PNG")
    for name, content in (
        ("a.pgm", b"P5 10 12 10000\n" + DEPTH_HW.tobytes()),
        ("a.tif", tiff(DEPTH_HW)),
        ("a.png", png.getvalue()),
    ):
        with pytest.raises(DataError):
            read_values(written(tmp_path, name, content[:cut]))
