"""Fused attention layers for inference on a CPU: over a query's own tokens, and over the sites of L4.

Letters: B images, K queries, Q items, T tokens, S sites of L4, N heads, E width per head, D core width.
"""

import ctypes
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from spd_bench.fused import build
from spd_bench.fused.forms import ready


class LayerWeights:
    """Weights of an attention layer except its keys and values, arranged for `token_layer` and `site_layer`.

    It keeps the tensors alive, since the kernels hold their addresses.
    """

    def __init__(
        self, query_norm: nn.LayerNorm, query: nn.Linear, out: nn.Linear, norm: nn.LayerNorm, *ffn: nn.Linear
    ) -> None:
        modules: tuple[nn.LayerNorm | nn.Linear, ...] = (query_norm, query, out, norm, *ffn)
        self.tensors = [t.contiguous() for module in modules for t in (module.weight, module.bias)]
        self.hidden = ffn[0].out_features

    @cached_property
    def pointers(self) -> "ctypes.Array[Any]":
        """Addresses of the weights, taken when a kernel needs them: in an exported graph tensors have none."""
        return build.pointers(self.tensors)

    def serve(self, h_BKD: Tensor, *, heads: int, width: int) -> bool:
        """Whether the fused forms support these queries, heads and width per head."""
        return ready(h_BKD, self.tensors[0], heads=heads, width=width)


def token_layer(
    h_BKD: Tensor, tokens: Sequence[Tensor], weights: LayerWeights, key_NED: Tensor, value_NED: Tensor, shift_NE: Tensor
) -> Tensor:
    """h after an attention layer over each query's tokens, given in parts [Q, T, D]."""
    h_BKD, parts = h_BKD.contiguous(), [part_QTD.contiguous() for part_QTD in tokens]
    absorbed = [tensor.contiguous() for tensor in (key_NED, value_NED, shift_NE)]
    out_BKD = torch.empty_like(h_BKD)
    sizes = (
        len(parts),
        build.pointers(parts),
        build.whole_numbers([part.shape[1] for part in parts]),
        weights.hidden,
        weights.pointers,
    )
    build.run("token_layer", h_BKD, h_BKD.shape[0] * h_BKD.shape[1], *sizes, *absorbed, h_BKD, out_BKD)
    return out_BKD


def site_layer(
    h_BKD: Tensor, weights: LayerWeights, key_BNES: Tensor, value_BNSE: Tensor, added_query_BKD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h after an attention layer over the sites of L4, and the mean of all heads' attention weights [B, K, S]."""
    (batch, count, _), sites = h_BKD.shape, key_BNES.shape[-1]
    added_query_BKD = None if added_query_BKD is None else added_query_BKD.contiguous()
    h_BKD, key_BNES, value_BNSE = h_BKD.contiguous(), key_BNES.contiguous(), value_BNSE.contiguous()
    out_BKD, alpha_BKS = torch.empty_like(h_BKD), h_BKD.new_empty(batch, count, sites)
    given = count, sites, weights.hidden, weights.pointers, added_query_BKD, key_BNES, value_BNSE
    build.run("site_layer", h_BKD, batch * count, *given, h_BKD, out_BKD, alpha_BKS)
    return out_BKD, alpha_BKS
