"""Coordinate frames, the half-pixel rule, and all samplers of the project (R-03 to R-07).

Frames, each with its name in variable names:

    uv_img   pixel indices of the original image; an integer is a pixel, u to the right, v down
    xy       the unit square of the image: (0, 0) is the top-left corner of the top-left pixel
    xy_lvl   cells of one map: cell i covers [i, i+1), its value sits at i + 0.5
    grid     [-1, 1], what `torch.nn.functional.grid_sample` takes

A query pixel means its centre (R-03): x = (u + 0.5) / W. A map may cover less than the image
(L4 covers 36/37 of it, R-05); its `extent` says how much, as a fraction of the image.
Outside a map every sampler reads zero (R-07). Coordinates stay float32 or better under autocast.

Letters: B images, N points, C channels, H W rows and columns of the map, Q bags, S rows per bag.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spd_bench.fused import anchor_reads, forms, neighbourhoods, training


def constant(values: Sequence[float], *, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a cached tensor on the device of `like`, in its dtype unless one is given; never modify it.

    Cached because a copy to a GPU waits for all earlier work and prevents graph capture.
    """
    if torch.compiler.is_exporting():  # what is made meanwhile has no values, and must not be kept
        return torch.tensor(values, dtype=dtype or like.dtype, device=like.device)
    return _constant(tuple(values), dtype or like.dtype, like.device)


@lru_cache(maxsize=1024)
@torch.inference_mode(mode=False)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def pixel_to_unit(uv_img: Tensor, *, width: int, height: int) -> Tensor:
    """Centre of each pixel (u, v) as a point of the unit square, R-03: x = (u + 0.5) / W."""
    return (uv_img + 0.5) / constant([width, height], like=uv_img)


def unit_to_level(xy: Tensor, *, width: int, height: int, extent: tuple[float, float]) -> Tensor:
    """Point of the unit square in cells of a map that covers `extent` (x, y) of the image, R-04, R-05."""
    return xy * constant([width / extent[0], height / extent[1]], like=xy)


def cell_centres(*, width: int, height: int, extent: tuple[float, float], like: Tensor) -> Tensor:
    """Centres of a map's cells in the unit square, row-major: [H·W, 2]. L4: 28 (i + ½) of 518 px (R-05)."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) * (extent[0] / width)
    y = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) * (extent[1] / height)
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1)


def neighbourhood(size: int, *, like: Tensor) -> Tensor:
    """Offsets (dx, dy) of a size×size neighbourhood in cells, row-major in (dy, dx) (R-08): [size², 2]."""
    step = torch.arange(size, dtype=like.dtype, device=like.device) - size // 2
    return torch.stack([step.repeat(size), step.repeat_interleave(size)], dim=-1)


def grid_sample(map_BCHW: Tensor, xy_lvl_BMN2: Tensor) -> Tensor:
    """Bilinear read at points in cells, zeros outside: [B, C, M, N]. §6's grid = 2p/dim − 1 with p in cells."""
    height, width = map_BCHW.shape[-2:]
    grid = 2 * xy_lvl_BMN2 / constant([width, height], like=xy_lvl_BMN2) - 1
    return F.grid_sample(map_BCHW, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@dataclass(frozen=True)
class Table:
    """A batch of channels-last maps laid out as rows, with a border of zeros around each map.

    The border makes zero padding (R-07) exact without a mask: a read that leaves the map finds zeros.
    """

    rows_NC: Tensor
    """[B·(H+2P)·(W+2P), C]."""
    batch: int
    """Number of maps."""
    height: int
    """Rows of cells of the map, without the border."""
    width: int
    """Columns of cells of the map, without the border."""
    pad: int
    """Cells of border on each side, P."""
    extent: tuple[float, float] = (1.0, 1.0)
    """Fraction (x, y) of the image that the map covers."""
    first: int = 0
    """Row of the first border cell of the first map; 0 unless several tables are stacked."""

    @classmethod
    def of(cls, map_BHWC: Tensor, *, extent: tuple[float, float], pad: int) -> "Table":
        """Rows of a channels-last map with `pad` zero cells on each side; raises ValueError for fewer than 2."""
        if pad < 2:
            raise ValueError(f"a border of at least 2 cells is needed for reads at the rim, found {pad}")
        batch, height, width, channels = map_BHWC.shape
        rows_NC = F.pad(map_BHWC, (0, 0, pad, pad, pad, pad)).reshape(-1, channels)
        return cls(rows_NC, batch, height, width, pad, extent)

    @property
    def stride(self) -> int:
        """Rows per line of cells."""
        return self.width + 2 * self.pad

    @property
    def rows_per_map(self) -> int:
        """Rows per map of the batch."""
        return self.stride * (self.height + 2 * self.pad)

    @property
    def cells(self) -> tuple[float, float]:
        """Cells per image along x and y."""
        return self.width / self.extent[0], self.height / self.extent[1]

    def xy_lvl(self, xy: Tensor) -> Tensor:
        """Points of the unit square in cells of this map."""
        return unit_to_level(xy, width=self.width, height=self.height, extent=self.extent)

    def taps(self, xy_lvl: Tensor) -> tuple[Tensor, Tensor]:
        """Row of the upper left cell of each bilinear read, without the batch's offset, and the fractions (x, y).

        Points are first clamped to half a cell outside the map; beyond that everything reads zero anyway.
        """
        x = xy_lvl[..., 0].clamp(-0.5, self.width + 0.5) - 0.5
        y = xy_lvl[..., 1].clamp(-0.5, self.height + 0.5) - 0.5
        x_low, y_low = x.detach().floor(), y.detach().floor()
        row = (y_low.long() + self.pad) * self.stride + x_low.long() + (self.pad + self.first)
        # a NaN point gets any legal row; its fractions make the result NaN
        lowest = (self.pad - 1) * (self.stride + 1) + self.first
        highest = (self.height + self.pad) * self.stride + self.width + self.pad + self.first
        return row.clamp(lowest, highest), torch.stack([x - x_low, y - y_low], dim=-1)

    def read(self, xy_lvl_BN2: Tensor) -> Tensor:
        """Bilinear read at points in cells: [B, N, C]."""
        if self._reads_fused(1, xy_lvl_BN2):
            return self._fused_neighbourhood(xy_lvl_BN2, 1).squeeze(2)
        row_BN, frac_BN2 = self.taps(xy_lvl_BN2)
        return self._sum(row_BN, bilinear_weights(frac_BN2))

    def read_neighbourhood(self, xy_lvl_BK2: Tensor, size: int) -> Tensor:
        """Bilinear reads at a size×size neighbourhood of each point, one cell apart: [B, K, size², C].

        All reads of a point share their fractions, so its four weights are computed once. Points lie at most half
        a cell outside the map, as every point of the image does. Raises ValueError if pad < size // 2 + 2.
        """
        self._check_border(size)
        if self._reads_fused(size, xy_lvl_BK2):
            return self._fused_neighbourhood(xy_lvl_BK2, size)
        row_BK, frac_BK2 = self.taps(xy_lvl_BK2)
        step = torch.arange(size, device=row_BK.device) - size // 2
        offset_T = (step[:, None] * self.stride + step).flatten()
        weight_BKT4 = bilinear_weights(frac_BK2)[:, :, None].expand(-1, -1, size * size, -1)
        batch, count = row_BK.shape
        out_BNC = self._sum((row_BK[..., None] + offset_T).view(batch, -1), weight_BKT4.reshape(batch, -1, 4))
        return out_BNC.view(batch, count, size * size, -1)

    def around(self, size: int) -> neighbourhoods.Around:
        """This map for reads at a size×size neighbourhood of points of the unit square, fused (`local_tokens`)."""
        self._check_border(size)
        cells = self.width / self.extent[0], self.height / self.extent[1]
        return neighbourhoods.Around(self.rows_NC, self._size, size, cells)

    def _reads_fused(self, size: int, xy_lvl_BK2: Tensor) -> bool:
        kept = size in forms.SIDES and self.rows_NC.shape[1] % forms.LANES == 0
        return kept and forms.fits(self.rows_NC, xy_lvl_BK2)

    def _fused_neighbourhood(self, xy_lvl_BK2: Tensor, size: int) -> Tensor:
        return training.neighbourhood(self.rows_NC, xy_lvl_BK2, size, self._size)

    @property
    def _size(self) -> neighbourhoods.MapSize:
        return neighbourhoods.MapSize(self.rows_per_map, self.width, self.height, self.pad)

    def _check_border(self, size: int) -> None:
        if self.pad < size // 2 + 2:
            raise ValueError(f"a {size}×{size} neighbourhood needs a border of {size // 2 + 2} cells, found {self.pad}")

    def _sum(self, row_BN: Tensor, weight_BN4: Tensor) -> Tensor:
        rows_BN4 = self.corners(row_BN) + batch_offset(self.batch, self.rows_per_map, like=row_BN)[:, None, None]
        out_QC = weighted_rows(self.rows_NC, rows_BN4.view(-1, 4), weight_BN4.reshape(-1, 4))
        return out_QC.view(*row_BN.shape, -1)

    def corners(self, row: Tensor) -> Tensor:
        """The four rows of a bilinear read from the upper left one, in the order of `bilinear_weights`."""
        return row[..., None] + constant([0, 1, self.stride, self.stride + 1], like=row)


@dataclass(frozen=True)
class Stack:
    """The tables of several levels of one batch, for reads that sum over levels (§6.4)."""

    levels: tuple[Table, ...]
    """The levels. `first` of each is its first row in `rows_NC`, which holds an image's levels one after the other."""

    @classmethod
    def of(cls, tables: Sequence[Table]) -> "Stack":
        """Tables of the same batch and channels, stacked in their order."""
        first, levels = 0, []
        for table in tables:
            levels.append(replace(table, first=first))
            first += table.rows_per_map
        return cls(tuple(levels))

    @property
    def rows_per_image(self) -> int:
        """Rows of all levels of an image."""
        return sum(table.rows_per_map for table in self.levels)

    @cached_property
    def rows_NC(self) -> Tensor:
        """All levels as one array [B·rows_per_image, C], computed on first access."""
        return torch.cat([t.rows_NC.view(t.batch, t.rows_per_map, -1) for t in self.levels], dim=1).flatten(0, 1)

    def taps(self, xy_Q2: Tensor, x_QT: Tensor, y_QT: Tensor, level_T: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As `Table.taps` at T offsets (x, y) around each point of the unit square, offset t in cells of level_T[t].

        Row within the image (int32) [Q, T], row stride [T], fractions x and y [Q, T].
        """

        def of_level(values: Sequence[float]) -> Tensor:
            # one number per offset: broadcasting over levels is several times slower
            return constant(values, like=x_QT)[level_T]

        x = torch.addcmul(x_QT, xy_Q2[:, :1], of_level([t.width / t.extent[0] for t in self.levels]))
        y = torch.addcmul(y_QT, xy_Q2[:, 1:], of_level([t.height / t.extent[1] for t in self.levels]))
        x = torch.minimum(x.clamp_min(-0.5), of_level([t.width + 0.5 for t in self.levels])) - 0.5
        y = torch.minimum(y.clamp_min(-0.5), of_level([t.height + 0.5 for t in self.levels])) - 0.5
        x_low, y_low = x.detach().floor(), y.detach().floor()
        stride_T = of_level([t.stride for t in self.levels])
        corner_T = of_level([t.pad * (t.stride + 1) + t.first for t in self.levels])
        # a row is a whole number far below 2^24, so float32 holds it exactly
        row_QT = torch.addcmul(x_low + corner_T, y_low, stride_T).to(torch.int32)
        # a NaN point gets any legal row; its fractions make the result NaN
        last = self.levels[-1]
        row_QT = row_QT.clamp(0, self.rows_per_image - last.stride - 2)
        return row_QT, stride_T.to(torch.int32), x - x_low, y - y_low

    def samples(self, per_level: int, *, like: Tensor) -> anchor_reads.Samples:
        """Where each sample of a head reads: `per_level` samples on level 1, then on level 2, and so on."""
        levels = [t for t in self.levels for _ in range(per_level)]
        cells = [[t.width / t.extent[0] for t in levels], [t.height / t.extent[1] for t in levels]]
        reach = [[t.width + 0.5 for t in levels], [t.height + 0.5 for t in levels]]
        rows = [[t.stride, t.pad * (t.stride + 1), t.rows_per_map - t.stride - 2] for t in levels]
        return anchor_reads.Samples(
            [(t.rows_NC, t.rows_per_map) for t in levels],
            torch.tensor(cells + reach, dtype=like.dtype),
            torch.tensor(rows, dtype=torch.int32).t().contiguous(),
        )


def batch_offset(batch: int, rows_per_map: int, *, like: Tensor) -> Tensor:
    """First row of each map of a batch: [B]."""
    return torch.arange(batch, device=like.device) * rows_per_map


def bilinear_weights(frac: Tensor) -> Tensor:
    """Weights of the cells (left up, right up, left down, right down) from the fractions (x, y): [..., 4]."""
    fx, fy = frac.unbind(-1)
    both = fx * fy
    return torch.stack([1 - fx - fy + both, fx - both, fy - both, both], dim=-1)


class _WeightedRows(torch.autograd.Function):
    """`embedding_bag` forward; backward in pieces that stay in cache.

    The stock backward sorts all indices first: measured 2.3 times slower than this at B4's size.
    """

    PIECE = 32768
    """Gathered rows of a piece."""

    @staticmethod
    def forward(ctx: Any, table_NC: Tensor, row_QS: Tensor, weight_QS: Tensor) -> Tensor:
        ctx.save_for_backward(table_NC, row_QS, weight_QS)
        weight_QS = weight_QS.to(table_NC.dtype)
        return F.embedding_bag(row_QS, table_NC, mode="sum", per_sample_weights=weight_QS)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table_NC, row_QS, weight_QS = ctx.saved_tensors
        grad_QC = grads[0]
        # sums of many small shares stay in the precision of the weights, float32 under autocast
        grad_table = torch.zeros_like(table_NC, dtype=weight_QS.dtype) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight_QS) if ctx.needs_input_grad[2] else None
        channels = table_NC.shape[1]
        bags = max(1, _WeightedRows.PIECE // row_QS.shape[1])
        for start in range(0, row_QS.shape[0], bags):
            piece = slice(start, start + bags)
            rows = row_QS[piece].reshape(-1)
            if grad_table is not None:
                share_QSC = weight_QS[piece, :, None] * grad_QC[piece, None]
                # with an index that is the same along C, three times faster than index_add_
                grad_table.scatter_add_(0, rows.long()[:, None].expand(-1, channels), share_QSC.view(-1, channels))
            if grad_weight is not None:
                gathered_QSC = table_NC.index_select(0, rows).view(-1, row_QS.shape[1], channels)
                grad_weight[piece] = torch.bmm(gathered_QSC, grad_QC[piece, :, None])[..., 0]
        return None if grad_table is None else grad_table.to(table_NC.dtype), None, grad_weight


def weighted_rows(table_NC: Tensor, row_QS: Tensor, weight_QS: Tensor) -> Tensor:
    """out[q] = Σ_s weight[q, s] · table[row[q, s]]: one gather and weighted sum, [Q, C].

    Every bilinear read of the project is this sum; the gathered rows are never stored.
    """
    if torch.compiler.is_exporting():  # not every runtime has bags of weighted rows
        rows_QSC = table_NC.index_select(0, row_QS.long().flatten()).view(*row_QS.shape, -1)
        return torch.bmm(weight_QS[:, None].to(table_NC.dtype), rows_QSC)[:, 0]
    out: Tensor = _WeightedRows.apply(table_NC, row_QS, weight_QS)  # type: ignore[no-untyped-call]
    return out


def sample(map_BHWC: Tensor, xy_lvl_BN2: Tensor) -> Tensor:
    """Bilinear read of a channels-last map at points in cells, zeros outside: [B, N, C]."""
    return Table.of(map_BHWC, extent=(1.0, 1.0), pad=2).read(xy_lvl_BN2)
