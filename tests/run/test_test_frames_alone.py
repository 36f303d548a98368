"""Data of test frames alone: rows that learn nothing from data are planned, run and scored; others are refused."""

from pathlib import Path

import pytest
from indoor_files import ibims1
from tiny import SMALL, leave_out_costs, write_suite

from spd_baselines.constant import Constant
from spd_bench.api import PointDepthModel
from spd_bench.errors import DataError
from spd_bench.run import session
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Finished, Request
from spd_bench.suite.axes import Selection


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite whose main data is iBims-1, which has no split to train on."""
    leave_out_costs(monkeypatch)
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    (tmp_path / "ibims1").mkdir()
    ibims1(tmp_path / "ibims1")
    path = write_suite(tmp_path / "alone.yaml", tmp_path / "ibims1", base=SMALL, baselines="[constant]")
    path.write_text(path.read_text().replace("use: rgbd_folder", "use: ibims1"))
    return path


def request(suite: Path, *only: str) -> Request:
    return Request(suite=str(suite), root=suite.parent / "runs", device="cpu", selection=Selection(only=only))


def run(suite: Path, *only: str) -> Finished:
    return session.run_suite(request(suite, *only))


def states(suite: Path, *only: str) -> list[str]:
    rows, _ = plan_suite(request(suite, *only))
    return [row["state"] for row in rows]


def test_a_row_that_learns_nothing_needs_no_training_split(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two metres everywhere, as a released model has its numbers without any training frame
    monkeypatch.setattr(Constant, "fit_prior", PointDepthModel.fit_prior)
    built = Constant.__init__

    def released(self: Constant, *args: object, **options: object) -> None:
        built(self, *args, **options)  # type: ignore[arg-type]
        self.median_m.fill_(2.0)

    monkeypatch.setattr(Constant, "__init__", released)
    assert states(suite, "constant") == ["to score"]
    finished = run(suite, "constant")
    assert finished.failed == 0
    assert "train 0, val 0, test 3" in finished.table
    assert states(suite, "constant") == ["done"]


def test_rows_that_learn_are_refused_before_anything_is_trained(suite: Path) -> None:
    for only in ((), ("constant",)):  # the constant is the median of training depths
        with pytest.raises(DataError, match="no frames in split train") as caught:
            run(suite, *only)
        assert "--only NAME" in (caught.value.hint or "")
    assert not list(suite.parent.rglob("run.json"))
