"""Depth Anything V2's own depth head, taken from the file that the encoder came from.

Head and encoder were trained together, so a baseline never loads a head from elsewhere: it asks its encoder.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spd_baselines.dpt_head import DPTHead
from spd_bench.api import Encoder
from spd_bench.errors import ConfigError, DataError

RELATIVE_SHA256 = "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378"
"""depth_anything_v2_vits.pth: inverse depth up to scale and shift."""
METRIC_INDOOR_SHA256 = "b782898d8a3e8be1f639de33837ed85e9b4b73e40f8f5e5cd99067588d722545"
"""depth_anything_v2_metric_hypersim_vits.pth: metres, up to 20."""


@runtime_checkable
class HasDepthHead(Protocol):
    """An encoder whose weights came with a depth head."""

    def depth_head_state(self) -> Mapping[str, Tensor]:
        """The head's tensors by Hugging Face name (neck.*, head.*)."""


def own_depth_head(baseline: str, encoder: Encoder, *, output: nn.Module, other_release: str) -> DPTHead:
    """The frozen head of the encoder's file, ending in `output`.

    The two releases cannot be told apart by their tensors. `other_release` is the SHA-256 of the one that
    would give nonsense here; it raises ConfigError, as does an encoder without a head. DataError for tensors
    of another size.
    """
    if not isinstance(encoder, HasDepthHead):
        raise ConfigError(
            f"{baseline} needs an encoder with a depth head of its own, {type(encoder).__name__} has none",
            hint="use the encoder dav2_small with its weights",
        )
    if encoder.digest() == other_release:
        kind = "metric" if other_release == METRIC_INDOOR_SHA256 else "relative"
        raise ConfigError(
            f"{baseline} was given the {kind} release of Depth Anything V2 Small",
            hint="give dav2_dense the relative release and dav2_metric the metric indoor one",
        )
    state = encoder.depth_head_state()
    with torch.device("cpu"):  # weights are read on the CPU, also under the meta device
        head = DPTHead(channels=encoder.channels, output=output)
    try:
        head.load_state_dict(dict(state))
    except RuntimeError as error:
        raise DataError(f"the encoder's depth head does not fit DAv2-S: {error}") from error
    return head.to(torch.get_default_device()).requires_grad_(False).eval()
