"""Parts that several blocks share: Fourier codes, and the attention layers of §6.2, §6.3 and §6.5 in exact, fast form.

Letters: B images, K queries, Q = B·K, T tokens, S sites of L4, D core width, N heads, E width per head,
P Fourier features.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Dims, TokenPart
from spd_bench.fused import attention, products, training
from spd_bench.geometry import constant


def fourier(x: Tensor, num_freq: int) -> Tensor:
    """§6.1's code of (x, y) pairs: [..., 2] → [..., 4·num_freq].

    [sin(2π 2^l x); cos(2π 2^l x); sin(2π 2^l y); cos(2π 2^l y)], l = 0 … num_freq − 1. The caller normalises offsets
    first: frequencies are integers, so that all offsets by whole cells would get the same code (R-02).
    """
    angle = x[..., None] * constant([2 * math.pi * 2.0**octave for octave in range(num_freq)], like=x)
    return torch.stack([angle.sin(), angle.cos()], dim=-2).flatten(-3)


class FeedForward(nn.Module):
    """h + FFN(LN_ff(h)), D → F → D with GELU (§6.2)."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dims.core)
        self.wide = nn.Linear(dims.core, dims.ffn)
        self.narrow = nn.Linear(dims.ffn, dims.core)

    def forward(self, h_BKD: Tensor) -> Tensor:
        """The residual update of every query."""
        out: Tensor = h_BKD + self.narrow(F.gelu(self.wide(self.norm(h_BKD))))
        return out

    def behind(self, query_norm: nn.LayerNorm, query: nn.Linear, out: nn.Linear) -> attention.LayerWeights:
        """The weights of an attention layer that ends with this feed-forward layer, for the fused form."""
        return attention.LayerWeights(query_norm, query, out, self.norm, self.wide, self.narrow)


class Absorbed(NamedTuple):
    """Keys and values of a token attention layer by head, with LN_kv's affine part (g, b) folded in (R-30)."""

    key_NED: Tensor
    """W_K ∘ g."""
    value_NDE: Tensor
    """W_V ∘ g, transposed."""
    shift_NE: Tensor
    """W_V b + b_V."""
    weights: attention.LayerWeights
    """All other weights, for the fused form."""


class Sites(NamedTuple):
    """Keys and values of a site attention layer by head (§5.1)."""

    key_BNES: Tensor
    """K of every site of L4."""
    value_BNSE: Tensor
    """V of every site of L4."""
    weights: attention.LayerWeights
    """All other weights, for the fused form."""


class TokenAttentionLayer(nn.Module):
    """One Pre-LN decoder layer over each query's own tokens (§6.2, §6.5), with keys and values absorbed (R-30).

    A single query q per token set needs no per-token keys or values. With standardised tokens n_t and the
    affine part (g, b) of LN_kv,

        q·(W_K (g∘n_t + b) + b_K)   = (W_Kᵀ q ∘ g)·n_t + const      const drops out of the softmax
        Σ a_t (W_V (g∘n_t + b) + b_V) = W_V (g ∘ Σ a_t n_t) + (Σ a_t)(W_V b + b_V)

    per head. Σ a_t is 1 without dropout. The key bias b_K has gradient zero by the same argument.
    """

    def __init__(self, dims: Dims, dropout: float) -> None:
        super().__init__()
        self.dims = dims
        self.dropout = dropout
        self.query_norm = nn.LayerNorm(dims.core)
        self.query = nn.Linear(dims.core, dims.core)
        self.key = nn.Linear(dims.core, dims.core)
        self.value = nn.Linear(dims.core, dims.core)
        self.out = nn.Linear(dims.core, dims.core)
        self.ffn = FeedForward(dims)

    def absorb(self, token_norm: nn.LayerNorm) -> Absorbed:
        """Keys and values for standardised tokens, with the affine part of `token_norm` (LN_kv) folded in."""
        heads, width, core = self.dims.heads, self.dims.head, self.dims.core
        return Absorbed(
            (self.key.weight * token_norm.weight).view(heads, width, core),
            (self.value.weight * token_norm.weight).view(heads, width, core).transpose(1, 2),
            F.linear(token_norm.bias, self.value.weight, self.value.bias).view(heads, width),
            self.ffn.behind(self.query_norm, self.query, self.out),
        )

    def forward(self, h_BKD: Tensor, parts: Sequence[TokenPart], absorbed: Absorbed) -> Tensor:
        """h after one layer over the tokens of all `parts`."""
        if not self.training and absorbed.weights.serve(h_BKD, heads=self.dims.heads, width=self.dims.head):
            key_NED, value_NDE, shift_NE, weights = absorbed
            tokens = [part.standard_BKTD.flatten(0, 1) for part in parts]
            return attention.token_layer(h_BKD, tokens, weights, key_NED, value_NDE.transpose(1, 2), shift_NE)
        heads, width = self.dims.heads, self.dims.head
        query_NQE = self.query(self.query_norm(h_BKD)).view(-1, heads, width).transpose(0, 1)
        mixed_NQD, total_QN1 = self._mixed(query_NQE, absorbed.key_NED, parts)
        read_QNE = torch.bmm(mixed_NQD, absorbed.value_NDE).transpose(0, 1)
        read_QNE = read_QNE + (absorbed.shift_NE if total_QN1 is None else total_QN1 * absorbed.shift_NE)
        return self.ffn(h_BKD + self.out(read_QNE.reshape(h_BKD.shape)))  # type: ignore[no-any-return]

    def _mixed(self, query_NQE: Tensor, key_NED: Tensor, parts: Sequence[TokenPart]) -> tuple[Tensor, Tensor | None]:
        """Σ a_t n_t of every head [N, Q, D], and Σ a_t [Q, N, 1], or None where that is 1 (no dropout)."""
        if shared := self._shared(query_NQE, parts):
            mixed_NQD, total_QN1 = training.attend(torch.bmm(query_NQE, key_NED), self._keep(shared), shared)
            return mixed_NQD, total_QN1 if self.training else None
        tokens = [part.standard_BKTD.flatten(0, 1) for part in parts]
        alpha_QNT = F.dropout(self._weights(query_NQE, key_NED, tokens), self.dropout, self.training)
        alphas = alpha_QNT.split([part_QTD.shape[1] for part_QTD in tokens], dim=-1)
        mixed_QND = torch.bmm(alphas[0], tokens[0])
        for alpha_QNt, part_QtD in zip(alphas[1:], tokens[1:], strict=True):
            mixed_QND = torch.baddbmm(mixed_QND, alpha_QNt, part_QtD)
        return mixed_QND.transpose(0, 1), alpha_QNT.sum(-1, keepdim=True) if self.training else None

    def _weights(self, query_NQE: Tensor, key_NED: Tensor, tokens: Sequence[Tensor]) -> Tensor:
        """a_t of every head over all tokens, given in parts [Q, t, D]: [Q, N, T]."""
        absorbed_QND = torch.bmm(query_NQE / math.sqrt(self.dims.head), key_NED).transpose(0, 1)
        score_QNT = torch.cat([torch.bmm(absorbed_QND, part_QTD.transpose(1, 2)) for part_QTD in tokens], dim=-1)
        return score_QNT.softmax(-1)

    def shares(self, h_BKD: Tensor, parts: Sequence[TokenPart], absorbed: Absorbed) -> Tensor:
        """Attention of every query to each of its tokens, mean over heads: [B, K, T]."""
        query_NQE = self.query(self.query_norm(h_BKD)).view(-1, self.dims.heads, self.dims.head).transpose(0, 1)
        tokens = [part.standard_BKTD.flatten(0, 1) for part in parts]
        share_QT = self._weights(query_NQE, absorbed.key_NED, tokens).mean(1)
        return share_QT.view(*h_BKD.shape[:2], -1)

    def _shared(self, query_NQE: Tensor, parts: Sequence[TokenPart]) -> list[training.Shared]:
        """The tokens for the fused form with gradients; empty where stock operators run."""
        if not training.ready(query_NQE, heads=self.dims.heads, width=self.dims.head):
            return []
        shared = [part.shared for part in parts if part.shared and part.shared.ticket.dtype == query_NQE.dtype]
        return shared if len(shared) == len(parts) else []

    def _keep(self, shared: Sequence[training.Shared]) -> Tensor | None:
        """Dropout's factors [Q, N, T], the same that `F.dropout` draws in the stock form; None without dropout."""
        if not (self.training and self.dropout):
            return None
        batch, count = shared[0].standard_BKTD.shape[:2]
        tokens = sum(part.standard_BKTD.shape[2] for part in shared)
        return F.dropout(shared[0].ticket.new_ones(batch * count, self.dims.heads, tokens), self.dropout)


class SiteAttentionLayer(nn.Module):
    """One Pre-LN decoder layer over the sites of L4, keys and values computed once per image (§5.1, §6.3)."""

    def __init__(self, dims: Dims, dropout: float) -> None:
        super().__init__()
        self.dims = dims
        self.dropout = dropout
        self.query_norm = nn.LayerNorm(dims.core)
        self.query = nn.Linear(dims.core, dims.core)
        self.key = nn.Linear(dims.pyramid[3], dims.core)
        self.value = nn.Linear(dims.pyramid[3], dims.core)
        self.out = nn.Linear(dims.core, dims.core)
        self.ffn = FeedForward(dims)

    def prepare(self, l4_BSC: Tensor) -> Sites:
        """K and V of §5.1 for every site.

        The key bias drops out of the softmax and is not computed, as in `TokenAttentionLayer`.
        """
        batch, sites, _ = l4_BSC.shape
        shape = (batch, sites, self.dims.heads, self.dims.head)
        # in this order the product has the sites last, without a transposed copy
        key_BNES = torch.bmm(self.key.weight.expand(batch, -1, -1), l4_BSC.mT).view(batch, *shape[2:], sites)
        value_BNSE = (
            products.linear(l4_BSC, self.value.weight, self.value.bias).view(shape).transpose(1, 2).contiguous()
        )
        return Sites(key_BNES, value_BNSE, self.ffn.behind(self.query_norm, self.query, self.out))

    def forward(
        self, h_BKD: Tensor, of_sites: Sites, *, added_query_BKD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """h after one layer, and ᾱ: attention weights before dropout, averaged over heads [B, K, S] (R-10, R-11).

        added_query_BKD: added to the projected query, such as a position.
        """
        key_BNES, value_BNSE, weights = of_sites
        if not self.training and weights.serve(h_BKD, heads=self.dims.heads, width=self.dims.head):
            return attention.site_layer(h_BKD, weights, key_BNES, value_BNSE, added_query_BKD)
        batch, count, core = h_BKD.shape
        query_BKD = self.query(self.query_norm(h_BKD))
        if added_query_BKD is not None:
            query_BKD = query_BKD + added_query_BKD
        query_BNKE = query_BKD.view(batch, count, self.dims.heads, -1).transpose(1, 2)
        alpha_BNKS = (query_BNKE / math.sqrt(self.dims.head) @ key_BNES).softmax(-1)
        read_BNKE = F.dropout(alpha_BNKS, self.dropout, self.training) @ value_BNSE
        read_BKD = read_BNKE.transpose(1, 2).reshape(batch, count, core)
        return self.ffn(h_BKD + self.out(read_BKD)), alpha_BNKS.mean(1)
