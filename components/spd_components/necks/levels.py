"""Parts that necks share: projected levels and the resizes between them (§4)."""

from functools import cached_property
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Dims, Level, Neck, Pyramid
from spd_bench.fused import forms, products
from spd_bench.geometry import Table


class ProjectedLevel(nn.Module):
    """1×1 convolution and LayerNorm over channels of one level; the caller resizes between them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels_in, channels_out)
        self.norm = nn.LayerNorm(channels_out)


def upsample(map_BHWC: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement by an integer factor that keeps pixel centres (align_corners=False), channels last."""
    if factor == 1:
        return map_BHWC
    size = (map_BHWC.shape[1] * factor, map_BHWC.shape[2] * factor)
    resized = F.interpolate(map_BHWC.permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1)


class EnlargedLevel(Level):
    """A level that is enlarged by an integer factor between projection and LayerNorm, computed on first access.

    A projection W x + b of it does not need the enlarged map of its input. The norm's centring, folded into the weights
    of the first projection, and the second projection commute with the enlargement E; only the spread σ, one number
    per cell, has to be computed at full size. With the norm's affine part (g, c) and the coarse map y, centred over
    channels,

        LN(E y) = g ∘ E y / σ + c
        W LN(E y) + b = E((W ∘ g) y) / σ + (W c + b)      σ² = mean over channels of (E y)² + eps
    """

    source_BHWC: Tensor
    made: ProjectedLevel
    factor: int

    def __init__(self, source_BHWC: Tensor, made: ProjectedLevel, factor: int) -> None:
        vars(self).update(source_BHWC=source_BHWC, made=made, factor=factor)

    @cached_property
    def map_BHWC(self) -> Tensor:
        """The level's map."""
        enlarged: Tensor = self.made.norm(upsample(self.made.proj(self.source_BHWC), self.factor))
        return enlarged

    @property
    def height(self) -> int:
        """Rows of cells."""
        return self.source_BHWC.shape[1] * self.factor

    @property
    def width(self) -> int:
        """Columns of cells."""
        return self.source_BHWC.shape[2] * self.factor

    def table(self, *, pad: int, by: nn.Linear | None = None) -> Table:
        """As `Level.table`, with the fused forms where they run: one pass over memory."""
        proj, norm = self.made.proj, self.made.norm
        fits = proj.out_features in forms.ENLARGED and (by is None or by.out_features == forms.CORE)
        if not (fits and forms.ready(self.source_BHWC, proj.weight)):
            return super().table(pad=pad, by=by)
        centred_BHWC, plus_C = self._centred
        if by is None:
            rows_NC = products.enlarged_norm(centred_BHWC, plus_C, self.factor, pad, norm)
        else:
            weight = by.weight * norm.weight
            product = products.linear(centred_BHWC, weight), F.linear(plus_C, weight)
            shift_D = F.linear(norm.bias, by.weight, by.bias)
            rows_NC = products.enlarged_product(*product, self.factor, pad, self._spread_N, shift_D)
        return Table(rows_NC, len(self.source_BHWC), self.height, self.width, pad, self.extent)

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        """y without the projection's bias, and that bias, both centred over channels."""
        weight, bias = self.made.proj.weight, self.made.proj.bias
        shares = bias.new_full(bias.shape, 1 / len(bias))  # a product is several times faster than `mean`
        return products.linear(self.source_BHWC, weight - shares @ weight), bias - shares @ bias

    @cached_property
    def _spread_N(self) -> Tensor:
        """1 / σ of each cell."""
        return products.enlarged_spread(*self._centred, self.factor)


def pool2(map_BHWC: Tensor) -> Tensor:
    """2×2 average pooling without padding: an odd last row or column is dropped (R-05), channels last."""
    return F.avg_pool2d(map_BHWC.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def covered_by_pool2(map_BHWC: Tensor) -> tuple[float, float]:
    """Fraction (x, y) of the image that `pool2` of a map of the whole image covers: 36/37 of 37 cells (R-05)."""
    rows, columns = map_BHWC.shape[1:3]
    return (columns // 2 * 2 / columns, rows // 2 * 2 / rows)


class PyramidLevels(Neck):
    """Four levels of convolution, resize and LayerNorm; a neck chooses the map of each level."""

    sources: ClassVar[tuple[int, int, int, int]] = (0, 1, 2, 3)
    """The encoder's map, counted from the shallowest, that each of L1 to L4 is made of."""
    budget = {"": "Pyramid neck (§4)"}

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        maps = (dims.maps[source] for source in self.sources)
        self.l1, self.l2, self.l3, self.l4 = map(ProjectedLevel, maps, dims.pyramid)

    def pyramid(self, shallow: Tensor, low: Tensor, high: Tensor, deep: Tensor) -> Pyramid:
        """L1 to L4 from one map [B, Hp, Wp, C] each."""
        return self.pooled_pyramid(shallow, low, high, pool2(deep), covered=covered_by_pool2(deep))

    def pooled_pyramid(
        self, shallow: Tensor, low: Tensor, high: Tensor, pooled: Tensor, *, covered: tuple[float, float]
    ) -> Pyramid:
        """L1 to L4, given L4's map already pooled, which covers this fraction (x, y) of the image.

        The convolution runs before the resize (R-06).
        """
        return Pyramid(
            l1=EnlargedLevel(shallow, self.l1, 4),
            l2=EnlargedLevel(low, self.l2, 2),
            l3=EnlargedLevel(high, self.l3, 1),
            l4=Level(self.l4.norm(products.linear(pooled, self.l4.proj.weight, self.l4.proj.bias)), extent=covered),
        )
