"""Scene layout: a box room, furniture along its walls and in its middle, and its lights."""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from spd_rooms import materials
from spd_rooms.camera import Vector
from spd_rooms.fixtures import door, picture, radiator, wall_shelf, window
from spd_rooms.furniture import (
    ball,
    bed,
    bookcase,
    carton,
    chair,
    coffee_table,
    counter,
    desk,
    dining_set,
    floor_lamp,
    fridge,
    plant,
    rug,
    sideboard,
    sofa,
    stool,
    table,
    television,
    wardrobe,
)
from spd_rooms.materials import Colour
from spd_rooms.pieces import Maker, Piece, block, post
from spd_rooms.solids import Box, Solid, Triple

PLACEMENTS = 12
"""Places that are tried for a piece before it is left out."""
LIGHT_GAP_M = 0.12
"""Lights hang this far below the ceiling, above everything that throws a shadow."""


@dataclass(frozen=True)
class Light:
    """A point light."""

    position_3: Vector
    """Its position in the world."""
    power: Colour
    """Radiance of a white surface that faces it at one metre."""
    casts_shadows: bool
    """Whether solids shade it."""


@dataclass(frozen=True)
class Room:
    """A furnished room."""

    shell: Box
    """Walls, floor and ceiling."""
    solids: tuple[Solid, ...]
    """Furniture, fixtures and lamps."""
    lights: tuple[Light, ...]
    """Point lights, the main one first."""
    ambient: Colour
    """Light from all directions."""

    @property
    def size(self) -> Triple:
        """Length along x and y, and height, in metres."""
        return self.shell.size


@dataclass(frozen=True)
class Use:
    """The furniture of a kind of room."""

    along_walls: tuple[Maker, ...]
    """Pieces with their back to a wall; the first one is placed before all other pieces."""
    in_middle: tuple[Maker, ...]
    """Pieces that may stand anywhere."""


USES: tuple[Use, ...] = (
    Use((bed, wardrobe, sideboard, desk, bookcase, chair, floor_lamp), (rug, ball, stool)),
    Use((sofa, television, sofa, bookcase, sideboard, floor_lamp, plant), (coffee_table, rug)),
    Use((counter, fridge, counter, sideboard, stool, chair), (dining_set, stool, chair)),
    Use((desk, desk, bookcase, bookcase, sideboard, plant, carton), (table, chair, carton)),
    Use((sideboard, bookcase, plant, chair, sofa, floor_lamp), (dining_set, dining_set, rug)),
    Use((carton, wardrobe, bookcase, table, stool, carton), (carton, ball, chair, table)),
)
ON_WALLS: tuple[Maker, ...] = (window, picture, window, picture, wall_shelf, radiator, picture)


class FloorPlan:
    """The pieces placed so far, each in an axis-aligned box that no other piece may enter."""

    def __init__(self, size: Triple) -> None:
        self.size = size
        self.solids: list[Solid] = []
        self._taken: list[tuple[Vector, Vector]] = []

    def put(self, piece: Piece, x: float, y: float, yaw: float, *, margin_m: float = 0.03) -> bool:
        """Places a piece with the middle of its footprint at (x, y), unless it collides or sticks out."""
        c, s = abs(cos(yaw)), abs(sin(yaw))
        width, depth, height = piece.size
        reach_3 = np.array([(c * width + s * depth) / 2, (s * width + c * depth) / 2, height / 2])
        centre_3 = np.array([x, y, piece.lift_m + height / 2])
        low_3, high_3 = centre_3 - reach_3, centre_3 + reach_3
        room_3 = np.array([self.size[0], self.size[1], self.size[2] - 2 * LIGHT_GAP_M])
        if (low_3 < -1e-6).any() or (high_3 > room_3 + 1e-6).any():
            return False
        if any((low_3 < high + margin_m).all() and (low < high_3 + margin_m).all() for low, high in self._taken):
            return False
        # A rug takes no space: furniture stands on it.
        if height > 0.05:
            self._taken.append((low_3, high_3))
        self.solids += [solid.moved(yaw, (x, y, piece.lift_m)) for solid in piece.solids]
        return True

    def against_wall(self, piece: Piece, rng: Generator) -> bool:
        """Tries random places with the piece's back to a random wall."""
        for _ in range(PLACEMENTS):
            wall = int(rng.integers(4))
            length_m = self.size[wall % 2]
            if piece.size[0] > length_m:
                continue
            along_m, out_m = _along(rng, piece.size[0], length_m), piece.size[1] / 2 + 1e-3
            x, y, yaw = (
                (along_m, out_m, 0.0),
                (self.size[0] - out_m, along_m, pi / 2),
                (along_m, self.size[1] - out_m, pi),
                (out_m, along_m, -pi / 2),
            )[wall]
            if self.put(piece, x, y, yaw):
                return True
        return False

    def in_middle(self, piece: Piece, rng: Generator) -> bool:
        """Tries random places anywhere, square to the room or turned."""
        yaw = rng.integers(4) * pi / 2 + (rng.uniform(-0.5, 0.5) if rng.random() < 0.5 else 0.0)
        places = rng.uniform(0.15, 0.85, (PLACEMENTS, 2)) * self.size[:2]
        return any(self.put(piece, float(x), float(y), yaw, margin_m=0.15) for x, y in places)


def _along(rng: Generator, width: float, length: float) -> float:
    """Where along a wall: often in a corner, else anywhere."""
    low, high = width / 2, length - width / 2
    corner = rng.random()
    return low if corner < 0.2 else high if corner < 0.4 else rng.uniform(low, high)


def furnish(rng: Generator) -> Room:
    """A random furnished room."""
    size = (rng.uniform(3.0, 7.0), rng.uniform(3.0, 8.0), rng.uniform(2.4, 3.2))
    plan = FloorPlan(size)
    use = USES[rng.integers(len(USES))]
    plan.against_wall(door(rng), rng)
    plan.against_wall(use.along_walls[0](rng), rng)
    plan.against_wall(window(rng), rng)
    area = size[0] * size[1]
    for _ in range(round(area * rng.uniform(0.3, 0.5)) + 4):
        plan.against_wall(use.along_walls[rng.integers(len(use.along_walls))](rng), rng)
    for _ in range(round(area * rng.uniform(0.1, 0.25)) + 1):
        plan.in_middle(use.in_middle[rng.integers(len(use.in_middle))](rng), rng)
    for _ in range(int(rng.integers(6, 16))):
        plan.against_wall(ON_WALLS[rng.integers(len(ON_WALLS))](rng), rng)
    lights = _lights(rng, size)
    solids = (*_skirting(rng, size), *plan.solids, *_lamp(rng, lights[0], size))
    return Room(_shell(rng, size), solids, lights, _tinted(rng, rng.uniform(0.12, 0.35)))


def _shell(rng: Generator, size: Triple) -> Box:
    """Walls, one of them perhaps in another paint, floor and ceiling."""
    paint = materials.wall(rng)
    walls = [paint] * 4
    if rng.random() < 0.35:
        walls[rng.integers(4)] = materials.wall(rng)
    faces = (walls[0], walls[1], walls[2], walls[3], materials.floor(rng), materials.ceiling(rng))
    return Box((size[0] / 2, size[1] / 2, size[2] / 2), size=size, faces=faces, hollow=True)


def _skirting(rng: Generator, size: Triple) -> list[Solid]:
    """A board along the foot of each wall, in most rooms."""
    if rng.random() < 0.25:
        return []
    board, high_m, thick_m = materials.wood(rng), rng.uniform(0.05, 0.12), 0.015
    x, y = size[0] / 2, size[1] / 2
    along_x, along_y = (size[0], thick_m, high_m), (thick_m, size[1], high_m)
    return [
        *(block((x, at), 0, along_x, board) for at in (thick_m / 2, size[1] - thick_m / 2)),
        *(block((at, y), 0, along_y, board) for at in (thick_m / 2, size[0] - thick_m / 2)),
    ]


def _lights(rng: Generator, size: Triple) -> tuple[Light, ...]:
    """One light near the middle of the ceiling that casts shadows, and up to two weaker ones that do not."""
    count = int(rng.integers(1, 4))
    lights = []
    for i in range(count):
        across = rng.uniform(0.3, 0.7, 2) if i == 0 else rng.uniform(0.1, 0.9, 2)
        position_3 = np.array([across[0] * size[0], across[1] * size[1], size[2] - LIGHT_GAP_M])
        power = rng.uniform(2.0, 4.0) if i == 0 else rng.uniform(0.3, 1.5)
        lights.append(Light(position_3, _tinted(rng, power), casts_shadows=i == 0))
    return tuple(lights)


def _lamp(rng: Generator, light: Light, size: Triple) -> list[Solid]:
    """The fitting of the main light, above its point so that it does not shade the room."""
    x, y = float(light.position_3[0]), float(light.position_3[1])
    glass = materials.lampshade(rng)
    return [post((x, y), size[2] - 0.08, rng.uniform(0.1, 0.25), 0.08, glass)]


def _tinted(rng: Generator, strength: float) -> Colour:
    """A light of this strength between warm and cold."""
    warm = rng.uniform(-1.0, 1.0)
    return strength * (1 + 0.15 * warm), strength, strength * (1 - 0.25 * warm)
