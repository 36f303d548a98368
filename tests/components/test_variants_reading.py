"""Variants of the neck, B1 and B3: what each computes, beside the component that it varies, and by hand.

`tests/components/test_contracts.py` runs the contract kits over them, as over everything registered.
"""

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import Dims, Features, Level, Pyramid, QueryState, Scene
from spd_bench.errors import ConfigError
from spd_bench.model import compose
from spd_bench.model.describe import describe_component
from spd_bench.testing import (
    DIMS,
    BlockContract,
    PatchEncoder,
    example_features,
    example_points,
    example_pyramid,
    example_state,
)
from spd_components.blocks.b1_centre_token import CentreToken
from spd_components.blocks.b1_l1_only import L1Only
from spd_components.blocks.b1_local_tokens import LocalTokens
from spd_components.blocks.b1_no_learned_offsets import NoLearnedOffsets
from spd_components.blocks.b1_ring_3x3 import Ring3x3
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.b3_with_position import WithPosition
from spd_components.blocks.layers import fourier
from spd_components.necks.aligned import AlignedNeck, area_mean
from spd_components.necks.pyramid import PyramidNeck
from spd_components.necks.top_down import TopDownNeck, doubled

VARIANTS = {
    "neck": ("top_down", "aligned"),
    "b1": ("no_learned_offsets", "ring_3x3", "l1_only", "centre_token"),
    "b3": ("with_position",),
}
EACH = [(slot, name) for slot, names in VARIANTS.items() for name in names]
V13 = {
    "neck": "pyramid",
    "b1": "local_tokens",
    "b2": "local_cross_attention",
    "b3": "global_cross_attention",
    "routing": "topk_attention",
    "b4": "deformable_read",
    "b5": "fused_cross_attention",
    "depth_head": "calibrated_inverse",
}
FINE = torch.float64


def make(component: Any, dims: Dims = DIMS, seed: int = 0) -> Any:
    """A component whose parameters are all off their initial values, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = component(component.Config(), dims)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module.to(FINE).eval()


def same_weights(variant: Any, base: nn.Module) -> Any:
    """The variant with the base's weights wherever they have a parameter of that name and shape in common."""
    theirs = base.state_dict()
    ours = variant.state_dict()
    common = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    variant.load_state_dict(ours | common)
    return variant


def column(*values: float) -> Tensor:
    """Four rows that are alike: [1, 4, W, 1]."""
    return torch.tensor(values, dtype=FINE).view(1, 1, -1, 1).expand(1, 4, -1, 1)


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("slot", "name", "expected"),
    [
        ("neck", "aligned", 297_216),
        # 1×1 convolutions 384→192, 192→128 and 128→64 without bias beside the neck's own
        ("neck", "top_down", 297_216 + 73_728 + 24_576 + 8_192),
        ("b1", "centre_token", 139_088),
        ("b1", "no_learned_offsets", 139_088 - (64 * 16 + 16)),
        ("b1", "ring_3x3", 139_088 - 16 * 192),
        # offsets 64·16 + 16; W_loc 80·192 + 192; W_q 96·192 + 192; e_L1
        ("b1", "l1_only", 1_040 + 15_552 + 18_624 + 192),
        # two layers of W_KP and W_QP, 16·192 each
        ("b3", "with_position", 1_037_184 + 2 * 2 * 16 * 192),
    ],
)
def test_parameters(slot: str, name: str, expected: int) -> None:
    component = registry.load(slot, name)
    assert sum(p.numel() for p in component(component.Config(), Dims()).parameters()) == expected


@pytest.mark.parametrize(("slot", "name"), EACH)
def test_description_says_why_the_comparison_is_fair(slot: str, name: str) -> None:
    text = describe_component(f"{slot}/{name}")
    assert "A fair comparison" in text
    assert "the same" in text
    assert "parameters" in text


@pytest.mark.parametrize(("slot", "name"), EACH)
def test_leaving_out_works_as_for_the_base(slot: str, name: str) -> None:
    base, variant = registry.load(slot, V13[slot]), registry.load(slot, name)
    assert variant.left_out == base.left_out
    assert (variant.reads, variant.writes) == (base.reads, base.writes)


def composed(changes: Mapping[str, str]) -> compose.ComposedModel:
    names = V13 | dict(changes)
    options = {"routing": {"r": 5}}  # 12 sites of L4 on the small image
    parts = {
        slot: compose.ChosenPart(name, registry.load(slot, name).Config(**options.get(slot, {})))
        for slot, name in names.items()
    }
    return compose.build(parts, PatchEncoder(), seed=0)


def images() -> Tensor:
    """Two images of noise, 7×9 cells: both sides odd."""
    return torch.rand(2, 3, 98, 126, generator=torch.Generator().manual_seed(0))


WHOLE = [{slot: name} for slot, name in EACH] + [{"neck": "aligned", "b1": "ring_3x3", "b3": "with_position"}]


@pytest.mark.parametrize("changes", WHOLE, ids=lambda changes: "+".join(changes.values()))
def test_a_whole_model_trains_a_step(changes: Mapping[str, str]) -> None:
    model = composed(changes)
    compose.check(model, name="variant", image_size=(98, 126))
    features, xy_BK2 = model.encode(images()), example_points().float()
    model.train()
    optimiser = torch.optim.AdamW([p for _, p in model.trainable()], lr=1e-5)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same dropout, so that the losses differ by the step alone
            loss = (model.decode(model.prepare(features), xy_BK2).log() - 1.5).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    exempt = [f"{slot}.{pattern}" for slot in model.block_slots for pattern in model.block(slot).no_gradient]
    for name, parameter in model.trainable():
        if any(fnmatch.fnmatch(name, pattern) for pattern in exempt):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("changes", WHOLE, ids=lambda changes: "+".join(changes.values()))
def test_depth_of_a_point_is_the_same_at_k_1_and_k_many(changes: Mapping[str, str]) -> None:
    model = composed(changes).double().eval()
    with torch.no_grad():
        scene = model.prepare(model.encode(images().double()))
        many_BK = model.decode(scene, example_points())
        for k in (0, 5, 11):
            alone_B1 = model.decode(scene, example_points()[:, k : k + 1])
            assert torch.allclose(alone_B1, many_BK[:, k : k + 1], rtol=1e-10, atol=0)
    assert many_BK.std() > 1e-4 * many_BK.mean()  # the points differ, so that the comparison can fail


class WithIdlePart(TopDownNeck):
    """Top-down, with a layer that nothing reads."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.match4 = nn.Linear(1, 1)


def test_a_wrong_neck_is_refused_before_training() -> None:
    model = composed({"neck": "top_down"})
    model.neck = WithIdlePart(WithIdlePart.Config(), Dims())
    with pytest.raises(ConfigError, match=r"2 parameters of neck cannot change the depth \(first: neck\.match4"):
        compose.check(model, name="variant", image_size=(98, 126))


class SeesTheOthers(WithPosition):
    """Positions are taken from the middle of the queries."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        middle = state.xy_BK2.mean(1, keepdim=True)
        return replace(super().forward(replace(state, xy_BK2=state.xy_BK2 - middle), scene), xy_BK2=state.xy_BK2)


def test_kit_catches_a_wrong_b3() -> None:
    kit = type("Kit", (BlockContract,), {"component": WithPosition})()
    kit.test_queries_do_not_see_each_other()
    kit.component = SeesTheOthers
    with pytest.raises(AssertionError, match=r"query 0 of \d+ alone"):
        kit.test_queries_do_not_see_each_other()


# ------------------------------------------------------------------------------------------------- top_down


def test_doubled_by_hand() -> None:
    # centres of the coarse cells lie at 1 and 3 of the fine ones', which lie at ½, 1½, …: an enlargement of (1, 3) is
    # 1 (held), 1 + ¼·2, 3 − ¼·2, 3 (held); the fifth column, which no coarse cell covers, is held too
    fine = torch.zeros(1, 4, 5, 1, dtype=FINE)
    found = doubled(torch.tensor([[1.0, 3], [1, 3]], dtype=FINE).view(1, 2, 2, 1), like=fine)
    assert torch.allclose(found, column(1, 1.5, 2.5, 3, 3), rtol=0, atol=1e-12)
    # stretched over all five columns instead, the two cells would be out of place
    stretched = F.interpolate(torch.tensor([[[[1.0, 3]]]], dtype=FINE), size=(1, 5), mode="bilinear")
    assert not torch.allclose(stretched.flatten(), found[0, 0, :, 0], atol=0.1)


def plain(component: Any) -> Any:
    """A neck of one channel whose convolutions pass the map on, without LayerNorm."""
    neck = make(component, Dims(features=1, core=6, heads=1, pyramid=(1, 1, 1, 1)))
    for name, parameter in neck.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    for level in (neck.l1, neck.l2, neck.l3, neck.l4):
        level.norm = nn.Identity()
    return neck


def test_top_down_sums_by_hand() -> None:
    # constant maps 1, 2, 4, 8 of 3×3 cells: L4 = 8, L3 = 4 + 8 = 12, L2 = 2 + 12 = 14, L1 = 1 + 14 = 15, borders too
    maps = [torch.full((1, 3, 3, 1), float(value), dtype=FINE) for value in (1, 2, 4, 8)]
    found = plain(TopDownNeck)(Features((maps[0], maps[1], maps[2], maps[3])))
    for level, size, value in ((found.l1, 12, 15), (found.l2, 6, 14), (found.l3, 3, 12), (found.l4, 1, 8)):
        assert level.map_BHWC.shape == (1, size, size, 1)
        assert torch.allclose(level.map_BHWC, torch.full((), float(value), dtype=FINE), rtol=0, atol=1e-12)
    assert found.l4.extent == (2 / 3, 2 / 3)


def test_top_down_with_nothing_handed_down_is_the_pyramid() -> None:
    base, features = make(PyramidNeck), example_features(DIMS.features)
    neck = same_weights(make(TopDownNeck, seed=1), base)
    expected = levels(base(features))
    assert not torch.allclose(levels(neck(features))[0], expected[0], atol=0.1)
    for layer in (neck.match1, neck.match2, neck.match3):
        nn.init.zeros_(layer.weight)
    for found, wanted in zip(levels(neck(features)), expected, strict=True):
        assert torch.equal(found, wanted)


def test_top_down_adds_before_the_norm_and_matches_before_the_enlargement() -> None:
    """L3 and L2 written out the other way round: enlarge, then match; maps of 12×14 cells, so that all sizes double."""
    neck = make(TopDownNeck)
    _, low, high, deep = (map_BHWC[:, :12, :14] for map_BHWC in example_features(DIMS.features).maps_BHWC)

    def larger(map_BHWC: Tensor) -> Tensor:
        map_BCHW = F.interpolate(map_BHWC.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False)
        return map_BCHW.permute(0, 2, 3, 1)

    pooled = (deep[:, ::2, ::2] + deep[:, 1::2, ::2] + deep[:, ::2, 1::2] + deep[:, 1::2, 1::2]) / 4
    sum3 = neck.l3.proj(high) + neck.match3(larger(neck.l4.proj(pooled)))
    sum2 = neck.l2.proj(larger(low)) + neck.match2(larger(sum3))
    found = neck(Features((low, low, high, deep)))
    assert torch.allclose(found.l3.map_BHWC, neck.l3.norm(sum3), rtol=0, atol=1e-10)
    assert torch.allclose(found.l2.map_BHWC, neck.l2.norm(sum2), rtol=0, atol=1e-10)
    early2 = neck.l2.proj(larger(low)) + neck.match2(larger(neck.l3.norm(sum3)))
    assert not torch.allclose(found.l2.map_BHWC, neck.l2.norm(early2), atol=0.1)


def levels(pyramid: Pyramid) -> list[Tensor]:
    return [level.map_BHWC for level in (pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4)]


def test_only_the_top_down_neck_hands_deep_features_to_fine_levels() -> None:
    features = example_features(DIMS.features)
    other = Features((*features.maps_BHWC[:3], features.maps_BHWC[3].flip(1)))
    for component, reached in ((TopDownNeck, True), (PyramidNeck, False)):
        neck = make(component)
        changed = [not torch.equal(a, b) for a, b in zip(levels(neck(features)), levels(neck(other)), strict=True)]
        assert changed == [reached, reached, reached, True]


# ------------------------------------------------------------------------------------------------- aligned


def test_area_mean_by_hand() -> None:
    # five cells in two halves of 2½: (0 + 1 + ½·2) / 2.5 = 0.8 and (½·2 + 3 + 4) / 2.5 = 3.2
    found = area_mean(column(0, 1, 2, 3, 4), dim=2, size=2)
    assert torch.allclose(found, column(0.8, 3.2), rtol=0, atol=1e-12)
    # whole-cell windows, which overlap, and pairs, which drop the last cell, are something else
    assert F.adaptive_avg_pool2d(column(0, 1, 2, 3, 4)[..., 0], (4, 2))[0, 0].tolist() == [1, 3]
    assert F.avg_pool2d(column(0, 1, 2, 3, 4)[..., 0], (1, 2))[0, 0].tolist() == [0.5, 2.5]


@pytest.mark.parametrize(("length", "size"), [(37, 18), (13, 6), (3, 1), (8, 4), (5, 5), (7, 4)])
def test_area_mean_weighs_every_cell_alike(length: int, size: int) -> None:
    # each of n cells has a share of size/n in all intervals together, and the shares of an interval sum to one
    share_IN = area_mean(torch.eye(length, dtype=FINE), dim=0, size=size)
    assert torch.allclose(share_IN.sum(0), torch.full((length,), size / length, dtype=FINE), rtol=0, atol=1e-12)
    assert torch.allclose(share_IN.sum(1), torch.ones(size, dtype=FINE), rtol=0, atol=1e-12)
    # centre of mass of interval i: (i + ½)·n/size, half a cell less in indices; exact unless an end cuts a cell
    centre_I = share_IN @ (torch.arange(length, dtype=FINE) + 0.5)
    expected_I = (torch.arange(size, dtype=FINE) + 0.5) * length / size
    assert float((centre_I - expected_I).abs().max()) < 0.15


def test_whole_windows_would_be_off_centre() -> None:
    """The control of the centres above: 37 cells in 18 windows of whole cells are off by up to half a cell."""
    cell_N = torch.arange(37, dtype=FINE) + 0.5
    centre_I = F.adaptive_avg_pool1d(cell_N[None], 18)[0]
    expected_I = (torch.arange(18, dtype=FINE) + 0.5) * 37 / 18
    assert float((centre_I - expected_I).abs().max()) > 0.4


def test_area_mean_keeps_its_precision_under_autocast() -> None:
    cells_N = torch.rand(37, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = area_mean(cells_N, dim=0, size=18)
        product = torch.eye(18, 37) @ cells_N[:, None]
    assert torch.equal(found, area_mean(cells_N, dim=0, size=18))
    assert not torch.equal(product[:, 0].float(), cells_N[:18])  # a matrix product does not


def test_aligned_covers_the_whole_image() -> None:
    features = example_features(DIMS.features)  # 13×15 cells, both odd
    pyramid, base = make(AlignedNeck)(features), make(PyramidNeck)(features)
    assert pyramid.l4.extent == (1.0, 1.0)
    assert [tuple(x.shape) for x in levels(pyramid)] == [tuple(x.shape) for x in levels(base)]
    for found, expected in zip(levels(pyramid)[:3], levels(base)[:3], strict=True):
        assert torch.equal(found, expected)
    # the last column reaches L4 here, and is dropped by §4's pooling (R-05)
    deep = features.maps_BHWC[3].clone()
    deep[:, :, -1] += 1
    changed = Features((*features.maps_BHWC[:3], deep))
    assert not torch.allclose(levels(make(AlignedNeck)(changed))[3], levels(pyramid)[3], atol=1e-3)
    assert torch.equal(levels(make(PyramidNeck)(changed))[3], levels(base)[3])


def test_aligned_pyramid_of_a_mirrored_image_is_mirrored() -> None:
    features = example_features(DIMS.features)
    mirrored = Features(tuple(map_BHWC.flip(1, 2) for map_BHWC in features.maps_BHWC))  # type: ignore[arg-type]
    neck, base = make(AlignedNeck), make(PyramidNeck)
    assert torch.allclose(levels(neck(mirrored))[3], levels(neck(features))[3].flip(1, 2), rtol=0, atol=1e-10)
    assert not torch.allclose(levels(base(mirrored))[3], levels(base(features))[3].flip(1, 2), atol=0.1)


def test_aligned_is_the_pyramid_where_sides_are_even() -> None:
    features = Features(tuple(map_BHWC[:, :12, :14] for map_BHWC in example_features(DIMS.features).maps_BHWC))  # type: ignore[arg-type]
    found, expected = make(AlignedNeck)(features), make(PyramidNeck)(features)
    assert found.l4.extent == expected.l4.extent == (1.0, 1.0)
    assert torch.allclose(levels(found)[3], levels(expected)[3], rtol=0, atol=1e-10)


# ------------------------------------------------------------------------------------------------- b1


def written(block: Any) -> tuple[Tensor, Tensor]:
    """Seed and tokens of a B1 for the kit's pyramid and points."""
    pyramid = example_pyramid(DIMS)
    with torch.no_grad():
        state = block(QueryState(example_points()), Scene(pyramid, {"b1": block.prepare(pyramid)}))
    return state.h_BKD, torch.cat([part.tokens_BKTD for part in state.tokens], dim=2)


def inner_of(first: int) -> list[int]:
    """Places of the inner 3×3 in a row-major 5×5 that begins at `first`: rows and columns 1 to 3."""
    return [first + 5 * row + place for row in (1, 2, 3) for place in (1, 2, 3)]


# places among the base's 91: 24 of L1's ring, 8 learned, 25 of L2 from 32, 25 of L3 from 57, 9 of L4 from 82.
# The inner ring is 6 7 8 / 11 13 / 16 17 18 of the 5×5; without its centre (12) later places move up by one
INNER_RING = [6, 7, 8, 11, 12, 15, 16, 17]
KEPT = {
    NoLearnedOffsets: [*range(24), *range(32, 91)],
    Ring3x3: [*INNER_RING, *range(24, 32), *inner_of(32), *inner_of(57), *range(82, 91)],
    L1Only: [*range(32)],
}


@pytest.mark.parametrize(("component", "count"), [(NoLearnedOffsets, 83), (Ring3x3, 43), (L1Only, 32)])
def test_a_smaller_b1_has_some_of_the_tokens_of_the_base(component: Any, count: int) -> None:
    base = make(LocalTokens)
    variant = same_weights(make(component, seed=1), base)
    with torch.no_grad():
        if component is Ring3x3:
            variant.rpe.copy_(base.rpe[inner_of(0)])
        if component is L1Only:
            variant.level_embed.copy_(base.level_embed[0])
    h_BKD, tokens_BKTD = written(base)
    found_h_BKD, found_BKTD = written(variant)
    kept = KEPT[component]
    assert found_BKTD.shape[2] == len(kept) == count
    assert torch.equal(found_h_BKD, h_BKD)
    assert torch.allclose(found_BKTD, tokens_BKTD[:, :, kept], rtol=0, atol=1e-12)
    moved = [(place + 1) % 91 for place in kept]
    assert not torch.allclose(found_BKTD, tokens_BKTD[:, :, moved], atol=0.1)


def test_centre_token_beside_the_tokens_of_the_base() -> None:
    base = make(LocalTokens)
    h_BKD, tokens_BKTD = written(base)
    found_h_BKD, found_BKTD = written(same_weights(make(CentreToken, seed=1), base))
    assert found_BKTD.shape[2] == 92
    assert torch.equal(found_h_BKD, h_BKD)
    others = [*range(12), *range(13, 92)]
    assert torch.allclose(found_BKTD[:, :, others], tokens_BKTD, rtol=0, atol=1e-12)
    # GELU(W_loc [f_q; φ(0)] + b) + e_L1 with φ(0) = (0, 0, 0, 0, 1, 1, 1, 1) for x and the same for y
    l1 = example_pyramid(DIMS).l1.map_BHWC.permute(0, 3, 1, 2)
    grid_BK12 = (2 * example_points() - 1)[:, :, None]
    centre_BKC = F.grid_sample(l1, grid_BK12, align_corners=False)[..., 0].transpose(1, 2)
    code_P = torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1] * 2, dtype=FINE)
    wanted_BKD = F.gelu(base.local(torch.cat([centre_BKC, code_P.expand(2, 17, -1)], dim=-1))) + base.level_embed[0]
    assert torch.allclose(found_BKTD[:, :, 12], wanted_BKD, rtol=0, atol=1e-12)
    assert not torch.allclose(found_BKTD[:, :, 11], wanted_BKD, atol=0.01)


def test_ring_3x3_by_hand() -> None:
    """L2 counts its cells, W_v2 and all else is nothing: a token is the number of the cell that it was read from."""
    dims = Dims(features=1, core=1, heads=1, pyramid=(1, 1, 1, 1))
    block = make(Ring3x3, dims)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(block.value2.weight)
    nothing = Level(torch.zeros(1, 4, 4, 1, dtype=FINE))
    counted = Level(torch.arange(1.0, 17).to(FINE).view(1, 4, 4, 1))
    pyramid = Pyramid(nothing, counted, nothing, nothing)
    # the centre of the first cell, of cell (x, y) = (2, 1), and the corner between cells (1, 1) and (2, 2)
    xy_BK2 = torch.tensor([[[0.125, 0.125], [0.625, 0.375], [0.5, 0.5]]], dtype=FINE)
    found = block(QueryState(xy_BK2), Scene(pyramid, {"b1": block.prepare(pyramid)})).tokens[0].tokens_BKTD
    assert found.shape == (1, 3, 43, 1)
    # rows of the map are 1–4, 5–8, 9–12, 13–16; outside is zero; the mean of 6, 7, 10 and 11 is 8.5
    assert found[0, 0, 16:25, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 5, 6]
    assert found[0, 1, 16:25, 0].tolist() == [2, 3, 4, 6, 7, 8, 10, 11, 12]
    assert found[0, 2, 16:25, 0].tolist() == pytest.approx([3.5, 4.5, 5.5, 7.5, 8.5, 9.5, 11.5, 12.5, 13.5])
    assert not found[0, :, :16].any()
    assert not found[0, :, 25:].any()


@pytest.mark.parametrize("component", [NoLearnedOffsets, Ring3x3, L1Only, CentreToken])
def test_learned_offsets_are_told_where_there_are_any(component: Any) -> None:
    block, pyramid = make(component), example_pyramid(DIMS)
    with torch.no_grad():
        told = block.diagnose(QueryState(example_points()), Scene(pyramid, {"b1": block.prepare(pyramid)}))
    names = {"offset_length_cells", "offset_spread_cells", "offset_saturated"}
    assert set(told) == (set() if component is NoLearnedOffsets else names)


# ------------------------------------------------------------------------------------------------- b3


def attended(block: Any, pyramid: Pyramid, state: QueryState) -> QueryState:
    with torch.no_grad():
        after: QueryState = block(state, Scene(pyramid, {"b3": block.prepare(pyramid)}))
    return after


def test_with_position_starts_as_b3() -> None:
    pyramid, state = example_pyramid(DIMS), example_state(DIMS)
    base, fresh = make(GlobalCrossAttention), WithPosition(WithPosition.Config(), DIMS).to(FINE).eval()
    expected = attended(base, pyramid, state)
    found = attended(same_weights(fresh, base), pyramid, state)
    assert torch.equal(found.h_BKD, expected.h_BKD)
    assert torch.equal(found.attention_BKS, expected.attention_BKS)
    stirred = attended(same_weights(make(WithPosition, seed=1), base), pyramid, state)
    assert not torch.allclose(stirred.attention_BKS, expected.attention_BKS, atol=1e-3)


def test_with_position_learns_from_its_first_step() -> None:
    pyramid, state = example_pyramid(DIMS), example_state(DIMS)
    block = WithPosition(WithPosition.Config(), DIMS).to(FINE)
    after = block(state, Scene(pyramid, {"b3": block.prepare(pyramid)}))
    weight_BKS = torch.linspace(-1, 1, 42, dtype=FINE)
    (after.attention_BKS * weight_BKS).sum().backward()
    for projections in (block.key_position, block.query_position):
        assert all(layer.weight.grad.any() for layer in projections)


def near_or_far(extent: tuple[float, float]) -> tuple[WithPosition, Pyramid]:
    """B3 without content: a query's score of a site is 8·(cos 2π(x_q − x_s) + cos 2π(y_q − y_s)) / √16."""
    dims = Dims(core=16, heads=1, ffn=4, pyramid=(1, 1, 1, 3))
    block = WithPosition(WithPosition.Config(layers=1), dims).to(FINE).eval()
    layer: Any = block.layers[0]
    slowest = [0, 4, 8, 12]  # sin and cos of 2πx, then of 2πy
    with torch.no_grad():
        for parameter in (layer.query.weight, layer.query.bias, layer.key.weight):
            parameter.zero_()
        for place in slowest:
            block.key_position[0].weight[place, place] = 8.0
            block.query_position[0].weight[place, place] = 1.0
    level = Level(torch.randn(1, 2, 3, 3, dtype=FINE, generator=torch.Generator().manual_seed(0)), extent)
    return block, Pyramid(level, level, level, level)


@pytest.mark.parametrize("extent", [(1.0, 1.0), (0.75, 0.5)])
def test_attention_to_positions_by_hand(extent: tuple[float, float]) -> None:
    xy = [(0.1, 0.2), (0.5, 0.75), (0.9, 0.3)]
    block, pyramid = near_or_far(extent)
    state = QueryState(torch.tensor([xy], dtype=FINE), h_BKD=torch.zeros(1, 3, 16, dtype=FINE))
    found_KS = attended(block, pyramid, state).attention_BKS[0]
    for k, (x, y) in enumerate(xy):
        # sites row by row: centres at (i + ½)/3 of the width and (j + ½)/2 of the height that L4 covers
        sites = [((i + 0.5) / 3 * extent[0], (j + 0.5) / 2 * extent[1]) for j in range(2) for i in range(3)]
        raised = [
            math.exp(8 * (math.cos(2 * math.pi * (x - px)) + math.cos(2 * math.pi * (y - py))) / 4) for px, py in sites
        ]
        assert found_KS[k].tolist() == pytest.approx([value / sum(raised) for value in raised], rel=1e-9)
    # a query that is given as (y, x) looks elsewhere
    swapped = replace(state, xy_BK2=state.xy_BK2.flip(-1))
    assert not torch.allclose(attended(block, pyramid, swapped).attention_BKS[0], found_KS, atol=0.01)


def test_codes_of_18_sites_do_not_alias() -> None:
    """Four frequencies tell the sites of a side apart; a fifth, 16 cycles, looks like 2 cycles there."""
    x_S = (torch.arange(18, dtype=FINE) + 0.5) / 18
    fastest_S4 = fourier(torch.stack([x_S, x_S], dim=-1), 5).unflatten(-1, (2, 2, 5))[:, 0]
    # cos 2π·16·x = cos(2π·18·x − 2π·2·x), and 18·x is i + ½: −cos 2π·2·x
    assert torch.allclose(fastest_S4[:, 1, 4], -fastest_S4[:, 1, 1], rtol=0, atol=1e-12)
    assert not torch.allclose(fastest_S4[:, 1, 3].abs(), fastest_S4[:, 1, 1].abs(), atol=0.1)
