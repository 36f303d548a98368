"""Baseline `dense_upsampled_probe`: the function of `linear_probe`, computed for the whole image."""

import torch.nn.functional as F
from torch import Tensor

from spd_baselines.dpt_head import read_map
from spd_baselines.linear_probe import LinearReadout
from spd_bench.api import Features


class DenseUpsampledProbe(LinearReadout):
    """The linear probe with its depth at every cell of the enlarged grid, which a query only reads.

    The same parameters, training and value at every point as `linear_probe`, with which it shares one training: only
    the cost differs. A fair comparison of dense and sparse decoding on the cheapest decoder there is.
    """

    trained_as = "linear_probe"

    def prepare(self, features: Features) -> Tensor:
        """Depth in metres on the enlarged grid: [B, u·Hp, u·Wp]."""
        logits_BNHW = self.logits(features).permute(0, 3, 1, 2)
        up = self.config.upsample
        if up > 1:
            logits_BNHW = F.interpolate(logits_BNHW, scale_factor=up, mode="bilinear", align_corners=False)
        return self.mean_depth(logits_BNHW.permute(0, 2, 3, 1))

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, read bilinearly: [B, K]."""
        return read_map(scene, xy_BK2)
