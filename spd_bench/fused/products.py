"""Fused products, norms and choices for inference on a CPU: linear layers, enlarged levels, the largest weights.

Letters: B images, K queries, R anchors, S sites of L4, D core width, C channels, N rows of a table.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.fused import build
from spd_bench.fused.forms import CORE, MANY, PANEL, ready


def linear(x: Tensor, weight_DC: Tensor, bias_D: Tensor | None = None) -> Tensor:
    """`F.linear`, with a fused product for many rows."""
    rows, (columns, channels) = x.numel() // x.shape[-1], weight_DC.shape
    if not (rows >= MANY and columns % PANEL == 0 and ready(x, weight_DC)):
        return F.linear(x, weight_DC, bias_D)
    x, weight_DC = x.contiguous(), weight_DC.contiguous()
    out = x.new_empty(*x.shape[:-1], columns)
    build.run("linear_of_many", x, rows, channels, columns, x, weight_DC, bias_D, out)
    return out


def standardise(x: Tensor) -> Tensor:
    """x with mean 0 and variance 1 over the last dimension: LayerNorm without its affine part, eps 1e-5."""
    if not (ready(x) and x.shape[-1] == CORE):
        return F.layer_norm(x, x.shape[-1:])
    x = x.contiguous()
    out = torch.empty_like(x)
    build.run("standardise", x, x.numel() // CORE, x, out)
    return out


def perceptron(x: Tensor, wide: nn.Linear, narrow: nn.Linear) -> Tensor:
    """W_2 GELU(W_1 x + b_1) + b_2."""
    if not (ready(x, wide.weight) and x.shape[-1] == CORE):
        return narrow(F.gelu(wide(x)))  # type: ignore[no-any-return]
    weights = [tensor.contiguous() for layer in (wide, narrow) for tensor in (layer.weight, layer.bias)]
    out, items = x.new_empty(*x.shape[:-1], narrow.out_features), x.numel() // CORE
    build.run("perceptron", x, items, wide.out_features, narrow.out_features, *weights, x.contiguous(), out)
    return out


def largest(weight_BKS: Tensor, r: int) -> Tensor:
    """Indices of the r largest weights, largest first, ties to the lower index, NaN first: [B, K, R]."""
    weight_BKS = weight_BKS.contiguous()
    batch, count, sites = weight_BKS.shape
    out_BKR = torch.empty(batch, count, r, dtype=torch.int64)
    build.run("largest", weight_BKS, batch * count, sites, r, weight_BKS, out_BKR)
    return out_BKR


def enlarged_norm(centred_BHWC: Tensor, plus_C: Tensor, factor: int, pad: int, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm of (enlarged maps + plus), both with mean 0 over channels, as rows with a border of zeros: [N, C]."""
    (lines, *sizes), rows = _enlarged(centred_BHWC, factor, pad)
    channels = centred_BHWC.shape[-1]
    out_NC = centred_BHWC.new_empty(rows, channels)
    given = centred_BHWC.contiguous(), plus_C, norm.weight, norm.bias
    build.run("enlarged_norm", centred_BHWC, lines, channels, *sizes, factor, pad, *given, out_NC)
    return out_NC


def enlarged_spread(centred_BHWC: Tensor, plus_C: Tensor, factor: int) -> Tensor:
    """1 / √(variance + eps) at each cell of (enlarged maps + plus), both with mean 0 over channels: [N]."""
    (lines, *sizes), cells = _enlarged(centred_BHWC, factor, 0)
    out_N, channels = centred_BHWC.new_empty(cells), centred_BHWC.shape[-1]
    build.run(
        "enlarged_spread", centred_BHWC, lines, channels, *sizes, factor, centred_BHWC.contiguous(), plus_C, out_N
    )
    return out_N


def enlarged_product(
    coarse_BHWD: Tensor, plus_D: Tensor, factor: int, pad: int, scale_N: Tensor, shift_D: Tensor
) -> Tensor:
    """scale · (enlarged maps + plus) + shift, one scale per cell, as rows with a border of zeros: [N, D]."""
    (lines, *sizes), rows = _enlarged(coarse_BHWD, factor, pad)
    out_ND = coarse_BHWD.new_empty(rows, CORE)
    given = coarse_BHWD.contiguous(), plus_D, scale_N, shift_D
    build.run("enlarged_product", coarse_BHWD, lines, *sizes, factor, pad, *given, out_ND)
    return out_ND


def _enlarged(coarse_BHWC: Tensor, factor: int, pad: int) -> tuple[tuple[int, int, int], int]:
    """(Lines of all enlarged maps, rows and columns of a coarse map), and the number of rows of the table."""
    batch, height, width, _ = coarse_BHWC.shape
    rows = batch * (height * factor + 2 * pad) * (width * factor + 2 * pad)
    return (batch * height * factor, height, width), rows
