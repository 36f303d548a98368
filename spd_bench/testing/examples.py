"""Inputs of the kits: small, and awkward on purpose."""

import torch
from torch import Tensor

from spd_bench.api import Anchors, Dims, Features, Level, Pyramid, QueryState, TokenPart
from spd_bench.data.randomness import torch_seed

DIMS = Dims(features=20, core=24, heads=3, ffn=40, pyramid=(8, 16, 24, 32))
"""Small sizes for blocks and necks. L3 is as wide as the core, as in the paper (§6.1)."""
BATCH, QUERIES = 2, 17
MANY = 1024
"""The most queries at which §8 scores an image; models decode them in several chunks."""


def example_points(count: int = QUERIES) -> Tensor:
    """Returns points of the unit square for each image, float64: corners, borders, the centre, the rest random."""
    special = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.3), (0.5, 0.5)]
    xy_BK2 = random_numbers("xy", BATCH, count, 2, uniform=True)
    xy_BK2[:, : len(special)] = torch.tensor(special, dtype=torch.float64)
    return xy_BK2


def example_features(*channels: int) -> Features:
    """Returns four random maps of 13×15 cells, float64. channels: those of each map, or one number for all four."""
    each = channels if len(channels) > 1 else channels * 4
    maps = [random_numbers(f"map {index}", BATCH, 13, 15, each[index]) for index in range(4)]
    return Features((maps[0], maps[1], maps[2], maps[3]))


def example_pyramid(dims: Dims) -> Pyramid:
    """Returns a random pyramid of the sizes of 13×15 cells: L4 leaves out the odd row and column (R-05)."""
    sizes = ((52, 60), (26, 30), (13, 15), (6, 7))
    maps = [random_numbers(f"L{i}", BATCH, *size, dims.pyramid[i]) for i, size in enumerate(sizes)]
    return Pyramid(Level(maps[0]), Level(maps[1]), Level(maps[2]), Level(maps[3], extent=(14 / 15, 12 / 13)))


def example_state(dims: Dims, count: int = QUERIES) -> QueryState:
    """Returns a state with every field set, float64: two token parts, attention, five anchors on the 42 sites of L4."""
    each = (BATCH, count)
    attention_BKS = random_numbers("attention", *each, 42).softmax(-1)
    weight_BKR, site_BKR = attention_BKS.topk(5, dim=-1)
    return QueryState(
        xy_BK2=example_points(count),
        h_BKD=random_numbers("h", *each, dims.core),
        tokens=(
            TokenPart(random_numbers("local", *each, 6, dims.core)),
            TokenPart(random_numbers("evidence", *each, 3, dims.core)),
        ),
        attention_BKS=attention_BKS,
        anchors=Anchors(site_BKR, torch.ones_like(weight_BKR)),
        depth_m_BK=1 + random_numbers("depth", *each, uniform=True),
    )


def random_numbers(name: str, *shape: int, uniform: bool = False) -> Tensor:
    """Returns random float64 numbers that depend on the name alone, normal or in [0, 1)."""
    generator = torch.Generator().manual_seed(torch_seed("contract", name))
    draw = torch.rand if uniform else torch.randn
    return draw(*shape, generator=generator, dtype=torch.float64)
