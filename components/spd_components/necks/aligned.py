"""A pyramid whose coarsest level covers the whole image."""

import torch
from torch import Tensor

from spd_bench.api import Features, Pyramid
from spd_components.necks.levels import PyramidLevels


def area_mean(map_BHWC: Tensor, *, dim: int, size: int) -> Tensor:
    """Means over `size` equal intervals I along one dimension; a cell at an interval's end counts in part.

    Interval i covers cells [i·n/size, (i+1)·n/size) of n. Shares are ratios of integers, and the sum uses products
    instead of a matrix product, so that it keeps its precision under autocast.
    """
    length = map_BHWC.shape[dim]
    index_I = torch.arange(size, device=map_BHWC.device)
    along = [-1 if axis == dim else 1 for axis in range(map_BHWC.dim())]
    total = torch.zeros_like(map_BHWC.narrow(dim, 0, size))
    touched = max(-(-(i + 1) * length // size) - i * length // size for i in range(size))
    for step in range(touched):
        cell_I = index_I * length // size + step
        # in parts of a cell, `size` to each
        end_I = torch.minimum((index_I + 1) * length, (cell_I + 1) * size)
        start_I = torch.maximum(index_I * length, cell_I * size)
        share_I = (end_I - start_I).clamp_min(0).to(map_BHWC.dtype) / length
        cells_BHWC = map_BHWC.index_select(dim, cell_I.clamp_max(length - 1))
        total = torch.addcmul(total, cells_BHWC, share_I.view(along))
    return total


class AlignedNeck(PyramidLevels):
    """The pyramid of §4 with L4 pooled over the whole image instead of its first 36/37 (R-05).

    L4 keeps its ⌊Hp/2⌋ × ⌊Wp/2⌋ cells (18×18 for 518×518), but each is the mean over an equal share of the image, 37/18
    of the patch grid's cells wide, so no odd row or column is dropped and L4's extent is 1 like the other levels'.

    A fair comparison: the same parameters, sizes and number of sites; only the positions of L4's sites differ. On grids
    with even sides this equals the pyramid of §4.
    """

    def forward(self, features: Features) -> Pyramid:
        """Pyramid of a batch of images."""
        shallow, low, high, deep = features.maps_BHWC
        rows, columns = deep.shape[1:3]
        pooled = area_mean(area_mean(deep, dim=1, size=rows // 2), dim=2, size=columns // 2)
        return self.pooled_pyramid(shallow, low, high, pooled, covered=(1.0, 1.0))
