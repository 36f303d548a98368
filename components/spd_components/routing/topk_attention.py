"""Attention-based routing of §6.3."""

from dataclasses import replace

from spd_bench.api import Anchors, Block, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count, straight_through, top_sites


class TopKAttention(Block):
    """R_q = the R sites of L4 with the largest ᾱ_q, ties to the lower index; no parameters (§6.3, R-11).

    The hard choice is made differentiable by a gate on each anchor's evidence, 1 + ᾱ_r − stopgrad(ᾱ_r):
    one in value, with the gradient of ᾱ_r (R-12).
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
        weight_BKR, site_BKR = top_sites(state.attention_BKS, self.config.r)
        # without a gradient, the gate would only multiply by one
        gate_BKR = straight_through(weight_BKR) if weight_BKR.requires_grad else None
        return replace(state, anchors=Anchors(site_BKR, gate_BKR))
