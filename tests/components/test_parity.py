"""The components compute the same function as the literal transcription: outputs and gradients, float64 and float32.

Wrong twins run through the same comparison and must fail it.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from spd_baselines.spd_v13_literal import SPDv13Literal
from spd_bench import geometry
from spd_bench.api import Dims, Encoder, Features
from spd_bench.fused import attention, forms, neighbourhoods, products
from spd_bench.model.compose import ComposedModel
from spd_components.blocks.b1_local_tokens import LocalTokens
from spd_components.blocks.b2_local_cross_attention import LocalCrossAttention
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.b4_deformable_read import DeformableRead
from spd_components.blocks.b5_fused_cross_attention import FusedCrossAttention
from spd_components.depth_heads.calibrated_inverse import CalibratedInverse
from spd_components.necks.pyramid import PyramidNeck
from spd_components.routing.topk_attention import TopKAttention

GRID = (9, 11)  # patches: odd, not square, so that L4 (4×5) covers less than the image on both axes
R = 8
BORDERS = [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0], [0, 0.5], [1, 0.3], [0.999, 0.999], [1e-4, 0.7], [0.5, 0.5]]


class NoEncoder(Encoder):
    """Features are given; nothing encodes."""

    def forward(self, image_B3HW: torch.Tensor) -> Features:
        raise NotImplementedError

    def digest(self) -> str:
        return ""


def components(r: int = R) -> ComposedModel:
    dims = Dims()
    blocks = {
        "b1": LocalTokens(LocalTokens.Config(), dims),
        "b2": LocalCrossAttention(LocalCrossAttention.Config(), dims),
        "b3": GlobalCrossAttention(GlobalCrossAttention.Config(), dims),
        "routing": TopKAttention(TopKAttention.Config(r=r), dims),
        "b4": DeformableRead(DeformableRead.Config(), dims),
        "b5": FusedCrossAttention(FusedCrossAttention.Config(), dims),
        "depth_head": CalibratedInverse(CalibratedInverse.Config(), dims),
    }
    return ComposedModel(NoEncoder(), PyramidNeck(PyramidNeck.Config(), dims), blocks)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that hide nothing: every bias, norm and offset is off its initial value, offsets leave the maps."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        z = torch.randn(p.shape, generator=g, dtype=torch.float64)
        if "norm.weight" in name:
            value = 1 + 0.2 * z
        elif p.dim() == 2 and "embed" not in name and "rpe" not in name:
            value = z / p.shape[1] ** 0.5 * (3 if "b3" in name and "query" in name else 1)
        else:
            value = z * (3 if name in ("b4.offset.bias", "b1.offset.bias") else 0.2)
        p.data.copy_(value)


def case(seed: int = 0, dtype: torch.dtype = torch.float64, count: int = 17, batch: int = 2):
    g = torch.Generator().manual_seed(seed + 100)
    maps = tuple(torch.randn(batch, *GRID, 384, generator=g, dtype=torch.float64).to(dtype) for _ in range(4))
    xy = torch.rand(batch, count, 2, generator=g, dtype=torch.float64)
    xy[:, : len(BORDERS)] = torch.tensor(BORDERS, dtype=torch.float64)[:count]
    return Features(maps), xy.to(dtype)


def pair(seed: int = 0, dtype: torch.dtype = torch.float64):
    fast = components()
    literal = SPDv13Literal(SPDv13Literal.Config(r=R), NoEncoder())
    randomise(fast, seed)
    literal.load_state_dict(fast.state_dict())
    return fast.to(dtype).eval(), literal.to(dtype).eval()


FORMS = pytest.mark.parametrize("form", [nullcontext, forms.stock])
"""The fused form, where this machine has it, and the stock form."""


def difference(fast, literal, features, xy) -> float:
    """Largest relative difference of the depth, over all queries."""
    with torch.no_grad():
        a = fast.decode(fast.prepare(features), xy)
        b = literal.decode(literal.prepare(features), xy)
    return float(((a - b).abs() / b.abs()).max())


def gradients(model, features, xy):
    """Gradients of Σ log d · w with respect to parameters and features."""
    maps = tuple(m.clone().requires_grad_() for m in features.maps_BHWC)
    depth = model.decode(model.prepare(Features(maps)), xy)
    weight = torch.linspace(-1, 1, depth.numel(), dtype=depth.dtype).view_as(depth)
    (depth.log() * weight).sum().backward()
    named = {n: p.grad for n, p in model.named_parameters()}
    return named | {f"features.{i}": m.grad for i, m in enumerate(maps)}


@FORMS
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("count", [1, 17])
def test_depth_equals_the_literal_form_in_float64(seed, count, form):
    fast, literal = pair(seed)
    features, xy = case(seed, count=count)
    with form():
        assert difference(fast, literal, features, xy) < 1e-12


@FORMS
@pytest.mark.parametrize("seed", [0, 1])
def test_depth_equals_the_literal_form_in_float32(seed, form):
    fast, literal = pair(seed, torch.float32)
    features, xy = case(seed, torch.float32)
    with form():
        assert difference(fast, literal, features, xy) < 1e-5


@FORMS
def test_routed_anchors_equal_those_of_the_literal_form(form):
    fast, literal = pair()
    features, xy = case()
    with torch.no_grad(), form():
        state = fast.trace(fast.prepare(features), xy)
        pyramid = literal.prepare(features)
        h, tokens = literal.b1(pyramid, xy)
        _, alpha = literal.b3(literal.b2(h, tokens), pyramid[3])
    expected = torch.sort(alpha, dim=-1, descending=True, stable=True).indices[..., :R]
    assert torch.equal(state.anchors.site_BKR, expected)
    assert torch.allclose(alpha.sum(-1), torch.ones(()).double())


def test_gradients_equal_those_of_the_literal_form():
    fast, literal = pair()
    features, xy = case(count=13)
    mine, theirs = gradients(fast, features, xy), gradients(literal, features, xy)
    assert mine.keys() == theirs.keys()
    largest = max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, expected in theirs.items():
        if name.endswith("key.bias"):
            # softmax does not see a key bias: the literal form finds rounding noise, the fast form computes nothing
            assert mine[name] is None, name
            assert float(expected.abs().max()) < 1e-12 * largest, name
            continue
        scale = float(expected.abs().max())
        assert scale > 0, f"{name} gets no gradient: the comparison would show nothing"
        assert float((mine[name] - expected).abs().max()) < 1e-11 * max(scale, 1e-6 * largest), name


def test_chunks_of_queries_change_nothing(monkeypatch):
    fast, _ = pair()
    features, xy = case()
    scene = fast.prepare(features)
    with torch.no_grad():
        whole = fast.train(False).decode(scene, xy)
        monkeypatch.setattr("spd_bench.model.compose.QUERY_CHUNK", 10)
        assert torch.allclose(fast.decode(scene, xy), whole, rtol=1e-13)


def test_permuting_queries_permutes_depths():
    fast, _ = pair()
    features, xy = case()
    scene = fast.prepare(features)
    order = torch.randperm(xy.shape[1], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(fast.decode(scene, xy[:, order]), fast.decode(scene, xy)[:, order], rtol=1e-13)


def _swap_xy(model, monkeypatch):
    original = model.decode
    monkeypatch.setattr(model, "decode", lambda scene, xy: original(scene, xy.flip(-1)))


def _half_pixel(model, monkeypatch):
    original = geometry.Table.xy_lvl
    monkeypatch.setattr(geometry.Table, "xy_lvl", lambda self, xy: original(self, xy) + 0.5)
    local_tokens, half = (
        neighbourhoods.local_tokens,
        0.5 / torch.tensor([4 * GRID[1], 4 * GRID[0]], dtype=torch.float64),
    )
    monkeypatch.setattr(neighbourhoods, "local_tokens", lambda xy, *rest: local_tokens(xy + half, *rest))


def _uniform_weights(model, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: torch.full_like(x, 1 / x.shape[dim]))
    token_layer = attention.token_layer
    monkeypatch.setattr(attention, "token_layer", lambda h, t, w, key, *rest: token_layer(h, t, w, 0 * key, *rest))


def _one_percent(model, monkeypatch):
    original = model.decode
    monkeypatch.setattr(model, "decode", lambda scene, xy: 1.01 * original(scene, xy))


def _border_padding(model, monkeypatch):
    def replicate(x_BHWC, pad):
        x_BCHW = x_BHWC.permute(0, 3, 1, 2)
        return torch.nn.functional.pad(x_BCHW, pad[2:], mode="replicate").permute(0, 2, 3, 1)

    norm, product = products.enlarged_norm, products.enlarged_product

    def filled(rows_NC, source_BHWC, factor, pad):
        batch, height, width = source_BHWC.shape[0], source_BHWC.shape[1] * factor, source_BHWC.shape[2] * factor
        map_BHWC = rows_NC.view(batch, height + 2 * pad, width + 2 * pad, -1)[:, pad : pad + height, pad : pad + width]
        return replicate(map_BHWC, (0, 0, pad, pad, pad, pad)).reshape(rows_NC.shape)

    monkeypatch.setattr(geometry, "F", SimpleNamespace(pad=replicate, embedding_bag=torch.nn.functional.embedding_bag))
    monkeypatch.setattr(products, "enlarged_norm", lambda x, p, f, pad, n: filled(norm(x, p, f, pad, n), x, f, pad))
    monkeypatch.setattr(
        products, "enlarged_product", lambda x, p, f, pad, *more: filled(product(x, p, f, pad, *more), x, f, pad)
    )


def _whole_extent(model, monkeypatch):
    original = model.neck.forward

    def forward(features):
        pyramid = original(features)
        return type(pyramid)(pyramid.l1, pyramid.l2, pyramid.l3, type(pyramid.l4)(pyramid.l4.map_BHWC))

    monkeypatch.setattr(model.neck, "forward", forward)


@FORMS
@pytest.mark.parametrize(
    "wrong", [_swap_xy, _half_pixel, _uniform_weights, _one_percent, _border_padding, _whole_extent]
)
def test_a_wrong_twin_fails_the_comparison(wrong, form, monkeypatch):
    fast, literal = pair()
    features, xy = case()
    with torch.no_grad(), form():
        expected = literal.decode(literal.prepare(features), xy)
        wrong(fast, monkeypatch)
        found = fast.decode(fast.prepare(features), xy)
    assert float(((found - expected).abs() / expected.abs()).max()) > 1e-4
