"""What MLflow gets, read back from its own database, and what happens to a run when it cannot have it."""

import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from spd_bench.tracking import CUT, ENVIRONMENT, EXPERIMENT, PARAM_LENGTH, Tracker

pytestmark = pytest.mark.slow  # one fresh database costs 4 s, importing MLflow as much again

OPEN_SUITE = """
import os, sys
from pathlib import Path
from spd_bench.tracking import ENVIRONMENT, Tracker
assert "mlflow" not in sys.modules
tracker = Tracker(Path(sys.argv[1]))
print(tracker.open_suite("suite", params={"epochs": "2"}, tags={"spd.profile": "smoke"}, resume_id=None))
assert all(os.environ[name] == value for name, value in ENVIRONMENT.items())
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The user has no settings of his own, and what the tracker sets is undone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One database for the whole file, made by two processes that open it at the same moment."""
    root = tmp_path_factory.mktemp("runs") / "not yet there"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DO_NOT_TRACK"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_SUITE, str(root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean,
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    return SimpleNamespace(root=root, outputs=outputs, codes=[process.returncode for process in processes])


@pytest.fixture
def client(world):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=f"sqlite:///{world.root}/mlflow.db")


@pytest.fixture
def tracker(world):
    return Tracker(world.root)


def test_two_processes_may_open_a_fresh_database_at_once(world, client):
    assert world.codes == [0, 0]
    for _, err in world.outputs:
        assert "Traceback" not in err
        assert "tracking is off" not in err
        assert "INFO" not in err  # nor does MLflow chat
    ids = [out.strip() for out, _ in world.outputs]
    assert len(set(ids)) == 2
    for run_id in ids:
        run = client.get_run(run_id)
        assert run.info.run_name == "suite"
        assert run.data.params == {"epochs": "2"}
        assert run.data.tags["spd.profile"] == "smoke"
    assert [e.name for e in client.search_experiments()].count(EXPERIMENT) == 1


def test_runs_lie_below_their_suite_with_artifacts_below_the_run_root(world, client, tracker, tmp_path):
    suite = tracker.open_suite("ablation", params={}, tags={}, resume_id=None)
    run = tracker.open_run(
        "without_b4", parent_id=suite, params={"routing.r": "32"}, tags={"spd.hash": "ab"}, resume_id=None
    )
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    tracker.log_files(run, [tmp_path / "result.json", tmp_path / "absent.h5"])
    tracker.log_text(run, "suite: ablation δ₁\n", "suite.yaml")
    tracker.close(run, "FAILED")
    tracker.close(suite, "FINISHED")
    assert tracker.active

    found = client.get_run(run)
    assert found.info.run_name == "without_b4"
    assert found.info.status == "FAILED"
    assert found.info.end_time is not None
    assert found.data.tags["mlflow.parentRunId"] == suite
    assert found.data.tags["spd.hash"] == "ab"
    assert found.data.tags["spd.missing_files"] == "absent.h5"
    assert client.get_run(suite).info.status == "FINISHED"
    assert "mlflow.parentRunId" not in client.get_run(suite).data.tags
    artifacts = world.root / "mlflow-artifacts" / run / "artifacts"
    assert (artifacts / "result.json").read_text(encoding="utf-8") == "{}"
    assert (artifacts / "suite.yaml").read_text(encoding="utf-8") == "suite: ablation δ₁\n"


def test_series_are_logged_in_batches_without_what_is_not_finite_and_only_once(client, tracker):
    run = tracker.open_suite("series", params={}, tags={}, resume_id=None)
    # 1200 steps, two names: 2400 points are three calls; one of them is not finite
    rows = [(step, {"train/loss": 1 / (step + 1), "eval@K=64/absrel": step / 8}) for step in range(1200)]
    rows[7][1]["train/loss"] = math.nan
    tracker.log_series(run, rows)
    tracker.log_series(run, rows)
    assert tracker.active

    loss = client.get_metric_history(run, "train/loss")
    assert [point.step for point in loss] == [step for step in range(1200) if step != 7]
    assert loss[1].value == 0.5
    assert [p.value for p in client.get_metric_history(run, "eval_K_64/absrel")] == [s / 8 for s in range(1200)]
    assert client.get_run(run).data.tags["spd.non_finite"] == "1"


def test_resume_goes_on_with_the_same_run_whatever_its_parameters_are_now(client, world):
    first = Tracker(world.root)
    run = first.open_suite("resumed", params={"lr": "1e-3", "k": "64"}, tags={}, resume_id=None)
    first.log_series(run, [(0, {"loss": 1.0})])
    first.close(run, "KILLED")

    second = Tracker(world.root)
    again = second.open_suite("resumed", params={"lr": "1e-4", "k": "64", "new": "1"}, tags={"t": "2"}, resume_id=run)
    assert client.get_run(run).info.status == "RUNNING"
    second.log_series(again, [(0, {"loss": 1.0}), (1, {"loss": 0.5})])
    second.close(again, "FINISHED")

    assert again == run
    assert second.active
    found = client.get_run(run)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "1e-3", "k": "64", "new": "1"}
    assert found.data.tags["spd.changed_params"] == "lr"
    assert [(p.step, p.value) for p in client.get_metric_history(run, "loss")] == [(0, 1.0), (1, 0.5)]


def test_a_run_that_the_database_no_longer_has_is_opened_anew(client, tracker):
    gone = tracker.open_suite("gone", params={}, tags={}, resume_id=None)
    client.delete_run(gone)
    fresh = [tracker.open_suite("gone", params={}, tags={}, resume_id=old) for old in (gone, "0" * 32)]
    assert tracker.active
    assert len({gone, *fresh}) == 3


def test_names_and_values_over_mlflows_limits_are_mended_with_a_mark(client, tracker):
    many = {f"p{i}": "v" for i in range(150)}  # more than the 100 that one call takes
    odd = {"a=b<c>@d": "1", "/up/../x": "2", "long": "y" * (PARAM_LENGTH + 1), "just fits": "z" * PARAM_LENGTH}
    run = tracker.open_suite("limits", params=many | odd, tags={f"t{i}": "v" for i in range(150)}, resume_id=None)
    assert tracker.active
    params = client.get_run(run).data.params
    assert len(params) == 154
    assert params["a_b_c__d"] == "1"
    assert params["x"] == "2"
    assert len(params["long"]) == PARAM_LENGTH
    assert params["long"].endswith(CUT)
    assert params["just fits"] == "z" * PARAM_LENGTH


def everything(tracker):
    """Every call that a suite makes."""
    suite = tracker.open_suite("suite", params={"a": "1"}, tags={}, resume_id=None)
    run = tracker.open_run("run", parent_id=suite, params={}, tags={}, resume_id="0" * 32)
    tracker.log_series(run, [(0, {"loss": 1.0})])
    tracker.log_files(run, [Path(__file__)])
    tracker.log_text(run, "text", "name.txt")
    tracker.close(run, "FINISHED")
    return suite, run


def test_an_unreachable_server_costs_one_warning_and_seconds(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    tracker = Tracker(tmp_path)
    started = time.monotonic()
    with caplog.at_level(logging.INFO):
        assert everything(tracker) == (None, None)
        assert everything(tracker) == (None, None)
    assert time.monotonic() - started < 15
    assert not tracker.active
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    said = record.getMessage()
    assert record.name == "spd_bench.tracking"
    assert str(tmp_path) in said
    assert "results are complete in the run folders" in said
    assert "give the same command again" in said
    assert "secret" not in said


def test_a_database_that_breaks_midway_does_not_stop_the_run(world, client, caplog):
    tracker = Tracker(world.root)
    run = tracker.open_suite("breaks", params={}, tags={}, resume_id=None)
    client.delete_run(run)  # MLflow refuses to log to a deleted run
    tracker.log_series(run, [(0, {"loss": 1.0})])
    tracker.log_text(run, "text", "name.txt")
    tracker.close(run, "FINISHED")
    assert not tracker.active
    assert len([record for record in caplog.records if record.name == "spd_bench.tracking"]) == 1


def test_a_run_root_that_cannot_be_written_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert everything(Tracker(tmp_path / "file" / "runs")) == (None, None)
    assert len(caplog.records) == 1


def test_an_interrupt_is_not_swallowed(world, monkeypatch):
    tracker = Tracker(world.root)
    tracker.open_suite("interrupted", params={}, tags={}, resume_id=None)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracker._client, "set_terminated", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tracker.close("0" * 32, "FINISHED")
    assert tracker.active
