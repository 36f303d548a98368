"""What is drawn lies where it should, in pixels of the image; places worked out by hand."""

import re

import numpy as np
import pytest

from spd_bench.explore import overlays


def numbers(svg: str, name: str) -> list[float]:
    """Every value of an attribute, in order."""
    return [float(value) for value in re.findall(rf'\b{name}="([^"]*)"', svg)]


def test_a_point_is_marked_at_its_pixels_centre() -> None:
    """Pixel (3, 2) has its centre at (3.5, 2.5) of the image (R-03)."""
    svg = overlays.marker((3, 2), width=650, height=480)
    assert set(numbers(svg, "cx")) == {3.5}
    assert set(numbers(svg, "cy")) == {2.5}
    assert max(numbers(svg, "r")) == pytest.approx(2.2 * 650 / 130)


def test_marks_grow_with_the_image() -> None:
    small, large = (overlays.marker((0, 0), width=side, height=side) for side in (100, 1000))
    assert max(numbers(large, "r")) == pytest.approx(10 * max(numbers(small, "r")), rel=0.01)


def test_a_line_joins_the_centres() -> None:
    svg = overlays.line((0, 1), (10, 4), width=20, height=20)
    assert (numbers(svg, "x1")[0], numbers(svg, "y1")[0]) == (0.5, 1.5)
    assert (numbers(svg, "x2")[0], numbers(svg, "y2")[0]) == (10.5, 4.5)


def test_attention_cells_cover_their_part_of_the_image() -> None:
    """A 2×2 map over 3/4 of a 400×200 image: cells of 150×75. The largest weight is drawn at 0.6, half of it at 0.3."""
    weight_HW = np.array([[0.0, 0.1], [0.2, 0.001]])
    svg = overlays.attention(weight_HW, extent=(0.75, 0.75), width=400, height=200)
    assert numbers(svg, "x") == [150, 0]
    assert numbers(svg, "y") == [0, 75]
    assert set(numbers(svg, "width")) == {150}
    assert set(numbers(svg, "height")) == {75}
    assert numbers(svg, "opacity") == [0.3, 0.6]


def test_attention_of_nothing_draws_nothing() -> None:
    assert "rect" not in overlays.attention(np.zeros((2, 2)), extent=(1, 1), width=10, height=10)


def test_anchors_are_diamonds_around_their_points() -> None:
    """On 260×130 a unit is 2, so a diamond reaches 1.8 from its middle, (65, 97.5): from (65, 95.7) on."""
    svg = overlays.anchors(np.array([[64.5, 97.0]]), width=260, height=130)
    assert "M65 95.7l1.8 1.8 -1.8 1.8 -1.8 -1.8z" in svg


def test_samples_are_dots_in_steps_of_opacity() -> None:
    """Weights 4, 1 and 2 of at most 4: steps 4 (capped), 2 and 3; the last point lies outside the image."""
    uv_N2 = np.array([[49.5, 24.5], [9.5, 9.5], [99.5, -0.5], [119.5, 24.5]])
    svg = overlays.samples(uv_N2, np.array([4.0, 1.0, 2.0, 4.0]), colour="#123456", width=100, height=50)
    assert numbers(svg, "opacity") == [0.5, 0.75, 1]
    assert re.findall(r' d="([^"]*)"', svg) == ["M10 10h0", "M100 0h0", "M50 25h0"]
    assert 'stroke="#123456"' in svg


def test_samples_without_weight_do_not_divide_by_zero() -> None:
    assert "nan" not in overlays.samples(np.array([[5, 5]]), np.array([0.0]), colour="red", width=10, height=10)


def test_two_thousand_samples_stay_small() -> None:
    """About 16 characters each."""
    rng = np.random.default_rng(0)
    svg = overlays.samples(640 * rng.random((2304, 2)), rng.random(2304), colour="red", width=640, height=640)
    assert len(svg) < 50_000
