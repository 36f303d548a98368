"""Baseline `dpt_trained` (R-27a): a DPT head trained on the same frozen features, data and point loss.

The upper bound of the comparison: dense decoding with everything else equal. `prepare` computes the whole map once per
image; a query only reads it.
"""

from torch import Tensor

from spd_baselines.dpt_head import read_map
from spd_baselines.dpt_training import TrainedDPT
from spd_baselines.output import depth_of
from spd_bench.api import Features


class DPTTrained(TrainedDPT):
    """DAv2's DPT head for this encoder's width, its last ReLU replaced by the calibrated output (R-15).

    Raises ConfigError for a width without a released head, and for `init: released` without a head in the encoder's
    file.
    """

    registered = "dpt_trained"

    def prepare(self, features: Features) -> Tensor:
        """The dense inverse depth ρ in 1/m, [B, H, W] at the encoder's input resolution."""
        rho_BHW: Tensor = self.dpt(features)
        return rho_BHW

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: 1/ρ with ρ read bilinearly, [B, K]."""
        return depth_of(read_map(scene, xy_BK2))
