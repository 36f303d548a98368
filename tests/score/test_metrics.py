"""Every metric by hand and against formulas written out here; strictness, scale, and aggregation over images (R-25)."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from spd_bench import registry
from spd_bench.score.metrics import RMSE, AbsRel, Delta1, Delta2, Delta3, Log10, Metric, RMSEPooled, SILog, SqRel

EVERY = [AbsRel, SqRel, RMSE, RMSEPooled, Log10, SILog, Delta1, Delta2, Delta3]
LN2 = math.log(2)

TRUTH_M = np.array([1.0, 2.0])
PREDICTED_M = np.array([2.0, 2.0])

BY_HAND = [
    (AbsRel, 1 / 2),  # (|1 − 2| / 1 + |2 − 2| / 2) / 2 = (1 + 0) / 2
    (SqRel, 1 / 2),  # (1² / 1 + 0² / 2) / 2
    (RMSE, math.sqrt(1 / 2)),  # √((1² + 0²) / 2)
    (RMSEPooled, 1 / 2),  # of one image: (1² + 0²) / 2; the root comes after the mean over images
    (Log10, math.log10(2) / 2),  # (log10 2 + 0) / 2
    (SILog, 50 * LN2),  # e = (ln 2, 0): √(ln²2 / 2 − (ln 2 / 2)²) = √(ln²2 / 4) = ln 2 / 2
    (Delta1, 1 / 2),  # ratios 2 and 1; 2 ≥ 1.25
    (Delta2, 1 / 2),  # 2 ≥ 1.5625
    (Delta3, 1 / 2),  # 2 ≥ 1.953125
]


@pytest.mark.parametrize(("metric", "expected"), BY_HAND)
def test_two_points_by_hand(metric: type[Metric], expected: float) -> None:
    assert metric().of_image(TRUTH_M, PREDICTED_M) == pytest.approx(expected, rel=0, abs=1e-12)


BY_HAND_3 = [
    # g = (1, 2, 4), p = (2, 1, 5): errors 1, 1, 1; ratios 2, 2, 5/4
    (AbsRel, 7 / 12),  # (1 + 1/2 + 1/4) / 3 = (7/4) / 3
    (SqRel, 7 / 12),  # the same, as every error is 1
    (RMSE, 1.0),
    (RMSEPooled, 1.0),
    (Log10, (2 * math.log10(2) + math.log10(5 / 4)) / 3),
    # e = (ln 2, −ln 2, ln 5/4): mean e² − (mean e)² = (2 ln²2 + ln²1.25) / 3 − ln²1.25 / 9
    (SILog, 100 * math.sqrt((2 * LN2**2 + math.log(1.25) ** 2) / 3 - math.log(1.25) ** 2 / 9)),
    (Delta1, 0.0),  # 5/4 is not below 5/4
    (Delta2, 1 / 3),
    (Delta3, 1 / 3),
]


@pytest.mark.parametrize(("metric", "expected"), BY_HAND_3)
def test_three_points_by_hand(metric: type[Metric], expected: float) -> None:
    found = metric().of_image(np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 5.0]))
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("metric", EVERY)
def test_a_perfect_prediction_has_no_error(metric: type[Metric]) -> None:
    expected = 1.0 if metric in (Delta1, Delta2, Delta3) else 0.0
    assert metric().of_image(np.array([0.5, 3.0, 9.9]), np.array([0.5, 3.0, 9.9])) == expected


@pytest.mark.parametrize(("metric", "limit"), [(Delta1, 1.25), (Delta2, 1.25**2), (Delta3, 1.25**3)])
def test_delta_is_strict_on_both_sides(metric: type[Metric], limit: float) -> None:
    one, at = np.array([1.0], np.float32), np.array([limit], np.float32)
    assert metric().of_image(one, at) == 0  # too far by exactly the factor
    assert metric().of_image(at, one) == 0  # too near by exactly the factor
    below = np.nextafter(at, 0)
    assert metric().of_image(one, below) == 1
    assert metric().of_image(below, one) == 1


@pytest.mark.parametrize(
    ("metric", "near", "far", "inside", "in_float64"),
    # pairs up to 10 m whose exact ratio is the limit, so that none is below it; rounding decides
    [(Delta1, 4, 5, 201, 841), (Delta2, 16, 25, 64, 198), (Delta3, 64, 125, 19, 45)],
)
def test_ties_of_millimetres_fall_as_in_float32(
    metric: type[Metric], near: int, far: int, inside: int, in_float64: int
) -> None:
    n = np.arange(1, 10_000 // far + 1)
    truth_m = (near * n).astype(np.uint16).astype(np.float32) / np.float32(1000)  # as loaders of 16-bit PNG do
    predicted_m = (far * n).astype(np.uint16).astype(np.float32) / np.float32(1000)
    ratio = np.maximum(truth_m / predicted_m, predicted_m / truth_m)
    assert ratio.dtype == np.float32
    assert np.count_nonzero(ratio < far / near) == inside
    for g, p in ((truth_m, predicted_m), (truth_m.astype(np.float64), predicted_m.astype(np.float64))):
        assert round(len(n) * metric().of_image(g, p)) == inside
        assert metric().of_image(g, p - 1e-3) == 1  # a millimetre nearer
    # 12 mm and 15 mm as float32: 0.015 / 0.012 rounds to 1.25 itself
    assert Delta1().of_image(np.array([0.012]), np.array([0.015])) == 0
    # negative control: the same depths divided in float64
    g, p = truth_m.astype(np.float64), predicted_m.astype(np.float64)
    assert np.count_nonzero(np.maximum(g / p, p / g) < far / near) == in_float64


def test_silog_does_not_see_scale_and_the_others_do() -> None:
    rng = np.random.default_rng(0)
    truth_m, predicted_m = rng.uniform(1, 8, 100), rng.uniform(1, 8, 100)
    for factor in (0.1, 3.0):
        scaled = SILog().of_image(truth_m, factor * predicted_m)
        assert scaled == pytest.approx(SILog().of_image(truth_m, predicted_m), rel=0, abs=1e-10)
        for metric in (AbsRel(), RMSE(), Log10()):
            assert abs(metric.of_image(truth_m, factor * predicted_m) - metric.of_image(truth_m, predicted_m)) > 0.01
    assert SILog().of_image(truth_m, 2 * truth_m) == pytest.approx(0, abs=1e-12)


def test_silog_is_the_population_form() -> None:
    # e = (0, ln 2): population √(ln²2 / 4) = ln 2 / 2, sample √(ln²2 / 2); DAv2's form with ½ would be √(3/8) ln 2
    found = SILog().of_image(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert found == pytest.approx(50 * LN2, rel=0, abs=1e-12)


def test_rmse_at_one_point_is_the_absolute_error() -> None:
    assert RMSE().of_image(np.array([3.0]), np.array([1.5])) == 1.5


def test_rmse_and_pooled_rmse_part_over_images() -> None:
    # errors: image A (3, 4), image B (0, 0)
    # per image: √(25/2) and 0, mean √(25/2) / 2 = 5 / (2√2);  pooled: √((25/2 + 0) / 2) = 5/2
    images = [(np.array([1.0, 1.0]), np.array([4.0, 5.0])), (np.array([2.0, 2.0]), np.array([2.0, 2.0]))]

    def over_images(metric: Metric) -> float:
        return metric.over_images(np.array([metric.of_image(*image) for image in images]))

    assert over_images(RMSE()) == pytest.approx(5 / (2 * math.sqrt(2)), rel=0, abs=1e-12)
    assert over_images(RMSEPooled()) == pytest.approx(5 / 2, rel=0, abs=1e-12)


def test_pooled_rmse_is_the_rmse_of_all_points_together() -> None:
    rng = np.random.default_rng(1)
    truth_m_IP, predicted_m_IP = rng.uniform(1, 8, (5, 40)), rng.uniform(1, 8, (5, 40))
    metric = RMSEPooled()
    found = metric.over_images(
        np.array([metric.of_image(g, p) for g, p in zip(truth_m_IP, predicted_m_IP, strict=True)])
    )
    assert found == pytest.approx(RMSE().of_image(truth_m_IP.ravel(), predicted_m_IP.ravel()), rel=0, abs=1e-12)


def independent(g: NDArray[np.float64], p: NDArray[np.float64]) -> dict[type[Metric], float]:
    """The formulas of §8 once more, one point at a time and summed exactly."""
    n = len(g)
    points = list(zip(g.tolist(), p.tolist(), strict=True))
    e = [math.log(b) - math.log(a) for a, b in points]

    def mean(values: list[float]) -> float:
        return math.fsum(values) / n

    def share(power: int) -> float:
        return sum(max(a / b, b / a) < 1.25**power for a, b in points) / n

    return {
        AbsRel: mean([abs(a - b) / a for a, b in points]),
        SqRel: mean([(a - b) ** 2 / a for a, b in points]),
        RMSE: math.sqrt(mean([(a - b) ** 2 for a, b in points])),
        RMSEPooled: mean([(a - b) ** 2 for a, b in points]),
        Log10: mean([abs(math.log10(a) - math.log10(b)) for a, b in points]),
        SILog: 100 * math.sqrt(mean([x * x for x in e]) - mean(e) ** 2),
        Delta1: share(1),
        Delta2: share(2),
        Delta3: share(3),
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 64, 5000])
def test_random_depths_against_independent_formulas(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth_m = rng.uniform(0.5, 9.9, count)
    predicted_m = np.clip(truth_m * rng.lognormal(0.05, 0.2, count), 1e-3, 10)
    for metric, expected in independent(truth_m, predicted_m).items():
        found = metric().of_image(truth_m, predicted_m)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), metric
    # negative control: truth and prediction exchanged are another AbsRel
    exchanged = AbsRel().of_image(predicted_m, truth_m)
    assert abs(exchanged - independent(truth_m, predicted_m)[AbsRel]) > 1e-4


GOLDEN = [
    # g = (2, 4, 5), p = (1, 5, 4): errors 1, 1, 1; ratios 2, 5/4, 5/4
    (AbsRel, 19 / 60),  # (1/2 + 1/4 + 1/5) / 3
    (SqRel, 19 / 60),
    (Log10, math.log10(25 / 8) / 3),  # log10 2 + log10 5/4 + log10 5/4
    # e = −ln 2, ln 5/4, −ln 5/4: mean −ln 2 / 3, mean square (ln²2 + 2 ln²(5/4)) / 3
    (SILog, 100 * math.sqrt((LN2**2 + 2 * math.log(5 / 4) ** 2) / 3 - LN2**2 / 9)),
    (Delta1, 0.0),  # 5/4 twice, and 2
    (Delta2, 2 / 3),  # 5/4 < 25/16, 2 is not
    (Delta3, 2 / 3),  # 2 ≥ 125/64
]


@pytest.mark.parametrize(("metric", "expected"), GOLDEN)
def test_golden_fractions(metric: type[Metric], expected: float) -> None:
    found = metric().of_image(np.array([2.0, 4.0, 5.0]), np.array([1.0, 5.0, 4.0]))
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


# public reference code


@pytest.fixture(scope="module")
def depths() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(4)
    truth_m = rng.uniform(0.5, 9.9, 5000)
    return truth_m, np.clip(truth_m * rng.lognormal(0.05, 0.2, 5000), 1e-3, 10)


def public(metric: str, truth: NDArray[np.float64], predicted: NDArray[np.float64], **options: bool) -> float:
    """What torchmetrics finds, in double precision and in batches."""
    import torch
    import torchmetrics

    reference = getattr(torchmetrics, metric)(**options).set_dtype(torch.float64)
    for part in np.array_split(np.arange(len(truth)), 7):
        reference.update(torch.from_numpy(predicted[part]), torch.from_numpy(truth[part]))
    return float(reference.compute())


Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


def test_absrel_and_rmse_agree_with_torchmetrics(depths: Pair) -> None:
    """Both of theirs pool all points, as ours do over the points of one image."""
    assert AbsRel().of_image(*depths) == pytest.approx(public("MeanAbsolutePercentageError", *depths), rel=0, abs=1e-6)
    assert RMSE().of_image(*depths) == pytest.approx(
        public("MeanSquaredError", *depths, squared=False), rel=0, abs=1e-6
    )
    mean_square = public("MeanSquaredError", *depths)
    assert RMSEPooled().of_image(*depths) == pytest.approx(mean_square, rel=0, abs=1e-6)
    # negative control: truth and prediction exchanged, as DenseDepth does
    assert abs(AbsRel().of_image(*depths[::-1]) - public("MeanAbsolutePercentageError", *depths)) > 1e-3


def test_log_metrics_agree_with_torchmetrics_on_logarithms(depths: Pair) -> None:
    """Of logarithms theirs has none of ours: MeanSquaredLogError takes log(1 + d), a different quantity."""
    log10 = public("MeanAbsoluteError", *(np.log10(d) for d in depths))
    assert Log10().of_image(*depths) == pytest.approx(log10, rel=0, abs=1e-6)
    e = np.log(depths[1]) - np.log(depths[0])
    about_mean = public("MeanSquaredError", np.full_like(e, e.mean()), e, squared=False)
    assert SILog().of_image(*depths) == pytest.approx(100 * about_mean, rel=0, abs=1e-6)
    # negative control: their own logarithmic error is none of these
    assert abs(public("MeanSquaredLogError", *depths) - np.mean(e**2)) > 1e-3


@pytest.mark.parametrize("metric", EVERY)
def test_values_are_plain_floats_for_json(metric: type[Metric]) -> None:
    value = metric().of_image(TRUTH_M, PREDICTED_M)
    assert type(value) is float
    assert type(metric().over_images(np.array([value, value]))) is float


def test_what_tables_say_of_each_metric() -> None:
    assert sorted(registry.names("metric")) == sorted(metric.name for metric in EVERY)
    assert all(registry.load("metric", metric.name) is metric for metric in EVERY)
    assert [m.name for m in EVERY if not m.lower_is_better] == ["delta1", "delta2", "delta3"]
    assert [m.name for m in EVERY if m.min_points > 1] == ["silog"]
    assert [m.name for m in EVERY if m.aggregation != Metric.aggregation] == ["rmse_pooled"]
    assert {m.name: m.unit for m in EVERY if m.unit} == dict.fromkeys(["sqrel", "rmse", "rmse_pooled"], "m")
