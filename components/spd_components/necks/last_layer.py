"""A pyramid from the encoder's last map alone."""

from spd_bench.api import Features, Pyramid
from spd_components.necks.levels import PyramidLevels


class LastLayerNeck(PyramidLevels):
    """The pyramid of §4 with layer 11 as the source of all four levels.

    A fair comparison: the same sizes, resizes and parameters, without the shallow and middle maps.
    """

    sources = (3, 3, 3, 3)

    def forward(self, features: Features) -> Pyramid:
        """The pyramid of a batch of images."""
        deep = features.maps_BHWC[3]
        return self.pyramid(deep, deep, deep, deep)
