"""The sensors: a colour camera with its own exposure and tint, and a structured-light depth camera with its holes."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spd_rooms.camera import NYU_WIDTH, Plane
from spd_rooms.shading import Shaded
from spd_rooms.textures import NOISE_SIZE, noise_table

BASELINE_M = 0.075
"""Distance of projector and camera. Surfaces that the projector does not reach have no depth: a band beside every
silhouette."""
NOISE_PER_M = 1.5e-3
"""Standard deviation of depth noise divided by depth², in 1/m."""
RANGE_M = 10.0
"""Largest depth that the camera reports."""
PATCH_SLOPE = 1.5
"""Slope of the noise that shapes lost patches: between specks and large spots."""
FAR_LOSS_PER_M = 0.15
"""Increase with distance of the chance that a patch is lost, in standard deviations of that noise."""


def photograph(radiance_3HW: NDArray[np.float32], rng: Generator) -> NDArray[np.uint8]:
    """8-bit picture [H, W, 3]: random exposure and white balance, gamma 2, noise."""
    gain_3 = rng.uniform(0.88, 1.14, 3) * rng.uniform(0.16, 0.42) / max(float(radiance_3HW.mean()), 1e-6)
    exposed_3HW = np.sqrt(radiance_3HW * gain_3.astype(np.float32)[:, None, None])
    noise_3HW = rng.standard_normal(exposed_3HW.shape, dtype=np.float32) * np.float32(rng.uniform(0.006, 0.016))
    levels_3HW = np.clip((exposed_3HW + noise_3HW) * 255 + 0.5, 0, 255)
    return np.ascontiguousarray(levels_3HW.astype(np.uint8).transpose(1, 2, 0))


def measure(depth_m_HW: Plane, rng: Generator, *, noise: bool) -> Plane:
    """Depth with the camera's noise, which grows with the square of the distance."""
    if not noise:
        return depth_m_HW
    jitter_HW = rng.standard_normal(depth_m_HW.shape, dtype=np.float32)
    return depth_m_HW * (1 + np.float32(NOISE_PER_M) * depth_m_HW * jitter_HW)


def answered(depth_m_HW: Plane, shaded: Shaded, focal_px: float, rng: Generator) -> NDArray[np.bool_]:
    """Mask of pixels where a structured-light camera measures depth: all except the following holes.

    Panes and screens, the projector's shadow beside silhouettes, surfaces seen at a grazing angle, random
    patches, anything farther than RANGE_M, and a band along the border.
    """
    patchy_HW = _patchiness(depth_m_HW.shape, rng)
    grazing_HW = shaded.cosine_HW < 0.06 + 0.025 * depth_m_HW + 0.03 * patchy_HW
    unlikely_HW = _patchiness(depth_m_HW.shape, rng) + FAR_LOSS_PER_M * depth_m_HW
    lost_HW = unlikely_HW > np.quantile(unlikely_HW[::4, ::4], 1 - rng.uniform(0.02, 0.12))
    far_HW = depth_m_HW >= RANGE_M
    hole_HW: NDArray[np.bool_] = grazing_HW | lost_HW | far_HW | projector_shadow(depth_m_HW, focal_px)
    return shaded.answers_HW & _inside_border(depth_m_HW.shape, rng) & ~hole_HW


def projector_shadow(depth_m_HW: Plane, focal_px: float) -> NDArray[np.bool_]:
    """Mask of pixels that the camera sees and the projector, BASELINE_M to its left, does not.

    The projector sees pixel u at u + f·b / z. A pixel is shaded if one further left in the image has a larger value: a
    band to the right of every near silhouette, f·b·(1/z_near − 1/z_far) wide.
    """
    column_W = np.arange(depth_m_HW.shape[1], dtype=np.float32)
    seen_at_HW = column_W + np.float32(focal_px * BASELINE_M) / depth_m_HW
    hidden_HW: NDArray[np.bool_] = seen_at_HW < np.maximum.accumulate(seen_at_HW, axis=1) - 0.5
    return hidden_HW


def _patchiness(shape: tuple[int, ...], rng: Generator) -> Plane:
    """A random cut-out of noise of deviation 1; its patches cover the same part of a frame of any size."""
    start = rng.integers(NOISE_SIZE, size=2)
    step = NYU_WIDTH / shape[1]
    rows, columns = ((np.arange(n) * step + at).astype(int) % NOISE_SIZE for n, at in zip(shape, start, strict=True))
    noise_HW: Plane = noise_table(PATCH_SLOPE)[rows[:, None], columns]
    return noise_HW


def _inside_border(shape: tuple[int, ...], rng: Generator) -> NDArray[np.bool_]:
    """Mask without a band of random width on each side, 6 to 16 pixels of a 640-pixel row."""
    top, bottom, left, right = (round(float(width) * shape[1] / NYU_WIDTH) for width in rng.uniform(6, 16, 4))
    inside_HW = np.zeros(shape, np.bool_)
    inside_HW[top : shape[0] - bottom, left : shape[1] - right] = True
    return inside_HW
