"""Pieces on walls: doors, windows, radiators, pictures and shelves."""

from numpy.random import Generator

from spd_rooms import materials
from spd_rooms.pieces import Piece, block, clutter
from spd_rooms.solids import Solid


def door(rng: Generator) -> Piece:
    """A leaf in its frame; the piece's depth keeps the space before it free."""
    width, high_m = rng.uniform(0.75, 0.95), rng.uniform(1.98, 2.1)
    frame, leaf = materials.wood(rng), materials.wood(rng)
    solids: list[Solid] = [
        block((side * (width / 2 + 0.04), -0.39), 0, (0.08, 0.06, high_m + 0.08), frame) for side in (-1, 1)
    ]
    solids.append(block((0, -0.39), high_m, (width, 0.06, 0.08), frame))
    solids.append(block((0, -0.4), 0, (width, 0.03, high_m), leaf))
    for bottom_m, tall_m in ((0.2, 0.35 * high_m), (0.28 + 0.35 * high_m, 0.45 * high_m)):
        solids.append(block((0, -0.385), bottom_m, (0.7 * width, 0.02, tall_m), leaf))
    solids.append(block((0.42 * width, -0.35), 1.0, (0.12, 0.04, 0.02), materials.metal(rng)))
    return Piece((width + 0.16, 0.82, high_m + 0.08), tuple(solids))


def window(rng: Generator) -> Piece:
    """Panes in a frame, sometimes with a sill, curtains or a radiator below."""
    size = (rng.uniform(0.8, 1.8), 0.1, rng.uniform(0.9, 1.3))
    width, depth, high_m = size
    frame, glass = materials.plain(rng), materials.pane(rng)
    solids: list[Solid] = [block((0, 0.005 - depth / 2), 0.06, (width - 0.06, 0.01, high_m - 0.12), glass)]
    for side in (-1, 0, 1):
        solids.append(block((side * (width - 0.06) / 2, 0.03 - depth / 2), 0, (0.06, 0.05, high_m), frame))
    for bottom_m in (0.0, high_m - 0.06):
        solids.append(block((0, 0.03 - depth / 2), bottom_m, (width, 0.05, 0.06), frame))
    if rng.random() < 0.5:
        cloth, wide_m = materials.fabric(rng), rng.uniform(0.2, 0.4)
        for side in (-1, 1):
            at = (side * width / 2, 0.07 - depth / 2)
            solids.append(block(at, -0.3, (wide_m, 0.05, high_m + 0.4), cloth))
    else:
        solids.append(block((0, 0.07 - depth / 2), -0.04, (width + 0.1, 0.14, 0.04), frame))
    return Piece((width + 0.4, depth, high_m + 0.1), tuple(solids), lift_m=rng.uniform(0.85, 1.0))


def radiator(rng: Generator) -> Piece:
    """Ribs on a flat body."""
    size = (rng.uniform(0.6, 1.2), 0.12, 0.6)
    skin = materials.plain(rng)
    ribs = round(size[0] / 0.12)
    solids = [block((0, -0.01), 0.0, (size[0], 0.05, 0.55), skin)]
    for i in range(ribs):
        solids.append(block(((i + 0.5) * size[0] / ribs - size[0] / 2, 0.02), 0.02, (0.07, 0.06, 0.51), skin))
    return Piece(size, tuple(solids), lift_m=0.12)


def picture(rng: Generator) -> Piece:
    """A canvas in a frame."""
    size = (rng.uniform(0.3, 1.1), 0.05, rng.uniform(0.3, 0.9))
    rim_m = rng.uniform(0.02, 0.06)
    canvas = (size[0] - 2 * rim_m, 0.02, size[2] - 2 * rim_m)
    return Piece(
        size,
        (
            block((0, 0.01 - 0.025), 0, (size[0], 0.03, size[2]), materials.wood(rng)),
            block((0, 0.025 - 0.02), rim_m, canvas, materials.painting(rng)),
        ),
        lift_m=rng.uniform(1.2, 1.5),
    )


def wall_shelf(rng: Generator) -> Piece:
    """A board on the wall with books and other things."""
    size = (rng.uniform(0.6, 1.3), rng.uniform(0.2, 0.28), 0.35)
    board_m, wide_m = 0.03, size[0] * rng.uniform(0.2, 0.5)
    extent = (wide_m, size[1] * 0.75, rng.uniform(0.18, 0.3))
    solids: list[Solid] = [
        block((0, 0), 0, (size[0], size[1], board_m), materials.wood(rng)),
        block(((wide_m - size[0]) / 2 + 0.02, -0.02), board_m, extent, materials.books(rng)),
    ]
    others = clutter(rng, (size[0] - wide_m - 0.1, 0.5 * size[1]), board_m, 3)
    solids += [thing.moved(0.0, (wide_m / 2, 0.0, 0.0)) for thing in others]
    return Piece(size, tuple(solids), lift_m=rng.uniform(1.25, 1.6))
