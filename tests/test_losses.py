"""The training loss of §7.2 by hand: Huber on inverse depth, scale-invariant log error per image (R-16, R-17)."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from spd_bench.losses import HuberSilog

LN2 = math.log(2)


def loss(**options: float) -> HuberSilog:
    return HuberSilog(HuberSilog.Config(**options))


def metres(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_huber_inside_its_quadratic_zone() -> None:
    # inverse depths 1/2 − 1/1 = −½ and 1/4 − 1/4 = 0: mean(½·¼, 0) = 1/16
    parts = loss()(metres([2.0, 4.0]), metres([1.0, 4.0]))
    assert parts.point.item() == pytest.approx(1 / 16, rel=0, abs=1e-12)


def test_huber_beyond_its_quadratic_zone() -> None:
    # δ = 0.1, difference 1/1 − 1/2 = ½: δ(|x| − δ/2) = 0.1·(0.5 − 0.05) = 0.045
    parts = loss(huber_delta=0.1)(metres([1.0]), metres([2.0]))
    assert parts.point.item() == pytest.approx(0.045, rel=0, abs=1e-12)
    # the threshold 1 of R-16 is left only by depths below 1 m: 1/0.25 − 1/1 = 3: 1·(3 − ½) = 2.5
    assert loss()(metres([0.25]), metres([1.0])).point.item() == pytest.approx(2.5, rel=0, abs=1e-12)


def test_huber_measures_inverse_depth_not_depth() -> None:
    # 1 m of error at 9 m is 1/10 − 1/9 = −1/90, at 1 m it is −½
    near, far = loss()(metres([2.0]), metres([1.0])), loss()(metres([10.0]), metres([9.0]))
    assert near.point.item() == pytest.approx(1 / 8, rel=0, abs=1e-12)
    assert far.point.item() == pytest.approx(1 / 16200, rel=0, abs=1e-12)


def test_huber_is_a_mean_over_queries_of_all_images() -> None:
    # differences ½ in one of six: ½·¼ / 6 = 1/48
    parts = loss()(metres([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]), metres([2.0, 1.0, 1.0], [1.0, 1.0, 1.0]))
    assert parts.point.item() == pytest.approx(1 / 48, rel=0, abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.85, 1.0])
def test_silog_by_hand(weight: float) -> None:
    # e = (ln 2, 0): mean e² = ln²2 / 2, (mean e)² = ln²2 / 4
    parts = loss(lambda_var=weight)(metres([2.0, 3.0]), metres([1.0, 3.0]))
    expected = math.sqrt(LN2**2 * (1 / 2 - weight / 4) + 1e-8)
    assert parts.structure.item() == pytest.approx(expected, rel=0, abs=1e-12)


def test_silog_is_per_image_then_mean() -> None:
    # image A: e = (ln 2, 0), image B: e = (0, 0)
    # per image: (√(ln²2 (½ − 0.85/4) + 1e-8) + √1e-8) / 2; pooled, it would be √(ln²2 (¼ − 0.85/16) + 1e-8)
    parts = loss()(metres([2.0, 3.0], [5.0, 5.0]), metres([1.0, 3.0], [5.0, 5.0]))
    expected = (math.sqrt(LN2**2 * (1 / 2 - 0.85 / 4) + 1e-8) + 1e-4) / 2
    pooled = math.sqrt(LN2**2 * (1 / 4 - 0.85 / 16) + 1e-8)
    assert parts.structure.item() == pytest.approx(expected, rel=0, abs=1e-12)
    assert abs(expected - pooled) > 0.1


def test_silog_forgives_scale_as_far_as_its_weight_says() -> None:
    # every e = ln 2: mean e² − λ (mean e)² = (1 − λ) ln²2
    truth_m = metres([1.0, 2.0, 4.0])
    for weight, expected in ((1.0, 1e-4), (0.85, math.sqrt(0.15 * LN2**2 + 1e-8))):
        parts = loss(lambda_var=weight)(2 * truth_m, truth_m)
        assert parts.structure.item() == pytest.approx(expected, rel=0, abs=1e-9)


def test_gradient_is_finite_at_zero_error() -> None:
    truth_m = metres([1.0, 2.5], [3.0, 0.5])
    predicted_m = truth_m.clone().requires_grad_()
    parts = loss()(predicted_m, truth_m)
    (parts.point + parts.structure).backward()
    assert parts.point.item() == 0
    assert parts.structure.item() == pytest.approx(1e-4, rel=0, abs=1e-15)
    assert torch.isfinite(predicted_m.grad).all()


def test_gradients_against_numerical_differences() -> None:
    g = torch.Generator().manual_seed(0)
    truth_m, predicted_m = (torch.rand(2, 3, 5, generator=g, dtype=torch.float64) * 4 + 0.5).unbind()
    predicted_m.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: tuple(loss(huber_delta=0.3)(p, truth_m)), predicted_m)


def test_precision_is_that_of_the_depths() -> None:
    for dtype in (torch.float32, torch.float64):
        parts = loss()(metres([2.0]).to(dtype), metres([1.0]).to(dtype))
        assert {part.dtype for part in parts} == {dtype}
        assert {part.shape for part in parts} == {torch.Size([])}


def test_defaults_are_the_readings() -> None:
    assert HuberSilog.Config().model_dump() == {"huber_delta": 1.0, "lambda_var": 0.85}


@pytest.mark.parametrize("options", [{"huber_delta": 0.0}, {"lambda_var": 1.5}, {"lambda_var": -0.1}, {"delta": 1.0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(options))):
        HuberSilog.Config(**options)
