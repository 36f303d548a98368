"""A model that answers without any network: what sessions and pages are tested with."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from spd_bench.errors import StateError
from spd_bench.explore.models import Models
from spd_bench.explore.offers import Offer


class StubModel:
    """Depth is u + v / 10 metres, plus `shift`; `log` counts what it was asked."""

    def __init__(self, shift: float = 0.0, *, seconds: float = 0.0) -> None:
        self.shift, self.seconds = shift, seconds
        self.log: list[str] = []
        self.at_once, self.most_at_once = 0, 0
        self._lock = threading.Lock()

    def encode(self, image_HW3: np.ndarray) -> Any:
        self.log.append("encode")
        time.sleep(self.seconds)
        height, width, _ = image_HW3.shape
        return SimpleNamespace(width=width, height=height, unfamiliar=("aspect 3.00",) * (width > height), owner=self)

    def depth(self, scene: Any, points: Any) -> np.ndarray:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        uv_N2 = np.asarray(points, float)
        self.log.append(f"depth {len(uv_N2)}")
        with self._lock:
            self.at_once -= 1
        return (uv_N2[:, 0] + uv_N2[:, 1] / 10 + self.shift).astype(np.float32)

    def unfamiliar(self, depth_m_N: np.ndarray) -> np.ndarray:
        return depth_m_N > 5


def offer(label: str) -> Offer:
    return Offer(label, Path("runs") / label, "", ())


def models_of(scenes: int = 16, **by_label: StubModel | str) -> Models:
    """Stub models by label; a text instead of a model is why that run cannot be loaded."""

    def load(offered: Offer) -> Any:
        found = by_label[offered.label]
        if isinstance(found, str):
            raise StateError(found, where=offered.label)
        found.log.append("load")
        return found

    return Models(map(offer, by_label), load, scenes=scenes)
