"""`dpt_sparse` is `dpt_trained` evaluated where queries need it: the same values, gradients and weights."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spd_baselines import dpt_sparse
from spd_baselines.dpt_head import DPTHead
from spd_baselines.dpt_sparse import DPTSparse, between, trunk, window
from spd_baselines.dpt_trained import DPTTrained
from spd_bench import registry
from spd_bench.api import Features
from spd_bench.errors import ConfigError
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart, build_baseline
from spd_bench.testing import PatchEncoder

GRIDS = ((1, 1), (1, 2), (3, 5), (6, 4), (7, 7))
"""Rows and columns of features; one cell is less than a query's 5×5 cells of T."""


class WithHead(PatchEncoder):
    """Carries a relative depth head with random numbers, as dav2_small does with the released one."""

    release = "relative"

    def depth_head_state(self) -> Mapping[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            state: dict[str, Tensor] = DPTHead(channels=self.channels, output=nn.ReLU()).state_dict()
        return state


def named(name: str, seed: int = 0, **options: Any) -> Any:
    return build_baseline(ChosenPart(name, registry.load("baseline", name).Config(**options)), WithHead(), seed=seed)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def pair() -> tuple[DPTTrained, DPTSparse]:
    """Dense and sparse with the same float64 weights, strong enough for a map that varies; biases count too."""
    dense, sparse = (named(name).double().eval() for name in ("dpt_trained", "dpt_sparse"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in dense.dpt.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
        dense.dpt.head.conv3.weight.mul_(2)
    sparse.load_state_dict(dense.state_dict())
    return dense, sparse


def features(grid: tuple[int, int], batch: int = 2, channels: int = 384) -> Features:
    generator = torch.Generator().manual_seed(3)
    a, b, c, d = torch.randn(4, batch, *grid, channels, dtype=torch.float64, generator=generator)
    return Features((a, b, c, d))


def awkward_points(grid: tuple[int, int], batch: int = 2) -> Tensor:
    """Corners, borders, the dense map's own pixel centres at the rim, centres of a 480×640 image, and the rest."""
    sides = [[x, y] for x in (0.0, 0.001, 0.4, 0.999, 1.0) for y in (0.0, 0.002, 0.7, 0.998, 1.0)]
    height, width = (14 * cells for cells in grid)
    rim = [
        [(u + 0.5) / width, (v + 0.5) / height]
        for u in (0, 1, 2, width // 2, width - 2, width - 1)
        for v in (0, 1, 2, height // 2, height - 2, height - 1)
    ]
    nyu = [[(u + 0.5) / 640, (v + 0.5) / 480] for u in (0, 1, 13, 320, 638, 639) for v in (0, 7, 240, 479)]
    fixed = torch.tensor(sides + rim + nyu, dtype=torch.float64).expand(batch, -1, -1)
    random = torch.rand(batch, 200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return torch.cat([fixed, random], dim=1)


def depths(model: Any, given: Features, xy_BK2: Tensor) -> Tensor:
    depth_m_BK: Tensor = model.decode(model.prepare(given), xy_BK2)
    return depth_m_BK


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs() / expected).max().item()


# ------------------------------------------------------------------- the same function


@pytest.mark.parametrize("grid", GRIDS)
@torch.no_grad()
def test_every_point_has_the_value_of_the_dense_map(pair: tuple[DPTTrained, DPTSparse], grid: tuple[int, int]) -> None:
    dense, sparse = pair
    expected = depths(dense, features(grid), awkward_points(grid))
    assert expected.std() > 0.02  # a map that varies
    assert error(depths(sparse, features(grid), awkward_points(grid)), expected) < 1e-12


@torch.no_grad()
def test_all_pixels_together_are_the_dense_map(pair: tuple[DPTTrained, DPTSparse]) -> None:
    dense, sparse = pair
    v, u = torch.meshgrid(torch.arange(28.0).double(), torch.arange(42.0).double(), indexing="ij")
    xy_BK2 = torch.stack([(u + 0.5) / 42, (v + 0.5) / 28], dim=-1).view(1, -1, 2)
    map_BHW = dense.prepare(features((2, 3), batch=1))
    assert map_BHW.shape == (1, 28, 42)
    assert error(depths(sparse, features((2, 3), batch=1), xy_BK2), 1 / map_BHW.flatten(1)) < 1e-12


@torch.no_grad()
def test_float32_differs_by_rounding_alone(pair: tuple[DPTTrained, DPTSparse]) -> None:
    given, xy_BK2 = features((6, 4)), awkward_points((6, 4))
    expected = depths(pair[0], given, xy_BK2)
    single = Features(tuple(map_BHWC.float() for map_BHWC in given.maps_BHWC))  # type: ignore[arg-type]
    found = depths(pair[1].float(), single, xy_BK2.float())
    assert found.dtype == torch.float32
    assert 1e-9 < error(found, expected) < 1e-5


@torch.no_grad()
def test_bfloat16_is_no_worse_than_the_dense_head_in_it(pair: tuple[DPTTrained, DPTSparse]) -> None:
    given = Features(tuple(map_BHWC.float() for map_BHWC in features((6, 4)).maps_BHWC))  # type: ignore[arg-type]
    xy_BK2 = awkward_points((6, 4)).float()
    dense, sparse = (model.float() for model in pair)
    expected = depths(dense, given, xy_BK2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = [depths(model, given, xy_BK2) for model in (dense, sparse)]
    assert mixed[1].dtype == torch.float32
    of_dense, of_sparse = (((depth - expected).abs() / expected).mean().item() for depth in mixed)
    assert 1e-5 < of_sparse < 1.5 * of_dense


# ------------------------------------------------------------------- wrong twins


Between = tuple[Tensor, Tensor]


def padding_forgotten(wanted_N2P: Tensor, cells: int, source_2: Tensor, target_2: Tensor, dtype: Any) -> Between:
    """Positions outside the map repeat its border."""
    first_N2, _ = between(wanted_N2P, cells, source_2, target_2, dtype)
    at_N2P = torch.minimum(wanted_N2P.clamp_min(0), target_2[:, None] - 1)
    steps_N2P = (at_N2P * (source_2[:, None] - 1)).to(dtype) / (target_2[:, None] - 1) - first_N2[..., None]
    return first_N2, (1 - (steps_N2P[..., None] - torch.arange(cells)).abs()).clamp_min(0)


def half_pixel(wanted_N2P: Tensor, cells: int, source_2: Tensor, target_2: Tensor, dtype: Any) -> Between:
    """align_corners=False: cells are matched by their centres, positions before the first repeat it."""
    scale_21 = source_2[:, None].to(dtype) / target_2[:, None]
    at_N2P = ((wanted_N2P + 0.5) * scale_21 - 0.5).clamp_min(0)
    at_N2P = torch.minimum(at_N2P, source_2[:, None] - 1)
    first_N21 = at_N2P[..., :1].floor()
    inside_N2P = (wanted_N2P >= 0) & (wanted_N2P < target_2[:, None])
    weight_N2PS = (1 - (at_N2P[..., None] - first_N21[..., None] - torch.arange(cells)).abs()).clamp_min(0)
    return first_N21[..., 0].long(), weight_N2PS * inside_N2P[..., None]


def residual_commuted(neck: Any, given: Features) -> Tensor:
    """The last stage's 3×3 convolutions run on the coarser map, before an upsampling, as its 1×1 may."""
    *_, third, last = neck.fusion_stage.layers
    right = third.projection, last.residual_layer2
    third.projection, last.residual_layer2 = nn.Sequential(*right), nn.Identity()
    fused_BCHW = trunk(neck, given)
    third.projection, last.residual_layer2 = right
    return fused_BCHW


def projection_dropped(neck: Any, given: Features) -> Tensor:
    """The last 1×1 projection, which the dense head applies after its upsampling, is not applied at all."""
    last = neck.fusion_stage.layers[-1]
    right, last.projection = last.projection, nn.Identity()
    fused_BCHW = trunk(neck, given)
    last.projection = right
    return fused_BCHW


@pytest.mark.parametrize(
    ("name", "twin", "inside"),
    [
        ("between", padding_forgotten, False),  # wrong at the rim alone
        ("between", half_pixel, True),
        ("trunk", residual_commuted, True),
        ("trunk", projection_dropped, True),
    ],
)
@torch.no_grad()
def test_parity_fails_for_a_wrong_twin(
    pair: tuple[DPTTrained, DPTSparse],
    name: str,
    twin: Callable[..., Any],
    inside: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dense, sparse = pair
    given, xy_BK2 = features((3, 5)), awkward_points((3, 5))
    monkeypatch.setattr(dpt_sparse, name, twin)
    wrong_BK = (depths(sparse, given, xy_BK2) / depths(dense, given, xy_BK2) - 1).abs()
    assert wrong_BK.max() > 1e-3
    # 8 of 42 pixels from the rim, neither convolution sees a border
    middle_BK = ((xy_BK2 - 0.5).abs() < 0.5 - 8 / 42).all(-1)
    assert middle_BK.sum() > 50
    assert bool(wrong_BK[middle_BK].max() > 1e-3) == inside
    assert inside or wrong_BK[middle_BK].max() < 1e-12


# ------------------------------------------------------------------- only what a query touches


def test_positions_between_cells_by_hand() -> None:
    """8 cells stretched over 14 pixels: pixel i lies at 7i/13; pixels −1 and 14 are padding."""
    sizes = torch.tensor([8, 8]), torch.tensor([14, 14])
    first_N2, weight_N2PS = between(window(torch.tensor([[0, 12]]), 4), 4, *sizes, torch.float64)
    # x, pixels −1 to 2: none; cell 0; 7/13 between 0 and 1; 14/13 = 1 + 1/13
    expected_x = torch.tensor([[0, 0, 0, 0], [13, 0, 0, 0], [6, 7, 0, 0], [0, 12, 1, 0]]) / 13.0
    # y, pixels 11 to 14: 77/13 = 5 + 12/13; 84/13 = 6 + 6/13; 91/13 = 7; none. Cells 5 to 8, of which 8 is no cell
    expected_y = torch.tensor([[1, 12, 0, 0], [0, 7, 6, 0], [0, 0, 13, 0], [0, 0, 0, 0]]) / 13.0
    assert first_N2.tolist() == [[0, 5]]
    assert torch.allclose(weight_N2PS[0, 0], expected_x.double(), atol=1e-7)
    assert torch.allclose(weight_N2PS[0, 1], expected_y.double(), atol=1e-7)


@torch.no_grad()
def test_a_query_reads_25_cells(pair: tuple[DPTTrained, DPTSparse]) -> None:
    """Maps of 3×5 patches: T 12×20, G 24×40, ρ 42×70. Everything but 5×5 cells of T may be NaN.

    A point between pixels (30, 20) and (31, 21). x: pixel 29 lies at 29·39/69 = 16.4 of G; conv1's cell 15 at
    15·19/39 = 7.3 of T. y: pixel 19 at 19·23/41 = 10.7 of G; cell 9 at 9·11/23 = 4.3 of T. So cells 7–11 and 4–8.
    """
    sparse = pair[1]
    scene = sparse.prepare(features((3, 5)))
    assert scene.shape == (2, 12, 20, 64)
    xy_BK2 = torch.tensor([[[31.2 / 70, 20.9 / 42]]] * 2, dtype=torch.float64)
    expected = sparse.decode(scene, xy_BK2)
    hidden = torch.full_like(scene, torch.nan)
    hidden[:, 4:9, 7:12] = scene[:, 4:9, 7:12]
    assert torch.equal(sparse.decode(hidden, xy_BK2), expected)
    hidden[:, 4:9, 7] = torch.nan  # one column fewer
    assert bool(sparse.decode(hidden, xy_BK2).isnan().all())


@torch.no_grad()
def test_queries_are_decoded_in_chunks(pair: tuple[DPTTrained, DPTSparse], monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, xy_BK2 = pair[1], awkward_points((3, 5))[:, :37]
    scene = sparse.prepare(features((3, 5)))
    whole = sparse.decode(scene, xy_BK2)
    shapes: list[tuple[int, ...]] = []
    original = dpt_sparse.unpadded

    def recorded(conv: nn.Conv2d, map_NCPP: Tensor) -> Tensor:
        shapes.append(tuple(map_NCPP.shape))
        return original(conv, map_NCPP)

    monkeypatch.setattr(dpt_sparse, "unpadded", recorded)
    monkeypatch.setattr(dpt_sparse, "QUERY_CHUNK", 30)
    assert error(sparse.decode(scene, xy_BK2), whole) < 1e-12
    # 2·37 points as 30 + 30 + 14; conv1 sees 6×6 cells of 64 channels, conv2 4×4 of 32
    assert shapes == [(n, *cells) for n in (30, 30, 14) for cells in ((64, 6, 6), (32, 4, 4))]
    shapes.clear()
    assert error(sparse.train().decode(scene, xy_BK2), whole) < 1e-12
    assert [shape[0] for shape in shapes] == [74, 74]  # in training all together


@torch.no_grad()
def test_points_and_images_do_not_see_each_other(pair: tuple[DPTTrained, DPTSparse]) -> None:
    sparse, given, xy_BK2 = pair[1], features((3, 5)), awkward_points((3, 5))
    together = depths(sparse, given, xy_BK2)
    assert DPTSparse.points_are_independent
    assert error(depths(sparse, given, xy_BK2.flip(1)).flip(1), together) < 1e-12
    assert error(depths(sparse, given, xy_BK2[:, 7:8]), together[:, 7:8]) < 1e-12
    second = Features(tuple(map_BHWC[1:] for map_BHWC in given.maps_BHWC))  # type: ignore[arg-type]
    assert error(depths(sparse, second, xy_BK2[1:]), together[1:]) < 1e-12
    assert error(together[:1], together[1:]) > 1e-3  # the images differ


# ------------------------------------------------------------------- the same training


def gradients(model: Any, grid: tuple[int, int]) -> dict[str, Tensor]:
    xy_BK2 = awkward_points(grid)
    truth_m_BK = 2 + xy_BK2.sum(-1)
    model.train().zero_grad()
    (depths(model, features(grid), xy_BK2).log() - truth_m_BK.log()).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.trainable()}


def gradient_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest difference of a parameter's gradient, relative to the largest in it."""
    worst = [((found[name] - grad).abs().max() / grad.abs().max()).item() for name, grad in expected.items()]
    return max(worst)


@pytest.mark.parametrize("grid", [(3, 5), (2, 2)])
def test_gradients_are_those_of_the_dense_head(pair: tuple[DPTTrained, DPTSparse], grid: tuple[int, int]) -> None:
    expected, found = (gradients(model, grid) for model in pair)
    assert expected.keys() == found.keys()
    # 14 of the reassembling, 4 of the 3×3s behind it, 4·10 of the fusion less the 4 that never run, 6 of the head
    assert len(expected) == 14 + 4 + 36 + 6
    assert gradient_error(found, expected) < 1e-10


def test_gradients_of_a_wrong_twin_differ(pair: tuple[DPTTrained, DPTSparse], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(pair[0], (3, 5))
    monkeypatch.setattr(dpt_sparse, "between", padding_forgotten)
    assert gradient_error(gradients(pair[1], (3, 5)), expected) > 1e-4


@pytest.mark.parametrize("init", ["random", "released"])
def test_both_start_from_the_same_weights(init: str) -> None:
    dense, sparse = (named(name, seed=3, init=init).state_dict() for name in ("dpt_trained", "dpt_sparse"))
    assert list(dense) == list(sparse)
    assert all(torch.equal(dense[name], sparse[name]) for name in dense)


def test_the_weights_are_shared_because_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = named("dpt_trained").dpt.head.conv1.weight
    assert torch.equal(named("dpt_sparse").dpt.head.conv1.weight, dense)
    assert not torch.equal(named("dpt_sparse", seed=1).dpt.head.conv1.weight, dense)
    monkeypatch.setattr(DPTSparse, "trained_as", None)
    assert not torch.equal(named("dpt_sparse").dpt.head.conv1.weight, dense)


def test_the_same_parameters_are_trained() -> None:
    dense, sparse = named("dpt_trained"), named("dpt_sparse")
    assert [(name, p.shape) for name, p in sparse.trainable()] == [(name, p.shape) for name, p in dense.trainable()]
    compose.check(sparse, name="dpt_sparse", image_size=(56, 70))


def test_a_refusal_names_the_baseline() -> None:
    with pytest.raises(ConfigError, match="dpt_sparse needs an encoder with a depth head of its own"):
        DPTSparse(DPTSparse.Config(init="released"), PatchEncoder())
