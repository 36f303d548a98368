"""The depth head of §6.5 without the per-image calibration of §5.4."""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from spd_bench.api import ComponentConfig, Dims, Looked, QueryState, Scene
from spd_components.depth_heads.shared import INVERSE_START, DepthHead, inverse_link, inverse_softplus


class Uncalibrated(DepthHead):
    """d = 1 / (softplus(s·r + b) + 1e-6) metres, r = MLP(h), one learned scale s > 0 and shift b for all images.

    A fair comparison with `calibrated_inverse`: the same MLP, link and start (s = 1, ρ = 1/2.7 m, R-15), with s and b
    independent of the image (2 parameters instead of 770).
    """

    def __init__(self, config: ComponentConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.scale = nn.Parameter(torch.tensor(inverse_softplus(1.0)))
        self.shift = nn.Parameter(torch.tensor(INVERSE_START))

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes depth in metres."""
        r_BK = self.code(state)[..., 0]
        return replace(state, depth_m_BK=inverse_link(F.softplus(self.scale) * r_BK + self.shift))

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """s and b, the same for every image."""
        return {"scale_mean": F.softplus(self.scale).item(), "shift_mean": self.shift.item()}

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """s and b, the same for every image."""
        images = len(state.xy_BK2)
        return Looked(values={"s": F.softplus(self.scale).expand(images), "b": self.shift.expand(images)})
