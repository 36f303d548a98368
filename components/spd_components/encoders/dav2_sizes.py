"""The released sizes of Depth Anything V2: a DINOv2 ViT and the DPT head that was trained on it.

Small is the encoder of §3 and free to use (Apache-2.0). Base and Large are CC-BY-NC-4.0: no commercial use.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DAv2Size:
    """Sizes of one model."""

    name: str
    """Small, Base or Large."""
    dim: int
    """Width of the ViT."""
    layers: int
    """Layers of the ViT."""
    heads: int
    """Attention heads of the ViT."""
    taps: tuple[int, int, int, int]
    """Layers whose output is returned, counted from 0 (R-22)."""
    fusion: int
    """Channels in which the head fuses the four maps."""
    reassembled: tuple[int, int, int, int]
    """Channels of the four maps before they are fused, shallow to deep."""
    grid: int = 37
    """Patches along each side of the training images, 518 px."""

    @property
    def encoder(self) -> str:
        """Registered name of the encoder that reads this size."""
        return f"dav2_{self.name.lower()}"

    @property
    def vit(self) -> str:
        """The usual name of this ViT."""
        return f"ViT-{self.name[0]}/14"


SMALL = DAv2Size(
    name="Small", dim=384, layers=12, heads=6, taps=(2, 5, 8, 11), fusion=64, reassembled=(48, 96, 192, 384)
)
BASE = DAv2Size(
    name="Base", dim=768, layers=12, heads=12, taps=(2, 5, 8, 11), fusion=128, reassembled=(96, 192, 384, 768)
)
LARGE = DAv2Size(
    name="Large", dim=1024, layers=24, heads=16, taps=(4, 11, 17, 23), fusion=256, reassembled=(256, 512, 1024, 1024)
)
SIZES = (SMALL, BASE, LARGE)
