"""Names and options → a model: impossible chains are refused, initial weights have keys, points are independent."""

from dataclasses import replace
from itertools import product
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spd_bench import registry
from spd_bench.api import CHAIN, FIELDS, Block, Dims, Encoder, Features, PointDepthModel, QueryState, Scene
from spd_bench.errors import ConfigError
from spd_bench.fused import forms
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart, ComposedModel, build, build_baseline, build_encoder, check
from spd_bench.testing import require_independent_points

SIZE = (70, 84)
"""Input of 5×6 patches, so that L4 has 2×3 sites."""
V13 = {
    "neck": "pyramid",
    "b1": "local_tokens",
    "b2": "local_cross_attention",
    "b3": "global_cross_attention",
    "routing": ("topk_attention", {"r": 4}),
    "b4": "deformable_read",
    "b5": "fused_cross_attention",
    "depth_head": "calibrated_inverse",
}


def part(slot: str, choice: Any) -> ChosenPart:
    name, options = (choice, {}) if isinstance(choice, str) else choice
    return ChosenPart(name, registry.load(slot, name).Config(**options), where=f"suite.yaml:{CHAIN.index(slot) + 1}:3")


def parts(**changes: Any) -> dict[str, ChosenPart]:
    """v13 with other components in some slots."""
    return {slot: part(slot, choice) for slot, choice in (V13 | changes).items()}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder(ChosenPart("patch_descriptors", registry.load("encoder", "patch_descriptors").Config()))


@pytest.fixture(scope="module")
def v13(encoder: Encoder) -> ComposedModel:
    return build(parts(), encoder, seed=0).eval()


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def points(batch: int, count: int) -> Tensor:
    return torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(1))


def refusal(encoder: Encoder, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(parts(**changes), encoder, seed=0)
    return str(caught.value)


# chains


def test_routing_on_attention_that_b3_did_not_compute_is_refused(encoder: Encoder) -> None:
    text = refusal(encoder, b3="skip")
    assert text.startswith("suite.yaml:5:3: ")  # where routing was chosen
    assert 'routing: topk_attention reads "attention", which nothing before it writes' in text
    assert "b3: skip" in text
    hint = "hint: choose a component that writes it (b3: global_cross_attention, b3: with_position), or another routing"
    assert hint in text


def test_a_deformable_read_without_anchors_is_refused(encoder: Encoder) -> None:
    text = refusal(encoder, routing="none")
    assert text.startswith("suite.yaml:6:3: ")
    assert 'b4: deformable_read reads "anchors"' in text
    assert "routing: none" in text
    for routing in ("topk_attention", "nearest", "random", "uniform_grid"):
        assert f"routing: {routing}" in text.split("hint:")[1]


def test_each_stand_in_makes_a_chain_that_works(encoder: Encoder) -> None:
    """What a block names as left out must itself be accepted, with every block's own replacement."""
    for slot in CHAIN:
        left_out = registry.load(slot, part(slot, V13[slot]).name).left_out
        if left_out:
            r = {"r": 4}
            changes = {s: (name, r) if (s, name) == ("routing", "nearest") else name for s, name in left_out.items()}
            check(build(parts(**changes), encoder, seed=0), name=f"without {slot}", image_size=SIZE)


@pytest.mark.parametrize("routing", ["topk_attention", "nearest", "random", "uniform_grid"])
@pytest.mark.parametrize("others", [{}, {"b5": "mean_tokens"}, {"neck": "last_layer", "b2": "skip"}], ids=str)
def test_components_combine_freely(encoder: Encoder, routing: str, others: dict[str, str]) -> None:
    check(build(parts(routing=(routing, {"r": 4}), **others), encoder, seed=0), name="any", image_size=SIZE)


def test_anchors_that_do_not_fit_are_refused_before_training(encoder: Encoder) -> None:
    model = build(parts(routing=("topk_attention", {"r": 7})), encoder, seed=0)
    with pytest.raises(ConfigError, match="7 anchors asked of 6 sites of L4"):
        check(model, name="v13", image_size=SIZE)
    check(model, name="v13", image_size=(98, 84))  # 7×6 patches: 9 sites


# the check


class SeesNoTokens(Block):
    """A B5 that goes on with h alone: whatever B4 reads is in vain."""

    slot = "b5"
    reads = frozenset({"h"})
    writes = frozenset({"h"})

    def __init__(self, config: Any = None, dims: Dims | None = None) -> None:
        super().__init__(config, dims or Dims())
        self.mix = nn.Linear(192, 192)

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        return replace(state, h_BKD=self.mix(state.h_BKD))


class SpareParts(SeesNoTokens):
    """A B5 with a parameter that nothing uses, unless it is declared to have no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(3))


class DeclaredParts(SpareParts):
    no_gradient = ("spa*",)


class OneDepthTooMany(SeesNoTokens):
    slot = "depth_head"

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        return replace(state, depth_m_BK=torch.cat([state.h_BKD, state.h_BKD], dim=1)[..., 0])


def with_block(model: ComposedModel, block: Block, slot: str) -> ComposedModel:
    blocks = {s: model.block(s) for s in model.block_slots}
    return ComposedModel(model.encoder, model.neck, blocks | {slot: block})


def test_parameters_that_cannot_change_the_depth_are_refused(encoder: Encoder) -> None:
    model = with_block(build(parts(), encoder, seed=0), SeesNoTokens(), "b5")
    dead = sum(1 for _ in model.block("b4").parameters())
    with pytest.raises(ConfigError) as caught:
        check(model, name="blind", image_size=SIZE)
    text = str(caught.value)
    assert f"blind: {dead} parameters of b4 cannot change the depth (first: b4." in text
    assert "hint: add a block that reads what they write, or leave them out too" in text
    # negative control: with b4 left out as well there is nothing dead
    model = build(parts(routing="none", b4="skip"), encoder, seed=0)
    check(with_block(model, SeesNoTokens(), "b5"), name="blind", image_size=SIZE)


def test_a_parameter_without_gradient_must_be_declared(encoder: Encoder) -> None:
    model = build(parts(routing="none", b4="skip"), encoder, seed=0)
    with pytest.raises(ConfigError, match=r"1 parameters of b5 cannot change the depth \(first: b5\.spare\)"):
        check(with_block(model, SpareParts(), "b5"), name="spare", image_size=SIZE)
    check(with_block(model, DeclaredParts(), "b5"), name="spare", image_size=SIZE)


def test_a_depth_of_the_wrong_shape_is_refused(encoder: Encoder) -> None:
    model = with_block(build(parts(), encoder, seed=0), OneDepthTooMany(), "depth_head")
    with pytest.raises(ConfigError, match=r"odd: decode gave shape \(2, 2\) for 2 images and 1 queries"):
        check(model, name="odd", image_size=SIZE)


def test_the_check_leaves_the_model_and_the_global_generator_alone(encoder: Encoder) -> None:
    model = build(parts(), encoder, seed=0).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.random.get_rng_state()
    check(model, name="v13", image_size=SIZE)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert model.encoder is encoder
    assert not model.training
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert all(b.device.type == "cpu" for b in encoder.buffers())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_any_number_of_queries_at_the_size_of_the_paper(v13: ComposedModel) -> None:
    """One scene serves every K of §8, in training and outside it; shapes alone, on the meta device."""
    ghost = compose._on_meta(v13)
    maps = torch.empty(1, 37, 37, 384, device="meta")
    scene = ghost.prepare(Features((maps, maps, maps, maps)))
    for training, count in product((True, False), (1, 64, 256, 1024)):
        depth_m_BK = ghost.train(training).decode(scene, torch.empty(1, count, 2, device="meta"))
        assert depth_m_BK.shape == (1, count)


# initial weights


def state(model: PointDepthModel, slot: str) -> dict[str, Tensor]:
    return {n: v for n, v in model.state_dict().items() if n.startswith(slot + ".")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_shared_block_starts_the_same_in_every_composition(encoder: Encoder) -> None:
    full = build(parts(), encoder, seed=3)
    for changes in ({"b2": "skip"}, {"b3": "skip", "routing": ("nearest", {"r": 4})}, {"b5": "mean_tokens"}):
        other = build(parts(**changes), encoder, seed=3)
        for slot in V13.keys() - changes.keys():
            assert same(state(full, slot), state(other, slot)), (changes, slot)


def test_another_seed_starts_elsewhere(encoder: Encoder) -> None:
    one, other = build(parts(), encoder, seed=0), build(parts(), encoder, seed=1)
    for slot in V13.keys() - {"routing"}:
        assert not same(state(one, slot), state(other, slot)), slot
    assert same(one.state_dict(), build(parts(), encoder, seed=0).state_dict())


def test_slots_draw_apart(encoder: Encoder) -> None:
    """B2 and B5 are layers of one class: equal initial weights would tie them."""
    model = build(parts(), encoder, seed=0)
    b2, b5 = (model.block(slot).get_parameter("layers.0.query.weight") for slot in ("b2", "b5"))
    assert not torch.equal(b2, b5)


def test_building_leaves_the_global_generators_alone(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(11)
    seeded.clear()
    before = torch.random.get_rng_state()
    one = build(parts(), encoder, seed=0)
    build_baseline(ChosenPart("bilinear_mlp", registry.load("baseline", "bilinear_mlp").Config()), encoder, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert seeded == []  # generators of GPUs are not reseeded either
    torch.manual_seed(12)
    assert same(one.state_dict(), build(parts(), encoder, seed=0).state_dict())  # nor do they matter


def test_a_baseline_starts_from_seed_and_name(encoder: Encoder) -> None:
    mlp = ChosenPart("bilinear_mlp", registry.load("baseline", "bilinear_mlp").Config())
    first, again, other = (build_baseline(mlp, encoder, seed=seed) for seed in (0, 0, 1))
    weights = dict(first.trainable())
    assert all(torch.equal(weights[name], value) for name, value in again.trainable())
    assert not all(torch.equal(weights[name], value) for name, value in other.trainable())


def test_only_the_chain_is_trainable(encoder: Encoder, v13: ComposedModel) -> None:
    class Learned(type(encoder)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(encoder.config)
            self.weight = nn.Parameter(torch.ones(3))

    model = build(parts(), Learned(), seed=0)
    assert "encoder.weight" in dict(model.named_parameters())
    names = [name for name, _ in model.trainable()]
    assert {name.split(".")[0] for name in names} == set(CHAIN) - {"routing"}
    assert names == [name for name, _ in v13.trainable()]
    model.neck.requires_grad_(False)
    assert not any(name.startswith("neck.") for name, _ in model.trainable())


def test_a_built_encoder_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Learned(Encoder):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, image_B3HW: Tensor) -> Features:
            raise NotImplementedError

        def digest(self) -> str:
            return ""

    monkeypatch.setattr(registry, "load", lambda slot, name: Learned)
    built = build_encoder(ChosenPart("learned", None))
    assert not built.training
    assert not any(p.requires_grad for p in built.parameters())


# decoding


@torch.no_grad()
def test_chunks_of_queries_equal_the_whole(v13: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, xy_BK2 = v13.prepare(v13.encode(images())), points(2, 37)
    whole = v13.decode(scene, xy_BK2)
    sizes: list[int] = []
    original = v13._decode_chunk
    monkeypatch.setattr(v13, "_decode_chunk", lambda s, xy: (sizes.append(xy.shape[1]), original(s, xy))[1])
    for limit, expected in ((20, [10, 9, 9, 9]), (1, [1] * 37), (10_000, [37])):
        sizes.clear()
        monkeypatch.setattr(compose, "QUERY_CHUNK", limit)
        assert torch.allclose(v13.decode(scene, xy_BK2), whole, rtol=1e-6)
        assert sizes == expected  # a chunk counts the queries of all images


class Noted(TorchDispatchMode):
    """Writes down which operators run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


WAITS = {"aten::lift_fresh", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}
"""Operators that copy to or from a GPU, so that all of its work must be waited for and no graph can be captured."""


@torch.no_grad()
@pytest.mark.parametrize("name", ["v13", "dpt_trained", "dpt_sparse", "bilinear_mlp"])
def test_decoding_again_waits_for_no_device(encoder: Encoder, v13: ComposedModel, name: str) -> None:
    config = {} if name == "v13" else registry.load("baseline", name).Config()
    model = v13 if name == "v13" else build_baseline(ChosenPart(name, config), encoder, seed=0).eval()
    with forms.stock():  # the form that runs on a GPU
        scene = model.prepare(model.encode(images()))
        model.decode(scene, points(2, 5))
        with Noted() as noted:
            model.decode(scene, points(2, 5))
            made = noted.names & WAITS
            float(points(1, 1)[0, 0, 0])
    assert made == set()
    assert noted.names & WAITS  # what it must not do would have been seen


@torch.no_grad()
def test_what_no_later_block_reads_is_let_go(v13: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, set[str]] = {}
    for slot in v13.block_slots:
        block, original = v13.block(slot), v13.block(slot).forward

        def noted(state: QueryState, scene: Scene, slot: str = slot, original: Any = original) -> QueryState:
            given[slot] = {name for name, field in FIELDS.items() if getattr(state, field) is not None}
            return cast(QueryState, original(state, scene))

        monkeypatch.setattr(block, "forward", noted)
    v13.decode(v13.prepare(v13.encode(images())), points(1, 3))
    assert given == {
        "b1": set(),
        "b2": {"h", "tokens"},
        "b3": {"h", "tokens"},
        "routing": {"h", "tokens", "attention"},
        "b4": {"h", "tokens", "anchors"},
        "b5": {"h", "tokens"},
        "depth_head": {"h"},
    }


@torch.no_grad()
@pytest.mark.parametrize("routing", ["topk_attention", "random"])
def test_a_point_gets_the_same_depth_whichever_others_are_asked(encoder: Encoder, routing: str) -> None:
    model = build(parts(routing=(routing, {"r": 4})), encoder, seed=0).eval()
    scene, xy_BK2 = model.prepare(model.encode(images())), points(2, 37)
    together = model.decode(scene, xy_BK2)
    alone = torch.cat([model.decode(scene, xy_BK2[:, k : k + 1]) for k in range(37)], dim=1)
    assert torch.allclose(alone, together, rtol=1e-6, atol=0)
    assert together.std() > 1e-3  # the points do differ


@torch.no_grad()
def test_a_point_gets_the_same_depth_at_k_1_and_k_1024_in_any_order(v13: ComposedModel) -> None:
    require_independent_points(v13, v13.prepare(v13.encode(images())), points(2, 1024))


@torch.no_grad()
def test_a_block_that_looks_at_its_chunk_is_caught(v13: ComposedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = v13._decode_chunk

    def centred(scene: Scene, xy_BK2: Tensor) -> Tensor:
        depth_m_BK = whole(scene, xy_BK2)
        return depth_m_BK + 1e-3 * depth_m_BK.mean(1, keepdim=True)

    monkeypatch.setattr(v13, "_decode_chunk", centred)
    with pytest.raises(AssertionError, match="1024 points in another order"):
        require_independent_points(v13, v13.prepare(v13.encode(images())), points(2, 1024))


@torch.no_grad()
def test_an_image_gets_the_same_depth_whichever_others_are_in_the_batch(v13: ComposedModel) -> None:
    pair, xy_BK2 = images(2), points(2, 9)
    together = v13.decode(v13.prepare(v13.encode(pair)), xy_BK2)
    for i in range(2):
        alone = v13.decode(v13.prepare(v13.encode(pair[i : i + 1])), xy_BK2[i : i + 1])
        assert torch.allclose(alone, together[i : i + 1], rtol=1e-5)
    assert not torch.allclose(together[0], together[1], rtol=1e-3)


def test_attention_dropout_is_drawn_in_training_only(encoder: Encoder) -> None:
    model = build(parts(), encoder, seed=0)
    scene, xy_BK2 = model.prepare(model.encode(images())), points(2, 5)
    for training in (True, False):
        model.train(training)
        once, again = model.decode(scene, xy_BK2), model.decode(scene, xy_BK2)
        assert torch.equal(once, again) != training
