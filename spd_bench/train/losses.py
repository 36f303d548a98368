"""Training losses: that of §7.2 and its alternatives. λ_si is a value of the recipe (`train.lambda_si`)."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from spd_bench.api import Component, ComponentConfig


class LossParts(NamedTuple):
    """The two terms of L = L_point + λ_si · L_structure, each a scalar."""

    point: Tensor
    """L_point."""
    structure: Tensor
    """L_structure."""


def huber_of_inverse(predicted_m_BK: Tensor, truth_m_BK: Tensor, delta: float) -> Tensor:
    """L_point of §7.2: mean over queries of Huber_δ(1/d̂ − 1/d*), δ in 1/m (R-16)."""
    return F.huber_loss(1 / predicted_m_BK, 1 / truth_m_BK, delta=delta)


def point_alone(point: Tensor) -> LossParts:
    """A loss whose structure term is zero, so that L = L_point for every λ_si."""
    return LossParts(point, torch.zeros_like(point))


class HuberSilog(Component):
    """Huber on inverse depth, and the scale-invariant log error (§7.2).

        L_point = mean over queries of Huber_δ(1/d̂ − 1/d*)                             (R-16)
        L_silog = mean over images of √(mean e² − λ_var (mean e)² + 1e-8), e = ln d̂ − ln d*   (R-17)

    Inverse depth is in 1/m. Everything runs in float32 or better.
    """

    slot = "loss"

    class Config(ComponentConfig):
        """Options of the loss; λ_si is a value of the recipe (`train.lambda_si`)."""

        huber_delta: float = Field(default=1.0, gt=0)
        """Threshold of the Huber loss in 1/m (R-16)."""
        lambda_var: float = Field(default=0.85, ge=0, le=1)
        """Weight of the squared mean inside L_silog."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        """Both terms, each a scalar."""
        point = huber_of_inverse(predicted_m_BK, truth_m_BK, self.config.huber_delta)
        e_BK = predicted_m_BK.log() - truth_m_BK.log()
        # the root has no gradient at zero, hence the 1e-8
        inside_B = e_BK.square().mean(1) - self.config.lambda_var * e_BK.mean(1).square() + 1e-8
        return LossParts(point, torch.sqrt(inside_B).mean())


class HuberOnly(Component):
    """Huber on inverse depth alone: L_point of §7.2 without L_silog, for every λ_si (R-16).

        L = mean over queries of Huber_δ(1/d̂ − 1/d*)

    A fair comparison with `huber_silog`: the same data term with the same threshold, without the structure term, as
    with `train.lambda_si: 0`.
    """

    slot = "loss"

    class Config(ComponentConfig):
        """Options of the loss."""

        huber_delta: float = Field(default=1.0, gt=0)
        """Threshold of the Huber loss in 1/m (R-16)."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        """L_point, and a structure term that is zero."""
        return point_alone(huber_of_inverse(predicted_m_BK, truth_m_BK, self.config.huber_delta))


class SilogOnly(Component):
    """The scale-invariant log error alone, over all queries of a batch: the loss of BTS, AdaBins and DINOv2's probes.

        L = √(var e + (1 − λ_var) (mean e)² + 1e-8), e = ln d̂ − ln d*, over queries of all images

    For `linear_probe` as published. Unlike L_silog of `huber_silog`, images share one mean, and there is no data term:
    for every λ_si.
    """

    slot = "loss"

    class Config(ComponentConfig):
        """Options of the loss."""

        lambda_var: float = Field(default=0.85, ge=0, le=1)
        """Weight of the squared mean."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        """The error, and a structure term that is zero."""
        e_BK = predicted_m_BK.log() - truth_m_BK.log()
        mean = e_BK.mean()
        # var e + (1 − λ) mean² = mean e² − λ mean²; the root has no gradient at zero, hence the 1e-8
        return point_alone(torch.sqrt(e_BK.square().mean() - self.config.lambda_var * mean.square() + 1e-8))


class AbsoluteError(Component):
    """Absolute error of depth in metres, instead of Huber and L_silog, for every λ_si.

        L = mean over queries of |d̂ − d*|

    A fair comparison with `huber_silog`: the same outputs, queries and schedule. A metre counts the same near and far,
    and no term is computed per image.
    """

    slot = "loss"

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        """The mean absolute error, and a structure term that is zero."""
        return point_alone(F.l1_loss(predicted_m_BK, truth_m_BK))
