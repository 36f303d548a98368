"""Baseline `dav2_dense` (R-27b): all of Depth Anything V2 Small as released, aligned to each image's ground truth.

Its output is a relative inverse depth: known up to scale and shift, so it has no metres of its own. The
evaluator fits those two numbers on the whole valid mask before it decodes. The result has seen the ground
truth of the scored image: it is no competitor, and gets a table of its own.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from spd_baselines.alignment import Alignment, align_disparity
from spd_baselines.dav2_head import METRIC_INDOOR_SHA256, own_depth_head
from spd_baselines.dpt_head import read_map
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import StateError


@dataclass
class DisparityScene:
    """The dense relative disparity [B, H, W] ≥ 0, and what turns it into metres once `fit_alignment` has run."""

    disparity_BHW: Tensor
    alignment: Alignment | None = None


class DAv2Dense(PointDepthModel):
    """DAv2-S relative disparity, least squares in inverse depth per image (R-27b).

    The evaluator calls `fit_alignment` between `prepare` and `decode`.
    Raises ConfigError for an encoder without a depth head, or with the metric release.
    """

    trained = False
    gt_aligned = True

    class Config(ComponentConfig):
        """No options: the weights are those of the encoder dav2_small."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = own_depth_head("dav2_dense", encoder, output=nn.ReLU(), other_release=METRIC_INDOOR_SHA256)

    def prepare(self, features: Features) -> DisparityScene:
        """The dense relative disparity, not yet aligned."""
        return DisparityScene(self.dpt(features))

    def relative_disparity(self, scene: DisparityScene, xy_BK2: Tensor) -> Tensor:
        """The released model's own output at points of the unit square: relative, no unit, [B, K]."""
        return read_map(scene.disparity_BHW, xy_BK2)

    def fit_alignment(self, scene: DisparityScene, xy_BN2: Tensor, depth_m_BN: Tensor) -> None:
        """Fits scale and shift on all valid pixels of the image and keeps them in the scene.

        Raises DataError if they cannot be fitted (`align_disparity`).
        """
        scene.alignment = align_disparity(self.relative_disparity(scene, xy_BN2), depth_m_BN)

    def decode(self, scene: DisparityScene, xy_BK2: Tensor) -> Tensor:
        """Aligned depth in metres at points of the unit square, unclamped: [B, K]; StateError if not aligned."""
        disparity_BK = self.relative_disparity(scene, xy_BK2)
        if scene.alignment is not None:
            return scene.alignment.depth_m(disparity_BK)
        if disparity_BK.is_meta:  # shapes only: there is nothing to fit
            return disparity_BK
        raise StateError(
            "a relative disparity has no metres: this scene is not aligned",
            hint="call fit_alignment with the image's valid pixels before decode (gt_aligned is True)",
        )
