"""Random routing."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from spd_bench.api import Anchors, Block, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count


def scramble(x: Tensor) -> Tensor:
    """A bijective mixing of 64-bit integers (xor-shift and multiply, in the manner of SplitMix64), wrapping."""
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical right shift: `>>` alone would copy the sign bit, so that x and ~x would collide."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Random(Block):
    """R random sites of L4 for each query, without replacement.

    The draw is a pure function of the query point and the option `seed`, so that a point gets the same anchors
    whichever other points are decoded with it, in training and in evaluation. A fair comparison with §6.3: as many
    anchors and the same B4, chosen at random.
    """

    slot = "routing"
    reads = frozenset()
    writes = frozenset({"anchors"})

    class Config(AnchorConfig):
        """Options of routing."""

        seed: int = Field(default=0, ge=0, lt=2**31)
        """Seed of the draw."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes the anchors."""
        l4 = scene.pyramid.l4
        check_anchor_count(self.config.r, l4)
        x_BK, y_BK = (state.xy_BK2.double() * 2**24).long().unbind(-1)
        site_S = torch.arange(l4.height * l4.width, device=x_BK.device)
        seeded_BK = scramble(torch.full_like(x_BK, self.config.seed))
        key_BK = scramble(scramble(seeded_BK + x_BK) + y_BK)
        order_BKS = scramble(key_BK[..., None] + site_S * 2**32).argsort(dim=-1, stable=True)
        return replace(state, anchors=Anchors(order_BKS[..., : self.config.r]))
