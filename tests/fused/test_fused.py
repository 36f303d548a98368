"""Fused forms compute what their stock forms do, run only where they may, and are named where they do not.

In float64 the two agree to 1e-12, in float32 to 1e-5 of the largest value. Wrong twins must fail the comparison.
"""

import ctypes
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_bench.api import Block, Dims, Features, Pyramid, QueryState, Scene, TokenPart
from spd_bench.fused import anchor_reads, attention, build, forms, neighbourhoods, products
from spd_bench.geometry import Table
from spd_components.blocks.b1_centre_token import CentreToken
from spd_components.blocks.b1_l1_only import L1Only
from spd_components.blocks.b1_local_tokens import LocalTokens
from spd_components.blocks.b1_no_learned_offsets import NoLearnedOffsets
from spd_components.blocks.b1_ring_3x3 import Ring3x3
from spd_components.blocks.b2_local_cross_attention import LocalCrossAttention
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.b4_deformable_read import DeformableRead
from spd_components.blocks.b4_fixed_offsets import FixedOffsets
from spd_components.blocks.b4_nearest_read import NearestRead
from spd_components.blocks.b5_fused_cross_attention import FusedCrossAttention
from spd_components.blocks.layers import SiteAttentionLayer, TokenAttentionLayer
from spd_components.necks.levels import EnlargedLevel, ProjectedLevel, upsample
from spd_components.necks.pyramid import PyramidNeck
from spd_components.routing.topk_attention import TopKAttention

TYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
WITHIN = {torch.float64: 1e-12, torch.float32: 1e-5}
GRID = (9, 11)  # odd, not square: L4 covers less than the image on both axes
BORDERS = [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0], [0, 0.5], [1, 0.3], [0.999, 0.999], [1e-4, 0.7], [0.5, 0.5]]
NAN = float("nan")
EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
built = pytest.mark.skipif(build.loaded()[0] is None, reason=build.description())


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the kernels that ran."""
    original, called = build.run, set()

    def noted(name: str, *given: Any, **how: Any) -> None:
        called.add(name)
        original(name, *given, **how)

    monkeypatch.setattr(build, "run", noted)
    return called


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def furthest(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value; NaN must meet NaN."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.equal(found.isnan(), expected.isnan())
    largest = expected.nan_to_num().abs().max().clamp_min(1e-30)
    return float((found - expected).nan_to_num().abs().max() / largest)


def both(call: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a call gives in its fused and in its stock form."""
    found = call()
    with forms.stock():
        return found, call()


# --- levels -----------------------------------------------------------------------------------------------------------


def enlarged_level(channels: int, *size: int, factor: int, dtype: torch.dtype) -> EnlargedLevel:
    made = ProjectedLevel(48, channels).to(dtype)
    made.proj.weight.copy_(random(channels, 48, dtype=dtype, seed=5) / 7)
    made.norm.weight.copy_(random(channels, dtype=dtype, seed=1))
    made.norm.bias.copy_(random(channels, dtype=dtype, seed=2))
    made.proj.bias.copy_(5 + random(channels, dtype=dtype, seed=3))
    return EnlargedLevel(random(*size, 48, dtype=dtype, seed=4), made, factor)


@built
@TYPES
@pytest.mark.parametrize("channels", [64, 128, 192])
@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 1), (1, 4, 1)])
@pytest.mark.parametrize(("factor", "pad"), [(4, 4), (2, 2), (3, 4), (1, 2)])
def test_an_enlarged_level(
    dtype: torch.dtype, channels: int, size: tuple[int, ...], factor: int, pad: int, kernels: set[str]
) -> None:
    def table() -> Tensor:
        made = enlarged_level(channels, *size, factor=factor, dtype=dtype).table(pad=pad)
        assert (made.batch, made.height, made.width) == (size[0], size[1] * factor, size[2] * factor)
        return made.rows_NC

    assert furthest(*both(table)) < WITHIN[dtype]
    assert kernels == {"enlarged_norm"}


@built
@TYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("channels", "factor"), [(64, 4), (128, 2), (192, 1)])
@pytest.mark.parametrize("size", [(2, 3, 5), (1, 1, 1), (1, 1, 6)])
def test_a_projection_of_an_enlarged_level(
    dtype: torch.dtype, bias: bool, channels: int, factor: int, size: tuple[int, ...], kernels: set[str]
) -> None:
    by = nn.Linear(channels, 192, bias=bias, dtype=dtype)
    level = enlarged_level(channels, *size, factor=factor, dtype=dtype)
    assert furthest(*both(lambda: level.table(pad=4, by=by).rows_NC)) < WITHIN[dtype]
    assert kernels == {"enlarged_spread", "enlarged_product"}


@built
def test_a_projection_of_an_enlarged_level_is_not_the_enlargement_of_a_projected_one() -> None:
    """Negative control: LayerNorm before the enlargement is another map."""
    level = enlarged_level(128, 1, 3, 5, factor=2, dtype=torch.float64)
    by = nn.Linear(128, 192, dtype=torch.float64)
    early = Table.of(upsample(by(level.made.norm(level.made.proj(level.source_BHWC))), 2), extent=(1.0, 1.0), pad=4)
    assert furthest(level.table(pad=4, by=by).rows_NC, early.rows_NC) > 0.01


@built
@pytest.mark.parametrize(("channels", "out"), [(96, None), (96, 192), (128, 64)])
def test_other_widths_are_enlarged_by_stock_operators(channels: int, out: int | None, kernels: set[str]) -> None:
    by = None if out is None else nn.Linear(channels, out, dtype=torch.float64)
    level = enlarged_level(channels, 1, 3, 5, factor=2, dtype=torch.float64)
    assert furthest(*both(lambda: level.table(pad=2, by=by).rows_NC)) == 0
    assert kernels == set()


# --- primitives -----------------------------------------------------------------------------------------------------


@built
@TYPES
@pytest.mark.parametrize("rows", [1, 7, 32, 33, 300])
@pytest.mark.parametrize(("hidden", "outputs"), [(384, 1), (50, 7)])
def test_a_perceptron(dtype: torch.dtype, rows: int, hidden: int, outputs: int, kernels: set[str]) -> None:
    wide, narrow = nn.Linear(192, hidden, dtype=dtype), nn.Linear(hidden, outputs, dtype=dtype)
    x = random(rows, 192, dtype=dtype)
    x[0, 5] = NAN
    found, expected = both(lambda: products.perceptron(x, wide, narrow))
    assert furthest(found, expected) < WITHIN[dtype]
    assert found.isnan().sum() == outputs
    assert kernels == {"perceptron"}


@built
@TYPES
def test_gelu_over_its_range(dtype: torch.dtype) -> None:
    """A perceptron whose layers change nothing is GELU alone."""
    same = nn.Linear(192, 192, dtype=dtype)
    nn.init.eye_(same.weight)
    nn.init.zeros_(same.bias)
    x = torch.cat([torch.linspace(-9, 9, 192 * 100 - 4, dtype=dtype), torch.tensor([1e4, -1e4, 1e30, -1e30])])
    exact = F.gelu(x.double())
    found = products.perceptron(x.to(dtype).view(-1, 192), same, same).flatten()
    error = (found.double() - exact).abs() / exact.abs().clamp_min(1)
    assert float(error.max()) < (1e-15 if dtype == torch.float64 else 6e-7)


@built
@TYPES
@pytest.mark.parametrize("rows", [127, 128, 1369])
@pytest.mark.parametrize("columns", [64, 192, 200])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_many_rows(dtype: torch.dtype, rows: int, columns: int, bias: bool, kernels: set[str]) -> None:
    x, weight = random(rows, 48, dtype=dtype), random(columns, 48, dtype=dtype, seed=1)
    added = random(columns, dtype=dtype, seed=2) if bias else None
    found, expected = both(lambda: products.linear(x, weight, added))
    assert furthest(found, expected) < WITHIN[dtype]
    assert kernels == (set() if rows < 128 or columns == 200 else {"linear_of_many"})  # others as they come


@built
@TYPES
def test_standardise(dtype: torch.dtype) -> None:
    x = 3 + random(2, 3, 5, 192, dtype=dtype)
    x[0, 0, 0] = 7.0  # variance 0: what is left is eps
    x[1, 2, 4, 100] = NAN
    found, expected = both(lambda: products.standardise(x))
    assert furthest(found, expected) < WITHIN[dtype]
    assert found[1, 2, 4].isnan().all()
    assert found.isnan().sum() == 192


@built
@TYPES
@pytest.mark.parametrize("r", [1, 8, 20])
def test_largest(dtype: torch.dtype, r: int) -> None:
    weight = random(2, 50, 20, dtype=dtype).abs().mul(4).round()  # many ties
    weight[0, 0, 3] = NAN
    weight[0, 1] = NAN
    weight[0, 2] = torch.tensor([0.0, -0.0] * 10)
    weight[0, 3, :4] = torch.tensor([float("-inf"), float("inf"), -1.0, -2.0])
    expected = torch.sort(weight, dim=-1, descending=True, stable=True).indices[..., :r]
    assert torch.equal(products.largest(weight, r), expected)


@built
@TYPES
@pytest.mark.parametrize("channels", [1, 3, 16, 20, 64, 192])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_neighbourhoods(dtype: torch.dtype, channels: int, side: int) -> None:
    """Channels and sides that no kernel is compiled for take the stock form."""
    table = Table.of(random(2, *GRID, channels, dtype=dtype), extent=(1.0, 0.9), pad=5)
    xy = torch.rand(2, 33, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    xy[:, : len(BORDERS)] = torch.tensor(BORDERS)
    xy[1, 20, 0] = NAN
    found, expected = both(lambda: table.read_neighbourhood(table.xy_lvl(xy), side))
    assert furthest(found, expected) < WITHIN[dtype]
    assert found[1, 20].isnan().all()
    far = 40 * (xy - 0.5)
    found, expected = both(lambda: table.read(far))
    assert furthest(found, expected) < WITHIN[dtype]


@built
@TYPES
@pytest.mark.parametrize("parts", [(1,), (91,), (91, 32), (4, 1, 12)])
@pytest.mark.parametrize("items", [4, 9, 40, 150])  # by rows, a panel, more of them, more than go together
@pytest.mark.parametrize("hidden", [768, 50])
def test_an_attention_layer(
    dtype: torch.dtype, parts: tuple[int, ...], items: int, hidden: int, kernels: set[str]
) -> None:
    dims = Dims(ffn=hidden)
    layer, norm = TokenAttentionLayer(dims, 0.1).to(dtype).eval(), nn.LayerNorm(192, dtype=dtype)
    for i, parameter in enumerate([*layer.parameters(), *norm.parameters()]):
        spread = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0
        parameter.copy_(spread * random(*parameter.shape, dtype=dtype, seed=i))
    h = random(1, items, 192, dtype=dtype)
    h[0, 2, 5] = NAN
    tokens = [TokenPart(random(1, items, count, 192, dtype=dtype, seed=i)) for i, count in enumerate(parts)]
    tokens[0].tokens_BKTD[0, 1, 0] *= 1e4
    tokens[0].tokens_BKTD[0, 3, 0, 5] = NAN
    found, expected = both(lambda: layer(h, tokens, layer.absorb(norm)))
    assert furthest(found, expected) < WITHIN[dtype]
    assert kernels >= {"token_layer"}
    assert found[0, [2, 3]].isnan().all()
    assert found.isnan().sum() == 2 * 192


@built
@TYPES
@pytest.mark.parametrize("shape", [(1, 3), (1, 9), (3, 50), (2, 140)])
@pytest.mark.parametrize("sites", [20, 324])
def test_a_layer_over_sites(dtype: torch.dtype, shape: tuple[int, int], sites: int, kernels: set[str]) -> None:
    """Panels hold queries of several images, each of which reads its own sites."""
    layer = SiteAttentionLayer(Dims(), 0.1).to(dtype).eval()
    h, l4 = random(*shape, 192, dtype=dtype), random(shape[0], sites, 384, dtype=dtype, seed=1)
    added = random(*shape, 192, dtype=dtype, seed=2)
    for more in (None, added):
        for part in (0, 1):
            found, expected = both(lambda: layer(h, layer.prepare(l4), added_query_BKD=more)[part])  # noqa: B023
            assert furthest(found, expected) < WITHIN[dtype]
    assert kernels >= {"site_layer"}


# --- blocks ---------------------------------------------------------------------------------------------------------

V13: dict[str, type[Block]] = {
    "b1": LocalTokens,
    "b2": LocalCrossAttention,
    "b3": GlobalCrossAttention,
    "routing": TopKAttention,
    "b4": DeformableRead,
    "b5": FusedCrossAttention,
}
VARIANTS: dict[str, tuple[str, type[Block], dict[str, Any]]] = {
    "v13": ("b1", LocalTokens, {}),
    "no_learned_offsets": ("b1", NoLearnedOffsets, {}),
    "ring_3x3": ("b1", Ring3x3, {}),
    "l1_only": ("b1", L1Only, {}),
    "centre_token": ("b1", CentreToken, {}),
    "fixed_offsets": ("b4", FixedOffsets, {}),
    "nearest_read": ("b4", NearestRead, {}),
    "one level": ("b4", DeformableRead, {"levels": (3,), "samples": 1}),
    "16 samples": ("b4", DeformableRead, {"levels": (2, 4), "samples": 16}),
    "fixed, two levels": ("b4", FixedOffsets, {"levels": (2, 4), "samples": 2}),
}


def pyramid_of(dtype: torch.dtype) -> Pyramid:
    neck = PyramidNeck(PyramidNeck.Config(), Dims()).to(dtype)
    first, second, third, fourth = (random(2, *GRID, 384, dtype=dtype, seed=i) for i in range(4))
    found: Pyramid = neck(Features((first, second, third, fourth)))
    return found


def blocks_of(dtype: torch.dtype, variant: str) -> dict[str, Block]:
    slot, component, options = VARIANTS[variant]
    classes = {**V13, slot: component}
    made = {}
    for name, cls in classes.items():
        given = options if name == slot else {"r": 7} if name == "routing" else {}
        made[name] = cls(cls.Config(**given), Dims())
    for block in made.values():
        for i, (_, parameter) in enumerate(block.named_parameters()):
            spread = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 1.0
            parameter.copy_(spread * random(*parameter.shape, dtype=torch.float64, seed=i))
    return {name: block.to(dtype).eval() for name, block in made.items()}


def states(blocks: dict[str, Block], pyramid: Pyramid, xy: Tensor) -> dict[str, QueryState]:
    """What each block writes."""
    scene = Scene(pyramid, {slot: block.prepare(pyramid) for slot, block in blocks.items()})
    found, state = {}, QueryState(xy)
    for slot, block in blocks.items():
        state = found[slot] = block(state, scene)
    return found


def points(count: int, dtype: torch.dtype) -> Tensor:
    xy = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    xy[:, : len(BORDERS)] = torch.tensor(BORDERS)[:count]
    return xy


def compare(blocks: dict[str, Block], pyramid: Pyramid, xy: Tensor) -> float:
    """Largest relative difference of anything that any block writes from the same state; other anchors are inf."""
    scene = Scene(pyramid, {slot: block.prepare(pyramid) for slot, block in blocks.items()})
    worst, state = 0.0, QueryState(xy)
    for block in blocks.values():
        mine = block(state, scene)
        found = list(tensors(mine))
        with forms.stock():
            state = block(state, scene)
            expected = list(tensors(state))
        worst = max([worst, *(furthest(a, b) for a, b in zip(found, expected, strict=True))])
        if state.anchors is not None:
            assert mine.anchors is not None
            worst = worst if torch.equal(mine.anchors.site_BKR, state.anchors.site_BKR) else math.inf
    return worst


def gradients(blocks: dict[str, Block], pyramid: Pyramid, xy: Tensor) -> Tensor:
    """Those of all parameters, one after the other."""
    with torch.enable_grad():
        h_BKD = states(blocks, pyramid, xy)["b5"].h_BKD
        assert h_BKD is not None
        parameters = [parameter for block in blocks.values() for parameter in block.parameters()]
        found = torch.autograd.grad(h_BKD.square().sum(), parameters, allow_unused=True)
    return torch.cat([grad.flatten() for grad in found if grad is not None])


def tensors(state: QueryState) -> Iterator[Tensor]:
    assert state.h_BKD is not None
    yield state.h_BKD
    for part in state.tokens or ():
        yield part.standard_BKTD
        yield part.tokens_BKTD


@built
@TYPES
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [1, 13])
def test_every_block_and_variant(dtype: torch.dtype, variant: str, count: int) -> None:
    assert compare(blocks_of(dtype, variant), pyramid_of(dtype), points(count, dtype)) < WITHIN[dtype]


@built
@TYPES
@pytest.mark.parametrize("apart", [50.0, 90.0, 2000.0])
def test_heads_whose_scores_lie_far_apart(dtype: torch.dtype, apart: float) -> None:
    """The largest score of all heads is subtracted from all: a head far below it must not lose its digits."""
    blocks = blocks_of(dtype, "v13")
    block = blocks["b4"]
    assert isinstance(block, DeformableRead)
    block.weight.bias[24:36] -= apart  # the third head's
    assert compare(blocks, pyramid_of(dtype), points(13, dtype)) < WITHIN[dtype]


@built
def test_a_query_that_is_no_number_harms_no_other() -> None:
    blocks, pyramid, xy = blocks_of(torch.float64, "v13"), pyramid_of(torch.float64), points(13, torch.float64)
    xy[1, 4, 1] = NAN
    assert compare(blocks, pyramid, xy) < 1e-12
    h_BKD = states(blocks, pyramid, xy)["b5"].h_BKD
    assert h_BKD is not None
    assert h_BKD[1, 4].isnan().all()
    assert h_BKD.isnan().sum() == 192


@built
def test_threads_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks, pyramid, xy = blocks_of(torch.float32, "v13"), pyramid_of(torch.float32), points(77, torch.float32)
    one = states(blocks, pyramid, xy)["b5"].h_BKD
    asked, pool = set(), build._pool

    def counted(process: int, threads: int) -> Any:
        asked.add(threads)
        return pool(process, threads)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(build, "_pool", counted)
    two = states(blocks, pyramid, xy)["b5"].h_BKD
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)
    assert asked == {2}


def _half_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    original = anchor_reads.evidence

    def wrong(of: anchor_reads.Conditioning, weights: anchor_reads.ReadWeights, *rest: Any) -> Tensor:
        bias_J = weights.bias_J.clone()
        bias_J[:72] += 0.5
        return original(of, weights._replace(bias_J=bias_J), *rest)

    monkeypatch.setattr(anchor_reads, "evidence", wrong)


def _no_softmax_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    original = attention.token_layer
    monkeypatch.setattr(attention, "token_layer", lambda h, t, w, key, *rest: original(h, t, w, 1.1 * key, *rest))


def _no_value_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    original = attention.token_layer
    monkeypatch.setattr(attention, "token_layer", lambda *a: original(*a[:-1], 0 * a[-1]))


def _another_head(monkeypatch: pytest.MonkeyPatch) -> None:
    original = attention.site_layer
    monkeypatch.setattr(attention, "site_layer", lambda h, w, key, *rest: original(h, w, key.flip(1), *rest))


def _another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    original = products.largest
    monkeypatch.setattr(products, "largest", lambda weight, r: original(weight, r).flip(-1))


def _not_standardised(monkeypatch: pytest.MonkeyPatch) -> None:
    original = neighbourhoods.local_tokens
    monkeypatch.setattr(neighbourhoods, "local_tokens", lambda *a: (original(*a)[0], 2 * original(*a)[1]))


def _no_angle(monkeypatch: pytest.MonkeyPatch) -> None:
    original = anchor_reads.evidence

    def wrong(of: anchor_reads.Conditioning, *rest: Any) -> Tensor:
        return original(of._replace(query_code_BKP=torch.zeros_like(of.query_code_BKP)), *rest)

    monkeypatch.setattr(anchor_reads, "evidence", wrong)


def _mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    original = neighbourhoods.local_tokens
    monkeypatch.setattr(neighbourhoods, "local_tokens", lambda xy, *rest: original(xy.flip(-1), *rest))


WRONG = [
    *(_half_a_cell, _no_softmax_scale, _no_value_bias, _another_head),
    *(_another_order, _not_standardised, _no_angle, _mirrored),
]


@built
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("count", [2, 13])
def test_a_wrong_kernel_is_noticed(
    wrong: Callable[[pytest.MonkeyPatch], None], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, pyramid, xy = blocks_of(torch.float32, "v13"), pyramid_of(torch.float32), points(count, torch.float32)
    assert compare(blocks, pyramid, xy) < 1e-5
    wrong(monkeypatch)
    assert compare(blocks, pyramid, xy) > 1e-3


# --- dispatch -------------------------------------------------------------------------------------------------------


@built
def test_where_the_fused_forms_run() -> None:
    x = random(2, 192, dtype=torch.float32)
    assert forms.ready(x)
    assert forms.ready(x.double(), x.double())
    assert not forms.ready(x, x.double())
    assert not forms.ready(x.bfloat16())
    assert not forms.ready(x.to("meta"))
    assert not forms.ready(x, heads=3)
    assert not forms.ready(x, width=64)
    with torch.enable_grad():
        assert not forms.ready(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not forms.ready(x)
    with forms.stock(), forms.stock():
        assert not forms.ready(x)
    assert forms.ready(x)


@built
def test_what_has_no_gradient_is_left_out_of_training(kernels: set[str]) -> None:
    blocks, pyramid, xy = blocks_of(torch.float32, "v13"), pyramid_of(torch.float32), points(3, torch.float32)
    with torch.enable_grad():
        states(blocks, pyramid, xy)
    assert kernels == {"attend_kept", "largest", "levels_read", "neighbourhood", "standardise_kept"}
    kernels.clear()
    states(blocks, pyramid, xy)
    assert kernels == {
        "enlarged_norm",
        "enlarged_product",
        "enlarged_spread",
        "evidence",
        "largest",
        "linear_of_many",
        "local_tokens",
        "site_layer",
        "token_layer",
    }


@built
def test_dropout_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model in training mode without gradients draws dropout all the same."""
    monkeypatch.setattr(attention, "token_layer", lambda *a: pytest.fail("the fused layer knows no dropout"))
    layer = TokenAttentionLayer(Dims(), 0.5).train()
    parts = [TokenPart(random(1, 2, 9, 192, dtype=torch.float32))]
    h_BKD, absorbed = random(1, 2, 192, dtype=torch.float32), layer.absorb(nn.LayerNorm(192))
    assert not torch.equal(layer(h_BKD, parts, absorbed), layer(h_BKD, parts, absorbed))


class OtherCells(DeformableRead):
    """Reads other cells: the fused read must not stand in for it."""

    def _cells(self, *given: Any) -> Any:
        return tuple(reversed(super()._cells(*given)))[:1]


class OtherOffsets(DeformableRead):
    """Looks elsewhere."""

    def _offsets(self, u_QD: Tensor, axis: int) -> Tensor:
        return -super()._offsets(u_QD, axis)


class OtherRing(FixedOffsets):
    """Has other constants than the ring that the fused form knows."""

    def _offsets(self, u_QD: Tensor, axis: int) -> Tensor:
        return -super()._offsets(u_QD, axis)


class OtherWeights(DeformableRead):
    """Weighs all samples alike."""

    def _weights(self, score_QT: Tensor) -> Tensor:
        return torch.full_like(score_QT, 1 / 12)


class OtherAltogether(LocalTokens):
    """Makes its tokens in another way."""

    def _made(self, *given: Any) -> tuple[Tensor, Tensor]:
        h_BKD, tokens_BKTD = super()._made(*given)
        return h_BKD, -tokens_BKTD


class OtherTokens(LocalTokens):
    """Has other tokens of L1."""

    def _local_tokens(self, *given: Any) -> Tensor:
        return -super()._local_tokens(*given)


@built
@pytest.mark.parametrize("component", [OtherCells, OtherOffsets, OtherRing, OtherWeights, OtherTokens, OtherAltogether])
def test_what_a_subclass_changes_is_not_passed_over(component: type[Block]) -> None:
    base = "fixed_offsets" if component is OtherRing else "v13"
    blocks, pyramid, xy = blocks_of(torch.float64, base), pyramid_of(torch.float64), points(5, torch.float64)
    plain = states(blocks, pyramid, xy)["b5"].h_BKD
    other = component(component.Config(), Dims()).double().eval()
    other.load_state_dict(blocks[component.slot].state_dict())
    blocks[component.slot] = other
    assert compare(blocks, pyramid, xy) < 1e-12
    changed = states(blocks, pyramid, xy)["b5"].h_BKD
    assert plain is not None
    assert changed is not None
    assert furthest(changed, plain) > 1e-6


# --- building -------------------------------------------------------------------------------------------------------

TELL = "from spd_bench.fused import build; print(build.description())"


def told(code: str = TELL, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return done.stdout.strip()


def compiler(folder: Path, script: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_switch_is_named() -> None:
    assert told(SPD_BENCH_FUSED="0") == "stock operators (SPD_BENCH_FUSED=0)"


def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    broken = compiler(tmp_path, "exit 1")
    assert told(CXX=broken, XDG_CACHE_HOME=str(tmp_path)) == "stock operators (c++ does not compile the kernels)"
    assert list((tmp_path / "spd-bench").iterdir()) == []  # nothing half made is left


def test_no_compiler_is_named(tmp_path: Path) -> None:
    assert told(CXX="", PATH=str(tmp_path)) == "stock operators (no C++ compiler found)"


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "spd-bench").write_text("a file where the folder should be")
    always = compiler(tmp_path, "exit 0")
    found = told(CXX=always, XDG_CACHE_HOME=str(tmp_path))
    assert found.startswith("stock operators (the compiled kernels cannot be kept or loaded: ")


def test_a_library_that_is_none_is_named(tmp_path: Path) -> None:
    writes = compiler(tmp_path, 'for last; do :; done; echo none > "$last"')
    found = told(CXX=writes, XDG_CACHE_HOME=str(tmp_path))
    assert found.startswith("stock operators (the compiled kernels cannot be kept or loaded: ")


@built
def test_processes_that_build_at_once_all_get_it(tmp_path: Path) -> None:
    """Each by a compiler that copies the library which is there: what is tested is how they share its place."""
    library = build.loaded()[0]
    assert library is not None
    copies = compiler(tmp_path, f'for last; do :; done; cp {library._name} "$last"')
    environment = {**os.environ, "CXX": copies, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", TELL], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate()[0].strip() for process in started]
    assert said == [build.description()] * 2
    (built,) = (tmp_path / "cache/spd-bench").iterdir()
    assert ctypes.CDLL(str(built)).token_layer_float32


@built
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the flags below are for x86")
@pytest.mark.parametrize("flags", ["-march=x86-64", "-march=x86-64-v3"] if EVERYTHING else ["-march=x86-64"])
def test_narrower_vectors_compute_the_same(flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FOR_THIS_MACHINE", (flags,))
    library = tmp_path / "narrow.so"
    words = build._compiler()
    assert words is not None
    try:
        build._compile(words, library)
    except subprocess.CalledProcessError:
        pytest.skip(f"this compiler knows no {flags}")
    if "v3" in flags and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine has no AVX2")
    loaded = ctypes.CDLL(str(library))
    monkeypatch.setattr(build, "loaded", lambda: (loaded, "narrow"))
    build._function.cache_clear()
    try:
        for dtype, within in WITHIN.items():
            blocks, pyramid, xy = blocks_of(dtype, "v13"), pyramid_of(dtype), points(5, dtype)
            assert compare(blocks, pyramid, xy) < within
            assert furthest(*both(partial(gradients, blocks, pyramid, xy))) < within
    finally:
        build._function.cache_clear()
