"""Parts that depth heads share: the MLP of §6.5, the calibration of §5.4, and inverse depth as a link (R-15)."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Block, ComponentConfig, Dims, Looked, Pyramid, QueryState, Scene
from spd_bench.fused import products

EPSILON = 1e-6
TYPICAL_DEPTH_M = 2.7
"""Depth that an untrained head predicts (R-15)."""


def inverse_softplus(y: float) -> float:
    """x with softplus(x) = y."""
    return math.log(math.expm1(y))


def inverse_link(z_BK: Tensor) -> Tensor:
    """d = 1 / (softplus(z) + 1e-6) metres (§6.5)."""
    return 1 / (F.softplus(z_BK) + EPSILON)


INVERSE_START = inverse_softplus(1 / TYPICAL_DEPTH_M)
"""The z at which `inverse_link` gives 2.7 m."""


class DepthHead(Block):
    """MLP(h) of §6.5, 192 → 384 → `outputs` with GELU; subclasses turn its outputs into metres."""

    slot = "depth_head"
    reads: ClassVar[frozenset[str]] = frozenset({"h"})
    writes: ClassVar[frozenset[str]] = frozenset({"depth"})
    budget: ClassVar[Mapping[str, str]] = {
        "": "B5: fused cross-attention + depth head (§6.5)",
        "scale": "Calibration heads (§5.4)",
        "shift": "Calibration heads (§5.4)",
    }

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: ComponentConfig, dims: Dims, outputs: int = 1) -> None:
        super().__init__(config, dims)
        self.hidden = nn.Linear(dims.core, 2 * dims.core)
        self.out = nn.Linear(2 * dims.core, outputs)

    def code(self, state: QueryState) -> Tensor:
        """MLP(h) in the precision of the coordinates, float32 or better: half precision is too coarse for depth."""
        assert state.h_BKD is not None
        return products.perceptron(state.h_BKD, self.hidden, self.out).to(state.xy_BK2.dtype)


class Calibration(NamedTuple):
    """The calibration of each image (§5.4)."""

    scale_B1: Tensor
    """Scale s > 0."""
    shift_B1: Tensor
    """Shift b."""


class CalibratedHead(DepthHead):
    """d = link(s·r + b), r = MLP(h), (s, b) from mean-pooled L4 (§5.4); a subclass defines the link.

    The calibration starts at s = 1 and b = `start` for every image.
    """

    start: ClassVar[float]
    """The z at which the link gives 2.7 m."""

    def __init__(self, config: ComponentConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        deep = dims.pyramid[3]
        self.scale = nn.Linear(deep, 1)
        self.shift = nn.Linear(deep, 1)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        nn.init.constant_(self.scale.bias, inverse_softplus(1.0))
        nn.init.constant_(self.shift.bias, self.start)

    @abstractmethod
    def link(self, z_BK: Tensor) -> Tensor:
        """Metres of a calibrated code z = s·r + b."""

    def prepare(self, pyramid: Pyramid) -> Calibration:
        """s and b of each image."""
        pooled_BC = pyramid.l4.map_BHWC.mean((1, 2))
        return Calibration(F.softplus(self.scale(pooled_BC)), self.shift(pooled_BC))

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes depth in metres."""
        calibration: Calibration = scene.prepared[self.slot]
        r_BK = self.code(state)[..., 0]
        z_BK = calibration.scale_B1.to(r_BK.dtype) * r_BK + calibration.shift_B1.to(r_BK.dtype)
        return replace(state, depth_m_BK=self.link(z_BK))

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Calibration s and b of §5.4: mean and spread over images."""
        calibration: Calibration = scene.prepared[self.slot]
        return {
            "scale_mean": float(calibration.scale_B1.mean()),
            "scale_spread": float(calibration.scale_B1.std(correction=0)),
            "shift_mean": float(calibration.shift_B1.mean()),
            "shift_spread": float(calibration.shift_B1.std(correction=0)),
        }

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """s and b of each image (§5.4)."""
        calibration: Calibration = scene.prepared[self.slot]
        return Looked(values={"s": calibration.scale_B1[:, 0], "b": calibration.shift_B1[:, 0]})
