"""Query points of a frame: for training (§7.3, slot `query_sampler`) and for evaluation (§8, R-26).

Queries are pixels (u, v) with known depth, drawn without replacement (R-20). Evaluation keys its draw by frame, so
every method is scored at the same pixels, and the first k of K queries are what k queries would have been.

Letters: H W rows and columns of the frame, N candidate pixels, 2 a pixel (u, v).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.api import Component, ComponentConfig
from spd_bench.data.randomness import generator
from spd_bench.errors import DataError

Pixels = npt.NDArray[np.int64]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

STEEPEST = 0.1
"""Share of the pixels with a gradient that counts as depth edges."""


class Uniform(Component):
    """Every pixel with known depth is equally likely (§7.3)."""

    slot = "query_sampler"

    def __init__(self, config: Component.Config) -> None:
        self.config = config

    def sample(self, depth_m_HW: Depth, count: int, rng: np.random.Generator) -> Pixels:
        """`count` different pixels (u, v) with known depth: int64 [count, 2].

        Raises:
            DataError: the frame has fewer such pixels.
        """
        return _uv(_draw(np.flatnonzero(depth_m_HW > 0), count, rng), depth_m_HW)


class Edges(Component):
    """Part of the queries at depth edges, the rest uniform (§7.3: 70 % random and 30 % high-gradient).

    Edges are the steepest tenth of the pixels by gradient of log-depth. A gradient exists only where the whole 3×3
    neighbourhood is known, so that the rim of a hole is no edge. Too few edges are made up by uniform queries.
    """

    slot = "query_sampler"

    class Config(ComponentConfig):
        """How many queries go to edges."""

        edge_share: float = Field(default=0.3, ge=0, le=1)
        """Share of the queries at depth edges."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def sample(self, depth_m_HW: Depth, count: int, rng: np.random.Generator) -> Pixels:
        """`count` different pixels (u, v) with known depth, those at edges first: int64 [count, 2].

        Raises:
            DataError: the frame has fewer such pixels.
        """
        open_HW = depth_m_HW > 0
        _refuse_shortage(count, int(np.count_nonzero(open_HW)))
        edge_N = np.flatnonzero(depth_edges(depth_m_HW))
        at_edges = _draw(edge_N, min(round(self.config.edge_share * count), edge_N.size), rng)
        open_HW.flat[at_edges] = False
        anywhere = _draw(np.flatnonzero(open_HW), count - at_edges.size, rng)
        return _uv(np.concatenate([at_edges, anywhere]), depth_m_HW)


def evaluation_queries(valid_HW: Mask, *, count: int, seed: int, frame: str, draw: int = 0) -> Pixels:
    """The `count` pixels (u, v) at which every method is scored on this frame (R-26): int64 [count, 2].

    `valid_HW` is valid ∩ crop. The k first of them are what `count=k` gives; another `draw` is another sample.

    Raises:
        DataError: the frame has fewer valid pixels than `count`.
    """
    rng = generator("evaluation queries", seed, frame, draw)
    try:
        return _uv(_draw(np.flatnonzero(valid_HW), count, rng), valid_HW)
    except DataError as error:
        raise error.at(f"frame {frame}") from None


def depth_edges(depth_m_HW: Depth) -> Mask:
    """The steepest tenth of the pixels at which log-depth has a gradient, by its magnitude: bool [H, W]."""
    known_HW = depth_m_HW > 0
    log_HW = np.log(depth_m_HW, where=known_HW, out=np.zeros_like(depth_m_HW))
    steep_HW = np.zeros_like(known_HW)
    inner = _all_3x3(known_HW)
    slope = np.hypot(log_HW[1:-1, 2:] - log_HW[1:-1, :-2], log_HW[2:, 1:-1] - log_HW[:-2, 1:-1])
    if inner.any():
        steep_HW[1:-1, 1:-1] = inner & (slope > 0) & (slope >= np.quantile(slope[inner], 1 - STEEPEST))
    return steep_HW


def _all_3x3(mask_HW: Mask) -> Mask:
    """Whether the whole 3×3 neighbourhood is set, for the pixels that have one: [H - 2, W - 2]."""
    rows = mask_HW[:-2] & mask_HW[1:-1] & mask_HW[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def _draw(pixel_N: Pixels, count: int, rng: np.random.Generator) -> Pixels:
    """The first `count` of a random permutation of `pixel_N`; fewer are a prefix of more.

    These are the first steps of a Fisher-Yates shuffle, with the few swapped places kept aside: a full permutation
    would cost a hundred times as much for 256 of 300,000 pixels.
    """
    _refuse_shortage(count, pixel_N.size)
    step = np.arange(count)
    swap = step + (rng.random(count) * (pixel_N.size - step)).astype(np.int64)
    moved: dict[int, int] = {}
    place = np.empty(count, dtype=np.int64)
    for here, there in enumerate(swap.tolist()):
        place[here] = moved.get(there, there)
        moved[there] = moved.get(here, here)
    return pixel_N[place]


def _refuse_shortage(count: int, available: int) -> None:
    if count > available:
        raise DataError(
            f"expected at least {count} pixels with known depth for {count} queries, found {available}",
            hint="ask for fewer queries, or leave the frame out",
        )


def _uv(pixel_N: Pixels, map_HW: npt.NDArray[Any]) -> Pixels:
    """Row-major pixel numbers as (u, v): [N, 2]."""
    v, u = np.divmod(pixel_N, map_HW.shape[1])
    return np.stack([u, v], axis=-1)
