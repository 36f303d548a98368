"""The kit for the slot neck."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from spd_bench.api import Dims, Features, Pyramid
from spd_bench.testing.checks import require, require_shape
from spd_bench.testing.examples import BATCH, DIMS, example_features
from spd_bench.testing.module import TrainedContract


class NeckContract(TrainedContract):
    """For the slot neck."""

    dims: ClassVar[Dims] = DIMS

    def make(self) -> nn.Module:
        """Returns the neck, with `dims` instead of the paper's sizes."""
        module: nn.Module = self.component(self.config, self.dims)
        return module

    def example(self) -> Features:
        """Returns four maps of 13×15 cells: odd numbers of rows and columns."""
        return example_features(*self.dims.maps)

    def test_gives_the_pyramid(self) -> None:
        """Four levels, fine to coarse, as wide as `dims.pyramid`; extents are fractions of the image."""
        self._require_pyramid(self.dims)

    def test_takes_maps_of_their_own_widths(self) -> None:
        """The same pyramid from maps that differ in width, as some encoders give: `dims.maps`, not `dims.features`."""
        self._require_pyramid(replace(self.dims, features=36, widths=(12, 20, 28, 36)))

    def _require_pyramid(self, dims: Dims) -> None:
        with torch.no_grad():
            neck: Any = self.component(self.config, dims).double().eval()
            pyramid: Pyramid = self.run(neck, example_features(*dims.maps))
        levels = [pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4]
        for name, level, width in zip(("L1", "L2", "L3", "L4"), levels, self.dims.pyramid, strict=True):
            require_shape(name, level.map_BHWC, (BATCH, level.height, level.width, width))
            require(all(0 < part <= 1 for part in level.extent), f"{name} covers {level.extent} of the image")
        for side in ("height", "width"):
            sizes = [getattr(level, side) for level in levels]
            require(sizes == sorted(sizes, reverse=True), f"{side}s of L1 to L4 are {sizes}, not fine to coarse")
