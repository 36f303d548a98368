"""Baseline `constant` (R-27): the median training depth at every point, as a scale for all other numbers."""

import math

import torch
from torch import Tensor

from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import DataError, StateError


class Constant(PointDepthModel):
    """One depth for every point of every image, set by `fit_prior` without training."""

    trained = False

    median_m: Tensor

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.register_buffer("median_m", torch.tensor(math.nan))

    def fit_prior(self, depth_m_N: Tensor) -> None:
        """Sets the median of valid training depths in metres; the mean of the middle two if their number is even.

        Raises DataError if there are none, or if one is not a positive, finite depth.
        """
        if not depth_m_N.numel():
            raise DataError("no training depth is valid: the median of nothing", hint="check the training split")
        if not depth_m_N.is_meta and not bool((depth_m_N.isfinite() & (depth_m_N > 0)).all()):
            raise DataError(
                "training depths hold a value that is not a positive, finite number of metres",
                hint="pass valid pixels only",
            )
        lower, upper = depth_m_N.median(), -(-depth_m_N).median()  # torch's median is the lower of the two
        self.median_m = ((lower + upper) / 2).to(self.median_m)

    def prepare(self, features: Features) -> None:
        """Nothing, since the prediction does not depend on the image."""

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        """The same depth in metres for every point, [B, K]; raises StateError before `fit_prior`."""
        if not self.median_m.is_meta and not bool(self.median_m.isfinite()):
            raise StateError(
                "the constant baseline does not know the training depths yet",
                hint="call fit_prior with valid training depths, or load a checkpoint that was saved after it",
            )
        return self.median_m.expand(xy_BK2.shape[:-1])
