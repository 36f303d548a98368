"""Options, parameters and initial weights that the trained DPT heads share (R-27a)."""

from typing import ClassVar, Literal

from torch import nn

from spd_baselines.dav2_head import released_depth_head
from spd_baselines.dpt_head import DPTHead
from spd_baselines.output import INITIAL_BIAS, InverseDepth
from spd_bench.api import ComponentConfig, Encoder, PointDepthModel


def random_head(encoder: Encoder) -> DPTHead:
    """A head with random weights that starts at the typical depth (R-15)."""
    head = DPTHead(channels=encoder.channels, output=InverseDepth(), patch=encoder.patch, widths=encoder.widths)
    nn.init.constant_(head.head.conv3.bias, INITIAL_BIAS)
    return head


class TrainedDPT(PointDepthModel):
    """DAv2's DPT head for this encoder's width, its last ReLU replaced by the calibrated output (R-15).

    Raises ConfigError for a width without a released head, and for `init: released` without a head in the encoder's
    file.
    """

    registered: ClassVar[str]
    """Its registered name, for messages."""

    class Config(ComponentConfig):
        """Initial weights."""

        init: Literal["random", "released"] = "random"
        """Random weights, or those of the released head in the encoder's file."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = self._released_head(encoder) if config.init == "released" else random_head(encoder)
        self.dpt.never_run().requires_grad_(False)

    def _released_head(self, encoder: Encoder) -> DPTHead:
        """The encoder's whole relative head; where its ReLU gave x, ρ starts at softplus(x)."""
        return released_depth_head(self.registered, encoder, output=InverseDepth(), release="relative")
