"""The pinhole camera: NYU intrinsics at any size, a pose, and the ray through every pixel.

A pixel's ray is scaled so that its camera z is 1. The ray parameter at a hit is then the metric z-depth, as depth
cameras and NYU report it, and not the length of the ray.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, sin
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
"""A world vector [3]."""
Plane: TypeAlias = NDArray[np.floating[Any]]
"""A number per pixel of a window, or per point; float32 wherever there are many."""
Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of a rectangle of the image."""

NEAR_M = 0.05
"""Near plane in metres: anything closer to the camera plane is invisible."""


@dataclass(frozen=True)
class Intrinsics:
    """Focal lengths and principal point in pixels; an integer coordinate is the centre of a pixel."""

    fx: float
    """Focal length along x."""
    fy: float
    """Focal length along y."""
    cx: float
    """Column of the principal point."""
    cy: float
    """Row of the principal point."""

    def resized(self, *, down: float, across: float) -> "Intrinsics":
        """The same lens on `down` times the rows and `across` times the columns: cx' = (cx + ½) s − ½."""
        return Intrinsics(
            fx=self.fx * across,
            fy=self.fy * down,
            cx=(self.cx + 0.5) * across - 0.5,
            cy=(self.cy + 0.5) * down - 0.5,
        )


NYU_HEIGHT, NYU_WIDTH = 480, 640
NYU_INTRINSICS = Intrinsics(fx=518.85790, fy=519.46961, cx=325.58245, cy=253.73617)


@dataclass(frozen=True)
class Rays:
    """One ray per pixel of a window: origin + τ · direction; `Solid.span` returns values of τ."""

    origin_3: Vector
    """The common origin."""
    along: Callable[[Vector], Plane]
    """World vector v → direction · v of every ray, which is all that an intersection needs."""


@dataclass(frozen=True)
class CameraView:
    """A posed camera."""

    position_3: Vector
    """Its position in the world."""
    axes_33: NDArray[np.float64]
    """Rows: camera right, down and forward in the world."""
    x_W: Plane
    """x of each column's rays at z = 1."""
    y_H: Plane
    """y of each row's rays at z = 1."""
    pixel_rad: float
    """Angle that one pixel spans, in radians (small angles): 1 / fx."""

    @classmethod
    def posed(
        cls, position: tuple[float, float, float], *, yaw: float, pitch: float, roll: float, height: int, width: int
    ) -> "CameraView":
        """A view of `height` × `width` pixels. At yaw 0 it looks along +y; positive pitch looks up."""
        lens = NYU_INTRINSICS.resized(down=height / NYU_HEIGHT, across=width / NYU_WIDTH)
        ahead = np.array([-sin(yaw), cos(yaw), 0.0])
        right = np.array([cos(yaw), sin(yaw), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        forward = cos(pitch) * ahead + sin(pitch) * up
        down = sin(pitch) * ahead - cos(pitch) * up
        return cls(
            position_3=np.array(position),
            axes_33=np.stack([cos(roll) * right + sin(roll) * down, cos(roll) * down - sin(roll) * right, forward]),
            x_W=((np.arange(width) - lens.cx) / lens.fx).astype(np.float32),
            y_H=((np.arange(height) - lens.cy) / lens.fy).astype(np.float32),
            pixel_rad=1 / lens.fx,
        )

    @property
    def whole(self) -> Window:
        """The window that is the whole image."""
        return slice(0, len(self.y_H)), slice(0, len(self.x_W))

    def along(self, vector_3: Vector, window: Window) -> Plane:
        """Component of each ray's direction along a world vector: linear in the column and in the row."""
        right, down, forward = (float(part) for part in self.axes_33 @ vector_3)
        rows, columns = window
        return right * self.x_W[columns] + (down * self.y_H[rows] + forward)[:, None]

    def rays(self, window: Window) -> Rays:
        """Rays from the camera; τ is z-depth in metres."""
        return Rays(self.position_3, lambda vector_3: self.along(vector_3, window))

    def rays_from(self, origin_3: Vector, depth_m_HW: Plane, window: Window) -> Rays:
        """Rays from `origin_3` to what each pixel sees; τ = 1 is the seen point."""
        offset_3 = self.position_3 - origin_3
        depth_m = depth_m_HW[window]
        return Rays(origin_3, lambda v_3: depth_m * self.along(v_3, window) + float(offset_3 @ v_3))

    def points(self, depth_m_HW: Plane) -> NDArray[np.float32]:
        """World points seen by the pixels: [3, H, W]."""
        rays = [self.along(axis_3, self.whole) for axis_3 in np.eye(3)]
        return np.stack([ray * depth_m_HW + float(at) for ray, at in zip(rays, self.position_3, strict=True)])

    def window(self, corners_N3: NDArray[np.float64]) -> Window | None:
        """Smallest rectangle of the image that contains the convex hull of world points; None if it is not visible."""
        camera_N3 = (corners_N3 - self.position_3) @ self.axes_33.T
        front_N3 = _in_front(camera_N3)
        if not len(front_N3):
            return None
        rows = _cover(self.y_H, front_N3[:, 1] / front_N3[:, 2])
        columns = _cover(self.x_W, front_N3[:, 0] / front_N3[:, 2])
        return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _in_front(camera_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points whose hull is the part of the given hull beyond the near plane."""
    front = camera_N3[:, 2] >= NEAR_M
    if front.all() or not front.any():
        return camera_N3[front]
    near_N3, far_N3 = camera_N3[~front], camera_N3[front]
    # Every edge that crosses the near plane joins a point of one set to a point of the other.
    step = (NEAR_M - near_N3[:, None, 2]) / (far_N3[None, :, 2] - near_N3[:, None, 2])
    crossing = near_N3[:, None] + step[..., None] * (far_N3[None] - near_N3[:, None])
    return np.concatenate([far_N3, crossing.reshape(-1, 3)])


def _cover(pixels: Plane, values: NDArray[np.float64]) -> slice:
    """Indices of the ascending `pixels` within [min, max] of `values`, one more on either side."""
    first = int(np.searchsorted(pixels, values.min())) - 1
    last = int(np.searchsorted(pixels, values.max())) + 1
    return slice(max(first, 0), min(last, len(pixels)))
