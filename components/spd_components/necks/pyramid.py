"""The pyramid neck of §4."""

from spd_bench.api import Features, Pyramid
from spd_components.necks.levels import PyramidLevels


class PyramidNeck(PyramidLevels):
    """Four feature maps to a pyramid by 1×1 convolution, bilinear resize and LayerNorm (§4, R-05, R-06).

    | level | source   | resize | 518×518 input  |
    |-------|----------|--------|----------------|
    | L1    | layer 2  | ↑4×    | 148×148×64     |
    | L2    | layer 5  | ↑2×    | 74×74×128      |
    | L3    | layer 8  | none   | 37×37×192      |
    | L4    | layer 11 | ↓2×    | 18×18×384, covers 36/37 of the image |

    The convolution runs before the resize: bilinear weights sum to one, so both orders give the same map.
    """

    def forward(self, features: Features) -> Pyramid:
        """Pyramid of a batch of images."""
        return self.pyramid(*features.maps_BHWC)
