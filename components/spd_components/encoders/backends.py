"""Backends that compute the frozen ViT: PyTorch, or a runtime that was measured to be faster.

A backend changes features by rounding alone: the weights, and so the encoder's digest, stay the same.

Letters: B images, C channels, H W pixels, T tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from spd_components.encoders.support import computing_in

Precision = Literal["fp32", "bf16"]


class Backend(ABC):
    """Base of the backends: computes a frozen ViT."""

    def __init__(self, precision: Precision) -> None:
        self.precision = precision

    @classmethod
    def missing(cls, precision: Precision) -> str | None:
        """What this machine lacks to compute in this precision and how to get it; None if nothing."""
        return None

    @abstractmethod
    def taps(self, backbone: nn.Module, normal_B3HW: Tensor) -> Sequence[Tensor]:
        """Tokens of the four layers that the encoder uses, from a normalised image: each [B, 1 + T, C], CLS first."""


class TorchBackend(Backend):
    """Eager PyTorch, on any device."""

    def taps(self, backbone: nn.Module, normal_B3HW: Tensor) -> Sequence[Tensor]:
        """The tokens in the weights' dtype; with precision bf16, matrix products are in bfloat16."""
        with computing_in(self.precision, normal_B3HW.device):
            taps_BTC: Sequence[Tensor] = backbone(normal_B3HW).feature_maps
        return taps_BTC
