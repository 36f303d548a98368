"""What the trained DPT heads share (R-27a): one set of options, parameters and initial weights, whichever way the
head is then computed.
"""

from typing import ClassVar, Literal

from torch import nn

from spd_baselines.dav2_head import released_depth_head
from spd_baselines.dpt_head import DPTHead
from spd_baselines.output import INITIAL_BIAS, InverseDepth
from spd_bench.api import ComponentConfig, Encoder, PointDepthModel


def random_head(encoder: Encoder) -> DPTHead:
    """Random weights; the last bias starts at the typical depth (R-15)."""
    head = DPTHead(channels=encoder.channels, output=InverseDepth())
    nn.init.constant_(head.head.conv3.bias, INITIAL_BIAS)
    return head


class TrainedDPT(PointDepthModel):
    """DAv2's DPT head for this encoder's width, its last ReLU replaced by the calibrated output (R-15).

    Raises ConfigError for a width that DAv2 has no head for, and where `init: released` finds no head to start from.
    """

    registered: ClassVar[str]
    """What a suite calls it, for messages."""

    class Config(ComponentConfig):
        """Where training starts."""

        init: Literal["random", "released"] = "random"
        """random weights, or those of the encoder's own released head."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.dpt = self._released_head(encoder) if config.init == "released" else random_head(encoder)
        self.dpt.never_run().requires_grad_(False)

    def _released_head(self, encoder: Encoder) -> DPTHead:
        """The encoder's own relative head, all of it: where its ReLU gave x, ρ starts at softplus(x)."""
        return released_depth_head(self.registered, encoder, output=InverseDepth(), release="relative")
