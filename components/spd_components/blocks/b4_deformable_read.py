"""B4 of §6.4: deformable evidence from the pyramid around each routed anchor.

Letters: B images, K queries, R anchors, S sites of L4, D core width, N heads, E width per head, L levels, M samples,
P Fourier features, 2 an (x, y) pair.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from spd_bench.api import Block, ComponentConfig, Dims, Looked, Pyramid, QueryState, Scene, StandardTokens, TokenPart
from spd_bench.fused import forms, products
from spd_bench.fused.deformable_read import FusedRead, Weights
from spd_bench.geometry import Stack, batch_offset, constant, weighted_rows
from spd_components.blocks.layers import fourier
from spd_components.routing.anchors import site_centres

ANCHOR_FREQ = 8
PAD = 2


@dataclass(frozen=True)
class DeformableMaps:
    """What B4 computes once per image (§5.2, §5.3)."""

    values: Stack
    """The levels that are read, L̂2, L̂3, L̂4, as tables of D channels."""
    conditioning_BSD: Tensor
    """W_u's part on g for each site of L4, with the bias."""
    site_xy_S2: Tensor
    """The sites in the unit square."""
    fused: FusedRead
    """The fused forms of every step on these images."""


def ring_offsets(heads: int, *, levels: int, samples: int) -> Tensor:
    """Initial offsets of Deformable-DETR (R-13): head n looks in direction 2πn/N, sample m at distance m cells.

    The same on each level: [N, L, M, 2].
    """
    angle_N = torch.arange(heads) * (2 * math.pi / heads)
    direction_N2 = torch.stack([angle_N.cos(), angle_N.sin()], dim=-1)
    direction_N2 = direction_N2 / direction_N2.abs().amax(-1, keepdim=True)
    distance_M = torch.arange(1, samples + 1, dtype=direction_N2.dtype)
    offset_NM2 = direction_N2[:, None] * distance_M[:, None]
    return offset_NM2[:, None].expand(-1, levels, -1, -1)


def difference_code(p_BKR2: Tensor, q_BK2: Tensor) -> Tensor:
    """φ(p − q) of §6.4 by the angle-difference identities: [B, K, R, 4·ANCHOR_FREQ], equal to fourier(p − q)."""
    sin_p, cos_p = fourier(p_BKR2, ANCHOR_FREQ).unflatten(-1, (2, 2, ANCHOR_FREQ)).unbind(-2)
    sin_q, cos_q = fourier(q_BK2, ANCHOR_FREQ).unflatten(-1, (2, 2, ANCHOR_FREQ))[:, :, None].unbind(-2)
    return torch.stack([sin_p * cos_q - cos_p * sin_q, cos_p * cos_q + sin_p * sin_q], dim=-2).flatten(-3)


def _queries(state: QueryState) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, h and points of every query, as the fused forms take them."""
    assert state.anchors is not None
    assert state.h_BKD is not None
    return state.anchors.site_BKR, state.h_BKD, state.xy_BK2


def _ascending(levels: tuple[int, ...]) -> tuple[int, ...]:
    if any(high <= low for low, high in pairwise(levels)):
        raise PydanticCustomError("levels", "should be levels in ascending order, each once")
    return levels


class DeformableRead(Block):
    """For each anchor: 6 heads × 3 levels × 4 samples, read from L̂2–L̂4 and summed into one token (§6.4).

        u_r  = LN(GELU(W_u [h; g_r; φ(p_r − q)] + b_u))                      (R-02)
        Δ    = W^Δ u_r + b^Δ   in cells of each level                        (R-13)
        a    = softmax over level and sample of W^a u_r + b^a                (R-14)
        h_r  = W_O [Σ a · L̂_n(p_r + Δ)]_n + b_O, times the routing gate      (R-12)

    With fewer `levels` or `samples` the softmax runs over the remaining ones and everything else is the same: a fair
    comparison of levels and of numbers of samples.

    Exact rearrangements: W_u is split, its g part computed once per site; φ comes from angle addition; all samples of a
    head are one weighted gather with the softmax weights folded in.
    """

    slot = "b4"
    reads = frozenset({"h", "anchors", "tokens"})
    writes = frozenset({"tokens"})
    left_out = {"b4": "skip", "routing": "none"}
    budget = {
        "": "B4: deformable read + fusion (§6.4)",
        "anchor.": "W_g anchor projection (§5.2)",
        "value2.": "B4 W_V pre-projections (§5.3)",
        "value3.": "B4 W_V pre-projections (§5.3)",
        "value4.": "B4 W_V pre-projections (§5.3)",
        "evidence_embed": "B1: feature extraction + tokens (§6.1)",
    }

    class Config(ComponentConfig):
        """Options of B4."""

        levels: Annotated[tuple[Literal[2, 3, 4], ...], AfterValidator(_ascending)] = Field(
            default=(2, 3, 4), min_length=1, strict=False
        )
        """Levels of the pyramid that are read."""
        samples: int = Field(default=4, ge=1, le=16)
        """Samples per head and level."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.levels, self.samples = config.levels, config.samples
        ring_NLM2 = ring_offsets(dims.heads, levels=len(self.levels), samples=self.samples)
        self.anchor = nn.Linear(dims.pyramid[3], dims.core)
        for level in self.levels:
            self.add_module(f"value{level}", nn.Linear(dims.pyramid[level - 1], dims.core, bias=False))
        self.condition = nn.Linear(2 * dims.core + 4 * ANCHOR_FREQ, dims.core)
        self.condition_norm = nn.LayerNorm(dims.core)
        self._start_offsets(ring_NLM2.flatten())
        self.weight = nn.Linear(dims.core, dims.heads * self._per_head)
        self.out = nn.Linear(dims.core, dims.core)
        self.evidence_embed = nn.Parameter(0.02 * torch.randn(dims.core))
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def _start_offsets(self, ring: Tensor) -> None:
        """Creates W^Δ and b^Δ, which start with the offsets of the ring: (x, y) of every sample, flat."""
        self.offset = nn.Linear(self.dims.core, len(ring))
        nn.init.zeros_(self.offset.weight)
        with torch.no_grad():
            self.offset.bias.copy_(ring)

    @property
    def _per_head(self) -> int:
        """Samples of a head on all levels, L·M."""
        return len(self.levels) * self.samples

    def prepare(self, pyramid: Pyramid) -> DeformableMaps:
        """The projected levels and the conditioning of every site, once per image."""
        read = [(self.get_submodule(f"value{level}"), getattr(pyramid, f"l{level}")) for level in self.levels]
        values = Stack.of([level.table(pad=PAD, by=value) for value, level in read])
        _, on_anchor, _ = self._condition_weights()
        anchor_BSD = products.linear(pyramid.l4.map_BHWC.flatten(1, 2), self.anchor.weight, self.anchor.bias)
        conditioning_BSD = products.linear(anchor_BSD, on_anchor, self.condition.bias)
        site_xy_S2 = site_centres(pyramid.l4, like=pyramid.l4.map_BHWC)
        fused = FusedRead(
            self.fused_weights(),
            heads=self.dims.heads,
            width=self.dims.head,
            code=partial(fourier, num_freq=ANCHOR_FREQ),
            conditioning_BSD=conditioning_BSD,
            site_xy_S2=site_xy_S2,
            samples=values.samples(self.samples, like=site_xy_S2),
        )
        return DeformableMaps(values, conditioning_BSD, site_xy_S2, fused)

    def fused_weights(self) -> Weights:
        """The weights for the fused forms. A step that a subclass overrides is not taken for that of §6.4."""
        unchanged = partial(forms.unchanged, self, DeformableRead)
        learned = None
        if unchanged("_offsets"):
            learned = [(self.offset.weight[axis::2], self.offset.bias[axis::2]) for axis in (0, 1)]
        return Weights(
            condition=self.condition,
            condition_norm=self.condition_norm,
            score=self.weight,
            out=self.out,
            added_D=self.evidence_embed,
            learned=learned,
            constant=None,
            conditioned=unchanged("_conditioning"),
            bilinear=unchanged("_cells", "_weights"),
        )

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Appends one evidence token per anchor."""
        assert state.tokens is not None
        return replace(state, tokens=(*state.tokens, self._part(state, scene.prepared[self.slot])))

    def _part(self, state: QueryState, maps: DeformableMaps) -> TokenPart:
        """The tokens; in inference the fused form computes them standardised, which is all that readers need."""
        assert state.anchors is not None
        standard_BKRD = maps.fused.tokens(*_queries(state)) if state.anchors.gate_BKR is None else None
        if standard_BKRD is None:
            return TokenPart(self._tokens(state, maps))
        return StandardTokens(standard_BKRD, lambda: self._tokens(state, maps))

    def _tokens(self, state: QueryState, maps: DeformableMaps) -> Tensor:
        """One token per anchor: [B, K, R, D]."""
        assert state.anchors is not None
        site_BKR, gate_BKR = state.anchors.site_BKR, state.anchors.gate_BKR
        x_QT, y_QT, score_QT = self._samples(state, maps)
        read_QD = maps.fused.read(site_BKR, x_QT, y_QT, score_QT)
        if read_QD is None:
            read_QD = self._read(maps, site_BKR, x_QT, y_QT, self._weights(score_QT))
        evidence_BKRD = self.out(read_QD.view(*site_BKR.shape, -1))
        if gate_BKR is not None:
            evidence_BKRD = evidence_BKRD * gate_BKR[..., None]
        return evidence_BKRD + self.evidence_embed  # type: ignore[no-any-return]

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Lookups per query, sampling offsets in cells of their level, and the entropy of the weights.

        Spread is over queries and anchors, 0 before training; entropy is a share of that of equal weights.
        """
        x_QT, y_QT, score_QT = self._samples(state, scene.prepared[self.slot])
        alpha_QT = self._weights(score_QT)
        entropy = -torch.special.xlogy(alpha_QT, alpha_QT).sum() / (self.dims.heads * len(alpha_QT))
        return {
            "lookups": alpha_QT.numel() / state.xy_BK2[..., 0].numel(),
            "offset_length_cells": float(torch.hypot(x_QT, y_QT).mean()),
            "offset_spread_cells": float(torch.stack([x_QT, y_QT]).std(1, correction=0).mean()),
            "weight_entropy": float(entropy) / (math.log(self._per_head) or 1),
        }

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """The samples of all anchors, level by level, with their weights a; those of an anchor and head sum to 1."""
        assert state.anchors is not None
        maps: DeformableMaps = scene.prepared[self.slot]
        x_QT, y_QT, score_QT = self._samples(state, maps)
        shape = (*state.anchors.site_BKR.shape, self.dims.heads, len(self.levels), self.samples)
        offset_BKRNLM2 = torch.stack([x_QT, y_QT], dim=-1).view(*shape, 2)
        weight_BKRNLM = self._weights(score_QT).view(shape)
        anchor_BKR2 = maps.site_xy_S2.to(offset_BKRNLM2.dtype)[state.anchors.site_BKR]
        points = {}
        for index, (level, table) in enumerate(zip(self.levels, maps.values.levels, strict=True)):
            offset_BKRNM2 = offset_BKRNLM2[..., index, :, :] / constant(table.cells, like=offset_BKRNLM2)
            xy_BKRNM2 = anchor_BKR2[:, :, :, None, None] + offset_BKRNM2
            points[f"samples of L{level}"] = xy_BKRNM2.flatten(2, 4), weight_BKRNLM[..., index, :].flatten(2)
        return Looked(points=points, groups=(("evidence", state.anchors.site_BKR.shape[-1]),))

    def _samples(self, state: QueryState, maps: DeformableMaps) -> tuple[Tensor, Tensor, Tensor]:
        """Δx and Δy in cells of their level, and W^a u + b^a, of every anchor: each [Q = B·K·R, T = N·L·M]."""
        u_QD = self._conditioning(state, maps).flatten(0, 2)
        if found := maps.fused.offsets_and_scores(u_QD):
            return found
        # coordinates stay in full precision under autocast
        dtype = state.xy_BK2.dtype
        x_QT, y_QT = (self._offsets(u_QD, axis).to(dtype) for axis in (0, 1))
        return x_QT, y_QT, self.weight(u_QD).to(dtype)

    def _weights(self, score_QT: Tensor) -> Tensor:
        """a of every anchor: softmax over the samples of each head, [Q, T]."""
        score_QNS = score_QT.view(-1, self.dims.heads, self._per_head)
        # a softmax in three steps: over so few numbers the stock one is five times slower
        raised_QNS = (score_QNS - score_QNS.detach().amax(-1, keepdim=True)).exp()
        return (raised_QNS / raised_QNS.sum(-1, keepdim=True)).flatten(1)

    def _offsets(self, u_QD: Tensor, axis: int) -> Tensor:
        """Δ of every anchor along x (axis 0) or y (axis 1) in cells of its level: [Q, T]."""
        return F.linear(u_QD, self.offset.weight[axis::2], self.offset.bias[axis::2])

    def _condition_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_u's parts on h, g and φ."""
        core = self.dims.core
        on_query, on_anchor, on_offset = self.condition.weight.split([core, core, 4 * ANCHOR_FREQ], dim=1)
        return on_query, on_anchor, on_offset

    def _conditioning(self, state: QueryState, maps: DeformableMaps) -> Tensor:
        """u_r of every anchor: [B, K, R, D]."""
        assert state.h_BKD is not None
        assert state.anchors is not None
        found_BKRD = maps.fused.condition(*_queries(state))
        if found_BKRD is not None:
            return found_BKRD
        site_BKR = state.anchors.site_BKR
        on_query, _, on_offset = self._condition_weights()
        of_query_BKD = F.linear(state.h_BKD, on_query)
        batch, sites, core = maps.conditioning_BSD.shape
        rows_BKR = site_BKR + batch_offset(batch, sites, like=site_BKR)[:, None, None]
        of_site_QD = maps.conditioning_BSD.view(-1, core).index_select(0, rows_BKR.flatten())
        anchor_xy_BKR2 = maps.site_xy_S2.to(state.xy_BK2.dtype)[site_BKR]
        code_QP = difference_code(anchor_xy_BKR2, state.xy_BK2).to(on_offset.dtype).flatten(0, 2)
        of_both_QD = torch.addmm(of_site_QD, code_QP, on_offset.t())
        of_all_BKRD = of_both_QD.view(*site_BKR.shape, core) + of_query_BKD[:, :, None]
        return self.condition_norm(F.gelu(of_all_BKRD))  # type: ignore[no-any-return]

    def _read(self, maps: DeformableMaps, site_BKR: Tensor, x_QT: Tensor, y_QT: Tensor, alpha_QT: Tensor) -> Tensor:
        """Σ over levels and samples of a · L̂(p + Δ), each head in its own channels: [Q, D].

        One weighted gather of the cells that `_cells` names: those of an (anchor, head) on all levels are one bag, 48
        rows for 3 levels and 4 samples. Head n of cell c is row c·N + n of the stack seen as E channels wide.
        """
        heads, values, samples = self.dims.heads, maps.values, self._per_head
        order_T = torch.arange(heads * samples, device=x_QT.device)
        anchor_xy_Q2 = maps.site_xy_S2.to(x_QT.dtype)[site_BKR.flatten()]
        row_QT, stride_T, fx_QT, fy_QT = values.taps(anchor_xy_Q2, x_QT, y_QT, order_T % samples // self.samples)
        image_B = batch_offset(site_BKR.shape[0], values.rows_per_image * heads, like=row_QT).to(row_QT.dtype)
        row_QT = row_QT * heads + (order_T // samples).to(row_QT.dtype)
        row_QT = (row_QT.view(len(image_B), -1) + image_B[:, None]).view(row_QT.shape)
        cells = self._cells(row_QT, stride_T * heads, fx_QT, fy_QT, alpha_QT)

        def bags(of_cells_QT: Sequence[Tensor]) -> Tensor:
            by_head = [of_cell_QT.view(-1, heads, samples) for of_cell_QT in of_cells_QT]
            return torch.stack(by_head, dim=2).view(-1, len(by_head) * samples)

        rows_ZS, weight_ZS = (bags(of_cells_QT) for of_cells_QT in zip(*cells, strict=True))
        return weighted_rows(values.rows_NC.view(-1, self.dims.head), rows_ZS, weight_ZS).view(-1, self.dims.core)

    def _cells(
        self, row_QT: Tensor, down_T: Tensor, fx_QT: Tensor, fy_QT: Tensor, alpha_QT: Tensor
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """Cells that each sample reads, as (row, weight): the four around it, bilinear.

        row_QT is that of the upper left one; the cell to its right is N rows on, the one below it `down_T`.
        """
        right, below_QT = self.dims.heads, row_QT + down_T
        lower_QT = alpha_QT * fy_QT
        upper_QT = alpha_QT - lower_QT
        right_up_QT, right_down_QT = upper_QT * fx_QT, lower_QT * fx_QT
        return (
            (row_QT, upper_QT - right_up_QT),
            (row_QT + right, right_up_QT),
            (below_QT, lower_QT - right_down_QT),
            (below_QT + right, right_down_QT),
        )
