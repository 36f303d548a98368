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

from spd_bench.errors import ResourceError
from spd_bench.tracking import CUT, ENVIRONMENT, EXPERIMENT, PARAM_LENGTH, PATIENCE_S, UNTOLD, USUAL_S, Tracker

pytestmark = pytest.mark.slow  # one fresh database costs 4 s, importing MLflow as much again

OPEN_SUITE = """
import os, sys
from pathlib import Path
from spd_bench import tracking
from spd_bench.tracking import ENVIRONMENT, Tracker
tracking.PATIENCE_S = 120.0  # four of them start at once, perhaps on a busy machine
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
    monkeypatch.setattr("spd_bench.tracking.PATIENCE_S", 60.0)  # a busy machine is not what is tested


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """One database for the whole file, made by four processes that open it at the same moment."""
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
        for _ in range(4)
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


def test_four_processes_may_open_a_fresh_database_at_once(world, client):
    assert world.codes == [0, 0, 0, 0]
    for _, err in world.outputs:
        assert "Traceback" not in err
        assert "tracking is off" not in err
        assert "INFO" not in err  # nor does MLflow chat
    ids = [out.strip() for out, _ in world.outputs]
    assert len(set(ids)) == 4
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
    monkeypatch.setattr("spd_bench.tracking.PATIENCE_S", PATIENCE_S)
    tracker = Tracker(tmp_path)
    started = time.monotonic()
    with caplog.at_level(logging.INFO):
        names = [*everything(tracker), *everything(tracker)]
    assert time.monotonic() - started < 15
    assert all(name.startswith(UNTOLD) or name == "0" * 32 for name in names)
    assert not tracker.active
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    said = record.getMessage()
    assert record.name == "spd_bench.tracking"
    assert str(tmp_path) in said
    assert "results are complete in the run folders" in said
    assert "spd-bench sync" in said
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
    assert all(everything(Tracker(tmp_path / "file" / "runs")))
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


# what could not be told


def tracked(client, name):
    """The runs of that name with what they have, without what differs from one telling to another."""
    (experiment,) = [e for e in client.search_experiments() if e.name == EXPERIMENT]
    found = []
    for run in client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` LIKE '{name}%'"):
        history = client.get_metric_history(run.info.run_id, "loss")
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        points = [(point.step, point.value) for point in history]
        found.append((run.info.run_name, run.info.status, run.data.params, points, files, run.info.run_id))
    return sorted(found)


def suite_of(tracker, name, resumed=(None, None), between=lambda: None):
    """What a suite tells; the ids of its run and its child's."""
    suite = tracker.open_suite(name, params={"a": "1"}, tags={}, resume_id=resumed[0])
    between()
    run = tracker.open_run(f"{name} v13", parent_id=suite, params={"lr": "1"}, tags={"t": "2"}, resume_id=resumed[1])
    tracker.log_series(run, [(0, {"loss": 1.0}), (1, {"loss": math.nan}), (2, {"loss": 0.1})])
    tracker.log_files(run, [Path(__file__)])
    tracker.log_text(run, "text δ", "name.txt")
    tracker.close(run, "FINISHED")
    tracker.close(suite, "FINISHED")
    return suite, run


def breaks(tracker, monkeypatch, after=0):
    """MLflow refuses every call after so many that it took."""
    real, taken = tracker._in_time, [0]

    def refuses(act, limit_s):
        taken[0] += 1
        if taken[0] > after:
            raise ConnectionError("gone")
        return real(act, limit_s)

    monkeypatch.setattr(tracker, "_in_time", refuses)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5])
def test_what_could_not_be_told_is_told_later_and_once(world, client, monkeypatch, after):
    name = f"later-{after}"
    first = Tracker(world.root)
    breaks(first, monkeypatch, after)
    suite, run = suite_of(first, name)
    assert not first.active

    # the same suite goes on while it is still untold, then all is told, twice over
    suite_of(Tracker(world.root), name, resumed=(suite, run))
    again = Tracker(world.root)
    told, left = again.sync()
    assert told > 0
    assert left == 0
    assert Tracker(world.root).sync() == (0, 0)
    found = tracked(client, name)
    assert [row[:-1] for row in found] == [
        (name, "FINISHED", {"a": "1"}, [], []),
        (f"{name} v13", "FINISHED", {"lr": "1"}, [(0, 1.0), (2, 0.1)], ["name.txt", "test_tracking.py"]),
    ]
    parent, child = (row[-1] for row in found)
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent


def test_what_was_told_in_part_is_told_once(world, client, monkeypatch):
    tracker = Tracker(world.root)
    tracker._connect()
    real = tracker._client.log_batch

    def fails(*args, **kwargs):
        raise ConnectionError("gone in the middle of opening a run")

    monkeypatch.setattr(tracker._client, "log_batch", fails)
    suite_of(tracker, "in-part")
    assert not tracker.active
    monkeypatch.setattr(tracker._client, "log_batch", real)
    assert Tracker(world.root).sync() == (7, 0)
    assert [row[0] for row in tracked(client, "in-part")] == ["in-part", "in-part v13"]


def test_what_belongs_to_another_database_waits_for_it(world, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    tracker = Tracker(tmp_path / "runs")
    suite_of(tracker, "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{world.root}/mlflow.db")
    assert Tracker(tmp_path / "runs").sync() == (0, 7)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(ResourceError, match="not taken"):
        Tracker(tmp_path / "runs").sync()


def test_a_slow_database_costs_seconds_in_all(world, client, monkeypatch):
    tracker = Tracker(world.root)
    tracker._connect()
    monkeypatch.setattr("spd_bench.tracking.PATIENCE_S", 1.5)
    monkeypatch.setattr("spd_bench.tracking.USUAL_S", 0.1)
    real = tracker._client.set_terminated
    monkeypatch.setattr(tracker._client, "set_terminated", lambda *args: time.sleep(0.7) or real(*args))
    run = tracker.open_suite("slow", params={}, tags={}, resume_id=None)
    started = time.monotonic()
    for _ in range(20):  # 14 s if they were waited for
        tracker.close(run, "FINISHED")
    assert time.monotonic() - started < 5
    assert not tracker.active
    assert Tracker(world.root).sync()[1] == 0
    assert USUAL_S + PATIENCE_S <= 10


def test_a_database_that_never_answers_is_left_alone(world, monkeypatch):
    tracker = Tracker(world.root)
    tracker._connect()
    monkeypatch.setattr("spd_bench.tracking.PATIENCE_S", 0.5)
    monkeypatch.setattr(tracker._client, "create_run", lambda *args, **kwargs: time.sleep(1000))
    started = time.monotonic()
    suite_of(tracker, "never")
    assert time.monotonic() - started < 5
    assert not tracker.active
    assert Tracker(world.root).sync() == (7, 0)


def test_a_full_disk_is_nobodys_business(world, monkeypatch):
    tracker = Tracker(world.root)
    breaks(tracker, monkeypatch)

    def full(path, content):
        raise ResourceError("no space left on device", where=str(path))

    monkeypatch.setattr("spd_bench.store.files.write_bytes", full)
    suite_of(tracker, "full")
    assert not tracker.active
