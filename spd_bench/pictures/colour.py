"""Numbers as colours: depth, signed error and principal components, and arrays as PNG bytes.

Depth is shown on a logarithmic scale that all pictures of an image share. Signed error is orange where the prediction
is too far and purple where it is too near, a pair that stays apart for people who see red and green alike.
"""

import io
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]

UNKNOWN = (128, 128, 128)
"""Colour of pixels without a known depth."""
DEPTH_MAP, ERROR_MAP = "viridis_r", "PuOr_r"
"""Matplotlib's names of the colour maps."""
LEVELS = 256


def depth_colours(depth_m_hw: NDArray[np.floating], near_m: float, far_m: float) -> Colours:
    """Depth in metres as colours between near and far, on a logarithmic scale; unknown depth is grey: [h, w, 3]."""
    known_hw = np.isfinite(depth_m_hw) & (depth_m_hw > 0)
    log_hw = np.log(np.where(known_hw, depth_m_hw, near_m))
    span = max(np.log(far_m) - np.log(near_m), 1e-6)
    return _coloured((log_hw - np.log(near_m)) / span, known_hw, DEPTH_MAP)


def error_colours(error_hw: NDArray[np.floating], limit: float) -> Colours:
    """Signed relative error (p − g) / g as colours between ±limit; NaN is grey: [..., 3]."""
    known_hw = np.isfinite(error_hw)
    return _coloured(0.5 + np.where(known_hw, error_hw, 0) / (2 * limit), known_hw, ERROR_MAP)


def _coloured(share: NDArray[np.floating], known: NDArray[np.bool_], name: str) -> Colours:
    from matplotlib import colormaps

    table_L3 = (colormaps[name](np.linspace(0, 1, LEVELS))[:, :3] * 255).round().astype(np.uint8)
    chosen = (np.clip(share, 0, 1) * (LEVELS - 1)).round().astype(np.intp)
    found: Colours = np.where(known[..., None], table_L3[chosen], np.array(UNKNOWN, np.uint8))
    return found


def depth_range(maps_m: Iterable[NDArray[np.floating]]) -> tuple[float, float]:
    """Near and far limit in metres that hold the central 96 % of the known depths of all maps."""
    known = np.concatenate([depth_m[np.isfinite(depth_m) & (depth_m > 0)] for depth_m in maps_m])
    if known.size == 0:
        return 0.5, 10.0
    near_m, far_m = np.quantile(known, [0.02, 0.98])
    return float(near_m), float(max(far_m, near_m * 1.01))


def error_limit(errors: Iterable[NDArray[np.floating]]) -> float:
    """A limit for signed relative errors: their 95th percentile of magnitude, rounded up to a multiple of 5 %."""
    finite = np.concatenate([np.abs(error[np.isfinite(error)]) for error in errors])
    if finite.size == 0:
        return 0.05
    steps = np.ceil(round(float(np.quantile(finite, 0.95)) / 0.05, 6))
    return max(0.05, round(float(steps) * 0.05, 2))


def component_colours(map_hwc: NDArray[np.floating]) -> Colours:
    """The first three principal components of a map's cells as red, green and blue: [h, w, 3].

    Each component is scaled to its central 96 % and signed so that its largest loading is positive: a decomposition
    leaves the sign open, and pictures must not change with it.
    """
    height, width, channels = map_hwc.shape
    cells_NC = map_hwc.reshape(-1, channels).astype(np.float64)
    cells_NC = cells_NC - cells_NC.mean(0)
    _, _, directions_CC = np.linalg.svd(cells_NC, full_matrices=False)
    axes_3C = directions_CC[:3]
    axes_3C = axes_3C * np.sign(axes_3C[np.arange(len(axes_3C)), np.abs(axes_3C).argmax(1)])[:, None]
    found_N3 = np.zeros((height * width, 3))
    found_N3[:, : len(axes_3C)] = cells_NC @ axes_3C.T
    low_3, high_3 = np.quantile(found_N3, [0.02, 0.98], axis=0)
    share_N3 = (found_N3 - low_3) / np.maximum(high_3 - low_3, 1e-12)
    found: Colours = (np.clip(share_N3, 0, 1) * 255).round().astype(np.uint8).reshape(height, width, 3)
    return found


def png(colours_hw3: Colours) -> bytes:
    """The bytes of a PNG file: the same for the same colours."""
    from PIL import Image

    buffer = io.BytesIO()
    palette_L3, index = np.unique(colours_hw3.reshape(-1, 3), axis=0, return_inverse=True)
    if len(palette_L3) <= LEVELS:
        image = Image.fromarray(index.reshape(colours_hw3.shape[:2]).astype(np.uint8))
        image.putpalette(palette_L3.tobytes())
    else:
        image = Image.fromarray(np.ascontiguousarray(colours_hw3))
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg(colours_hw3: Colours) -> bytes:
    """The bytes of a JPEG file, for photographs."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours_hw3)).save(buffer, "JPEG", quality=88, optimize=True)
    return buffer.getvalue()
