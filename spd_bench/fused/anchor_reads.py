"""Fused reads of anchors (§6.4): their conditioning, the samples of all levels, and a whole read in one call.

Letters: B images, K queries, Q items, R anchors, T sampling offsets (heads × samples), S samples of a head or sites of
L4, D core width, P numbers of a Fourier code, J columns of a joint product.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spd_bench.fused import build
from spd_bench.fused.forms import CORE, LANES, PANEL


class Conditioning(NamedTuple):
    """The inputs of u = LN(GELU(of_query + of_site[site] + W φ(p − q))), the conditioning of every anchor."""

    site_BKR: Tensor
    """The site of every anchor."""
    of_query_BKD: Tensor
    """W_u's part on h."""
    of_site_BSD: Tensor
    """W_u's part on g, with the bias."""
    query_code_BKP: Tensor
    """Fourier code of q."""
    site_code_SP: Tensor
    """Fourier code of p."""
    on_code_PD: Tensor
    """W: W_u's part on φ, transposed."""
    norm_weight_D: Tensor
    """The LayerNorm's weight."""
    norm_bias_D: Tensor
    """The LayerNorm's bias."""

    def given(self) -> list[int | Tensor]:
        """Sizes and contiguous tensors, as kernels take them."""
        _, count, anchors = self.site_BKR.shape
        sizes = anchors, count, self.of_site_BSD.shape[1], self.site_code_SP.shape[1] // 4
        return [*sizes, *(tensor.contiguous() for tensor in self)]

    def new(self) -> Tensor:
        """An empty tensor with D channels for every anchor: [B, K, R, D]."""
        return self.of_query_BKD.new_empty(*self.site_BKR.shape, CORE)


def condition(of: Conditioning) -> Tensor:
    """u of every anchor: [B, K, R, D]."""
    out_BKRD = of.new()
    build.run("condition", out_BKRD, of.site_BKR.numel(), *of.given(), out_BKRD)
    return out_BKRD


class ReadWeights(NamedTuple):
    """The weights of a deformable read, arranged for `evidence`."""

    joint_DJ: Tensor
    """W^Δ along x, W^Δ along y and W^a as one product, transposed; W^a alone with constant offsets."""
    bias_J: Tensor
    """The bias of that product."""
    fixed: Tensor | None
    """Constant offsets along x, then along y; None where offsets are learned."""
    out_DD: Tensor
    """W_O, transposed."""
    plus_D: Tensor
    """b_O and the embedding of evidence."""

    @classmethod
    def of(
        cls, joint: Sequence[tuple[Tensor, Tensor]], fixed: Sequence[Tensor], out: nn.Linear, added_D: Tensor
    ) -> "ReadWeights":
        """From (weight [J, D], bias [J]) pairs that are stacked, and constant offsets if there are any."""
        weight_JD, bias_J = (torch.cat(part) for part in zip(*joint, strict=True))
        count = len(bias_J)
        columns = -(-count // PANEL) * PANEL
        joint_DJ, padded_J = weight_JD.new_zeros(CORE, columns), bias_J.new_zeros(columns)
        joint_DJ[:, :count], padded_J[:count] = weight_JD.t(), bias_J
        # padded, since kernels read whole vectors
        constant = torch.cat([*fixed, bias_J.new_zeros(LANES)]) if fixed else None
        return cls(joint_DJ, padded_J, constant, out.weight.t().contiguous(), out.bias + added_D)


class Samples(NamedTuple):
    """The reads of each sample of a head, the same for every head (`geometry.Stack.samples`)."""

    maps: Sequence[tuple[Tensor, int]]
    """The rows [N, D] that each sample reads, and how many of them an image has."""
    level_4S: Tensor
    """Cells per image along x and y, and the largest x and y."""
    places_3S: Tensor
    """int32: row stride, row of the first cell, and the last row at which a read may begin."""

    def given(self) -> "tuple[int | Tensor | ctypes.Array[Any], ...]":
        """Counts, addresses and tensors, as kernels take them."""
        rows, per_image = (
            build.pointers([rows_ND for rows_ND, _ in self.maps]),
            build.whole_numbers([count for _, count in self.maps]),
        )
        return len(self.maps), rows, per_image, self.level_4S.contiguous(), self.places_3S.contiguous()


def evidence(of: Conditioning, weights: ReadWeights, samples: Samples, site_xy_S2: Tensor) -> Tensor:
    """The token of every anchor, W_O Σ + plus, standardised: [B, K, R, D]."""
    out_BKRD, joint_DJ = of.new(), weights.joint_DJ
    learned = joint_DJ.shape[1], joint_DJ, weights.bias_J, weights.fixed, weights.out_DD, weights.plus_D
    given = *samples.given(), site_xy_S2.contiguous(), out_BKRD
    build.run("evidence", out_BKRD, of.site_BKR.numel(), *of.given(), *learned, *given)
    return out_BKRD


def levels_read(
    samples: Samples, *, site_BKR: Tensor, site_xy_S2: Tensor, x_QT: Tensor, y_QT: Tensor, score_QT: Tensor
) -> Tensor:
    """Σ softmax(score) × bilinear read of every item: [Q, D]."""
    if x_QT.stride() != y_QT.stride():
        x_QT, y_QT = x_QT.contiguous(), y_QT.contiguous()
    if score_QT.stride(1) != 1:
        score_QT = score_QT.contiguous()
    out_QD = x_QT.new_empty(len(x_QT), CORE)
    places = site_BKR[0].numel(), site_BKR.contiguous(), site_xy_S2.contiguous()
    offsets: tuple[Tensor | int, ...] = x_QT, y_QT, *x_QT.stride(), score_QT, score_QT.stride(0)
    build.run("levels_read", x_QT, len(x_QT), *samples.given(), *places, *offsets, out_QD)
    return out_QD
