"""Costs of one image, measured while a trained model is scored: time at each K, arithmetic, peak memory.

Times on a shared machine drift by more than the differences that matter (`timing`). The meter therefore times every K
on images spread over the whole evaluation and reports medians, so that the K of one model are comparable. Models are
scored one after the other; `spd-bench profile` interleaves them. Arithmetic and memory do not drift: they are measured
on one image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spd_bench.api import Features, PointDepthModel
from spd_bench.cost.flops import macs
from spd_bench.cost.timing import now, peak_memory, spread

TIMED_IMAGES = 9
"""Images on which decoding is timed (odd, for a median); each decodes every K two more times."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one image on a model's frozen features, without the encoder."""

    decode_ms_at_k: Mapping[int, float]
    """K → T_decode(K) in ms, median over the timed images."""
    prepare_macs: float
    """Multiply-adds of prepare; a FLOP count is twice that."""
    decode_macs_at_k: Mapping[int, float]
    """K → multiply-adds of decode(K)."""
    peak_bytes: int
    """Peak memory of prepare and a decode of peak_k points, beside the model and its features."""
    peak_k: int
    """The largest K."""


class Meter:
    """Measures the costs of a model during its evaluation: `score.predict.predict` calls it with every image."""

    def __init__(self, model: PointDepthModel, *, ks: Sequence[int], images: int, device: torch.device) -> None:
        self.model = model
        self.ks = tuple(ks)
        self.device = device
        self._timed = frozenset(np.linspace(0, images - 1, min(images, TIMED_IMAGES)).round().astype(int).tolist())
        self._seconds: dict[int, list[float]] = {k: [] for k in self.ks}
        self._work: tuple[float, dict[int, float], int] | None = None

    def __call__(self, index: int, features: Features, scene: Any, xy_1P2: Tensor) -> None:
        """Measures on one image, given its features, its prepared scene, and its query points, draw 0 first."""
        calls = {k: self._decoding(scene, xy_1P2, k) for k in self.ks}
        if index in self._timed:
            first = index % len(self.ks)
            for k in self.ks[first:] + self.ks[:first]:
                calls[k]()  # warm-up: the previous call had another size
                started = now(self.device)
                calls[k]()
                self._seconds[k].append(now(self.device) - started)
        if self._work is None:
            largest = calls[max(self.ks)]
            # decodes the given scene, since only that one is aligned for a GT-aligned model; the new one is as large
            peak = peak_memory(lambda: (self.model.prepare(features), largest()), device=self.device)
            prepare_macs = macs(lambda: self.model.prepare(features))
            self._work = prepare_macs, {k: macs(call) for k, call in calls.items()}, peak

    def _decoding(self, scene: Any, xy_1P2: Tensor, k: int) -> Callable[[], object]:
        return lambda: self.model.decode(scene, xy_1P2[:, :k])

    @property
    def costs(self) -> Costs:
        """The costs measured so far; valid after the first image."""
        assert self._work is not None
        prepare_macs, decode_macs_at_k, peak_bytes = self._work
        return Costs(
            decode_ms_at_k={k: 1e3 * spread(seconds).median for k, seconds in self._seconds.items()},
            prepare_macs=prepare_macs,
            decode_macs_at_k=decode_macs_at_k,
            peak_bytes=peak_bytes,
            peak_k=max(self.ks),
        )
