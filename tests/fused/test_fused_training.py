"""Fused forms of training: values and gradients of stock operators, the same bits each time, only where they may run.

In float64 the two agree to 1e-12 of the largest value of a tensor, in float32 to 3e-5. Kernels with one wrong term must
fail the comparison.
"""

import ctypes
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from spd_bench.api import Anchors, Block, Dims, Features, Level, Pyramid, QueryState, Scene, TokenPart
from spd_bench.fused import anchor_reads, build, forms
from spd_bench.fused import training as fused_training
from spd_bench.geometry import Table
from spd_components.blocks.b1_local_tokens import LocalTokens
from spd_components.blocks.b2_local_cross_attention import LocalCrossAttention
from spd_components.blocks.b3_global_cross_attention import GlobalCrossAttention
from spd_components.blocks.b4_deformable_read import DeformableRead
from spd_components.blocks.b4_fixed_offsets import FixedOffsets
from spd_components.blocks.b4_nearest_read import NearestRead
from spd_components.blocks.b5_fused_cross_attention import FusedCrossAttention
from spd_components.blocks.b5_mean_tokens import MeanTokens
from spd_components.blocks.layers import TokenAttentionLayer
from spd_components.necks.pyramid import PyramidNeck
from spd_components.routing.topk_attention import TopKAttention

TYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
WITHIN = {torch.float64: 1e-12, torch.float32: 3e-5}
GRID = (9, 11)  # odd, not square: L4 covers less than the image on both axes
BORDERS = [[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0], [0, 0.5], [1, 0.3], [0.999, 0.999], [1e-4, 0.7], [0.5, 0.5]]
pytestmark = pytest.mark.skipif(build.loaded()[0] is None, reason=build.description())

Gradients = dict[str, Tensor]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def leaf(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return random(*shape, dtype=dtype, seed=seed).requires_grad_()


def furthest(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], zero: Collection[str] = ()) -> float:
    """Largest difference of any tensor, relative to the largest value of that tensor; those in `zero` may be zero."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        scale, difference = float(value.abs().max()), float((found[name] - value).abs().max())
        assert scale > 0 or name in zero, f"{name} is zero: the comparison would show nothing"
        worst = max(worst, difference / scale if scale else difference)
    return worst


def gradients(out: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Gradients:
    """Outputs, and gradients of a weighted sum of all of them; inputs without one are left out."""
    total = sum((value * random(*value.shape, dtype=value.dtype, seed=7)).sum() for value in out.values())
    assert isinstance(total, Tensor)
    grads = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    found = {f"d {name}": grad for name, grad in zip(inputs, grads, strict=True) if grad is not None}
    return {name: value.detach() for name, value in out.items()} | found


def both(call: Callable[[], Gradients]) -> tuple[Gradients, Gradients]:
    """What a call gives in its fused and in its stock form, with the same random numbers; as many are drawn."""
    torch.manual_seed(3)
    found, state = call(), torch.get_rng_state()
    torch.manual_seed(3)
    with forms.stock():
        expected = call()
    assert torch.equal(torch.get_rng_state(), state)
    return found, expected


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the kernels that ran."""
    names: set[str] = set()
    original = build.run

    def noted(name: str, *given: Any, **how: Any) -> None:
        names.add(name)
        original(name, *given, **how)

    monkeypatch.setattr(build, "run", noted)
    return names


# --- attention over tokens ------------------------------------------------------------------------------------------


def attention(dtype: torch.dtype, counts: tuple[int, ...], dropout: float, *, training: bool = True) -> Gradients:
    """A layer over tokens in parts, from 2 × 5 queries; gradients of queries, tokens and all parameters."""
    layer = TokenAttentionLayer(Dims(), dropout).to(dtype).train(training)
    norm = torch.nn.LayerNorm(192).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate([*layer.parameters(), *norm.parameters()]):
            parameter.copy_(random(*parameter.shape, dtype=dtype, seed=i) * parameter.shape[-1] ** -0.5)
    inputs = {"h": leaf(2, 5, 192, dtype=dtype)}
    inputs |= {f"tokens {i}": leaf(2, 5, count, 192, dtype=dtype, seed=i) for i, count in enumerate(counts)}
    parts = [TokenPart(3 + 2 * tokens) for name, tokens in inputs.items() if name != "h"]
    out = {"h'": layer(inputs["h"], parts, layer.absorb(norm))}
    named = dict(layer.named_parameters()) | {f"norm.{name}": value for name, value in norm.named_parameters()}
    return gradients(out, inputs | named)


@TYPES
@pytest.mark.parametrize("counts", [(1, 2), (91,), (91, 32), (4, 1, 12)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention(dtype: torch.dtype, counts: tuple[int, ...], dropout: float, called: set[str]) -> None:
    assert furthest(*both(lambda: attention(dtype, counts, dropout))) < WITHIN[dtype]
    assert called == {"standardise_kept", "standardise_backward", "attend_kept", "attend_backward"}


@TYPES
def test_attention_outside_training_draws_nothing(dtype: torch.dtype) -> None:
    found, expected = both(lambda: attention(dtype, (9,), 0.5, training=False))
    assert furthest(found, expected) < WITHIN[dtype]


def test_attention_passes_gradcheck() -> None:
    def call(query_NQD: Tensor, *tokens: Tensor) -> tuple[Tensor, Tensor]:
        keep_QNT = 1.25 * (random(2, 6, 3, seed=5) > -0.8).double()
        shared = [fused_training.share(part) for part in tokens]
        return fused_training.attend(query_NQD, keep_QNT, [part for part in shared if part])

    assert torch.autograd.gradcheck(call, (leaf(6, 2, 192), leaf(1, 2, 1, 192), leaf(1, 2, 2, 192)), fast_mode=True)


def layers_and_others(h_BKD: Tensor, tokens_BKTD: Tensor) -> Tensor:
    """Two layers and a mean that read the same tokens."""
    part = TokenPart(tokens_BKTD)
    norm = torch.nn.LayerNorm(192).double()
    for seed in (1, 2):
        torch.manual_seed(seed)
        layer = TokenAttentionLayer(Dims(), 0.0).double()
        h_BKD = layer(h_BKD, [part], layer.absorb(norm))
    state: QueryState = MeanTokens(MeanTokens.Config(), Dims())(QueryState(h_BKD, h_BKD, (part,)), Scene(None, {}))  # type: ignore[arg-type]
    assert state.h_BKD is not None
    return state.h_BKD


def test_gradients_of_all_readers_of_the_same_tokens_are_summed() -> None:
    def call() -> Gradients:
        h_BKD, tokens_BKTD = leaf(1, 3, 192), leaf(1, 3, 7, 192, seed=1)
        return gradients({"h'": layers_and_others(h_BKD, tokens_BKTD)}, {"h": h_BKD, "tokens": tokens_BKTD})

    assert furthest(*both(call)) < 1e-12


def test_a_pass_that_asks_for_less_leaves_nothing_behind() -> None:
    """Its layers add their shares, which nobody fetches; the next pass must not find them."""
    h_BKD, tokens_BKTD = leaf(1, 3, 192), leaf(1, 3, 7, 192, seed=1)
    out_BKD = layers_and_others(h_BKD, tokens_BKTD)

    def grad(*of: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out_BKD.sin().sum(), of, retain_graph=True)

    whole = grad(h_BKD, tokens_BKTD)
    (alone,) = grad(h_BKD)
    again = grad(h_BKD, tokens_BKTD)
    assert torch.equal(alone, whole[0])
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_shares_that_do_not_belong_together_are_refused() -> None:
    total = fused_training._Sum()
    total.place(torch.zeros(1))
    with pytest.raises(RuntimeError, match="two backward passes were mixed"):
        total.take(2)


def test_tokens_that_want_no_gradient_get_none() -> None:
    def call() -> Gradients:
        h_BKD = leaf(1, 3, 192)
        return gradients({"h'": layers_and_others(h_BKD, random(1, 3, 7, 192, seed=1))}, {"h": h_BKD})

    assert furthest(*both(call)) < 1e-12


def test_no_second_derivative() -> None:
    h_BKD = leaf(1, 3, 192)
    out_BKD = layers_and_others(h_BKD, random(1, 3, 7, 192, seed=1))
    (grad,) = torch.autograd.grad(out_BKD.sin().sum(), h_BKD, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# --- reads of a map -------------------------------------------------------------------------------------------------


def around(dtype: torch.dtype, channels: int, side: int) -> Gradients:
    """Neighbourhoods of 2 × 10 points of the image; gradients of the map and of the points."""
    inputs = {"map": leaf(2, *GRID, channels, dtype=dtype), "xy": torch.tensor(BORDERS, dtype=dtype).repeat(2, 1, 1)}
    inputs["xy"].requires_grad_()
    table = Table.of(inputs["map"], extent=(1.0, 0.9), pad=5)
    # off the borders of cells, where the derivative jumps: the two forms may round to different sides
    xy_lvl_BK2 = table.xy_lvl(inputs["xy"]) + 0.01
    return gradients({"read": table.read_neighbourhood(xy_lvl_BK2, side)}, inputs)


@TYPES
@pytest.mark.parametrize("channels", [1, 16, 20, 64, 192])
@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_neighbourhoods(dtype: torch.dtype, channels: int, side: int, called: set[str]) -> None:
    assert furthest(*both(lambda: around(dtype, channels, side))) < WITHIN[dtype]
    fits = channels % 16 == 0 and side < 7
    assert called == ({"neighbourhood", "neighbourhood_backward"} if fits else set())


def test_neighbourhoods_pass_gradcheck() -> None:
    def call(map_BHWC: Tensor, xy_lvl_BK2: Tensor) -> Tensor:
        return Table.of(map_BHWC, extent=(1.0, 1.0), pad=4).read_neighbourhood(xy_lvl_BK2, 3)

    points = torch.tensor([[[0.2, 1.3], [1.7, 0.1]], [[2.9, 1.9], [-0.3, 2.3]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(call, (leaf(2, 2, 3, 16), points.requires_grad_()))


@TYPES
def test_points_beyond_reach_have_no_gradient(dtype: torch.dtype) -> None:
    def call() -> Gradients:
        table = Table.of(leaf(2, *GRID, 64, dtype=dtype), extent=(1.0, 1.0), pad=2)
        at = 5 + 8 * leaf(2, 9, 2, dtype=dtype, seed=1)
        return gradients({"read": table.read(at)}, {"at": at, "rows": table.rows_NC})

    found, expected = both(call)
    assert furthest(found, expected) < WITHIN[dtype]
    assert not found["d at"].all()


# --- B4's read ------------------------------------------------------------------------------------------------------


def pyramid_of(dtype: torch.dtype) -> Pyramid:
    neck = PyramidNeck(PyramidNeck.Config(), Dims()).to(dtype)
    first, second, third, fourth = (random(2, *GRID, 384, dtype=dtype, seed=i) for i in range(4))
    with torch.no_grad():
        found: Pyramid = neck(Features((first, second, third, fourth)))
    return found


def randomised(block: Block, dtype: torch.dtype) -> Block:
    """With weights that hide nothing; B4's offsets leave the maps, of which the smallest has 4×5 cells."""
    with torch.no_grad():
        for i, (name, parameter) in enumerate(block.named_parameters()):
            spread = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 3.0 if "offset" in name else 1.0
            parameter.copy_(spread * random(*parameter.shape, seed=i))
    return block.to(dtype)


READS: dict[str, tuple[type[DeformableRead], dict[str, Any]]] = {
    "v13": (DeformableRead, {}),
    "one level, one sample": (DeformableRead, {"levels": (3,), "samples": 1}),
    "two levels, 16 samples": (DeformableRead, {"levels": (2, 4), "samples": 16}),
    "fixed offsets": (FixedOffsets, {"levels": (2, 4), "samples": 2}),
    "nearest cells": (NearestRead, {}),
}


def read(dtype: torch.dtype, variant: str = "v13") -> Gradients:
    """B4 from 2 × 10 queries and 7 anchors each; gradients of h, gate, maps and all parameters."""
    cls, options = READS[variant]
    block = randomised(cls(cls.Config(**options), Dims()), dtype)
    pyramid = pyramid_of(dtype)
    inputs = {f"l{i}": getattr(pyramid, f"l{i}").map_BHWC.clone().requires_grad_() for i in (1, 2, 3, 4)}
    levels = (Level(inputs[f"l{i}"], level.extent) for i, level in enumerate(vars(pyramid).values(), start=1))
    inputs |= {"h": leaf(2, 10, 192, dtype=dtype), "gate": leaf(2, 10, 7, dtype=dtype, seed=1)}
    site_BKR = torch.randint(20, (2, 10, 7), generator=torch.Generator().manual_seed(4))
    xy_BK2 = torch.tensor(BORDERS, dtype=dtype).expand(2, -1, -1)
    state = QueryState(xy_BK2, inputs["h"], (), anchors=Anchors(site_BKR, inputs["gate"]))
    scene = Scene(pyramid, {"b4": block.prepare(Pyramid(*levels))})
    parts = block(state, scene).tokens
    return gradients({"tokens": parts[0].tokens_BKTD}, inputs | dict(block.named_parameters()))


@TYPES
@pytest.mark.parametrize("variant", READS)
def test_read(dtype: torch.dtype, variant: str, called: set[str]) -> None:
    found, expected = both(lambda: read(dtype, variant))
    # one sample of one level has all the weight, whatever its score
    zero = ("d weight.weight", "d weight.bias") if variant == "one level, one sample" else ()
    assert furthest(found, expected, zero) < WITHIN[dtype]
    assert called == (set() if variant == "nearest cells" else {"levels_read", "levels_read_backward"})


def sampled(*, items: int = 3) -> dict[str, Tensor]:
    """Two tables of 2×2 and 1×3 cells with borders of 2, of two images, and what two samples of a head read there."""
    return {
        "first": leaf(2 * 6 * 6, 192, seed=1),
        "second": leaf(2 * 5 * 7, 192, seed=2),
        "x": leaf(2 * items, 12, seed=3),
        "y": leaf(2 * items, 12, seed=4),
        "score": leaf(2 * items, 12, seed=5),
    }


def read_of(first: Tensor, second: Tensor, x: Tensor, y: Tensor, score: Tensor) -> Tensor:
    level_4S = torch.tensor([[2.0, 3.0], [2.0, 1.0], [2.5, 3.5], [2.5, 1.5]], dtype=torch.float64)
    # row stride, first cell's row, last row that a read may begin at
    places_3S = torch.tensor([[6, 7], [14, 16], [36 - 8, 35 - 9]], dtype=torch.int32)
    return fused_training.levels_read(
        anchor_reads.Samples([(first, 36), (second, 35)], level_4S, places_3S),
        site_BKR=torch.tensor([0, 1, 0]).expand(2, 1, 3),
        site_xy_S2=torch.tensor([[0.25, 0.5], [0.75, 0.5]], dtype=torch.float64),
        x_QT=x,
        y_QT=y,
        score_QT=score,
    )


def test_read_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(read_of, tuple(sampled().values()), fast_mode=True)


def test_read_one_sample_by_hand() -> None:
    """A 2×2 map of ones: half a cell from its left border reads 1; a quarter cell further left 0.75, d/dx is 1."""
    given = {name: torch.zeros_like(value) for name, value in sampled().items()}
    cells = given["first"].view(2, 6, 6, 192)
    cells[:, 2:4, 2:4] = 1
    given["score"][:, 1::2] = -1e9  # the first sample of every head has all the weight
    given["x"][:, 0] = -0.25  # of head 0: sites 0 and 1 lie at x = 0.5 and 1.5 cells, y = 1 cell
    asked = {name: value.requires_grad_() for name, value in given.items()}
    out_QD = read_of(*asked.values())
    assert torch.allclose(out_QD[0, :32], torch.tensor(0.75).double())
    assert torch.allclose(out_QD[1, :32], torch.tensor(1.0).double())
    dx, dfirst = torch.autograd.grad(out_QD[0, 0], [asked["x"], asked["first"]])
    assert dx[0, 0] == 1
    assert dx.count_nonzero() == 1
    # y = 1 is the border of two rows of cells; x reads 1/4 of the border cell and 3/4 of the first one, each twice
    assert dfirst.view(2, 6, 6, 192)[0, 2:4, 1:3, 0].tolist() == [[0.125, 0.375], [0.125, 0.375]]
    assert dfirst.sum() == 1


def test_read_beyond_the_border_has_no_gradient_of_its_place() -> None:
    given = sampled()
    with torch.no_grad():
        given["x"][:] = 40.0
        given["y"][:] = -40.0
    out_QD = read_of(*given.values())
    dx, dy = torch.autograd.grad(out_QD.sum(), [given["x"], given["y"]])
    assert out_QD.any()  # this border is not zero: a place that moved in it would read something else
    assert not dx.any()
    assert not dy.any()


def test_a_sample_that_is_no_number_harms_no_other_item() -> None:
    given = sampled()
    with torch.no_grad():
        given["x"][4, 3] = float("nan")
    dx, dy, dscore = torch.autograd.grad(
        read_of(*given.values()).sin().sum(), [given[name] for name in ("x", "y", "score")]
    )
    assert dscore[4].isnan().any()
    for grad in (dx, dy, dscore):
        assert grad[[0, 1, 2, 3, 5]].isfinite().all()


# --- a step ---------------------------------------------------------------------------------------------------------

CHAIN: dict[str, Callable[[], Block]] = {
    "b1": lambda: LocalTokens(LocalTokens.Config(), Dims()),
    "b2": lambda: LocalCrossAttention(LocalCrossAttention.Config(), Dims()),
    "b3": lambda: GlobalCrossAttention(GlobalCrossAttention.Config(), Dims()),
    "routing": lambda: TopKAttention(TopKAttention.Config(r=7), Dims()),
    "b4": lambda: DeformableRead(DeformableRead.Config(), Dims()),
    "b5": lambda: FusedCrossAttention(FusedCrossAttention.Config(), Dims()),
}


def step(dtype: torch.dtype) -> Gradients:
    """All blocks in training mode, from 2 × 10 queries; gradients of all parameters and maps."""
    blocks = {slot: randomised(make(), dtype).train() for slot, make in CHAIN.items()}
    maps = {f"map {i}": leaf(2, *GRID, 384, dtype=dtype, seed=i) for i in range(4)}
    neck = PyramidNeck(PyramidNeck.Config(), Dims()).to(dtype)
    pyramid = neck(Features(tuple(maps.values())))  # type: ignore[arg-type]
    scene = Scene(pyramid, {slot: block.prepare(pyramid) for slot, block in blocks.items()})
    state = QueryState(torch.tensor(BORDERS, dtype=dtype).expand(2, -1, -1))
    for block in blocks.values():
        state = block(state, scene)
    assert state.h_BKD is not None
    named = {f"{slot}.{name}": p for slot, block in blocks.items() for name, p in block.named_parameters()}
    return gradients({"h": state.h_BKD}, maps | named)


def test_step(called: set[str]) -> None:
    found, expected = both(lambda: step(torch.float64))
    assert furthest(found, expected) < 1e-11  # through eight layers
    kernels = {"attend_kept", "attend_backward", "standardise_kept", "standardise_backward", "largest"}
    reads = {"levels_read", "levels_read_backward", "neighbourhood", "neighbourhood_backward"}
    assert called == kernels | reads


@TYPES
def test_a_step_gives_the_same_bits_on_any_number_of_threads(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    expected = step(dtype)
    monkeypatch.setattr(build, "AT_LEAST", 1)
    monkeypatch.setattr(build.run, "__kwdefaults__", {"at_least": 1})
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(3)
        found = step(dtype)
        assert all(torch.equal(found[name], value) for name, value in expected.items()), threads


# --- wrong kernels --------------------------------------------------------------------------------------------------

WRONG = {
    "standardise_backward": (r"g\.part\[b\] - mean - n", "g.part[b] - n"),
    "attend_backward": (r"g\[j\] = s\[j\] \* \(g\[j\] - along\) \* scale", "g[j] = s[j] * g[j] * scale"),
    "neighbourhood_backward": (r"along_y \+= above\[i\] \* \(here - read_above\[i\]\);", ""),
    "attend_kept": (r"if \(keep\) s\[j\] \*= keep\[row \+ j\];", ""),
    "levels_read_backward": (r"ul \+ y \* \(ll - ul\), to_right", "ul, to_right"),
}
"""One term of each kernel, and what is left without it."""


@pytest.fixture(scope="module")
def wrong_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The library with every term of WRONG left out."""
    folder = tmp_path_factory.mktemp("wrong")
    shutil.copytree(build.KERNELS, folder, dirs_exist_ok=True)
    source = build.WHOLE.read_text(encoding="utf-8")
    for right, wrong in WRONG.values():
        source, changed = re.subn(right, wrong, source)
        assert changed == 1, right
    (folder / build.WHOLE.name).write_text(source, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "WHOLE", folder / build.WHOLE.name)
        patch.setattr(build, "FLAGS", tuple(flag.replace("-O3", "-O1") for flag in build.FLAGS))  # sooner compiled
        words = build._compiler()
        assert words is not None
        build._compile(words, folder / "wrong.so")
    return ctypes.CDLL(str(folder / "wrong.so"))


@pytest.mark.parametrize("kernel", WRONG)
def test_a_wrong_term_is_noticed(kernel: str, wrong_kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> Gradients:
        if "neighbourhood" in kernel:
            return around(torch.float32, 64, 3)
        return read(torch.float32) if "levels" in kernel else attention(torch.float32, (9, 4), 0.3)

    assert furthest(*both(call)) < 3e-5
    right = build._function

    def function(name: str, *given: Any) -> Any:
        if name != kernel:
            return right(name, *given)
        with monkeypatch.context() as patch:
            patch.setattr(build, "loaded", lambda: (wrong_kernels, "wrong"))
            return right.__wrapped__(name, *given)

    monkeypatch.setattr(build, "_function", function)
    assert furthest(*both(call)) > 1e-3


# --- where they run -------------------------------------------------------------------------------------------------


@pytest.fixture
def no_kernel_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "run", lambda name, *given, **how: pytest.fail(f"{name} ran"))


@pytest.mark.usefixtures("no_kernel_may_run")
def test_stock_operators_run_where_kernels_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        step(torch.float32)
    with forms.stock():
        step(torch.float32)
    monkeypatch.setattr(build, "loaded", lambda: (None, "no compiler, or SPD_BENCH_FUSED=0"))
    step(torch.float32)


@pytest.mark.usefixtures("no_kernel_may_run")
def test_other_widths_and_devices_take_stock_operators() -> None:
    x = leaf(1, 2, 3, 96)
    assert fused_training.share(x) is None
    assert fused_training.share(leaf(1, 2, 3, 192).to("meta")) is None
    assert fused_training.share(leaf(1, 2, 3, 192).bfloat16()) is None
    with torch.no_grad():
        assert fused_training.share(leaf(1, 2, 3, 192)) is None
    assert fused_training.ready(x)
    assert not fused_training.ready(x, heads=3)
    assert not fused_training.ready(x, width=64)
    assert not fused_training.ready(x, x.float())
