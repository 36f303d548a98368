"""Tries what every training of a suite calls, a loss and a query sampler, before any feature is made.

Letters: B images, K queries, H W rows and columns of a depth map.
"""

from typing import Any

import numpy as np
import torch

from spd_bench.data.randomness import generator
from spd_bench.errors import DataError
from spd_bench.registry import PluginError, blamed

IMAGES, QUERIES = 2, 8
SIDE = 64
"""Rows and columns of the depth map that a sampler is tried on."""


def try_loss(loss: Any, name: str) -> None:
    """Calls a loss on depths of 1 to 4 m; raises PluginError unless it returns two finite scalars with a gradient."""
    truth_m_BK = torch.linspace(1, 4, IMAGES * QUERIES).reshape(IMAGES, QUERIES)
    predicted_m_BK = (1.1 * truth_m_BK.flip(1)).requires_grad_()
    with blamed(f"loss {name}"):
        parts = loss(predicted_m_BK, truth_m_BK)
        total = parts.point + parts.structure
        if total.shape != () or not bool(torch.isfinite(total)):
            raise PluginError(f"loss {name}: expected two finite scalars, found {parts}")
        total.backward()
    if predicted_m_BK.grad is None or not bool(torch.isfinite(predicted_m_BK.grad).all()):
        raise PluginError(f"loss {name}: expected a finite gradient at the predicted depth, found none")


def try_sampler(sampler: Any, name: str) -> None:
    """Draws from one depth map; raises PluginError unless it returns int64 [K, 2], different pixels of known depth.

    A DataError is about this map, which is in no data set: it is ignored.
    """
    depth_m_HW = np.tile(np.linspace(1, 4, SIDE, dtype=np.float32), (SIDE, 1))
    depth_m_HW[:8] = 0
    depth_m_HW[20:40, 20:40] = 0.8
    try:
        with blamed(f"query_sampler {name}"):
            uv_K2 = sampler.sample(depth_m_HW, QUERIES, generator("try"))
    except DataError:
        return
    if not isinstance(uv_K2, np.ndarray) or uv_K2.shape != (QUERIES, 2) or uv_K2.dtype.kind not in "iu":
        found = f"{uv_K2.dtype} {list(uv_K2.shape)}" if isinstance(uv_K2, np.ndarray) else type(uv_K2).__name__
        raise PluginError(f"query_sampler {name}: expected pixels (u, v), integers [{QUERIES}, 2], found {found}")
    inside = ((uv_K2 >= 0) & (uv_K2 < SIDE)).all()
    if not inside or not (depth_m_HW[uv_K2[:, 1], uv_K2[:, 0]] > 0).all() or len(np.unique(uv_K2, axis=0)) < QUERIES:
        raise PluginError(f"query_sampler {name}: expected different pixels of known depth, found others")
