"""Files that are dropped in: images of every kind, and what is refused in one line."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from spd_bench.errors import DataError
from spd_bench.explore import pictures
from spd_bench.explore.pictures import Picture, Pictures, dropped, pixel


def saved(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return buffer.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG of 70 bytes that claims to be of this size."""
    kinds = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in kinds
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_dropped_image_has_its_pixels_and_no_truth() -> None:
    image_HW3 = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    picture = dropped("a.png", saved(Image.fromarray(image_HW3)))
    assert (picture.name, picture.width, picture.height) == ("a.png", 5, 4)
    assert (picture.image_HW3 == image_HW3).all()
    assert picture.truth_m(1, 1) is None


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda: saved(Image.new("RGB", (40, 40)))[:60], "damaged or foreign file"),
        (lambda: b"# not an image\n", r"\(no known image format\)$"),
        (lambda: b"", "damaged or foreign file"),
        (lambda: claims(20_000, 20_000), "damaged or foreign file"),
        (lambda: claims(9000, 1), "at most 8192 a side"),
        (lambda: saved(Image.new("I;16", (4, 4))), "depth"),
    ],
    ids=["cut", "text", "empty", "bomb", "wide", "depth"],
)
def test_what_is_no_image_is_refused_in_one_line(content: Callable[[], bytes], what: str) -> None:
    with pytest.raises(DataError, match=what) as refused:
        dropped("bad\nname.png", content())
    assert refused.value.where == "bad\\nname.png"


def test_a_huge_file_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="are too many"):
        dropped("huge.png", saved(Image.new("RGB", (4, 4))))


def test_equal_pixels_have_one_key() -> None:
    """Not so an image of other sides with the same bytes."""
    one, same, other = (Picture("p", np.zeros(shape, np.uint8)) for shape in ((2, 3, 3), (2, 3, 3), (3, 2, 3)))
    assert one.key == same.key != other.key


def test_browsers_get_as_many_pixels() -> None:
    shown = Image.open(io.BytesIO(Picture("p", np.zeros((7, 9, 3), np.uint8)).jpeg))
    assert shown.size == (9, 7)


def test_a_coordinate_means_the_pixel_around_it() -> None:
    """Pixel 1 covers −0.5 … +0.5 around 1."""
    assert [pixel(value, 3) for value in (-0.5, 0.49, 0.5, 1.49, 1.5, 2.5, 9)] == [0, 0, 1, 1, 2, 2, 2]


def test_pictures_are_kept_within_a_bound() -> None:
    """Each takes 2·2·3 = 12 bytes; two fit into 24, and the one that was not looked at goes."""
    held = Pictures(24)
    first, second, third = (Picture("p", np.full((2, 2, 3), shade, np.uint8)) for shade in range(3))
    for picture in (first, second):
        held.keep(picture)
    assert held.get(first.key) is first
    held.keep(third)
    assert held.get(second.key) is None
    assert held.get(first.key) is first
    held.keep(Picture("large", np.zeros((9, 9, 3), np.uint8)))
    assert held.get(third.key) is third
