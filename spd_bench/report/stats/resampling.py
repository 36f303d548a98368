"""Intervals and tests by resampling: a hierarchical bootstrap, sign flips of scenes, and Wilcoxon's test.

Interval: the bootstrap draws seeds, then scenes with all their images (both with replacement and crossed: Owen 2007).
With three to five seeds its percentiles are far too narrow, so they are stretched about the mean until the spread of
the draws is the standard error (`spread`), and the normal quantile that of Student's t. The bootstrap determines the
shape of the interval, the variance its width. In simulations with 3, 5 and 10 seeds, 8, 40 and 215 scenes, normal and
skewed values, dominated by seeds, by scenes or by both, the 95 % interval held the truth in 93 to 98 % of cases, plain
percentiles in 78 to 100 %.

Letters: S seeds, C scenes, R resamples.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spd_bench.report.stats.spread import ROUNDING, StandardError
from spd_bench.report.stats.values import Values

BLOCK = 1 << 21
"""Random numbers drawn at once."""


class Interval(NamedTuple):
    """Confidence limits, in the unit of the metric."""

    low: float
    """Lower limit."""
    high: float
    """Upper limit."""

    def holds(self, value: float) -> bool:
        """Whether it contains `value`, limits included."""
        return self.low <= value <= self.high


def bootstrap(sums_SC: Values, images_C: Values, rng: np.random.Generator, resamples: int) -> Values:
    """Means [R] over drawn seeds and, in all of them, the same drawn scenes."""
    S, C = sums_SC.shape
    draws = []
    for rows in _blocks(resamples, C):
        scenes_RC = _counts(rng, rows, C)
        seeds_RS = _counts(rng, rows, S) / S
        draws.append(((scenes_RC @ sums_SC.T) * seeds_RS).sum(axis=1) / (scenes_RC @ images_C))
    return np.concatenate(draws)


def _counts(rng: np.random.Generator, rows: int, among: int) -> Values:
    """Counts of each of `among` things in as many draws with replacement, for each row."""
    drawn = rng.integers(among, size=(rows, among)) + among * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * among).reshape(rows, among).astype(np.float64)


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that sum to `rows`, in blocks of bounded size."""
    step = max(1, BLOCK // columns)
    yield from (min(step, rows - start) for start in range(0, rows, step))


def interval_of(draws_R: Values, mean: float, spread: StandardError, level: float) -> Interval:
    """Percentiles of the draws, stretched about the mean to the standard error and to Student's t."""
    from scipy.special import ndtri

    if spread.error == 0:
        return Interval(mean, mean)
    tail = (1 - level) / 2
    stretch = spread.t(1 - tail) * spread.error / (ndtri(1 - tail) * draws_R.std())
    low, high = mean + stretch * (np.quantile(draws_R, [tail, 1 - tail]) - mean)
    return Interval(float(low), float(high))


def sign_flip(sum_C: Values, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Two-sided p of the sum over scenes under random signs of the scenes, and the smallest p attainable.

    All flips if they are no more than `resamples` + 1, otherwise random ones with the observed one among them.
    """
    C = len(sum_C)
    bound = abs(sum_C.sum()) - ROUNDING * np.abs(sum_C).sum()
    if resamples + 1 >= 2**C:
        flipped_RC = np.arange(2**C)[:, None] >> np.arange(C) & 1
        return float(np.mean(np.abs((1 - 2 * flipped_RC) @ sum_C) >= bound)), 2.0 ** (1 - C)
    extreme = 1
    for rows in _blocks(resamples, C):
        flipped_RC = rng.integers(2, size=(rows, C))
        extreme += int(np.count_nonzero(np.abs((1 - 2 * flipped_RC) @ sum_C) >= bound))
    return extreme / (resamples + 1), 1 / (resamples + 1)


def wilcoxon_p(means_C: Values) -> float:
    """p of the signed-rank test, zeros ranked with the rest (Pratt 1959)."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(means_C, zero_method="pratt").pvalue) if means_C.any() else 1.0
