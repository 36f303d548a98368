"""Routing to the same cells for every query."""

from dataclasses import replace

import torch

from spd_bench.api import Anchors, Block, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count


class UniformGrid(Block):
    """R sites spread evenly over L4 in row-major order, the same for every query: site ⌊(i + ½) S / R⌋.

    A fair comparison with §6.3: as many anchors and the same B4, chosen without content and query.
    """

    slot = "routing"
    reads = frozenset()
    writes = frozenset({"anchors"})

    class Config(AnchorConfig):
        """Options of routing."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes the anchors."""
        l4 = scene.pyramid.l4
        r, sites = self.config.r, l4.height * l4.width
        check_anchor_count(r, l4)
        site_R = (2 * torch.arange(r, device=state.xy_BK2.device) + 1) * sites // (2 * r)
        return replace(state, anchors=Anchors(site_R.expand(*state.xy_BK2.shape[:2], r)))
