"""Baseline `dav2_dense` (R-27b): all of Depth Anything V2 as released, aligned to each image's ground truth.

Its output is a relative inverse depth, known up to scale and shift. The evaluator fits both on the whole valid mask
before it decodes, by one of the rules of `alignment`. The result uses the ground truth of the scored image, so it is
not comparable with the other rows and gets a separate table.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from spd_baselines.alignment import FITS, Alignment, Unaligned
from spd_baselines.dav2_head import own_depth_head
from spd_baselines.dpt_head import AUTHORS_INPUT, DenseMap
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import StateError


@dataclass
class DisparityScene:
    """The dense relative disparity and its alignment."""

    disparity: DenseMap
    """Relative disparity ≥ 0."""
    alignment: Alignment | None
    """The mapping to metres; None until `fit_alignment` has run."""


class DAv2Dense(PointDepthModel):
    """DAv2's relative disparity, by default with least squares in inverse depth per image (R-27b).

    It sees frames at its authors' input size, whatever the suite's is, and its map is read as they read it.
    The evaluator calls `fit_alignment` between `prepare` and `decode`.
    Raises ConfigError for an encoder without a depth head, or with the metric release.
    """

    version = 2
    trained = False
    gt_aligned = True
    own_input = AUTHORS_INPUT

    class Config(ComponentConfig):
        """How the relative prediction is aligned. The weights are those of the encoder's file."""

        alignment: Literal["none", "lsq_disparity", "lsq_depth", "median"] = "lsq_disparity"
        """Fitted on all valid pixels: scale and shift in disparity or depth, or one scale. none: z taken as metres."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.fit = FITS.get(config.alignment)
        self.gt_aligned = self.fit is not None
        self.dpt = own_depth_head("dav2_dense", encoder, output=nn.ReLU(), release="relative")

    def prepare(self, features: Features) -> DisparityScene:
        """The dense relative disparity, not yet aligned."""
        return DisparityScene(DenseMap.of(self.dpt(features), features), None if self.fit else Unaligned())

    def relative_disparity(self, scene: DisparityScene, xy_BK2: Tensor) -> Tensor:
        """The released model's output at points of the unit square: relative, without unit, [B, K]."""
        return scene.disparity.read(xy_BK2)

    def fit_alignment(self, scene: DisparityScene, xy_BN2: Tensor, depth_m_BN: Tensor) -> None:
        """Fits the alignment on all valid pixels of the image and keeps it in the scene.

        Raises DataError if it cannot be fitted, and StateError with alignment none.
        """
        if self.fit is None:
            raise StateError("dav2_dense with alignment none takes no ground truth", hint="gt_aligned is False")
        scene.alignment = self.fit(self.relative_disparity(scene, xy_BN2), depth_m_BN)

    def decode(self, scene: DisparityScene, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at points of the unit square, unclamped: [B, K]; raises StateError before the alignment."""
        disparity_BK = self.relative_disparity(scene, xy_BK2)
        if scene.alignment is not None:
            return scene.alignment.depth_m(disparity_BK)
        if disparity_BK.is_meta:  # shapes only: there is nothing to fit
            return disparity_BK
        raise StateError(
            "a relative disparity has no metres: this scene is not aligned",
            hint="call fit_alignment with the image's valid pixels before decode (gt_aligned is True)",
        )
