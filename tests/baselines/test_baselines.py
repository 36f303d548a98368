"""Baselines of §8 (R-27, R-28): what each computes, by hand or against another way to compute it."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from spd_baselines.alignment import (
    DEPTH_FLOOR_M,
    DISPARITY_FLOOR,
    FITS,
    AffineDepth,
    AffineDisparity,
    Unaligned,
    lsq_depth,
    lsq_disparity,
    median,
)
from spd_baselines.bilinear_mlp import BilinearMLP
from spd_baselines.constant import Constant
from spd_baselines.dav2_dense import DAv2Dense
from spd_baselines.dav2_metric_indoor import DAv2MetricIndoor
from spd_baselines.dpt_head import SIZES, DPTHead, read_map
from spd_baselines.dpt_trained import DPTTrained
from spd_baselines.output import EPSILON, INITIAL_BIAS, calibrated_inverse_depth, depth_of
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import ConfigError, DataError, StateError
from spd_bench.model import compose

MODELS = (BilinearMLP, Constant, DPTTrained, DAv2Dense, DAv2MetricIndoor)


class Stub(Encoder):
    """Four fixed linear maps of 14×14 patches; carries a depth head from random numbers, as dav2_small does."""

    def __init__(self, channels: int = 384, release: str = "relative") -> None:
        super().__init__()
        self.config = ComponentConfig()
        self.channels = channels
        self.release = release
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", 0.1 * torch.randn(4, channels, 3, 14, 14, generator=generator))

    def forward(self, image_B3HW: Tensor) -> Features:
        filters = self.get_buffer("filters")
        image = image_B3HW.to(filters.dtype)
        a, b, c, d = (F.conv2d(image, filter_, stride=14).permute(0, 2, 3, 1) for filter_ in filters)
        return Features((a, b, c, d))

    def digest(self) -> str:
        return "0" * 64

    def depth_head_state(self) -> Mapping[str, Tensor]:
        """Initial weights, but for a last layer whose map varies and stays positive."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            state: dict[str, Tensor] = DPTHead(channels=self.channels, output=nn.ReLU()).state_dict()
        state["head.conv3.weight"] *= 30
        state["head.conv3.bias"] += 2
        return state


class Headless(Stub):
    depth_head_state = None  # type: ignore[assignment]


def build(cls: type[PointDepthModel], encoder: Encoder | None = None, **options: Any) -> PointDepthModel:
    config = cls.Config(**options)
    own = cls.own_encoder(config) or {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return cls(config, encoder or Stub(release=own.get("release", "relative")))  # type: ignore[call-arg]


def ready(cls: type[PointDepthModel]) -> PointDepthModel:
    model = build(cls)
    model.fit_prior(torch.tensor([1.0, 2.0, 4.0]))
    return model.eval()


def picture(batch: int = 2, height: int = 56, width: int = 70) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3))


def points(batch: int, count: int) -> Tensor:
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(4))


def scene_of(model: PointDepthModel, image: Tensor) -> object:
    scene = model.prepare(model.encode(image))
    if model.gt_aligned:
        xy = points(len(image), 50).to(image)
        model.fit_alignment(scene, xy, 1.0 + xy[..., 0] + xy[..., 1])
    return scene


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


# ------------------------------------------------------------------- every baseline


@pytest.mark.parametrize("cls", MODELS)
def test_the_harness_accepts_it_on_the_meta_device(cls: type[PointDepthModel]) -> None:
    compose.check(build(cls), name=cls.__name__, image_size=(56, 70))


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("size", [(56, 70), (70, 42)])
def test_depth_is_positive_finite_and_shaped(cls: type[PointDepthModel], size: tuple[int, int]) -> None:
    model = ready(cls)
    corners = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).expand(2, -1, -1)
    with torch.no_grad():
        depth = model.decode(scene_of(model, picture(2, *size)), torch.cat([points(2, 6), corners], dim=1))
    assert depth.shape == (2, 9)
    assert bool((depth.isfinite() & (depth > 0)).all())


@pytest.mark.parametrize("cls", MODELS)
def test_points_and_images_do_not_see_each_other(cls: type[PointDepthModel]) -> None:
    model, image, xy = ready(cls).double(), picture().double(), points(2, 7).double()
    with torch.no_grad():
        scene = scene_of(model, image)
        together = model.decode(scene, xy)
        backwards = model.decode(scene, xy.flip(1)).flip(1)
        one = model.decode(scene, xy[:, 3:4])
        assert torch.allclose(backwards, together, atol=1e-12)
        assert torch.allclose(one, together[:, 3:4], atol=1e-12)
        if not model.gt_aligned:
            alone = model.decode(model.prepare(model.encode(image[1:])), xy[1:])
            assert torch.allclose(alone, together[1:], atol=1e-10)


@pytest.mark.parametrize("cls", MODELS)
def test_float64_agrees_with_float32(cls: type[PointDepthModel]) -> None:
    model, image, xy = ready(cls), picture(), points(2, 7)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        single = model.decode(scene_of(model, image), xy)
        precise = double.decode(scene_of(double, image.double()), xy.double())
    assert precise.dtype == torch.float64
    assert torch.allclose(single.double(), precise, rtol=1e-3)


@pytest.mark.parametrize("cls", MODELS)
def test_mixed_precision_gives_float32_depth(cls: type[PointDepthModel]) -> None:
    model, image, xy = ready(cls), picture(), points(2, 7)
    with torch.no_grad():
        exact = model.decode(scene_of(model, image), xy)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = model.decode(scene_of(model, image), xy)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, exact, rtol=0.1)


def test_only_the_two_trained_ones_train() -> None:
    trained = {cls.__name__ for cls in MODELS if cls.trained}
    assert trained == {"BilinearMLP", "DPTTrained"}
    assert all(bool(build(cls).trainable()) == cls.trained for cls in MODELS)
    assert [cls.__name__ for cls in MODELS if cls.gt_aligned] == ["DAv2Dense"]


@pytest.mark.parametrize("cls", [BilinearMLP, DPTTrained])
def test_training_reaches_every_parameter_and_lowers_the_loss(cls: type[PointDepthModel]) -> None:
    model, image, xy = build(cls).train(), picture(), points(2, 64)
    truth = 1.0 + xy[..., 0]
    optimiser = torch.optim.Adam([p for _, p in model.trainable()], lr=3e-4)
    losses = []
    for _ in range(12):
        loss = (model.decode(model.prepare(model.encode(image)), xy).log() - truth.log()).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for _, p in model.trainable())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# ------------------------------------------------------------------- output


def test_output_starts_at_the_typical_depth_and_never_ends() -> None:
    one, zero, bias = torch.tensor(1.0), torch.tensor(0.0), torch.tensor(INITIAL_BIAS, dtype=torch.float64)
    assert float(depth_of(calibrated_inverse_depth(zero.double(), one, bias))) == pytest.approx(2.7, abs=1e-9)
    # softplus(2·3 + 1) = ln(1 + e⁷) = 7.000911466
    assert float(calibrated_inverse_depth(3 * one, 2 * one, one)) == pytest.approx(7.000911466 + 1e-6, abs=1e-6)
    assert float(depth_of(calibrated_inverse_depth(-1000 * one, one, zero))) == pytest.approx(1 / EPSILON)


def test_output_is_float32_in_a_bfloat16_network() -> None:
    code = torch.tensor([0.1, 0.2], dtype=torch.bfloat16)
    rho = calibrated_inverse_depth(code, torch.tensor(1.0), torch.tensor(0.0))
    assert rho.dtype == torch.float32
    assert torch.equal(rho, F.softplus(code.float()) + 1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = build(DPTTrained)
        assert model.prepare(model.encode(picture())).dtype == torch.float32


# ------------------------------------------------------------------- reading a dense map


def test_reading_a_map_at_pixel_centres_returns_the_pixels() -> None:
    index = torch.arange(12.0).reshape(1, 3, 4)
    xy = torch.tensor([[[(u + 0.5) / 4, (v + 0.5) / 3] for v in range(3) for u in range(4)]])
    assert torch.allclose(read_map(index, xy), torch.arange(12.0)[None], atol=1e-5)
    half = torch.tensor([[[1 / 4, 0.5 / 3], [0.5 / 4, 2 / 3]]])  # between columns 0 and 1; between rows 1 and 2
    assert torch.allclose(read_map(index, half), torch.tensor([[0.5, 6.0]]), atol=1e-5)


def test_the_rim_reads_the_border_pixel_and_not_zero() -> None:
    ones = torch.ones(1, 3, 4)
    rim = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.01, 0.5]]])
    assert torch.allclose(read_map(ones, rim), torch.ones(1, 3))


# ------------------------------------------------------------------- trained DPT head (R-27a)


def test_the_dpt_head_has_the_published_number_of_parameters() -> None:
    model = build(DPTTrained, Stub(channels=384))
    assert isinstance(model, DPTTrained)
    assert sum(p.numel() for p in model.dpt.parameters()) == 2_728_513
    # the residual unit that never runs: 2 convolutions of 64·64·9 + 64
    assert sum(p.numel() for _, p in model.trainable()) == 2_728_513 - 73_856


def test_the_dpt_head_is_the_stock_one() -> None:
    """The same weights in transformers' whole model, fed with tokens behind an arbitrary CLS, give the same map."""
    from transformers.models.depth_anything import modeling_depth_anything as stock

    ours = DPTHead(channels=384, output=nn.ReLU())
    ours.load_state_dict(dict(Stub().depth_head_state()))
    neck = stock.DepthAnythingNeck(ours.neck.config)
    head = stock.DepthAnythingDepthEstimationHead(ours.neck.config)
    neck.load_state_dict(ours.neck.state_dict())
    head.load_state_dict(ours.head.state_dict())
    features = Stub()(picture(2, 56, 70))
    tokens = [torch.cat([torch.full((2, 1, 384), 7.0), m.flatten(1, 2)], dim=1) for m in features.maps_BHWC]
    with torch.no_grad():
        expected = head(neck(tokens, 4, 5), 4, 5)
        found = ours(features)
    assert found.shape == (2, 56, 70)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, expected.flip(-1), atol=1e-3)


@pytest.mark.parametrize(
    ("channels", "millions"),
    [(768, 97.5 - 86.6), (1024, 335.3 - 304.4)],  # the authors' table less the ViT
)
def test_larger_encoders_get_larger_heads(channels: int, millions: float) -> None:
    with torch.device("meta"):
        head = DPTHead(channels=channels, output=nn.ReLU())
    assert sum(p.numel() for p in head.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert sorted(SIZES) == [384, 768, 1024]


def test_a_width_without_a_released_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="no DPT head for features of 12 channels") as caught:
        build(DPTTrained, Stub(channels=12))
    assert "384, 768, 1024" in str(caught.value.hint)


def test_training_may_start_from_the_released_head() -> None:
    """Every weight is the encoder's, the last ReLU alone is replaced: ρ = softplus(x) + ε where it gave x."""
    encoder, image = Stub(), picture()
    model = build(DPTTrained, encoder, init="released")
    assert isinstance(model, DPTTrained)
    state = encoder.depth_head_state()
    assert all(torch.equal(value, state[name]) for name, value in model.dpt.state_dict().items())
    assert {name for name, _ in model.trainable()} == {name for name, _ in build(DPTTrained).trainable()}
    assert model.dpt.training
    relative = stock_disparity(encoder, image)
    with torch.no_grad():
        rho = model.prepare(model.encode(image))
    assert float(relative.min()) > 0  # where the ReLU did nothing
    assert torch.allclose(rho, F.softplus(relative) + EPSILON, atol=1e-5)
    compose.check(model, name="released", image_size=(56, 70))


def test_a_released_start_needs_a_relative_head() -> None:
    with pytest.raises(ConfigError, match="dpt_trained needs an encoder with a depth head of its own"):
        build(DPTTrained, Headless(), init="released")
    with pytest.raises(ConfigError, match="dpt_trained needs the relative release"):
        build(DPTTrained, Stub(release="metric_indoor"), init="released")
    build(DPTTrained, Headless())  # random weights need nothing


def test_the_trained_dpt_head_starts_near_the_typical_depth() -> None:
    model = build(DPTTrained)
    with torch.no_grad():
        depth = 1 / model.prepare(model.encode(picture()))
    assert bool(((depth > 2.4) & (depth < 3.0)).all())


# ------------------------------------------------------------------- bilinear + MLP


def test_bilinear_mlp_computes_its_formula() -> None:
    """§4 as written: resize first, then convolve; then F.grid_sample with grid = 2x − 1; then the MLP."""
    model = build(BilinearMLP).double()
    assert isinstance(model, BilinearMLP)
    image, xy = picture().double(), points(2, 9).double()
    with torch.no_grad():
        features = model.encode(image)
        found = model.decode(model.prepare(features), xy)
        large = F.interpolate(features.maps_BHWC[0].permute(0, 3, 1, 2), scale_factor=4, mode="bilinear")
        level = F.layer_norm(
            F.linear(large.permute(0, 2, 3, 1), model.l1_proj.weight, model.l1_proj.bias),
            (64,),
            model.l1_norm.weight,
            model.l1_norm.bias,
        )
        read = F.grid_sample(level.permute(0, 3, 1, 2), 2 * xy[:, None] - 1, align_corners=False)[:, :, 0]
        hidden = F.gelu(F.linear(read.transpose(1, 2), model.mlp[0].weight, model.mlp[0].bias))
        code = F.linear(hidden, model.mlp[2].weight, model.mlp[2].bias)[..., 0]
        expected = 1 / (F.softplus(F.softplus(model.calib_scale_raw) * code + model.calib_bias) + 1e-6)
    assert torch.allclose(found, expected, atol=1e-9)
    assert not torch.allclose(found, expected * 1.001, atol=1e-9)


def test_bilinear_mlp_size_and_start() -> None:
    model = build(BilinearMLP, Stub(channels=384))
    # 384·64 + 64, LayerNorm 2·64, 64·192 + 192, 192 + 1, s and b
    assert sum(p.numel() for _, p in model.trainable()) == 24_640 + 128 + 12_480 + 193 + 2
    assert isinstance(model, BilinearMLP)
    assert F.softplus(model.calib_scale_raw).item() == pytest.approx(1.0, abs=1e-6)
    assert F.softplus(model.calib_bias).item() + 1e-6 == pytest.approx(1 / 2.7, abs=1e-6)


# ------------------------------------------------------------------- constant


def test_constant_is_the_median_of_training_depths() -> None:
    model = build(Constant)
    for depths, middle in (([5.0, 1.0, 2.0], 2.0), ([1.0, 10.0, 2.0, 3.0], 2.5)):
        model.fit_prior(torch.tensor(depths))
        found = model.decode(None, points(2, 3))
        assert found.shape == (2, 3)
        assert torch.equal(found, torch.full((2, 3), middle))
    other = build(Constant)
    other.load_state_dict(model.state_dict())
    assert float(other.decode(None, points(1, 1))) == 2.5


def test_constant_refuses_to_guess() -> None:
    model = build(Constant)
    with pytest.raises(StateError, match="does not know the training depths yet"):
        model.decode(None, points(1, 1))
    with pytest.raises(DataError, match="median of nothing"):
        model.fit_prior(torch.tensor([]))
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DataError, match="not a positive, finite number of metres"):
            model.fit_prior(torch.tensor([1.0, bad]))


# ------------------------------------------------------------------- alignment (R-27b)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_lsq_disparity_by_hand() -> None:
    """x = 0, 1, 2 and t = 1/d = 1, 2, 2. Means 1 and 5/3; slope ((−1)(−2/3) + 0 + 1·(1/3)) / 2 = 1/2; shift 7/6."""
    fit = lsq_disparity(row(0, 1, 2), row(1, 0.5, 0.5))
    assert float(fit.scale_B) == pytest.approx(1 / 2, abs=1e-12)
    assert float(fit.shift_B) == pytest.approx(7 / 6, abs=1e-12)
    assert float(fit.depth_m(row(5))) == pytest.approx(1 / (5 / 2 + 7 / 6))  # 3/11
    assert float(fit.depth_m(row(5))) == pytest.approx(3 / 11)


def test_lsq_depth_by_hand() -> None:
    """x = 1, 1/2, 1/3, so z = 1, 2, 3; d = 2, 4, 4. Means 2 and 10/3; slope (4/3 + 0 + 2/3) / 2 = 1; shift 4/3."""
    fit = lsq_depth(row(1, 1 / 2, 1 / 3), row(2, 4, 4))
    assert float(fit.scale_B) == pytest.approx(1, abs=1e-12)
    assert float(fit.shift_B) == pytest.approx(4 / 3, abs=1e-12)
    assert float(fit.depth_m(row(1 / 6))) == pytest.approx(6 + 4 / 3)


def test_median_by_hand() -> None:
    """z = 1, 2, 4 (median 2) and d = 3, 9, 5 (median 5): factor 5/2. Of two pixels the median is their mean."""
    fit = median(row(1, 1 / 2, 1 / 4), row(3, 9, 5))
    assert float(fit.scale_B) == pytest.approx(5 / 2, abs=1e-12)
    assert float(fit.shift_B) == 0
    assert float(fit.depth_m(row(1 / 8))) == pytest.approx(20)
    assert float(median(row(1, 1 / 3), row(1, 2)).scale_B) == pytest.approx((3 / 2) / 2, abs=1e-12)
    assert float(median(row(1 / 3), row(2)).scale_B) == pytest.approx(2 / 3, abs=1e-12)


def test_the_rules_are_different_rules() -> None:
    x, depth = row(0.2, 0.5, 1, 2), row(4, 3, 1, 0.7)
    found = [float(fit(x, depth).depth_m(row(0.8))) for fit in FITS.values()]
    assert len({round(one, 3) for one in found}) == 3
    assert list(FITS) == ["lsq_disparity", "lsq_depth", "median"]


def test_alignment_is_per_image_and_exact_where_it_can_be() -> None:
    """Image 0: t = 0.2·x + 0.1. Image 1: t = −0.5·x + 2, a disparity that is upside down."""
    x = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    truth = 1 / torch.stack([0.2 * x[0] + 0.1, -0.5 * x[1] + 2])
    fit = lsq_disparity(x, truth)
    assert torch.allclose(fit.scale_B, torch.tensor([0.2, -0.5], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(fit.shift_B, torch.tensor([0.1, 2.0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(fit.depth_m(x), truth, atol=1e-12)
    x = x + 1
    truth = torch.stack([3 / x[0] + 0.5, 0.25 / x[1] + 1])
    assert torch.allclose(lsq_depth(x, truth).depth_m(x), truth, atol=1e-12)
    truth = torch.stack([3 / x[0], 0.25 / x[1]])
    assert torch.allclose(median(x, truth).depth_m(x), truth, atol=1e-12)


def test_fits_are_computed_in_float64() -> None:
    """Disparities around 1000 that differ by 1/8: in float32 their squares lose the difference."""
    x = 1000 + torch.arange(40.0)[None] / 8
    truth = (1 / (0.02 * x.double() - 19)).float()
    fit = lsq_disparity(x, truth)
    assert fit.scale_B.dtype == torch.float32
    assert float(fit.scale_B) == pytest.approx(0.02, rel=1e-5)
    naive = torch.linalg.lstsq(torch.stack([x[0], torch.ones(40)], dim=1), 1 / truth[0][:, None]).solution
    assert abs(float(naive[0]) - 0.02) > 1e-6


def test_what_is_infinitely_far_stays_finite() -> None:
    """x = 0 is z = 1/floor; an inverse depth below zero is 1/ε; a depth below zero is the smallest there is."""
    assert float(Unaligned().depth_m(row(0))) == 1 / DISPARITY_FLOOR == 1000
    assert float(Unaligned().depth_m(row(0.5))) == 2
    one, minus = torch.ones(1), -torch.ones(1)
    depth = AffineDisparity(one, minus).depth_m(torch.tensor([[3.0, 0.5]]))
    assert torch.allclose(depth, torch.tensor([[0.5, 1 / EPSILON]]))
    depth = AffineDepth(minus, 2 * one).depth_m(torch.tensor([[1.0, 0.25]]))
    assert torch.allclose(depth, torch.tensor([[1.0, DEPTH_FLOOR_M]]))


@pytest.mark.parametrize(
    ("disparity", "depth", "words"),
    [
        ([1.0], [1.0], "at least 2 valid pixels, found 1"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "the same at every valid pixel"),
        ([1.0, math.nan], [1.0, 2.0], "disparity is not finite"),
        ([1.0, 2.0], [1.0, 0.0], "not a positive, finite number of metres"),
    ],
)
@pytest.mark.parametrize("fit", [lsq_disparity, lsq_depth])
def test_alignment_refuses(fit: Any, disparity: list[float], depth: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit(torch.tensor([disparity]), torch.tensor([depth]))


def test_a_fit_in_depth_needs_something_nearer_than_the_floor() -> None:
    with pytest.raises(DataError, match="the same at every valid pixel"):
        lsq_depth(row(0, DISPARITY_FLOOR / 2), row(1, 2))
    with pytest.raises(DataError, match="at least 1 valid pixels, found 0"):
        median(torch.zeros(1, 0), torch.zeros(1, 0))


# ------------------------------------------------------------------- Depth Anything V2 as released (R-27b, c)


def stock_disparity(encoder: Stub, image: Tensor) -> Tensor:
    head = DPTHead(channels=encoder.channels, output=nn.ReLU())
    head.load_state_dict(dict(encoder.depth_head_state()))
    with torch.no_grad():
        return head(encoder(image))


def test_dense_gives_the_released_disparity_and_metres_only_after_alignment() -> None:
    encoder, image, xy = Stub(), picture(), points(2, 40)
    model = build(DAv2Dense, encoder)
    assert isinstance(model, DAv2Dense)
    scene = model.prepare(model.encode(image))
    relative = model.relative_disparity(scene, xy)
    assert torch.allclose(relative, read_map(stock_disparity(encoder, image), xy), atol=1e-6)
    with pytest.raises(StateError, match="not aligned"):
        model.decode(scene, xy)
    truth = 1 / (3 * relative + 0.25)  # what least squares can recover exactly
    model.fit_alignment(scene, xy, truth)
    assert torch.allclose(model.decode(scene, xy), truth, rtol=1e-4)
    other = points(2, 90)[:, 40:]
    elsewhere = 1 / (3 * model.relative_disparity(scene, other) + 0.25)
    assert torch.allclose(model.decode(scene, other), elsewhere, rtol=1e-4)
    assert float(relative.max() - relative.min()) > 0.1


@pytest.mark.parametrize("alignment", [*FITS, "none"])
def test_dense_aligns_by_the_rule_that_was_chosen(alignment: str) -> None:
    model, xy = build(DAv2Dense, alignment=alignment), points(2, 40)
    assert isinstance(model, DAv2Dense)
    assert model.gt_aligned == (alignment != "none")
    compose.check(model, name=alignment, image_size=(56, 70))
    with torch.no_grad():
        scene = model.prepare(model.encode(picture()))
        relative, truth = model.relative_disparity(scene, xy), 1.0 + xy[..., 0]
        if alignment == "none":
            assert torch.equal(model.decode(scene, xy), 1 / relative)
            with pytest.raises(StateError, match="takes no ground truth"):
                model.fit_alignment(scene, xy, truth)
        else:
            model.fit_alignment(scene, xy, truth)
            assert torch.equal(model.decode(scene, xy), FITS[alignment](relative, truth).depth_m(relative))


def test_the_default_alignment_is_in_disparity() -> None:
    assert DAv2Dense.Config().alignment == "lsq_disparity"
    with pytest.raises(ValidationError, match="lsq_disparity"):
        DAv2Dense.Config(alignment="lsq")  # type: ignore[arg-type]


def test_metric_is_the_scaled_sigmoid_of_the_same_head() -> None:
    encoder, image, xy = Stub(), picture(), points(2, 5)
    raw = DPTHead(channels=encoder.channels, output=nn.Identity())
    raw.load_state_dict(dict(encoder.depth_head_state()))
    encoder.release = "metric_indoor"
    model = DAv2MetricIndoor(DAv2MetricIndoor.Config(max_depth_m=8.0), encoder)
    with torch.no_grad():
        expected = 8.0 * torch.sigmoid(raw(encoder(image)))
        found = model.decode(model.prepare(model.encode(image)), xy)
    assert torch.allclose(found, read_map(expected, xy), atol=1e-5)


@pytest.mark.parametrize("cls", [DAv2Dense, DAv2MetricIndoor])
def test_an_encoder_without_its_own_head_is_refused(cls: type[PointDepthModel]) -> None:
    with pytest.raises(ConfigError, match="Headless has none") as caught:
        build(cls, Headless())
    assert "dav2_small" in str(caught.value.hint)


def test_the_two_releases_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(ConfigError, match=r"dav2_dense needs the relative release .* is the metric_indoor one"):
        build(DAv2Dense, Stub(release="metric_indoor"))
    with pytest.raises(ConfigError, match="dav2_metric_indoor needs the metric_indoor release") as caught:
        build(DAv2MetricIndoor, Stub(release="relative"))
    assert "release to metric_indoor" in str(caught.value.hint)


def test_the_metric_baseline_brings_its_encoder() -> None:
    config = DAv2MetricIndoor.Config
    assert DAv2MetricIndoor.own_encoder(config()) == {"use": "dav2_small", "release": "metric_indoor"}
    assert DAv2MetricIndoor.own_encoder(config(weights="m.pth"))["weights"] == "m.pth"
    assert DAv2MetricIndoor.places == {"weights"}
    assert DAv2Dense.own_encoder(DAv2Dense.Config()) is None


def test_a_head_of_another_size_is_refused() -> None:
    class Wider(Stub):
        def depth_head_state(self) -> Mapping[str, Tensor]:
            return {**super().depth_head_state(), "head.conv1.bias": torch.zeros(33)}

    with pytest.raises(DataError, match="does not fit its 384 channels"):
        build(DAv2Dense, Wider())
