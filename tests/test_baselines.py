"""Baselines of §8 (R-27, R-28): what each computes, by hand or against another way to compute it."""

import copy
import math
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_baselines.alignment import Alignment, align_disparity
from spd_baselines.bilinear_mlp import BilinearMLP
from spd_baselines.constant import Constant
from spd_baselines.dav2_dense import DAv2Dense
from spd_baselines.dav2_head import METRIC_INDOOR_SHA256, RELATIVE_SHA256
from spd_baselines.dav2_metric import DAv2Metric
from spd_baselines.dpt_head import DPTHead, read_map
from spd_baselines.dpt_trained import DPTTrained
from spd_baselines.output import EPSILON, INITIAL_BIAS, calibrated_inverse_depth, depth_of
from spd_bench import compose
from spd_bench.api import ComponentConfig, Encoder, Features, PointDepthModel
from spd_bench.errors import ConfigError, DataError, StateError

MODELS = (BilinearMLP, Constant, DPTTrained, DAv2Dense, DAv2Metric)


class Stub(Encoder):
    """Four fixed linear maps of 14×14 patches; carries a depth head from random numbers, as dav2_small does."""

    def __init__(self, channels: int = 12, digest: str = "0" * 64) -> None:
        super().__init__()
        self.config = ComponentConfig()
        self.channels = channels
        self.sha256 = digest
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("filters", 0.1 * torch.randn(4, channels, 3, 14, 14, generator=generator))

    def forward(self, image_B3HW: Tensor) -> Features:
        filters = self.get_buffer("filters")
        image = image_B3HW.to(filters.dtype)
        a, b, c, d = (F.conv2d(image, filter_, stride=14).permute(0, 2, 3, 1) for filter_ in filters)
        return Features((a, b, c, d))

    def digest(self) -> str:
        return self.sha256

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


def build(cls: type[PointDepthModel], encoder: Encoder | None = None) -> PointDepthModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return cls(cls.Config(), encoder or Stub())  # type: ignore[call-arg]


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

    ours = DPTHead(channels=12, output=nn.ReLU())
    ours.load_state_dict(dict(Stub().depth_head_state()))
    neck = stock.DepthAnythingNeck(ours.neck.config)
    head = stock.DepthAnythingDepthEstimationHead(ours.neck.config)
    neck.load_state_dict(ours.neck.state_dict())
    head.load_state_dict(ours.head.state_dict())
    features = Stub()(picture(2, 56, 70))
    tokens = [torch.cat([torch.full((2, 1, 12), 7.0), m.flatten(1, 2)], dim=1) for m in features.maps_BHWC]
    with torch.no_grad():
        expected = head(neck(tokens, 4, 5), 4, 5)
        found = ours(features)
    assert found.shape == (2, 56, 70)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, expected.flip(-1), atol=1e-3)


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
    for depths, median in (([5.0, 1.0, 2.0], 2.0), ([1.0, 10.0, 2.0, 3.0], 2.5)):
        model.fit_prior(torch.tensor(depths))
        found = model.decode(None, points(2, 3))
        assert found.shape == (2, 3)
        assert torch.equal(found, torch.full((2, 3), median))
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


def test_alignment_by_hand() -> None:
    """x = 0, 1, 2 and t = 1/d = 1, 2, 2. Means 1 and 5/3; slope ((−1)(−2/3) + 0 + 1·(1/3)) / 2 = 1/2; shift 7/6."""
    fit = align_disparity(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.5, 0.5]]))
    assert float(fit.scale_B) == pytest.approx(0.5, abs=1e-6)
    assert float(fit.shift_B) == pytest.approx(7 / 6, abs=1e-6)
    assert torch.allclose(fit.depth_m(torch.tensor([[5.0]])), torch.tensor([[1 / (2.5 + 7 / 6)]]))


def test_alignment_is_per_image_and_exact_where_it_can_be() -> None:
    """Image 0: t = 0.2·x + 0.1. Image 1: t = −0.5·x + 2, a disparity that is upside down."""
    x = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    truth = 1 / torch.stack([0.2 * x[0] + 0.1, -0.5 * x[1] + 2])
    fit = align_disparity(x, truth)
    assert torch.allclose(fit.scale_B, torch.tensor([0.2, -0.5], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(fit.shift_B, torch.tensor([0.1, 2.0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(fit.depth_m(x), truth, atol=1e-12)


def test_an_aligned_disparity_below_zero_is_far_away() -> None:
    fit = Alignment(torch.tensor([1.0]), torch.tensor([-1.0]))
    assert torch.allclose(fit.depth_m(torch.tensor([[3.0, 0.5]])), torch.tensor([[0.5, 1 / EPSILON]]))


@pytest.mark.parametrize(
    ("disparity", "depth", "words"),
    [
        ([1.0], [1.0], "at least 2 valid pixels, found 1"),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "the same everywhere"),
        ([1.0, math.nan], [1.0, 2.0], "disparity is not finite"),
        ([1.0, 2.0], [1.0, 0.0], "not a positive, finite number of metres"),
    ],
)
def test_alignment_refuses(disparity: list[float], depth: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        align_disparity(torch.tensor([disparity]), torch.tensor([depth]))


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


def test_metric_is_the_scaled_sigmoid_of_the_same_head() -> None:
    encoder, image, xy = Stub(), picture(), points(2, 5)
    raw = DPTHead(channels=encoder.channels, output=nn.Identity())
    raw.load_state_dict(dict(encoder.depth_head_state()))
    model = DAv2Metric(DAv2Metric.Config(max_depth_m=8.0), encoder)
    with torch.no_grad():
        expected = 8.0 * torch.sigmoid(raw(encoder(image)))
        found = model.decode(model.prepare(model.encode(image)), xy)
    assert torch.allclose(found, read_map(expected, xy), atol=1e-5)


@pytest.mark.parametrize("cls", [DAv2Dense, DAv2Metric])
def test_an_encoder_without_its_own_head_is_refused(cls: type[PointDepthModel]) -> None:
    with pytest.raises(ConfigError, match="Headless has none") as caught:
        build(cls, Headless())
    assert "dav2_small" in str(caught.value.hint)


def test_the_two_releases_are_not_mistaken_for_each_other() -> None:
    with pytest.raises(ConfigError, match="dav2_dense was given the metric release"):
        build(DAv2Dense, Stub(digest=METRIC_INDOOR_SHA256))
    with pytest.raises(ConfigError, match="dav2_metric was given the relative release"):
        build(DAv2Metric, Stub(digest=RELATIVE_SHA256))
    build(DAv2Dense, Stub(digest=RELATIVE_SHA256))
    build(DAv2Metric, Stub(digest=METRIC_INDOOR_SHA256))


def test_a_head_of_another_size_is_refused() -> None:
    class Wider(Stub):
        def depth_head_state(self) -> Mapping[str, Tensor]:
            return DPTHead(channels=self.channels + 1, output=nn.ReLU()).state_dict()

    with pytest.raises(DataError, match="does not fit DAv2-S"):
        build(DAv2Dense, Wider())
