"""What necks share: projected levels and the resizes between them (§4)."""

from functools import cached_property

import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench import fused
from spd_bench.api import ComponentConfig, Dims, Level, Neck, Pyramid
from spd_bench.geometry import Table


class ProjectedLevel(nn.Module):
    """1×1 convolution and LayerNorm over channels of one level; the resize between them is the caller's."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels_in, channels_out)
        self.norm = nn.LayerNorm(channels_out)


def upsample(map_BHWC: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement by a whole factor that keeps pixel centres (align_corners=False), channels last."""
    size = (map_BHWC.shape[1] * factor, map_BHWC.shape[2] * factor)
    resized = F.interpolate(map_BHWC.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


class EnlargedLevel(Level):
    """LayerNorm of a map that is enlarged by a whole factor, made where it is asked for.

    A projection W x + b of it needs no enlarged map of its input's width. The norm's centring and the projection
    commute with the enlargement E; only the spread σ, one number per cell, has to be known there. With the norm's
    affine part (g, c) and the coarse map's centred channels y,

        W LN(E y) + b = E((W ∘ g) y) / σ + (W c + b)      σ² = mean over channels of (E y)² + eps
    """

    coarse_BHWC: Tensor
    factor: int
    norm: nn.LayerNorm

    def __init__(self, coarse_BHWC: Tensor, factor: int, norm: nn.LayerNorm) -> None:
        vars(self).update(coarse_BHWC=coarse_BHWC, factor=factor, norm=norm)

    @cached_property
    def map_BHWC(self) -> Tensor:
        """The level itself."""
        enlarged: Tensor = self.norm(upsample(self.coarse_BHWC, self.factor))
        return enlarged

    @property
    def height(self) -> int:
        """Rows of cells."""
        return self.coarse_BHWC.shape[1] * self.factor

    @property
    def width(self) -> int:
        """Columns of cells."""
        return self.coarse_BHWC.shape[2] * self.factor

    def table(self, *, pad: int, by: nn.Linear | None = None) -> Table:
        """As every level's, in one pass over memory where the fused forms can."""
        channels = self.coarse_BHWC.shape[-1]
        if not fused.ready(self.coarse_BHWC, self.norm.weight):
            return super().table(pad=pad, by=by)
        if by is None and channels in (fused.FINE, fused.LOW):
            rows_NC = fused.enlarged_norm(self.coarse_BHWC, self.factor, pad, self.norm)
        elif by is not None and channels == fused.LOW and by.out_features == fused.CORE:
            product_BHWD = F.linear(self._centred[0], by.weight * self.norm.weight)
            shift_D = F.linear(self.norm.bias, by.weight, by.bias)
            rows_NC = fused.enlarged_product(product_BHWD, self.factor, pad, self._centred[1], shift_D)
        else:
            return super().table(pad=pad, by=by)
        return Table(rows_NC, len(self.coarse_BHWC), self.height, self.width, pad, self.extent)

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        """y, and 1 / σ of each cell."""
        centred_BHWC = self.coarse_BHWC - self.coarse_BHWC.mean(-1, keepdim=True)
        return centred_BHWC, fused.enlarged_spread(centred_BHWC, self.factor)


def pool2(map_BHWC: Tensor) -> Tensor:
    """2×2 average pooling without padding: an odd last row or column is dropped (R-05), channels last."""
    return F.avg_pool2d(map_BHWC.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def covered_by_pool2(map_BHWC: Tensor) -> tuple[float, float]:
    """Fraction (x, y) of the image that `pool2` of a map of the whole image covers: 36/37 of 37 cells (R-05)."""
    rows, columns = map_BHWC.shape[1:3]
    return (columns // 2 * 2 / columns, rows // 2 * 2 / rows)


class PyramidLevels(Neck):
    """Four levels of convolution, resize and LayerNorm; a neck says which map feeds which level."""

    budget = {"": "Pyramid neck (§4)"}

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.l1, self.l2, self.l3, self.l4 = (ProjectedLevel(dims.features, width) for width in dims.pyramid)

    def pyramid(self, shallow: Tensor, low: Tensor, high: Tensor, deep: Tensor) -> Pyramid:
        """L1 to L4 from one map [B, Hp, Wp, C] each."""
        return self.pooled_pyramid(shallow, low, high, pool2(deep), covered=covered_by_pool2(deep))

    def pooled_pyramid(
        self, shallow: Tensor, low: Tensor, high: Tensor, pooled: Tensor, *, covered: tuple[float, float]
    ) -> Pyramid:
        """L1 to L4 where L4's map has its size already and covers this fraction (x, y) of the image.

        The convolution runs before the resize (R-06).
        """
        return Pyramid(
            l1=EnlargedLevel(self.l1.proj(shallow), 4, self.l1.norm),
            l2=EnlargedLevel(self.l2.proj(low), 2, self.l2.norm),
            l3=Level(self.l3.norm(self.l3.proj(high))),
            l4=Level(self.l4.norm(self.l4.proj(pooled)), extent=covered),
        )
