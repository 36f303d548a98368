"""Attention-based routing without a gradient through the choice."""

from dataclasses import replace

from spd_bench.api import Anchors, Block, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count, top_sites


class NoGradient(Block):
    """R_q = the R sites of L4 with the largest ᾱ_q, as in §6.3, without the gate of R-12: the choice has no gradient.

    B3 still trains through h. A fair comparison with `topk_attention`: the same anchors from the same weights and the
    same B4, without the gradient of the choice to ᾱ.
    """

    slot = "routing"
    reads = frozenset({"attention"})
    writes = frozenset({"anchors"})

    class Config(AnchorConfig):
        """Options of routing."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes the anchors."""
        assert state.attention_BKS is not None
        check_anchor_count(self.config.r, scene.pyramid.l4)
        return replace(state, anchors=Anchors(top_sites(state.attention_BKS, self.config.r)[1]))
