"""The DPT head of Depth Anything V2 on the encoder's four maps, and how its dense map is read at points.

The modules are those of transformers, in the size that was released for the encoder's width; 2,728,513 parameters on
ViT-S features (R-21). 73,856 of them, the first residual unit of the coarsest fusion stage, are unused, as in the
released architecture.

Letters: B images, K points, T tokens, C channels, H W pixels of the dense map.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_baselines.output import at_least_float32
from spd_bench.api import AspectKept, Features
from spd_bench.errors import ConfigError
from spd_bench.geometry import constant, sample, unit_to_level

AUTHORS_INPUT = AspectKept(shorter=518, multiple=14)
"""How Depth Anything V2's own inference chooses its input size: 518×686 for a frame of 480×640."""


@dataclass(frozen=True)
class DPTSize:
    """Channels of a DPT head."""

    reassembled: tuple[int, int, int, int]
    """Of the four maps before they are fused, shallow to deep."""
    fusion: int
    """Of the fusion."""


SIZES: dict[int, DPTSize] = {
    384: DPTSize((48, 96, 192, 384), fusion=64),
    768: DPTSize((96, 192, 384, 768), fusion=128),
    1024: DPTSize((256, 512, 1024, 1024), fusion=256),
}
"""Width of the encoder's maps → size of the released head, for ViT-S, ViT-B and ViT-L."""


class DPTHead(nn.Module):
    """Four maps [B, Hp, Wp, C] → one dense map [B, P·Hp, P·Wp], through the last layer `output`.

    patch: the encoder's P, 14 for the released heads. widths: C of each map where they differ; the head has the size
    that was released for `channels`, the deepest one's. Raises ConfigError for a width without a released head.
    """

    def __init__(
        self,
        *,
        channels: int,
        output: nn.Module,
        patch: int = 14,
        widths: tuple[int, int, int, int] | None = None,
    ) -> None:
        super().__init__()
        from transformers import DepthAnythingConfig
        from transformers.models.depth_anything.modeling_depth_anything import (
            DepthAnythingDepthEstimationHead,
            DepthAnythingNeck,
        )

        size = SIZES.get(channels)
        if size is None:
            raise ConfigError(
                f"Depth Anything V2 has no DPT head for features of {channels} channels",
                hint=f"use an encoder with {', '.join(str(known) for known in SIZES)} channels",
            )
        config = DepthAnythingConfig(
            patch_size=patch,
            reassemble_hidden_size=channels,
            reassemble_factors=[4, 2, 1, 0.5],
            neck_hidden_sizes=list(size.reassembled),
            fusion_hidden_size=size.fusion,
            head_hidden_size=32,
        )
        self.neck = DepthAnythingNeck(config)
        if widths is not None:
            for layer, width, reassembled in zip(
                self.neck.reassemble_stage.layers, widths, size.reassembled, strict=True
            ):
                layer.projection = nn.Conv2d(width, reassembled, kernel_size=1)
        self.head = DepthAnythingDepthEstimationHead(config)
        self.head.activation2 = output
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster

    def never_run(self) -> nn.Module:
        """The unused residual unit: the coarsest stage has no second input."""
        unit: nn.Module = self.neck.fusion_stage.layers[0].residual_layer1
        return unit

    def forward(self, features: Features) -> Tensor:
        """The dense map [B, H, W] at the resolution of the encoder's input, in float32 or better."""
        rows, columns = features.maps_BHWC[0].shape[1:3]
        # the neck drops the first token, where the ViT has its CLS
        tokens_BTC = [F.pad(map_BHWC.flatten(1, 2), (0, 0, 1, 0)) for map_BHWC in features.maps_BHWC]
        return at_least_float32(self.head(self.neck(tokens_BTC, rows, columns), rows, columns))


def dense_xy(xy: Tensor, *, width: int, height: int) -> Tensor:
    """Points of the unit square in pixels of a dense map, at least half a pixel inside.

    A point beyond the outermost pixel centres reads the border pixel: R-07's zeros are for features; mixed into an
    inverse depth, they would increase the depth at the frame's border.
    """
    xy_lvl = unit_to_level(xy, width=width, height=height, extent=(1.0, 1.0))
    far = constant([width - 0.5, height - 0.5], like=xy)
    return torch.minimum(xy_lvl.clamp_min(0.5), far)


@dataclass(frozen=True)
class DenseMap:
    """A released model's dense output, read at points as its authors read it.

    They enlarge the map [B, Hm, Wm] to the frame's size with align_corners=True and take the value of a pixel. Pixel u
    of W is then u·(Wm − 1)/(W − 1) pixels from the centre of the map's first pixel: the outermost pixels coincide.
    """

    map_BHW: Tensor
    """The output."""
    frame_size: tuple[int, int]
    """Rows and columns of the frame."""

    @classmethod
    def of(cls, map_BHW: Tensor, features: Features) -> "DenseMap":
        """The output of a head for these features."""
        return cls(map_BHW, features.frame_size or (map_BHW.shape[1], map_BHW.shape[2]))

    def read(self, xy_BK2: Tensor) -> Tensor:
        """Bilinear value at points of the unit square, in float32 or better: [B, K]."""
        (rows, columns), (height, width) = self.map_BHW.shape[1:], self.frame_size
        xy_BK2 = at_least_float32(xy_BK2)
        size = constant([width, height], like=xy_BK2)
        step = constant([(columns - 1) / max(width - 1, 1), (rows - 1) / max(height - 1, 1)], like=xy_BK2)
        last = constant([columns - 1, rows - 1], like=xy_BK2)
        in_map_BK2 = torch.minimum(((xy_BK2 * size - 0.5) * step).clamp_min(0), last)
        return sample(self.map_BHW[..., None], in_map_BK2 + 0.5)[..., 0]


def read_map(map_BHW: Tensor, xy_BK2: Tensor) -> Tensor:
    """Bilinear value of a dense map at points of the unit square, borders as in `dense_xy`: [B, K]."""
    height, width = map_BHW.shape[1:]
    return sample(map_BHW[..., None], dense_xy(xy_BK2, width=width, height=height))[..., 0]
