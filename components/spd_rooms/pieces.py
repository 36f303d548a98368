"""Building blocks of furniture: a piece in its own frame, and parts that many pieces share.

A piece stands on z = 0 with its footprint centred on the origin and its back towards −y; layout turns and moves it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from spd_rooms import materials
from spd_rooms.materials import Material
from spd_rooms.solids import Ball, Box, Cylinder, Solid, Triple


@dataclass(frozen=True)
class Piece:
    """A piece of furniture in its own frame."""

    size: Triple
    """Width, depth and height of the space that it needs."""
    solids: tuple[Solid, ...]
    """Its parts."""
    lift_m: float = 0.0
    """Height of its lower end above the floor."""


Maker = Callable[[Generator], Piece]
"""Draws a piece of random size, shape and material."""


def block(centre: tuple[float, float], bottom_m: float, size: Triple, material: Material, yaw: float = 0.0) -> Box:
    """A box of one material, given by the middle of its base."""
    return Box((centre[0], centre[1], bottom_m + size[2] / 2), yaw, size=size, faces=(material,) * 6)


def post(centre: tuple[float, float], bottom_m: float, radius: float, height: float, material: Material) -> Cylinder:
    """An upright cylinder, given by the middle of its base."""
    return Cylinder((centre[0], centre[1], bottom_m + height / 2), radius=radius, height=height, material=material)


def legs(size: Triple, thick_m: float, material: Material) -> list[Solid]:
    """Four legs under a width × depth top."""
    x, y = (size[0] - thick_m) / 2, (size[1] - thick_m) / 2
    leg = (thick_m, thick_m, size[2])
    return [block((sx * x, sy * y), 0, leg, material) for sx in (-1, 1) for sy in (-1, 1)]


def turned(solids: tuple[Solid, ...], yaw: float, x: float, y: float) -> tuple[Solid, ...]:
    """Part of a piece, turned and moved on its floor."""
    return tuple(solid.moved(yaw, (x, y, 0.0)) for solid in solids)


def clutter(rng: Generator, size: tuple[float, float], bottom_m: float, most: int) -> list[Solid]:
    """Up to `most` small things on a width × depth surface, each in a column of its own."""
    count = int(rng.integers(0, most + 1))
    things: list[Solid] = []
    for i in range(count):
        x = ((i + rng.uniform(0.3, 0.7)) / count - 0.5) * (size[0] - 0.1)
        y = rng.uniform(-0.3, 0.3) * size[1]
        kind = rng.integers(4)
        if kind == 0:
            things.append(post((x, y), bottom_m, rng.uniform(0.03, 0.08), rng.uniform(0.08, 0.3), materials.plain(rng)))
        elif kind == 1:
            radius = rng.uniform(0.04, 0.1)
            things.append(Ball((x, y, bottom_m + radius), radius=radius, material=materials.plain(rng)))
        else:
            low = kind == 2
            extent = (rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.25), rng.uniform(0.02, 0.08 if low else 0.3))
            things.append(block((x, y), bottom_m, extent, materials.plain(rng), yaw=rng.uniform(-0.6, 0.6)))
    return things
