"""Depths become points in space; places worked out by hand."""

import math

import numpy as np
import pytest

from spd_bench.explore import cloud
from spd_bench.explore.cloud import Cloud


def test_points_are_spread_over_the_whole_image() -> None:
    """640×480 at 4000 points: steps of 8.76 pixels, 73 columns and 54 rows, the outermost half a step from the rim."""
    uv_N2 = cloud.spread(width=640, height=480)
    assert len(uv_N2) == 73 * 54 <= cloud.MOST_POINTS
    step_u, step_v = 640 / 73, 480 / 54
    np.testing.assert_allclose(uv_N2.min(0), [step_u / 2 - 0.5, step_v / 2 - 0.5])
    np.testing.assert_allclose(uv_N2.max(0), [639.5 - step_u / 2, 479.5 - step_v / 2])


def test_a_small_image_gives_every_pixel() -> None:
    assert cloud.spread(width=2, height=2).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 8000), (8000, 1), (8192, 8192)])
def test_every_shape_gives_some_points_and_not_too_many(shape: tuple[int, int]) -> None:
    height, width = shape
    uv_N2 = cloud.spread(width=width, height=height)
    assert 1 <= len(uv_N2) <= cloud.MOST_POINTS
    assert (uv_N2 >= -0.5).all()
    assert (uv_N2 <= [width - 0.5, height - 0.5]).all()


def test_the_rim_lies_at_half_the_field_of_view() -> None:
    """60° across: at 2 m the left rim lies 2 tan 30° = 1.1547 m to the left; the middle lies straight ahead."""
    uv_N2 = np.array([[-0.5, 49.5], [99.5, 49.5], [99.5, -0.5]])
    xyz_N3 = cloud.in_space(uv_N2, np.full(3, 2.0, np.float32), width=200, height=100)
    rim_m = 2 * math.tan(math.radians(30))
    np.testing.assert_allclose(xyz_N3, [[-rim_m, 2, 0], [0, 2, 0], [0, 2, rim_m / 2]], atol=1e-6)


def test_colours_are_linear() -> None:
    """sRGB 188 is half of the light of 255: 0.5029 (IEC 61966-2-1); 0 and 255 stay."""
    image_HW3 = np.array([[[0, 188, 255], [1, 2, 3]]], np.uint8)
    colour_N3 = cloud.colours(image_HW3, np.array([[0.0, 0.0], [-0.5, -0.5], [1.4, 0.49]]))
    np.testing.assert_allclose(colour_N3[0], [0, 0.5029, 1], atol=1e-4)
    assert (colour_N3[1] == colour_N3[0]).all()
    assert colour_N3[2] == pytest.approx(np.array([1, 2, 3]) / 255 / 12.92)


def test_the_camera_turns_around_the_middle() -> None:
    """At 0° it stands before the middle, at 90° to its right; always equally far."""
    middle = np.array([1.0, 5.0, 2.0])
    assert cloud.orbit(middle, turn_deg=0, distance_m=4) == pytest.approx((1, 1, 3))
    assert cloud.orbit(middle, turn_deg=90, distance_m=4) == pytest.approx((5, 5, 3))
    assert cloud.orbit(middle, turn_deg=-90, distance_m=4) == pytest.approx((-3, 5, 3))


def test_a_cloud_knows_its_middle() -> None:
    made = Cloud(np.array([[0, 1, 0], [1, 2, 0], [2, 9, 6]], float), np.zeros((3, 3)))
    assert made.middle.tolist() == [1, 2, 0]
    assert made.distance_m == 2
