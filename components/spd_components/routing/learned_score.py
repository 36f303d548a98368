"""Routing by a learned score.

Letters: B images, K queries, S sites of L4, R anchors, D core width, Z width of the score.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from spd_bench.api import Anchors, Block, Dims, Pyramid, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count, straight_through, top_sites


class LearnedScore(Block):
    """R_q = the R sites of L4 with the largest learned score of query and site, ties to the lower index (R-11).

        σ_s  = (W_q LN(h) + b_q) · (W_k L4_s) / √Z        W_k L4 once per image
        w    = softmax over sites of σ                    gate 1 + w_r − stopgrad(w_r), as in R-12

    A fair comparison with `topk_attention`: as many anchors, the same B4 and the same straight-through gradient, with
    weights of its own: one attention head without values (18,848 parameters). It needs no attention, so it also works
    without B3.
    """

    slot = "routing"
    reads = frozenset({"h"})
    writes = frozenset({"anchors"})

    class Config(AnchorConfig):
        """Options of routing."""

        width: int = Field(default=32, ge=1)
        """Width Z of the score: the rank of the bilinear form of h and L4."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.query_norm = nn.LayerNorm(dims.core)
        self.query = nn.Linear(dims.core, config.width)
        # no bias: it would add the same to every site of a query, which does not change the softmax
        self.key = nn.Linear(dims.pyramid[3], config.width, bias=False)

    def prepare(self, pyramid: Pyramid) -> Tensor:
        """W_k L4 for every site, ready for the product with queries: [B, Z, S]."""
        key_BSZ: Tensor = self.key(pyramid.l4.map_BHWC.flatten(1, 2))
        return key_BSZ.transpose(1, 2).contiguous()

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes the anchors."""
        check_anchor_count(self.config.r, scene.pyramid.l4)
        weight_BKR, site_BKR = top_sites(self._weights(state, scene), self.config.r)
        return replace(state, anchors=Anchors(site_BKR, gate_BKR=straight_through(weight_BKR)))

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Entropy of the weights as a share of ln S (1: uniform), and the largest weight, both means over queries."""
        weight_BKS = self._weights(state, scene).double()
        entropy_BK = -torch.special.xlogy(weight_BKS, weight_BKS).sum(-1)
        return {
            "score_entropy": float(entropy_BK.mean()) / math.log(max(2, weight_BKS.shape[-1])),
            "score_peak": float(weight_BKS.amax(-1).mean()),
        }

    def _weights(self, state: QueryState, scene: Scene) -> Tensor:
        """w of every query over the sites: [B, K, S]."""
        query_BKZ = self.query(self.query_norm(state.h_BKD)) / math.sqrt(self.config.width)
        score_BKS: Tensor = query_BKZ @ scene.prepared[self.slot]
        # in half precision different scores could be equal
        return score_BKS.to(state.xy_BK2.dtype).softmax(-1)
