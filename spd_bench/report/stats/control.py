"""The A/A control: the base compared with itself under other seeds, where there is no difference.

Letters: S seeds, I images, P pairs of seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_bench.report.stats.paired import ALPHA
from spd_bench.report.stats.spread import StandardError, by_scene, spread_of
from spd_bench.report.stats.values import Aggregation, Scores, Values, as_averaged

CONTROL_SEEDS = 5
"""Seeds that the A/A control needs: four make six splits, too few to count."""
CONTROL_SPLITS = 500
"""Draws of a split in the A/A control; few seeds have fewer distinct ones."""
CONTROL_LIMIT = 0.2
"""Share of splits with a difference above which the A/A control fails. 5 % are expected; splits share seeds, so the
share varies: five seeds give more than 15 % in up to 7 cases of 100, more than 20 % in one of 1,000 (simulated)."""


@dataclass(frozen=True, kw_only=True)
class AAControl:
    """The result of the A/A control."""

    passed: bool | None
    """Whether the test found few enough differences; None with too few seeds or scenes to try."""
    reason: str
    """The result in words."""
    splits: int
    """Number of splits of the seeds."""
    found: int
    """Splits in which the two-way test found a difference."""
    found_by_images: int
    """Splits in which a t-test over images would have found one."""


def a_a_control(base: Scores, *, rng: np.random.Generator, aggregation: Aggregation = "mean") -> AAControl:
    """Compares the base with itself under other seeds.

    The seeds are split into disjoint pairs, one of each "base", the other "variant", in all or up to 500 ways, and
    each split is tested as by `compare`. (Seeds paired in a circle would cancel: their differences sum to zero.) For
    comparison, it also counts the splits in which a t-test over images finds a difference.

    The control detects a test that underestimates the noise of this base (as the one over images mostly does), and
    seeds without effect: equal values. It cannot detect what acts equally in all seeds, nor whether some seeds are
    special, since every split has its mirror image. With five seeds the test has two pairs, with six as many as a
    comparison of three seeds. The plainest control is to train the base again under other seeds, and to `compare`.
    """
    S = len(base.seeds)
    equal = next(((a, b) for b in range(S) for a in range(b) if _same(base.values_SI[a], base.values_SI[b])), None)
    if equal:
        a, b = (base.seeds[s] for s in equal)
        reason = f"seeds {a} and {b} gave the same value on every image: they are not two runs"
        return AAControl(passed=False, reason=reason, splits=0, found=0, found_by_images=0)
    if S < CONTROL_SEEDS or len(set(base.scenes)) == 1:
        reason = f"not run: it needs {CONTROL_SEEDS} seeds and 2 scenes, there are {S} and {len(set(base.scenes))}"
        return AAControl(passed=None, reason=reason, splits=0, found=0, found_by_images=0)
    values_SI = as_averaged(base, aggregation)
    splits = sorted({_split(rng.permutation(S)) for _ in range(CONTROL_SPLITS)})
    tests = [_test(values_SI[list(theirs)] - values_SI[list(ours)], base.scenes) for ours, theirs in splits]
    found, by_images = (sum(p < ALPHA for p in ps) for ps in zip(*tests, strict=True))
    passed = found <= CONTROL_LIMIT * len(splits)
    reason = (
        f"base against base differed in {found} of {len(splits)} splits of its {S} seeds (limit {CONTROL_LIMIT:.0%}); "
        f"a t-test over images would have said so in {by_images}"
    )
    return AAControl(passed=passed, reason=reason, splits=len(splits), found=found, found_by_images=by_images)


def _split(order: NDArray[np.int64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two halves of an order as pairs of seeds, normalised so that swapping the sides gives the same split."""
    P = len(order) // 2
    pairs = sorted(zip(order[:P].tolist(), order[P : 2 * P].tolist(), strict=True), key=min)
    ours, theirs = zip(*pairs, strict=True)
    return (ours, theirs) if ours[0] < theirs[0] else (theirs, ours)


def _test(d_PI: Values, scenes: Sequence[str]) -> tuple[float, float]:
    """p of the two-way test, and of a t-test that treats images as independent and seeds as fixed."""
    spread = spread_of(*by_scene(d_PI, scenes))
    assert spread is not None  # two pairs and two scenes at least
    d_I = d_PI.mean(axis=0)
    by_images = StandardError(float(d_I.std(ddof=1)) / len(d_I) ** 0.5, len(d_I) - 1)
    return spread.p(float(d_I.mean())), by_images.p(float(d_I.mean()))


def _same(a_I: Values, b_I: Values) -> bool:
    return bool((a_I == b_I).all())
