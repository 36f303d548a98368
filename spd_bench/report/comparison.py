"""The results of finished runs, as plain values: the input of every table, figure and page.

A `Comparison` is one suite's compositions scored under one protocol on one data set. It holds one value per seed
and cell; means, spreads and differences are computed here and nowhere else in the reports. A composition that
failed stays a row, and a value that is not a number is never replaced by one.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from spd_bench.errors import ConfigError, StateError, did_you_mean, quoted


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A metric with its definition: two tools rarely mean the same by one name."""

    name: str
    """Name under which it is registered."""
    unit: str
    """"m" for metres, "" for a fraction."""
    lower_is_better: bool
    """Whether smaller values are better."""
    formula: str
    """Its definition, as tables print it."""
    aggregation: str
    """How the values of images become one number."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One composition or baseline.

    An external row was predicted by another program: it has no seeds, one value per cell, and no known parameters.
    """

    name: str
    """Name in the table."""
    kind: Literal["base", "ablation", "baseline", "external"]
    """What the row is."""
    axis: str
    """Axis of the suite that asked for it; "" for the base and baselines."""
    difference: str
    """What sets it apart from the base, in words."""
    gt_aligned: bool
    """Whether the ground truth of the scored image enters its predictions (R-27)."""
    trainable_parameters: int | None
    """Number of trained parameters; None if unknown."""
    seeds: tuple[int, ...]
    """Seeds that finished."""
    values: Mapping[tuple[str, int], tuple[float, ...]]
    """(metric, K) → one value per seed, in the order of `seeds`."""
    seconds: Mapping[str, float]
    """Measured times; a key that ends in "_ms" is in milliseconds."""
    stand_ins: tuple[str, ...]
    """What stands in for what in this row."""
    failure: str | None
    """Why it has no result, or an incomplete one; None if it has all."""
    aliases: tuple[str, ...]
    """Other names of the same composition."""
    macs: Mapping[int, float] = field(default_factory=dict)
    """K → multiply-adds of prepare and decode(K); empty where an earlier version scored the row."""
    peak_bytes: Mapping[int, float] = field(default_factory=dict)
    """K → bytes that prepare and decode(K) hold at most; empty as `macs`."""
    own_input: str = ""
    """Input size that a released model saw in place of the suite's, and its rule; "" for the others."""

    def __post_init__(self) -> None:
        """Raises StateError unless every cell has one value per seed, or one value in an external row."""
        for (metric, k), values in self.values.items():
            if len(values) != (1 if self.kind == "external" else len(self.seeds)):
                raise StateError(
                    f"{metric} at K={k} has {len(values)} values for {len(self.seeds)} seeds",
                    where=self.name,
                    hint="score the composition again",
                )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rows of one suite, in suite order, and what is needed to read their numbers.

    Raises StateError if it has no rows, two rows of one name, two bases of one suite, or a primary cell that it does
    not list.
    """

    suite: str
    """Name of the suite."""
    profile: str
    """Profile of the suite, "(none)" without one."""
    dataset: str
    """The data set in one line."""
    protocol: str
    """The evaluation protocol in one line."""
    images: int
    """Number of images that each value is computed from."""
    stand_ins: tuple[str, ...]
    """What stands in for what in every row."""
    primary: tuple[str, int]
    """(metric, K) that the suite asks about."""
    ks: tuple[int, ...]
    """Numbers of query points."""
    metrics: tuple[MetricInfo, ...]
    """The metrics, the primary one first."""
    rows: tuple[Row, ...]
    """The rows, in suite order."""
    provenance: Mapping[str, str]
    """Versions, revision, date, machine."""
    unfinished: int = 0
    """Number of jobs that are not finished, and so in no row."""
    sources: tuple[str, ...] = ()
    """A line for each suite, where rows come from several; the base of the first is the base."""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            problem = f'has two rows "{twice[0]}"' if twice else "has no rows"
            raise StateError(f"the comparison {problem}", where=self.suite)
        if sum(row.kind == "base" for row in self.rows) > max(1, len(self.sources)):
            raise StateError("the comparison has more than one base", where=self.suite)
        metric, k = self.primary
        if metric not in [info.name for info in self.metrics] or k not in self.ks:
            raise StateError(f"the primary metric {metric} at K={k} was not computed", where=self.suite)

    @property
    def base(self) -> Row | None:
        """The row that the others differ from; None in a suite of baselines alone."""
        return next((row for row in self.rows if row.kind == "base"), None)

    @property
    def own(self) -> tuple[Row, ...]:
        """Rows whose predictions never saw the ground truth that they are scored on."""
        return tuple(row for row in self.rows if not row.gt_aligned)

    @property
    def aligned(self) -> tuple[Row, ...]:
        """GT-aligned rows (R-27): never ranked, plotted or tabulated among the others."""
        return tuple(row for row in self.rows if row.gt_aligned)

    def metric(self, name: str) -> MetricInfo:
        """The metric of that name. Raises ConfigError for an unknown one."""
        known = {info.name: info for info in self.metrics}
        if name not in known:
            raise ConfigError(f"unknown metric {quoted(name)}", where=self.suite, hint=did_you_mean(name, known))
        return known[name]

    def row(self, name: str) -> Row:
        """The row of that name or alias. Raises ConfigError for an unknown one."""
        known = {alias: row for row in self.rows for alias in row.aliases} | {row.name: row for row in self.rows}
        if name not in known:
            raise ConfigError(f"unknown composition {quoted(name)}", where=self.suite, hint=did_you_mean(name, known))
        return known[name]


class Summary(NamedTuple):
    """One cell over its seeds."""

    n: int
    """Number of seeds."""
    mean: float
    """Mean."""
    std: float
    """Sample standard deviation (n - 1); NaN for one seed."""
    low: float
    """Smallest value."""
    high: float
    """Largest value."""


class Difference(NamedTuple):
    """How far a row lies from a reference."""

    n: int
    """Number of seeds that both have."""
    absolute: float
    """Difference of the means."""
    percent: float
    """The difference in percent of the reference's mean."""


def summary(row: Row, metric: str, k: int) -> Summary | None:
    """Mean and spread of one cell over the row's seeds; None if it was not measured; all NaN if one is not finite."""
    values = row.values.get((metric, k), ())
    if not values:
        return None
    if not all(math.isfinite(value) for value in values):
        return Summary(len(values), math.nan, math.nan, math.nan, math.nan)
    std = statistics.stdev(values) if len(values) > 1 else math.nan
    return Summary(len(values), statistics.fmean(values), std, min(values), max(values))


def difference(row: Row, reference: Row, metric: str, k: int) -> Difference | None:
    """Mean of `row` minus mean of `reference` over pairs of their seeds (`seed_pairs`); None if one was not measured.

    An external row is the same whatever the seed.
    """
    seeds = row.seeds or reference.seeds or (0,)
    ours, theirs = (_by_seed(r, metric, k, seeds) for r in (row, reference))
    pairs = seed_pairs(tuple(theirs), tuple(ours))
    if not pairs:
        return None
    level = statistics.fmean(theirs[seed] for seed, _ in pairs)
    absolute = statistics.fmean(ours[seed] for _, seed in pairs) - level
    return Difference(len(pairs), absolute, 100 * absolute / abs(level) if level else math.nan)


def seed_pairs(reference: Sequence[int], other: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Returns the pairs of seeds (reference's, other's) that are compared.

    Seeds that both have, and no others: runs of one seed saw the same batches and queries, so what these add to both
    cancels. Rows with no seed in common are independent runs, and any pairing that does not look at their values is
    fair: they are paired in order, as far as both reach.
    """
    shared = tuple((seed, seed) for seed in reference if seed in other)
    return shared or tuple(zip(sorted(reference), sorted(other), strict=False))


def _by_seed(row: Row, metric: str, k: int, seeds: Sequence[int]) -> dict[int, float]:
    """Value of each seed; an external row's only value for each of `seeds`."""
    values = row.values.get((metric, k), ())
    if row.kind == "external":
        return {seed: value for value in values for seed in seeds}
    return dict(zip(row.seeds, values, strict=False))


def ranked(rows: Iterable[Row], metric: MetricInfo, k: int) -> list[Row]:
    """Rows from best to worst mean; those without a comparable one (failed, NaN, not measured) last, in order."""
    sign = 1 if metric.lower_is_better else -1

    def key(row: Row) -> tuple[bool, float]:
        return (False, sign * _mean(row, metric.name, k)) if comparable(row, metric.name, k) else (True, 0.0)

    return sorted(rows, key=key)


def comparable(row: Row, metric: str, k: int) -> bool:
    """Whether the row has a finite mean there and did not fail on any seed."""
    return row.failure is None and math.isfinite(_mean(row, metric, k))


def _mean(row: Row, metric: str, k: int) -> float:
    cell = summary(row, metric, k)
    return cell.mean if cell else math.nan


def caption(comparison: Comparison) -> list[str]:
    """The caption of every number of this comparison: `headline`, then `definitions`. One line per item."""
    return headline(comparison) + definitions(comparison.metrics)


def headline(comparison: Comparison) -> list[str]:
    """Stand-ins first; then data, protocol, images and seeds, and the limits of the evidence."""
    from spd_bench.report.stats import VERDICT_SEEDS  # brings numpy along

    counts = f"Images scored: {comparison.images}. Seeds: {_seed_list(comparison)}. {_count_line(comparison.rows)}"
    suite = [f"Suite: {comparison.suite}, profile {comparison.profile}. {counts}"]
    lines = [
        stand_in_line(comparison),
        *([f"UNFINISHED: {comparison.unfinished} jobs are still to be done."] * (comparison.unfinished > 0)),
        f"Data: {comparison.dataset}",
        f"Protocol: {comparison.protocol}",
        *([*comparison.sources, counts] if comparison.sources else suite),
    ]
    if _fewest_seeds(comparison) < VERDICT_SEEDS:
        lines.append(f"Exploratory: fewer than {VERDICT_SEEDS} seeds, no verdict.")
    return [one_line(line) for line in lines]


def stand_in_line(comparison: Comparison) -> str:
    """The first line of every caption."""
    if not comparison.stand_ins:
        return "Stand-ins: none in the base."
    return one_line(
        f"STAND-INS: {'; '.join(comparison.stand_ins)} — these numbers say nothing about the paper's numbers."
    )


def definitions(metrics: Iterable[MetricInfo]) -> list[str]:
    """One line per metric: formula, unit, aggregation and which way is better."""
    return [
        one_line(
            f"{info.name} [{info.unit or '1'}], {'lower' if info.lower_is_better else 'higher'} is better: "
            f"{info.formula}; {info.aggregation}"
        )
        for info in metrics
    ]


def notes(comparison: Comparison) -> list[str]:
    """Remarks on single rows: failures, their own stand-ins, origin, other names."""
    found = []
    for row in comparison.rows:
        extra = [text for text in row.stand_ins if text not in comparison.stand_ins]
        found += [f"FAILED {row.name}: {row.failure}"] if row.failure is not None else []
        found += [f"STAND-IN in {row.name}: {'; '.join(extra)}"] if extra else []
        found += [f"INPUT of {row.name}: {row.own_input}, not the suite's"] if row.own_input else []
        found += [f"EXTERNAL {row.name}, not trained or timed here: {row.difference}"] * (row.kind == "external")
        found += [f"{row.name} is also {', '.join(row.aliases)}"] if row.aliases else []
    return [one_line(note) for note in found]


def markdown_escape(text: str) -> str:
    r"""Escapes what Markdown, its tables, GitHub's formulas and raw HTML interpret; `a_b` stays as it is."""
    return re.sub(r"[\\`*\[\]<>|~$&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", text)


def one_line(text: str) -> str:
    """The text on one line without control characters: names and exception texts reach terminals and file formats."""
    return "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))


def _seeds(comparison: Comparison) -> list[int]:
    """Seeds of the base, or of several suites' bases; of all rows where there is none."""
    return sorted({seed for row in _bases(comparison) or comparison.rows for seed in row.seeds})


def _fewest_seeds(comparison: Comparison) -> int:
    return min((len(base.seeds) for base in _bases(comparison)), default=len(_seeds(comparison)))


def _bases(comparison: Comparison) -> list[Row]:
    return [row for row in comparison.rows if row.kind == "base" and row.seeds]


def _seed_list(comparison: Comparison) -> str:
    seeds = _seeds(comparison)
    return f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else "none"


def _count_line(rows: tuple[Row, ...]) -> str:
    failed = sum(row.failure is not None for row in rows)
    external = sum(row.kind == "external" for row in rows)
    others = f" External predictions: {external}." if external else ""
    return f"Compositions and baselines: {len(rows) - external}, of which failed: {failed}.{others}"
