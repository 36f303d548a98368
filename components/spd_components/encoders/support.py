"""Parts that encoders share: the grid of §3, ImageNet's normalisation, a precision of their own, digests of weights."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from spd_bench.errors import ConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in [0, 1]."""
PATCH = 14
"""Pixels of a cell's side: the patch size of ViT-S/14."""


def patch_grid(image_B3HW: Tensor, *, encoder: str, patch: int = PATCH) -> tuple[int, int]:
    """Rows and columns of cells of this input; raises ConfigError if a side is not a multiple of the patch."""
    height, width = image_B3HW.shape[-2:]
    if height % patch or width % patch or not height or not width:
        fits = f"{max(height // patch, 1) * patch}×{max(width // patch, 1) * patch}"
        raise ConfigError(
            f"{encoder} needs an input whose sides are multiples of {patch}, got {height}×{width} (height×width)",
            hint=f"set the input size to {fits}" + (", or to 518×518 as in §3" if patch == PATCH else ""),
        )
    return height // patch, width // patch


def computing_in(precision: Literal["fp32", "bf16"], device: torch.device) -> AbstractContextManager[object]:
    """Context manager for a precision. fp32: the weights' dtype, also under autocast. bf16: products in bfloat16."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device: shapes only
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def digest_of_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and values."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
