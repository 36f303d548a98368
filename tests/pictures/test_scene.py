"""The archive of pictures: read as written, the same bytes each time, refused when damaged."""

from pathlib import Path

import numpy as np
import pytest

from spd_bench.errors import StateError
from spd_bench.pictures import panels
from spd_bench.pictures.choose import Contrast
from spd_bench.pictures.scene import PictureScene, Rendering, load, save


def scene(frame: str = "kitchen/1") -> PictureScene:
    rng = np.random.default_rng(3)
    truth = rng.uniform(1, 4, (6, 8)).astype(np.float32)
    truth[0, 0] = 0
    level = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    made = {
        "v13": Rendering(truth * 1.1 + (truth == 0), np.array([0.1, -0.2], np.float32), (level,)),
        "no-b3": Rendering(truth * 0.5 + (truth == 0), np.array([0.0, 0.3], np.float32), ()),
    }
    points = np.array([[0.5, 0.5], [7.5, 5.5]], np.float32)
    return PictureScene(frame, rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), truth, points, made)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    written = scene()
    assert save(tmp_path / "a.npz", {4: written}) == save(tmp_path / "b.npz", {4: scene()})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = load(tmp_path / "a.npz")[4]
    assert read.frame == written.frame
    for name in ("image_rc3", "truth_m_hw", "uv_P2"):
        assert (getattr(read, name) == getattr(written, name)).all()
    assert list(read.renderings) == ["v13", "no-b3"]
    for row, rendering in written.renderings.items():
        assert (read.renderings[row].depth_m_hw == rendering.depth_m_hw).all()
        assert (read.renderings[row].error_P == rendering.error_P).all()
        assert len(read.renderings[row].levels) == len(rendering.levels)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npz"
    save(path, {0: scene()})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StateError, match="cannot be read"):
        load(path)


def test_an_image_of_two_contrasts_is_drawn_once_with_every_row() -> None:
    made = [Contrast("no-b3", {"best": 0, "worst": 1}), Contrast("dense", {"best": 1})]
    drawn = panels.figures({0: scene("a"), 1: scene("b")}, made, "v13")
    assert len(drawn) == 2
    assert [panel.title for panel in drawn[0].panels] == [
        "scored points by error of v13",
        "ground truth",
        "v13: depth",
        "v13: error",
        "no-b3: depth",
        "no-b3: error",
    ]
    assert "worst image of no-b3 against v13; best image of dense against v13" in drawn[1].caption
    assert all(panel.source.startswith("data:image/") for figure in drawn for panel in figure.panels)


def test_relative_error_is_signed_and_unknown_without_truth() -> None:
    error = panels.relative_error(np.array([[1.1, 1.5, 3.0]]), np.array([[1.0, 2.0, 0.0]]))
    assert error[0, :2] == pytest.approx([0.1, -0.25])
    assert np.isnan(error[0, 2])


def test_points_lie_where_they_were_scored() -> None:
    image = np.full((7, 9, 3), 100, np.uint8)
    drawn = panels.with_points(image, np.array([[4.5, 3.5]]), np.array([1.0]), 1.0)
    assert (drawn[0, 0] == 60).all()  # dimmed to 0.6
    changed = np.argwhere((drawn != 60).any(-1))
    assert (changed.min(0).tolist(), changed.max(0).tolist()) == ([1, 2], [5, 6])  # 5×5 around row 3, column 4


def test_levels_are_drawn_for_rows_that_have_them() -> None:
    assert [panel.title for panel in panels.level_panels(scene(), "v13")] == ["L1, 4×3 cells"]
    assert panels.level_panels(scene(), "no-b3") == []
