"""The kit for the slot encoder, and a tiny encoder for tests of other slots."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Encoder, Features
from spd_bench.errors import ConfigError
from spd_bench.testing.checks import equal, fail, require, require_one_digest, require_shape, skip
from spd_bench.testing.examples import BATCH, random_numbers
from spd_bench.testing.module import ModuleContract
from spd_bench.testing.trees import tensors


class EncoderContract(ModuleContract):
    """For the slot encoder. Skipped, with the encoder's own reason, where its weights are missing."""

    grid: ClassVar[tuple[int, int]] = (5, 7)
    """Rows and columns of cells of the test image."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the test image: `grid` times the encoder's patch. A test may set a size of its own."""
        rows, columns = self.grid
        return rows * self.component.patch, columns * self.component.patch

    def make(self) -> nn.Module:
        """Returns the encoder, frozen as the harness freezes it."""
        if reason := self.component.missing(self.config):
            skip(reason)
        module: nn.Module = self.component(self.config)
        return module.requires_grad_(False)

    def example(self) -> Tensor:
        """Returns two RGB images in [0, 1]."""
        return random_numbers("image", BATCH, 3, *self.image_size, uniform=True)

    def test_gives_four_maps_on_the_grid(self) -> None:
        """Channels last, one cell per patch, as wide as the encoder says (§3)."""
        encoder: Any = self.built()
        maps = self.run(encoder, self.example()).maps_BHWC
        require(len(maps) == 4, f"gives {len(maps)} maps, not 4")
        rows, columns = (side // encoder.patch for side in self.image_size)
        for index, (map_BHWC, channels) in enumerate(zip(maps, encoder.maps, strict=True)):
            require_shape(f"map {index}", map_BHWC, (BATCH, rows, columns, channels))

    def test_says_what_it_is(self) -> None:
        """`channels` is the width of the deepest map, `patch` positive, `prefix_tokens` not negative."""
        encoder: Any = self.built()
        require(encoder.patch > 0 and encoder.prefix_tokens >= 0, f"patch {encoder.patch}, {encoder.prefix_tokens=}")
        require(encoder.maps[3] == encoder.channels, f"channels is {encoder.channels}, the maps have {encoder.maps}")

    def test_is_frozen(self) -> None:
        """No gradient flows, and training mode changes nothing."""
        encoder, image_B3HW = self.built(), self.example()
        before = self.outputs(encoder, image_B3HW)
        with torch.enable_grad():
            traced = dict(tensors(self.run(encoder, image_B3HW)))
        require(not any(x.requires_grad for x in traced.values()), "features carry a gradient")
        equal(self.outputs(encoder.train(), image_B3HW), before, "in training mode", exact=True)

    def test_digest_is_stable(self) -> None:
        """64 hexadecimal digits, equal for equal encoders and not changed by use."""
        encoder: Any = self.built()
        other: Any = self.built()
        before = encoder.digest()
        self.outputs(encoder, self.example())
        require_one_digest(before, encoder.digest(), other.digest())

    def test_refuses_an_image_off_the_grid(self) -> None:
        """Sides that are no multiples of the patch are a ConfigError, never a silent crop."""
        encoder = self.built()
        height, width = self.image_size
        if self.component.patch == 1:
            skip("every size is a whole number of patches of one pixel")
        try:
            self.outputs(encoder, random_numbers("image", 1, 3, height, width - 1, uniform=True))
        except ConfigError:
            return
        fail(f"takes an image of {height}×{width - 1}")


class PatchEncoder(Encoder):
    """A tiny frozen encoder for tests: four fixed linear maps of patches."""

    def __init__(self, channels: int = 384) -> None:
        super().__init__()
        self.channels = channels
        random = torch.Generator().manual_seed(0)
        self.register_buffer("filters", 0.1 * torch.randn(4, channels, 3, self.patch, self.patch, generator=random))

    def forward(self, image_B3HW: Tensor) -> Features:
        """Returns the four maps."""
        filters_4C3PP = self.get_buffer("filters")
        maps = [F.conv2d(image_B3HW, each, stride=self.patch).permute(0, 2, 3, 1) for each in filters_4C3PP]
        return Features((maps[0], maps[1], maps[2], maps[3]))

    def digest(self) -> str:
        """Returns a constant."""
        return "0" * 64
