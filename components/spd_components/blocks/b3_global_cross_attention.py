"""B3 of §6.3: the query attends to the whole of L4."""

from dataclasses import replace
from typing import cast

from pydantic import Field
from torch import nn

from spd_bench.api import Block, ComponentConfig, Dims, Pyramid, QueryState, Scene
from spd_components.blocks.layers import SiteAttentionLayer, Sites


class GlobalCrossAttention(Block):
    """Two Pre-LN cross-attention layers over L4's sites: h⁽²⁾ → h⁽²⁾′ (§5.1, §6.3).

    Writes ᾱ, the head-averaged weights of the last layer before dropout, for routing (R-10, R-11).
    """

    slot = "b3"
    reads = frozenset({"h"})
    writes = frozenset({"h", "attention"})
    # softmax does not see a key bias, so its exact gradient is zero
    no_gradient = ("layers.*.key.bias",)
    left_out = {"b3": "skip", "routing": "nearest"}
    budget = {
        "": "B3: global cross-attention (§6.3)",
        "layers.*.key.": "B3 K/V projections (§5.1)",
        "layers.*.value.": "B3 K/V projections (§5.1)",
    }

    class Config(ComponentConfig):
        """Options of B3."""

        layers: int = Field(default=2, ge=1, le=8)
        """Number of decoder layers."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Dropout on attention weights, in training only (R-10)."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.layers = nn.ModuleList(SiteAttentionLayer(dims, config.dropout) for _ in range(config.layers))

    def prepare(self, pyramid: Pyramid) -> list[Sites]:
        """Keys and values of every layer (§5.1)."""
        l4_BSC = pyramid.l4.map_BHWC.flatten(1, 2)
        return [cast(SiteAttentionLayer, layer).prepare(l4_BSC) for layer in self.layers]

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h and ᾱ [B, K, S]."""
        h_BKD = state.h_BKD
        for layer, of_sites in zip(self.layers, scene.prepared[self.slot], strict=True):
            h_BKD, alpha_BKS = layer(h_BKD, of_sites)
        return replace(state, h_BKD=h_BKD, attention_BKS=alpha_BKS)
