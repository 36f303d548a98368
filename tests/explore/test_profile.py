"""Points along a line, the truth under them, and the chart."""

import numpy as np

from spd_bench.explore.pictures import Picture
from spd_bench.explore.profile import MOST_POINTS, DepthProfile, chart, distances, points_along, truth_along


def test_points_go_from_end_to_end_about_a_pixel_apart() -> None:
    """From (0, 0) to (3, 4) it is 5 pixels: six points, one pixel apart, (0.6, 0.8) each step."""
    uv_N2 = points_along((0, 0), (3, 4))
    np.testing.assert_allclose(uv_N2, np.outer(range(6), [0.6, 0.8]))
    np.testing.assert_allclose(distances(uv_N2), range(6))


def test_a_long_line_has_a_bounded_number_of_points() -> None:
    uv_N2 = points_along((8000, 10), (0, 10))
    assert len(uv_N2) == MOST_POINTS
    assert uv_N2[0].tolist() == [8000, 10]
    assert uv_N2[-1].tolist() == [0, 10]


def test_the_truth_is_that_of_the_pixel_below_each_point() -> None:
    """Points at u = 0.4, 0.5 and 1.6: pixels 0, 1 and 2."""
    depth_m_HW = np.array([[1.0, 0.0, 3.0]], np.float32)
    picture = Picture("p", np.zeros((1, 3, 3), np.uint8), depth_m_HW)
    uv_N2 = np.array([[0.4, 0], [0.5, 0], [1.6, 0]])
    assert truth_along(picture, uv_N2) == (1.0, None, 3.0)
    assert truth_along(Picture("p", picture.image_HW3), uv_N2) is None


def test_the_chart_has_a_line_per_run_and_the_truth_with_gaps() -> None:
    profile = DepthProfile(np.array([0.0, 1.0]), (2.0, None), {"a": np.array([1.5, 1.75], np.float32)})
    options = chart(profile, {"a": "#123456"})
    a, truth = options["series"]
    assert a["data"] == [[0, 1.5], [1, 1.75]]
    assert a["color"] == "#123456"
    assert truth["data"] == [[0, 2.0], [1, None]]
    assert not truth["connectNulls"]
    assert options["xAxis"]["max"] == 1
    assert len(chart(DepthProfile(np.array([0.0, 1.0]), None, {}), {})["series"]) == 0
