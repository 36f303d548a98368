"""Points in pixels of the image as given → points of the unit square (R-03)."""

from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.errors import ConfigError


def checked_points(points: npt.ArrayLike, *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Points (u, v) as float64 [N, 2]; a pixel's centre has whole numbers, so u lies within −0.5 … width − 0.5.

    Raises ConfigError for another shape, a number that is not finite, and a point outside the image.
    """
    try:
        uv_N2: npt.NDArray[Any] = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected points as numbers of shape [N, 2], found {error}") from error
    if uv_N2.size == 0:
        return np.empty((0, 2))
    if uv_N2.ndim != 2 or uv_N2.shape[1] != 2:
        raise ConfigError(f"expected points of shape [N, 2], found {uv_N2.shape}", hint="[(u, v), ...], u to the right")
    inside_N = ((uv_N2 >= -0.5) & (uv_N2 <= [width - 0.5, height - 0.5])).all(axis=1)  # False for NaN
    if not inside_N.all():
        first = int(np.argmin(inside_N))
        u, v = uv_N2[first]
        raise ConfigError(
            f"{int((~inside_N).sum())} of {len(uv_N2)} points lie outside the image, the first is ({u:g}, {v:g})",
            where=f"point {first + 1}",
            hint=f"the image has {width}×{height} pixels: u from 0 to {width - 1}, v from 0 to {height - 1}",
        )
    return uv_N2


def pixel_grid(*, width: int, height: int) -> npt.NDArray[np.float64]:
    """Every pixel (u, v), row by row: float64 [H·W, 2]."""
    v_HW, u_HW = np.mgrid[:height, :width]
    return np.stack([u_HW.ravel(), v_HW.ravel()], axis=-1).astype(np.float64)
