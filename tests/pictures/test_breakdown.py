"""The error of parts of the points, worked out by hand."""

import numpy as np
import pytest

from spd_bench.pictures.breakdown import by_part, near_edges, table


def test_error_by_range_and_near_edges() -> None:
    truth = np.array([1.0, 1.0, 2.0, 5.0])
    predicted = np.array([1.1, 0.7, 2.4, 5.0])  # signed: +0.1, −0.3, +0.2, 0
    near, mid, far, edges, rest = by_part(truth, predicted, np.array([True, False, True, False]))
    assert (near.part, near.points) == ("0 to 2 m", 2)
    assert near.absrel == pytest.approx(0.2)  # (0.1 + 0.3) / 2
    assert near.bias == pytest.approx(-0.1)  # (0.1 − 0.3) / 2
    assert (mid.part, mid.points, far.part, far.points) == ("2 to 4 m", 1, "beyond 4 m", 1)  # 2 m belongs to the second
    assert edges.absrel == pytest.approx(0.15)  # (0.1 + 0.2) / 2
    assert rest.absrel == pytest.approx(0.15)  # (0.3 + 0) / 2
    assert rest.bias == pytest.approx(-0.15)


def test_a_part_without_points_is_said() -> None:
    (found,) = table({"v13": by_part(np.array([1.0]), np.array([1.0]), None)})
    assert found == {
        "row": "v13",
        "0 to 2 m (1 points)": "0.0000 (bias +0.0000)",
        "2 to 4 m (0 points)": "no points",
        "beyond 4 m (0 points)": "no points",
    }


def test_the_band_is_a_square_around_the_point() -> None:
    edges_HW = np.zeros((9, 12), bool)
    edges_HW[4, 6] = True
    uv = np.array([[6, 4], [3, 4], [2, 4], [9, 7], [6, 0], [10, 4], [0, 0], [11, 8]])
    # columns or rows away: 0, 3, 4, 3, 4, 4, 6, 5
    assert near_edges(edges_HW, uv, band=3).tolist() == [True, True, False, True, False, False, False, False]
    assert near_edges(edges_HW.T, uv[:, ::-1], band=3).tolist() == near_edges(edges_HW, uv, band=3).tolist()
    assert not near_edges(edges_HW, uv[:, ::-1][2:3] * 0 + 8, band=1).any()
