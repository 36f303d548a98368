"""Parts that encoders share: the 14-pixel grid of §3, and a precision independent of the caller's autocast."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from spd_bench.errors import ConfigError

PATCH = 14
"""Pixels of a cell's side: the patch size of ViT-S/14."""


def patch_grid(image_B3HW: Tensor, *, encoder: str) -> tuple[int, int]:
    """Rows and columns of cells of this input; raises ConfigError if a side is not a multiple of 14."""
    height, width = image_B3HW.shape[-2:]
    if height % PATCH or width % PATCH or not height or not width:
        fits = f"{max(height // PATCH, 1) * PATCH}×{max(width // PATCH, 1) * PATCH}"
        raise ConfigError(
            f"{encoder} needs an input whose sides are multiples of {PATCH}, got {height}×{width} (height×width)",
            hint=f"set the input size to {fits}, or to 518×518 as in §3",
        )
    return height // PATCH, width // PATCH


def computing_in(precision: Literal["fp32", "bf16"], device: torch.device) -> AbstractContextManager[object]:
    """Context manager for a precision. fp32: the weights' dtype, also under autocast. bf16: products in bfloat16."""
    if not torch.amp.is_autocast_available(device.type):  # the meta device: shapes only
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
