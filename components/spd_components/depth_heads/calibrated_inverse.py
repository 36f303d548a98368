"""The depth head of §6.5 with the per-image calibration of §5.4."""

from torch import Tensor

from spd_components.depth_heads.shared import INVERSE_START, CalibratedHead, inverse_link


class CalibratedInverse(CalibratedHead):
    """d = 1 / (softplus(s·r + b) + 1e-6) metres, r = MLP(h), (s, b) from mean-pooled L4 (§5.4, §6.5, R-15).

    softplus and division run in float32 or better. The calibration starts at s = 1 and ρ = 1/2.7 m for every image.
    """

    start = INVERSE_START

    def link(self, z_BK: Tensor) -> Tensor:
        """Metres from inverse depth softplus(z)."""
        return inverse_link(z_BK)
