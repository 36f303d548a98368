"""Baseline `dav2_metric_indoor` (R-27c): Depth Anything V2 Small, metric indoor release, zero-shot.

Its authors trained it on synthetic rooms (Hypersim) to predict metres. It is used without training and alignment, on
its own encoder, `dav2_small` with the metric release, which was trained with it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from spd_baselines.dav2_head import own_depth_head
from spd_baselines.dpt_head import AUTHORS_INPUT, DenseMap
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel


class DAv2MetricIndoor(PointDepthModel):
    """depth = max_depth · sigmoid(DPT), in metres.

    It sees frames at its authors' input size, whatever the suite's is, and its map is read as they read it.
    Raises ConfigError for an encoder without a depth head, or with the relative release.
    """

    version = 2
    trained = False
    own_input = AUTHORS_INPUT
    places = frozenset({"weights"})

    class Config(ComponentConfig):
        """Where the weights are, and the range of the release."""

        weights: str | None = None
        """File or folder of the metric indoor release; null: from DAV2_METRIC_WEIGHTS, then DAV2_WEIGHTS."""
        max_depth_m: float = Field(default=20.0, gt=0)
        """Depth in metres at which the output saturates: 20 in the indoor release."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = own_depth_head("dav2_metric_indoor", encoder, output=nn.Sigmoid(), release="metric_indoor")

    @classmethod
    def own_encoder(cls, config: Any) -> Mapping[str, Any]:
        """`dav2_small` with the metric release, which finds the weights or reports that they are missing."""
        given = {} if config.weights is None else {"weights": config.weights}
        return {"use": "dav2_small", "release": "metric_indoor", **given}

    def prepare(self, features: Features) -> DenseMap:
        """Dense depth in metres at the encoder's input resolution."""
        return DenseMap.of(self.config.max_depth_m * self.dpt(features), features)

    def decode(self, scene: DenseMap, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: [B, K]."""
        return scene.read(xy_BK2)
