"""Paired comparisons: every number by hand or against scipy, and error rates on simulated runs with the truth known."""

import csv
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from spd_bench.errors import ConfigError, DataError
from spd_bench.report.stats import (
    Interval,
    Margin,
    PairedDifference,
    Scores,
    a_a_control,
    as_averaged,
    compare,
    control,
    family,
    holm,
    resampling,
)
from spd_bench.score.metrics import RMSEPooled


def scores(values_SI: Any, scenes: Sequence[str], name: str = "variant") -> Scores:
    values_SI = np.asarray(values_SI, np.float64)
    seeds, images = values_SI.shape
    return Scores(
        name=name,
        values_SI=values_SI,
        seeds=tuple(range(seeds)),
        images=tuple(f"image-{i}" for i in range(images)),
        scenes=tuple(scenes),
    )


def difference(d_SI: Any, scenes: Sequence[str], key: int = 0, **options: Any) -> PairedDifference:
    """The comparison of a base that is 1 everywhere with a variant that is 1 + d."""
    base_SI = np.ones_like(np.asarray(d_SI, np.float64))
    options = {"lower_is_better": True, "rng": np.random.default_rng(key)} | options
    return compare(scores(base_SI, scenes, "base"), scores(base_SI + d_SI, scenes), **options)


def t_quantile(level: float, df: float) -> float:
    return float(scipy_stats.t.ppf(level, df))


# --- numbers by hand ------------------------------------------------------------------------------------------------

# scene a has 1 image, b has 3, in an order that is not sorted; rows are seeds
D_SI = [[3, 4, 2, 1], [6, 8, 4, 2]]
SCENES = ["b", "a", "b", "b"]


def test_mean_error_and_df_of_two_seeds_and_two_unequal_scenes() -> None:
    found = difference(D_SI, SCENES)
    # seed means 10/4 = 2.5 and 20/4 = 5, scene means over seeds a: 6, b: (2 + 4)/2 = 3, weights 1/4 and 3/4
    assert (found.seeds, found.scenes, found.images) == (2, 2, 4)
    assert found.mean == pytest.approx(15 / 4)  # (2.5 + 5)/2 = 6/4 + 9/4
    assert (found.base, found.variant) == pytest.approx((1, 1 + 15 / 4))
    # V_seeds = ((2.5 − 3.75)² + (5 − 3.75)²)/1 / 2 = 25/16
    # leverage (C − 1)/C (w/(1 − w))²: a: 1/2 · 1/9 = 1/18, b: 1/2 · 9 = 9/2
    # V_scenes = (6 − 3.75)²/18 + (3 − 3.75)² · 9/2 = 9/32 + 81/32 = 45/16
    # residuals a: ∓3/4, b: ±1/4; V_both = (2 · 9/16/18 + 2 · 1/16 · 9/2)/(2 · 1) = (1/16 + 9/16)/2 = 5/16
    assert found.standard_error == pytest.approx(math.sqrt(25 / 16 + 45 / 16 - 5 / 16))
    # both parts have 1 degree of freedom: for scenes (Σw²)²/Σw⁴ − 1 = (10/16)²/(82/256) − 1 = 9/41, at least 1
    assert found.df == pytest.approx(1)
    # with 1 degree of freedom (Cauchy) P(|t| > x) = 1 − (2/π) atan x
    x = 3.75 / math.sqrt(65 / 16)
    assert found.p_two_way == pytest.approx(1 - 2 / math.pi * math.atan(x))


def test_scene_variance_is_what_leaving_scenes_out_says() -> None:
    # two equal seeds: V_seeds = V_both = 0, and the standard error is the scenes' alone
    sizes = [1, 4, 2, 6, 3]
    scenes = [f"s{c}" for c, size in enumerate(sizes) for _ in range(size)]
    d_I = np.random.default_rng(3).normal(size=sum(sizes))
    without = [d_I[[scene != f"s{c}" for scene in scenes]].mean() for c in range(5)]
    jackknife = math.sqrt(4 / 5 * sum((mean - d_I.mean()) ** 2 for mean in without))
    found = difference([d_I, d_I], scenes)
    assert found.standard_error == pytest.approx(jackknife)
    assert found.standard_error != pytest.approx(d_I.std(ddof=1) / math.sqrt(len(d_I)), rel=0.02)  # images as the unit


def test_df_is_a_mean_weighted_by_shares_of_the_variance() -> None:
    # seeds −1, 0, 1 and scenes −1, 0, 0, 1, no interaction: d = 5 + seed + scene
    d_SI = 5 + np.array([-1, 0, 1])[:, None] + np.array([-1, 0, 0, 1])
    found = difference(d_SI, list("abcd"))
    # V_seeds = 1/3; V_scenes = (2/3)/4 = 1/6: shares 2/3 and 1/3, own degrees 2 and 3
    assert found.standard_error == pytest.approx(math.sqrt(1 / 2))
    assert found.df == pytest.approx(1 / (2 / 3 / 2 + 1 / 3 / 3))  # 9/4
    t = 5 / math.sqrt(1 / 2)
    assert found.p_two_way == pytest.approx(2 * scipy_stats.t.sf(t, 9 / 4))
    assert found.detectable == pytest.approx((t_quantile(0.975, 9 / 4) + t_quantile(0.8, 9 / 4)) * math.sqrt(1 / 2))


def test_seeds_and_scenes_that_cancel_exactly_still_have_a_spread() -> None:
    # all seed means and scene means are 0; residuals ±1: V_both = 1/2 · 4/(S (S − 1))
    assert difference([[1, -1], [-1, 1]], "ab").standard_error == pytest.approx(1)
    assert difference([[1, -1], [-1, 1], [0, 0]], "ab").standard_error == pytest.approx(math.sqrt(1 / 3))


def test_interval_is_the_crossed_bootstrap_stretched_to_the_standard_error_and_student_t() -> None:
    # 4 draws of two seeds × 4 draws of two scenes: 16 equally likely means, each a sum over a number of images
    sums = {"a": [4, 8], "b": [6, 12]}
    images = {"a": 1, "b": 3}
    draws = [
        sum(sums[c][s] for s in seeds for c in drawn) / (2 * sum(images[c] for c in drawn))
        for seeds in itertools.product([0, 1], repeat=2)
        for drawn in itertools.product("ab", repeat=2)
    ]
    found = difference(D_SI, SCENES)
    assert found.interval is not None
    assert found.interval_90 is not None
    # the extreme draws have 1/16 each, more than either tail, so percentiles are the extremes: 2 (b, b) and 8 (a, a)
    assert (min(draws), max(draws)) == (2, 8)
    for interval, level in ((found.interval, 0.975), (found.interval_90, 0.95)):
        stretch = t_quantile(level, 1) * math.sqrt(65 / 16) / (scipy_stats.norm.ppf(level) * np.std(draws))
        # the standard deviation of 9,999 draws has a standard error of about 1 %
        assert interval.low == pytest.approx(3.75 + stretch * (2 - 3.75), abs=0.03 * stretch * 1.75)
        assert interval.high == pytest.approx(3.75 + stretch * (8 - 3.75), abs=0.03 * stretch * 4.25)


def test_interval_has_the_shape_of_scipys_bootstrap_where_only_scenes_vary() -> None:
    d_I = np.random.default_rng(1).exponential(size=30) ** 2  # skewed; every image its own scene
    found = difference([d_I, d_I, d_I], [f"s{i:02}" for i in range(30)])
    assert found.interval is not None
    theirs = scipy_stats.bootstrap(
        (d_I,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    )
    stretch = t_quantile(0.975, 29) / 1.96 * (d_I.std(ddof=1) / math.sqrt(30)) / theirs.standard_error
    expected = [d_I.mean() + stretch * (end - d_I.mean()) for end in theirs.confidence_interval]
    width = expected[1] - expected[0]
    assert found.interval == pytest.approx(expected, abs=0.02 * width)
    # control: the interval is not symmetric, which a t interval would be
    assert found.interval.high - found.mean > 1.1 * (found.mean - found.interval.low)


def test_three_seeds_widen_the_interval_far_beyond_plain_percentiles() -> None:
    # seed means −1, 0, 1 and nothing else: V = 1/3, 2 degrees of freedom; percentiles are −1 and 1 (1/27 > 2.5 %),
    # the draws' variance is 2/3 / 3
    d_SI = np.array([-1, 0, 1])[:, None] + np.zeros(6)
    found = difference(d_SI, "aabbcc")
    half = t_quantile(0.975, 2) * math.sqrt(1 / 3) / (1.96 * math.sqrt(2 / 9))
    assert half > 2.6
    assert found.interval == pytest.approx((-half, half), rel=0.02)


# --- tests over scenes ----------------------------------------------------------------------------------------------


def test_sign_flip_of_three_scenes_by_enumeration() -> None:
    # scene sums 3, 2, −1 (both seeds equal): of 8 sums ±3 ±2 ±1 two each are ±6, ±4, ±2, 0; |4| or more: 4 of 8
    found = difference([[1, 2, 1, 1, -1]] * 2, "aabbc")
    assert found.p_sign_flip == 1 / 2
    assert found.smallest_p == 1 / 4


def test_sign_flip_of_four_scenes_that_agree_is_the_smallest_possible() -> None:
    found = difference([[1, 2, 3, 4]] * 3, "abcd")
    assert found.p_sign_flip == found.smallest_p == 2 / 16  # all plus and all minus


def test_sign_flip_weighs_a_scene_by_its_images() -> None:
    # sums 4, −1, −1 of scenes of 4, 1 and 1 images: 4 − 1 − 1 = 2 and its like, |sum| ≥ 2: all 8
    assert difference([[1, 1, 1, 1, -1, -1]] * 2, "aaaabc").p_sign_flip == 1
    # as means 1, −1, −1 the sums would be ±1 six times and ±3 twice: also 1; with sums 4, 3, 1 they are 8, 6, 2, 0
    assert difference([[1, 1, 1, 1, 3, 1]] * 2, "aaaabc").p_sign_flip == 1 / 4


def test_random_sign_flips_agree_with_all_of_them_and_with_scipy() -> None:
    d_I = np.random.default_rng(4).normal(0.5, 1, 12)
    scenes = [f"s{i:02}" for i in range(12)]
    every = difference([d_I, d_I], scenes)  # 2¹² = 4,096 flips
    some = difference([d_I, d_I], scenes, resamples=3999)
    theirs = scipy_stats.permutation_test(
        (d_I,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert every.p_sign_flip == pytest.approx(theirs.pvalue, abs=1e-12)
    assert 0.02 < every.p_sign_flip < 0.5
    assert some.p_sign_flip != every.p_sign_flip
    # 4 standard errors of a share of 3,999
    assert some.p_sign_flip == pytest.approx(every.p_sign_flip, abs=4 * math.sqrt(0.25 / 3999))
    assert (every.smallest_p, some.smallest_p) == (2 / 4096, 1 / 4000)


def test_wilcoxon_of_scene_means() -> None:
    # means of scenes 1, 2, 3, 4: all positive, 2 of 2⁴ sign patterns as extreme
    assert difference([[0, 2, 2, 3, 4]] * 2, "aabcd").p_wilcoxon == pytest.approx(2 / 16)
    d_SI = np.random.default_rng(5).normal(0.2, 1, (3, 40))
    theirs = scipy_stats.wilcoxon(d_SI.mean(axis=0)).pvalue
    assert difference(d_SI, [f"s{i:02}" for i in range(40)]).p_wilcoxon == pytest.approx(theirs)
    # four zeros have the lowest ranks, so −1, −2, 3, 4 have 5 to 8; of the sums of subsets of these, 6 of 16 are at
    # most 5 + 6: none, 5, 6, 7, 8, 5 + 6. (Without the zeros, ranks 1 to 4: 5 of 16 at most 1 + 2)
    assert difference([[0, 0, 0, 0, -1, -2, 3, 4]] * 2, "abcdefgh").p_wilcoxon == pytest.approx(2 * 6 / 16)
    assert difference([[-1, -2, 3, 4]] * 2, "abcd").p_wilcoxon == pytest.approx(2 * 5 / 16)


# --- sizes ----------------------------------------------------------------------------------------------------------


def test_dz_is_in_standard_deviations_of_scene_means() -> None:
    # scene means over seeds 1, 2, 3: mean 2, standard deviation 1
    assert difference([[0, 1, 2], [2, 3, 4]], "abc").dz == pytest.approx(2)
    assert difference([[1, 1, 1], [2, 2, 2]], "abc").dz is None  # no spread over scenes


@pytest.mark.parametrize(("lower_is_better", "share"), [(True, 1.5 / 4), (False, 2.5 / 4)])
def test_share_improved_counts_ties_half(lower_is_better: bool, share: float) -> None:
    # means over seeds −1, 0, 1, 2: lower on one image, equal on one
    found = difference([[-2, 1, 1, 2], [0, -1, 1, 2]], "aabb", lower_is_better=lower_is_better)
    assert found.improved == share


def test_margin_in_the_metrics_unit_and_relative_to_the_base() -> None:
    base = scores([[2, 4], [4, 6]], "ab", "base")  # mean 4
    for margin, expected in ((Margin(0.1), 0.1), (Margin(0.1, relative=True), 0.4)):
        found = compare(base, base, lower_is_better=True, rng=np.random.default_rng(0), margin=margin)
        assert found.margin == pytest.approx(expected)


# --- the root of a mean square --------------------------------------------------------------------------------------


def test_pooled_rmse_is_linear_on_the_reported_scale_by_hand() -> None:
    # squares 1 and 7: mean 4, root 2; linear: 2 + (1 − 4)/4 and 2 + (7 − 4)/4. Squares 4 and 14: 3 ± 5/6
    base, variant = scores([[1, 7]] * 2, "ab", "base"), scores([[4, 14]] * 2, "ab")
    np.testing.assert_allclose(as_averaged(base, "root_mean_square"), [[1.25, 2.75]] * 2)
    found = compare(base, variant, lower_is_better=True, rng=np.random.default_rng(0), aggregation="root_mean_square")
    assert (found.base, found.variant, found.mean) == pytest.approx((2, 3, 1))
    # d = 3 − 5/6 − 1.25 = 11/12 and 13/12: the standard error of two scenes is half their distance
    assert found.standard_error == pytest.approx(1 / 12)


def test_pooled_rmse_differs_as_the_metric_reports_it() -> None:
    rng = np.random.default_rng(6)
    base, variant = (rng.exponential(size=(3, 50)) for _ in range(2))
    scenes = [f"s{i // 2}" for i in range(50)]
    found = compare(
        scores(base, scenes, "base"),
        scores(variant, scenes),
        lower_is_better=True,
        rng=rng,
        aggregation="root_mean_square",
    )
    reported = [np.mean([RMSEPooled().over_images(row) for row in values]) for values in (base, variant)]
    assert (found.base, found.variant) == pytest.approx(reported)
    assert found.mean == pytest.approx(reported[1] - reported[0])


def test_pooled_rmse_has_the_spread_of_a_bootstrap_of_the_whole_number() -> None:
    rng = np.random.default_rng(7)
    base_I = rng.exponential(4, 200)
    variant_I = base_I * rng.lognormal(0.1, 0.3, 200)
    drawn = rng.integers(200, size=(4000, 200))
    aggregate = np.sqrt(variant_I[drawn].mean(axis=1)) - np.sqrt(base_I[drawn].mean(axis=1))
    found = compare(
        scores([base_I] * 3, [f"s{i}" for i in range(200)], "base"),
        scores([variant_I] * 3, [f"s{i}" for i in range(200)]),
        lower_is_better=True,
        rng=rng,
        aggregation="root_mean_square",
    )
    assert found.standard_error == pytest.approx(aggregate.std(), rel=0.06)
    squares = difference([variant_I - base_I] * 3, [f"s{i}" for i in range(200)])  # control: on the scale of squares
    assert squares.standard_error == pytest.approx(4 * aggregate.std(), rel=0.3)  # d√M = dM / (2 √M), √M ≈ 2


@pytest.mark.parametrize("squares", [[[1, -1], [1, 2]], [[0, 0], [1, 2]]])
def test_impossible_squares_are_refused(squares: Any) -> None:
    base = scores([[1, 2], [1, 2]], "ab", "base")
    with pytest.raises(DataError, match=r"variant: mean squares per image must not be negative, nor all zero"):
        compare(
            base,
            scores(squares, "ab"),
            lower_is_better=True,
            rng=np.random.default_rng(0),
            aggregation="root_mean_square",
        )


# --- what cannot be judged, and what is refused ---------------------------------------------------------------------


def test_one_seed_or_one_scene_has_no_interval_and_no_p() -> None:
    for found in (difference([[1, 2, 3]], "abc"), difference([[1, 2, 3]] * 5, "aaa")):
        assert found.mean == pytest.approx(2)
        assert (found.interval, found.standard_error, found.p, found.detectable) == (None, None, None, None)
        assert family({"x": found})["x"].verdict == "exploratory"


def test_two_seeds_have_an_interval_but_no_verdict() -> None:
    found = difference(np.full((2, 30), 5) + np.random.default_rng(0).normal(size=30), [f"s{i}" for i in range(30)])
    assert found.interval is not None
    assert not found.interval.holds(0)
    finding = family({"x": found})["x"]
    assert (finding.verdict, finding.note) == ("exploratory", "2 seeds, 30 scenes: no verdict")


def test_equal_values_are_no_difference() -> None:
    found = difference(np.zeros((3, 8)), "aabbccdd", margin=Margin(0.01))
    assert (found.mean, found.interval, found.p, found.p_wilcoxon) == (0, (0, 0), 1, 1)
    assert (found.improved, found.dz) == (0.5, None)
    assert family({"x": found})["x"].verdict == "equivalent"
    assert family({"x": replace(found, margin=None)})["x"].verdict == "inconclusive"


def test_the_same_shift_everywhere_is_certain_but_for_the_scenes() -> None:
    found = difference(np.full((3, 6), 0.1), "abcdef")
    assert found.standard_error == 0  # rounding is not a spread
    assert found.interval == pytest.approx((0.1, 0.1))
    assert (found.p_two_way, found.p) == (0, 2 / 64)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError, match=r"variant: 1 of 6 values are not finite, the first .* seed 1, image image-2"):
        scores([[1, 2, 3], [1, 2, bad]], "abc")


def test_values_of_another_shape_are_refused() -> None:
    for values, scenes in ((np.ones((2, 3)), "ab"), (np.ones((3, 2)), "abc"), (np.ones(3), "abc")):
        with pytest.raises(DataError, match="expected one value per seed and image"):
            Scores(name="x", values_SI=values, seeds=(0, 1), images=("i", "j", "k"), scenes=tuple(scenes))
    with pytest.raises(DataError, match="expected one value per seed and image"):
        Scores(name="x", values_SI=np.ones((0, 1)), seeds=(), images=("i",), scenes=("a",))


def test_a_seed_or_an_image_that_is_there_twice_is_refused() -> None:
    good = scores([[1, 2], [3, 4]], "ab")
    with pytest.raises(DataError, match="seed 0 is there twice"):
        replace(good, seeds=(0, 0))
    with pytest.raises(DataError, match="image i is there twice"):
        replace(good, images=("i", "i"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": (0, 2)}, "its seeds are not those of base: number 1 is 2, expected 1"),
        ({"images": ("image-1", "image-0")}, "its images are not those of base: number 0 is 'image-1'"),
        ({"scenes": ("a", "a")}, "its scenes are not those of base: number 1 is 'a', expected 'b'"),
        ({"seeds": (0,), "values_SI": np.ones((1, 2))}, "its seeds .*: number 1 is nothing, expected 1"),
    ],
)
def test_another_pairing_is_refused(change: dict[str, Any], message: str) -> None:
    base = scores([[1, 2], [3, 4]], "ab", "base")
    with pytest.raises(DataError, match=message):
        compare(base, replace(base, name="variant", **change), lower_is_better=True, rng=np.random.default_rng(0))


@pytest.mark.parametrize("amount", [0, -0.1, math.nan, math.inf])
def test_a_margin_must_be_positive_and_finite(amount: float) -> None:
    with pytest.raises(ConfigError, match="a margin must be positive and finite"):
        Margin(amount)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(ConfigError, match="50 resamples are too few"):
        difference(D_SI, SCENES, resamples=50)


# --- same in, same out ----------------------------------------------------------------------------------------------


def noisy(seeds: int = 3, key: int = 8) -> tuple[NDArray[np.float64], list[str]]:
    rng = np.random.default_rng(key)
    scenes = [f"s{i // 3:02}" for i in range(60)]
    return 0.3 + rng.normal(0, 0.1, (seeds, 1)) + rng.normal(0, 1, 60) + rng.normal(0, 0.3, (seeds, 60)), scenes


def test_equal_keys_give_equal_results_and_another_key_another_interval_alone() -> None:
    d_SI, scenes = noisy()
    first, again, other = (difference(d_SI, scenes, key) for key in (0, 0, 1))
    assert first == again
    assert first.interval is not None
    assert first.interval != other.interval
    assert first.interval == pytest.approx(other.interval, abs=0.05 * (first.interval.high - first.interval.low))
    assert first.p_sign_flip != other.p_sign_flip
    drawn = {"interval", "interval_90", "p_sign_flip"}
    assert all(getattr(first, name) == getattr(other, name) for name in first.__dataclass_fields__ if name not in drawn)


def test_blocks_of_draws_are_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    d_SI, scenes = noisy()
    whole = difference(d_SI, scenes)
    monkeypatch.setattr(resampling, "BLOCK", 700)
    parts = difference(d_SI, scenes)
    assert whole.interval is not None
    assert parts.interval == pytest.approx(whole.interval, abs=0.05 * (whole.interval.high - whole.interval.low))
    assert parts.p_sign_flip == pytest.approx(whole.p_sign_flip, abs=0.02)


def test_exchanging_base_and_variant_mirrors_everything() -> None:
    d_SI, scenes = noisy()
    there, back = difference(d_SI, scenes), difference(-d_SI, scenes)
    assert there.interval is not None
    assert back.interval == pytest.approx((-there.interval.high, -there.interval.low))
    assert (back.mean, back.improved, back.p) == pytest.approx((-there.mean, 1 - there.improved, there.p))


# --- families and verdicts ------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # sorted 0.005 · 4 = 0.02, 0.01 · 3 = 0.03, 0.03 · 2 = 0.06, 0.04 · 1 = 0.04 but not less than 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1, 1]  # 0.6 · 2 > 1
    assert holm([]) == []


SURE = PairedDifference(
    lower_is_better=True,
    seeds=5,
    scenes=40,
    images=80,
    base=1,
    variant=1.3,
    mean=0.3,
    interval=Interval(0.1, 0.5),
    interval_90=Interval(0.15, 0.45),
    standard_error=0.1,
    df=20,
    p_two_way=0.01,
    p_sign_flip=0.002,
    smallest_p=0.0001,
    p_wilcoxon=0.01,
    dz=0.5,
    improved=0.3,
    margin=None,
    detectable=0.3,
)
UNSURE = replace(SURE, interval=Interval(-0.1, 0.7), interval_90=Interval(-0.05, 0.65), p_two_way=0.2)


@pytest.mark.parametrize(
    ("one", "verdict", "note"),
    [
        (SURE, "hurts", ""),
        (replace(SURE, lower_is_better=False), "helps", ""),
        (replace(SURE, mean=-0.3, interval=Interval(-0.5, -0.1)), "helps", ""),
        (replace(SURE, mean=-0.3, interval=Interval(-0.5, -0.1), lower_is_better=False), "hurts", ""),
        (UNSURE, "inconclusive", ""),
        (replace(UNSURE, margin=0.66), "equivalent", ""),
        (replace(UNSURE, margin=0.65), "inconclusive", ""),  # a limit on the margin is not inside it
        (replace(UNSURE, margin=0.66, interval_90=Interval(-0.66, 0.05)), "inconclusive", ""),
        (replace(SURE, margin=0.46), "equivalent", "a difference is there, but smaller than the margin"),
        (replace(SURE, margin=0.44), "hurts", ""),
        (replace(SURE, p_two_way=0.06), "inconclusive", "the interval excludes 0, but p = 0.06 after Holm over 1"),
        (replace(SURE, p_sign_flip=0.06), "inconclusive", "the interval excludes 0, but p = 0.06 after Holm over 1"),
        (replace(UNSURE, p_two_way=0.01), "inconclusive", ""),
        (
            replace(SURE, scenes=5, p_sign_flip=2 / 32, smallest_p=2 / 32),
            "inconclusive",
            "5 scenes cannot give a smaller p than 0.062",
        ),
        (replace(SURE, seeds=2, margin=0.46), "exploratory", "2 seeds, 40 scenes: no verdict"),
    ],
)
def test_verdicts(one: PairedDifference, verdict: str, note: str) -> None:
    finding = family({"x": one})["x"]
    assert (finding.verdict, finding.note) == (verdict, note)


def test_a_family_adjusts_every_p_for_all_members() -> None:
    found = family({"a": SURE, "b": replace(SURE, p_two_way=0.03), "c": UNSURE})
    # 0.01 · 3, 0.03 · 2, 0.2 · 1
    assert [finding.p_adjusted for finding in found.values()] == pytest.approx([0.03, 0.06, 0.2])
    assert [finding.verdict for finding in found.values()] == ["hurts", "inconclusive", "inconclusive"]
    assert found["b"].note == "the interval excludes 0, but p = 0.06 after Holm over 3"


def test_a_family_may_be_too_large_for_few_scenes() -> None:
    one = replace(SURE, scenes=6, p_sign_flip=2 / 64, smallest_p=2 / 64)
    assert family({"a": one})["a"].verdict == "hurts"  # 2/64 < 0.05
    assert family({"a": one, "b": one})["a"].note == "6 scenes cannot give a smaller p than 0.031"  # 4/64 > 0.05


def test_members_without_a_result_count_in_a_declared_family() -> None:
    assert family({"a": SURE}, declared=5)["a"].p_adjusted == pytest.approx(0.05)
    without = replace(SURE, p_two_way=None, interval=None)
    assert family({"a": SURE, "b": without})["a"].p_adjusted == pytest.approx(0.02)
    assert family({"a": SURE, "b": without})["b"].p_adjusted is None
    with pytest.raises(ConfigError, match="a family of 1 was declared, 2 comparisons are given"):
        family({"a": SURE, "b": UNSURE}, declared=1)


def test_a_difference_that_one_seed_alone_makes_is_not_called_one() -> None:
    # every scene agrees, so over new scenes and these very seeds it is certain; over new seeds it is not
    d_SI = np.random.default_rng(9).normal(0, 0.01, (5, 200)) + np.array([1, 0, 0, 0, 0])[:, None]
    found = difference(d_SI, [f"s{i}" for i in range(200)])
    assert found.p_sign_flip == found.smallest_p == 1 / 10_000
    assert found.p_wilcoxon < 1e-10
    assert found.p is not None
    assert found.p > 0.3  # the seeds' t is (1/5) / (√(1/5)/√5) = 1 with 4 degrees of freedom: 0.37
    assert family({"x": found})["x"].verdict == "inconclusive"
    everywhere = difference(
        d_SI * 0 + 0.2 + np.random.default_rng(9).normal(0, 0.01, (5, 200)), [*map(str, range(200))]
    )
    assert family({"x": everywhere})["x"].verdict == "hurts"  # control: as large a mean, in all seeds


# --- the base against itself ----------------------------------------------------------------------------------------


def runs(seeds: int, key: int = 10) -> Scores:
    """A base whose seeds differ in their overall error far more than images would tell."""
    rng = np.random.default_rng(key)
    scenes = [f"s{i // 3:02}" for i in range(120)]
    return scores(
        1 + rng.normal(0, 0.4, 120) + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.1, (seeds, 120)), scenes
    )


def a_a(base: Scores, **options: Any) -> control.AAControl:
    return a_a_control(base, rng=np.random.default_rng(0), **options)


@pytest.mark.parametrize(("seeds", "splits"), [(5, 30), (6, 60)])
def test_the_base_does_not_differ_from_itself(seeds: int, splits: int) -> None:
    found = a_a(runs(seeds))
    # seeds!/(left over! · pairs! · 2): 5!/(1 · 2 · 2) and 6!/(1 · 6 · 2) different splits, all of them tried
    assert found.splits == splits
    assert found.passed
    assert found.found_by_images > 0.4 * splits  # what a test that knows no seeds would have said
    assert found.reason == (
        f"base against base differed in {found.found} of {splits} splits of its {seeds} seeds (limit 20%); "
        f"a t-test over images would have said so in {found.found_by_images}"
    )


def test_the_control_fails_a_test_that_forgets_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = control.spread_of

    def of_scenes_alone(sums_SC: Any, images_C: Any) -> Any:
        return whole(np.stack([sums_SC.mean(axis=0)] * len(sums_SC)), images_C)

    monkeypatch.setattr(control, "spread_of", of_scenes_alone)
    assert a_a(runs(6)).passed is False


def test_many_seeds_are_split_in_some_ways() -> None:
    found = a_a(runs(12))
    assert 450 < found.splits <= control.CONTROL_SPLITS
    assert found.passed


def test_the_control_of_squares_is_on_the_reported_scale() -> None:
    base = runs(6)
    squares = replace(base, values_SI=base.values_SI**2)
    assert a_a(squares, aggregation="root_mean_square").passed


def test_seeds_that_did_nothing_fail_the_control() -> None:
    values_SI = runs(5).values_SI.copy()
    values_SI[3] = values_SI[1]
    found = a_a(replace(runs(5), values_SI=values_SI))
    assert found.passed is False
    assert found.reason == "seeds 1 and 3 gave the same value on every image: they are not two runs"


def test_too_few_seeds_or_scenes_cannot_be_controlled() -> None:
    assert a_a(runs(3)).passed is None
    assert a_a(runs(3)).reason == "not run: it needs 5 seeds and 2 scenes, there are 3 and 40"
    assert a_a(replace(runs(6), scenes=("a",) * 120)).passed is None


# --- simulated runs with the truth known ----------------------------------------------------------------------------
#
# Errors of two compositions on NYU's 654 test images in 215 scenes, in units of the base's mean error: an image's
# difficulty varies by 40 % (the same for both), each trained model is off by 1.5 % as a whole and by 10 % per image,
# and the variant differs from the base by 10 % per image in a way that all its seeds share. All per-image parts have
# a correlation of 0.3 within scenes. Measured once with 2,000 repeats (standard errors up to 0.011), margin 0.1:
#
#   seeds  effect  hurts  helps  equivalent  95 % holds  t-test over images: a difference, equivalent
#     3     0      0.033  0.023    0.996       0.937          0.480                       1.000
#     3     0.1    0.942  0        0.047       0.944          1.000                       0.285
#     5     0      0.020  0.031    1.000       0.945          0.449                       1.000
#     5     0.1    1.000  0        0.052       0.948          1.000                       0.244
#     5     0.038  0.737  0        0.998       0.951          0.993                       1.000

REPEATS = 400


@cache
def nyu_scenes() -> tuple[str, ...]:
    with (files("spd_bench.data.sets") / "nyu_scenes.csv").open(encoding="utf-8") as table:
        return tuple(row["scene"] for row in csv.DictReader(table) if row["split"] == "test")


@cache
def scene_numbers() -> NDArray[np.int64]:
    return np.unique(nyu_scenes(), return_inverse=True)[1]


def per_image(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Standard normal noise per image with a correlation of 0.3 within scenes."""
    number_I = scene_numbers()
    scene = rng.standard_normal((*shape, number_I.max() + 1))[..., number_I]
    return math.sqrt(0.3) * scene + math.sqrt(0.7) * rng.standard_normal((*shape, len(number_I)))


def simulated(seeds: int, effect: float) -> Iterator[tuple[Scores, Scores, np.random.Generator]]:
    for repeat in range(REPEATS):
        rng = np.random.default_rng((repeat, seeds, round(1000 * effect)))
        difficulty_I = 1 + 0.4 * per_image(rng)
        shared_I = effect + 0.1 * per_image(rng)
        base_SI, variant_SI = (
            difficulty_I + own + 0.015 * rng.standard_normal((seeds, 1)) + 0.1 * per_image(rng, seeds)
            for own in (0, shared_I)
        )
        yield scores(base_SI, nyu_scenes(), "base"), scores(variant_SI, nyu_scenes()), rng


@cache
def rates(seeds: int, effect: float, margin: float = 0.1) -> dict[str, float]:
    """How often each verdict is given without a margin, equivalence with it, and the interval holds the truth."""
    seen: Counter[str] = Counter()
    detectable = 0.0
    for base, variant, rng in simulated(seeds, effect):
        found = compare(base, variant, lower_is_better=True, rng=rng, margin=Margin(margin), resamples=399)
        assert found.interval is not None
        assert found.detectable is not None
        seen[family({"x": replace(found, margin=None)})["x"].verdict] += 1
        seen["equivalent"] += found.equivalent
        seen["covered"] += found.interval.holds(effect)
        d_I = (variant.values_SI - base.values_SI).mean(axis=0)
        error = d_I.std(ddof=1) / math.sqrt(len(d_I))
        seen["naive"] += abs(d_I.mean()) > 1.96 * error
        seen["naive_equivalent"] += abs(d_I.mean()) + 1.645 * error < margin
        detectable += found.detectable
    return {name: count / REPEATS for name, count in seen.items()} | {"detectable": detectable / REPEATS}


def within_chance(rate: float) -> float:
    """`rate` and two standard errors of a share of that many repeats."""
    return rate + 2 * math.sqrt(rate * (1 - rate) / REPEATS)


def at(of: dict[str, float], *names: str) -> float:
    return sum(of.get(name, 0.0) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_without_an_effect_a_difference_is_called_rarely(seeds: int) -> None:
    found = rates(seeds, 0.0)
    assert at(found, "helps", "hurts") <= within_chance(0.05) <= 0.1
    assert found["naive"] >= 0.3  # control: images as the unit and seeds as the only ones


def small_runs(rng: np.random.Generator, effects: Sequence[float]) -> list[Scores]:
    """A base and variants as above, on 60 images of 20 scenes and 5 seeds; every variant has the base's difficulty."""
    scenes = [f"s{i // 3:02}" for i in range(60)]

    def noise(*shape: int) -> NDArray[np.float64]:
        scene = np.repeat(rng.standard_normal((*shape, 20)), 3, axis=-1)
        return math.sqrt(0.3) * scene + math.sqrt(0.7) * rng.standard_normal((*shape, 60))

    difficulty_I = 1 + 0.4 * noise()
    own_I = [0 * difficulty_I, *(effect + 0.1 * noise() for effect in effects)]
    return [
        scores(difficulty_I + own + 0.015 * rng.standard_normal((5, 1)) + 0.1 * noise(5), scenes, f"variant {n}")
        for n, own in enumerate(own_I)
    ]


def errors_in_families(effects: Sequence[float]) -> tuple[float, float]:
    """Share of simulated families in which a variant without an effect is said to help or hurt; and without Holm."""
    wrong = [0, 0]
    for repeat in range(REPEATS):
        rng = np.random.default_rng((repeat, len(effects)))
        base, *variants = small_runs(rng, effects)
        differences = {
            variant.name: compare(base, variant, lower_is_better=True, rng=rng, resamples=399) for variant in variants
        }
        together = family(differences)
        alone = {name: family({name: found})[name] for name, found in differences.items()}
        for way, found in enumerate((together, alone)):
            judged = zip(found.values(), effects, strict=True)
            wrong[way] += any(finding.verdict in ("helps", "hurts") for finding, effect in judged if not effect)
    return wrong[0] / REPEATS, wrong[1] / REPEATS


@pytest.mark.slow
def test_a_whole_family_without_an_effect_is_wrong_rarely() -> None:
    nothing = [0.0] * 6
    adjusted, unadjusted = errors_in_families(nothing)
    assert adjusted <= within_chance(0.05) <= 0.1
    assert unadjusted >= 0.1  # control: without Holm six chances add up
    assert errors_in_families([0.15, *nothing[1:]])[0] <= within_chance(0.05)  # nor with an effect beside them


@pytest.mark.slow
def test_a_base_without_a_fault_passes_its_control() -> None:
    failed = 0
    for repeat in range(REPEATS):
        rng = np.random.default_rng((repeat, 77))
        (base,) = small_runs(rng, [])
        failed += a_a_control(base, rng=rng).passed is False
    assert failed / REPEATS <= 0.02  # one of 1,000 is due


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("planted", [False, True])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds: int, planted: bool) -> None:
    assert 0.92 <= rates(seeds, 0.1 if planted else 0.0)["covered"] <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_planted_effect_is_found_and_never_the_wrong_way(seeds: int) -> None:
    found = rates(seeds, 0.1)
    assert at(found, "hurts") >= 0.8
    assert at(found, "helps") == 0


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_equivalence_is_declared_for_no_effect_and_not_at_the_margin(seeds: int) -> None:
    assert rates(seeds, 0.0)["equivalent"] >= 0.9
    at_margin = rates(seeds, 0.1)
    assert at_margin["equivalent"] <= within_chance(0.05)
    assert at_margin["naive_equivalent"] >= 0.15  # control


@pytest.mark.slow
def test_the_detectable_effect_is_found_in_four_cases_of_five() -> None:
    found = rates(5, 0.038)
    assert found["detectable"] == pytest.approx(0.038, rel=0.05)
    assert at(found, "hurts") == pytest.approx(0.8, abs=0.07)
