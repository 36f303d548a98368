"""The blocks of §4 to §6 one by one: shapes of §10.3, exact parameter counts, routing rules, codes, initial values."""

import fnmatch
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from spd_bench.api import Block, Dims, Encoder, Features, Level, Neck, Pyramid, QueryState, Scene
from spd_bench.errors import ConfigError
from spd_bench.geometry import Table, neighbourhood
from spd_bench.model.compose import ComposedModel
from spd_components.blocks.b1_local_tokens import R_MAX, LocalTokens
from spd_components.blocks.b2_local_cross_attention import LocalCrossAttention
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.b4_deformable_read import DeformableRead, difference_code, ring_offsets
from spd_components.blocks.b5_fused_cross_attention import FusedCrossAttention
from spd_components.blocks.b5_mean_tokens import MeanTokens
from spd_components.blocks.layers import fourier
from spd_components.depth_heads.calibrated_inverse import CalibratedInverse
from spd_components.necks.last_layer import LastLayerNeck
from spd_components.necks.pyramid import PyramidNeck
from spd_components.routing.nearest import Nearest
from spd_components.routing.random import Random, scramble
from spd_components.routing.topk_attention import TopKAttention
from spd_components.routing.uniform_grid import UniformGrid

DIMS = Dims()
B, K = 2, 5
V13 = (LocalTokens, LocalCrossAttention, GlobalCrossAttention, TopKAttention, DeformableRead, FusedCrossAttention)


def levels_of(scene: Scene) -> list[Level]:
    return [scene.pyramid.l1, scene.pyramid.l2, scene.pyramid.l3, scene.pyramid.l4]


def make(component: Any, **options: Any) -> Any:
    return component(component.Config(**options), DIMS)


class NoEncoder(Encoder):
    """Features are given; nothing encodes."""

    def forward(self, image_B3HW: Tensor) -> Features:
        raise NotImplementedError

    def digest(self) -> str:
        return ""


@pytest.fixture(scope="module")
def v13() -> ComposedModel:
    """The full model of §2 with its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = {c.slot: make(c) for c in (*V13, CalibratedInverse)}
        return ComposedModel(NoEncoder(), make(PyramidNeck), blocks).eval()


def features(rows: int, columns: int) -> Features:
    g = torch.Generator().manual_seed(1)
    maps = [torch.randn(B, rows, columns, 384, generator=g) for _ in range(4)]
    return Features((maps[0], maps[1], maps[2], maps[3]))


@pytest.fixture(scope="module")
def traced(v13: ComposedModel) -> tuple[Scene, dict[str, QueryState]]:
    """The scene of two 518×518 images, and the query state after each block."""
    xy_BK2 = torch.rand(B, K, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        scene = v13.prepare(features(37, 37))
        state, after = QueryState(xy_BK2), {}
        for slot in v13.block_slots:
            state = after[slot] = v13.block(slot)(state, scene)
    return scene, after


Traced = tuple[Scene, dict[str, QueryState]]


# shapes of §10.3


def test_pyramid_of_a_518_by_518_image(traced: Traced) -> None:
    pyramid = traced[0].pyramid
    shapes = [tuple(level.map_BHWC.shape) for level in (pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4)]
    assert shapes == [(B, 148, 148, 64), (B, 74, 74, 128), (B, 37, 37, 192), (B, 18, 18, 384)]
    assert [level.extent for level in (pyramid.l1, pyramid.l2, pyramid.l3)] == [(1.0, 1.0)] * 3
    assert pyramid.l4.extent == (36 / 37, 36 / 37)


def test_keys_and_values_of_324_sites(traced: Traced) -> None:
    layers = traced[0].prepared["b3"]
    assert len(layers) == 2
    for key_BNES, value_BNSE, _ in layers:
        # [324, 192] for each image, the 192 as 6 heads of 32
        assert key_BNES.shape == (B, 6, 32, 324)
        assert value_BNSE.shape == (B, 6, 324, 32)


def test_projected_maps_of_b4(traced: Traced) -> None:
    tables = traced[0].prepared["b4"].values.levels
    assert [(t.height, t.width, t.rows_NC.shape[1]) for t in tables] == [(74, 74, 192), (37, 37, 192), (18, 18, 192)]


def test_calibration_is_two_scalars_per_image(traced: Traced) -> None:
    assert [part.shape for part in traced[0].prepared["depth_head"]] == [(B, 1), (B, 1)]


def test_91_local_tokens_and_32_of_evidence_make_123(traced: Traced) -> None:
    after = traced[1]
    assert [part.tokens_BKTD.shape for part in after["b1"].tokens] == [(B, K, 91, 192)]
    assert [part.tokens_BKTD.shape for part in after["b4"].tokens] == [(B, K, 91, 192), (B, K, 32, 192)]
    assert sum(part.tokens_BKTD.shape[2] for part in after["b5"].tokens) == 123


def test_query_vector_attention_anchors_and_depth(traced: Traced) -> None:
    after = traced[1]
    assert {after[slot].h_BKD.shape for slot in ("b1", "b2", "b3", "b5")} == {(B, K, 192)}
    attention_BKS = after["b3"].attention_BKS
    assert attention_BKS.shape == (B, K, 324)
    assert torch.allclose(attention_BKS.sum(-1), torch.ones(B, K), atol=1e-5)
    assert after["routing"].anchors.site_BKR.shape == (B, K, 32)
    assert after["depth_head"].depth_m_BK.shape == (B, K)


@pytest.mark.parametrize("grid", [(37, 49), (6, 5), (2, 3)])
def test_other_grids(grid: tuple[int, int]) -> None:
    rows, columns = grid
    pyramid = make(PyramidNeck)(features(rows, columns))
    levels = (pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4)
    expected = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), (rows // 2, columns // 2)]
    assert [(level.height, level.width) for level in levels] == expected
    assert pyramid.l4.extent == (2 * (columns // 2) / columns, 2 * (rows // 2) / rows)  # x first


# parameters (§9 with the readings of R-09)


def count(module: torch.nn.Module, *patterns: str) -> int:
    """Elements of the parameters whose name matches one of the patterns."""
    named = module.named_parameters()
    return sum(p.numel() for name, p in named if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        # 1×1 convolutions 384·(64 + 128 + 192 + 384) + 768 and LayerNorms 2·768
        (PyramidNeck, 294_912 + 768 + 1_536),
        (LastLayerNeck, 297_216),
        # offsets 64·16 + 16; W_loc 80·192 + 192; W_v2 128·192; W_v4 384·192; W_q 96·192 + 192; 4 + 25 vectors of 192
        (LocalTokens, 1_040 + 15_552 + 24_576 + 73_728 + 18_624 + 29 * 192),
        # per layer 4·(192² + 192) + FFN (192·768 + 768 + 768·192 + 192) + 2 LN of 384; and LN_kv 384
        (LocalCrossAttention, 2 * (148_224 + 295_872 + 768) + 384),
        # the same without K and V, which are 2·(384·192 + 192) per layer; no LN_kv
        (GlobalCrossAttention, 2 * (74_112 + 295_872 + 768) + 2 * 2 * 73_920),
        # conditioning 416·192 + 192 and LN; offsets 192·144 + 144; weights 192·72 + 72; W_O; W_g; W_V; e_deform
        (DeformableRead, 80_064 + 384 + 27_792 + 13_896 + 37_056 + 73_920 + 135_168 + 192),
        (FusedCrossAttention, 3 * (148_224 + 295_872 + 768) + 384),
        # 192·384 + 384 + 384 + 1, and two heads of 384 + 1
        (CalibratedInverse, 74_497 + 770),
        (TopKAttention, 0),
        (Nearest, 0),
        (Random, 0),
        (UniformGrid, 0),
        (MeanTokens, 0),
    ],
)
def test_parameters_of_each_block(component: type[Block] | type[Neck], expected: int) -> None:
    assert count(make(component), "*") == expected


def test_named_sums_of_the_paper() -> None:
    assert count(make(PyramidNeck), "*") == 297_216
    assert count(make(LocalCrossAttention), "*") == 890_112
    b3 = make(GlobalCrossAttention)
    keys_and_values = count(b3, "layers.*.key.*", "layers.*.value.*")
    assert (count(b3, "*") - keys_and_values, keys_and_values) == (741_504, 295_680)


def test_the_whole_model_has_4142315_trainable_parameters(v13: ComposedModel) -> None:
    assert sum(p.numel() for _, p in v13.trainable()) == 4_142_315


def test_rows_of_the_paper_hold_every_parameter_once(v13: ComposedModel) -> None:
    rows: dict[str, int] = {}
    for module in (v13.neck, *(v13.block(slot) for slot in v13.block_slots)):
        for name, parameter in module.named_parameters():
            longest = max((p for p in module.budget if fnmatch.fnmatch(name, p + "*")), key=len)
            rows[module.budget[longest]] = rows.get(module.budget[longest], 0) + parameter.numel()
    assert rows == {
        "Pyramid neck (§4)": 297_216,
        "B3 K/V projections (§5.1)": 295_680,
        "W_g anchor projection (§5.2)": 73_920,
        "B4 W_V pre-projections (§5.3)": 135_168,
        "Calibration heads (§5.4)": 770,
        "B1: feature extraction + tokens (§6.1)": 139_280,  # its 139,088 and e_deform
        "B2: local cross-attention (§6.2)": 890_112,
        "B3: global cross-attention (§6.3)": 741_504,
        "B4: deformable read + fusion (§6.4)": 159_192,
        "B5: fused cross-attention + depth head (§6.5)": 1_409_473,
    }


# codes and offsets


def test_codes_of_25_offsets_differ_once_normalised() -> None:
    offset_T2 = neighbourhood(5, like=torch.zeros((), dtype=torch.float64))

    def nearest_pair(code_TP: Tensor) -> float:
        apart = (code_TP[:, None] - code_TP[None]).norm(dim=-1)
        return float(apart[~torch.eye(25, dtype=torch.bool)].min())

    assert nearest_pair(fourier(offset_T2 / (2 * R_MAX), 4)) > 0.5
    assert nearest_pair(fourier(offset_T2, 4)) < 1e-10  # whole numbers of periods, one code for all


def test_fourier_code_by_hand() -> None:
    # x = 1/8, y = 1/4, two frequencies: sin 2πx, sin 4πx, cos 2πx, cos 4πx, then the same of y
    root = math.sqrt(1 / 2)
    found = fourier(torch.tensor([1 / 8, 1 / 4], dtype=torch.float64), 2)
    expected = [root, 1, root, 0, 1, 0, 0, -1]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_difference_code_is_the_code_of_the_difference() -> None:
    g = torch.Generator().manual_seed(0)
    p_BKR2 = torch.rand(2, 3, 4, 2, generator=g, dtype=torch.float64)
    q_BK2 = torch.rand(2, 3, 2, generator=g, dtype=torch.float64)
    direct = fourier(p_BKR2 - q_BK2[:, :, None], 8)
    assert torch.allclose(difference_code(p_BKR2, q_BK2), direct, rtol=0, atol=1e-12)
    assert not torch.allclose(difference_code(p_BKR2, -q_BK2), direct, atol=0.1)


def test_ring_offsets_by_hand() -> None:
    # four heads look right, down, left, up; sample m lies m cells away, on every level
    right_down_left_up = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    offset_NLM2 = ring_offsets(4, levels=3, samples=4)
    assert offset_NLM2.shape == (4, 3, 4, 2)
    for m in range(4):
        for level in range(3):
            assert torch.allclose(offset_NLM2[:, level, m], (m + 1) * right_down_left_up, atol=1e-6)


def test_ring_offsets_of_six_heads_reach_the_square() -> None:
    # head 1 looks at 60°, (½, √3/2); scaled so that the longer side is 1: (1/√3, 1)
    offset_NLM2 = ring_offsets(6, levels=3, samples=4)
    assert torch.allclose(offset_NLM2[1, 2, 2], 3 * torch.tensor([1 / math.sqrt(3), 1.0]), atol=1e-6)
    assert torch.allclose(offset_NLM2.abs().amax(-1), torch.arange(1.0, 5).expand(6, 3, 4), atol=1e-6)


def test_b4_starts_on_the_ring_with_equal_weights() -> None:
    b4 = make(DeformableRead)
    u = torch.randn(7, 192)
    assert torch.equal(b4.offset(u), ring_offsets(6, levels=3, samples=4).flatten().expand(7, -1))
    assert torch.equal(b4.weight(u), torch.zeros(7, 72))


def test_fewer_levels_and_samples_are_the_full_read_with_the_others_weighted_nothing(traced: Traced) -> None:
    # 2 of 3 levels and 3 of 4 samples: a score of -1e9 takes a sample out of the softmax of the full block
    scene, after = traced
    small, full = make(DeformableRead, levels=(2, 4), samples=3).double(), make(DeformableRead).double()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g, dtype=torch.float64) / 20)
        kept = torch.zeros(6, 3, 4, dtype=torch.bool)
        kept[:, [0, 2], :3] = True
        small.load_state_dict(
            {
                name: full.state_dict()[name]
                if not name.startswith(("offset.", "weight."))
                else full.state_dict()[name].unflatten(0, (6, 3, 4, -1))[kept].flatten(0, 1)
                for name in small.state_dict()
            }
        )
        full.weight.bias[~kept.flatten()] = -1e9
        pyramid = Pyramid(*(Level(level.map_BHWC.double(), level.extent) for level in levels_of(scene)))
        state = replace(after["routing"], h_BKD=torch.randn(B, K, 192, generator=g, dtype=torch.float64))
        state = replace(state, xy_BK2=state.xy_BK2.double())
        evidence = [
            block(state, Scene(pyramid, {"b4": block.prepare(pyramid)})).tokens[-1].tokens_BKTD
            for block in (small, full)
        ]
        full.weight.bias[0] = 1.0
        other = full(state, Scene(pyramid, {"b4": full.prepare(pyramid)})).tokens[-1].tokens_BKTD
    assert torch.allclose(evidence[0], evidence[1], rtol=0, atol=1e-12)
    assert not torch.allclose(evidence[0], other, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"levels": (3, 2)}, {"levels": (2, 2)}, {"levels": ()}, {"levels": (1,)}, {"samples": 0}]
)
def test_levels_and_samples_that_make_no_read(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DeformableRead.Config(**options)


# sampling under a mirror


def test_mirroring_map_and_queries_mirrors_the_neighbourhood_and_nothing_else() -> None:
    map_BHWC = torch.randn(1, 6, 9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    xy_BK2 = torch.rand(1, 30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mirrored = torch.stack([1 - xy_BK2[..., 0], xy_BK2[..., 1]], dim=-1)

    def around(map_: Tensor, xy: Tensor) -> Tensor:
        table = Table.of(map_, extent=(1.0, 1.0), pad=4)
        return table.read_neighbourhood(table.xy_lvl(xy), 5).view(1, 30, 5, 5, 4)

    expected = around(map_BHWC, xy_BK2).flip(3)  # columns change places, rows and channels do not
    assert torch.allclose(around(map_BHWC.flip(2), mirrored), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(around(map_BHWC.flip(2), xy_BK2), expected, atol=0.1)


def test_mirroring_features_mirrors_the_pyramid() -> None:
    neck, given = make(PyramidNeck).double(), Features(tuple(m.double() for m in features(4, 6).maps_BHWC))
    mirrored = neck(Features(tuple(m.flip(2) for m in given.maps_BHWC)))
    for name in ("l1", "l2", "l3", "l4"):
        level, other = getattr(neck(given), name), getattr(mirrored, name)
        assert torch.allclose(other.map_BHWC, level.map_BHWC.flip(2), rtol=0, atol=1e-10), name


# routing


def scene_of(rows: int, columns: int, extent: tuple[float, float] = (1.0, 1.0)) -> Scene:
    """A scene of which routing reads the size of L4 alone."""
    level = Level(torch.zeros(1, rows, columns, 1), extent)
    return Scene(Pyramid(level, level, level, level))


def queries(*points: tuple[float, float]) -> QueryState:
    return QueryState(torch.tensor([points]))


def sites(component: type[Block], state: QueryState, scene: Scene, **options: int) -> Tensor:
    return make(component, **options)(state, scene).anchors.site_BKR


def test_topk_takes_the_largest_and_of_equals_the_first() -> None:
    attention_BKS = torch.tensor([[[0.1, 0.3, 0.1, 0.3, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]]])
    state = QueryState(torch.zeros(1, 2, 2), attention_BKS=attention_BKS)
    assert sites(TopKAttention, state, scene_of(2, 3), r=4).tolist() == [[[1, 3, 0, 2], [4, 0, 1, 2]]]


def test_ties_go_to_the_lower_index_on_a_whole_map() -> None:
    state = QueryState(torch.zeros(1, 1, 2), attention_BKS=torch.full((1, 1, 324), 1 / 324))
    assert sites(TopKAttention, state, scene_of(18, 18), r=32).tolist() == [[[*range(32)]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gate_is_exactly_one_and_passes_a_gradient(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    attention_BKS = torch.rand(3, 50, 324, generator=g).to(dtype).requires_grad_()
    anchors = make(TopKAttention, r=32)(
        QueryState(torch.zeros(3, 50, 2), attention_BKS=attention_BKS), scene_of(18, 18)
    ).anchors
    assert torch.equal(anchors.gate_BKR, torch.ones(3, 50, 32, dtype=dtype))
    (grad_BKS,) = torch.autograd.grad(anchors.gate_BKR.sum(), attention_BKS)
    # one for every routed site, none for the others
    assert torch.equal(grad_BKS, torch.zeros(3, 50, 324, dtype=dtype).scatter(-1, anchors.site_BKR, 1.0))


def test_the_gate_reaches_the_attention_through_b4(v13: ComposedModel) -> None:
    """R-12 in the whole chain: without the gate, routing has no gradient of its own."""
    scene = v13.prepare(features(6, 6))
    state = QueryState(torch.rand(B, K, 2, generator=torch.Generator().manual_seed(0)))
    state = v13.block("b3")(v13.block("b2")(v13.block("b1")(state, scene), scene), scene)
    routed = make(TopKAttention, r=4)(state, scene)
    evidence_BKRD = v13.block("b4")(routed, scene).tokens[1].tokens_BKTD
    (grad_BKS,) = torch.autograd.grad(evidence_BKRD.square().sum(), state.attention_BKS)
    taken = torch.zeros_like(grad_BKS, dtype=torch.bool).scatter(-1, routed.anchors.site_BKR, True)
    assert (grad_BKS[taken] != 0).all()
    assert (grad_BKS[~taken] == 0).all()


def test_nearest_by_hand() -> None:
    # 2×3 cells of a whole image: centres x = 1/6, 3/6, 5/6, y = 1/4, 3/4; sites 0 1 2 / 3 4 5
    # (0.1, 0.2): 0 lies at (.067, .05), then 1 at .40, then 3 at .55; (½, ½): 1 and 4 tie at ¼, then 0 2 3 5 at .417
    state = queries((0.1, 0.2), (0.5, 0.5), (0.9, 0.9))
    expected = [[[0, 1, 3], [1, 4, 0], [5, 4, 2]]]
    assert sites(Nearest, state, scene_of(2, 3), r=3).tolist() == expected


def test_nearest_knows_what_l4_covers() -> None:
    # 1×2 cells over half of the image: centres at x = 1/8 and 3/8. The point 0.3 is nearer to the second;
    # over the whole image, centres 1/4 and 3/4, it would be nearer to the first
    assert sites(Nearest, queries((0.3, 0.5)), scene_of(1, 2, (0.5, 1.0)), r=1).item() == 1
    assert sites(Nearest, queries((0.3, 0.5)), scene_of(1, 2), r=1).item() == 0


def test_uniform_grid_by_hand() -> None:
    # 20 sites, 4 anchors: ⌊2.5⌋, ⌊7.5⌋, ⌊12.5⌋, ⌊17.5⌋, whatever the query
    found = sites(UniformGrid, queries((0.1, 0.9), (0.7, 0.2)), scene_of(4, 5), r=4)
    assert found.tolist() == [[[2, 7, 12, 17]] * 2]
    assert sites(UniformGrid, queries((0, 0)), scene_of(2, 3), r=6).tolist() == [[[*range(6)]]]


def random_points(count: int, seed: int = 0) -> QueryState:
    return QueryState(torch.rand(1, count, 2, generator=torch.Generator().manual_seed(seed)))


def test_random_depends_on_the_point_and_the_seed_alone() -> None:
    state, scene = random_points(200), scene_of(18, 18)
    drawn = sites(Random, state, scene, r=8)
    before = torch.random.get_rng_state()
    assert torch.equal(sites(Random, QueryState(state.xy_BK2.flip(1)), scene, r=8), drawn.flip(1))
    assert torch.equal(sites(Random, QueryState(state.xy_BK2[:, 7:8]), scene, r=8), drawn[:, 7:8])
    assert torch.equal(sites(Random, state, scene, r=3), drawn[..., :3])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (sites(Random, state, scene, r=8, seed=1) != drawn).float().mean() > 0.9
    assert (sites(Random, random_points(200, seed=1), scene, r=8) != drawn).float().mean() > 0.9


def test_random_draws_without_replacement() -> None:
    drawn = sites(Random, random_points(500), scene_of(5, 6), r=30)
    assert torch.equal(drawn.sort(-1).values, torch.arange(30).expand(1, 500, 30))


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_random_draws_every_site_alike(seed: int) -> None:
    # 6000 draws of 1 of 30 sites: χ² has 29 degrees of freedom, mean 29 and standard deviation √58 = 7.6.
    # 29 + 5·7.6 = 67 is passed by chance once in 10⁴; the draws are fixed, so it is passed always or never
    drawn = sites(Random, random_points(6000, seed), scene_of(5, 6), r=1, seed=seed).flatten()
    seen = torch.bincount(drawn, minlength=30).double()
    assert ((seen - 200).square() / 200).sum() < 67
    # the same for neighbouring pixels of one line, the most regular points there are
    line = torch.stack([(torch.arange(6000) + 0.5) / 6000, torch.full((6000,), 0.5)], dim=-1)[None]
    drawn = sites(Random, QueryState(line), scene_of(5, 6), r=1, seed=seed).flatten()
    seen = torch.bincount(drawn, minlength=30).double()
    assert ((seen - 200).square() / 200).sum() < 67


def test_scrambling_loses_nothing() -> None:
    """A bijection keeps x and ~x apart, which an arithmetic shift would not."""
    x = torch.cat([torch.arange(-5000, 5000), torch.arange(5000) << 40])
    assert len(scramble(x).unique()) == len(x.unique())
    assert not (scramble(x) == scramble(~x)).any()


@pytest.mark.parametrize("component", [TopKAttention, Nearest, Random, UniformGrid])
def test_more_anchors_than_sites_are_refused(component: type[Block]) -> None:
    state = QueryState(torch.rand(1, 2, 2), attention_BKS=torch.rand(1, 2, 6))
    assert sites(component, state, scene_of(2, 3), r=6).sort(-1).values.tolist() == [[[*range(6)]] * 2]
    with pytest.raises(ConfigError) as caught:
        sites(component, state, scene_of(2, 3), r=7)
    text = str(caught.value)
    assert "routing.r: 7 anchors asked of 6 sites of L4 (2×3)" in text
    assert "hint: lower routing.r or raise data.image_size" in text


# depth head


def test_depth_starts_at_2_7_metres() -> None:
    """R-15: where the relative code r is 0, ρ = softplus(b) + 1e-6 = 1/2.7 + 1e-6, whatever the image."""
    head = make(CalibratedInverse).double()
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.zeros_(head.out.bias)
    level = Level(torch.randn(3, 2, 2, 384, dtype=torch.float64))
    pyramid = Pyramid(level, level, level, level)
    state = QueryState(torch.rand(3, 4, 2).double(), h_BKD=torch.randn(3, 4, 192, dtype=torch.float64))
    found = head(state, Scene(pyramid, {"depth_head": head.prepare(pyramid)})).depth_m_BK
    assert torch.allclose(found, torch.full((3, 4), 1 / (1 / 2.7 + 1e-6), dtype=torch.float64), rtol=1e-7)
    assert torch.allclose(found, torch.full((3, 4), 2.7, dtype=torch.float64), rtol=1e-5)


def test_an_untrained_model_is_near_2_7_metres(traced: Traced) -> None:
    depth_m_BK = traced[1]["depth_head"].depth_m_BK
    assert 1.5 < depth_m_BK.min() < depth_m_BK.max() < 5


def test_depth_by_hand_from_calibration() -> None:
    # s = softplus(x) with x chosen so that s = 2, b = 0.5, r = 3: ρ = softplus(6.5) + 1e-6
    head = make(CalibratedInverse).double()
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    torch.nn.init.constant_(head.out.bias, 3.0)
    torch.nn.init.constant_(head.scale.bias, math.log(math.expm1(2.0)))
    torch.nn.init.constant_(head.shift.bias, 0.5)
    level = Level(torch.zeros(1, 1, 1, 384, dtype=torch.float64))
    pyramid = Pyramid(level, level, level, level)
    state = QueryState(torch.zeros(1, 1, 2).double(), h_BKD=torch.zeros(1, 1, 192, dtype=torch.float64))
    found = head(state, Scene(pyramid, {"depth_head": head.prepare(pyramid)})).depth_m_BK
    assert found.item() == pytest.approx(1 / (math.log1p(math.exp(6.5)) + 1e-6), rel=1e-9)


# B5's stand-in


def test_mean_tokens_by_hand(traced: Traced) -> None:
    after = traced[1]
    found = make(MeanTokens)(after["b4"], traced[0]).h_BKD
    every = torch.cat([part.tokens_BKTD for part in after["b4"].tokens], dim=2)
    standard = (every - every.mean(-1, keepdim=True)) / (every.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(found, after["b4"].h_BKD + standard.mean(2), atol=1e-5)
