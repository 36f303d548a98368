"""B1 of §6.1: the query seed and the 91 local tokens. Pure gathering, no attention.

Letters: B images, K queries, T tokens, D core width, C channels of a map, 2 an (x, y) pair.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import (
    Block,
    ComponentConfig,
    Dims,
    Level,
    Looked,
    Pyramid,
    QueryState,
    Scene,
    StandardTokens,
    TokenPart,
)
from spd_bench.fused import forms, neighbourhoods
from spd_bench.geometry import Table, constant, neighbourhood
from spd_components.blocks.layers import fourier

R_MAX = 6.0
"""Reach of a learned offset in cells of L1, r_max of §6.1."""
SATURATED = 0.95
"""Share of r_max above which an offset counts as saturated."""
POSITION_FREQ = 8
OFFSET_FREQ = 4
IN_ONE_CALL = (
    *("_made", "_local_tokens", "_seed", "_around", "_at_learned"),
    *("_learned_offsets", "_on_offset", "_split_local"),
)
"""Methods that the fused form replaces (`fused.neighbourhoods.local_tokens`)."""
PAD = 4
"""Border of zeros, wide enough for a 5×5 neighbourhood of any point in the image."""


class FineMap(NamedTuple):
    """L1, prepared for reading its tokens."""

    l1: Table
    """L1, not projected."""
    cell_code_TD: Tensor
    """W_loc's part on φ(δ) of each cell around a query, with the bias."""


class InOneCall(NamedTuple):
    """The arguments of the fused form that computes the seed and all tokens (`fused.neighbourhoods.local_tokens`)."""

    maps: list[neighbourhoods.Around]
    """The levels, L1 first."""
    weights: neighbourhoods.LocalWeights
    """All weights."""


class L1Maps(NamedTuple):
    """What a B1 on L1 alone computes once per image."""

    fine: FineMap
    """L1."""
    in_one_call: InOneCall | None
    """Arguments of the fused form; None where stock operators run."""

    @property
    def l1(self) -> Table:
        """L1, not projected."""
        return self.fine.l1


class L1Tokens(Block):
    """The seed and the tokens of L1, t⁽¹⁾, which every B1 has. A subclass sets their number and creates the layers.

    The order in which layers are created decides their initial weights, so each subclass has its own.
    """

    slot = "b1"
    reads: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[frozenset[str]] = frozenset({"h", "tokens"})
    budget = {"": "B1: feature extraction + tokens (§6.1)"}

    side: ClassVar[int] = 5
    """Cells along a side of the neighbourhood, odd."""
    learned: ClassVar[int] = 8
    """Number of learned offsets; with 0 there is no layer `offset`."""
    centre_is_token: ClassVar[bool] = False
    """Whether the centre is a token; by R-01 it enters through the seed alone."""

    offset: nn.Linear
    local: nn.Linear
    seed: nn.Linear

    class Config(ComponentConfig):
        """No options."""

    def _seed(self, centre_BKC: Tensor, xy_BK2: Tensor) -> Tensor:
        """h⁽⁰⁾ = W_q [f_q; pe(q)]; the residual stream h stays in full precision under autocast."""
        position_BKP = fourier(xy_BK2, POSITION_FREQ).to(centre_BKC.dtype)
        return self.seed(torch.cat([centre_BKC, position_BKP], dim=-1)).to(xy_BK2.dtype)  # type: ignore[no-any-return]

    def _around(self, l1: Table, xy_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """L1 at the whole neighbourhood of each query, row-major, and at its centre, which is f_q."""
        around_BKTC = l1.read_neighbourhood(l1.xy_lvl(xy_BK2), self.side)
        return around_BKTC, around_BKTC[:, :, self.side**2 // 2]

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h and the first part of the tokens; the fused form computes the tokens in standardised form."""
        maps, xy_BK2 = scene.prepared[self.slot], state.xy_BK2
        one_call: InOneCall | None = maps.in_one_call
        if one_call is not None and forms.ready(xy_BK2, maps.l1.rows_NC):
            h_BKD, standard_BKTD = neighbourhoods.local_tokens(xy_BK2, *one_call)
            part: TokenPart = StandardTokens(standard_BKTD, lambda: self._made(maps, xy_BK2)[1])
        else:
            h_BKD, tokens_BKTD = self._made(maps, xy_BK2)
            part = TokenPart(tokens_BKTD)
        return replace(state, h_BKD=h_BKD, tokens=(part,))

    @abstractmethod
    def _made(self, maps: Any, xy_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """The seed [B, K, D] and the tokens with their embeddings [B, K, T, D], from the result of `prepare`."""

    def _in_one_call(
        self, of: type["L1Tokens"], fine: FineMap, others: Sequence[tuple[Table, int]], embedding_TD: Tensor
    ) -> InOneCall | None:
        """Arguments of the fused form of class `of`; None where stock operators run. others: (level, side)."""
        l1 = fine.l1
        fits = self.side in forms.SIDES and l1.rows_NC.shape[1] % forms.LANES == 0
        fits = fits and all(table.rows_NC.shape[1] == forms.CORE for table, _ in others)
        same = forms.unchanged(self, of, *IN_ONE_CALL)
        if not (
            same and fits and forms.ready(l1.rows_NC, self.local.weight, heads=self.dims.heads, width=self.dims.head)
        ):
            return None
        weights = neighbourhoods.LocalWeights(
            side=self.side,
            centre_is_token=self.centre_is_token,
            freq=(POSITION_FREQ, OFFSET_FREQ),
            reach=R_MAX,
            seed=self.seed,
            offset=self.offset if self.learned else None,
            local=self.local,
            cell_shift_TD=fine.cell_code_TD,
            embedding_TD=embedding_TD,
        )
        return InOneCall([l1.around(self.side), *(table.around(side) for table, side in others)], weights)

    def _local_tokens(self, maps: FineMap, xy_BK2: Tensor, around_BKTC: Tensor, centre_BKC: Tensor) -> Tensor:
        """t⁽¹⁾ without e_L1. W_loc is split into its parts on features and on φ(δ)."""
        batch, count, _ = xy_BK2.shape
        if not self.centre_is_token:
            around_BKTC = _without_centre(around_BKTC, dim=2)
        points = [(around_BKTC, maps.cell_code_TD.expand(batch, count, -1, -1))]
        if self.learned:
            points.append(self._at_learned(maps.l1, xy_BK2, centre_BKC))
        features_BKTC, offsets_BKTD = (torch.cat(parts, dim=2) for parts in zip(*points, strict=True))
        return F.gelu(F.linear(features_BKTC, self._split_local()[0]) + offsets_BKTD)

    def _fine_map(self, l1: Level) -> FineMap:
        """L1 as a table, and W_loc's part on φ(δ) of the neighbourhood's cells: the same for every query."""
        cell_T2 = neighbourhood(self.side, like=self.local.weight)
        if not self.centre_is_token:
            cell_T2 = _without_centre(cell_T2, dim=0)
        return FineMap(l1.table(pad=PAD), self._on_offset(cell_T2))

    def _at_learned(self, l1: Table, xy_BK2: Tensor, centre_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """Features at the learned offsets, and W_loc's part on φ(δ)."""
        batch, count, channels = centre_BKC.shape
        learned_BKT2 = self._learned_offsets(centre_BKC, xy_BK2)
        at_BN2 = (l1.xy_lvl(xy_BK2).unsqueeze(2) + learned_BKT2).view(batch, -1, 2)
        return l1.read(at_BN2).view(batch, count, self.learned, channels), self._on_offset(learned_BKT2)

    def _learned_offsets(self, centre_BKC: Tensor, xy_BK2: Tensor) -> Tensor:
        """Δ_m = r_max·tanh(W_off f_q + b_off) in cells of L1, [B, K, 8, 2]; in full precision under autocast (R-03)."""
        raw_BKN = self.offset(centre_BKC).to(xy_BK2.dtype)
        return R_MAX * torch.tanh(raw_BKN).view(*centre_BKC.shape[:2], self.learned, 2)

    def _on_offset(self, offset: Tensor) -> Tensor:
        """W_loc's part on φ(δ / 2 r_max), with its bias: [..., 2] → [..., D] (R-02)."""
        on_offset = self._split_local()[1]
        return F.linear(fourier(offset / (2 * R_MAX), OFFSET_FREQ).to(on_offset.dtype), on_offset, self.local.bias)

    def _split_local(self) -> tuple[Tensor, Tensor]:
        """W_loc's parts on features and on φ(δ)."""
        codes = 4 * OFFSET_FREQ
        return self.local.weight[:, :-codes], self.local.weight[:, -codes:]

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Learned offsets in cells of L1: mean length, spread over queries, and the share that is saturated."""
        if not self.learned:
            return {}
        l1: Table = scene.prepared[self.slot].l1
        offset_BKT2 = self._learned_offsets(l1.read(l1.xy_lvl(state.xy_BK2)), state.xy_BK2)
        return {
            "offset_length_cells": float(offset_BKT2.norm(dim=-1).mean()),
            "offset_spread_cells": float(offset_BKT2.flatten(0, 1).std(0, correction=0).mean()),
            "offset_saturated": float((offset_BKT2.abs() > SATURATED * R_MAX).float().mean()),
        }

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """Where the learned offsets lead, each of weight 1, and the groups of tokens."""
        l1: Table = scene.prepared[self.slot].l1
        points = {}
        if self.learned:
            offset_BKT2 = self._learned_offsets(l1.read(l1.xy_lvl(state.xy_BK2)), state.xy_BK2)
            xy_BKT2 = state.xy_BK2[:, :, None] + offset_BKT2 / constant(l1.cells, like=offset_BKT2)
            points["learned offsets"] = xy_BKT2, torch.ones_like(xy_BKT2[..., 0])
        return Looked(points=points, groups=self._groups())

    def _groups(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of the groups of tokens, in their order."""
        ring = self.side**2 - (not self.centre_is_token)
        return (("L1 around", ring), *((("L1 learned", self.learned),) if self.learned else ()))


def _without_centre(x: Tensor, *, dim: int) -> Tensor:
    """The cells around the centre of a row-major neighbourhood (R-01)."""
    middle = x.shape[dim] // 2
    return torch.cat([x.narrow(dim, 0, middle), x.narrow(dim, middle + 1, middle)], dim=dim)


class LocalMaps(NamedTuple):
    """What B1 computes once per image."""

    fine: FineMap
    """L1."""
    l2: Table
    """L2, projected to D."""
    l3: Table
    """L3, not projected: it has D channels."""
    l4: Table
    """L4, projected to D."""
    embedding_TD: Tensor
    """e_L of each token's level and, from L2 on, its entry in the relative position table (R-08)."""
    in_one_call: InOneCall | None
    """Arguments of the fused form; None where stock operators run."""

    @property
    def l1(self) -> Table:
        """L1, not projected."""
        return self.fine.l1


class LocalTokens(L1Tokens):
    """Seed h⁽⁰⁾ and T_unified: 32 tokens of L1, 25 of L2, 25 of L3, 9 of L4 (§6.1).

        f_q  = L1(q)                                        h⁽⁰⁾ = W_q [f_q; pe(q)]
        t⁽¹⁾ = GELU(W_loc [L1(q + δ); φ(δ / 2 r_max)]) + e_L1      δ: 24 ring cells, 8 learned (R-01, R-02)
        t⁽²⁾ = W_v2 L2(q + δ_i) + e_L2 + rpe_i              5×5
        t⁽³⁾ = L3(q + δ_i) + e_L3 + rpe_i                   5×5
        t⁽⁴⁾ = W_v4 L4(q + δ_i) + e_L4 + rpe_i              3×3, the inner nine of the 5×5 table (R-08)

    W_v2 and W_v4 are applied to the maps once per image: a projection without bias commutes with bilinear
    sampling and zero padding (R-09).
    """

    def __init__(self, config: L1Tokens.Config, dims: Dims) -> None:
        super().__init__(config, dims)
        fine, low, _, deep = dims.pyramid
        if self.learned:
            self.offset = nn.Linear(fine, 2 * self.learned)
        self.local = nn.Linear(fine + 4 * OFFSET_FREQ, dims.core)
        self.value2 = nn.Linear(low, dims.core, bias=False)
        self.value4 = nn.Linear(deep, dims.core, bias=False)
        self.seed = nn.Linear(fine + 4 * POSITION_FREQ, dims.core)
        self.level_embed = nn.Parameter(0.02 * torch.randn(4, dims.core))
        self.rpe = nn.Parameter(0.02 * torch.randn(self.side**2, dims.core))

    def prepare(self, pyramid: Pyramid) -> LocalMaps:
        """The four maps as tables, L2 and L4 already projected."""
        fine, embedding_TD = self._fine_map(pyramid.l1), self._embeddings()
        l2 = pyramid.l2.table(pad=PAD, by=self.value2)
        l3 = pyramid.l3.table(pad=PAD)
        l4 = pyramid.l4.table(pad=PAD, by=self.value4)
        levels = (l2, self.side), (l3, self.side), (l4, 3)
        return LocalMaps(fine, l2, l3, l4, embedding_TD, self._in_one_call(LocalTokens, fine, levels, embedding_TD))

    def _made(self, maps: LocalMaps, xy_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """The seed, and the tokens of all levels with their embeddings."""
        around_BKTC, centre_BKC = self._around(maps.l1, xy_BK2)
        levels = [
            self._local_tokens(maps.fine, xy_BK2, around_BKTC, centre_BKC),
            maps.l2.read_neighbourhood(maps.l2.xy_lvl(xy_BK2), self.side),
            maps.l3.read_neighbourhood(maps.l3.xy_lvl(xy_BK2), self.side),
            maps.l4.read_neighbourhood(maps.l4.xy_lvl(xy_BK2), 3),
        ]
        tokens_BKTD = torch.cat(levels, dim=2)
        # in place: a second copy of all tokens would double the cost
        tokens_BKTD += maps.embedding_TD.to(tokens_BKTD.dtype)
        return self._seed(centre_BKC, xy_BK2), tokens_BKTD

    def _groups(self) -> tuple[tuple[str, int], ...]:
        """As for L1 alone, then the neighbourhoods of the other levels."""
        return (*super()._groups(), ("L2", self.side**2), ("L3", self.side**2), ("L4", 9))

    def _embeddings(self) -> Tensor:
        """`LocalMaps.embedding_TD`."""
        local = self.side**2 - (not self.centre_is_token) + self.learned
        inner = slice(self.side // 2 - 1, self.side // 2 + 2)
        inner_9D = self.rpe.view(self.side, self.side, -1)[inner, inner].flatten(0, 1)
        e1, e2, e3, e4 = self.level_embed
        return torch.cat([e1.expand(local, -1), e2 + self.rpe, e3 + self.rpe, e4 + inner_9D])
