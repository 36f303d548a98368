"""Reading RGB-D files: exact values out, and every damaged or foreign file refused with place and mend."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spd_bench.data.reading.frames import check_indoor_depth, read_depth_m, read_frame
from spd_bench.data.reading.images import read_rgb
from spd_bench.errors import DataError

MILLIMETRES_HW = np.array([[0, 500, 1000], [65535, 2500, 3999]], dtype=np.uint16)
METRES_HW = np.array([[0, 0.5, 1], [0, 2.5, 3.999]], dtype=np.float32)  # the same by hand, 0 and 65535 unknown


def save(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


def test_rgb_keeps_every_pixel(tmp_path: Path) -> None:
    image_HW3 = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    read_HW3 = read_rgb(save(tmp_path / "a.png", image_HW3))
    assert read_HW3.dtype == np.uint8
    np.testing.assert_array_equal(read_HW3, image_HW3)


def test_rgb_drops_alpha(tmp_path: Path) -> None:
    image_HW4 = np.full((2, 3, 4), (10, 20, 30, 128), dtype=np.uint8)
    np.testing.assert_array_equal(read_rgb(save(tmp_path / "a.png", image_HW4)), image_HW4[..., :3])


@pytest.mark.parametrize("array", [MILLIMETRES_HW, np.zeros((2, 3), np.uint8)], ids=["depth", "grey"])
def test_rgb_refuses_what_is_not_colour(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected a colour image, found PIL mode") as error:
        read_rgb(save(tmp_path / "a.png", array))
    assert error.value.where == str(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "array", "scale"),
    [
        ("mm.png", MILLIMETRES_HW, 1000),
        ("mm.tiff", MILLIMETRES_HW, 1000),
        ("mm.npy", MILLIMETRES_HW, 1000),
        ("int32.npy", MILLIMETRES_HW.astype(np.int32), 1000),
        ("metres.tiff", METRES_HW, 1),
        ("metres.npy", METRES_HW.astype(np.float64), 1),
    ],
)
def test_depth_in_metres(tmp_path: Path, name: str, array: np.ndarray, scale: float) -> None:
    depth_m_HW = read_depth_m(save(tmp_path / name, array), scale=scale, invalid=(0, 65535))
    assert depth_m_HW.dtype == np.float32
    np.testing.assert_array_equal(depth_m_HW, METRES_HW)


def test_sentinel_is_a_value_like_any_other_unless_named(tmp_path: Path) -> None:
    depth_m_HW = read_depth_m(save(tmp_path / "a.png", MILLIMETRES_HW), scale=1000, invalid=(0,))
    assert depth_m_HW[1, 0] == np.float32(65.535)


def test_unknown_floats_become_zero(tmp_path: Path) -> None:
    raw_HW = np.array([[np.nan, np.inf], [-1, 2]], dtype=np.float32)
    depth_m_HW = read_depth_m(save(tmp_path / "a.npy", raw_HW), scale=1, invalid=())
    np.testing.assert_array_equal(depth_m_HW, [[0, 0], [0, 2]])


def test_eight_bit_depth_is_refused_with_its_reason(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((4, 4), 100, np.uint8))
    with pytest.raises(DataError, match=r"16 bits or more, found PIL mode L.*\n.*DenseDepth.*255 = 10 m"):
        read_depth_m(path, scale=1000, invalid=(0,))


@pytest.mark.parametrize(
    "array",
    [METRES_HW.astype(np.float16), np.zeros((2, 3), np.uint8), np.zeros((2, 3, 1), np.float32), np.zeros((2, 3), bool)],
    ids=["float16", "uint8", "3-d", "bool"],
)
def test_array_that_cannot_hold_depth_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected depth of shape \(H, W\).*found " + str(array.dtype)):
        read_depth_m(save(tmp_path / "a.npy", array), scale=1, invalid=())


def test_pickled_array_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="without pickled objects"):
        read_depth_m(tmp_path / "a.npy", scale=1, invalid=())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # the decoder's own remark, before the error
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.npy"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text", "folder"])
def test_damaged_depth_is_one_kind_of_error(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path / name, MILLIMETRES_HW)
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"not an image"}[damage])
    with pytest.raises(DataError, match=r"expected an (image|array)|expected a NumPy array") as error:
        read_depth_m(path, scale=1000, invalid=(0,))
    assert error.value.where == str(path)
    assert error.value.hint


def test_every_truncation_of_a_png_is_refused(tmp_path: Path) -> None:
    noise_HW3 = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    content = save(tmp_path / "a.png", noise_HW3).read_bytes()
    end = content.index(b"IDAT") + 4  # from here on the header is whole: the pixels themselves are cut
    for size in range(0, end + 150, 7):
        (tmp_path / "cut.png").write_bytes(content[:size])
        with pytest.raises(DataError):
            read_rgb(tmp_path / "cut.png")


def test_header_cannot_claim_more_than_the_file_holds(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    path.write_bytes(path.read_bytes().replace(b"(2, 3), ", b"(99999999, 99999999), ", 1))
    with pytest.raises(DataError, match=r"damaged or foreign file \(mmap"):
        read_depth_m(path, scale=1, invalid=())


def test_frame_of_one_size(tmp_path: Path) -> None:
    color = save(tmp_path / "c.png", np.zeros((2, 3, 3), np.uint8))
    frame = read_frame(color, save(tmp_path / "d.png", MILLIMETRES_HW), scale=1000, invalid=(0, 65535))
    assert frame.image_HW3.shape == (2, 3, 3)
    np.testing.assert_array_equal(frame.depth_m_HW, METRES_HW)


def test_frame_of_two_sizes_is_refused(tmp_path: Path) -> None:
    color = save(tmp_path / "c.png", np.zeros((3, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"expected 3 rows × 2 columns like its colour image .*c\.png, found 2 × 3"):
        read_frame(color, save(tmp_path / "d.png", MILLIMETRES_HW), scale=1000, invalid=(0, 65535))


@pytest.mark.parametrize(
    ("factor", "passes"),
    # a median of 2 m times factor; 0.3 to 20 m is let through
    [(1, True), (0.16, True), (9.9, True), (0.14, False), (10.1, False), (1000, False), (1 / 256, False)],
)
def test_unit_gate(factor: float, passes: bool) -> None:
    depth_m_HW = (np.array([[0, 1, 2], [2, 3, 0]]) * factor).astype(np.float32)
    if passes:
        check_indoor_depth(depth_m_HW, "here")
    else:
        with pytest.raises(DataError, match=r"(?s)here.*the unit is probably wrong.*depth_scale.*5000 for TUM.*256"):
            check_indoor_depth(depth_m_HW, "here")


def test_unit_gate_sees_one_far_pixel() -> None:
    with pytest.raises(DataError, match="a median of 2 and a maximum of 101"):
        check_indoor_depth(np.array([[1, 2, 2, 101]], np.float32), "here")


def test_unit_gate_refuses_a_frame_without_depth() -> None:
    with pytest.raises(DataError, match="no pixel has a known depth"):
        check_indoor_depth(np.zeros((4, 4), np.float32), "here")
