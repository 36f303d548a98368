"""Where a question lies outside what training saw: sizes and aspects of images, and depths."""

import numpy as np
import numpy.typing as npt

from spd_bench.ask.record import TrainedRun

ASPECT, RESOLUTION = 1.1, 2.0
"""Ratios to the nearest training frame beyond which an aspect or a resolution counts as unfamiliar."""


def unfamiliar_image(run: TrainedRun, *, width: int, height: int) -> list[str]:
    """How an image differs from every training frame in aspect and resolution, one line each."""
    if run.seen is None:
        return []
    found = []
    aspects = [w / h for h, w in run.seen.sizes]
    if all(_ratio(width / height, aspect) > ASPECT for aspect in aspects):
        trained = ", ".join(f"{aspect:.2f}" for aspect in sorted(set(aspects)))
        found.append(f"aspect {width / height:.2f}: training saw {trained}, and the network squeezes what it is given")
    if all(_ratio(width * height, w * h) > RESOLUTION**2 for h, w in run.seen.sizes):
        trained = ", ".join(f"{w}×{h}" for h, w in run.seen.sizes)
        found.append(f"resolution {width}×{height}: training saw {trained}")
    return found


def unfamiliar_depths(run: TrainedRun, depth_m_N: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Which depths lie outside the range that training saw; none where the record does not know the range."""
    if run.seen is None:
        return np.zeros(depth_m_N.shape, bool)
    return (depth_m_N < run.seen.near_m) | (depth_m_N > run.seen.far_m)


def _ratio(a: float, b: float) -> float:
    return max(a / b, b / a)
