"""Reading one RGB-D frame from files, and refusing what is not one.

Depth leaves this file as float32 metres with 0 where it is unknown, whatever the file held: millimetres,
a scaled 16-bit PNG, a float TIFF or an array, with holes marked by sentinels, negative numbers or NaN.

Letters: H W rows and columns of the frame, 3 red, green, blue.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.api import Frame
from spd_bench.data.reading.archives import Span
from spd_bench.data.reading.depth_files import read_values
from spd_bench.data.reading.images import read_rgb
from spd_bench.errors import DataError

MEDIAN_RANGE_M = (0.3, 20.0)
FARTHEST_M = 100.0
SCALE_HINT = (
    "set depth_scale, the number of file units in one metre: 1000 for millimetres, 1 for metres, 5000 for TUM, "
    "256 for depth × 256"
)


def read_depth_m(path: Path | Span, *, scale: float, invalid: Sequence[float]) -> npt.NDArray[np.float32]:
    """A depth image as float32 metres [H, W], 0 where unknown.

    `scale` is the number of file units in one metre. Unknown are the file values in `invalid`, and whatever is
    not a positive finite number. `depth_files` says which files are read.

    Raises:
        DataError: the file is missing, damaged, or has too few bits to hold metric depth.
    """
    return metres(read_values(path), scale=scale, invalid=invalid)


def metres(raw_HW: npt.NDArray[Any], *, scale: float, invalid: Sequence[float]) -> npt.NDArray[np.float32]:
    """File values as float32 metres, 0 where unknown; `scale` and `invalid` as for `read_depth_m`."""
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
