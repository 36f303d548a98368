"""A depth head with a weighted mean of fixed depths, as AdaBins without adaptive bins.

Letters: B images, K queries, N bins.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from spd_bench.api import ComponentConfig, Dims, QueryState, Scene
from spd_components.depth_heads.shared import DepthHead


class Bins(DepthHead):
    """d = Σ_n p_n c_n metres, p = softmax(MLP(h)) over N fixed depths c, evenly spaced in ln c from min_m to max_m.

    It starts near the mean of the c_n, 2.2 m with the defaults, and cannot predict a depth outside [min_m, max_m]. A
    fair comparison with `uncalibrated`: the same MLP up to its last layer, without calibration per image; a choice
    among depths replaces regression (24,253 parameters more with 64 bins).
    """

    class Config(ComponentConfig):
        """Options of the bins."""

        n_bins: int = Field(default=64, ge=2)
        """Number N of depths."""
        min_m: float = Field(default=0.1, gt=0, allow_inf_nan=False)
        """Smallest depth in metres."""
        max_m: float = Field(default=10.0, gt=0, allow_inf_nan=False)
        """Largest depth in metres."""

        @model_validator(mode="after")
        def _has_a_range(self) -> "Bins.Config":
            if self.max_m <= self.min_m:
                raise PydanticCustomError("range", f"max_m should be larger than min_m, which is {self.min_m:g}")
            return self

    def __init__(self, config: Config, dims: Dims) -> None:
        super().__init__(config, dims, outputs=config.n_bins)
        log_m_N = torch.linspace(math.log(config.min_m), math.log(config.max_m), config.n_bins, dtype=torch.float64)
        self.register_buffer("centre_m_N", log_m_N.exp().to(torch.get_default_dtype()), persistent=False)

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """Writes depth in metres."""
        return replace(state, depth_m_BK=(self._shares(state) * self.get_buffer("centre_m_N")).sum(-1))

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Entropy of the bins as a share of ln N (1: uniform), mean over queries."""
        share_BKN = self._shares(state).double()
        entropy_BK = -torch.special.xlogy(share_BKN, share_BKN).sum(-1)
        return {"bin_entropy": float(entropy_BK.mean()) / math.log(self.config.n_bins)}

    def _shares(self, state: QueryState) -> Tensor:
        """p of every query: [B, K, N]."""
        return self.code(state).softmax(-1)
