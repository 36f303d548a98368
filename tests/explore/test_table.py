"""The table of readings: numbers, truth, and no text that is taken for HTML."""

import numpy as np

from spd_bench.explore.pictures import Picture
from spd_bench.explore.session import Problem, RunReading
from spd_bench.explore.table import about_point, readings_table

COLOURS = {"v13": "#0072b2", "<b>": "#d55e00"}


def reading(depth_m: float, truth_m: float | None, *, outside: bool = False) -> RunReading:
    return RunReading("v13", depth_m, truth_m, outside, 147.4, 11.52)


def test_a_row_has_depth_error_and_times() -> None:
    """2.5 m where 2 m are true: +0.5 m, +25 %."""
    table = readings_table([reading(2.5, 2.0)], COLOURS)
    for shown in ("2.500 m<", "+0.500 m", "+25.0 %", "147 ms", "11.5 ms", "#0072b2"):
        assert shown in table
    assert "outside" not in table


def test_without_truth_there_is_no_error() -> None:
    assert "<td>–</td>" in readings_table([reading(2.5, None)], COLOURS)


def test_depths_outside_training_are_marked() -> None:
    table = readings_table([reading(2.5, None, outside=True)], COLOURS)
    assert "2.500 m*" in table
    assert "* outside the depths that training saw" in table


def test_names_and_problems_are_text() -> None:
    table = readings_table([Problem("<b>", "<script>alert(1)</script>")], COLOURS)
    assert "&lt;b&gt;" in table
    assert "<script>" not in table


def test_the_point_is_described() -> None:
    image_HW3 = np.zeros((2, 3, 3), np.uint8)
    known = Picture("p", image_HW3, np.array([[1, 0, 2.5], [1, 1, 1]], np.float32))
    assert about_point(known, (2, 0)) == "p: pixel (2, 0) of 3×2 · truth 2.500 m"
    assert about_point(known, (1, 0)) == "p: pixel (1, 0) of 3×2 · true depth unknown here"
    assert about_point(Picture("p", image_HW3), (1, 0)).endswith("no true depth: the image was dropped in")
    assert "arrow key" in about_point(known, None)
