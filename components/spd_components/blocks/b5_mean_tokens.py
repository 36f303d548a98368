"""The stand-in for a left-out B5: the mean of all tokens."""

from dataclasses import replace

import torch

from spd_bench.api import Block, ComponentConfig, QueryState, Scene


class MeanTokens(Block):
    """h + the mean of the standardised tokens: attention with uniform weights and no parameters.

    A fair comparison for leaving B5 out: B4's evidence still reaches the depth head, without B5's layers.
    """

    slot = "b5"
    reads = frozenset({"h", "tokens"})
    writes = frozenset({"h"})

    class Config(ComponentConfig):
        """No options."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h."""
        assert state.tokens is not None
        assert state.h_BKD is not None
        mean_BKD = torch.cat([part.standard_BKTD for part in state.tokens], dim=2).mean(2)
        return replace(state, h_BKD=state.h_BKD + mean_BKD)
