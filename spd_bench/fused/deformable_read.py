"""The fused forms of a deformable read (§6.4), step by step, for the component that owns its weights.

A component returns its weights once (`Weights`) and keeps one `FusedRead` per batch of images. It asks that for each
step and computes the step itself with stock operators where the answer is None.

Letters: as in `fused.anchor_reads`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.fused import anchor_reads, forms, training


class Weights(NamedTuple):
    """Weights of a deformable read, and which of its steps are those of §6.4."""

    condition: nn.Linear
    """W_u and b_u, over [h; g; φ]."""
    condition_norm: nn.LayerNorm
    """The LayerNorm of u."""
    score: nn.Linear
    """W^a and b^a."""
    out: nn.Linear
    """W_O and b_O."""
    added_D: Tensor
    """Added to every token."""
    learned: Sequence[tuple[Tensor, Tensor]] | None
    """W^Δ and b^Δ along x, then along y; None where a subclass computes Δ otherwise."""
    constant: tuple[Tensor, Tensor] | None
    """Δ along x and along y where it is the same for every anchor; None where it is not."""
    conditioned: bool
    """Whether u_r is computed as in §6.4."""
    bilinear: bool
    """Whether the weights a and the cells of each sample are those of §6.4."""

    @property
    def on_query(self) -> Tensor:
        """W_u's part on h."""
        return self.condition.weight[:, : self.out.in_features]

    @property
    def on_code(self) -> Tensor:
        """W_u's part on φ."""
        return self.condition.weight[:, 2 * self.out.in_features :]


class FusedRead:
    """The fused forms of one read on one batch of images; each method returns None where stock operators run.

    heads, width: of the component. code: point → Fourier code. conditioning_BSD: W_u's part on g at each site of L4,
    with b_u. site_xy_S2: the sites in the unit square. samples: `Stack.samples` of the levels.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        heads: int,
        width: int,
        code: Callable[[Tensor], Tensor],
        conditioning_BSD: Tensor,
        site_xy_S2: Tensor,
        samples: anchor_reads.Samples,
    ) -> None:
        self.weights = weights
        self.size = {"heads": heads, "width": width}
        self.code = code
        self.conditioning_BSD = conditioning_BSD
        self.site_xy_S2 = site_xy_S2
        self.samples = samples
        self.site_code_SP = code(site_xy_S2)
        self.on_code_PD = weights.on_code.t().contiguous()
        self.joint = _joint(weights)
        self.in_one_call = self._in_one_call()

    def _in_one_call(self) -> anchor_reads.ReadWeights | None:
        """The weights of `anchor_reads.evidence`; None where a step differs from §6.4 or gradients are wanted."""
        weights = self.weights
        offsets = weights.learned is not None or weights.constant is not None
        if not (offsets and weights.conditioned and weights.bilinear):
            return None
        if not forms.ready(self.conditioning_BSD, weights.out.weight, **self.size):
            return None
        learned = () if weights.constant else weights.learned or ()
        joint = [*learned, (weights.score.weight, weights.score.bias)]
        return anchor_reads.ReadWeights.of(joint, weights.constant or (), weights.out, weights.added_D)

    def tokens(self, site_BKR: Tensor, h_BKD: Tensor, xy_BK2: Tensor) -> Tensor | None:
        """The token of every anchor without a gate, standardised: [B, K, R, D]."""
        if self.in_one_call is None or not forms.ready(xy_BK2, self.conditioning_BSD):
            return None
        given = self._conditioning(site_BKR, h_BKD, xy_BK2)
        return anchor_reads.evidence(given, self.in_one_call, self.samples, self.site_xy_S2)

    def condition(self, site_BKR: Tensor, h_BKD: Tensor, xy_BK2: Tensor) -> Tensor | None:
        """u_r of every anchor: [B, K, R, D]."""
        if not forms.ready(h_BKD, xy_BK2, self.conditioning_BSD, **self.size):
            return None
        return anchor_reads.condition(self._conditioning(site_BKR, h_BKD, xy_BK2))

    def offsets_and_scores(self, u_QD: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Δx, Δy and W^a u + b^a of every anchor as one product: each [Q, T]."""
        if self.joint is None or not forms.fits(u_QD):
            return None
        x_QT, y_QT, score_QT = F.linear(u_QD, *self.joint).chunk(3, dim=-1)
        return x_QT, y_QT, score_QT

    def read(self, site_BKR: Tensor, x_QT: Tensor, y_QT: Tensor, score_QT: Tensor) -> Tensor | None:
        """Σ over levels and samples of softmax(score) · L̂(p + Δ), with gradients: [Q, D]."""
        rows_ND, _ = self.samples.maps[0]
        if not (self.weights.bilinear and forms.fits(rows_ND, self.site_xy_S2, x_QT, score_QT, **self.size)):
            return None
        where = {"site_BKR": site_BKR, "site_xy_S2": self.site_xy_S2}
        return training.levels_read(self.samples, **where, x_QT=x_QT, y_QT=y_QT, score_QT=score_QT)

    def _conditioning(self, site_BKR: Tensor, h_BKD: Tensor, xy_BK2: Tensor) -> anchor_reads.Conditioning:
        of_query_BKD = F.linear(h_BKD, self.weights.on_query)
        codes = self.code(xy_BK2), self.site_code_SP, self.on_code_PD
        norm = self.weights.condition_norm
        return anchor_reads.Conditioning(site_BKR, of_query_BKD, self.conditioning_BSD, *codes, norm.weight, norm.bias)


def _joint(weights: Weights) -> tuple[Tensor, Tensor] | None:
    """W^Δ by axis and W^a as one product, with its bias; None where Δ is not learned."""
    if weights.learned is None:
        return None
    parts, biases = zip(*weights.learned, (weights.score.weight, weights.score.bias), strict=True)
    return torch.cat(parts), torch.cat(biases)
