"""Visibility: the nearest solid and its depth at every pixel, and the pixels that a light does not reach."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd_rooms.camera import NEAR_M, CameraView, Plane, Vector, Window
from spd_rooms.layout import Room
from spd_rooms.solids import Solid

SHELL = -1
"""Value of `Hits.solid_HW` where the room's walls, floor or ceiling are visible."""

CONTACT = 1e-3
"""A solid shades a surface if it blocks the ray at least this share of the way before the surface, so that no surface
shades itself."""


class Hits(NamedTuple):
    """The visible surface at every pixel."""

    depth_m_HW: Plane
    """Metric z-depth."""
    solid_HW: NDArray[np.int16]
    """Index of the visible solid, or SHELL."""


def cast(room: Room, view: CameraView) -> Hits:
    """The nearest surface along every pixel's ray."""
    with np.errstate(divide="ignore", invalid="ignore"):
        depth_m_HW = room.shell.span(view.rays(view.whole))[1]
        solid_HW = np.full(depth_m_HW.shape, SHELL, np.int16)
        for index, solid in enumerate(room.solids):
            window = view.window(solid.corners_83)
            if window is None:
                continue
            enter, leave = solid.span(view.rays(window))
            nearest = depth_m_HW[window]
            hit = (enter < leave) & (enter < nearest) & (enter > NEAR_M)
            np.copyto(nearest, enter, where=hit)
            solid_HW[window][hit] = index
    return Hits(depth_m_HW, solid_HW)


def shadows(solids: Sequence[Solid], light_3: Vector, view: CameraView, depth_m_HW: Plane) -> NDArray[np.bool_]:
    """Mask of pixels whose surface a solid hides from a light. Parts of solids above the light cast no shadow."""
    dark_HW = np.zeros(depth_m_HW.shape, np.bool_)
    with np.errstate(divide="ignore", invalid="ignore"):
        for solid in solids:
            window = _shadow_window(solid, light_3, view)
            if window is None:
                continue
            enter, leave = solid.span(view.rays_from(light_3, depth_m_HW, window))
            dark_HW[window] |= (enter < leave) & (enter > 0) & (enter < 1 - CONTACT)
    return dark_HW


def _shadow_window(solid: Solid, light_3: Vector, view: CameraView) -> Window | None:
    """Window that contains a solid's shadow: the hull of the solid and of its shadow on the floor."""
    drop_8 = light_3[2] - solid.corners_83[:, 2]
    if (drop_8 <= 0).any():
        return None
    floor_83 = light_3 + (solid.corners_83 - light_3) * (light_3[2] / drop_8)[:, None]
    return view.window(np.concatenate([solid.corners_83, floor_83]))
