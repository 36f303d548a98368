"""Reading one RGB-D frame from files, and refusing what is not one.

Depth leaves this file as float32 metres with 0 where it is unknown, whatever the file held: millimetres,
a scaled 16-bit PNG, a float TIFF or an array, with holes marked by sentinels, negative numbers or NaN.

Letters: H W rows and columns of the frame, 3 red, green, blue.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd_bench.api import Frame
from spd_bench.data.reading.archives import Span
from spd_bench.data.reading.depth_files import read_values
from spd_bench.data.reading.images import read_rgb
from spd_bench.errors import DataError

MEDIAN_RANGE_M = (0.3, 20.0)
FARTHEST_M = 100.0
SCALE_HINT = (
    "say --option depth_scale=N (in a suite depth_scale), the number of file units in one metre: 1000 for millimetres, "
    "1 for metres, 5000 for TUM, 256 for depth × 256"
)
UNITS = {
    1: "metres",
    100: "centimetres",
    256: "KITTI's",
    1000: "millimetres",
    4000: "quarters of a millimetre",
    5000: "TUM's",
    6553.5: "Replica's",
}
"""File units in one metre that are in use."""
ROOM_M = (0.8, 6.0)
"""Where the median depth of a room usually lies."""
Resize = Literal["none", "color", "depth"]


def file_bytes(path: Path) -> int:
    """Size of a frame's file. Raises DataError where it is missing, as behind a link to nothing, or out of reach."""
    try:
        return path.stat().st_size
    except OSError as error:
        hint = "bring the file back, or remove the name or link that stands for it"
        raise DataError(f"cannot be looked at ({error.strerror})", where=str(path), hint=hint) from error


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


def read_frame(
    color: Path,
    depth: Path,
    *,
    scale: float,
    invalid: Sequence[float],
    hint: str | None = None,
    resize: Resize = "none",
) -> Frame:
    """Colour and depth of one frame, of one size and in a plausible unit (`check_indoor_depth`).

    resize: which of the two is brought to the other's size, where they are registered but for that: colour by area,
    depth by its nearest pixel.

    Raises:
        DataError: as `read_rgb`, `read_depth_m` and `check_indoor_depth`, or the sizes differ.
    """
    image_HW3 = read_rgb(color)
    raw_HW = read_values(depth)
    depth_m_HW = metres(raw_HW, scale=scale, invalid=invalid)
    frame = sized(image_HW3, depth_m_HW, resize, color=str(color), depth=str(depth))
    try:
        check_indoor_depth(frame.depth_m_HW, str(depth), hint=hint or SCALE_HINT)
    except DataError as error:
        error.hint = hint or mend_for(raw_HW, invalid)
        raise
    return frame


def sized(
    image_HW3: npt.NDArray[np.uint8],
    depth_m_HW: npt.NDArray[np.float32],
    resize: Resize,
    *,
    color: str,
    depth: str,
) -> Frame:
    """The frame, with colour or depth brought to the other's size; DataError where they differ and resize is "none"."""
    if image_HW3.shape[:2] == depth_m_HW.shape:
        return Frame(image_HW3, depth_m_HW)
    rows, columns = image_HW3.shape[:2]
    height, width = depth_m_HW.shape
    if resize == "none":
        raise DataError(
            f"expected {rows} rows × {columns} columns like its colour image {color}, found {height} × {width}",
            where=depth,
            hint="depth must be registered to the colour image, pixel by pixel; if both show the same view and "
            "differ in size alone, say --option resize=color (or resize=depth), which brings it to the other's size",
        )
    if abs(rows * width - columns * height) > max(rows, columns, height, width):
        raise DataError(
            f"expected one aspect ratio, found colour {rows}×{columns} and depth {height}×{width}",
            where=depth,
            hint="they do not show the same view: crop or register them before use",
        )
    if resize == "color":
        resized = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BOX)
        return Frame(np.array(resized), depth_m_HW)
    y = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    x = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    return Frame(image_HW3, depth_m_HW[y[:, None], x])


def mend_for(raw_HW: npt.NDArray[Any], invalid: Sequence[float]) -> str:
    """What would make these file values a room: a unit in use, or a value that means unknown."""
    known_N = raw_HW[(raw_HW > 0) & np.isfinite(raw_HW) & ~np.isin(raw_HW, np.asarray(invalid, raw_HW.dtype))]
    if not known_N.size:
        return "remove the frame, or check which file values mean unknown: say --option invalid=[…]"
    known_HW = np.where(np.isin(raw_HW, np.asarray(invalid, raw_HW.dtype)), 0, raw_HW)
    if raw_HW.dtype == np.uint16 and len(np.unique(known_N)) > 50 and smoother_swapped(known_HW[::32]):
        return "the two bytes of each value are exchanged: write the depth again in the byte order of its format"
    largest = known_N.max()
    share = float(np.mean(known_N == largest))
    if share > 0.01 and known_N.size * (1 - share) > 1:
        rest = float(np.median(known_N[known_N != largest]))
        if rest < float(largest) / 2:
            values = ", ".join(f"{value:g}" for value in [*invalid, float(largest)])
            return (
                f"the value {largest:g} stands at {share:.0%} of the pixels: if it means unknown, say "
                f"--option 'invalid=[{values}]'"
            )
    median = float(np.median(known_N))
    fitting = {unit: median / unit for unit in UNITS if ROOM_M[0] <= median / unit <= ROOM_M[1]}
    if not fitting:
        return SCALE_HINT
    named = " or ".join(
        f"--option depth_scale={unit:g} ({UNITS[unit]}, median {at_m:.2f} m)" for unit, at_m in fitting.items()
    )
    return f"say the number of file units in one metre: {named}"


def smoother_swapped(values_RW: npt.NDArray[np.uint16]) -> bool:
    """Whether neighbours in these rows are alike only after the two bytes of each value are exchanged."""
    both = (values_RW[:, 1:] > 0) & (values_RW[:, :-1] > 0)
    if not both.any():
        return False
    steps = [np.abs(np.diff(each.astype(np.int64), axis=1))[both].mean() for each in (values_RW, values_RW.byteswap())]
    return bool(steps[0] > 8 * (steps[1] + 1))


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
