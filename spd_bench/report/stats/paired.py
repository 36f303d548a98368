"""The paired difference of two compositions, with its interval and p-values.

The unit is an image at one K. Two compositions that were trained under the same seeds saw the same batches and are
scored at the same queries, so everything that they share cancels in

    d[s, i] = variant − base        for seed s and image i of scene c(i)

Its mean over seeds and images is the difference of the two reported numbers. The null hypothesis: this mean is zero for
new seeds and new scenes. Both are samples, so both add to the variance (`spread`); images of one scene are similar and
count as a group.

Letters: S seeds, I images, C scenes.
"""

from dataclasses import dataclass

import numpy as np

from spd_bench.errors import ConfigError
from spd_bench.report.stats.resampling import Interval, bootstrap, interval_of, sign_flip, wilcoxon_p
from spd_bench.report.stats.spread import ROUNDING, by_scene, spread_of
from spd_bench.report.stats.values import Aggregation, Margin, Scores, Values, as_averaged, check_paired

ALPHA = 0.05
"""Two-sided level of every test, after Holm; intervals have 1 − ALPHA, those for equivalence 1 − 2·ALPHA."""
POWER = 0.8
"""Chance of being found that the smallest detectable effect has."""
VERDICT_SEEDS = 3
"""With fewer seeds than this a comparison is exploratory."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Variant − base in one metric at one K, in the unit of the reported number.

    With one seed or one scene there is no spread, and everything that needs one is None.
    """

    lower_is_better: bool
    """Whether smaller values of the metric are better."""
    seeds: int
    """Pairs of seeds; 1 if one of the two is a single set of predictions."""
    scenes: int
    """Number of scenes."""
    images: int
    """Number of images."""
    base: float
    """The base's reported value, mean over seeds."""
    variant: float
    """The variant's reported value, mean over seeds."""
    mean: float
    """Their difference."""
    interval: Interval | None
    """95 % interval."""
    interval_90: Interval | None
    """90 % interval, that of the two one-sided tests for equivalence."""
    standard_error: float | None
    """Standard error of `mean`."""
    df: float | None
    """Its degrees of freedom."""
    p_two_way: float | None
    """p of Student's t of mean / standard_error, for new seeds and new scenes."""
    p_sign_flip: float
    """p for these seeds and new scenes, by flipping the sign of whole scenes, without normality."""
    smallest_p: float
    """Smallest possible p_sign_flip."""
    p_wilcoxon: float
    """p of the signed ranks of scene means; if it differs much, few scenes determine the result."""
    dz: float | None
    """mean / standard deviation of the scene means (averaged over seeds)."""
    improved: float
    """Share of images on which the variant's mean over seeds is better; ties count half."""
    margin: float | None
    """Margin of equivalence in the metric's unit; None if the suite declares none."""
    detectable: float | None
    """True difference that a comparison with this noise detects in about 80 % of cases."""

    @property
    def p(self) -> float | None:
        """The larger of p_two_way and p_sign_flip: a difference must hold over new seeds and without normality."""
        return None if self.p_two_way is None else max(self.p_two_way, self.p_sign_flip)

    @property
    def equivalent(self) -> bool:
        """Whether the 90 % interval lies within ± the margin (two one-sided tests at 5 %)."""
        if self.margin is None or self.interval_90 is None:
            return False
        return -self.margin < self.interval_90.low and self.interval_90.high < self.margin

    @property
    def exploratory(self) -> bool:
        """Whether there are too few seeds, or a single scene, for any verdict."""
        return self.seeds < VERDICT_SEEDS or self.interval is None


def compare(
    base: Scores,
    variant: Scores,
    *,
    lower_is_better: bool,
    rng: np.random.Generator,
    aggregation: Aggregation = "mean",
    margin: Margin | None = None,
    resamples: int = 9999,
) -> PairedDifference:
    """The difference variant − base, with its size and certainty.

    rng: a fresh generator keyed by what is compared; equal keys give equal results. resamples: bootstrap draws, and
    sign flips if the scenes have more possible flips than that.

    Raises:
        DataError: the two do not have the same seeds, images and scenes in the same order; squares that are negative
            or all zero under "root_mean_square".
        ConfigError: fewer than 99 resamples, too few for a tail of 2.5 %.
    """
    check_paired(base, variant)
    if resamples < 99:
        raise ConfigError(f"{resamples} resamples are too few for a 95 % interval", hint="the default is 9999")
    base_SI, variant_SI = (as_averaged(scores, aggregation) for scores in (base, variant))
    level = float(base_SI.mean())
    sums_SC, images_C = by_scene(variant_SI - base_SI, base.scenes)
    mean = float(sums_SC.sum() / (len(base.seeds) * images_C.sum()))
    spread = spread_of(sums_SC, images_C)
    draws_R = bootstrap(sums_SC, images_C, rng, resamples)
    p_sign_flip, smallest_p = sign_flip(sums_SC.mean(axis=0), rng, resamples)
    means_C = sums_SC.mean(axis=0) / images_C
    return PairedDifference(
        lower_is_better=lower_is_better,
        seeds=1 if base.single or variant.single else len(base.seeds),
        scenes=len(images_C),
        images=len(base.images),
        base=level,
        variant=float(variant_SI.mean()),
        mean=mean,
        interval=interval_of(draws_R, mean, spread, 1 - ALPHA) if spread else None,
        interval_90=interval_of(draws_R, mean, spread, 1 - 2 * ALPHA) if spread else None,
        standard_error=spread.error if spread else None,
        df=spread.df if spread else None,
        p_two_way=spread.p(mean) if spread else None,
        p_sign_flip=p_sign_flip,
        smallest_p=smallest_p,
        p_wilcoxon=wilcoxon_p(means_C),
        dz=_dz(mean, means_C),
        improved=_improved(base, variant, lower_is_better),
        margin=margin.of(level) if margin else None,
        detectable=(spread.t(1 - ALPHA / 2) + spread.t(POWER)) * spread.error if spread else None,
    )


def _dz(mean: float, means_C: Values) -> float | None:
    """Mean difference in standard deviations of the scene means; None if these are all equal."""
    if len(means_C) == 1 or np.ptp(means_C) <= ROUNDING * np.abs(means_C).max():
        return None
    return mean / float(means_C.std(ddof=1))


def _improved(base: Scores, variant: Scores, lower_is_better: bool) -> float:
    """Share of images on which the variant's mean over seeds is better; ties count half."""
    gain_I = base.values_SI.mean(axis=0) - variant.values_SI.mean(axis=0)
    return float(np.mean((1 + np.sign(gain_I if lower_is_better else -gain_I)) / 2))
