"""Scores at exactly the points of a file: answers at points, or dense maps read there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_bench.data.batches import ScoredImages
from spd_bench.errors import DataError
from spd_bench.external.files import Maps
from spd_bench.external.points import Line, checked_in
from spd_bench.external.reading import Reading, read_map, size_of
from spd_bench.score import score
from spd_bench.score.judge import Judge


@dataclass(frozen=True)
class PointScores:
    """Numbers over the points of a file: every metric per image over its points, then as the protocol averages."""

    name: str
    """What tables call it."""
    judge: Judge
    """Data set, protocol and metrics."""
    what: str
    """What was scored, and whose truth it was scored on."""
    gt_aligned: bool
    """Whether ground truth entered the predictions (R-27)."""
    images: int
    """Frames that have points in the file."""
    points: int
    """Points of all of them."""
    values: Mapping[str, float]
    """Metric → number."""


def are_the_suites(lines: Sequence[Line], images: ScoredImages) -> bool:
    """Whether a file holds exactly the suite's test frames with the suite's query points, in their order."""
    return len(lines) == len(images) and all(np.array_equal(line.uv_N2, images[line.index].uv_img_P2) for line in lines)


def answers_at(lines: Sequence[Line], images: ScoredImages, where: str) -> list[NDArray[np.float32]]:
    """Predictions at the suite's own points, frame by frame. DataError where they are the truth itself."""
    if all(np.array_equal(line.depth_m_N, images[line.index].truth_m_P) for line in lines):
        raise DataError(
            "holds the true depths of the suite's points, not predictions",
            where=where,
            hint='write predictions in place of "depth"',
        )
    return [line.depth_m_N for line in lines]


def own_answers(lines: Sequence[Line], images: ScoredImages, judge: Judge, name: str, where: str) -> PointScores:
    """Predictions at points of their own, scored on the data set's depth at exactly those pixels."""
    found = []
    for line in lines:
        image = images[line.index]
        truth_m_HW = images.views.see(image.frame, image.view).depth_m_HW
        checked_in(line, image.frame.frame, image.frame_size)
        u_N, v_N = line.uv_N2.T
        valid_N = judge.protocol.valid(truth_m_HW, where=f"frame {image.frame.frame}")[v_N, u_N]
        if not valid_N.all():
            raise DataError(
                f"at {np.count_nonzero(~valid_N)} of {len(valid_N)} points of frame {image.frame.frame} no depth "
                f"counts under {judge.protocol.name}, such as {line.uv_N2[~valid_N][0].tolist()}",
                where=line.where,
                hint="leave those points out, or choose another protocol with --set eval.protocol=full_frame",
            )
        found.append((truth_m_HW[v_N, u_N].astype(np.float32), line.depth_m_N))
    return _scored(found, judge, name, f"answers of {where} at their own points, on the data set's depth", False)


def maps_at(
    maps: Maps, lines: Sequence[Line], images: ScoredImages, judge: Judge, reading: Reading, name: str, where: str
) -> PointScores:
    """Dense maps read at the points of a file, scored on the depths that the file has for them."""
    found, apart = [], []
    for line in lines:
        image = images[line.index]
        truth_m_HW = images.views.see(image.frame, image.view).depth_m_HW
        checked_in(line, image.frame.frame, image.frame_size)
        map_HW = maps.read(line.index)
        size_of(map_HW, truth_m_HW)
        valid_HW = judge.protocol.valid(truth_m_HW, where=f"frame {image.frame.frame}")
        u_N, v_N = line.uv_N2.T
        predicted_m_N = read_map(map_HW, truth_m_HW, valid_HW, reading, judge.protocol).depth_m_HW[v_N, u_N]
        if not (np.isfinite(predicted_m_N) & (predicted_m_N > 0)).all():
            raise DataError(
                f"frame {image.frame.frame}: predictions at points of the file are not positive, finite numbers",
                where=line.where,
            )
        known_N = truth_m_HW[v_N, u_N] > 0
        apart += list(np.abs(truth_m_HW[v_N, u_N] / line.depth_m_N - 1)[known_N])
        found.append((line.depth_m_N, predicted_m_N))
    same = f"; the data set's depth there differs by {100 * float(np.median(apart)):.2g} % (median)" if apart else ""
    what = f"maps ({maps.what}) at the points of {where}, on the depths of that file{same}"
    return _scored(found, judge, name, what, reading.gt_aligned)


def _scored(
    found: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    judge: Judge,
    name: str,
    what: str,
    gt_aligned: bool,
) -> PointScores:
    fewest = min(len(truth_m_N) for truth_m_N, _ in found)
    metrics = tuple(metric for metric in judge.metrics if metric.min_points <= fewest)
    over_points = score.AllPixels(metrics, judge.protocol)
    for truth_m_N, predicted_m_N in found:
        over_points.add(truth_m_N, predicted_m_N)
    points = sum(len(truth_m_N) for truth_m_N, _ in found)
    return PointScores(name, judge, what, gt_aligned, len(found), points, over_points.reported())
