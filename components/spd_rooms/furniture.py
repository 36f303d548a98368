"""Furniture on the floor: one function per piece, each of random size, shape and material."""

from math import cos, pi, sin

from numpy.random import Generator

from spd_rooms import materials
from spd_rooms.pieces import Piece, block, clutter, legs, post, turned
from spd_rooms.solids import Ball, Box, Solid, Triple


def table(rng: Generator) -> Piece:
    """A top on four legs, things on it."""
    size = (rng.uniform(0.9, 1.8), rng.uniform(0.6, 0.95), rng.uniform(0.7, 0.78))
    top_m, timber = rng.uniform(0.025, 0.06), materials.wood(rng)
    solids: list[Solid] = [block((0, 0), size[2] - top_m, (size[0], size[1], top_m), timber)]
    solids += legs((size[0] - 0.06, size[1] - 0.06, size[2] - top_m), rng.uniform(0.04, 0.08), timber)
    return Piece(size, (*solids, *clutter(rng, size[:2], size[2], 4)))


def coffee_table(rng: Generator) -> Piece:
    """A low table, sometimes round."""
    size = (rng.uniform(0.7, 1.2), rng.uniform(0.5, 0.7), rng.uniform(0.35, 0.48))
    timber = materials.wood(rng)
    if rng.random() < 0.35:
        radius = size[1] / 2 + 0.05
        foot, top = post((0, 0), 0, 0.05, size[2] - 0.04, timber), post((0, 0), size[2] - 0.04, radius, 0.04, timber)
        solids: list[Solid] = [foot, top]
        size = (2 * radius, 2 * radius, size[2])
    else:
        solids = [block((0, 0), size[2] - 0.04, (size[0], size[1], 0.04), timber)]
        solids += legs((size[0], size[1], size[2] - 0.04), 0.05, timber)
    return Piece(size, (*solids, *clutter(rng, (0.6 * size[0], 0.6 * size[1]), size[2], 3)))


def chair(rng: Generator) -> Piece:
    """Seat, back and four legs."""
    size = (rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5), rng.uniform(0.8, 1.0))
    seat_m, timber = rng.uniform(0.42, 0.48), materials.wood(rng)
    cushion = materials.fabric(rng) if rng.random() < 0.5 else timber
    low_m = seat_m + rng.uniform(0.05, 0.25)
    solids = legs((size[0], size[1], seat_m - 0.05), 0.04, timber)
    solids.append(block((0, 0), seat_m - 0.05, (size[0], size[1], 0.05), cushion))
    solids.append(block((0, 0.02 - size[1] / 2), low_m, (size[0], 0.04, size[2] - low_m), cushion))
    for side in (-1, 1):
        at = (side * (size[0] - 0.04) / 2, 0.02 - size[1] / 2)
        solids.append(block(at, seat_m, (0.04, 0.04, low_m - seat_m), timber))
    return Piece(size, tuple(solids))


def dining_set(rng: Generator) -> Piece:
    """A table with a chair or two on either long side."""
    board, seat = table(rng), chair(rng)
    solids = list(board.solids)
    count = 1 if board.size[0] < 1.2 else 2
    out_m = board.size[1] / 2 + rng.uniform(0.0, 0.25)
    for side in (-1, 1):
        for i in range(count):
            x = ((i + 0.5) / count - 0.5) * board.size[0] + rng.uniform(-0.06, 0.06)
            facing = (pi if side > 0 else 0.0) + rng.uniform(-0.25, 0.25)
            solids += turned(seat.solids, facing, x, side * out_m)
    return Piece((board.size[0], 2 * out_m + seat.size[1], max(board.size[2], seat.size[2]) + 0.3), tuple(solids))


def desk(rng: Generator) -> Piece:
    """A desk with drawers, a monitor, and a chair pushed under it."""
    size = (rng.uniform(1.1, 1.7), rng.uniform(0.6, 0.8), rng.uniform(0.7, 0.76))
    timber, front = materials.wood(rng), materials.wood(rng)
    width, depth, high = size
    solids: list[Solid] = [block((0, 0), high - 0.03, (width, depth, 0.03), timber)]
    solids.append(block((0.02 - width / 2, 0), 0, (0.04, depth - 0.05, high - 0.03), timber))
    solids.append(block((width / 2 - 0.22, -0.02), 0.03, (0.42, depth - 0.08, high - 0.06), timber))
    drawer_m = (high - 0.1) / 3
    for i in range(3):
        at = (width / 2 - 0.22, depth / 2 - 0.05)
        solids.append(block(at, 0.05 + i * drawer_m, (0.39, 0.02, drawer_m - 0.02), front))
    if rng.random() < 0.8:
        wide_m, x = rng.uniform(0.45, 0.65), rng.uniform(-0.3, 0.1)
        solids += _monitor(rng, wide_m, x, 0.1 - depth / 2, high)
    else:
        solids += clutter(rng, (width, depth), high, 4)
    seat = chair(rng)
    out_m = depth / 2 + rng.uniform(-0.1, 0.35)
    solids += turned(seat.solids, pi + rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.05), out_m)
    reach_m = max(depth / 2, out_m + 0.3)
    return Piece((width, 2 * reach_m, high + 0.55), turned(tuple(solids), 0.0, 0.0, depth / 2 - reach_m))


def _monitor(rng: Generator, wide_m: float, x: float, y: float, bottom_m: float) -> list[Solid]:
    """A flat screen on a foot, looking towards +y."""
    case, high_m = materials.metal(rng), 0.6 * wide_m
    return [
        block((x, y), bottom_m, (0.22, 0.16, 0.015), case),
        block((x, y - 0.02), bottom_m, (0.05, 0.03, 0.15), case),
        block((x, y), bottom_m + 0.1, (wide_m, 0.03, high_m), case),
        block((x, y + 0.01), bottom_m + 0.115, (wide_m - 0.03, 0.025, high_m - 0.03), materials.screen(rng)),
    ]


def bed(rng: Generator) -> Piece:
    """Frame, mattress, blanket, pillows and headboard; the head is at the back."""
    size = (rng.uniform(0.9, 1.8), rng.uniform(1.95, 2.15), rng.uniform(0.75, 1.2))
    width, depth, head_m = size
    timber, sheet, cover = materials.wood(rng), materials.fabric(rng), materials.fabric(rng)
    base_m, top_m = rng.uniform(0.2, 0.35), rng.uniform(0.45, 0.6)
    solids: list[Solid] = [
        block((0, 0.02), 0.08, (width, depth - 0.05, base_m - 0.08), timber),
        block((0, 0.03), base_m, (width - 0.06, depth - 0.1, top_m - base_m), sheet),
        block((0, 0.3), base_m + 0.05, (width, depth - 0.58, top_m - base_m - 0.02), cover),
        block((0, 0.025 - depth / 2), 0, (width + 0.04, 0.05, head_m), timber),
    ]
    pillow = materials.fabric(rng)
    count = 1 if width < 1.25 else 2
    for i in range(count):
        at = (((i + 0.5) / count - 0.5) * width, 0.35 - depth / 2)
        extent = (0.8 * width / count, rng.uniform(0.35, 0.45), rng.uniform(0.1, 0.16))
        solids.append(block(at, top_m, extent, pillow, yaw=rng.uniform(-0.1, 0.1)))
    return Piece((width + 0.04, depth, head_m), tuple(solids))


def sofa(rng: Generator) -> Piece:
    """Base, back, arms and cushions; an armchair when narrow."""
    size = (rng.uniform(0.85, 2.3), rng.uniform(0.8, 0.95), rng.uniform(0.75, 0.9))
    width, depth, high = size
    cloth, cushion = materials.fabric(rng), materials.fabric(rng)
    cushion = cloth if rng.random() < 0.6 else cushion
    seat_m, arm_m = rng.uniform(0.38, 0.45), rng.uniform(0.12, 0.22)
    solids: list[Solid] = [
        block((0, 0), 0.06, (width, depth, seat_m - 0.2), cloth),
        block((0, 0.1 - depth / 2), 0.06, (width, 0.2, high - 0.06), cloth),
    ]
    for side in (-1, 1):
        at = (side * (width - arm_m) / 2, 0.0)
        solids.append(block(at, 0.06, (arm_m, depth, rng.uniform(0.5, 0.56)), cloth))
    seats = max(round((width - 2 * arm_m) / 0.7), 1)
    wide_m = (width - 2 * arm_m) / seats
    for i in range(seats):
        x = (i + 0.5) * wide_m - width / 2 + arm_m
        solids.append(block((x, 0.1), seat_m - 0.14, (wide_m - 0.015, depth - 0.22, 0.14), cushion))
    if rng.random() < 0.6:
        at = (rng.uniform(-0.25, 0.25) * width, 0.27 - depth / 2)
        solids.append(block(at, seat_m, (0.42, 0.13, 0.38), materials.fabric(rng), yaw=rng.uniform(-0.3, 0.3)))
    return Piece(size, tuple(solids))


def wardrobe(rng: Generator) -> Piece:
    """A tall cupboard with doors and handles."""
    doors = int(rng.integers(1, 4))
    size = (doors * rng.uniform(0.4, 0.6), rng.uniform(0.45, 0.65), rng.uniform(1.6, 2.1))
    return Piece(size, tuple(_carcass(rng, size, doors)))


def sideboard(rng: Generator) -> Piece:
    """A low cupboard with things on it."""
    doors = int(rng.integers(1, 5))
    size = (doors * rng.uniform(0.4, 0.55), rng.uniform(0.35, 0.5), rng.uniform(0.5, 1.0))
    solids = _carcass(rng, size, doors) + clutter(rng, size[:2], size[2], 4)
    return Piece((size[0], size[1], size[2] + 0.3), tuple(solids))


def _carcass(rng: Generator, size: Triple, doors: int) -> list[Solid]:
    """A closed box with door leaves and handles on its front."""
    width, depth, high = size
    body, leaf, handle = materials.wood(rng), materials.wood(rng), materials.metal(rng)
    leaf = body if rng.random() < 0.5 else leaf
    solids: list[Solid] = [block((0, -0.015), 0, (width, depth - 0.03, high), body)]
    wide_m = width / doors
    for i in range(doors):
        x = (i + 0.5) * wide_m - width / 2
        solids.append(block((x, depth / 2 - 0.015), 0.06, (wide_m - 0.012, 0.02, high - 0.09), leaf))
        side = 1 if i % 2 else -1
        at = (x - side * (wide_m / 2 - 0.05), depth / 2)
        solids.append(block(at, 0.5 * high, (0.015, 0.02, 0.14), handle))
    return solids


def bookcase(rng: Generator) -> Piece:
    """Open shelves with rows of books."""
    size = (rng.uniform(0.6, 1.2), rng.uniform(0.25, 0.36), rng.uniform(1.2, 2.0))
    width, depth, high = size
    timber, levels = materials.wood(rng), int(rng.integers(3, 6))
    solids: list[Solid] = [block((0, 0.01 - depth / 2), 0, (width, 0.02, high), timber)]
    solids += [block((side * (width / 2 - 0.0125), 0), 0, (0.025, depth, high), timber) for side in (-1, 1)]
    step_m = (high - 0.08) / levels
    for level in range(levels + 1):
        solids.append(block((0, 0), 0.05 + level * step_m, (width - 0.05, depth, 0.025), timber))
        if level < levels and rng.random() < 0.85:
            solids.append(_row_of_books(rng, width - 0.06, depth, 0.075 + level * step_m, step_m - 0.03))
    return Piece(size, tuple(solids))


def _row_of_books(rng: Generator, width: float, depth: float, bottom_m: float, room_m: float) -> Box:
    """Books that take part of a shelf, from one of its ends."""
    wide_m, high_m = width * rng.uniform(0.4, 1.0), min(rng.uniform(0.18, 0.3), 0.95 * room_m)
    x = (width - wide_m) / 2 * (1 if rng.random() < 0.5 else -1)
    return block((x, -0.02), bottom_m, (wide_m, depth * rng.uniform(0.5, 0.8), high_m), materials.books(rng))


def counter(rng: Generator) -> Piece:
    """Kitchen units under a worktop, with wall cupboards above."""
    units = int(rng.integers(2, 6))
    width, depth, high = 0.6 * units, 0.62, 0.9
    front, top, handle = materials.wood(rng), materials.plain(rng), materials.metal(rng)
    upper = front if rng.random() < 0.7 else materials.wood(rng)
    solids: list[Solid] = [
        block((0, -0.04), 0, (width, depth - 0.12, 0.1), materials.metal(rng)),
        block((0, -0.02), 0.1, (width, depth - 0.06, high - 0.14), front),
        block((0, 0), high - 0.04, (width, depth, 0.04), top),
    ]
    for i in range(units):
        x = 0.6 * (i + 0.5) - width / 2
        solids.append(block((x, depth / 2 - 0.045), 0.12, (0.585, 0.02, high - 0.18), front))
        solids.append(block((x, depth / 2 - 0.025), high - 0.16, (0.2, 0.02, 0.015), handle))
        if rng.random() < 0.65:
            solids.append(block((x, 0.175 - depth / 2), 1.45, (0.59, 0.35, 0.6), upper))
    return Piece((width, depth, 2.05), (*solids, *clutter(rng, (width, depth), high, 2 * units)))


def fridge(rng: Generator) -> Piece:
    """A tall box with two doors."""
    size = (0.6, 0.65, rng.uniform(1.4, 1.9))
    skin, handle, split_m = materials.metal(rng), materials.metal(rng), size[2] * rng.uniform(0.3, 0.7)
    return Piece(
        size,
        (
            block((0, -0.03), 0, (0.6, 0.59, size[2]), skin),
            block((0, 0.295), 0.03, (0.59, 0.04, split_m - 0.04), skin),
            block((0, 0.295), split_m, (0.59, 0.04, size[2] - split_m - 0.01), skin),
            block((-0.26, 0.32), split_m + 0.05, (0.02, 0.02, 0.3), handle),
        ),
    )


def television(rng: Generator) -> Piece:
    """A low bench with a large screen."""
    bench = (rng.uniform(1.1, 1.8), 0.42, rng.uniform(0.35, 0.55))
    solids = _carcass(rng, bench, 3) + _monitor(rng, rng.uniform(0.7, 1.05), 0.0, -0.05, bench[2])
    return Piece((bench[0], bench[1], bench[2] + 0.8), tuple(solids))


def floor_lamp(rng: Generator) -> Piece:
    """Foot, pole and shade."""
    high_m, radius, shade_m = rng.uniform(1.3, 1.75), rng.uniform(0.14, 0.24), rng.uniform(0.2, 0.35)
    steel = materials.metal(rng)
    return Piece(
        (2 * radius, 2 * radius, high_m),
        (
            post((0, 0), 0, 0.14, 0.025, steel),
            post((0, 0), 0, 0.013, high_m - 0.05, steel),
            post((0, 0), high_m - shade_m, radius, shade_m, materials.lampshade(rng)),
        ),
    )


def plant(rng: Generator) -> Piece:
    """A pot with a few balls of leaves."""
    pot_m, radius, spread = rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.18), rng.uniform(0.12, 0.22)
    green, count = materials.leaves(rng), int(rng.integers(3, 6))
    solids: list[Solid] = [post((0, 0), 0, radius, pot_m, materials.plain(rng))]
    for i in range(count):
        turn, out_m = 2 * pi * i / count, rng.uniform(0.3, 0.9) * spread
        at = (out_m * cos(turn), out_m * sin(turn), pot_m + rng.uniform(0.6, 2.4) * spread)
        solids.append(Ball(at, radius=spread * rng.uniform(0.6, 0.9), material=green))
    return Piece((3.2 * spread, 3.2 * spread, pot_m + 3.3 * spread), tuple(solids))


def stool(rng: Generator) -> Piece:
    """A pouffe or a stool."""
    radius, high_m = rng.uniform(0.17, 0.28), rng.uniform(0.38, 0.5)
    seat = post((0, 0), 0, radius, high_m, materials.fabric(rng))
    if rng.random() < 0.5:
        seat = post((0, 0), high_m - 0.06, radius, 0.06, materials.wood(rng))
        side = 1.2 * radius
        return Piece((2 * radius, 2 * radius, high_m), (seat, *legs((side, side, high_m - 0.06), 0.035, seat.material)))
    return Piece((2 * radius, 2 * radius, high_m), (seat,))


def carton(rng: Generator) -> Piece:
    """A box, perhaps with another on top."""
    size = (rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.5), rng.uniform(0.2, 0.5))
    solids: list[Solid] = [block((0, 0), 0, size, materials.plain(rng))]
    if rng.random() < 0.4:
        upper = (0.8 * size[0], 0.8 * size[1], rng.uniform(0.15, 0.35))
        solids.append(block((0, 0), size[2], upper, materials.plain(rng), yaw=rng.uniform(-0.4, 0.4)))
    return Piece((size[0], size[1], size[2] + 0.35), tuple(solids))


def ball(rng: Generator) -> Piece:
    """A toy on the floor."""
    radius = rng.uniform(0.1, 0.3)
    cover = materials.fabric(rng)
    return Piece((2 * radius, 2 * radius, 2 * radius), (Ball((0.0, 0.0, radius), radius=radius, material=cover),))


def rug(rng: Generator) -> Piece:
    """A flat textile, thin enough for furniture to stand on."""
    size = (rng.uniform(1.2, 2.6), rng.uniform(0.9, 1.8), rng.uniform(0.006, 0.02))
    return Piece(size, (block((0, 0), 0, size, materials.fabric(rng)),))
