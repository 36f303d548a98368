"""Reading images, and refusing what is none.

Letters: H W rows and columns of the frame, 3 red, green, blue.
"""

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from spd_bench.data.reading.archives import Span
from spd_bench.errors import DataError

COLOR_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".ppm", ".tif", ".tiff", ".bmp", ".webp"})
"""Files that may hold colour and are read."""
RGB_MODES = ("RGB", "RGBA", "P")
DEPTH_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
LARGEST_SIDE = 8192
"""Rows or columns of an image; a file of a few kilobytes may claim any number."""
ORIENTATION = 0x0112
TURNED = {
    2: "mirrored",
    3: "turned by 180°",
    4: "flipped",
    5: "transposed",
    6: "turned by 90°",
    7: "transposed",
    8: "turned by 270°",
}


def read_rgb(path: Path | Span) -> npt.NDArray[np.uint8]:
    """A colour image as uint8 [H, W, 3]; an alpha channel is dropped.

    Raises:
        DataError: the file is missing, damaged, or no colour image.
    """
    image = open_image(path)
    refuse_turned(image, str(path))
    if image.mode not in RGB_MODES:
        raise DataError(
            f"expected a colour image, found PIL mode {image.mode}",
            where=str(path),
            hint="check which of the two patterns is colour and which is depth",
        )
    return np.array(image.convert("RGB"))


def open_image(path: Path | Span) -> Image.Image:
    """A fully decoded image. DataError for a file that is missing, damaged, no image, or claims too many pixels."""
    try:
        return decode_image(BytesIO(path.read()) if isinstance(path, Span) else path, where=str(path))
    except FileNotFoundError:
        raise DataError("expected an image, found no such file", where=str(path), hint="check the path") from None


def decode_image(source: Path | BytesIO, *, where: str) -> Image.Image:
    """A fully decoded image from a file or its content; `where` names it in errors.

    Raises FileNotFoundError for a missing file, DataError for one that is damaged, no image, or claims too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(source)
        with image:
            if max(image.size) > LARGEST_SIDE:
                raise ValueError(f"{image.size[0]}×{image.size[1]} pixels, at most {LARGEST_SIDE} a side are read")
            image.load()
            return image
    except (FileNotFoundError, DataError):
        raise
    except Exception as error:  # decoders of damaged files raise OSError, SyntaxError, ValueError, TypeError, ...
        raise DataError(
            f"expected an image, found a damaged or foreign file ({_cause(error)})",
            where=where,
            hint="copy or download the file again",
        ) from error


def _cause(error: Exception) -> str:
    """What a decoder says; not the address of a buffer, which PIL names where no decoder knows the file."""
    return "no known image format" if isinstance(error, UnidentifiedImageError) else str(error)


def refuse_turned(image: Image.Image | bytes, where: str) -> None:
    """DataError for an image that asks to be turned for display: colour and depth would not show the same.

    image: an image, or the content of its file.
    """
    if isinstance(image, bytes):
        try:
            with Image.open(BytesIO(image)) as opened:
                orientation = opened.getexif().get(ORIENTATION, 1)
        except Exception:
            return  # the decoder raises the error
    else:
        orientation = image.getexif().get(ORIENTATION, 1)
    if orientation != 1:
        raise DataError(
            f"EXIF orientation {orientation}: the image is to be shown {TURNED.get(orientation, 'otherwise')}",
            where=where,
            hint="turn the pixels and drop the tag (`mogrify -auto-orient`), then check that depth lies the same way",
        )
