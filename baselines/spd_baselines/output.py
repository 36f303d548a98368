"""The calibrated output of §6.5 for baselines: ρ = softplus(s·r + b) + 1e-6 in 1/m, depth = 1/ρ in metres (R-15).

Computed in float32 or better for any precision of the network before it.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6
"""ε of §6.5 in 1/m: no prediction is farther than 1,000 km."""
TYPICAL_DEPTH_M = 2.7
"""Depth that an untrained model predicts (R-15)."""
INITIAL_BIAS = math.log(math.expm1(1 / TYPICAL_DEPTH_M - EPSILON))
"""The b at which r = 0 gives `TYPICAL_DEPTH_M`: the inverse of softplus."""
UNIT_SCALE = math.log(math.expm1(1.0))
"""The raw value whose softplus is s = 1."""


def at_least_float32(value: Tensor) -> Tensor:
    """The value in float32, or unchanged if it has that precision or a higher one."""
    return value if value.dtype.itemsize >= 4 else value.float()


def calibrated_inverse_depth(code: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """ρ in 1/m of a relative depth code r: softplus(s·r + b) + ε (§6.5)."""
    code, scale, bias = at_least_float32(code), at_least_float32(scale), at_least_float32(bias)
    return F.softplus(scale * code + bias) + EPSILON


def depth_of(rho: Tensor) -> Tensor:
    """Depth in metres of an inverse depth in 1/m."""
    return 1 / at_least_float32(rho)


class InverseDepth(nn.Module):
    """softplus(x) + ε as the last layer of a network, whose weights take the role of s and b."""

    def forward(self, raw: Tensor) -> Tensor:
        """ρ in 1/m, shaped as the input."""
        return F.softplus(at_least_float32(raw)) + EPSILON
