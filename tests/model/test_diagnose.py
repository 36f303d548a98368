"""What is watched of a composition's blocks: values by hand, and that watching changes nothing."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from spd_bench import registry
from spd_bench.api import CHAIN, Anchors, Features, Level, Pyramid, QueryState, Scene
from spd_bench.model.compose import ChosenPart, ComposedModel, build
from spd_bench.model.diagnose import _of_anchors, _of_attention, diagnose
from spd_bench.testing import PatchEncoder, example_features, example_points

BASE = {
    "neck": "pyramid",
    "b1": "local_tokens",
    "b2": "local_cross_attention",
    "b3": "global_cross_attention",
    "routing": "topk_attention",
    "b4": "deformable_read",
    "b5": "fused_cross_attention",
    "depth_head": "calibrated_inverse",
}
R = 4


def composed(**changes: str) -> ComposedModel:
    names = BASE | changes
    configs: dict[str, Any] = {slot: registry.load(slot, name).Config() for slot, name in names.items()}
    if "r" in registry.load("routing", names["routing"]).Config.model_fields:
        configs["routing"] = registry.load("routing", names["routing"]).Config(r=R)
    parts = {slot: ChosenPart(names[slot], configs[slot]) for slot in CHAIN}
    return build(parts, PatchEncoder(), seed=0)


@pytest.fixture
def features() -> Features:
    return Features(tuple(m.float() for m in example_features(384).maps_BHWC))  # type: ignore[arg-type]


@pytest.fixture
def xy_BK2() -> Tensor:
    return example_points().float()


def scene_2x2() -> Scene:
    """A pyramid whose L4 has 2×2 sites over the whole image; their centres are (¼ or ¾, ¼ or ¾)."""
    level = Level(torch.zeros(1, 2, 2, 1))
    return Scene(Pyramid(level, level, level, level))


def test_entropy_of_attention_by_hand() -> None:
    # four sites; the first query sees all alike: entropy ln 4 of ln 4, so 1, and a peak of ¼;
    # the second sees two alike: ln 2 / ln 4 = ½, peak ½. Means: ¾ and ⅜
    alpha_BKS = torch.tensor([[[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]]])
    state = QueryState(torch.zeros(1, 2, 2))
    found = _of_attention(state, replace(state, attention_BKS=alpha_BKS))
    assert found == pytest.approx({"attention_entropy": 0.75, "attention_peak": 0.375})


def test_anchors_by_hand() -> None:
    # site 0 is at (¼, ¼), site 1 at (¾, ¼), site 2 at (¼, ¾); both queries at (¼, ¼)
    # query 0 chose {0, 1}, query 1 {0, 2}: 3 of 4 sites covered, 1 of 2 anchors in common
    # distances 0, ½ and 0, ½: mean ¼
    state = QueryState(torch.full((1, 2, 2), 0.25))
    found = _of_anchors(state, replace(state, anchors=Anchors(torch.tensor([[[0, 1], [0, 2]]]))), scene_2x2())
    assert found == pytest.approx({"anchor_coverage": 0.75, "anchor_overlap": 0.5, "anchor_distance": 0.25})


def test_one_query_has_nothing_to_overlap_with() -> None:
    state = QueryState(torch.full((1, 1, 2), 0.25))
    found = _of_anchors(state, replace(state, anchors=Anchors(torch.tensor([[[0, 1]]]))), scene_2x2())
    assert "anchor_overlap" not in found


def test_only_the_block_that_writes_is_watched() -> None:
    state = QueryState(torch.zeros(1, 1, 2), attention_BKS=torch.ones(1, 1, 4) / 4)
    assert _of_attention(state, replace(state, h_BKD=torch.zeros(1, 1, 8))) == {}


def test_every_block_of_the_full_model_is_told(features: Features, xy_BK2: Tensor) -> None:
    found = diagnose(composed(), features, xy_BK2)
    assert {name.split("/")[0] for name in found} == {"b1", "b3", "routing", "b4", "depth_head"}
    assert all(math.isfinite(value) for value in found.values())
    assert found["b4/lookups"] == R * 72  # §6.4: 6 heads × 3 levels × 4 samples per anchor
    # before training the offsets are a ring; a head's direction has one side of length 1..4 and the other no
    # longer, the same for every anchor, and the weights are uniform
    assert found["b4/offset_spread_cells"] == pytest.approx(0, abs=1e-6)
    assert found["b4/weight_entropy"] == pytest.approx(1)
    # §5.4: s = 1 and ρ = 1/2.7 m for every image before training
    assert found["depth_head/scale_mean"] == pytest.approx(1, abs=1e-6)
    assert found["depth_head/shift_mean"] == pytest.approx(math.log(math.expm1(1 / 2.7)), abs=1e-6)
    assert found["depth_head/scale_spread"] == pytest.approx(0, abs=1e-6)


def test_what_a_composition_lacks_is_not_told(features: Features, xy_BK2: Tensor) -> None:
    found = diagnose(composed(b3="skip", routing="nearest"), features, xy_BK2)
    assert not [name for name in found if "attention" in name]
    assert found["routing/anchor_distance"] > 0
    without_anchors = diagnose(composed(routing="none", b4="skip"), features, xy_BK2)
    assert not [name for name in without_anchors if "anchor" in name or name.startswith("b4/")]


def test_b1_offsets_by_hand(features: Features, xy_BK2: Tensor) -> None:
    model = composed()
    offset = model.get_submodule("b1.offset")
    with torch.no_grad():
        offset.weight.zero_()  # type: ignore[union-attr, operator]
        offset.bias.fill_(20.0)  # type: ignore[union-attr, operator]
    found = diagnose(model, features, xy_BK2)
    # tanh(20) = 1: every offset is (6, 6), of length 6·√2, the same for all queries, held by r_max
    assert found["b1/offset_length_cells"] == pytest.approx(6 * math.sqrt(2))
    assert found["b1/offset_spread_cells"] == pytest.approx(0, abs=1e-6)
    assert found["b1/offset_saturated"] == 1


def test_watching_changes_nothing(features: Features, xy_BK2: Tensor) -> None:
    model = composed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    diagnose(model, features, xy_BK2)
    assert torch.equal(torch.rand(4), expected), "the random state has moved"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
