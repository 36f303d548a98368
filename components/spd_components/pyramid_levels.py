"""What necks share: projected levels and the resizes between them (§4)."""

import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import ComponentConfig, Dims, Level, Neck, Pyramid


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
        return self.normalised(*self.projected(shallow, low, high, pool2(deep)), covered=covered_by_pool2(deep))

    def projected(self, shallow: Tensor, low: Tensor, high: Tensor, pooled: Tensor) -> tuple[Tensor, ...]:
        """The four levels before their LayerNorm. The convolution runs before the resize (R-06); L4's is done."""
        return (
            upsample(self.l1.proj(shallow), 4),
            upsample(self.l2.proj(low), 2),
            self.l3.proj(high),
            self.l4.proj(pooled),
        )

    def normalised(self, l1: Tensor, l2: Tensor, l3: Tensor, l4: Tensor, *, covered: tuple[float, float]) -> Pyramid:
        """The pyramid of four projected levels, of which L4 covers this fraction (x, y) of the image."""
        return Pyramid(
            l1=Level(self.l1.norm(l1)),
            l2=Level(self.l2.norm(l2)),
            l3=Level(self.l3.norm(l3)),
            l4=Level(self.l4.norm(l4), extent=covered),
        )
