"""Baseline `linear_probe`: what a linear layer reads from the frozen features, by the recipe of DINOv2 and DINOv3.

Batch norm over channels, one linear layer to the logits of N depths, evenly spaced in metres, and a mean of those
depths (Oquab et al. 2024, §7.4; the depth evaluation of DINOv3's repository). The logits are enlarged before the mean
is taken, and depth is read from the enlarged grid:

    l = W·BN(maps) + b                              [B, Hp, Wp, N]      once per image
    L = bilinear enlargement of l                   [B, u·Hp, u·Wp, N]  only around queries
    p = (ReLU(L) + 0.1) / Σ_n (ReLU(L_n) + 0.1)     d = Σ_n p_n c_n

DINOv2 enlarges features and applies the layer there: bilinear weights sum to one, so both orders give the same logits.
In training the statistics of the batch norm are those of the cells, not of the enlarged map.

Letters: B images, K points, C channels, N depths, H W cells of the enlarged grid.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from spd_baselines.dpt_head import dense_xy
from spd_baselines.output import TYPICAL_DEPTH_M, at_least_float32
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.geometry import Table, bilinear_weights, constant

FLOOR = 0.1
"""Added to every logit after the ReLU, so that the mean exists where all are negative."""
STEEPEST = 8.0
"""Largest logarithm of the ratio of the first share to the last that an initial bias may have."""
INITIAL_SPREAD = 0.01
"""Standard deviation of the initial weights, as in both repositories."""


class LinearReadout(PointDepthModel):
    """Options, parameters and logits that both forms of the probe share."""

    depth_m_N: Tensor

    class Config(ComponentConfig):
        """The recipe; its defaults are those of DINOv3's, `layers: four` with `batch_norm: false` DINOv2's linear-4."""

        layers: Literal["last", "four"] = "last"
        """The maps that the layer sees: the deepest (linear-1), or all four side by side (linear-4)."""
        batch_norm: bool = True
        """Whether a batch norm stands before the linear layer."""
        n_bins: int = Field(default=256, ge=2)
        """Number N of depths."""
        min_m: float = Field(default=0.001, gt=0, allow_inf_nan=False)
        """Smallest depth in metres."""
        max_m: float = Field(default=10.0, gt=0, allow_inf_nan=False)
        """Largest depth in metres."""
        upsample: int = Field(default=4, ge=1)
        """Factor u by which logits are enlarged before their mean is taken; 1: depth is read from the patch grid."""

        @model_validator(mode="after")
        def _has_a_range(self) -> "LinearReadout.Config":
            if self.max_m <= self.min_m:
                raise PydanticCustomError("range", f"max_m should be larger than min_m, which is {self.min_m:g}")
            return self

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        channels = encoder.maps[3] if config.layers == "last" else sum(encoder.maps)
        self.norm = nn.BatchNorm1d(channels) if config.batch_norm else nn.Identity()
        self.linear = nn.Linear(channels, config.n_bins)
        nn.init.normal_(self.linear.weight, std=INITIAL_SPREAD)
        depth_m_N = torch.linspace(config.min_m, config.max_m, config.n_bins, dtype=torch.float64)
        with torch.no_grad():
            self.linear.bias.copy_(initial_logits(depth_m_N))
        self.register_buffer("depth_m_N", depth_m_N.to(torch.get_default_dtype()), persistent=False)

    def logits(self, features: Features) -> Tensor:
        """l on the patch grid: [B, Hp, Wp, N]."""
        maps = features.maps_BHWC[3:] if self.config.layers == "last" else features.maps_BHWC
        seen_BHWC = torch.cat(maps, dim=-1)
        logits_MN: Tensor = self.linear(self.norm(seen_BHWC.flatten(0, 2)))
        return at_least_float32(logits_MN.unflatten(0, seen_BHWC.shape[:3]))

    def mean_depth(self, logits: Tensor) -> Tensor:
        """Metres from logits [..., N]."""
        share = F.relu(logits) + FLOOR
        depth_m: Tensor = (share @ self.depth_m_N.to(share.dtype)) / share.sum(-1)
        return depth_m


def initial_logits(depth_m_N: Tensor) -> Tensor:
    """Logits ≥ 0 at which the mean of these depths is `TYPICAL_DEPTH_M`.

    Shares fall exponentially with depth, FLOOR at the largest: FLOOR · exp((c_N − c_n) r), with r by bisection. Zero,
    and so the plain mean, where no such r reaches it: depths that all lie beyond it, or up to 80 m.
    """

    def share(rate: float) -> Tensor:
        return FLOOR * torch.exp((depth_m_N[-1] - depth_m_N) * rate)

    low, high = 0.0, STEEPEST / float(depth_m_N[-1] - depth_m_N[0])
    for _ in range(60):
        rate = (low + high) / 2
        mean = float((share(rate) * depth_m_N).sum() / share(rate).sum())
        low, high = (rate, high) if mean > TYPICAL_DEPTH_M else (low, rate)
    reached = abs(mean - TYPICAL_DEPTH_M) < 1e-6
    return share(rate) - FLOOR if reached else torch.zeros_like(depth_m_N)


class LinearProbe(LinearReadout):
    """d = Σ_n p_n c_n from one linear layer on frozen features, computed exactly and only around the queries.

    The floor of the comparison: what a decoder adds is what it is better than this. A fair one in features, images,
    queries and steps; the recipe's own loss is `train.loss: silog`. Its authors also rotate and crop images, train
    38,400 steps and average over a flipped image, which a suite here does not; and depth starts at 2.7 m, as in every
    model here (R-15), not at the mean of the bins.
    """

    def prepare(self, features: Features) -> Table:
        """The logits of every cell."""
        return Table.of(self.logits(features), extent=(1.0, 1.0), pad=2)

    def decode(self, scene: Table, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, [B, K]: bilinear between four cells of the enlarged grid.

        Beyond the outermost cell centres both enlargement and read repeat the border.
        """
        up = self.config.upsample
        size_2 = constant([up * scene.width, up * scene.height], like=xy_BK2)
        at_BK2 = dense_xy(xy_BK2, width=up * scene.width, height=up * scene.height) - 0.5
        low_BK2 = at_BK2.detach().floor()
        step_42 = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=at_BK2.dtype, device=at_BK2.device)
        cell_BK42 = torch.minimum(low_BK2[:, :, None] + step_42, size_2 - 1)
        xy_cell = dense_xy((cell_BK42 + 0.5) / size_2, width=scene.width, height=scene.height)
        logits_BKN = scene.read(xy_cell.flatten(1, 2))
        depth_m_BK4 = self.mean_depth(logits_BKN).unflatten(1, xy_cell.shape[1:3])
        depth_m_BK: Tensor = (depth_m_BK4 * bilinear_weights(at_BK2 - low_BK2)).sum(-1)
        return depth_m_BK
