"""A pyramid from the encoder's last map alone."""

from spd_bench.api import ComponentConfig, Dims, Features, Neck, Pyramid
from spd_components.neck_pyramid import PyramidNeck


class LastLayerNeck(Neck):
    """The pyramid of §4 with layer 11 as the source of all four levels.

    A fair comparison: the same sizes, resizes and parameters; only the shallow and middle maps are withheld.
    """

    budget = {"": "Pyramid neck (§4)"}

    class Config(ComponentConfig):
        """No options."""

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims)
        self.pyramid = PyramidNeck(PyramidNeck.Config(), dims)

    def forward(self, features: Features) -> Pyramid:
        """Pyramid of a batch of images."""
        deep = features.maps_BHWC[3]
        out: Pyramid = self.pyramid(Features((deep, deep, deep, deep)))
        return out
