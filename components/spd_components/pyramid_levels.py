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


class PyramidLevels(Neck):
    """Four levels of convolution, resize and LayerNorm; a neck says which map feeds which level."""

    budget = {"": "Pyramid neck (§4)"}

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.l1, self.l2, self.l3, self.l4 = (ProjectedLevel(dims.features, width) for width in dims.pyramid)

    def pyramid(self, shallow: Tensor, low: Tensor, high: Tensor, deep: Tensor) -> Pyramid:
        """L1 to L4 from one map [B, Hp, Wp, C] each. The convolution runs before the resize (R-06)."""
        rows, columns = deep.shape[1:3]
        covered = (columns // 2 * 2 / columns, rows // 2 * 2 / rows)
        return Pyramid(
            l1=Level(self.l1.norm(upsample(self.l1.proj(shallow), 4))),
            l2=Level(self.l2.norm(upsample(self.l2.proj(low), 2))),
            l3=Level(self.l3.norm(self.l3.proj(high))),
            l4=Level(self.l4.norm(self.l4.proj(pool2(deep))), extent=covered),
        )
