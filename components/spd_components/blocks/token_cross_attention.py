"""The decoder that B2 (§6.2) and B5 (§6.5) share: Pre-LN cross-attention layers over the query's own tokens."""

from dataclasses import replace
from typing import ClassVar, cast

from pydantic import Field
from torch import nn

from spd_bench.api import Block, ComponentConfig, Dims, Looked, Pyramid, QueryState, Scene
from spd_components.blocks.layers import Absorbed, TokenAttentionLayer


class TokenCrossAttention(Block):
    """A stack of token attention layers behind one shared LN_kv; a subclass sets the slot and the number of layers."""

    reads: ClassVar[frozenset[str]] = frozenset({"h", "tokens"})
    writes: ClassVar[frozenset[str]] = frozenset({"h"})
    # softmax does not see a key bias, so its exact gradient is zero (see TokenAttentionLayer)
    no_gradient = ("layers.*.key.bias",)

    class Config(ComponentConfig):
        """Options of a token decoder."""

        layers: int = Field(default=2, ge=1, le=8)
        """Number of decoder layers."""
        dropout: float = Field(default=0.1, ge=0, lt=1)
        """Dropout on attention weights, in training only (R-10)."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.token_norm = nn.LayerNorm(dims.core)
        self.layers = nn.ModuleList(TokenAttentionLayer(dims, config.dropout) for _ in range(config.layers))

    def prepare(self, pyramid: Pyramid) -> list[Absorbed]:
        """Every layer's keys and values, arranged for standardised tokens: the same for every query."""
        return [cast(TokenAttentionLayer, layer).absorb(self.token_norm) for layer in self.layers]

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h after all layers."""
        h_BKD = state.h_BKD
        for layer, absorbed in zip(self.layers, scene.prepared[self.slot], strict=True):
            h_BKD = layer(h_BKD, state.tokens, absorbed)
        return replace(state, h_BKD=h_BKD)

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """The attention of each layer to the tokens."""
        assert state.h_BKD is not None
        assert state.tokens is not None
        h_BKD, shares = state.h_BKD, []
        for layer, absorbed in zip(self.layers, scene.prepared[self.slot], strict=True):
            shares.append(cast(TokenAttentionLayer, layer).shares(h_BKD, state.tokens, absorbed))
            h_BKD = layer(h_BKD, state.tokens, absorbed)
        return Looked(token_shares=tuple(shares))
