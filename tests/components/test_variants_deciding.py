"""Variants of routing, B4 and the depth head: what each computes, by hand, and that it is one change from what it is
compared with."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import CHAIN, Anchors, Block, Dims, Encoder, Features, Level, Pyramid, QueryState, Scene
from spd_bench.geometry import cell_centres
from spd_bench.model.compose import ChosenPart, ComposedModel, build, build_encoder, check
from spd_bench.model.describe import describe_component
from spd_bench.testing import BlockContract
from spd_bench.train.losses import HuberSilog
from spd_components.blocks import b4_deformable_read, b4_nearest_read
from spd_components.blocks.b4_deformable_read import DeformableRead, ring_offsets
from spd_components.blocks.b4_fixed_offsets import FixedOffsets
from spd_components.blocks.b4_nearest_read import NearestRead
from spd_components.depth_heads.bins import Bins
from spd_components.depth_heads.calibrated_inverse import CalibratedInverse
from spd_components.depth_heads.log_depth import LogDepth
from spd_components.depth_heads.uncalibrated import Uncalibrated
from spd_components.necks.pyramid import PyramidNeck
from spd_components.routing.learned_score import LearnedScore
from spd_components.routing.no_gradient import NoGradient
from spd_components.routing.topk_attention import TopKAttention

SIZE = (70, 84)
"""Input of 5×6 patches, so that L4 has 2×3 sites."""
V13: dict[str, Any] = {
    "neck": "pyramid",
    "b1": "local_tokens",
    "b2": "local_cross_attention",
    "b3": "global_cross_attention",
    "routing": ("topk_attention", {"r": 4}),
    "b4": "deformable_read",
    "b5": "fused_cross_attention",
    "depth_head": "calibrated_inverse",
}
VARIANTS = {
    "no_gradient": {"routing": ("no_gradient", {"r": 4})},
    "learned_score": {"routing": ("learned_score", {"r": 4})},
    "learned_score without B3": {"routing": ("learned_score", {"r": 4}), "b3": "skip"},
    "fixed_offsets": {"b4": "fixed_offsets"},
    "fixed_offsets, two levels": {"b4": ("fixed_offsets", {"levels": [2, 4], "samples": 2})},
    "nearest_read": {"b4": "nearest_read"},
    "uncalibrated": {"depth_head": "uncalibrated"},
    "log_depth": {"depth_head": "log_depth"},
    "bins": {"depth_head": "bins"},
}
COMPONENTS = (NoGradient, LearnedScore, FixedOffsets, NearestRead, Uncalibrated, LogDepth, Bins)
each_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())


def part(slot: str, choice: Any) -> ChosenPart:
    name, options = (choice, {}) if isinstance(choice, str) else choice
    return ChosenPart(name, registry.load(slot, name).Config(**options))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_encoder(ChosenPart("patch_descriptors", registry.load("encoder", "patch_descriptors").Config()))


def model_of(encoder: Encoder, changes: dict[str, Any]) -> ComposedModel:
    return build({slot: part(slot, choice) for slot, choice in (V13 | changes).items()}, encoder, seed=0)


def images() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def points(count: int) -> Tensor:
    return torch.rand(2, count, 2, generator=torch.Generator().manual_seed(1))


# in the whole chain


@each_variant
def test_the_check_before_training_passes(encoder: Encoder, changes: dict[str, Any]) -> None:
    check(model_of(encoder, changes), name="variant", image_size=SIZE)


@each_variant
def test_one_step_of_training_reaches_every_parameter(encoder: Encoder, changes: dict[str, Any]) -> None:
    """Finite gradients, none missing but those that a block excuses, and a lower loss on the same points."""
    model = model_of(encoder, changes)
    stir = torch.Generator().manual_seed(2)
    with torch.no_grad():  # initial zeros hide what lies before them
        for _, parameter in model.trainable():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=stir))
    loss = HuberSilog(HuberSilog.Config())
    features, xy_BK2 = model.encode(images()), points(16)
    truth_m_BK = 1 + 3 * xy_BK2.mean(-1)

    def total() -> Tensor:
        parts = loss(model.eval().decode(model.prepare(features), xy_BK2), truth_m_BK)
        return parts.point + 0.5 * parts.structure

    before = total()
    before.backward()
    for name, parameter in model.trainable():
        if parameter.grad is None:
            assert name.endswith("key.bias")
        else:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0 or not name.startswith(tuple(changes)), name
    torch.optim.SGD([p for _, p in model.trainable()], lr=1e-4).step()
    assert total() < before


@torch.no_grad()
@each_variant
def test_a_point_gets_the_same_depth_whichever_others_are_asked(encoder: Encoder, changes: dict[str, Any]) -> None:
    model = model_of(encoder, changes).eval()
    scene, xy_BK2 = model.prepare(model.encode(images())), points(21)
    together = model.decode(scene, xy_BK2)
    alone = torch.cat([model.decode(scene, xy_BK2[:, k : k + 1]) for k in range(21)], dim=1)
    assert torch.allclose(alone, together, rtol=2e-6, atol=0)
    assert together.std() > 1e-3  # the points do differ


@pytest.mark.parametrize(
    ("component", "expected", "compared"),
    [
        (NoGradient, 0, 0),
        # LN 2·192; W_q 192·32 + 32; W_k 384·32
        (LearnedScore, 384 + 6_176 + 12_288, 0),
        # without W^Δ and b^Δ, 192·144 + 144
        (FixedOffsets, 368_472 - 27_792, 368_472),
        (NearestRead, 368_472 - 27_792, 368_472),
        # 192·384 + 384 + 384 + 1, and s and b
        (Uncalibrated, 74_497 + 2, 75_267),
        (LogDepth, 75_267, 75_267),
        # 192·384 + 384, 384·64 + 64
        (Bins, 74_112 + 24_640, 75_267),
    ],
)
def test_parameters_beside_the_base(component: type[Block], expected: int, compared: int) -> None:
    base = {"routing": TopKAttention, "b4": DeformableRead, "depth_head": CalibratedInverse}[component.slot]
    counts = [sum(p.numel() for p in c(c.Config(), Dims()).parameters()) for c in (component, base)]
    assert counts == [expected, compared]


@pytest.mark.parametrize("component", COMPONENTS)
def test_describe_says_why_the_comparison_is_fair(component: type[Block]) -> None:
    (name,) = [e.name for e in registry.entries(component.slot) if registry.load(e.slot, e.name) is component]
    text = describe_component(f"{component.slot}/{name}")
    assert len([*text.replace("\n", " ").split("fair comparison")]) == 2
    rows: set[str] = set(component.budget.values())
    assert rows <= set(DeformableRead.budget.values()) | set(CalibratedInverse.budget.values())


# routing


def of_l4(l4_BSC: Tensor, rows: int) -> Pyramid:
    """A pyramid of which only L4 matters, with `rows` rows of cells."""
    level = Level(l4_BSC.unflatten(1, (rows, -1)))
    return Pyramid(level, level, level, level)


def test_no_gradient_takes_the_anchors_of_topk() -> None:
    attention_BKS = torch.rand(2, 9, 30, generator=torch.Generator().manual_seed(0))
    attention_BKS[0, 0] = 1 / 30  # all tied: the first eight
    state = QueryState(torch.zeros(2, 9, 2), attention_BKS=attention_BKS)
    scene = Scene(of_l4(torch.zeros(2, 30, 1), 5))
    found = {c: c(c.Config(r=8), Dims())(state, scene).anchors for c in (NoGradient, TopKAttention)}
    assert torch.equal(found[NoGradient].site_BKR, found[TopKAttention].site_BKR)
    assert found[NoGradient].site_BKR[0, 0].tolist() == [*range(8)]


def through_the_choice(encoder: Encoder, routing: str) -> Tensor | None:
    """Gradient that B4's evidence sends to ᾱ: through the routing, since h is held fixed."""
    model = model_of(encoder, {"routing": (routing, {"r": 4})}).eval()
    scene = model.prepare(model.encode(images()))
    before = {slot: state for slot, state, _ in model.states(scene, points(5))}["routing"]
    assert before.h_BKD is not None
    assert before.attention_BKS is not None
    attention_BKS = before.attention_BKS.detach().requires_grad_()
    state = replace(before, h_BKD=before.h_BKD.detach(), attention_BKS=attention_BKS)
    tokens = model.block("b4")(model.block("routing")(state, scene), scene).tokens
    assert tokens is not None
    (grad_BKS,) = torch.autograd.grad(tokens[-1].tokens_BKTD.square().sum(), attention_BKS, allow_unused=True)
    return grad_BKS


def test_no_gradient_cuts_what_topk_passes(encoder: Encoder) -> None:
    assert through_the_choice(encoder, "no_gradient") is None
    passed_BKS = through_the_choice(encoder, "topk_attention")
    assert passed_BKS is not None
    assert passed_BKS.abs().max() > 0


SCORED = Dims(core=2, heads=1, pyramid=(2, 2, 2, 2))
"""Two channels everywhere, for scores by hand."""


def scorer(component: type[LearnedScore], r: int) -> LearnedScore:
    """W_q = W_k = 1, b_q = 0: σ_s = LN(h)·L4_s / √2."""
    routing = component(component.Config(r=r, width=2), SCORED).double()
    for parameter, value in ((routing.query.weight, torch.eye(2)), (routing.key.weight, torch.eye(2))):
        parameter.data.copy_(value)
    nn.init.zeros_(routing.query.bias)
    return routing


def expect_scores_by_hand(component: type[LearnedScore]) -> None:
    """h = (5, 3) has LN(h) = (1, −1)/√(1 + 1e-5), q below.

    Sites (0, 0), (ln 8, 0), (0, −ln 2), (0, 0) and q = (1, −1) give σ·√2 = 0, ln 8, ln 2, 0: the order is
    1, 2, then the tied 0 and 3. With √2 in the keys the weights would be 1, 8, 2, 1 parts of 12.
    """
    root = math.sqrt(2)
    sites = [[0.0, 0.0], [root * math.log(8), 0.0], [0.0, -root * math.log(2)], [0.0, 0.0]]
    l4_BSC = torch.tensor([sites], dtype=torch.float64).requires_grad_()
    routing, pyramid = scorer(component, 3), of_l4(l4_BSC, 2)
    # LN's eps takes 5e-6 off q, and as much off the logarithms
    h_BKD = torch.tensor([[[5.0, 3.0]]], dtype=torch.float64)
    state = QueryState(torch.zeros(1, 1, 2).double(), h_BKD=h_BKD)
    anchors = routing(state, Scene(pyramid, {"routing": routing.prepare(pyramid)})).anchors
    assert anchors is not None
    assert anchors.site_BKR.tolist() == [[[1, 2, 0]]]
    assert anchors.gate_BKR is not None
    assert torch.equal(anchors.gate_BKR, torch.ones(1, 1, 3, dtype=torch.float64))
    # ∂w_1/∂σ_s = w_1(δ_1s − w_s) with w = (1, 8, 2, 1)/12, and ∂σ_s/∂L4_s = q/√2 = (1, −1)/√2
    (grad_BSC,) = torch.autograd.grad(anchors.gate_BKR[0, 0, 0], l4_BSC)
    expected = 8 / 12 * torch.tensor([-1 / 12, 4 / 12, -2 / 12, -1 / 12], dtype=torch.float64) / root
    assert torch.allclose(grad_BSC[0, :, 0], expected, atol=1e-4)
    assert torch.allclose(grad_BSC[0, :, 1], -expected, atol=1e-4)


def test_learned_score_by_hand() -> None:
    expect_scores_by_hand(LearnedScore)


class WithoutRoot(LearnedScore):
    """Forgets 1/√Z."""

    def _weights(self, state: QueryState, scene: Scene) -> Tensor:
        return (self.query(self.query_norm(state.h_BKD)) @ scene.prepared["routing"]).softmax(-1)  # type: ignore[no-any-return]


class Farthest(LearnedScore):
    """Takes the smallest scores."""

    def _weights(self, state: QueryState, scene: Scene) -> Tensor:
        return -super()._weights(state, scene)


class Unnormalised(LearnedScore):
    """Reads h as it is."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.query_norm = nn.Identity()  # type: ignore[assignment]


@pytest.mark.parametrize("twin", [WithoutRoot, Farthest, Unnormalised])
def test_wrong_scores_are_noticed(twin: type[LearnedScore]) -> None:
    with pytest.raises(AssertionError):
        expect_scores_by_hand(twin)


def test_learned_score_with_equal_sites_takes_the_first() -> None:
    routing, pyramid = scorer(LearnedScore, 5), of_l4(torch.ones(1, 12, 2).double(), 3)
    state = QueryState(torch.zeros(1, 3, 2).double(), h_BKD=torch.randn(1, 3, 2).double())
    scene = Scene(pyramid, {"routing": routing.prepare(pyramid)})
    assert routing(state, scene).anchors.site_BKR.tolist() == [[[*range(5)]] * 3]  # type: ignore[union-attr]
    # equal weights: entropy ln 12 / ln 12, each 1/12
    with torch.no_grad():
        told = routing.diagnose(state, scene)
    assert told == pytest.approx({"score_entropy": 1, "score_peak": 1 / 12})


def test_learned_score_learns_through_the_gate_alone(encoder: Encoder) -> None:
    """What B4 does with its anchors is all that teaches the score."""
    model = model_of(encoder, {"routing": ("learned_score", {"r": 4})})
    model.decode(model.prepare(model.encode(images())), points(8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.block("routing").parameters())
    cut = model_of(encoder, {"routing": ("learned_score", {"r": 4}), "b4": "skip"})
    cut.decode(cut.prepare(cut.encode(images())), points(8)).sum().backward()
    assert all(p.grad is None for p in cut.block("routing").parameters())


# depth heads


def head_of(component: type[Any], *, code: Sequence[float], **options: Any) -> Any:
    """A head whose MLP gives `code` whatever h is."""
    head = component(component.Config(**options), Dims()).double()
    nn.init.zeros_(head.out.weight)
    head.out.bias.data.copy_(torch.tensor(code, dtype=torch.float64))
    return head


def depths(head: Any, *, images: int = 1, seed: int = 0) -> Tensor:
    """Depth of four queries of `images` images with random h and L4."""
    g = torch.Generator().manual_seed(seed)
    pyramid = of_l4(torch.randn(images, 6, 384, generator=g, dtype=torch.float64), 2)
    h_BKD = torch.randn(images, 4, 192, generator=g, dtype=torch.float64)
    state = QueryState(torch.rand(images, 4, 2, generator=g, dtype=torch.float64), h_BKD=h_BKD)
    found: Tensor = head(state, Scene(pyramid, {"depth_head": head.prepare(pyramid)})).depth_m_BK
    return found


@pytest.mark.parametrize("component", [CalibratedInverse, Uncalibrated, LogDepth])
def test_heads_start_at_2_7_metres(component: type[Block]) -> None:
    found = depths(head_of(component, code=[0.0]), images=3).detach()
    assert torch.allclose(found, torch.full((3, 4), 2.7, dtype=torch.float64), rtol=1e-5)


def test_uncalibrated_is_calibrated_inverse_before_training() -> None:
    """The same MLP, link and start: with the same weights the same depths, exactly."""
    plain, base = (c(c.Config(), Dims()).double() for c in (Uncalibrated, CalibratedInverse))
    plain.load_state_dict({n: v for n, v in base.state_dict().items() if n.startswith(("hidden", "out"))}, strict=False)
    # initial s and b are float32 numbers, rounded alike
    assert torch.equal(depths(plain, images=3), depths(base, images=3))


def test_uncalibrated_by_hand() -> None:
    # s = softplus(x) = 2, b = 0.5, r = 3: ρ = softplus(6.5) + 1e-6
    head = head_of(Uncalibrated, code=[3.0])
    nn.init.constant_(head.scale, math.log(math.expm1(2.0)))
    nn.init.constant_(head.shift, 0.5)
    expected = 1 / (math.log1p(math.exp(6.5)) + 1e-6)
    assert depths(head).flatten().tolist() == pytest.approx([expected] * 4, rel=1e-12)


@torch.no_grad()
def test_uncalibrated_tells_its_scale_and_shift() -> None:
    state = QueryState(torch.zeros(1, 1, 2))
    told = Uncalibrated(Uncalibrated.Config(), Dims()).diagnose(state, Scene(of_l4(torch.zeros(1, 4, 384), 2)))
    # s = 1, and softplus(b) = 1/2.7
    assert told == pytest.approx({"scale_mean": 1.0, "shift_mean": math.log(math.expm1(1 / 2.7))}, rel=1e-6)


def test_uncalibrated_sees_no_image() -> None:
    """The same h gives the same depth under any L4; the calibrated heads differ there."""
    for component, same in ((Uncalibrated, True), (Bins, True), (CalibratedInverse, False), (LogDepth, False)):
        head = component(component.Config(), Dims()).double()
        for parameter in head.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).double()
        state = QueryState(torch.zeros(1, 1, 2).double(), h_BKD=torch.ones(1, 1, 192).double())
        pyramids = [of_l4(torch.full((1, 4, 384), value).double(), 2) for value in (0.0, 1.0)]
        dark, light = (head(state, Scene(p, {"depth_head": head.prepare(p)})).depth_m_BK for p in pyramids)
        assert torch.equal(dark, light) == same, component


def test_log_depth_by_hand() -> None:
    # s = 2, b = ln 3, r = ¼: d = exp(½ + ln 3) = 3·√e
    head = head_of(LogDepth, code=[0.25])
    nn.init.constant_(head.scale.bias, math.log(math.expm1(2.0)))
    nn.init.constant_(head.shift.bias, math.log(3))
    assert depths(head).flatten().tolist() == pytest.approx([3 * math.sqrt(math.e)] * 4, rel=1e-12)


@pytest.mark.parametrize(("code", "expected"), [(1e4, 1e6), (-1e4, 1e-6)])
def test_log_depth_cannot_leave_float32(code: float, expected: float) -> None:
    """Depth, both terms of the loss and their gradients are finite; without the bound they are not."""

    def finite(head: Any) -> bool:
        state = QueryState(torch.zeros(1, 3, 2), h_BKD=torch.zeros(1, 3, 192))
        pyramid = of_l4(torch.zeros(1, 4, 384), 2)
        found_m_BK = head(state, Scene(pyramid, {"depth_head": head.prepare(pyramid)})).depth_m_BK
        sum(HuberSilog(HuberSilog.Config())(found_m_BK, torch.tensor([[1.0, 2.0, 3.0]]))).backward()  # type: ignore[union-attr]
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        return bool(found_m_BK.isfinite().all()) and all(bool(g.isfinite().all()) for g in gradients)

    head = head_of(LogDepth, code=[code])
    assert depths(head).flatten().tolist() == pytest.approx([expected] * 4, rel=1e-9)
    assert finite(head.float())

    class Unbounded(LogDepth):
        """Trusts exp."""

        def link(self, z_BK: Tensor) -> Tensor:
            return z_BK.exp()

    assert not finite(head_of(Unbounded, code=[code]).float())


def expect_bins_by_hand(component: type[Bins]) -> None:
    """Three depths 0.1, 1, 10 m with weights 1, 2, 1 of 4: 0.025 + 0.5 + 2.5 = 3.025 m."""
    head = head_of(component, code=[5.0, 5 + math.log(2), 5.0], n_bins=3)
    assert depths(head).flatten().tolist() == pytest.approx([3.025] * 4, rel=1e-6)


def test_bins_by_hand() -> None:
    expect_bins_by_hand(Bins)


class EvenlySpaced(Bins):
    """Depths 0.1, 5.05, 10 m."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.register_buffer("centre_m_N", torch.linspace(config.min_m, config.max_m, config.n_bins), persistent=False)


class InLogarithms(Bins):
    """Means the logarithm: exp(Σ p ln c), which is 1 m for weights that are symmetric around 1 m."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        return replace(state, depth_m_BK=(self._shares(state) * self.get_buffer("centre_m_N").log()).sum(-1).exp())


@pytest.mark.parametrize("twin", [EvenlySpaced, InLogarithms])
def test_wrong_bins_are_noticed(twin: type[Bins]) -> None:
    with pytest.raises(AssertionError):
        expect_bins_by_hand(twin)


def test_bins_start_at_the_mean_of_their_depths() -> None:
    # ratio of neighbours q = 100^(1/63); Σ 0.1 q^n = 0.1 (q^64 − 1)/(q − 1), over 64: 2.196 m
    q = 100 ** (1 / 63)
    start_m = 0.1 * (q**64 - 1) / (q - 1) / 64
    assert start_m == pytest.approx(2.196, abs=5e-4)
    head = head_of(Bins, code=[0.0] * 64)
    assert depths(head).flatten().tolist() == pytest.approx([start_m] * 4, rel=1e-6)
    assert depths(Bins(Bins.Config(), Dims()).double()).flatten().tolist() == pytest.approx([start_m] * 4, rel=0.1)


@pytest.mark.parametrize("at", [0, 4])
def test_bins_say_no_depth_outside_their_range(at: int) -> None:
    code = [0.0] * 5
    code[at] = 1e3
    head = head_of(Bins, code=code, n_bins=5, min_m=0.5, max_m=8.0)
    assert depths(head).flatten().tolist() == pytest.approx([(0.5, 8.0)[at == 4]] * 4, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_bins": 1}, "n_bins"),
        ({"min_m": 0.0}, "min_m"),
        ({"max_m": math.inf}, "max_m"),
        ({"min_m": 10.0}, "max_m should be larger than min_m, which is 10"),
        ({"min_m": 2.0, "max_m": 1.0}, "max_m should be larger than min_m, which is 2"),
    ],
)
def test_impossible_bins_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Bins.Config(**options)


def test_bins_tell_how_sure_they_are() -> None:
    state = QueryState(torch.zeros(1, 1, 2).double(), h_BKD=torch.zeros(1, 1, 192).double())
    scene = Scene(of_l4(torch.zeros(1, 4, 384), 2))
    # weights ½, ½, 0, 0 of four: ln 2 / ln 4
    with torch.no_grad():
        told = head_of(Bins, code=[0.0, 0.0, -1e3, -1e3], n_bins=4).diagnose(state, scene)
    assert told == {"bin_entropy": pytest.approx(0.5)}


# B4

READ = Dims(core=6, heads=3, pyramid=(4, 4, 6, 8))
"""Three heads of two channels."""


def b4_of(component: type[DeformableRead], *, like: DeformableRead | None = None, **options: Any) -> Any:
    """A B4 in float64 with stirred weights, or with those of `like`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = component(component.Config(**options), READ).double().eval()
        with torch.no_grad():
            for name, parameter in block.named_parameters():
                if not name.startswith("offset"):
                    parameter.add_(0.3 * torch.randn_like(parameter))
    if like is not None:
        block.load_state_dict(like.state_dict(), strict=False)
    return block


def routed(rows: int = 13, columns: int = 15) -> tuple[Pyramid, QueryState]:
    """A pyramid of `rows`×`columns` patches, whose L4 leaves out odd ones (R-05); each of its sites is an anchor."""
    g = torch.Generator().manual_seed(3)
    fine, low = (2 * rows, 2 * columns), (rows // 2, columns // 2)
    sizes = ((4 * rows, 4 * columns), fine, (rows, columns), low)
    maps = [torch.randn(1, *s, c, generator=g, dtype=torch.float64) for s, c in zip(sizes, READ.pyramid, strict=True)]
    extent = (2 * low[1] / columns, 2 * low[0] / rows)
    pyramid = Pyramid(Level(maps[0]), Level(maps[1]), Level(maps[2]), Level(maps[3], extent))
    site_BKR = torch.arange(low[0] * low[1]).expand(1, 2, -1)
    return pyramid, QueryState(
        torch.rand(1, 2, 2, generator=g, dtype=torch.float64),
        h_BKD=torch.randn(1, 2, READ.core, generator=g, dtype=torch.float64),
        tokens=(),
        anchors=Anchors(site_BKR),
    )


def evidence(block: Any, pyramid: Pyramid, state: QueryState) -> Tensor:
    tokens: Tensor = block(state, Scene(pyramid, {"b4": block.prepare(pyramid)})).tokens[-1].tokens_BKTD
    return tokens


@pytest.mark.parametrize("options", [{}, {"levels": [3], "samples": 1}])
def test_fixed_offsets_is_deformable_read_before_its_offsets_move(options: dict[str, Any]) -> None:
    pyramid, state = routed()
    base = b4_of(DeformableRead, **options)
    fixed = b4_of(FixedOffsets, like=base, **options)
    assert torch.equal(evidence(fixed, pyramid, state), evidence(base, pyramid, state))
    assert not [name for name in fixed.state_dict() if "offset" in name or "ring" in name]
    with torch.no_grad():
        base.offset.weight.add_(0.1)
    assert not torch.allclose(evidence(fixed, pyramid, state), evidence(base, pyramid, state), atol=1e-3)


@torch.no_grad()
def test_fixed_offsets_stay_on_the_ring() -> None:
    pyramid, state = routed()
    block = b4_of(FixedOffsets)
    told = block.diagnose(state, Scene(pyramid, {"b4": block.prepare(pyramid)}))
    length = ring_offsets(READ.heads, levels=3, samples=4).norm(dim=-1).mean()
    assert told["offset_spread_cells"] == 0
    assert told["offset_length_cells"] == pytest.approx(float(length))


def nearest_by_loops(block: Any, pyramid: Pyramid, state: QueryState) -> Tensor:
    """§6.4 with each sample read from the cell floor(p + Δ), zero outside the map, one at a time."""
    maps = block.prepare(pyramid)
    assert state.anchors is not None
    alpha_KRNLM = block._weights(block._samples(state, maps)[2]).view(
        *state.anchors.site_BKR.shape[1:], READ.heads, 3, 4
    )
    levels = [pyramid.l2, pyramid.l3, pyramid.l4]
    projected = [F.linear(lv.map_BHWC[0], getattr(block, f"value{i}").weight) for lv, i in zip(levels, (2, 3, 4))]  # noqa: B905
    ring_NLM2 = ring_offsets(READ.heads, levels=3, samples=4).double()
    l4 = pyramid.l4
    centre_S2 = cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=state.xy_BK2)
    read_KRNE = torch.zeros(*alpha_KRNLM.shape[:3], READ.head, dtype=torch.float64)
    for k, r, n, level, m in torch.cartesian_prod(*(torch.arange(size) for size in alpha_KRNLM.shape)).tolist():
        lv = levels[level]
        x = centre_S2[r, 0] * lv.width / lv.extent[0] + ring_NLM2[n, level, m, 0]
        y = centre_S2[r, 1] * lv.height / lv.extent[1] + ring_NLM2[n, level, m, 1]
        column, row = math.floor(x + 1e-3), math.floor(y + 1e-3)
        if 0 <= column < lv.width and 0 <= row < lv.height:
            cell_E = projected[level][row, column, n * READ.head : (n + 1) * READ.head]
            read_KRNE[k, r, n] += alpha_KRNLM[k, r, n, level, m] * cell_E
    token_KRD: Tensor = block.out(read_KRNE.flatten(2)) + block.evidence_embed
    return token_KRD[None]


@torch.no_grad()
def expect_nearest_cells(component: type[DeformableRead]) -> None:
    pyramid, state = routed(7, 9)
    block = b4_of(component)
    expected = nearest_by_loops(block, pyramid, state)
    assert torch.allclose(evidence(block, pyramid, state), expected, rtol=0, atol=1e-12)


def test_nearest_read_against_loops_over_cells() -> None:
    expect_nearest_cells(NearestRead)


class UpperLeft(NearestRead):
    """Takes the upper left of the four cells."""

    def _cells(self, row_QT: Tensor, *rest: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        return ((row_QT, rest[-1]),)


class Transposed(NearestRead):
    """Mistakes x for y."""

    def _cells(
        self, row_QT: Tensor, down_T: Tensor, fx_QT: Tensor, fy_QT: Tensor, alpha_QT: Tensor
    ) -> Sequence[tuple[Tensor, Tensor]]:
        return super()._cells(row_QT, down_T, fy_QT, fx_QT, alpha_QT)


@pytest.mark.parametrize("twin", [FixedOffsets, UpperLeft, Transposed])
def test_wrong_cells_are_noticed(twin: type[DeformableRead]) -> None:
    with pytest.raises(AssertionError):
        expect_nearest_cells(twin)


@torch.no_grad()
def test_nearest_read_and_interpolation_agree_on_a_flat_map() -> None:
    """Where every cell in reach is the same; at the rim a bilinear read mixes in the zeros outside, the other not."""
    pyramid, state = routed(37, 37)
    flat = Pyramid(*(Level(torch.ones_like(lv.map_BHWC), lv.extent) for lv in vars(pyramid).values()))
    inner = slice(18 * 8 + 6, 18 * 8 + 12)  # a run of sites in the middle of 18×18
    fixed, nearest = (evidence(b4_of(c), flat, state)[:, :, inner] for c in (FixedOffsets, NearestRead))
    assert torch.allclose(fixed, nearest, rtol=0, atol=1e-12)
    rim = [evidence(b4_of(c), flat, state)[:, :, :18] for c in (FixedOffsets, NearestRead)]
    assert not torch.allclose(*rim, atol=1e-3)


@torch.no_grad()
def test_rounding_does_not_choose_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """L4's centres lie on corners of L3's cells (R-05): float32 must read what float64 reads.

    With 41 or 49 patches, float32 finds some of those corners a rounding error off: floor(1/49·49) may be 0.
    """
    pyramid, state = routed(41, 49)
    narrow_pyramid = Pyramid(*(Level(lv.map_BHWC.float(), lv.extent) for lv in vars(pyramid).values()))
    assert state.h_BKD is not None
    narrow_state = replace(state, xy_BK2=state.xy_BK2.float(), h_BKD=state.h_BKD.float())

    def furthest() -> float:
        wide, narrow = b4_of(NearestRead), b4_of(NearestRead).float()
        found = evidence(narrow, narrow_pyramid, narrow_state).double() - evidence(wide, pyramid, state)
        return float(found.abs().max())

    assert furthest() < 1e-4
    monkeypatch.setattr(b4_nearest_read, "NUDGE", 0.0)
    assert furthest() > 0.1


def test_nearest_read_asks_for_a_quarter_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = b4_deformable_read.weighted_rows
    monkeypatch.setattr(
        b4_deformable_read, "weighted_rows", lambda t, rows, w: (asked.append(rows.numel()), original(t, rows, w))[1]
    )
    pyramid, state = routed()
    for component in (FixedOffsets, NearestRead):
        evidence(b4_of(component), pyramid, state)
    # 2 queries × 42 anchors × 3 heads × 3 levels × 4 samples, each from four cells or from one
    assert asked == [4 * 2 * 42 * 36, 2 * 42 * 36]


def test_a_point_that_is_no_number_is_not_read_as_one() -> None:
    pyramid, state = routed()
    xy_BK2 = state.xy_BK2.clone()
    xy_BK2[0, 0, 0] = math.nan
    found = evidence(b4_of(NearestRead), pyramid, replace(state, xy_BK2=xy_BK2))
    assert found[0, 0].isnan().all()
    assert found[0, 1].isfinite().all()


class NearestWithOffsets(DeformableRead):
    """What `nearest_read` would be with W^Δ and b^Δ: parameters that nothing can train."""

    _cells = NearestRead._cells


def test_learned_offsets_would_have_no_gradient() -> None:
    kit = BlockContract()
    kit.component = NearestWithOffsets
    with pytest.raises(AssertionError, match=r"no gradient reaches offset\.weight, offset\.bias"):
        kit.test_gradients_reach_every_parameter()


def test_the_projected_features_of_518_pixels_fit_every_b4() -> None:
    """18×18 sites of 37×37 patches, as in the paper: a read for each of 324 anchors."""
    g = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, 37, 37, 384, generator=g) for _ in range(4)]
    with torch.no_grad():
        pyramid = PyramidNeck(PyramidNeck.Config(), Dims())(Features((maps[0], maps[1], maps[2], maps[3])))
        _, state = routed(37, 37)
        state = replace(state, xy_BK2=state.xy_BK2.float(), h_BKD=torch.zeros(1, 2, 192))
        for component in (FixedOffsets, NearestRead):
            block = component(component.Config(), Dims())
            assert evidence(block, pyramid, state).shape == (1, 2, 324, 192)


def test_every_slot_of_the_chain_is_in_the_base() -> None:
    assert tuple(V13) == CHAIN
