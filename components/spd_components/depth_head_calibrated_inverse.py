"""The depth head of §6.5 with the per-image calibration of §5.4."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Block, ComponentConfig, Dims, Pyramid, QueryState, Scene

EPSILON = 1e-6
TYPICAL_DEPTH_M = 2.7
"""Where an untrained head starts (R-15)."""


class Calibration(NamedTuple):
    """Scale s > 0 and shift b of one batch of images, each [B, 1] (§5.4)."""

    scale_B1: Tensor
    shift_B1: Tensor


def inverse_softplus(y: float) -> float:
    """x with softplus(x) = y."""
    return math.log(math.expm1(y))


class CalibratedInverse(Block):
    """d = 1 / (softplus(s·r + b) + 1e-6) metres, r = MLP(h), (s, b) from mean-pooled L4 (§5.4, §6.5, R-15).

    softplus and division run in float32 or better. The calibration starts at s = 1 and ρ = 1/2.7 m for every image.
    """

    slot = "depth_head"
    reads = frozenset({"h"})
    writes = frozenset({"depth"})
    budget = {
        "": "B5: fused cross-attention + depth head (§6.5)",
        "scale.": "Calibration heads (§5.4)",
        "shift.": "Calibration heads (§5.4)",
    }

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        deep = dims.pyramid[3]
        self.hidden = nn.Linear(dims.core, 2 * dims.core)
        self.out = nn.Linear(2 * dims.core, 1)
        self.scale = nn.Linear(deep, 1)
        self.shift = nn.Linear(deep, 1)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)
        nn.init.constant_(self.scale.bias, inverse_softplus(1.0))
        nn.init.constant_(self.shift.bias, inverse_softplus(1 / TYPICAL_DEPTH_M))

    def prepare(self, pyramid: Pyramid) -> Calibration:
        """s and b of each image."""
        pooled_BC = pyramid.l4.map_BHWC.mean((1, 2))
        return Calibration(F.softplus(self.scale(pooled_BC)), self.shift(pooled_BC))

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes depth in metres."""
        calibration: Calibration = scene.prepared[self.slot]
        r_BK = self.out(F.gelu(self.hidden(state.h_BKD)))[..., 0]
        # softplus and its inverse lose small depths in half precision
        dtype = state.xy_BK2.dtype
        rho_BK = F.softplus(calibration.scale_B1.to(dtype) * r_BK.to(dtype) + calibration.shift_B1.to(dtype)) + EPSILON
        return replace(state, depth_m_BK=1 / rho_BK)

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Calibration s and b of §5.4: mean and spread over images."""
        calibration: Calibration = scene.prepared[self.slot]
        return {
            "scale_mean": float(calibration.scale_B1.mean()),
            "scale_spread": float(calibration.scale_B1.std(correction=0)),
            "shift_mean": float(calibration.shift_B1.mean()),
            "shift_spread": float(calibration.shift_B1.std(correction=0)),
        }
