"""Baseline `dav2_metric` (R-27c): Depth-Anything-V2-Metric-Indoor-Small, zero-shot.

Trained by its authors on synthetic rooms to give metres, and used here as it is: nothing is trained, nothing is
aligned. Its encoder was trained with it, so `dav2_small` must be given the metric release's weights.
"""

from pydantic import Field
from torch import Tensor, nn

from spd_baselines.dav2_head import RELATIVE_SHA256, own_depth_head
from spd_baselines.dpt_head import read_map
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel


class DAv2Metric(PointDepthModel):
    """depth = max_depth · sigmoid(DPT), in metres.

    Raises ConfigError for an encoder without a depth head, or with the relative release.
    """

    trained = False

    class Config(ComponentConfig):
        """The range of the release."""

        max_depth_m: float = Field(default=20.0, gt=0)
        """Depth in metres at which the output saturates: 20 in the indoor release, 80 in the outdoor one."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = own_depth_head("dav2_metric", encoder, output=nn.Sigmoid(), other_release=RELATIVE_SHA256)

    def prepare(self, features: Features) -> Tensor:
        """Dense depth in metres, [B, H, W] at the encoder's input resolution."""
        sigmoid_BHW: Tensor = self.dpt(features)
        return self.config.max_depth_m * sigmoid_BHW

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: [B, K]."""
        return read_map(scene, xy_BK2)
