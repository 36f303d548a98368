"""Baseline `dpt_trained` (R-27a): a DPT head trained on the same frozen features, data and point loss.

The honest ceiling of the comparison: dense decoding with everything else equal. Decoding is dense and happens
once per image, in `prepare`; a query only reads the map.
"""

from torch import Tensor, nn

from spd_baselines.dpt_head import DPTHead, read_map
from spd_baselines.output import INITIAL_BIAS, InverseDepth, depth_of
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel


class DPTTrained(PointDepthModel):
    """DAv2-S's DPT head from random weights, its last ReLU replaced by the calibrated output (R-15)."""

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = DPTHead(channels=encoder.channels, output=InverseDepth())
        self.dpt.never_run().requires_grad_(False)
        nn.init.constant_(self.dpt.head.conv3.bias, INITIAL_BIAS)

    def prepare(self, features: Features) -> Tensor:
        """The dense inverse depth ρ in 1/m, [B, H, W] at the encoder's input resolution."""
        rho_BHW: Tensor = self.dpt(features)
        return rho_BHW

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: 1/ρ with ρ read bilinearly, [B, K]."""
        return depth_of(read_map(scene, xy_BK2))
