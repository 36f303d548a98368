"""What one image costs a trained model, measured while it is scored: time at each K, arithmetic, peak memory.

Times on a shared machine drift by more than the differences that matter (`timing`), so they are taken on images spread
over the whole evaluation, every K in turn on each, and their medians count. That keeps the K of one model comparable;
models are scored one after the other, and `spd-bench profile` is what times them in turn. Arithmetic and memory do not
drift: one image says them.
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
"""Images of an evaluation on which decoding is timed, an odd number: each decodes every K twice more."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of one image on a model's frozen features; the encoder's are not in them.

    decode_ms_at_k: T_decode(K), the median over the timed images. prepare_macs, decode_macs_at_k: multiply-adds of
    prepare and of decode(K); a FLOP count is twice that. peak_bytes: what prepare and a decode of peak_k points, the
    largest K, hold at most beside the model and its features.
    """

    decode_ms_at_k: Mapping[int, float]
    prepare_macs: float
    decode_macs_at_k: Mapping[int, float]
    peak_bytes: int
    peak_k: int


class Meter:
    """Takes the costs of a model during its evaluation: `score.predict.predict` calls it with every image."""

    def __init__(self, model: PointDepthModel, *, ks: Sequence[int], images: int, device: torch.device) -> None:
        self.model = model
        self.ks = tuple(ks)
        self.device = device
        self._timed = frozenset(np.linspace(0, images - 1, min(images, TIMED_IMAGES)).round().astype(int).tolist())
        self._seconds: dict[int, list[float]] = {k: [] for k in self.ks}
        self._work: tuple[float, dict[int, float], int] | None = None

    def __call__(self, index: int, features: Features, scene: Any, xy_1P2: Tensor) -> None:
        """The image of this index: its features, its scene as it was decoded, and its query points, draw 0 first."""
        calls = {k: self._decoding(scene, xy_1P2, k) for k in self.ks}
        if index in self._timed:
            first = index % len(self.ks)
            for k in self.ks[first:] + self.ks[:first]:
                calls[k]()  # not counted: the call before it was one of another size
                started = now(self.device)
                calls[k]()
                self._seconds[k].append(now(self.device) - started)
        if self._work is None:
            largest = calls[max(self.ks)]
            # decoding reads the scene given, which a GT-aligned model has been fitted to; the new one is as large
            peak = peak_memory(lambda: (self.model.prepare(features), largest()), device=self.device)
            prepare_macs = macs(lambda: self.model.prepare(features))
            self._work = prepare_macs, {k: macs(call) for k, call in calls.items()}, peak

    def _decoding(self, scene: Any, xy_1P2: Tensor, k: int) -> Callable[[], object]:
        return lambda: self.model.decode(scene, xy_1P2[:, :k])

    @property
    def costs(self) -> Costs:
        """What was found. Only after the first image."""
        assert self._work is not None
        prepare_macs, decode_macs_at_k, peak_bytes = self._work
        return Costs(
            decode_ms_at_k={k: 1e3 * spread(seconds).median for k, seconds in self._seconds.items()},
            prepare_macs=prepare_macs,
            decode_macs_at_k=decode_macs_at_k,
            peak_bytes=peak_bytes,
            peak_k=max(self.ks),
        )
