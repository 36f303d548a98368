"""B3 with positions of sites and queries in its attention."""

from dataclasses import replace

from torch import nn

from spd_bench.api import Dims, Pyramid, QueryState, Scene
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.layers import Sites, fourier
from spd_components.routing.anchors import site_centres

SITE_FREQ = 4
"""1, 2, 4 and 8 cycles over the image: 18 sites of a side carry no more than 9, faster ones would alias."""


class WithPosition(GlobalCrossAttention):
    """§6.3 with positions in its attention weights: keys get their site's, queries their own.

        K_s = W_K L4_s + W_KP γ(p_s)      Q = W_Q LN(h) + W_QP γ(q)      V_s as in §5.1

    γ is the Fourier code of the unit square with 4 frequencies, p_s the centre of site s (R-05). W_KP and W_QP are
    each layer's own, without bias, and start at zero: before training this equals §6.3, and each matrix gets its
    gradient through the content of the other side. In §6.3 a key does not contain the position of its site, and h has
    the query's position only from the seed, so that attention can separate near and far by content alone. DETR's
    decoder adds positions in the same way (Carion et al. 2020).

    A fair comparison: the same layers, sites and values, with 12,288 parameters more than B3's 1,037,184 (keys and
    values included), and one small product more per query and layer.
    """

    def __init__(self, config: GlobalCrossAttention.Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.key_position = _zero_projections(config.layers, dims)
        self.query_position = _zero_projections(config.layers, dims)

    def prepare(self, pyramid: Pyramid) -> list[Sites]:
        """Keys, with the positions of their sites, and values of every layer."""
        l4 = pyramid.l4
        code_SP = fourier(site_centres(l4, like=l4.map_BHWC), SITE_FREQ)
        codes = [project(code_SP).T.unflatten(0, (self.dims.heads, -1)) for project in self.key_position]
        prepared = zip(codes, super().prepare(pyramid), strict=True)
        return [of_sites._replace(key_BNES=of_sites.key_BNES + added_NES) for added_NES, of_sites in prepared]

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes h and ᾱ [B, K, S]."""
        h_BKD = state.h_BKD
        code_BKP = fourier(state.xy_BK2, SITE_FREQ)
        each = zip(self.layers, self.query_position, scene.prepared[self.slot], strict=True)
        for layer, project, of_sites in each:
            h_BKD, alpha_BKS = layer(h_BKD, of_sites, added_query_BKD=project(code_BKP))
        return replace(state, h_BKD=h_BKD, attention_BKS=alpha_BKS)


def _zero_projections(layers: int, dims: Dims) -> nn.ModuleList:
    """One projection of a position code per layer, at zero."""
    projections = nn.ModuleList(nn.Linear(4 * SITE_FREQ, dims.core, bias=False) for _ in range(layers))
    for parameter in projections.parameters():
        nn.init.zeros_(parameter)
    return projections
