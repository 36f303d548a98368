"""Run folders → what a paired comparison of each row with a reference says (`stats`), in one metric at one K.

Everything is rebuilt from `predictions.h5`: per-image values, paired over seeds and images, grouped by scene. The
family that Holm's correction counts is the one that the suite declared; other rows get an interval and no verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spd_bench import registry, score, stats
from spd_bench.data.randomness import generator
from spd_bench.errors import StateError
from spd_bench.evaluate import Predictions, load
from spd_bench.metrics import Metric
from spd_bench.protocol import protocol
from spd_bench.report.collect import record
from spd_bench.stats import AAControl, Finding, Margin, PairedDifference, Scores


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Differences of rows from a reference in one metric at one K.

    findings: rows of the declared family, with verdicts. others: rows outside of it, by name. family: axes that were
    declared; declared: how many rows that is, failed ones included. control: the reference against itself.
    """

    reference: str
    metric: str
    unit: str
    k: int
    family: tuple[str, ...]
    declared: int
    margin: str
    findings: Mapping[str, Finding]
    others: Mapping[str, PairedDifference]
    control: AAControl


def judged(
    root: Path,
    suite: str | None = None,
    *,
    metric: str | None = None,
    k: int | None = None,
    reference: str | None = None,
) -> Verdicts | None:
    """`judge` on the latest run of a suite (default: the one that ran last), at its primary metric and K by default."""
    stored = record(root, suite)
    primary = stored["suite"]["report"]["primary"]
    return judge(root, stored, metric=metric or primary["metric"], k=k or primary["k"], reference=reference)


def judge(
    root: Path, stored: Mapping[str, Any], *, metric: str, k: int, reference: str | None = None
) -> Verdicts | None:
    """The verdicts on a suite's latest run, or None where nothing can be compared (no finished reference, one row).

    stored: the suite's record (`collect.record`). reference: name of a row, the base by default.
    Raises StateError where two rows were not scored at the same points, and as `evaluate.load`.
    """
    rows = _finished(stored["rows"])
    name = reference or next((row["composition"] for row in stored["rows"] if row["kind"] == "base"), None)
    if name not in rows or len(rows) < 2:
        return None
    measure: Metric = registry.load("metric", metric)()
    if k < measure.min_points:
        return None
    report = stored["suite"]["report"]
    read = _Reader(root, measure, k, stored["suite"]["eval"]["protocol"])
    base = read.scores(name, rows[name])
    margin = Margin(report["equivalence"], relative=True) if report.get("equivalence") else None
    differences = {
        other: stats.compare(
            base,
            read.scores(other, runs),
            lower_is_better=measure.lower_is_better,
            aggregation=measure.averaged,
            margin=margin,
            rng=generator("compare", name, other, metric, k),
        )
        for other, runs in rows.items()
        if other != name and _seeds(runs) == base.seeds and not runs[0]["gt_aligned"]
    }
    family = tuple(report["family"])
    members = _members(stored["rows"], family) - {name}
    judged = {other: found for other, found in differences.items() if other in members}
    return Verdicts(
        reference=name,
        metric=metric,
        unit=measure.unit,
        k=k,
        family=family,
        declared=len(members),
        margin=f"{report['equivalence']:.1%} of {name}" if margin else "none declared",
        findings=stats.family(judged, declared=len(members)),
        others={other: found for other, found in differences.items() if other not in members},
        control=stats.a_a_control(base, rng=generator("a/a", name, metric, k), aggregation=measure.averaged),
    )


def _finished(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of every composition that failed on no seed, in order of their seeds."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["composition"], []).append(row)
    return {
        name: sorted(runs, key=lambda run: int(run["seed"]))
        for name, runs in groups.items()
        if not any(run["failure"] for run in runs)
    }


def _seeds(runs: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(int(run["seed"]) for run in runs)


def _members(rows: Sequence[Mapping[str, Any]], family: Sequence[str]) -> set[str]:
    """Compositions that an axis of the family asks for, first or under another name."""
    return {
        row["composition"] for row in rows if row["axis"] in family or any(axis in family for axis, _ in row["aliases"])
    }


class _Reader:
    """Per-image values of one metric at one K, read from the records of runs."""

    def __init__(self, root: Path, metric: Metric, k: int, protocol_name: str) -> None:
        self.root = root
        self.metric = metric
        self.k = k
        self.protocol = protocol(protocol_name)
        self._points: Predictions | None = None

    def scores(self, name: str, runs: Sequence[Mapping[str, Any]]) -> Scores:
        """One composition's values, a row per seed."""
        values = []
        for run in runs:
            predictions = load(self.root / run["folder"] / run["evaluation"] / "predictions.h5")
            self._refuse_other_points(predictions, name)
            per_image = score.per_image(predictions, [self.metric], [self.k], self.protocol)
            values.append(per_image[self.metric.name, self.k])
        assert self._points is not None
        return Scores(
            name=name,
            values_SI=np.stack(values),
            seeds=_seeds(runs),
            images=self._points.frames,
            scenes=self._points.scenes,
        )

    def _refuse_other_points(self, predictions: Predictions, name: str) -> None:
        """Every run must have been scored on the same images at the same pixels with the same truth."""
        first = self._points = self._points or predictions
        same = predictions.frames == first.frames and all(
            np.array_equal(getattr(predictions, field), getattr(first, field))
            for field in ("uv_img_IP2", "truth_m_IP", "draw_P")
        )
        if not same:
            raise StateError(
                "was not scored at the same points as the other rows", where=name, hint="run the suite again"
            )
