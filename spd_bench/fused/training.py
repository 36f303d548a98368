"""Fused forms with gradients, for training on a CPU: the costliest operations of a step, forward and backward.

As in `fused.forms`, they equal the stock operators to rounding and run only where `ready` returns True. A backward
pass recomputes large tensors instead of storing them, gives the same bits when repeated, on any number of threads, and
cannot itself be differentiated.

Five attention layers read a query's standardised tokens. `Shared` sums their gradients in one tensor, which becomes the
gradient of the tokens when the last layer is done: no layer allocates a tensor as large as the tokens.

Letters: N heads or rows of a table, otherwise as in `fused.anchor_reads` and `fused.attention`.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spd_bench.fused import anchor_reads, build, forms, neighbourhoods


def ready(*tensors: Tensor, heads: int = forms.HEADS, width: int = forms.WIDTH) -> bool:
    """Whether gradients are wanted, and the fused forms can take these tensors, heads and width per head."""
    return torch.is_grad_enabled() and forms.fits(*tensors, heads=heads, width=width)


class _Sum:
    """The sum of the gradients that the layers of one backward pass have of the same tokens."""

    def __init__(self) -> None:
        self.values: Tensor | None = None
        self.shares = self.run = 0

    def place(self, like: Tensor) -> tuple[Tensor, bool]:
        """The tensor to add to, and whether it already holds a gradient: the first layer writes instead of adding."""
        run = torch._C._current_graph_task_id()
        # an earlier pass that did not need the tokens' gradient left its shares behind
        if self.values is None or self.run != run:
            self.values, self.shares, self.run = torch.empty_like(like), 0, run
        self.shares += 1
        return self.values, self.shares > 1

    def take(self, shares: int) -> Tensor:
        """The sum of `shares` gradients; raises RuntimeError for another number."""
        values, self.values = self.values, None
        if values is None or shares != self.shares:
            raise RuntimeError("gradients of the same tokens from two backward passes were mixed")
        return values


class Shared(NamedTuple):
    """Standardised tokens for several readers."""

    standard_BKTD: Tensor
    """Their values, detached from the graph."""
    ticket: Tensor
    """A scalar that represents them in the graph. A reader returns gradient 1 for it after adding its gradient of the
    tokens to `sum`."""
    sum: _Sum
    """The sum of all readers' gradients of the tokens."""


class _Standardised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BKTD: Tensor, total: _Sum) -> tuple[Tensor, Tensor]:
        x_BKTD = x_BKTD.contiguous()
        out_BKTD, scale_BKT = torch.empty_like(x_BKTD), x_BKTD.new_empty(x_BKTD.shape[:-1])
        build.run("standardise_kept", x_BKTD, scale_BKT.numel(), x_BKTD, out_BKTD, scale_BKT)
        ctx.save_for_backward(out_BKTD, scale_BKT)
        ctx.sum = total
        ctx.mark_non_differentiable(out_BKTD)
        ctx.set_materialize_grads(False)  # no zeros as large as the tokens
        return out_BKTD, x_BKTD.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, shares: Tensor) -> tuple[Tensor, None]:
        out_BKTD, scale_BKT = ctx.saved_tensors
        grad_BKTD = ctx.sum.take(int(shares.item()))
        build.run("standardise_backward", out_BKTD, scale_BKT.numel(), out_BKTD, scale_BKT, grad_BKTD)
        return grad_BKTD, None


def share(x_BKTD: Tensor) -> Shared | None:
    """Tokens standardised for `attend` (LayerNorm without affine part, eps 1e-5); None where stock operators run."""
    if not (ready(x_BKTD) and x_BKTD.shape[-1] == forms.CORE):
        return None
    total = _Sum()
    out_BKTD, ticket = _Standardised.apply(x_BKTD, total)  # type: ignore[no-untyped-call]
    return Shared(out_BKTD, ticket, total)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_NQD: Tensor, keep_QNT: Tensor | None, tokens: list[Shared], *tickets: Tensor
    ) -> tuple[Tensor, Tensor]:
        query_NQD = query_NQD.contiguous()
        heads, items, _ = query_NQD.shape
        parts = [part.standard_BKTD for part in tokens]
        shares_QNT = query_NQD.new_empty(items, heads, sum(part.shape[-2] for part in parts))
        out_NQD, total_QN1 = torch.empty_like(query_NQD), query_NQD.new_empty(items, heads, 1)
        given = query_NQD, keep_QNT, shares_QNT, out_NQD, total_QN1
        build.run("attend_kept", query_NQD, items, items, *_parts(parts), *given)
        ctx.save_for_backward(query_NQD, keep_QNT, shares_QNT, *parts)
        ctx.sums = [part.sum for part in tokens]
        return out_NQD, total_QN1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NQD: Tensor, grad_QN1: Tensor) -> tuple[Tensor | None, ...]:
        query_NQD, keep_QNT, shares_QNT, *parts = ctx.saved_tensors
        items, asked = query_NQD.shape[1], ctx.needs_input_grad[3:]
        grad_query = torch.empty_like(query_NQD)
        wanted = zip(asked, ctx.sums, parts, strict=True)
        places = [total.place(part) if of else (None, False) for of, total, part in wanted]
        where = build.pointers([place for place, _ in places])
        adds = build.whole_numbers([has for _, has in places])
        given = query_NQD, keep_QNT, shares_QNT, grad_NQD.contiguous(), grad_QN1.contiguous(), grad_query, where, adds
        build.run("attend_backward", query_NQD, items, items, *_parts(parts), *given)
        return grad_query, None, None, *(grad_query.new_ones(()) if of else None for of in asked)


def attend(query_NQD: Tensor, keep_QNT: Tensor | None, tokens: Sequence[Shared]) -> tuple[Tensor, Tensor]:
    """softmax(q·t / √E) t of every head over all tokens [N, Q, D], and the sum of its weights [Q, N, 1].

    keep_QNT: dropout's factors on the weights after the softmax.
    """
    out: tuple[Tensor, Tensor] = _Attend.apply(  # type: ignore[no-untyped-call]
        query_NQD, keep_QNT, list(tokens), *(part.ticket for part in tokens)
    )
    return out


class _Neighbourhood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_NC: Tensor, xy_lvl_BK2: Tensor, side: int, of: neighbourhoods.MapSize) -> Tensor:
        rows_NC, xy_lvl_BK2 = rows_NC.contiguous(), xy_lvl_BK2.contiguous()
        ctx.save_for_backward(rows_NC, xy_lvl_BK2)
        ctx.side, ctx.of = side, of
        return neighbourhoods.neighbourhood(rows_NC, of, xy_lvl_BK2=xy_lvl_BK2, side=side)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BKTC: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_NC, xy_lvl_BK2 = ctx.saved_tensors
        of: neighbourhoods.MapSize = ctx.of
        sizes = of.rows_per_map, xy_lvl_BK2.shape[1], rows_NC.shape[1], of.width, of.height, of.pad
        grads = torch.zeros_like(rows_NC), torch.empty_like(xy_lvl_BK2)
        given = ctx.side, rows_NC, *sizes, xy_lvl_BK2, grad_BKTC.contiguous(), *grads
        build.run("neighbourhood_backward", rows_NC, len(xy_lvl_BK2), *given, at_least=1)
        return *grads, None, None


def neighbourhood(rows_NC: Tensor, xy_lvl_BK2: Tensor, side: int, of: neighbourhoods.MapSize) -> Tensor:
    """`fused.neighbourhoods.neighbourhood`, with gradients of tables and points."""
    out: Tensor = _Neighbourhood.apply(rows_NC, xy_lvl_BK2, side, of)  # type: ignore[no-untyped-call]
    return out


class _Samples(NamedTuple):
    """The arguments of `fused.anchor_reads.levels_read` that have no gradient."""

    table_S: list[int]
    """Index of the table that each sample reads."""
    rows_S: list[int]
    """Rows per image of that table."""
    level_4S: Tensor
    places_3S: Tensor
    site_BKR: Tensor
    site_xy_S2: Tensor

    def reading(self, tables_ND: Sequence[Tensor]) -> anchor_reads.Samples:
        """The samples of these tables."""
        maps = [(tables_ND[table], rows) for table, rows in zip(self.table_S, self.rows_S, strict=True)]
        return anchor_reads.Samples(maps, self.level_4S, self.places_3S)


class _LevelsRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_QT: Tensor, y_QT: Tensor, score_QT: Tensor, of: _Samples, *tables_ND: Tensor) -> Tensor:
        ctx.save_for_backward(x_QT, y_QT, score_QT, *tables_ND)
        ctx.of = of
        where = {"site_BKR": of.site_BKR, "site_xy_S2": of.site_xy_S2}
        return anchor_reads.levels_read(of.reading(tables_ND), x_QT=x_QT, y_QT=y_QT, score_QT=score_QT, **where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_QD: Tensor) -> tuple[Tensor | None, ...]:
        x_QT, y_QT, score_QT, *tables_ND = ctx.saved_tensors
        of: _Samples = ctx.of
        grads_ND = [torch.zeros_like(table_ND) for table_ND in tables_ND]
        grads_QT = [torch.empty(x_QT.shape, dtype=x_QT.dtype) for _ in range(3)]
        places = of.site_BKR[0].numel(), of.site_BKR, of.site_xy_S2
        offsets = x_QT, y_QT, *x_QT.stride(), score_QT, score_QT.stride(0)
        grad_rows = build.pointers([grads_ND[table] for table in of.table_S])
        given = *of.reading(tables_ND).given(), *places, *offsets, grad_QD.contiguous(), grad_rows, *grads_QT
        build.run("levels_read_backward", x_QT, len(of.site_BKR) * forms.HEADS, *given, at_least=1)
        return *grads_QT, None, *grads_ND


def levels_read(
    samples: anchor_reads.Samples, *, site_BKR: Tensor, site_xy_S2: Tensor, x_QT: Tensor, y_QT: Tensor, score_QT: Tensor
) -> Tensor:
    """`anchor_reads.levels_read` with gradients of tables, offsets and scores, but not of the sites' positions."""
    if x_QT.stride() != y_QT.stride():
        x_QT, y_QT = x_QT.contiguous(), y_QT.contiguous()
    if score_QT.stride(1) != 1:
        score_QT = score_QT.contiguous()
    tables = {id(rows_ND): rows_ND.contiguous() for rows_ND, _ in samples.maps}
    numbers = {key: number for number, key in enumerate(tables)}
    of = [numbers[id(rows_ND)] for rows_ND, _ in samples.maps], [rows for _, rows in samples.maps]
    places = (tensor.contiguous() for tensor in (samples.level_4S, samples.places_3S, site_BKR, site_xy_S2))
    given = _Samples(*of, *places)
    out_QD: Tensor = _LevelsRead.apply(x_QT, y_QT, score_QT, given, *tables.values())  # type: ignore[no-untyped-call]
    return out_QD


def _parts(parts: Sequence[Tensor]) -> tuple[int, "ctypes.Array[Any]", "ctypes.Array[Any]"]:
    """Number, addresses and lengths of token parts, as kernels take them."""
    return len(parts), build.pointers(parts), build.whole_numbers([part.shape[-2] for part in parts])
