"""The depth head of §6.5 with the logarithm of depth as its link."""

import math

from torch import Tensor

from spd_components.depth_heads.shared import TYPICAL_DEPTH_M, CalibratedHead

LARGEST_LOG = math.log(1e6)
"""Depths are limited to 1e-6 … 1e6 m, so that powers of a depth fit into float32."""


class LogDepth(CalibratedHead):
    """d = exp(s·r + b) metres, r = MLP(h), (s, b) from mean-pooled L4 as in §5.4; the exponent stays within ±ln 1e6.

    A fair comparison with `calibrated_inverse`: the same MLP, calibration and start at 2.7 m, with another link between
    code and depth: equal steps of the code are equal ratios of depth.
    """

    start = math.log(TYPICAL_DEPTH_M)

    def link(self, z_BK: Tensor) -> Tensor:
        """Metres from ln d = z."""
        return z_BK.clamp(-LARGEST_LOG, LARGEST_LOG).exp()
