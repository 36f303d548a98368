"""Coordinate frames and samplers: half-pixel rule, zero padding as grid_sample's, exact gradients (R-03 to R-07)."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spd_bench import geometry
from spd_bench.geometry import (
    Stack,
    Table,
    bilinear_weights,
    cell_centres,
    grid_sample,
    neighbourhood,
    pixel_to_unit,
    sample,
    unit_to_level,
    weighted_rows,
)

WHOLE = (1.0, 1.0)
SIZES = [(1, 1), (1, 7), (5, 1), (4, 4), (3, 8), (37, 37), (18, 24)]
"""Rows and columns of maps: single cells, single lines, square and not."""


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(map_BHWC: Tensor, xy_lvl_BN2: Tensor, *, align_corners: bool = False) -> Tensor:
    """PyTorch's own sampler at points in cells, written here without the module under test: [B, N, C]."""
    height, width = map_BHWC.shape[1:3]
    grid = torch.stack([2 * xy_lvl_BN2[..., 0] / width - 1, 2 * xy_lvl_BN2[..., 1] / height - 1], dim=-1)
    out_BCN = F.grid_sample(
        map_BHWC.permute(0, 3, 1, 2), grid[:, :, None], padding_mode="zeros", align_corners=align_corners
    )
    return out_BCN[..., 0].transpose(1, 2)


def by_grid_sample(map_BHWC: Tensor, xy_lvl_BN2: Tensor) -> Tensor:
    """The module's plain sampler, in the layout of the fast ones: [B, N, C]."""
    return grid_sample(map_BHWC.permute(0, 3, 1, 2), xy_lvl_BN2[:, None])[:, :, 0].transpose(1, 2)


def by_table(map_BHWC: Tensor, xy_lvl_BN2: Tensor) -> Tensor:
    return Table.of(map_BHWC, extent=WHOLE, pad=3).read(xy_lvl_BN2)


def by_neighbourhood(map_BHWC: Tensor, xy_lvl_BN2: Tensor) -> Tensor:
    return Table.of(map_BHWC, extent=WHOLE, pad=2).read_neighbourhood(xy_lvl_BN2, 1)[:, :, 0]


SAMPLERS = [sample, by_table, by_neighbourhood, by_grid_sample]


# frames


def test_a_pixel_means_its_centre() -> None:
    # 640×480: x = (0 + ½) / 640, y = (0 + ½) / 480; the last pixel lies as far from the far side
    uv_img = torch.tensor([[0, 0], [639, 479], [319, 240]])
    xy = pixel_to_unit(uv_img.double(), width=640, height=480)
    expected = torch.tensor([[0.5 / 640, 0.5 / 480], [639.5 / 640, 479.5 / 480], [319.5 / 640, 240.5 / 480]])
    assert torch.allclose(xy, expected.double(), rtol=0, atol=1e-7)
    assert torch.allclose(pixel_to_unit(uv_img, width=640, height=480), expected, rtol=1e-6)  # whole numbers too


def test_a_mirrored_pixel_is_the_mirrored_point() -> None:
    uv_img = torch.arange(7, dtype=torch.float64)[:, None].expand(-1, 2)
    mirrored = pixel_to_unit(6 - uv_img, width=7, height=7)
    assert torch.allclose(mirrored, 1 - pixel_to_unit(uv_img, width=7, height=7), rtol=0, atol=1e-15)


def test_l4_covers_36_of_37_patches() -> None:
    # 37 patches of 14 px pool to 18 cells of 28 px: 504 of 518 px. Pixel 504 is the end of the last cell, 18,
    # and the image's far side lies at 18 · 37/36 = 18.5 cells.
    extent = (36 / 37, 36 / 37)
    xy = torch.tensor([[504 / 518, 504 / 518], [1.0, 1.0], [14 / 518, 42 / 518]], dtype=torch.float64)
    xy_lvl = unit_to_level(xy, width=18, height=18, extent=extent)
    expected = torch.tensor([[18, 18], [18.5, 18.5], [0.5, 1.5]], dtype=torch.float64)
    assert torch.allclose(xy_lvl, expected, rtol=0, atol=1e-12)


def test_anchors_of_l4_lie_at_28_times_i_and_a_half() -> None:
    centres = cell_centres(width=18, height=18, extent=(36 / 37, 36 / 37), like=torch.zeros((), dtype=torch.float64))
    px = 518 * centres.view(18, 18, 2)
    steps = 28 * (torch.arange(18, dtype=torch.float64) + 0.5)  # 14, 42, … 490
    assert torch.allclose(px[..., 0], steps.expand(18, 18), rtol=0, atol=1e-10)
    assert torch.allclose(px[..., 1], steps[:, None].expand(18, 18), rtol=0, atol=1e-10)
    naive = 518 / 18 * (torch.arange(18, dtype=torch.float64) + 0.5)  # stride 28.8 would be 13.6 px off at the end
    assert (naive - steps).abs().max() > 13


def test_cell_centres_are_row_major() -> None:
    # 3 columns, 2 rows, extents ¾ and ½: x = (i + ½)·¼, y = (j + ½)·¼
    centres = cell_centres(width=3, height=2, extent=(0.75, 0.5), like=torch.zeros(()))
    expected = [[0.125, 0.125], [0.375, 0.125], [0.625, 0.125], [0.125, 0.375], [0.375, 0.375], [0.625, 0.375]]
    assert torch.equal(centres, torch.tensor(expected))


def test_neighbourhood_counts_rows_first() -> None:
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 0], [0, 0], [1, 0], [-1, 1], [0, 1], [1, 1]]
    assert torch.equal(neighbourhood(3, like=torch.zeros(())), torch.tensor(expected, dtype=torch.float32))


def test_bilinear_weights_by_hand() -> None:
    # fractions (¼, ½): (¾·½, ¼·½, ¾·½, ¼·½)
    weights = bilinear_weights(torch.tensor([0.25, 0.5], dtype=torch.float64))
    assert torch.allclose(weights, torch.tensor([3 / 8, 1 / 8, 3 / 8, 1 / 8], dtype=torch.float64), rtol=0, atol=1e-15)


# the half-pixel rule


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("read", SAMPLERS)
def test_an_index_map_read_at_its_pixels_gives_the_index(read, height: int, width: int) -> None:
    index_BHWC = torch.arange(height * width, dtype=torch.float64).view(1, height, width, 1)
    u, v = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    xy = pixel_to_unit(torch.stack([u, v], dim=-1).view(1, -1, 2).double(), width=width, height=height)
    xy_lvl = unit_to_level(xy, width=width, height=height, extent=WHOLE)
    assert torch.allclose(read(index_BHWC, xy_lvl)[..., 0], index_BHWC.view(1, -1), rtol=0, atol=1e-9)


def test_integer_coordinates_would_be_half_a_pixel_off() -> None:
    """The wrong rule of grid = 2p/dim − 1 with p = u: it must not pass for the right one."""
    index_BHWC = torch.arange(12, dtype=torch.float64).view(1, 3, 4, 1)
    at_corner = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)  # pixel (1, 1) holds 5
    # the corner is shared by the pixels 0, 1, 4, 5, whose mean is 2.5
    assert sample(index_BHWC, at_corner).item() == pytest.approx(2.5)


@pytest.mark.parametrize("size", [(6, 9), (1, 3)])
def test_flipping_map_and_points_flips_nothing_else(size: tuple[int, int]) -> None:
    height, width = size
    map_BHWC = random_map(2, height, width, 3)
    xy_lvl = (random_map(2, 40, 2, seed=1) * 2 + 1) * torch.tensor([width / 2, height / 2], dtype=torch.float64)
    mirrored = torch.stack([width - xy_lvl[..., 0], xy_lvl[..., 1]], dim=-1)
    assert torch.allclose(sample(map_BHWC.flip(2), mirrored), sample(map_BHWC, xy_lvl), rtol=0, atol=1e-12)


# zero padding


def edge_points(height: int, width: int) -> Tensor:
    """Corners, borders and their surroundings to ± half a cell, and points far outside: [1, N, 2]."""
    along_x = [-1e6, -3, -1, -0.5, -0.25, 0, 0.25, 0.5, width / 2, width - 0.5, width, width + 0.4, width + 0.5, 1e6]
    along_y = [-1e6, -3, -1, -0.5, -0.1, 0, 0.4, 0.5, height / 2, height - 0.5, height, height + 0.5, height + 9]
    return torch.tensor([[x, y] for x in along_x for y in along_y], dtype=torch.float64)[None]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("read", SAMPLERS)
def test_borders_and_outside_read_as_grid_sample_does(read, height: int, width: int) -> None:
    map_BHWC, xy_lvl = random_map(1, height, width, 2), edge_points(height, width)
    assert torch.allclose(read(map_BHWC, xy_lvl), reference(map_BHWC, xy_lvl), rtol=0, atol=1e-10)


def test_outside_is_exactly_zero_and_a_corner_a_quarter() -> None:
    ones_BHWC = torch.ones(1, 3, 5, 1, dtype=torch.float64)
    xy_lvl = torch.tensor([[[-0.5, 1], [5.5, 1], [2, -7], [2, 3.5], [0, 0], [5, 3], [0, 1.5]]], dtype=torch.float64)
    # outside 0; a corner point sees one of its four cells, a border point two
    assert sample(ones_BHWC, xy_lvl)[0, :, 0].tolist() == [0, 0, 0, 0, 0.25, 0.25, 0.5]


def test_align_corners_is_another_sampler() -> None:
    """Negative control: the comparison tells align_corners=True apart."""
    map_BHWC, xy_lvl = random_map(1, 6, 7, 2), random_map(1, 50, 2, seed=2) + 3
    wrong = reference(map_BHWC, xy_lvl, align_corners=True)
    assert (sample(map_BHWC, xy_lvl) - wrong).abs().max() > 0.1


coordinate = st.floats(-60, 60, allow_nan=False, width=32)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    points=st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=6),
    seed=st.integers(0, 9),
)
def test_every_sampler_agrees_with_grid_sample_anywhere(height, width, points, seed) -> None:
    map_BHWC = random_map(2, height, width, 3, seed=seed)
    xy_lvl = torch.tensor([points, points[::-1]], dtype=torch.float64)
    expected = reference(map_BHWC, xy_lvl)
    for read in SAMPLERS:
        assert torch.allclose(read(map_BHWC, xy_lvl), expected, rtol=0, atol=1e-10), read


@settings(max_examples=60, deadline=None, derandomize=True)
@given(height=st.integers(1, 9), width=st.integers(1, 9), x=st.floats(-0.2, 1.2), y=st.floats(-0.2, 1.2))
@pytest.mark.parametrize("size", [3, 5])
def test_a_neighbourhood_is_the_reads_one_cell_apart(size: int, height: int, width: int, x: float, y: float) -> None:
    map_BHWC = random_map(1, height, width, 2)
    xy_lvl = torch.tensor([[[x * width, y * height]]], dtype=torch.float64)
    # its points lie at most half a cell outside the map, the furthest that a point of the image can
    xy_lvl = torch.minimum(xy_lvl.clamp_min(-0.5), torch.tensor([width + 0.5, height + 0.5], dtype=torch.float64))
    found = Table.of(map_BHWC, extent=WHOLE, pad=4).read_neighbourhood(xy_lvl, size)
    around = (xy_lvl[:, :, None] + neighbourhood(size, like=xy_lvl)).view(1, -1, 2)
    assert torch.allclose(found.view(1, size**2, 2), reference(map_BHWC, around), rtol=0, atol=1e-12)


def test_float32_reads_are_as_exact_as_grid_sample() -> None:
    map_BHWC, xy_lvl = random_map(1, 20, 30, 8), torch.rand(1, 500, 2, dtype=torch.float64) * 25
    exact = reference(map_BHWC, xy_lvl)
    assert (sample(map_BHWC.float(), xy_lvl.float()) - exact).abs().max() < 5e-5


def test_a_point_that_is_not_a_number_reads_as_nan_and_harms_no_other() -> None:
    """It has no cell; it must neither read a legal value nor end the process (an index error kills a CUDA context)."""
    map_BHWC = random_map(1, 4, 5, 2)
    xy_lvl = torch.tensor([[[math.nan, 1.0], [2.0, 1.0], [1.0, math.nan]]], dtype=torch.float64)
    table = Table.of(map_BHWC, extent=WHOLE, pad=4)
    for out in (sample(map_BHWC, xy_lvl), table.read(xy_lvl), table.read_neighbourhood(xy_lvl, 5)[:, :, 12]):
        assert out[0, [0, 2]].isnan().all()
        assert torch.equal(out[:, 1], reference(map_BHWC, xy_lvl[:, 1:2])[:, 0])


def test_a_border_too_small_for_the_reads_is_refused() -> None:
    """Rows are addressed without a mask: a narrower border would silently read the next line of cells."""
    map_BHWC = random_map(1, 4, 5, 2)
    with pytest.raises(ValueError, match="at least 2 cells is needed for reads at the rim, found 1"):
        Table.of(map_BHWC, extent=WHOLE, pad=1)
    with pytest.raises(ValueError, match="5×5 neighbourhood needs a border of 4 cells, found 3"):
        Table.of(map_BHWC, extent=WHOLE, pad=3).read_neighbourhood(edge_points(4, 5), 5)


# batches


def test_each_image_reads_only_its_own_map() -> None:
    # image b holds the value b + 1 everywhere: whatever is read inside is b + 1, outside 0
    map_BHWC = torch.arange(1, 5, dtype=torch.float64).view(4, 1, 1, 1).expand(4, 3, 5, 2)
    inside = torch.rand(4, 30, 2, dtype=torch.float64) * torch.tensor([4.0, 2.0]) + 0.5
    table = Table.of(map_BHWC, extent=WHOLE, pad=4)
    own = torch.arange(1, 5, dtype=torch.float64)[:, None, None]
    assert torch.allclose(table.read(inside), own.expand(4, 30, 2), rtol=1e-14)
    around = table.read_neighbourhood(inside, 5)
    assert torch.all((around >= 0) & (around <= own[..., None] * (1 + 1e-14)))  # never another image's larger value
    assert torch.all(table.read(inside + 50) == 0)


def test_gradient_reaches_only_the_image_that_was_read() -> None:
    map_BHWC = random_map(3, 4, 5, 2).requires_grad_()
    (grad,) = torch.autograd.grad(sample(map_BHWC, torch.full((3, 2, 2), 2.0, dtype=torch.float64))[1].sum(), map_BHWC)
    assert grad[1].abs().sum() > 0
    assert grad[[0, 2]].abs().sum() == 0


# gradients


@pytest.mark.parametrize(
    "size",  # rows, channels, bags, rows per bag
    [(1, 1, 1, 1), (3, 1, 5, 2), (7, 3, 1, 16), (5, 2, 11, 4), (4, 1, 3, 1)],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 4096])
def test_gradients_of_weighted_rows(monkeypatch, size: tuple[int, int, int, int], piece: int) -> None:
    """Against numerical differences; rows repeat within and across bags, and bags fill several pieces unevenly."""
    rows, channels, bags, per_bag = size
    monkeypatch.setattr(geometry._WeightedRows, "PIECE", piece)
    g = torch.Generator().manual_seed(rows + bags)
    table = torch.randn(rows, channels, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(bags, per_bag, generator=g, dtype=torch.float64, requires_grad=True)
    row = torch.randint(rows, (bags, per_bag), generator=g)
    assert torch.autograd.gradcheck(weighted_rows, (table, row, weight))


def test_weighted_rows_by_hand_and_its_share_of_gradient() -> None:
    # table 10, 20, 30; bag 0 reads rows 0, 2 with ½, ¼: 5 + 7.5 = 12.5; bag 1 reads row 2 twice with 1, −1: 0
    table = torch.tensor([[10.0], [20.0], [30.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0.5, 0.25], [1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    out = weighted_rows(table, torch.tensor([[0, 2], [2, 2]]), weight)
    assert out.flatten().tolist() == [12.5, 0.0]
    out.backward(torch.tensor([[1.0], [3.0]], dtype=torch.float64))
    # row 0: ½·1; row 1: none; row 2: ¼·1 + (1 − 1)·3.   weights: table · upstream
    assert table.grad.flatten().tolist() == [0.5, 0.0, 0.25]
    assert weight.grad.tolist() == [[10.0, 30.0], [90.0, 90.0]]


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_only_the_gradient_that_is_needed_is_computed(wanted: tuple[bool, bool]) -> None:
    table = random_map(4, 2).requires_grad_(wanted[0])
    weight = random_map(3, 2).requires_grad_(wanted[1])
    weighted_rows(table, torch.tensor([[0, 1], [2, 3], [3, 3]]), weight).sum().backward()
    assert (table.grad is not None, weight.grad is not None) == wanted


@pytest.mark.parametrize("read", [sample, by_neighbourhood])
def test_gradients_of_map_and_points_equal_those_of_grid_sample(read) -> None:
    points = torch.cat([random_map(2, 60, 2, seed=3) * 4 + 2, edge_points(4, 6).expand(2, -1, -1) + 0.013], dim=1)
    found, expected = [], []
    for sampler, gradients in ((read, found), (reference, expected)):
        map_BHWC, xy_lvl = random_map(2, 4, 6, 3).requires_grad_(), points.clone().requires_grad_()
        out = sampler(map_BHWC, xy_lvl)
        (out * torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        gradients += [map_BHWC.grad, xy_lvl.grad]
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-9)


def stacked(batch: int = 2) -> tuple[list[Table], Stack]:
    torch.manual_seed(0)
    maps = [torch.randn(batch, h, w, 4, dtype=torch.float64) for h, w in ((6, 5), (3, 4), (2, 2))]
    extents = [(1.0, 1.0), (1.0, 1.0), (36 / 37, 0.8)]
    tables = [Table.of(m, extent=e, pad=2) for m, e in zip(maps, extents, strict=True)]
    return tables, Stack.of(tables)


def test_a_stack_reads_each_level_as_its_own_table_does() -> None:
    tables, stack = stacked()
    level_T = torch.tensor([0, 0, 1, 2, 2])
    xy_Q2 = torch.rand(30, 2, dtype=torch.float64)
    xy_Q2[:4] = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]])
    x_QT, y_QT = 4 * torch.randn(2, 30, 5, dtype=torch.float64)  # many leave the maps
    row_QT, stride_T, fx_QT, fy_QT = stack.taps(xy_Q2, x_QT, y_QT, level_T)
    image = 1
    for t, level in enumerate(level_T.tolist()):
        table = tables[level]
        points_Q2 = table.xy_lvl(xy_Q2) + torch.stack([x_QT[:, t], y_QT[:, t]], dim=-1)
        expected_QC = table.read(points_Q2.expand(2, -1, -1))[image]
        frac_Q2 = torch.stack([fx_QT[:, t], fy_QT[:, t]], dim=-1)
        first = row_QT[:, t].long() + image * stack.rows_per_image
        corners_Q4 = first[:, None] + torch.tensor([0, 1, int(stride_T[t]), int(stride_T[t]) + 1])
        found_QC = (bilinear_weights(frac_Q2)[..., None] * stack.rows_NC[corners_Q4]).sum(1)
        assert torch.allclose(found_QC, expected_QC, rtol=0, atol=1e-12)


def test_a_stack_gives_nan_a_legal_row_and_a_nan() -> None:
    _, stack = stacked()
    nan_Q1 = torch.full((1, 3), float("nan"), dtype=torch.float64)
    row_QT, stride_T, fx_QT, _ = stack.taps(torch.rand(1, 2, dtype=torch.float64), nan_Q1, nan_Q1, torch.arange(3))
    assert (row_QT >= 0).all()
    assert (row_QT + stride_T + 1 < stack.rows_per_image).all()
    assert fx_QT.isnan().all()
