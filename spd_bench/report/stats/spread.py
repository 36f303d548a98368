"""The standard error of a mean difference over seeds and scenes, and its degrees of freedom.

    Var(mean) = V_seeds + max(V_scenes − V_both, 0)

V_seeds is the variance of a mean of S seed means, V_scenes the delete-one-scene jackknife of the mean (a ratio, since
scenes differ in size), and V_both their common part, seeds × scenes, which would otherwise count twice (two-way
clustering: Cameron, Gelbach and Miller 2011). Degrees of freedom: 1/df is the mean of 1/(S − 1) and of the scenes' own,
weighted by their shares of the variance. Satterthwaite (1946) squares the shares; in simulations that is too optimistic
where three seeds and many scenes share the variance.

Letters: S seeds, I images, C scenes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spd_bench.report.stats.values import Values

ROUNDING = 1e-12
"""Relative size below which a spread is rounding, and two flipped sums are equal."""


class StandardError(NamedTuple):
    """Standard error of a mean difference and its degrees of freedom."""

    error: float
    """The standard error."""
    df: float
    """Degrees of freedom."""

    def t(self, level: float) -> float:
        """Student's quantile at a level."""
        from scipy.special import stdtrit

        return float(stdtrit(self.df, level))

    def p(self, mean: float) -> float:
        """Two-sided p of a mean."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.df, -abs(mean) / self.error)) if self.error else float(mean == 0)


def by_scene(d_SI: Values, scenes: Sequence[str]) -> tuple[Values, Values]:
    """Sums over the images of each scene [S, C] and their number [C]."""
    _, scene_I = np.unique(np.asarray(scenes), return_inverse=True)
    return np.stack([np.bincount(scene_I, weights=d_I) for d_I in d_SI]), np.bincount(scene_I).astype(np.float64)


def spread_of(sums_SC: Values, images_C: Values) -> StandardError | None:
    """Standard error of the mean over all seeds and images (module docstring); None for one seed or one scene."""
    S, C = sums_SC.shape
    if min(S, C) == 1:
        return None
    weight_C = images_C / images_C.sum()
    means_SC = sums_SC / images_C
    seed_S1 = sums_SC.sum(axis=1, keepdims=True) / images_C.sum()
    scene_C = means_SC.mean(axis=0)
    mean = seed_S1.mean()
    # leaving scene c out moves a mean by weight / (1 − weight) times that scene's distance from it
    leverage_C = (C - 1) / C * (weight_C / (1 - weight_C)) ** 2
    v_seeds = float(seed_S1.var(ddof=1)) / S
    v_scenes = float(np.sum(leverage_C * (scene_C - mean) ** 2))
    v_both = float(np.sum(leverage_C * (means_SC - seed_S1 - scene_C + mean) ** 2)) / (S * (S - 1))
    v_scenes_only = max(v_scenes - v_both, 0.0)
    # differences that cancel exactly, over seeds and over scenes, still have a spread
    variance = v_seeds + v_scenes_only or v_both
    if variance <= (ROUNDING * np.abs(means_SC).max()) ** 2:
        return StandardError(0.0, S - 1)
    df_scenes = max(np.sum(weight_C**2) ** 2 / np.sum(weight_C**4) - 1, 1.0)
    scenes_share = v_scenes_only / variance
    return StandardError(float(np.sqrt(variance)), float(1 / ((1 - scenes_share) / (S - 1) + scenes_share / df_scenes)))
