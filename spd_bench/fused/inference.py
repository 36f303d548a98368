"""Fused forms of operations that stock operators do in several passes over memory, for inference on a CPU.

`fused.build` compiles `kernels/` once per machine with its own C++ compiler. The functions here equal their stock forms
to rounding. They run only where `ready` returns True: without gradients or autocast, on a CPU, in float32 or float64.
Elsewhere, without a compiler, or with SPD_BENCH_FUSED=0, the stock forms run; `build.description` says which, and every
timing and every run records it. `linear`, `standardise` and `perceptron` choose by themselves; for the others the
caller checks `ready` (and `unchanged`) and keeps the stock form beside the call.

Where the time is saved: tokens are written once, already standardised (B1); anchors that read the same place are read
one after the other (B4); the next query's tokens are prefetched during the attention of this one (B2, B5).

Letters: B images, K queries, Q items, R anchors, T tokens or sampling offsets (heads × samples), S samples of a head or
sites of L4, N heads, D core width, C channels, P numbers of a Fourier code.
"""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.fused import build

HEADS, WIDTH = 6, 32
CORE = HEADS * WIDTH
"""Heads, width per head and core width that the kernels are compiled for: the paper's (§2)."""
SIDES = (1, 3, 5)
"""Sides of neighbourhoods that the kernels are compiled for."""
ENLARGED = (64, 128, CORE)
"""Channels of enlarged levels that the kernels are compiled for."""
LANES = 16
"""The kernels read at most this many numbers at once; channels of a table are a multiple of it."""
PANEL = 2 * LANES
"""Columns of a product are a multiple of it."""
MANY = 128
"""Fewest rows for which rearranging the weights of a product is faster than rearranging the rows."""

_off = 0


@contextmanager
def stock() -> Iterator[None]:
    """Context manager in which the stock forms run: to count their arithmetic, or to compare with them."""
    global _off  # noqa: PLW0603 - a switch of the process
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def ready(*tensors: Tensor, heads: int = HEADS, width: int = WIDTH) -> bool:
    """Whether the fused forms of inference support these tensors, heads and width per head."""
    return not torch.is_grad_enabled() and fits(*tensors, heads=heads, width=width)


def fits(*tensors: Tensor, heads: int = HEADS, width: int = WIDTH) -> bool:
    """As `ready`, with or without gradients: for the forms of `fused.training`."""
    if _off or torch.is_autocast_enabled("cpu") or (heads, width) != (HEADS, WIDTH):
        return False
    kind = tensors[0].dtype
    same = kind in (torch.float32, torch.float64) and all(t.dtype == kind and t.device.type == "cpu" for t in tensors)
    return same and build.loaded()[0] is not None


def unchanged(component: object, base: type, *methods: str) -> bool:
    """Whether a component inherits these methods from `base`: a fused form must not replace an overridden one."""
    return all(getattr(type(component), name) is getattr(base, name) for name in methods)


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


class MapSize(NamedTuple):
    """Size of a map of a `geometry.Table`."""

    rows_per_map: int
    """Rows of the table per map, border included."""
    width: int
    """Columns of cells, without the border."""
    height: int
    """Rows of cells, without the border."""
    pad: int
    """Cells of border on each side."""


def neighbourhood(rows_NC: Tensor, of: MapSize, *, xy_lvl_BK2: Tensor, side: int) -> Tensor:
    """`geometry.Table.read_neighbourhood`: [B, K, side², C]."""
    batch, count, _ = xy_lvl_BK2.shape
    out_BKTC = rows_NC.new_empty(batch, count, side * side, rows_NC.shape[1])
    sizes = of.rows_per_map, count, rows_NC.shape[1], of.width, of.height, of.pad
    build.run("neighbourhood", rows_NC, batch * count, side, rows_NC, *sizes, xy_lvl_BK2.contiguous(), out_BKTC)
    return out_BKTC


class LocalWeights:
    """The weights of the seed and of the local tokens (§6.1), arranged for `local_tokens`.

    side: of L1's neighbourhood. freq: numbers of frequencies of the codes of positions and of offsets. reach: largest
    learned offset, in cells. offset: the layer of learned offsets, None without any. cell_shift_TD: W_loc's part on φ
    of the neighbourhood's cells, with the bias. embedding_TD: added to each token.
    """

    def __init__(
        self,
        *,
        side: int,
        centre_is_token: bool,
        freq: tuple[int, int],
        reach: float,
        seed: nn.Linear,
        offset: nn.Linear | None,
        local: nn.Linear,
        cell_shift_TD: Tensor,
        embedding_TD: Tensor,
    ) -> None:
        on_feature, on_code = local.weight.split([seed.in_features - 4 * freq[0], 4 * freq[1]], dim=1)
        learned = 0 if offset is None else offset.out_features // 2
        more = -2 * learned % PANEL
        # without learned offsets the kernel does not read these two
        chosen = (
            [on_code, on_code]
            if offset is None
            else [F.pad(offset.weight.t(), (0, more)), F.pad(offset.bias, (0, more))]
        )
        given = [
            seed.weight.t(),
            seed.bias,
            *chosen,
            on_feature.t(),
            on_code.t(),
            local.bias,
            cell_shift_TD,
            embedding_TD,
        ]
        self.reach, self.shape = reach, embedding_TD.shape
        self.tensors = [tensor.contiguous() for tensor in given]
        self.pointers = build.pointers(self.tensors)
        self.counts = build.whole_numbers([side, learned, centre_is_token, *freq, 2 * learned + more])


class Around(NamedTuple):
    """A map that is read at a neighbourhood of each query."""

    rows_NC: Tensor
    """The map as rows of a table."""
    of: MapSize
    """Its size."""
    side: int
    """Cells along a side of the neighbourhood."""
    cells: tuple[float, float]
    """Cells per image along x and y."""


def local_tokens(xy_BK2: Tensor, maps: Sequence[Around], weights: LocalWeights) -> tuple[Tensor, Tensor]:
    """The seed of every query [B, K, D], and its tokens of all levels, standardised [B, K, T, D]; L1 comes first."""
    batch, count, _ = xy_BK2.shape
    seed_BKD = xy_BK2.new_empty(batch, count, CORE)
    out_BKTD = xy_BK2.new_empty(batch, count, *weights.shape)
    numbers = [n for m in maps for n in (m.of.rows_per_map, m.rows_NC.shape[1], m.of.width, m.of.height, m.of.pad)]
    scale = torch.tensor([*(cells for m in maps for cells in m.cells), weights.reach], dtype=xy_BK2.dtype)
    levels = (
        len(maps),
        build.pointers([m.rows_NC for m in maps]),
        build.whole_numbers(numbers),
        build.whole_numbers([m.side for m in maps]),
        scale,
    )
    given = count, xy_BK2.contiguous(), *levels, weights.counts, weights.pointers
    build.run("local_tokens", xy_BK2, batch * count, *given, seed_BKD, out_BKTD)
    return seed_BKD, out_BKTD


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
    """Where each sample of a head reads, the same for every head (`geometry.Stack.samples`)."""

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


def perceptron(x: Tensor, wide: nn.Linear, narrow: nn.Linear) -> Tensor:
    """W_2 GELU(W_1 x + b_1) + b_2."""
    if not (ready(x, wide.weight) and x.shape[-1] == CORE):
        return narrow(F.gelu(wide(x)))  # type: ignore[no-any-return]
    weights = [tensor.contiguous() for layer in (wide, narrow) for tensor in (layer.weight, layer.bias)]
    out, items = x.new_empty(*x.shape[:-1], narrow.out_features), x.numel() // CORE
    build.run("perceptron", x, items, wide.out_features, narrow.out_features, *weights, x.contiguous(), out)
    return out


class LayerWeights:
    """Weights of an attention layer except its keys and values, arranged for `token_layer` and `site_layer`.

    It keeps the tensors alive, since the kernels hold their addresses.
    """

    def __init__(
        self, query_norm: nn.LayerNorm, query: nn.Linear, out: nn.Linear, norm: nn.LayerNorm, *ffn: nn.Linear
    ) -> None:
        modules: tuple[nn.LayerNorm | nn.Linear, ...] = (query_norm, query, out, norm, *ffn)
        self.tensors = [t.contiguous() for module in modules for t in (module.weight, module.bias)]
        self.pointers = build.pointers(self.tensors)
        self.hidden = ffn[0].out_features

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
