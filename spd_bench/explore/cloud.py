"""A picture's depths as points in space."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_POINTS = 4000
"""Browsers without a graphics card turn this number smoothly."""
FIELD_OF_VIEW_DEG = 60.0
"""Assumed across the width of every image: none says what its camera had."""


def spread(*, width: int, height: int, most: int = MOST_POINTS) -> npt.NDArray[np.float64]:
    """At most `most` pixels (u, v), evenly spread over the image in rows and columns: [N, 2]."""
    step = max(1.0, math.sqrt(width * height / most))
    rows = max(1, int(height / step))
    columns = max(1, min(int(width / step), most // rows))
    rows = min(rows, most // columns)  # an image one pixel wide
    u_C = (np.arange(columns) + 0.5) * width / columns - 0.5
    v_R = (np.arange(rows) + 0.5) * height / rows - 0.5
    v_RC, u_RC = np.meshgrid(v_R, u_C, indexing="ij")
    return np.stack([u_RC.ravel(), v_RC.ravel()], axis=-1)


def in_space(
    uv_N2: npt.NDArray[np.float64], depth_m_N: npt.NDArray[np.float32], *, width: int, height: int
) -> npt.NDArray[np.float64]:
    """Points (x right, y away from the camera, z up) in metres: [N, 3], by a pinhole camera at the origin.

    Depth is along the optical axis, through the image's middle, (width − 1)/2 and (height − 1)/2; pixels are square.
    """
    focal_px = width / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)
    right_N = (uv_N2[:, 0] - (width - 1) / 2) / focal_px * depth_m_N
    down_N = (uv_N2[:, 1] - (height - 1) / 2) / focal_px * depth_m_N
    return np.stack([right_N, depth_m_N.astype(np.float64), -down_N], axis=-1)


def colours(image_HW3: npt.NDArray[np.uint8], uv_N2: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear colour in [0, 1] of the pixel that holds each point, which three.js turns into the image's own: [N, 3]."""
    height, width, _ = image_HW3.shape
    column_N, row_N = np.floor(uv_N2 + 0.5).astype(int).clip(0, [width - 1, height - 1]).T
    coded_N3 = image_HW3[row_N, column_N] / 255.0
    linear_N3: npt.NDArray[np.float64] = np.where(
        coded_N3 <= 0.04045, coded_N3 / 12.92, ((coded_N3 + 0.055) / 1.055) ** 2.4
    )  # sRGB, IEC 61966-2-1
    return linear_N3


def orbit(middle: npt.NDArray[np.float64], *, turn_deg: float, distance_m: float) -> tuple[float, float, float]:
    """Where a camera stands that was turned around the cloud's middle; at 0° it looks as the picture's did."""
    angle = math.radians(turn_deg)
    away = np.array([math.sin(angle), -math.cos(angle), 0.25]) * distance_m
    x, y, z = (middle + away).tolist()
    return x, y, z


@dataclass(frozen=True)
class Cloud:
    """Points in space with the colours of their pixels."""

    xyz_N3: npt.NDArray[np.float64]
    """Points (x right, y away from the camera, z up) in metres."""
    colour_N3: npt.NDArray[np.float64]
    """Colours in [0, 1]."""

    @property
    def middle(self) -> npt.NDArray[np.float64]:
        """What a camera looks at: the median in every direction."""
        middle_3: npt.NDArray[np.float64] = np.median(self.xyz_N3, axis=0)
        return middle_3

    @property
    def distance_m(self) -> float:
        """How far from the middle a camera stands: as far as the picture's did."""
        return max(float(self.middle[1]), 0.1)

    @property
    def size_m(self) -> float:
        """Side of a point, so that neighbours at the middle's depth just touch."""
        return 2 * self.distance_m * math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2) / math.sqrt(len(self.xyz_N3))
