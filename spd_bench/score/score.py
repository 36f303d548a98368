"""Computes per-image values and reported numbers from predictions, under one protocol (§8, R-24 to R-26)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError
from spd_bench.protocol import Protocol
from spd_bench.score.metrics import Metric
from spd_bench.score.predict import NotFinite, Predictions

PerImage = Mapping[tuple[str, int], NDArray[np.float64]]
"""(metric, K) → one value per image."""


def reported(
    predictions: Predictions, metrics: Sequence[Metric], ks: Sequence[int], protocol: Protocol
) -> dict[tuple[str, int], float]:
    """The reported number of each (metric, K), averaged as the protocol says."""
    if protocol.averaging == "pooled":
        return pooled(predictions, metrics, ks, protocol)
    return summarise(per_image(predictions, metrics, ks, protocol), metrics)


def per_image(predictions: Predictions, metrics: Sequence[Metric], ks: Sequence[int], protocol: Protocol) -> PerImage:
    """Each metric at each K for each image.

    K > 1 uses the first K points of draw 0, so that point sets are nested. K = 1 averages over the first point of every
    draw, because one point is too noisy to compare methods. A metric that needs more than K points has no entry.
    """
    truth_m_IP, predicted_m_IP = _depths(predictions.truth_m_IP, predictions.predicted_m_IP, protocol)
    values: dict[tuple[str, int], NDArray[np.float64]] = {}
    for k, groups in _groups(predictions, ks).items():
        for metric in metrics:
            if k < metric.min_points:
                continue
            values[metric.name, k] = np.array(
                [
                    np.mean([metric.of_image(truth_m_P[group], predicted_m_P[group]) for group in groups])
                    for truth_m_P, predicted_m_P in zip(truth_m_IP, predicted_m_IP, strict=True)
                ]
            )
    return values


def summarise(values: PerImage, metrics: Sequence[Metric]) -> dict[tuple[str, int], float]:
    """The reported number of each (metric, K) under a protocol that averages per image."""
    by_name = {metric.name: metric for metric in metrics}
    return {(name, k): by_name[name].over_images(array) for (name, k), array in values.items()}


def pooled(
    predictions: Predictions, metrics: Sequence[Metric], ks: Sequence[int], protocol: Protocol
) -> dict[tuple[str, int], float]:
    """Each metric at each K over the points of all images as one sample; at K = 1 over those of all draws."""
    truth_m_IP, predicted_m_IP = _depths(predictions.truth_m_IP, predictions.predicted_m_IP, protocol)
    values: dict[tuple[str, int], float] = {}
    for k, groups in _groups(predictions, ks).items():
        points = np.concatenate(groups)
        found = _of_all(metrics, truth_m_IP[:, points].ravel(), predicted_m_IP[:, points].ravel())
        values |= {(name, k): value for name, value in found.items()}
    return values


class AllPixels:
    """The metrics over every valid pixel, as dense methods publish them, accumulated image by image.

    Under a protocol that pools it keeps all pixels in memory, at 8 bytes each, and `reported` needs several times that.
    """

    def __init__(self, metrics: Sequence[Metric], protocol: Protocol) -> None:
        self.metrics = metrics
        self.protocol = protocol
        self._values: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        self._kept: list[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]] = []

    def add(self, truth_m_V: NDArray[np.floating[Any]], predicted_m_V: NDArray[np.floating[Any]]) -> None:
        """Adds the valid pixels of one image."""
        if self.protocol.averaging == "pooled":
            self._kept.append((truth_m_V, predicted_m_V))
            return
        depths = _depths(truth_m_V, predicted_m_V, self.protocol)
        for metric in self.metrics:
            self._values[metric.name].append(metric.of_image(*depths))

    def reported(self) -> dict[str, float]:
        """Metric → reported number."""
        if self.protocol.averaging == "pooled":
            truth_m_N, predicted_m_N = (np.concatenate(arrays) for arrays in zip(*self._kept, strict=True))
            return _of_all(self.metrics, *_depths(truth_m_N, predicted_m_N, self.protocol))
        return {metric.name: metric.over_images(np.array(self._values[metric.name])) for metric in self.metrics}


def _of_all(
    metrics: Sequence[Metric], truth_m_N: NDArray[np.floating[Any]], predicted_m_N: NDArray[np.floating[Any]]
) -> dict[str, float]:
    """Metric → value over all points as one sample; without metrics that need more points."""
    return {
        metric.name: metric.over_images(np.array([metric.of_image(truth_m_N, predicted_m_N)]))
        for metric in metrics
        if len(truth_m_N) >= metric.min_points
    }


def _depths(
    truth_m: NDArray[np.floating[Any]], predicted_m: NDArray[np.floating[Any]], protocol: Protocol
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """True and predicted depths in float64, predictions clamped as the protocol says.

    Raises NotFinite for predictions that are not positive.
    """
    scored_m = protocol.clamp(predicted_m.astype(np.float64))
    if not (scored_m > 0).all():
        bad = int(scored_m.size - np.count_nonzero(scored_m > 0))
        raise NotFinite(
            f"{bad} of {scored_m.size} predictions are not positive numbers under protocol {protocol.name}",
            hint="score them under a protocol that clamps",
        )
    return truth_m.astype(np.float64), scored_m


def _groups(predictions: Predictions, ks: Sequence[int]) -> dict[int, list[NDArray[np.intp]]]:
    """K → indices of the points of each sample of K points."""
    first_draw = np.flatnonzero(predictions.draw_P == 0)
    if max(ks) > len(first_draw):
        raise ConfigError(f"K = {max(ks)} asked, predictions hold {len(first_draw)} points per image")
    firsts = np.unique(predictions.draw_P, return_index=True)[1]
    return {k: [firsts[d : d + 1] for d in range(len(firsts))] if k == 1 else [first_draw[:k]] for k in ks}
