"""The run draws the report's pictures: from the trained models, once, and never at the price of the report."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import V13, write_frames

from spd_bench.pictures.scene import load
from spd_bench.run import pictures, session
from spd_bench.run.request import Finished, Request
from spd_bench.score.predict import load as load_predictions
from spd_bench.store import records

SUITE = (
    "\nsuite: tiny\n"
    + V13
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 2, batch_size: 2, queries: 8, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [1, 8], k1_draws: 2}}
seeds: [0]
axes: {{leave_one_out: [b3]}}
baselines: [constant]
report: {{primary: {{metric: absrel, k: 8}}, pictures: {{columns: 16}}}}
"""
)


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_frames(folder / "frames", height=48, width=64)
    path = folder / "tiny.yaml"
    path.write_text(SUITE.format(root=folder / "frames"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(suite: Path) -> Path:
    """A run root where the suite has been run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Tracker, "start", lambda self, beat=None: None)
        run(suite)
    return suite.parent / "runs"


def run(suite: Path, *sets: str) -> Finished:
    return session.run_suite(Request(suite=str(suite), sets=sets, root=suite.parent / "runs", device="cpu"))


def page(root: Path) -> bytes:
    """The page but for the time at which the run ended."""
    return re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"TIME", (root / "reports" / "tiny.html").read_bytes())


def test_errors_drawn_are_those_of_the_record(root: Path) -> None:
    scenes = load(root / "reports" / "tiny.pictures.npz")
    stored = records.read_record(root / "suites" / "tiny.json")
    folders = {row["composition"]: root / row["folder"] / row["evaluation"] for row in stored["rows"]}
    assert all({"v13", "no-b3"} == set(scene.renderings) for scene in scenes.values())  # it is best and worst ablation
    for index, scene in scenes.items():
        for row, rendering in scene.renderings.items():
            found = load_predictions(folders[row] / "predictions.h5")
            first = found.draw_P == 0
            truth, predicted = found.truth_m_IP[index, first], found.predicted_m_IP[index, first]
            assert found.frames[index] == scene.frame
            assert np.allclose(rendering.error_P, (predicted - truth) / truth, atol=1e-6)


def test_dense_depth_lies_on_the_grid_of_the_frame(root: Path) -> None:
    # frames of 48×64 with at most 16 columns: every 4th pixel, 12 rows of 16
    for scene in load(root / "reports" / "tiny.pictures.npz").values():
        assert scene.truth_m_hw.shape == (12, 16)
        assert all(rendering.depth_m_hw.shape == (12, 16) for rendering in scene.renderings.values())
        assert all((rendering.depth_m_hw > 0).all() for rendering in scene.renderings.values())


def test_the_page_is_the_same_bytes_and_nothing_is_drawn_again(
    suite: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = page(root)
    assert b"Depth of test images" in before
    monkeypatch.setattr(pictures, "rendering", lambda *args, **how: pytest.fail("drawn again"))
    run(suite)
    assert page(root) == before


def test_a_damaged_archive_is_drawn_again(suite: Path, root: Path) -> None:
    archive = root / "reports" / "tiny.pictures.npz"
    before = archive.read_bytes()
    archive.write_bytes(before[:-7])
    run(suite)
    assert archive.read_bytes() == before


def test_a_component_that_cannot_be_drawn_costs_the_pictures_alone(
    suite: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: object, **how: object) -> None:
        raise ZeroDivisionError("no picture of this")

    (root / "reports" / "tiny.pictures.json").unlink()
    monkeypatch.setattr(pictures, "rendering", fails)
    with caplog.at_level(logging.WARNING):
        finished = run(suite)
    assert finished.table
    assert "the report has no pictures: ZeroDivisionError: no picture of this" in caplog.text
    assert b"Depth of test images" not in (root / "reports" / "tiny.html").read_bytes()


def test_a_suite_may_ask_for_no_pictures(suite: Path, root: Path) -> None:
    run(suite, "report.pictures.columns=0")
    assert b"Depth of test images" not in (root / "reports" / "tiny.html").read_bytes()
