"""Depth Anything V2's depth head, from the encoder's file.

Head and encoder were trained together, so a baseline takes the head from its encoder and never from another file.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spd_baselines.dpt_head import DPTHead
from spd_bench.api import Encoder
from spd_bench.errors import ConfigError, DataError


@runtime_checkable
class HasDepthHead(Protocol):
    """An encoder whose weights came with a depth head."""

    @property
    def release(self) -> str:
        """What the head predicts: "relative" disparity or "metric_indoor" depth."""

    def depth_head_state(self) -> Mapping[str, Tensor]:
        """The head's tensors by Hugging Face name (neck.*, head.*)."""


def own_depth_head(baseline: str, encoder: Encoder, *, output: nn.Module, release: str) -> DPTHead:
    """The frozen head of the encoder's file, ending in `output`.

    Raises ConfigError for an encoder without a head or of another release than this baseline can read, and DataError
    for tensors of another size.
    """
    return released_depth_head(baseline, encoder, output=output, release=release).requires_grad_(False).eval()


def released_depth_head(baseline: str, encoder: Encoder, *, output: nn.Module, release: str) -> DPTHead:
    """The head of the encoder's file, trainable. Raises as `own_depth_head`."""
    if not isinstance(encoder, HasDepthHead):
        raise ConfigError(
            f"{baseline} needs an encoder with a depth head of its own, {type(encoder).__name__} has none",
            hint="use the encoder dav2_small, dav2_base or dav2_large with its weights",
        )
    if encoder.release != release:
        raise ConfigError(
            f"{baseline} needs the {release} release of Depth Anything V2, the encoder is the {encoder.release} one",
            hint=f"set the encoder's release to {release} and give it those weights",
        )
    state = encoder.depth_head_state()
    with torch.device("cpu"):  # weights are read on the CPU, also under the meta device
        head = DPTHead(channels=encoder.channels, output=output)
    try:
        head.load_state_dict(dict(state))
    except RuntimeError as error:
        raise DataError(f"the encoder's depth head does not fit its {encoder.channels} channels: {error}") from error
    return head.to(torch.get_default_device())
