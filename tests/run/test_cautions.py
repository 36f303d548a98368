"""A picture in two splits stands above every table of a run, as it is a problem of `data inspect`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import SMALL, leave_out_costs, write_frames, write_suite

from spd_bench.data.inspect import inspect_data
from spd_bench.report.collect import collect
from spd_bench.run import session
from spd_bench.run.request import Finished, Request


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    leave_out_costs(monkeypatch)
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    frames = write_frames(tmp_path / "frames", height=48, width=64)
    return write_suite(tmp_path / "tiny.yaml", frames, base=SMALL, baselines="[]", steps=1)


def run(suite: Path) -> Finished:
    return session.run_suite(Request(suite=str(suite), root=suite.parent / "runs", device="cpu"))


def test_a_picture_in_two_splits_is_said_above_the_table(suite: Path) -> None:
    colour = sorted((suite.parent / "frames/rgb").iterdir())
    for number, path in enumerate(colour):  # some would be alike
        image = np.asarray(Image.open(path)).copy()
        image[0, 0] = number
        Image.fromarray(image).save(path)
    assert "CAUTION" not in run(suite).table
    shutil.copy(colour[3], colour[19])  # of 20 frames the first 14 are trained on, the last 4 are scored
    found = inspect_data(
        suite.parent / "frames", dataset=None, protocol="full_frame", on_frame=lambda done, total: None
    )
    (problem,) = [problem for problem in found.problems if "two splits" in problem.message]
    for _ in range(2):  # the second run does not read the frames again
        head = " ".join(run(suite).table.split("Protocol:")[0].split())  # lines are broken to the terminal's width
        assert head.endswith(f"CAUTION: {problem.message} ({problem.places[0]})")
    assert "CAUTION: 1 pictures" in collect(suite.parent / "runs", "tiny").dataset
