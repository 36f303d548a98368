"""Routing by distance."""

from dataclasses import replace

import torch

from spd_bench.api import Anchors, Block, QueryState, Scene
from spd_components.routing.anchors import AnchorConfig, check_anchor_count, site_centres


class Nearest(Block):
    """The R sites of L4 nearest to the query in the unit square, ties to the lower index.

    A fair comparison with §6.3: as many anchors and the same B4, chosen without content. It needs no attention, so it
    also works without B3.
    """

    slot = "routing"
    reads = frozenset()
    writes = frozenset({"anchors"})

    class Config(AnchorConfig):
        """Options of routing."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes the anchors."""
        l4 = scene.pyramid.l4
        check_anchor_count(self.config.r, l4)
        away_BKS2 = state.xy_BK2[:, :, None] - site_centres(l4, like=state.xy_BK2)
        order_BKS = torch.sort(away_BKS2.square().sum(-1), dim=-1, stable=True).indices
        return replace(state, anchors=Anchors(order_BKS[..., : self.config.r]))
