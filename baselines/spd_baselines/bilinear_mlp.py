"""Baseline `bilinear_mlp` (R-28): read one feature under the query, apply a small MLP.

The simplest sparse decoder, for comparison with B1–B5: the neck's finest level L1 (§4), the lookup of §6.1's centre
feature, and an MLP 64 → 192 → 1 with the calibrated output. It has no L4 to pool, so the calibration s, b of §5.4 is
two global parameters instead of two linear heads.

Letters: B images, K points, C channels, H W cells of the named map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_baselines.output import INITIAL_BIAS, UNIT_SCALE, at_least_float32, calibrated_inverse_depth, depth_of
from spd_bench.api import ComponentConfig, Encoder, Features, Level, PointDepthModel
from spd_bench.geometry import sample, unit_to_level


class BilinearMLP(PointDepthModel):
    """ρ = softplus(s · MLP(Bilinear(L1, q)) + b) + ε."""

    class Config(ComponentConfig):
        """No options: sizes are those of L1 and of the core (§2)."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.l1_proj = nn.Linear(encoder.maps[0], 64)
        self.l1_norm = nn.LayerNorm(64)
        self.mlp = nn.Sequential(nn.Linear(64, 192), nn.GELU(), nn.Linear(192, 1))
        self.calib_scale_raw = nn.Parameter(torch.tensor(UNIT_SCALE))
        self.calib_bias = nn.Parameter(torch.tensor(INITIAL_BIAS))

    def prepare(self, features: Features) -> Level:
        """L1 [B, 4·Hp, 4·Wp, 64] of the shallowest map: 1×1 convolution, bilinear ↑4×, LayerNorm per cell.

        The convolution commutes with the resize, so it runs first, on 16 times fewer cells (R-06).
        """
        small_BCHW = self.l1_proj(features.maps_BHWC[0]).permute(0, 3, 1, 2)
        large_BCHW = F.interpolate(small_BCHW, scale_factor=4, mode="bilinear", align_corners=False)
        return Level(self.l1_norm(at_least_float32(large_BCHW).permute(0, 2, 3, 1)))

    def decode(self, scene: Level, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: [B, K]."""
        xy_lvl_BK2 = unit_to_level(xy_BK2, width=scene.width, height=scene.height, extent=scene.extent)
        code_BK = self.mlp(sample(scene.map_BHWC, xy_lvl_BK2)).squeeze(-1)
        rho_BK = calibrated_inverse_depth(code_BK, F.softplus(self.calib_scale_raw), self.calib_bias)
        return depth_of(rho_BK)
