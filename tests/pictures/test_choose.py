"""Rows and images of the report's pictures follow a rule."""

import numpy as np

from spd_bench.pictures.choose import Candidate, contrasts


def row(name: str, kind: str, *errors: float) -> Candidate:
    return Candidate(name, kind, np.array(errors))


BASE = row("v13", "base", 0.2, 0.2, 0.2, 0.2)
NO_B3 = row("no-b3", "ablation", 0.1, 0.3, 0.25, 0.9)  # mean 0.3875
NO_B5 = row("no-b5", "ablation", 0.2, 0.2, 0.2, 0.3)  # mean 0.225
DENSE = row("dense", "baseline", 0.1, 0.2, 0.1, 0.2)  # mean 0.15


def test_the_best_other_row_and_the_worst_ablation_are_shown() -> None:
    assert [found.row for found in contrasts([BASE, NO_B3, NO_B5, DENSE])] == ["dense", "no-b3"]


def test_a_row_that_is_both_is_shown_once() -> None:
    assert [found.row for found in contrasts([BASE, NO_B3])] == ["no-b3"]


def test_rows_that_are_named_are_shown_in_the_order_of_the_table() -> None:
    assert [found.row for found in contrasts([BASE, NO_B3, NO_B5, DENSE], ["dense", "no-*"])] == [
        "no-b3",
        "no-b5",
        "dense",
    ]


def test_images_are_the_extremes_and_the_median_of_the_difference() -> None:
    # no-b3 − v13: −0.1, +0.1, +0.05, +0.7; the median is 0.075, and 0.1 and 0.05 lie equally near: the earlier is taken
    (found,) = contrasts([BASE, NO_B3])
    assert found.images == {"best": 0, "median": 1, "worst": 3}


def test_images_do_not_follow_the_rows_own_error() -> None:
    # the hardest image of both rows is 0, and the difference is largest at 1
    (found,) = contrasts([row("v13", "base", 0.9, 0.1), row("no-b3", "ablation", 0.9, 0.2)])
    assert found.images["worst"] == 1


def test_without_a_base_nothing_is_compared() -> None:
    assert contrasts([NO_B3, DENSE]) == []
    assert contrasts([BASE]) == []
