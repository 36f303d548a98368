"""B1 of §6.1: the query seed and the 91 local tokens. Pure gathering, no attention.

Letters: B images, K queries, T tokens, D core width, C channels of a map, 2 an (x, y) pair.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Block, ComponentConfig, Dims, Pyramid, QueryState, Scene, TokenPart
from spd_bench.geometry import Table, neighbourhood
from spd_components.layers import fourier

R_MAX = 6.0
"""Reach of a learned offset in cells of L1, r_max of §6.1."""
NUM_LEARNED = 8
SATURATED = 0.95
"""Share of r_max beyond which an offset counts as held by it."""
POSITION_FREQ = 8
OFFSET_FREQ = 4
PAD = 4
"""Border of zeros that a 5×5 neighbourhood can reach from anywhere in the image."""


class LocalMaps(NamedTuple):
    """What B1 reads, once per image: L1 as it is, L2 and L4 projected to D, L3 as it is (192 = d)."""

    l1: Table
    l2: Table
    l3: Table
    l4: Table


def _without_centre(x_BKTC: Tensor) -> Tensor:
    """The 24 cells around the centre of a row-major 5×5 neighbourhood (R-01)."""
    return torch.cat([x_BKTC[:, :, :12], x_BKTC[:, :, 13:]], dim=2)


class LocalTokens(Block):
    """Seed h⁽⁰⁾ and T_unified: 32 tokens of L1, 25 of L2, 25 of L3, 9 of L4 (§6.1).

        f_q  = L1(q)                                        h⁽⁰⁾ = W_q [f_q; pe(q)]
        t⁽¹⁾ = GELU(W_loc [L1(q + δ); φ(δ / 2 r_max)]) + e_L1      δ: 24 ring cells, 8 learned (R-01, R-02)
        t⁽²⁾ = W_v2 L2(q + δ_i) + e_L2 + rpe_i              5×5
        t⁽³⁾ = L3(q + δ_i) + e_L3 + rpe_i                   5×5
        t⁽⁴⁾ = W_v4 L4(q + δ_i) + e_L4 + rpe_i              3×3, the inner nine of the 5×5 table (R-08)

    W_v2 and W_v4 are applied to the maps once per image: a projection without bias commutes with bilinear
    sampling and zero padding (R-09).
    """

    slot = "b1"
    reads = frozenset()
    writes = frozenset({"h", "tokens"})
    budget = {"": "B1: feature extraction + tokens (§6.1)"}

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        fine, low, _, deep = dims.pyramid
        self.offset = nn.Linear(fine, 2 * NUM_LEARNED)
        self.local = nn.Linear(fine + 4 * OFFSET_FREQ, dims.core)
        self.value2 = nn.Linear(low, dims.core, bias=False)
        self.value4 = nn.Linear(deep, dims.core, bias=False)
        self.seed = nn.Linear(fine + 4 * POSITION_FREQ, dims.core)
        self.level_embed = nn.Parameter(0.02 * torch.randn(4, dims.core))
        self.rpe = nn.Parameter(0.02 * torch.randn(25, dims.core))

    def prepare(self, pyramid: Pyramid) -> LocalMaps:
        """The four maps as tables, L2 and L4 already projected."""
        return LocalMaps(
            l1=Table.of(pyramid.l1.map_BHWC, extent=pyramid.l1.extent, pad=PAD),
            l2=Table.of(self.value2(pyramid.l2.map_BHWC), extent=pyramid.l2.extent, pad=PAD),
            l3=Table.of(pyramid.l3.map_BHWC, extent=pyramid.l3.extent, pad=PAD),
            l4=Table.of(self.value4(pyramid.l4.map_BHWC), extent=pyramid.l4.extent, pad=PAD),
        )

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h and the first part of the tokens."""
        maps: LocalMaps = scene.prepared[self.slot]
        xy_BK2 = state.xy_BK2
        around_BKTC = maps.l1.read_neighbourhood(maps.l1.xy_lvl(xy_BK2), 5)
        centre_BKC = around_BKTC[:, :, 12]
        tokens_BKTD = torch.cat(
            [
                self._local_tokens(maps.l1, xy_BK2, around_BKTC, centre_BKC),
                maps.l2.read_neighbourhood(maps.l2.xy_lvl(xy_BK2), 5),
                maps.l3.read_neighbourhood(maps.l3.xy_lvl(xy_BK2), 5),
                maps.l4.read_neighbourhood(maps.l4.xy_lvl(xy_BK2), 3),
            ],
            dim=2,
        )
        tokens_BKTD += self._embeddings().to(tokens_BKTD.dtype)  # in place: a second copy of all tokens costs as much
        position_BKP = fourier(xy_BK2, POSITION_FREQ).to(centre_BKC.dtype)
        # the residual stream h stays in full precision under autocast
        h_BKD = self.seed(torch.cat([centre_BKC, position_BKP], dim=-1)).to(xy_BK2.dtype)
        return replace(state, h_BKD=h_BKD, tokens=(TokenPart(tokens_BKTD),))

    def _embeddings(self) -> Tensor:
        """e_L of each token's level and, from L2 on, its place in the relative position table: [91, D] (R-08)."""
        inner_9D = self.rpe.view(5, 5, -1)[1:4, 1:4].flatten(0, 1)
        e1, e2, e3, e4 = self.level_embed
        return torch.cat([e1.expand(32, -1), e2 + self.rpe, e3 + self.rpe, e4 + inner_9D])

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Learned offsets in cells of L1: mean length, spread over queries, and the share that is held by r_max."""
        l1: Table = scene.prepared[self.slot].l1
        offset_BKT2 = self._learned_offsets(l1.read(l1.xy_lvl(state.xy_BK2)), state.xy_BK2)
        return {
            "offset_length_cells": float(offset_BKT2.norm(dim=-1).mean()),
            "offset_spread_cells": float(offset_BKT2.flatten(0, 1).std(0, correction=0).mean()),
            "offset_saturated": float((offset_BKT2.abs() > SATURATED * R_MAX).float().mean()),
        }

    def _learned_offsets(self, centre_BKC: Tensor, xy_BK2: Tensor) -> Tensor:
        """Δ_m = r_max·tanh(W_off f_q + b_off) in cells of L1, [B, K, 8, 2]; in full precision under autocast (R-03)."""
        raw_BKN = self.offset(centre_BKC).to(xy_BK2.dtype)
        return R_MAX * torch.tanh(raw_BKN).view(*centre_BKC.shape[:2], NUM_LEARNED, 2)

    def _local_tokens(self, l1: Table, xy_BK2: Tensor, around_BKTC: Tensor, centre_BKC: Tensor) -> Tensor:
        """t⁽¹⁾ without e_L1. W_loc is split: its part on φ(δ) of the fixed ring is the same for every query."""
        batch, count, _, channels = around_BKTC.shape
        learned_BKT2 = self._learned_offsets(centre_BKC, xy_BK2)
        at_BN2 = (l1.xy_lvl(xy_BK2)[:, :, None] + learned_BKT2).view(batch, -1, 2)
        moved_BKTC = l1.read(at_BN2).view(batch, count, NUM_LEARNED, channels)
        features_BKTC = torch.cat([_without_centre(around_BKTC), moved_BKTC], dim=2)

        on_features, on_offset = self.local.weight.split([channels, 4 * OFFSET_FREQ], dim=1)
        ring_T2 = neighbourhood(5, like=xy_BK2)
        ring_code_TP = fourier(torch.cat([ring_T2[:12], ring_T2[13:]]) / (2 * R_MAX), OFFSET_FREQ)
        ring_TD = F.linear(ring_code_TP.to(on_offset.dtype), on_offset, self.local.bias)
        learned_code_BKTP = fourier(learned_BKT2 / (2 * R_MAX), OFFSET_FREQ).to(on_offset.dtype)
        learned_BKTD = F.linear(learned_code_BKTP, on_offset, self.local.bias)
        offset_BKTD = torch.cat([ring_TD.expand(batch, count, -1, -1), learned_BKTD], dim=2)
        return F.gelu(F.linear(features_BKTC, on_features) + offset_BKTD)
