"""Run folders → a paired comparison (`stats`) of each row with a reference, in one metric at one K.

Everything is rebuilt from `predictions.h5`: per-image values, paired over seeds and images, grouped by scene. The
family that Holm's correction counts is declared by the suite, given on the command line or, where suites are compared,
what was asked to be compared; other rows get an interval and no verdict.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spd_bench import registry
from spd_bench.data.randomness import generator
from spd_bench.errors import ConfigError, StateError, did_you_mean, quoted
from spd_bench.protocol import protocol
from spd_bench.report import stats
from spd_bench.report.collect import recorded
from spd_bench.report.comparison import seed_pairs
from spd_bench.report.stats import AAControl, Finding, Margin, PairedDifference, Scores
from spd_bench.score import score
from spd_bench.score.metrics import Metric
from spd_bench.score.predict import Predictions, load
from spd_bench.store import records
from spd_bench.store.run_root import RUN, ComparedRecord, RunRecord, SuiteRow

POINTS = {
    "frames": "other images, or the same in another order",
    "scenes": "other scenes",
    "uv_img_IP2": "other pixels",
    "truth_m_IP": "other true depths",
    "draw_P": "other draws",
}
"""Fields that two records of predictions must share → the message where they differ."""

Run = SuiteRow


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """Differences of rows from a reference in one metric at one K."""

    reference: str
    """Name of the reference row."""
    metric: str
    """Name of the metric."""
    unit: str
    """Unit of the metric."""
    k: int
    """Number of query points."""
    family: tuple[str, ...]
    """Axes, or patterns of names, that form the family."""
    origin: str
    """Where the family comes from: suite, command line, or the sources of a comparison."""
    declared: int
    """Number of rows in the family, failed ones included."""
    margin: str
    """The margin of equivalence, in words."""
    findings: Mapping[str, Finding]
    """Rows of the family, with verdicts."""
    others: Mapping[str, PairedDifference]
    """Rows outside of the family."""
    pairing: Mapping[str, str]
    """Row → how its seeds are paired, where they are not the reference's."""
    control: AAControl
    """The reference against itself."""


def judged(root: Path, suite: str | None = None) -> Verdicts | None:
    """`judge` on the latest run of a suite (default: the one that ran last), at its primary metric and K."""
    stored = recorded(root, suite)
    primary = stored["suite"]["report"]["primary"]
    return judge(stored, metric=primary["metric"], k=primary["k"])


def judge(
    stored: ComparedRecord,
    *,
    metric: str,
    k: int,
    reference: str | None = None,
    family: Sequence[str] | None = None,
) -> Verdicts | None:
    """The verdicts on a record, or None where nothing can be compared (no finished reference, one row).

    stored: the record of a suite (`collect.recorded`), or of several (`sources.gather`). reference: name of a row, by
    default the base. family: axes and patterns of names instead of those that were declared.

    Raises ConfigError for a family that names nothing and for a reference that was asked for and has no complete
    result; StateError where two rows of a suite were not scored at the same points, ConfigError where those of several
    suites were not; also what `score.predict.load` and `Scores` raise: no image is left out.
    """
    several = "asked" in stored
    rows = _finished(stored["rows"])
    name = reference or stored.get("reference") or _base(stored["rows"])
    chosen = _family(stored, family, name)
    if name not in rows and (reference or several):
        raise ConfigError(
            f"{quoted(name)} has no complete result to take differences from", hint="name another row as --baseline"
        )
    if name not in rows or len(rows) < 2:
        return None
    measure: Metric = registry.load("metric", metric)()
    if k < measure.min_points:
        return None
    report = stored["suite"]["report"]
    read = _Reader(measure, k, stored["suite"]["eval"]["protocol"], ConfigError if several else StateError)
    base = read.scores(name, rows[name])
    margin = Margin(report["equivalence"], relative=True) if report.get("equivalence") else None
    differences, pairing = {}, {}
    for other, runs in rows.items():
        if other == name or runs[0]["gt_aligned"]:
            continue
        pair = _side_by_side(base, read.scores(other, runs))
        pairing[other] = "the same runs" if _folders(runs) == _folders(rows[name]) else pair.note
        differences[other] = stats.compare(
            pair.base,
            pair.variant,
            lower_is_better=measure.lower_is_better,
            aggregation=measure.averaged,
            margin=margin,
            rng=generator("compare", name, other, metric, k),
        )
    members = chosen.members
    return Verdicts(
        reference=name,
        metric=metric,
        unit=measure.unit,
        k=k,
        family=chosen.patterns,
        origin=chosen.origin,
        declared=len(members),
        margin=f"{report['equivalence']:.1%} of {name}" if margin else "none declared",
        findings=stats.family({o: d for o, d in differences.items() if o in members}, declared=len(members)),
        others={other: found for other, found in differences.items() if other not in members},
        pairing={other: note for other, note in pairing.items() if note},
        control=_control(base, rows[name], measure, generator("a/a", name, metric, k)),
    )


def _base(rows: Sequence[Run]) -> str | None:
    return next((row["composition"] for row in rows if row["kind"] == "base"), None)


def _finished(rows: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of every composition that failed on no seed, in order of their seeds."""
    groups: dict[str, list[Run]] = {}
    for row in rows:
        groups.setdefault(row["composition"], []).append(row)
    return {
        name: sorted(runs, key=lambda run: int(run["seed"] or 0))
        for name, runs in groups.items()
        if not any(run["failure"] for run in runs)
    }


def _folders(runs: Sequence[Run]) -> list[tuple[str, str]]:
    return [(run["folder"], run["evaluation"]) for run in runs]


# Families


class _Family(NamedTuple):
    """Axes and patterns, their origin, and the rows that they match."""

    patterns: tuple[str, ...]
    origin: str
    members: set[str]


def _family(stored: ComparedRecord, given: Sequence[str] | None, reference: str | None) -> _Family:
    """The rows whose comparisons Holm's correction counts, without the reference."""
    if given:
        for pattern in given:
            if not _members(stored["rows"], [pattern]):
                known = {text for row in stored["rows"] for text in (*_axes(row), *_names(row))} - {""}
                raise ConfigError(
                    f"{quoted(pattern)} is no axis and no row", where="--family", hint=did_you_mean(pattern, known)
                )
        patterns, origin = tuple(given), "given by --family"
    elif "asked" in stored:
        patterns, origin = tuple(name for name in stored["asked"] if name != reference), "what was asked to be compared"
    else:
        patterns, origin = tuple(stored["suite"]["report"]["family"]), "declared by the suite"
    return _Family(patterns, origin, _members(stored["rows"], patterns) - {reference or ""})


def _members(rows: Sequence[Run], patterns: Sequence[str]) -> set[str]:
    """Compositions that an axis asks for, first or under another name, or that a pattern of names fits."""
    return {
        row["composition"]
        for row in rows
        if any(pattern in _axes(row) or fnmatch.filter(_names(row), pattern) for pattern in patterns)
    }


def _axes(row: Run) -> list[str]:
    return [row["axis"], *(axis for axis, _ in row["aliases"])]


def _names(row: Run) -> list[str]:
    return [row["composition"], *(name for _, name in row["aliases"])]


# Pairs


class _Pair(NamedTuple):
    """Two compositions seed by seed, with a remark on the pairing."""

    base: Scores
    variant: Scores
    note: str


def _side_by_side(base: Scores, variant: Scores) -> _Pair:
    """Both on the seeds that `seed_pairs` sets beside each other; a single set beside every seed of the other."""
    if base.single or variant.single:
        seeds = variant.seeds if base.single else base.seeds
        whose = (base if base.single else variant).name
        note = f"{whose} is one set of predictions, the same for every seed"
        return _Pair(base.of_seeds(seeds, seeds), variant.of_seeds(seeds, seeds), note)
    pairs = seed_pairs(base.seeds, variant.seeds)
    ours, theirs = zip(*pairs, strict=True)
    said = []
    if ours != theirs:
        said.append(f"no seed in common: {', '.join(f'{a} beside {b}' for a, b in pairs)} as independent runs")
    for scores, used in ((base, ours), (variant, theirs)):
        if left := [str(seed) for seed in scores.seeds if seed not in used]:
            said.append(f"seed {', '.join(left)} of {scores.name} not used")
    return _Pair(base.of_seeds(ours, ours), variant.of_seeds(theirs, ours), "; ".join(said))


def _control(base: Scores, runs: Sequence[Run], measure: Metric, rng: np.random.Generator) -> AAControl:
    """The A/A control of a trained reference; for another one, seeds change nothing, and it is not run."""
    if base.single or records.read(Path(runs[0]["folder"]) / RUN, RunRecord)["trainable_parameters"] == 0:
        reason = f"not run: {base.name} is not trained here, so that its seeds are no runs"
        return AAControl(passed=None, reason=reason, splits=0, found=0, found_by_images=0)
    return stats.a_a_control(base, rng=rng, aggregation=measure.averaged)


class _Reader:
    """Per-image values of one metric at one K, read from the records of runs."""

    def __init__(
        self, metric: Metric, k: int, protocol_name: str, refusal: type[ConfigError] | type[StateError]
    ) -> None:
        self.metric = metric
        self.k = k
        self.protocol = protocol(protocol_name)
        self.refusal = refusal
        self._points: Predictions | None = None

    def scores(self, name: str, runs: Sequence[Run]) -> Scores:
        """One composition's values, a row per seed."""
        values = []
        for run in runs:
            predictions = load(Path(run["folder"]) / run["evaluation"] / "predictions.h5")
            self._refuse_other_points(predictions, name)
            per_image = score.per_image(predictions, [self.metric], [self.k], self.protocol)
            values.append(per_image[self.metric.name, self.k])
        assert self._points is not None
        single = runs[0]["kind"] == "external"
        return Scores(
            name=name,
            values_SI=np.stack(values),
            seeds=(0,) if single else tuple(int(run["seed"] or 0) for run in runs),
            images=self._points.frames,
            scenes=self._points.scenes,
            single=single,
        )

    def _refuse_other_points(self, predictions: Predictions, name: str) -> None:
        """Raises unless a run was scored on the same images and pixels with the same truth as the first."""
        first = self._points = self._points or predictions
        for field, other in POINTS.items():
            if not np.array_equal(getattr(predictions, field), getattr(first, field)):
                raise self.refusal(
                    f"was not scored at the same points as the other rows: {other}"
                    + _missing(predictions, first, field),
                    where=name,
                    hint="run the suite again",
                )


def _missing(predictions: Predictions, first: Predictions, field: str) -> str:
    """The images that only one of two records has, in words."""
    lone = sorted(set(predictions.frames) ^ set(first.frames))
    return f" ({len(lone)} in one record alone, the first {lone[0]})" if field == "frames" and lone else ""
