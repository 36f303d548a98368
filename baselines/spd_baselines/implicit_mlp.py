"""Baseline `implicit_mlp`: the nearest rival that answers a query alone, as the implicit head of InfiniDepth (2026).

Four maps, projected once per image to the widths of L1 to L4 (§4), are read bilinearly at the query; each read is
normalised, and one MLP maps the four side by side to the logarithm of depth:

    z = [LN(read(W_n · map_n)), n = 1 … 4]       ln d = MLP(z)

Unlike InfiniDepth's head it has no convolutional stem on the image, which costs more than a dense head, and it predicts
metres. Maps stay on the patch grid: a bilinear read of a map that was enlarged bilinearly is nearly the same read.
L4 is pooled by two, as in §4, for a wider view.

Letters: B images, K points, C channels, H W cells of the named map.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from spd_baselines.output import TYPICAL_DEPTH_M, at_least_float32
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.geometry import Table

LEVELS = (64, 128, 192, 384)
"""Channels of the four projected maps, those of L1 to L4 (§4)."""
LARGEST_LOG = math.log(1e6)
"""Depths are limited to 1e-6 … 1e6 m."""


class ImplicitMLP(PointDepthModel):
    """ln d = MLP(four levels read at the query): no attention, no anchors, no neighbours.

    A fair comparison with the full model in features, images, queries, steps and loss, and in the neck's budget; what
    it lacks is B1 to B5. With the default widths a query costs 0.54 M multiply-adds, about a fifteenth of v13's.
    """

    class Config(ComponentConfig):
        """Size of the MLP."""

        hidden: tuple[int, ...] = Field(default=(512, 256, 32), min_length=1)
        """Widths of its hidden layers; [512, 1024, 256, 32] are InfiniDepth's."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.projections = nn.ModuleList(
            nn.Linear(width, level) for width, level in zip(encoder.maps, LEVELS, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(level) for level in LEVELS)
        widths = (sum(LEVELS), *config.hidden)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.GELU()]
        last = nn.Linear(widths[-1], 1)
        nn.init.constant_(last.bias, math.log(TYPICAL_DEPTH_M))
        self.mlp = nn.Sequential(*layers, last)

    def prepare(self, features: Features) -> tuple[Table, ...]:
        """The four projected maps; the last one pooled by two, without an odd last row or column (R-05)."""
        maps_BHWC = [project(map_BHWC) for project, map_BHWC in zip(self.projections, features.maps_BHWC, strict=True)]
        rows, columns = maps_BHWC[3].shape[1:3]
        covered = (1.0, 1.0)
        if rows > 1 and columns > 1:
            maps_BHWC[3] = F.avg_pool2d(maps_BHWC[3].permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            covered = (columns // 2 * 2 / columns, rows // 2 * 2 / rows)
        extents = ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0), covered)
        return tuple(Table.of(map_BHWC, extent=e, pad=2) for map_BHWC, e in zip(maps_BHWC, extents, strict=True))

    def decode(self, scene: tuple[Table, ...], xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, [B, K]."""
        reads = [norm(level.read(level.xy_lvl(xy_BK2))) for norm, level in zip(self.norms, scene, strict=True)]
        log_m_BK = at_least_float32(self.mlp(torch.cat(reads, dim=-1)).squeeze(-1))
        return log_m_BK.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
