"""Points as a JSONL file: ours written, others' read, answers and maps scored at exactly those points."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spd_bench.errors import DataError
from spd_bench.external.at_points import PointScores
from spd_bench.external.points import write_points
from spd_bench.external.result import Scored
from spd_bench.external.table import table
from spd_bench.suite.schema import Suite

Maps = NDArray[np.float32]


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def test_answers_at_the_suites_own_points_are_a_row(
    room: Suite, score_room: Callable[..., Scored], depth: Maps, tmp_path: Path
) -> None:
    """Written, answered with 1.2 times the truth and scored: as dense maps of 1.2 times the truth are."""
    said = write_points(room, tmp_path / "points.jsonl")
    assert said.startswith("3 frames × 10 points")  # K = 8 nested points and two more draws of one
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert [line["original_depth_size"] for line in lines] == [[640, 480]] * 3
    for line, map_HW in zip(lines, depth, strict=True):
        assert line["depth"] == pytest.approx([float(map_HW[v, u]) for u, v in line["pixel_coords"]], rel=1e-7)
    with pytest.raises(DataError, match="holds the true depths of the suite's points, not predictions"):
        score_room(tmp_path / "points.jsonl")
    for line in lines:
        line["depth"] = [1.2 * value for value in line["depth"]]
    answers = score_room(write(tmp_path / "answers.jsonl", *reversed(lines)))
    np.save(tmp_path / "maps.npy", 1.2 * depth)
    dense = score_room(tmp_path / "maps.npy", name="dense")
    assert answers.values["absrel", 8] == pytest.approx(0.2, abs=1e-6)
    assert {key: round(value, 5) for key, value in answers.values.items()} == {
        key: round(value, 5) for key, value in dense.values.items()
    }
    assert answers.judge.id == dense.judge.id


def test_answers_at_other_points_are_scored_there(
    score_points: Callable[..., PointScores], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    """Two points of one frame, answered with 1.1 and 1.3 times the truth: AbsRel (0.1 + 0.3)/2."""
    points = [[100, 200], [300, 100]]
    answers = [1.1 * float(depth[1, 200, 100]), 1.3 * float(depth[1, 100, 300])]
    line = {"image": f"rgb/{names[1]}.jpg", "pixel_coords": points, "depth": answers}
    with pytest.raises(DataError, match="of 3 test frames have no prediction"):
        score_points(write(tmp_path / "b.jsonl", line | {"image": "unknown.jpg"}))
    line["image"] = f"{names[1]}.jpg"
    scored = score_points(write(tmp_path / "a.jsonl", line))
    assert scored.values["absrel"] == pytest.approx(0.2, abs=1e-6)
    assert (scored.images, scored.points) == (1, 2)
    assert "not kept: no row of a suite has these points" in table(scored)
    assert not (tmp_path / "runs").exists()
    # column first: the same numbers taken as rows would be another pixel
    assert scored.values["absrel"] != pytest.approx(abs(answers[0] / float(depth[1, 100, 200]) - 1), abs=1e-3)


def test_maps_are_read_at_the_points_of_a_file_and_scored_on_its_depths(
    score_points: Callable[..., PointScores], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    np.save(tmp_path / "maps.npy", depth)
    line = {"image": names[0], "pixel_coords": [[100, 200]], "depth": [2 * float(depth[0, 200, 100])]}
    scored = score_points(tmp_path / "maps.npy", points=write(tmp_path / "p.jsonl", line))
    assert scored.values["absrel"] == pytest.approx(0.5)  # half of the file's depth
    assert "the data set's depth there differs by 50 % (median)" in scored.what
    assert "silog" not in scored.values  # one point has no spread


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixel_coords": [[640, 3]]}, r"point \[640, 3\] lies outside frame"),
        ({"pixel_coords": [[1.5, 3]]}, "expected pixel_coords as pairs of whole numbers"),
        ({"pixel_coords": [[9, 9]]}, "no depth counts under nyu_bts, such as"),
        ({"depth": [1, 2]}, "expected 1 depths for as many points"),
        ({"depth": [0]}, "expected positive, finite depths"),
        ({"original_depth_size": [256, 192]}, "its coordinates count in 192×256, frame"),
        ({"image": None}, "expected pixel_coords|expected a frame with its points"),
    ],
)
def test_what_is_no_such_file_is_refused_by_line(
    score_points: Callable[..., PointScores], names: list[str], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    line = {"image": names[0], "pixel_coords": [[100, 200]], "depth": [2.0]} | change
    with pytest.raises(DataError, match=said) as caught:
        score_points(write(tmp_path / "a.jsonl", line))
    assert "a.jsonl:1" in str(caught.value)
