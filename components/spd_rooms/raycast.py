"""Visibility: which solid each pixel sees and how far it is, and which pixels a light does not reach."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd_rooms.camera import NEAR_M, CameraView, Plane, Vector, Window
from spd_rooms.layout import Room
from spd_rooms.solids import Solid

SHELL = -1
"""What `Hits.solid_HW` says where nothing stands before the room's walls, floor and ceiling."""

CONTACT = 1e-3
"""A shadow needs this much of the way from light to surface to be free, so that no surface shades itself."""


class Hits(NamedTuple):
    """depth_m_HW: metric z-depth. solid_HW: index of the solid that is seen, or SHELL."""

    depth_m_HW: Plane
    solid_HW: NDArray[np.int16]


def cast(room: Room, view: CameraView) -> Hits:
    """The nearest thing along every pixel's ray."""
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
    """Pixels whose surface something hides from a light. What reaches above the light throws no shadow."""
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
    """Part of the image that can hold a solid's shadow: the hull of the solid and of its shadow on the floor."""
    drop_8 = light_3[2] - solid.corners_83[:, 2]
    if (drop_8 <= 0).any():
        return None
    floor_83 = light_3 + (solid.corners_83 - light_3) * (light_3[2] / drop_8)[:, None]
    return view.window(np.concatenate([solid.corners_83, floor_83]))
