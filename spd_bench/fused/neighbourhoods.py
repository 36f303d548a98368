"""Fused reads around each query: neighbourhoods of a map, and all of B1 (§6.1) in one call.

Letters: B images, K queries, T tokens, D core width, C channels, N rows of a table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.fused import build
from spd_bench.fused.forms import CORE, PANEL


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
