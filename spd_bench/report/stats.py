"""Paired comparison of two compositions: the difference, and how certain it is.

The unit is an image at one K. Two compositions trained under the same seeds saw the same batches and are scored at the
same queries, so the difference

    d[s, i] = variant − base        for seed s and image i of scene c(i)

is free of all that they share. Its mean over seeds and images is the difference of the two reported numbers.

What is tested: that the mean difference is zero over the seeds that could have been drawn and the scenes that could
have been filmed. Both are samples, so both add to the variance; images of one scene are alike and count as a group:

    Var(mean) = V_seeds + max(V_scenes − V_both, 0)

V_seeds is the variance of a mean of S seed means, V_scenes the delete-one-scene jackknife of the mean (a ratio, scenes
being unequal), V_both what the two hold in common, seeds × scenes, which would otherwise count twice (two-way
clustering: Cameron, Gelbach and Miller 2011). Degrees of freedom: 1/df is the mean of 1/(S − 1) and of the scenes' own,
weighted by their shares of the variance. Satterthwaite (1946) squares the shares; simulated, that is too sure of itself
where three seeds and many scenes share the variance.

Interval: a hierarchical bootstrap draws seeds, then scenes with all their images (both with replacement and crossed:
Owen 2007). Three to five seeds make its percentiles far too narrow, so they are stretched about the mean until the
spread of the draws is the standard error above, and the normal quantile that of Student's t. The bootstrap gives the
interval its shape, the variance its width. Simulated with 3, 5 and 10 seeds, 8, 40 and 215 scenes, normal and skewed,
led by seeds, by scenes or by both: its 95 % held the truth in 93 to 98 % of cases, plain percentiles in 78 to 100 %.

Letters: S seeds, I images, C scenes, R resamples, P pairs of seeds.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError

Values = NDArray[np.float64]
Aggregation = Literal["mean", "root_mean_square"]
"""How per-image values become the reported number: their mean, or the root of the mean of squares (`rmse_pooled`)."""
Verdict = Literal["helps", "hurts", "equivalent", "inconclusive", "exploratory"]

ALPHA = 0.05
"""Two-sided level of every test, after Holm; intervals have 1 − ALPHA, those for equivalence 1 − 2·ALPHA."""
POWER = 0.8
"""Chance of being found that the smallest detectable effect has."""
VERDICT_SEEDS = 3
"""With fewer seeds than this a comparison is exploratory."""
CONTROL_SEEDS = 5
"""Seeds that the A/A control needs: four make six splits, too few to count."""
CONTROL_SPLITS = 500
"""Draws of a split in the A/A control; few seeds have fewer distinct ones."""
CONTROL_LIMIT = 0.2
"""Share of splits with a difference above which the A/A control fails. 5 % are due; splits share seeds, so the
share varies: five seeds give more than 15 % in up to 7 cases of 100, more than 20 % in one of 1,000 (simulated)."""
_BLOCK = 1 << 21
"""Random numbers drawn at once."""
_ROUNDING = 1e-12
"""Relative size below which a spread is rounding, and two flipped sums are equal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Per-image values [S, I] of one composition in one metric at one K.

    Raises DataError for values that are not finite or not one per seed and image, and for a seed or an image named
    twice: a missing value is never dropped, for what is missing is rarely missing by chance.
    """

    name: str
    """Name of the composition."""
    values_SI: Values
    """One value per seed and image."""
    seeds: tuple[int, ...]
    """Seed of each row."""
    images: tuple[str, ...]
    """Image of each column."""
    scenes: tuple[str, ...]
    """Scene of each column."""
    single: bool = False
    """Whether this is one set of predictions of another program, set beside every seed of another composition; its own
    seeds are unknown, so a comparison with it is exploratory.
    """

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.images))
        if self.values_SI.shape != expected or len(self.scenes) != len(self.images) or 0 in expected:
            raise DataError(
                f"expected one value per seed and image {expected} and one scene per image, found values "
                f"{self.values_SI.shape} and {len(self.scenes)} scenes",
                where=self.name,
                hint="score every seed on every image again",
            )
        for kind, names in (("seed", self.seeds), ("image", self.images)):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise DataError(f"{kind} {twice[0]} is there twice", where=self.name, hint=f"give each {kind} once")
        bad_SI = ~np.isfinite(self.values_SI)
        if bad_SI.any():
            s, i = np.argwhere(bad_SI)[0]
            raise DataError(
                f"{bad_SI.sum()} of {bad_SI.size} values are not finite, the first {self.values_SI[s, i]} for seed "
                f"{self.seeds[s]}, image {self.images[i]}",
                where=self.name,
                hint="score this composition again; a run that failed has no place in a comparison",
            )

    def of_seeds(self, seeds: Sequence[int], names: Sequence[int]) -> "Scores":
        """The values of some seeds, in this order, under other names; a single set again and again."""
        rows = [0 if self.single else self.seeds.index(seed) for seed in seeds]
        return replace(self, values_SI=self.values_SI[rows], seeds=tuple(names))


@dataclass(frozen=True)
class Margin:
    """The largest difference that does not matter, declared before looking."""

    amount: float
    """Size, in the metric's unit or as a fraction of the base."""
    relative: bool = False
    """Whether `amount` is a fraction of the base."""

    def __post_init__(self) -> None:
        if not (0 < self.amount < np.inf):
            raise ConfigError(f"a margin must be positive and finite, not {self.amount}")

    def of(self, base: float) -> float:
        """The margin in the metric's unit. A relative one takes the base's measured level as exact."""
        return self.amount * abs(base) if self.relative else self.amount


class Interval(NamedTuple):
    """Confidence limits, in the unit of the metric."""

    low: float
    """Lower limit."""
    high: float
    """Upper limit."""

    def holds(self, value: float) -> bool:
        """Whether `value` lies in it, limits included."""
        return self.low <= value <= self.high


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Variant − base in one metric at one K, in the unit of the reported number.

    With one seed or one scene nothing measures the spread, and what needs one is None.
    """

    lower_is_better: bool
    """Whether smaller values are better."""
    seeds: int
    """Number of pairs of seeds; 1 where one of the two is a single set of predictions."""
    scenes: int
    """Number of scenes."""
    images: int
    """Number of images."""
    base: float
    """Reported level of the base, a mean over seeds."""
    variant: float
    """Reported level of the variant, a mean over seeds."""
    mean: float
    """variant − base."""
    interval: Interval | None
    """95 % confidence interval of `mean`."""
    interval_90: Interval | None
    """90 % interval: that of the two one-sided tests for equivalence."""
    standard_error: float | None
    """Standard error of `mean`."""
    df: float | None
    """Degrees of freedom of `standard_error`."""
    p_two_way: float | None
    """p of Student's t of mean / standard_error, over new seeds and new scenes."""
    p_sign_flip: float
    """The same for these seeds and new scenes, by flipping the sign of whole scenes, without normality."""
    smallest_p: float
    """Smallest value that `p_sign_flip` can take."""
    p_wilcoxon: float
    """p of signed ranks of scene means, to see whether few scenes carry the result."""
    dz: float | None
    """mean / standard deviation of the scene means (averaged over seeds)."""
    improved: float
    """Share of images on which the variant's mean over seeds is better, ties counted half."""
    margin: float | None
    """Margin of equivalence in the metric's unit; None without one."""
    detectable: float | None
    """True difference that a comparison as noisy as this one finds with a chance of about 80 %."""

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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A difference judged within its family."""

    difference: PairedDifference
    """The difference."""
    p_adjusted: float | None
    """Its p after Holm's correction; None without one."""
    verdict: Verdict
    """The verdict."""
    note: str
    """What a reader has to know beside it."""


@dataclass(frozen=True, kw_only=True)
class AAControl:
    """The base against itself, split by seeds."""

    passed: bool | None
    """Whether few enough splits found a difference; None where there are too few seeds or scenes to try."""
    reason: str
    """Why it was not run, or what it found."""
    splits: int
    """Number of splits."""
    found: int
    """Splits in which the two-way test found a difference."""
    found_by_images: int
    """Splits in which a t-test over images did."""


class _Spread(NamedTuple):
    """Standard error of a mean difference and its degrees of freedom."""

    error: float
    df: float

    def t(self, level: float) -> float:
        """Student's quantile."""
        from scipy.special import stdtrit

        return float(stdtrit(self.df, level))

    def p(self, mean: float) -> float:
        """Two-sided p of a mean."""
        from scipy.special import stdtr

        return 2 * float(stdtr(self.df, -abs(mean) / self.error)) if self.error else float(mean == 0)


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
    """Returns the difference variant − base, with intervals, p and effect sizes.

    rng: a fresh generator keyed by what is compared; equal keys give equal results. resamples: bootstrap draws, and
    sign flips where the scenes have more than that.

    Raises:
        DataError: the two do not have the same seeds, images and scenes in the same order; squares that are negative
            or all zero under "root_mean_square".
        ConfigError: fewer than 99 resamples, too few for a tail of 2.5 %.
    """
    _check_paired(base, variant)
    if resamples < 99:
        raise ConfigError(f"{resamples} resamples are too few for a 95 % interval", hint="the default is 9999")
    base_SI, variant_SI = (as_averaged(scores, aggregation) for scores in (base, variant))
    level = float(base_SI.mean())
    sums_SC, images_C = _by_scene(variant_SI - base_SI, base.scenes)
    mean = float(sums_SC.sum() / (len(base.seeds) * images_C.sum()))
    spread = _spread(sums_SC, images_C)
    draws_R = _bootstrap(sums_SC, images_C, rng, resamples)
    p_sign_flip, smallest_p = _sign_flip(sums_SC.mean(axis=0), rng, resamples)
    means_C = sums_SC.mean(axis=0) / images_C
    return PairedDifference(
        lower_is_better=lower_is_better,
        seeds=1 if base.single or variant.single else len(base.seeds),
        scenes=len(images_C),
        images=len(base.images),
        base=level,
        variant=float(variant_SI.mean()),
        mean=mean,
        interval=_interval(draws_R, mean, spread, 1 - ALPHA) if spread else None,
        interval_90=_interval(draws_R, mean, spread, 1 - 2 * ALPHA) if spread else None,
        standard_error=spread.error if spread else None,
        df=spread.df if spread else None,
        p_two_way=spread.p(mean) if spread else None,
        p_sign_flip=p_sign_flip,
        smallest_p=smallest_p,
        p_wilcoxon=_wilcoxon(means_C),
        dz=_dz(mean, means_C),
        improved=_improved(base, variant, lower_is_better),
        margin=margin.of(level) if margin else None,
        detectable=(spread.t(1 - ALPHA / 2) + spread.t(POWER)) * spread.error if spread else None,
    )


def family(differences: Mapping[str, PairedDifference], *, declared: int | None = None) -> dict[str, Finding]:
    """Verdicts on the comparisons of one declared family, their p adjusted by Holm's method for being many.

    "helps" and "hurts" need an adjusted p below 0.05 and a 95 % interval without 0. "equivalent" goes first: a margin
    says what does not matter, so a difference that is surely there and surely smaller is equivalent, with a note.
    Equivalence is judged one comparison at a time, at 5 % each.
    declared: size of the family as it was declared, if some members have no result; they count as p = 1.

    Raises ConfigError if fewer were declared than are given.
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


def a_a_control(base: Scores, *, rng: np.random.Generator, aggregation: Aggregation = "mean") -> AAControl:
    """Sets the base against itself under other seeds, where there is no difference to find.

    The seeds are split into disjoint pairs, one of each "base", the other "variant", in all or up to 500 ways, and
    each split is tested as `compare` tests. (Seeds paired in a circle would cancel: their differences sum to zero.)
    Beside it stands what a t-test over images would have called a difference.

    It can see a test that underrates the noise of this very base (as the one over images mostly does), and seeds that
    did nothing: equal values. It cannot see what acts alike in all seeds, nor, every split having its mirror image,
    whether some of them are special. With five seeds the test has two pairs to judge by, with six as many as a
    comparison of three seeds. The plainest control is the base trained once more under other seeds, and `compare`.
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


def as_averaged(scores: Scores, aggregation: Aggregation) -> Values:
    """Values [S, I] whose mean over images is each seed's reported number.

    A root of a mean square is no mean of images. Its linearisation about that seed's own mean M is (delta method):
    r[i] = √M + (v[i] − M) / (2 √M), which averages to √M exactly. So every statistic lives on the reported scale,
    and images keep their influence on it.

    Raises DataError for a negative square, or a seed whose squares are all zero: √ has no slope there.
    """
    if aggregation == "mean":
        return scores.values_SI
    mean_S1 = scores.values_SI.mean(axis=1, keepdims=True)
    if (scores.values_SI < 0).any() or (mean_S1 == 0).any():
        raise DataError(
            "mean squares per image must not be negative, nor all zero", where=scores.name, hint="check the metric"
        )
    return np.asarray(np.sqrt(mean_S1) + (scores.values_SI - mean_S1) / (2 * np.sqrt(mean_S1)))


def _check_paired(base: Scores, variant: Scores) -> None:
    """Raises DataError unless both have the same seeds, images and scenes, in the same order."""
    for kind in ("seeds", "images", "scenes"):
        ours, theirs = getattr(variant, kind), getattr(base, kind)
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False))
            at = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
            here, there = (repr(names[at]) if at < len(names) else "nothing" for names in (ours, theirs))
            raise DataError(
                f"its {kind} are not those of {base.name}: number {at} is {here}, expected {there}",
                where=variant.name,
                hint="a paired comparison needs the same seeds and the same images, in the same order",
            )


def _by_scene(d_SI: Values, scenes: Sequence[str]) -> tuple[Values, Values]:
    """Sums over the images of each scene [S, C] and their number [C]."""
    _, scene_I = np.unique(np.asarray(scenes), return_inverse=True)
    return np.stack([np.bincount(scene_I, weights=d_I) for d_I in d_SI]), np.bincount(scene_I).astype(np.float64)


def _spread(sums_SC: Values, images_C: Values) -> _Spread | None:
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
    if variance <= (_ROUNDING * np.abs(means_SC).max()) ** 2:
        return _Spread(0.0, S - 1)
    df_scenes = max(np.sum(weight_C**2) ** 2 / np.sum(weight_C**4) - 1, 1.0)
    scenes_share = v_scenes_only / variance
    return _Spread(float(np.sqrt(variance)), float(1 / ((1 - scenes_share) / (S - 1) + scenes_share / df_scenes)))


def _bootstrap(sums_SC: Values, images_C: Values, rng: np.random.Generator, resamples: int) -> Values:
    """Means [R] over drawn seeds and, in all of them, the same drawn scenes."""
    S, C = sums_SC.shape
    draws = []
    for rows in _blocks(resamples, C):
        scenes_RC = _counts(rng, rows, C)
        seeds_RS = _counts(rng, rows, S) / S
        draws.append(((scenes_RC @ sums_SC.T) * seeds_RS).sum(axis=1) / (scenes_RC @ images_C))
    return np.concatenate(draws)


def _counts(rng: np.random.Generator, rows: int, among: int) -> Values:
    """Counts of each of `among` items in as many draws with replacement, for each row."""
    drawn = rng.integers(among, size=(rows, among)) + among * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * among).reshape(rows, among).astype(np.float64)


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Numbers of rows that sum to `rows`, in blocks of bounded size."""
    step = max(1, _BLOCK // columns)
    yield from (min(step, rows - start) for start in range(0, rows, step))


def _interval(draws_R: Values, mean: float, spread: _Spread, level: float) -> Interval:
    """Percentiles of the draws, stretched about the mean to the standard error and to Student's t."""
    from scipy.special import ndtri

    if spread.error == 0:
        return Interval(mean, mean)
    tail = (1 - level) / 2
    stretch = spread.t(1 - tail) * spread.error / (ndtri(1 - tail) * draws_R.std())
    low, high = mean + stretch * (np.quantile(draws_R, [tail, 1 - tail]) - mean)
    return Interval(float(low), float(high))


def _sign_flip(sum_C: Values, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """Two-sided p of the sum over scenes when each scene's sign is a coin's, and the smallest p attainable.

    All flips if they are no more than `resamples` + 1, otherwise random ones with the observed one among them.
    """
    C = len(sum_C)
    bound = abs(sum_C.sum()) - _ROUNDING * np.abs(sum_C).sum()
    if resamples + 1 >= 2**C:
        flipped_RC = np.arange(2**C)[:, None] >> np.arange(C) & 1
        return float(np.mean(np.abs((1 - 2 * flipped_RC) @ sum_C) >= bound)), 2.0 ** (1 - C)
    extreme = 1
    for rows in _blocks(resamples, C):
        flipped_RC = rng.integers(2, size=(rows, C))
        extreme += int(np.count_nonzero(np.abs((1 - 2 * flipped_RC) @ sum_C) >= bound))
    return extreme / (resamples + 1), 1 / (resamples + 1)


def _wilcoxon(means_C: Values) -> float:
    """p of the signed-rank test, zeros ranked with the rest (Pratt 1959)."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(means_C, zero_method="pratt").pvalue) if means_C.any() else 1.0


def _dz(mean: float, means_C: Values) -> float | None:
    """Mean difference in standard deviations of the scene means; None where these do not differ."""
    if len(means_C) == 1 or np.ptp(means_C) <= _ROUNDING * np.abs(means_C).max():
        return None
    return mean / float(means_C.std(ddof=1))


def _improved(base: Scores, variant: Scores, lower_is_better: bool) -> float:
    """Share of images on which the variant's mean over seeds is better; ties count half."""
    gain_I = base.values_SI.mean(axis=0) - variant.values_SI.mean(axis=0)
    return float(np.mean((1 + np.sign(gain_I if lower_is_better else -gain_I)) / 2))


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


def _split(order: NDArray[np.int64]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order's halves as pairs of seeds, written so that equal splits are equal whichever side is called base."""
    P = len(order) // 2
    pairs = sorted(zip(order[:P].tolist(), order[P : 2 * P].tolist(), strict=True), key=min)
    ours, theirs = zip(*pairs, strict=True)
    return (ours, theirs) if ours[0] < theirs[0] else (theirs, ours)


def _test(d_PI: Values, scenes: Sequence[str]) -> tuple[float, float]:
    """p of the two-way test, and of a t-test that takes images for independent and seeds for the only ones."""
    spread = _spread(*_by_scene(d_PI, scenes))
    assert spread is not None  # two pairs and two scenes at least
    d_I = d_PI.mean(axis=0)
    by_images = _Spread(float(d_I.std(ddof=1)) / len(d_I) ** 0.5, len(d_I) - 1)
    return spread.p(float(d_I.mean())), by_images.p(float(d_I.mean()))


def _same(a_I: Values, b_I: Values) -> bool:
    return bool((a_I == b_I).all())
