"""Solids that rooms consist of: boxes, upright cylinders and balls, each with the span of a ray inside it.

`span` serves every kind of ray: for a camera ray its start is the depth, for a ray to a lamp it decides about shadow,
and for the room itself, a hollow box, the end of the span counts.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import cos, sin
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from spd_rooms.camera import Plane, Rays, Vector
from spd_rooms.materials import Material

Triple = tuple[float, float, float]
Span = tuple[Plane, Plane]
"""τ at which each ray enters, and at which it leaves."""

UNIT_CUBE_83 = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)


class Patch(NamedTuple):
    """Points of a solid's surface with one material."""

    chosen_N: NDArray[np.intp]
    """Their indices among the given points."""
    material: Material
    """The material."""
    st_m: tuple[Plane, Plane]
    """Texture coordinates in metres, fixed to the solid."""
    normal: Sequence[float | Plane]
    """Outward unit normal, each component a number or one per point."""


@dataclass(frozen=True)
class Solid(ABC):
    """A convex solid, turned about the vertical only."""

    centre: Triple
    """Its centre in metres."""
    yaw: float = 0.0
    """Its turn in radians."""

    @property
    @abstractmethod
    def half(self) -> Triple:
        """Half extents along its own axes."""

    @abstractmethod
    def span(self, rays: Rays) -> Span:
        """Ray parameters at which each ray enters and leaves; the ray misses where enter ≥ leave."""

    @abstractmethod
    def patches(self, points_3N: NDArray[np.float32]) -> Iterator[Patch]:
        """Splits points on its surface by material."""

    @cached_property
    def centre_3(self) -> Vector:
        """Centre in the world."""
        return np.array(self.centre)

    @cached_property
    def axes_33(self) -> NDArray[np.float64]:
        """Rows: its own x, y, z in the world."""
        c, s = cos(self.yaw), sin(self.yaw)
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    @cached_property
    def corners_83(self) -> NDArray[np.float64]:
        """Corners of its oriented bounding box in the world."""
        out_83: NDArray[np.float64] = (UNIT_CUBE_83 * np.array(self.half)) @ self.axes_33
        return self.centre_3 + out_83

    def moved(self, yaw: float, offset: Triple) -> Self:
        """The solid turned about the world's z axis by `yaw`, then shifted."""
        c, s = cos(yaw), sin(yaw)
        x, y, z = self.centre
        centre = (c * x - s * y + offset[0], s * x + c * y + offset[1], z + offset[2])
        return replace(self, centre=centre, yaw=self.yaw + yaw)

    def local(self, points_3N: NDArray[np.float32]) -> list[Plane]:
        """Coordinates of world points along its own axes, from its centre."""
        x, y, z = (points_3N[i] - float(self.centre[i]) for i in range(3))
        c, s = cos(self.yaw), sin(self.yaw)
        return [c * x + s * y, c * y - s * x, z]

    def offset(self, rays: Rays) -> list[float]:
        """Its centre along its own axes, from the rays' origin."""
        return [float(part) for part in self.axes_33 @ (self.centre_3 - rays.origin_3)]


@dataclass(frozen=True, kw_only=True)
class Box(Solid):
    """An oriented box."""

    size: Triple
    """Extents along its own axes."""
    faces: tuple[Material, Material, Material, Material, Material, Material]
    """Materials of −x, +x, −y, +y, −z, +z."""
    hollow: bool = False
    """Whether it is seen from inside, as the room itself; normals then point inwards."""

    @property
    def half(self) -> Triple:
        """Half of its size."""
        return self.size[0] / 2, self.size[1] / 2, self.size[2] / 2

    def span(self, rays: Rays) -> Span:
        """Intersection of the spans between three pairs of parallel planes."""
        slabs = zip(self.axes_33, self.offset(rays), self.half, strict=True)
        return _meet(*(_slab(rays.along(axis_3), middle, half) for axis_3, middle, half in slabs))

    def patches(self, points_3N: NDArray[np.float32]) -> Iterator[Patch]:
        """One patch per face seen; a point belongs to the face that it is nearest to."""
        own = self.local(points_3N)
        outside = [np.abs(p) - h for p, h in zip(own, self.half, strict=True)]
        is_z = (outside[2] >= outside[0]) & (outside[2] >= outside[1])
        is_x = ~is_z & (outside[0] >= outside[1])
        for axis, mine, (s, t) in ((0, is_x, (1, 2)), (1, ~(is_z | is_x), (0, 2)), (2, is_z, (0, 1))):
            for positive in (False, True):
                chosen_N = np.flatnonzero(mine & (own[axis] > 0 if positive else own[axis] <= 0))
                if len(chosen_N):
                    outward = 1.0 if positive != self.hollow else -1.0
                    normal = [float(part) for part in outward * self.axes_33[axis]]
                    yield Patch(chosen_N, self.faces[2 * axis + positive], (own[s][chosen_N], own[t][chosen_N]), normal)


@dataclass(frozen=True, kw_only=True)
class Cylinder(Solid):
    """An upright cylinder."""

    radius: float
    """In metres."""
    height: float
    """In metres."""
    material: Material
    """Of the whole surface."""

    @property
    def half(self) -> Triple:
        """Half extents of its bounding box."""
        return self.radius, self.radius, self.height / 2

    def span(self, rays: Rays) -> Span:
        """Span inside the infinite cylinder, cut by the planes of its two ends."""
        dx, dy, dz = (rays.along(axis_3) for axis_3 in self.axes_33)
        x, y, z = self.offset(rays)
        tube = _roots(dx * dx + dy * dy, dx * x + dy * y, x * x + y * y - self.radius**2)
        return _meet(tube, _slab(dz, z, self.height / 2))

    def patches(self, points_3N: NDArray[np.float32]) -> Iterator[Patch]:
        """The side, and the two ends."""
        x, y, z = self.local(points_3N)
        radial = np.hypot(x, y)
        end = np.abs(z) - self.height / 2 >= radial - self.radius
        side_N = np.flatnonzero(~end)
        if len(side_N):
            nx, ny = x[side_N] / radial[side_N], y[side_N] / radial[side_N]
            c, s = cos(self.yaw), sin(self.yaw)
            around_m = np.arctan2(ny, nx) * np.float32(self.radius)
            yield Patch(side_N, self.material, (around_m, z[side_N]), [c * nx - s * ny, s * nx + c * ny, 0.0])
        for up in (-1.0, 1.0):
            end_N = np.flatnonzero(end & (z * up > 0))
            if len(end_N):
                yield Patch(end_N, self.material, (x[end_N], y[end_N]), [0.0, 0.0, up])


@dataclass(frozen=True, kw_only=True)
class Ball(Solid):
    """A ball."""

    radius: float
    """In metres."""
    material: Material
    """Of the whole surface."""

    @property
    def half(self) -> Triple:
        """Half extents of its bounding box."""
        return self.radius, self.radius, self.radius

    def span(self, rays: Rays) -> Span:
        """Between the roots of |τ d − c|² = r²."""
        dx, dy, dz = (rays.along(axis_3) for axis_3 in self.axes_33)
        x, y, z = self.offset(rays)
        return _roots(dx * dx + dy * dy + dz * dz, dx * x + dy * y + dz * z, x * x + y * y + z * z - self.radius**2)

    def patches(self, points_3N: NDArray[np.float32]) -> Iterator[Patch]:
        """The whole surface, with longitude and height as texture coordinates."""
        x, y, z = self.local(points_3N)
        c, s = cos(self.yaw) / self.radius, sin(self.yaw) / self.radius
        around_m = np.arctan2(y, x) * np.float32(self.radius)
        normal = [c * x - s * y, s * x + c * y, z / np.float32(self.radius)]
        yield Patch(np.arange(points_3N.shape[1]), self.material, (around_m, z), normal)


def _slab(along: Plane, middle: float, half: float) -> Span:
    """Span between two parallel planes, `middle` ± `half` away from the rays' origin."""
    slowness = 1 / along
    one, other = (middle - half) * slowness, (middle + half) * slowness
    return np.minimum(one, other), np.maximum(one, other)


def _meet(first: Span, *others: Span) -> Span:
    """The intersection of several spans."""
    enter, leave = first
    for low, high in others:
        enter, leave = np.maximum(enter, low), np.minimum(leave, high)
    return enter, leave


def _roots(square: Plane, half_linear: Plane, constant: float) -> Span:
    """Where square·τ² − 2·half_linear·τ + constant is below zero; an empty span where it nowhere is."""
    below = half_linear * half_linear - square * constant
    miss = below < 0
    reach = np.sqrt(np.where(miss, 0, below))
    enter = np.where(miss, np.float32(np.inf), (half_linear - reach) / square)
    return enter, (half_linear + reach) / square
