"""Shading of the visible surfaces: texture, Lambert's law, shadows of the main light, darkening in corners."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd_rooms.camera import CameraView, Plane
from spd_rooms.layout import Light, Room
from spd_rooms.raycast import SHELL, Hits, shadows
from spd_rooms.solids import Patch
from spd_rooms.textures import TEXTURES

CORNER_REACH_M = 0.3
"""Walls, floor and ceiling take ambient light from each other within this distance."""


class Shaded(NamedTuple):
    """A shaded frame, as the sensor needs it."""

    radiance_3HW: NDArray[np.float32]
    """Linear light."""
    cosine_HW: Plane
    """Cosine of the angle between ray and surface normal, in [0, 1]."""
    answers_HW: NDArray[np.bool_]
    """Where the material returns the depth camera's light."""


def shade(room: Room, view: CameraView, hits: Hits) -> Shaded:
    """Shades every pixel, one patch of equal material after the other."""
    size = hits.depth_m_HW.size
    points_3N = view.points(hits.depth_m_HW).reshape(3, size)
    unlit_LN = [
        shadows(room.solids, light.position_3, view, hits.depth_m_HW).ravel() if light.casts_shadows else None
        for light in room.lights
    ]
    radiance_3N = np.empty((3, size), np.float32)
    cosine_N = np.empty(size, np.float32)
    answers_N = np.empty(size, np.bool_)
    for pixels, patch in _patches(room, hits, points_3N):
        here_3N = points_3N[:, pixels]
        cosine, pixel_m = _foreshortening(here_3N, patch.normal, view)
        material = patch.material
        colour_3N = np.clip(TEXTURES[material.texture](material, *patch.st_m, pixel_m), 0.005, 1)
        unlit = [dark_N if dark_N is None else dark_N[pixels] for dark_N in unlit_LN]
        received_3N = _illumination(room, here_3N, patch.normal, unlit)
        radiance_3N[:, pixels] = colour_3N * (received_3N + np.float32(material.glow))
        cosine_N[pixels] = cosine
        answers_N[pixels] = material.returns_depth
    shape = hits.depth_m_HW.shape
    return Shaded(radiance_3N.reshape(3, *shape), cosine_N.reshape(shape), answers_N.reshape(shape))


def _patches(room: Room, hits: Hits, points_3N: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.intp], Patch]]:
    """Every patch of every visible solid with its pixels, as indices into the flat image."""
    solid_N = hits.solid_HW.ravel()
    order_N = np.argsort(solid_N, kind="stable")
    visible, first = np.unique(solid_N[order_N], return_index=True)
    for index, pixels in zip(visible, np.split(order_N, first[1:]), strict=True):
        solid = room.shell if index == SHELL else room.solids[index]
        for patch in solid.patches(points_3N[:, pixels]):
            yield pixels[patch.chosen_N], patch


def _foreshortening(
    points_3N: NDArray[np.float32], normal: Sequence[float | Plane], view: CameraView
) -> tuple[Plane, Plane]:
    """Cosine of the angle at which each point is seen, and the width in metres that a pixel covers there."""
    ray: list[Plane] = [points_3N[i] - float(view.position_3[i]) for i in range(3)]
    distance_m = np.sqrt(ray[0] * ray[0] + ray[1] * ray[1] + ray[2] * ray[2])
    cosine = np.abs(_dot(normal, ray)) / distance_m
    return cosine, distance_m * np.float32(view.pixel_rad) / np.maximum(cosine, 0.15)


def _illumination(
    room: Room, points_3N: NDArray[np.float32], normal: Sequence[float | Plane], unlit: list[NDArray[np.bool_] | None]
) -> NDArray[np.float32]:
    """Light that falls on each point, per colour: ambient light and that of each lamp."""
    openness = _openness(room, points_3N, normal)
    received_3N = np.stack([openness * np.float32(part) for part in room.ambient])
    for light, dark in zip(room.lights, unlit, strict=True):
        direct = _direct(light, points_3N, normal)
        if dark is not None:
            direct[dark] = 0
        received_3N += direct * np.array(light.power, np.float32)[:, None]
    return received_3N


def _direct(light: Light, points_3N: NDArray[np.float32], normal: Sequence[float | Plane]) -> Plane:
    """Lambert's cosine over the squared distance; ½ m² is added so that the ceiling by the lamp does not burn out."""
    to: list[Plane] = [float(light.position_3[i]) - points_3N[i] for i in range(3)]
    square = to[0] * to[0] + to[1] * to[1] + to[2] * to[2]
    received: Plane = np.maximum(_dot(normal, to), 0) / (np.sqrt(square) * (square + np.float32(0.5)))
    return received


def _openness(room: Room, points_3N: NDArray[np.float32], normal: Sequence[float | Plane]) -> Plane:
    """Share of ambient light: less near the planes of the room that a surface does not lie along."""
    share = np.ones(points_3N.shape[1], np.float32)
    for axis in range(3):
        to_plane_m = np.minimum(points_3N[axis], np.float32(room.size[axis]) - points_3N[axis])
        facing = np.abs(normal[axis])
        share *= 1 - np.float32(0.45) * (1 - facing) * np.exp(to_plane_m * np.float32(-1 / CORNER_REACH_M))
    return share


def _dot(normal: Sequence[float | Plane], vector: Sequence[Plane]) -> Plane:
    return normal[0] * vector[0] + normal[1] * vector[1] + normal[2] * vector[2]
