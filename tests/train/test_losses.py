"""The training loss of §7.2 by hand: Huber on inverse depth, scale-invariant log error per image (R-16, R-17);
and the losses that it is compared with."""

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from spd_bench.train.losses import AbsoluteError, HuberOnly, HuberSilog, LossParts, SilogOnly

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


# losses that it is compared with


@pytest.mark.parametrize("delta", [0.1, 1.0])
def test_huber_alone_is_the_data_term_of_the_paper(delta: float) -> None:
    g = torch.Generator().manual_seed(0)
    truth_m, predicted_m = (torch.rand(2, 3, 5, generator=g, dtype=torch.float64) * 4 + 0.2).unbind()
    alone = HuberOnly(HuberOnly.Config(huber_delta=delta))(predicted_m, truth_m)
    both = loss(huber_delta=delta)(predicted_m, truth_m)
    assert torch.equal(alone.point, both.point)
    assert alone.structure.item() == 0
    assert both.structure.item() > 0.1


def expect_absolute_error(l1: Callable[[Tensor, Tensor], LossParts]) -> None:
    # |2 − 1|, |3 − 3|, |9 − 9.5|, |0.5 − 1|: mean(1, 0, ½, ½) = ½ over queries of both images
    parts = l1(metres([2.0, 3.0], [9.0, 0.5]), metres([1.0, 3.0], [9.5, 1.0]))
    assert parts.point.item() == pytest.approx(1 / 2, rel=0, abs=1e-12)
    assert parts.structure.item() == 0


def test_absolute_error_by_hand() -> None:
    expect_absolute_error(AbsoluteError(AbsoluteError.Config()))
    inverse = torch.nn.L1Loss()  # of 1/m: (½ + 0 + …)/4, not of metres
    with pytest.raises(AssertionError):
        expect_absolute_error(lambda d, t: LossParts(inverse(1 / d, 1 / t), torch.zeros(())))


def test_absolute_error_counts_a_metre_alike_near_and_far() -> None:
    l1 = AbsoluteError(AbsoluteError.Config())
    near, far = l1(metres([2.0]), metres([1.0])), l1(metres([10.0]), metres([9.0]))
    assert near.point.item() == far.point.item() == 1
    # the gradient is the sign of the error, shared among the queries
    predicted_m = metres([2.0, 3.0, 0.5, 9.0]).requires_grad_()
    l1(predicted_m, metres([1.0, 4.0, 0.6, 9.0])).point.backward()
    assert predicted_m.grad is not None
    assert predicted_m.grad.tolist() == [[0.25, -0.25, -0.25, 0]]


@pytest.mark.parametrize("alone", [HuberOnly(HuberOnly.Config()), AbsoluteError(AbsoluteError.Config())])
def test_lambda_si_changes_nothing_without_a_structure_term(alone: Callable[[Tensor, Tensor], LossParts]) -> None:
    """As the training adds them up: L_point + λ_si · L_structure, value and gradient."""

    def trained(of: Callable[[Tensor, Tensor], LossParts], lambda_si: float) -> tuple[float, list[list[float]]]:
        predicted_m = metres([2.0, 0.7], [5.0, 1.0]).requires_grad_()
        parts = of(predicted_m, metres([1.0, 1.0], [4.0, 3.0]))
        total = parts.point + lambda_si * parts.structure
        total.backward()
        assert predicted_m.grad is not None
        return total.item(), predicted_m.grad.tolist()

    assert trained(alone, 0.5) == trained(alone, 0.0) == trained(alone, 100.0)
    assert trained(loss(), 0.5) != trained(loss(), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_loss_gives_two_scalars_in_the_precision_of_the_depths(dtype: torch.dtype) -> None:
    for component in (HuberSilog, HuberOnly, AbsoluteError):
        parts = component(component.Config())(metres([2.0]).to(dtype), metres([1.0]).to(dtype))
        assert {(part.dtype, part.shape) for part in parts} == {(dtype, torch.Size([]))}


def test_huber_alone_refuses_impossible_options() -> None:
    for options in ({"huber_delta": 0.0}, {"lambda_var": 0.5}):
        with pytest.raises(ValidationError, match=next(iter(options))):
            HuberOnly.Config(**options)
    assert HuberOnly.Config().model_dump() == {"huber_delta": HuberSilog.Config().huber_delta}


def test_silog_alone_is_over_the_whole_batch() -> None:
    # e = ln 2 in one image and 0 in the other: mean ln2 / 2, variance ln²2 / 4, so √(1 + 0.15) · ln2 / 2
    predicted_m, truth_m = metres([2.0], [3.0]), metres([1.0], [3.0])
    found = SilogOnly(SilogOnly.Config())(predicted_m, truth_m)
    assert float(found.point) == pytest.approx(math.sqrt(1.15) * math.log(2) / 2, rel=1e-6)
    assert float(found.structure) == 0
    # the wrong twin: L_silog of `huber_silog`, where each image has its own mean: (√0.15 · ln2 + 0) / 2
    per_image = HuberSilog(HuberSilog.Config())(predicted_m, truth_m).structure
    assert float(per_image) == pytest.approx(math.sqrt(0.15) * math.log(2) / 2, abs=1e-4)
