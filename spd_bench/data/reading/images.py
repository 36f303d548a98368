"""Reading one RGB-D frame from files, and refusing what is not one.

Depth leaves this file as float32 metres with 0 where it is unknown, whatever the file held: millimetres,
a scaled 16-bit PNG, a float TIFF or an array, with holes marked by sentinels, negative numbers or NaN.

Letters: H W rows and columns of the frame, 3 red, green, blue.
"""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd_bench.api import Frame
from spd_bench.data.reading.archives import Span
from spd_bench.errors import DataError

RGB_MODES = ("RGB", "RGBA", "P")
DEPTH_MODES = ("I;16", "I;16B", "I;16L", "I", "F")
MEDIAN_RANGE_M = (0.3, 20.0)
FARTHEST_M = 100.0
LARGEST_SIDE = 8192
"""Rows or columns of an image; a file of a few kilobytes may claim any number."""
SCALE_HINT = (
    "set depth_scale, the number of file units in one metre: 1000 for millimetres, 1 for metres, 5000 for TUM, "
    "256 for depth × 256"
)


def read_rgb(path: Path | Span) -> npt.NDArray[np.uint8]:
    """A colour image as uint8 [H, W, 3]; an alpha channel is dropped.

    Raises:
        DataError: the file is missing, damaged, or no colour image.
    """
    image = open_image(path)
    if image.mode not in RGB_MODES:
        raise DataError(
            f"expected a colour image, found PIL mode {image.mode}",
            where=str(path),
            hint="check which of the two patterns is colour and which is depth",
        )
    return np.array(image.convert("RGB"))


def read_depth_m(path: Path | Span, *, scale: float, invalid: Sequence[float]) -> npt.NDArray[np.float32]:
    """A depth image as float32 metres [H, W], 0 where unknown.

    `scale` is the number of file units in one metre. Unknown are the file values in `invalid`, and whatever is
    not a positive finite number. Accepted: 16-bit and 32-bit greyscale PNG or TIFF, float TIFF, `.npy`.

    Raises:
        DataError: the file is missing, damaged, or has too few bits to hold metric depth.
    """
    raw_HW = _read_array(path) if isinstance(path, Path) and path.suffix == ".npy" else _read_grey(path)
    unknown_HW = ~(raw_HW > 0) | ~np.isfinite(raw_HW)
    for value in invalid:
        unknown_HW |= raw_HW == value
    depth_m_HW = raw_HW.astype(np.float32) / np.float32(scale)
    depth_m_HW[unknown_HW] = 0
    return depth_m_HW


def read_frame(color: Path, depth: Path, *, scale: float, invalid: Sequence[float], hint: str = SCALE_HINT) -> Frame:
    """Colour and depth of one frame, of one size and in a plausible unit (`check_indoor_depth`).

    Raises:
        DataError: as `read_rgb`, `read_depth_m` and `check_indoor_depth`, or the sizes differ.
    """
    image_HW3 = read_rgb(color)
    depth_m_HW = read_depth_m(depth, scale=scale, invalid=invalid)
    if image_HW3.shape[:2] != depth_m_HW.shape:
        rows, columns = image_HW3.shape[:2]
        raise DataError(
            f"expected {rows} rows × {columns} columns like its colour image {color}, "
            f"found {depth_m_HW.shape[0]} × {depth_m_HW.shape[1]}",
            where=str(depth),
            hint="depth must be registered to the colour image, pixel by pixel; register it before use",
        )
    check_indoor_depth(depth_m_HW, str(depth), hint=hint)
    return Frame(image_HW3, depth_m_HW)


def check_indoor_depth(depth_m_HW: npt.NDArray[np.float32], where: str, *, hint: str = SCALE_HINT) -> None:
    """The unit gate: the median of the known pixels must lie in 0.3..20 m and none beyond 100 m.

    Raises:
        DataError: the gate fails (most likely a wrong unit), or no pixel is known.
    """
    known_m_N = depth_m_HW[depth_m_HW > 0]
    if known_m_N.size == 0:
        raise DataError(
            "no pixel has a known depth",
            where=where,
            hint="remove the frame from the data set, or check which file values mean unknown",
        )
    low_m, high_m = MEDIAN_RANGE_M
    half = known_m_N.size / 2
    # Counting replaces the median here: it decides the same at a fiftieth of the time.
    too_near, too_far = np.count_nonzero(known_m_N < low_m) > half, np.count_nonzero(known_m_N > high_m) > half
    if too_near or too_far or known_m_N.max() > FARTHEST_M:
        raise DataError(
            f"expected indoor depth in metres (median {low_m:g} to {high_m:g}, at most {FARTHEST_M:g}), found a "
            f"median of {np.median(known_m_N):.4g} and a maximum of {known_m_N.max():.4g}: the unit is probably wrong",
            where=where,
            hint=hint,
        )


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
            f"expected an image, found a damaged or foreign file ({error})",
            where=where,
            hint="copy or download the file again",
        ) from error


def _read_grey(path: Path | Span) -> npt.NDArray[Any]:
    image = open_image(path)
    if image.mode not in DEPTH_MODES:
        raise DataError(
            f"expected depth with 16 bits or more, found PIL mode {image.mode} (8 bits per channel)",
            where=str(path),
            hint="8-bit depth is scaled and rounded for display or for DenseDepth's training set (255 = 10 m, steps "
            "of 4 cm) and cannot be scored as metric depth; use the original 16-bit files",
        )
    return np.asarray(image)


def _read_array(path: Path) -> npt.NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim more than the file has
    except FileNotFoundError:
        raise DataError("expected an array, found no such file", where=str(path), hint="check the path") from None
    except Exception as error:  # damaged headers raise OSError, ValueError, EOFError, tokenize.TokenError, ...
        raise DataError(
            f"expected a NumPy array without pickled objects, found a damaged or foreign file ({error})",
            where=str(path),
            hint="save it again with numpy.save",
        ) from error
    if array.ndim != 2 or array.dtype.kind not in "iuf" or array.dtype.itemsize < 2 or array.dtype == np.float16:
        raise DataError(
            f"expected depth of shape (H, W) in float32, float64 or integers of 16 bits or more, "
            f"found {array.dtype} of shape {array.shape}",
            where=str(path),
            hint="float16 and 8-bit depth have lost precision (4 mm to 4 cm); save the original values",
        )
    return np.array(array)
