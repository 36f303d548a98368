"""The linear probe and the implicit MLP: values by hand, the public recipe computed densely, and wrong twins."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from spd_baselines.dense_upsampled_probe import DenseUpsampledProbe
from spd_baselines.implicit_mlp import LEVELS, ImplicitMLP
from spd_baselines.linear_probe import LinearProbe, LinearReadout
from spd_baselines.output import TYPICAL_DEPTH_M
from spd_bench.api import Features, PointDepthModel
from spd_bench.testing import PatchEncoder, example_features


def made(cls: type[PointDepthModel], channels: int = 12, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = cls(cls.Config(**options), PatchEncoder(channels))  # type: ignore[call-arg]
        for parameter in model.parameters():
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def points(count: int = 60) -> Tensor:
    """Points of the unit square, with corners and borders."""
    xy_BK2 = torch.rand(2, count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    xy_BK2[:, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.4], [0.999, 1.0]], dtype=torch.float64)
    return xy_BK2


def constant_maps(values: list[float]) -> Features:
    """Four maps of 2×3 cells with the same values in every cell."""
    map_BHWC = torch.tensor(values, dtype=torch.float64).expand(2, 2, 3, -1)
    return Features((map_BHWC,) * 4)


@pytest.mark.parametrize("cls", [LinearProbe, DenseUpsampledProbe])
def test_depth_is_the_mean_of_the_bins_by_linear_normalisation(cls: type[LinearReadout]) -> None:
    # bins at 1, 2 and 3 m; logits 0.4, −5 and 1.0 become 0.5, 0.1 and 1.1 of 1.7: (0.5 + 0.2 + 3.3) / 1.7 = 4 / 1.7
    model = made(cls, channels=2, n_bins=3, min_m=1.0, max_m=3.0, batch_norm=False)
    model.linear.weight.data.zero_()
    model.linear.bias.data.copy_(torch.tensor([0.4, -5.0, 1.0]))
    with torch.no_grad():
        depth_m_BK = model.decode(model.prepare(constant_maps([7.0, -7.0])), points(5))
    torch.testing.assert_close(depth_m_BK, torch.full_like(depth_m_BK, 4 / 1.7))
    softmax = torch.tensor([0.4, -5.0, 1.0]).softmax(0) @ torch.tensor([1.0, 2.0, 3.0])  # the wrong twin: 2.29 m
    assert abs(float(softmax) - 4 / 1.7) > 0.05


def test_batch_norm_uses_the_statistics_of_training() -> None:
    # one channel with running mean 3 and variance 4 − 1e-5: a feature of 7 is 4 / √4 = 2, so that logits
    # are 2 and 0: shares 2.1 and 0.1 of 2.2 at 1 and 3 m give (2.1 + 0.3) / 2.2 m
    model = made(LinearProbe, channels=1, n_bins=2, min_m=1.0, max_m=3.0)
    model.norm.running_mean.fill_(3.0)
    model.norm.running_var.fill_(4.0 - 1e-5)
    model.norm.weight.data.fill_(1.0)
    model.norm.bias.data.zero_()
    model.linear.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
    model.linear.bias.data.zero_()
    with torch.no_grad():
        depth_m_BK = model.decode(model.prepare(constant_maps([7.0])), points(5))
    torch.testing.assert_close(depth_m_BK, torch.full_like(depth_m_BK, 2.4 / 2.2))


def dense_recipe(model: Any, features: Features, factor: int) -> Tensor:
    """The public recipe: features enlarged, then batch norm, linear layer, normalisation: depth [B, H, W]."""
    maps = features.maps_BHWC[3:] if model.config.layers == "last" else features.maps_BHWC
    large = F.interpolate(
        torch.cat(maps, dim=-1).permute(0, 3, 1, 2), scale_factor=factor, mode="bilinear", align_corners=False
    )
    logits = model.linear(model.norm(large.permute(0, 2, 3, 1).flatten(0, 2))).unflatten(0, (2, *large.shape[2:]))
    share = torch.relu(logits) + 0.1
    return (share / share.sum(-1, keepdim=True)) @ model.depth_m_N


def read_with_border(map_BHW: Tensor, xy_BK2: Tensor) -> Tensor:
    """Bilinear, the border repeated, by PyTorch's own sampler."""
    grid = (2 * xy_BK2 - 1)[:, :, None]
    return F.grid_sample(map_BHW[:, None], grid, padding_mode="border", align_corners=False)[:, 0, :, 0]


@pytest.mark.parametrize(
    "options", [{}, {"layers": "four", "batch_norm": False}, {"upsample": 1}, {"upsample": 3}], ids=str
)
def test_both_forms_equal_the_public_recipe(options: dict[str, Any]) -> None:
    features = example_features(12)  # 13×15 cells
    sparse, dense = made(LinearProbe, **options), made(DenseUpsampledProbe, **options)
    dense.load_state_dict(sparse.state_dict())
    with torch.no_grad():
        for buffer in (sparse, dense):
            if buffer.config.batch_norm:
                buffer.norm.running_mean.fill_(0.2)
                buffer.norm.running_var.fill_(1.7)
        expected = read_with_border(dense_recipe(sparse, features, sparse.config.upsample), points())
        for model in (sparse, dense):
            torch.testing.assert_close(model.decode(model.prepare(features), points()), expected, rtol=1e-9, atol=1e-9)
        other = read_with_border(dense_recipe(sparse, features, sparse.config.upsample + 1), points())
    assert (other - expected).abs().max() > 1e-3  # the wrong twin: another enlargement


@pytest.mark.parametrize(
    ("options", "start_m"),
    [({}, TYPICAL_DEPTH_M), ({"max_m": 80.0}, 40.0005), ({"max_m": 4.0}, 2.0005), ({"min_m": 3.0}, 6.5)],
    ids=str,
)
def test_an_untrained_probe_predicts_the_typical_depth(options: dict[str, float], start_m: float) -> None:
    # where 2.7 m is not below the mean of the bins, or too far below it, every bin counts alike: (min + max) / 2
    probe = LinearProbe(LinearProbe.Config(**options), PatchEncoder()).double().eval()
    with torch.no_grad():
        depth_m_BK = probe.decode(probe.prepare(constant_maps([0.0] * 384)), points(4))
    torch.testing.assert_close(depth_m_BK, torch.full_like(depth_m_BK, start_m), rtol=1e-5, atol=0)


def test_a_probe_without_a_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_m should be larger than min_m, which is 3"):
        LinearProbe.Config(min_m=3.0, max_m=3.0)


def test_the_mlp_reads_all_four_levels_at_the_query() -> None:
    """By PyTorch's own sampler and layers; a map that is not read, or a read without its norm, gives another depth."""
    model, features = made(ImplicitMLP, hidden=(5, 4)), example_features(12)
    xy_BK2 = points()

    def read(index: int) -> Tensor:
        map_BCHW = model.projections[index](features.maps_BHWC[index]).permute(0, 3, 1, 2)
        xy = xy_BK2
        if index == 3:  # 13×15 cells pooled to 6×7, which cover 12/13 and 14/15 of the image
            map_BCHW, xy = F.avg_pool2d(map_BCHW, 2), xy_BK2 * torch.tensor([15 / 14, 13 / 12], dtype=torch.float64)
        found = F.grid_sample(map_BCHW, (2 * xy - 1)[:, :, None], padding_mode="zeros", align_corners=False)
        return found[..., 0].transpose(1, 2)

    with torch.no_grad():
        reads = [F.layer_norm(read(i), LEVELS[i : i + 1], model.norms[i].weight, model.norms[i].bias) for i in range(4)]
        expected = model.mlp(torch.cat(reads, dim=-1))[..., 0].exp()
        found = model.decode(model.prepare(features), xy_BK2)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        unnormalised = model.mlp(torch.cat([read(i) for i in range(4)], dim=-1))[..., 0].exp()
        assert (unnormalised - expected).abs().max() > 1e-3
        for index in range(4):
            maps = list(features.maps_BHWC)
            maps[index] = -maps[index]
            other = model.decode(model.prepare(Features(tuple(maps))), xy_BK2)  # type: ignore[arg-type]
            assert (other - expected).abs().max() > 1e-4, f"map {index} is not read"


def test_the_mlp_starts_at_the_typical_depth_and_costs_what_it_says() -> None:
    model = ImplicitMLP(ImplicitMLP.Config(), PatchEncoder())
    assert float(model.mlp[-1].bias.detach().exp()) == pytest.approx(TYPICAL_DEPTH_M)
    # 768·512 + 512·256 + 256·32 + 32 = 532,512 products; 4 cells of 768 channels read: 3,072
    products = sum(layer.weight.numel() for layer in model.mlp if hasattr(layer, "weight"))
    assert products == 532_512
    assert products + 4 * sum(LEVELS) == 535_584  # the docstring's 0.54 M
