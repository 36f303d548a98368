"""Predictions → per-image values → reported numbers, under one protocol (§8, R-24 to R-26)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError
from spd_bench.evaluate import Predictions
from spd_bench.metrics import Metric
from spd_bench.protocol import Protocol

PerImage = Mapping[tuple[str, int], NDArray[np.float64]]
"""(metric, K) → one value per image."""


def per_image(predictions: Predictions, metrics: Sequence[Metric], ks: Sequence[int], protocol: Protocol) -> PerImage:
    """Each metric at each K for each image.

    K > 1 takes the first K points of draw 0, which are nested. K = 1 averages over all draws' first points, one
    point being too noisy to compare methods. A metric that needs more points than K has no entry.
    """
    predicted_m_IP = protocol.clamp(predictions.predicted_m_IP.astype(np.float64))
    truth_m_IP = predictions.truth_m_IP.astype(np.float64)
    first_draw = np.flatnonzero(predictions.draw_P == 0)
    if max(ks) > len(first_draw):
        raise ConfigError(f"K = {max(ks)} asked, predictions hold {len(first_draw)} points per image")
    firsts = np.unique(predictions.draw_P, return_index=True)[1]
    values: dict[tuple[str, int], NDArray[np.float64]] = {}
    for k in ks:
        groups = [firsts[d : d + 1] for d in range(len(firsts))] if k == 1 else [first_draw[:k]]
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
    """The reported number of each (metric, K)."""
    by_name = {metric.name: metric for metric in metrics}
    return {(name, k): by_name[name].over_images(array) for (name, k), array in values.items()}
