"""Verdicts on a family of comparisons, with p adjusted for their number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from spd_bench.errors import ConfigError
from spd_bench.report.stats.paired import ALPHA, PairedDifference

Verdict = Literal["helps", "hurts", "equivalent", "inconclusive", "exploratory"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A difference and the verdict on it within its family."""

    difference: PairedDifference
    """The difference."""
    p_adjusted: float | None
    """p after Holm's method; None without a spread."""
    verdict: Verdict
    """The verdict."""
    note: str
    """A remark for readers; "" if there is none."""


def family(differences: Mapping[str, PairedDifference], *, declared: int | None = None) -> dict[str, Finding]:
    """Verdicts on the comparisons of one declared family, their p adjusted by Holm's method for being many.

    "helps" and "hurts" need an adjusted p below 0.05 and a 95 % interval without 0. "equivalent" has priority: a
    significant difference below the margin does not matter, so it is equivalent, with a note. Equivalence is tested
    for each comparison alone, at 5 %.
    declared: size of the family as declared, if some members have no result; they count as p = 1.

    Raises ConfigError if fewer members were declared than are given.
    """
    size = len(differences) if declared is None else declared
    if size < len(differences):
        raise ConfigError(
            f"a family of {size} was declared, {len(differences)} comparisons are given",
            hint="declare every comparison before looking at any",
        )
    ps = [1.0 if difference.p is None else difference.p for difference in differences.values()]
    adjusted = holm(ps + [1.0] * (size - len(ps)))
    return {
        name: _judge(difference, None if difference.p is None else p, size)
        for (name, difference), p in zip(differences.items(), adjusted, strict=False)
    }


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): the i-th smallest of m times m − i + 1, never less than one before it."""
    adjusted = [0.0] * len(ps)
    floor = 0.0
    for done, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        floor = max(floor, min(1.0, (len(ps) - done) * ps[index]))
        adjusted[index] = floor
    return adjusted


def _judge(difference: PairedDifference, p_adjusted: float | None, size: int) -> Finding:
    """The verdict on one member of a family of `size`, and its note."""
    interval = difference.interval
    if difference.exploratory or interval is None or p_adjusted is None:
        seeds = "1 seed" if difference.seeds == 1 else f"{difference.seeds} seeds"
        note = f"{seeds}, {difference.scenes} scenes: no verdict"
        return Finding(difference=difference, p_adjusted=p_adjusted, verdict="exploratory", note=note)
    apart = not interval.holds(0)
    significant = apart and p_adjusted < ALPHA
    verdict: Verdict = "inconclusive"
    note = ""
    if difference.equivalent:
        verdict = "equivalent"
        note = "a difference is there, but smaller than the margin" if significant else ""
    elif significant:
        verdict = "helps" if (difference.mean < 0) == difference.lower_is_better else "hurts"
    elif size * difference.smallest_p >= ALPHA:
        note = f"{difference.scenes} scenes cannot give a smaller p than {difference.smallest_p:.2g}"
    elif apart:
        note = f"the interval excludes 0, but p = {p_adjusted:.2g} after Holm over {size}"
    return Finding(difference=difference, p_adjusted=p_adjusted, verdict=verdict, note=note)
