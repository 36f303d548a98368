"""What MLflow holds after entries were logged, read back from its own database."""

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spd_bench.environment import DEFAULTS
from spd_bench.errors import ResourceError
from spd_bench.tracking.entry import TrackedRun
from spd_bench.tracking.mlflow_store import CONTENT, CUT, EXPERIMENT, ID, PARAM_LENGTH, RETRIES, MlflowStore, address

pytestmark = pytest.mark.slow  # one fresh database costs 10 s, importing MLflow some more

OPEN_SUITE = """
import os, sys
from pathlib import Path
from spd_bench.environment import DEFAULTS
from spd_bench.tracking.entry import TrackedRun
from spd_bench.tracking.mlflow_store import MlflowStore
assert "mlflow" not in sys.modules
store = MlflowStore(Path(sys.argv[1]))
store.log(TrackedRun(key=("suite", sys.argv[2]), name="suite", status="FINISHED", params={"epochs": "2"}))
store.log(TrackedRun(key=("suite", "shared"), name="shared", status="FINISHED"))
assert all(os.environ[name] == value for name, value in DEFAULTS.items())
"""
CALLS = ("create_run", "log_batch", "log_artifact", "set_tag", "set_terminated")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has no settings of his own, and what the store sets is undone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("spd_bench.tracking.mlflow_store.METRICS_PER_CALL", 50)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One database for the whole file, made by four processes that open it at the same moment."""
    root = tmp_path_factory.mktemp("runs") / "r u%20n#s?1&a+b" / "not yet there"
    clean = {
        name: value for name, value in os.environ.items() if name not in DEFAULTS and name != "MLFLOW_TRACKING_URI"
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_SUITE, str(root), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean,
        )
        for number in range(4)
    ]
    errors = [process.communicate(timeout=250)[1] for process in processes]
    return SimpleNamespace(root=root, errors=errors, codes=[process.returncode for process in processes])


@pytest.fixture
def client(world: SimpleNamespace) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=address(world.root))


@pytest.fixture
def store(world: SimpleNamespace) -> MlflowStore:
    return MlflowStore(world.root)


def runs(client: Any, name: str) -> list[Any]:
    """Active runs of that name in every experiment."""
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`mlflow.runName` = '{name}'"))


def run(client: Any, name: str) -> Any:
    (found,) = runs(client, name)
    return found


def history(client: Any, name: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run(client, name).info.run_id, metric)]


def test_four_processes_may_open_a_fresh_database_at_once(world: SimpleNamespace, client: Any) -> None:
    assert world.codes == [0, 0, 0, 0], world.errors
    for error in world.errors:
        assert "Traceback" not in error
        assert "INFO" not in error  # nor does MLflow chat
    found = runs(client, "suite")
    assert len(found) == 4
    for each in found:
        assert each.info.status == "FINISHED"
        assert each.data.params == {"epochs": "2"}
    assert len(runs(client, "shared")) == 1  # all four logged it
    assert [experiment.name for experiment in client.search_experiments()].count(EXPERIMENT) == 1


def test_a_run_root_whose_name_means_something_in_addresses_keeps_every_file(
    world: SimpleNamespace, store: MlflowStore, client: Any
) -> None:
    # sqlite:///<the path as text> would be cut at "?" and decoded at "%20"; MLflow makes a folder of the encoded text
    above = world.root.parent.parent
    assert [path.name for path in above.iterdir()] == ["r u%20n#s?1&a+b"]
    assert {path.name for path in world.root.iterdir()} >= {"mlflow.db", "tracking.json"}
    note = world.root / "note.txt"
    note.write_text("δ₁", encoding="utf-8")
    store.log(TrackedRun(key=("odd root",), name="odd root", status="FINISHED", files=(note,)))
    copied = world.root / "mlflow-artifacts" / run(client, "odd root").info.run_id / "artifacts" / "note.txt"
    assert copied.read_text(encoding="utf-8") == "δ₁"
    assert [path.name for path in above.iterdir()] == ["r u%20n#s?1&a+b"]


def test_runs_lie_below_their_suite_with_artifacts(store: MlflowStore, client: Any, tmp_path: Path) -> None:
    suite = TrackedRun(key=("ablation",), name="ablation", status="RUNNING")
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    files = (tmp_path / "result.json", tmp_path / "absent.h5")
    row = TrackedRun(
        key=("ablation", "no-b4"),
        name="no-b4 seed 0",
        status="FAILED",
        parent=suite,
        params={"routing.r": "32"},
        tags={"failure": "out of memory"},
        files=files,
    )
    assert store.log(row)  # its parent is opened with it
    found, above = run(client, "no-b4 seed 0"), run(client, "ablation")
    assert (found.info.status, above.info.status) == ("FAILED", "RUNNING")
    assert found.info.end_time is not None
    assert found.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert found.data.tags["failure"] == "out of memory"
    assert found.data.tags["spd.missing_files"] == "absent.h5"
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == ["result.json"]
    assert store.log(TrackedRun(key=("ablation",), name="ablation", status="FINISHED"))
    assert run(client, "ablation").info.status == "FINISHED"


ROWS = tuple((step, {"train/loss": 1 / (step + 1), "eval@K=64/absrel": step / 8}) for step in range(60))


def full(name: str, **changes: Any) -> TrackedRun:
    """An entry of everything. 120 points without the loss of step 7 are three calls of 50."""
    rows = tuple((step, values | ({"train/loss": math.nan} if step == 7 else {})) for step, values in ROWS)
    plain: dict[str, Any] = {"params": {"a": "1"}, "tags": {"b": "2"}, "series": rows, "files": (Path(__file__),)}
    return TrackedRun(key=(name,), name=name, **{"status": "FINISHED"} | plain | changes)


def assert_whole(client: Any, name: str) -> None:
    found = run(client, name)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})
    assert found.data.tags["b"] == "2"
    assert found.data.tags["spd.non_finite"] == "1"
    # 60 steps without the seventh
    assert [step for step, _ in history(client, name, "train/loss")] == [step for step in range(60) if step != 7]
    assert history(client, name, "eval_K_64/absrel") == [(step, step / 8) for step in range(60)]
    assert [file.path for file in client.list_artifacts(found.info.run_id)] == [Path(__file__).name]


def test_what_is_logged_twice_is_there_once(world: SimpleNamespace, client: Any) -> None:
    assert MlflowStore(world.root).log(full("twice"))
    assert_whole(client, "twice")
    again = MlflowStore(world.root)
    assert not again.log(full("twice"))
    assert not again.log(full("twice"))  # once from the list, once by a search
    assert_whole(client, "twice")
    assert MlflowStore(world.root).log(full("twice", tags={"b": "3"}))  # control: other content is logged
    assert run(client, "twice").data.tags["b"] == "3"


class Failing:
    """A client that fails at its n-th writing call, before or after the call is done."""

    def __init__(self, client: Any, at: int, *, done: bool) -> None:
        self.client, self.left, self.done = client, at, done

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.client, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **more: Any) -> Any:
            self.left -= 1
            result = real(*args, **more) if self.left or self.done else None
            if not self.left:
                raise ConnectionError("gone")
            return result

        return call


def failing(root: Path, at: int, *, done: bool) -> MlflowStore:
    store = MlflowStore(root)
    with store._alone():
        store._connect()
    store._client = Failing(store._client, at, done=done)
    return store


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("at", range(2, 10))  # create_run is the first; params, tags, 3 metrics, tag, file, tag, end
def test_what_was_logged_in_part_is_completed(world: SimpleNamespace, client: Any, at: int, done: bool) -> None:
    name = f"part-{at}-{done}"
    with pytest.raises(ConnectionError):
        failing(world.root, at, done=done).log(full(name))
    # done, at 10: the end was made, only its reply is lost
    MlflowStore(world.root).log(full(name))
    assert_whole(client, name)


@pytest.mark.parametrize("done", [False, True])
def test_a_lost_reply_makes_no_second_run(world: SimpleNamespace, client: Any, done: bool) -> None:
    name = f"lost-{done}"
    store = failing(world.root, 1, done=done)
    assert store.log(full(name))
    assert_whole(client, name)


def test_a_run_that_appears_late_beside_another_is_deleted(world: SimpleNamespace, client: Any) -> None:
    MlflowStore(world.root).log(full("late"))
    first = run(client, "late")
    late = client.create_run(first.info.experiment_id, tags={ID: first.data.tags[ID]}, run_name="late")
    assert len(runs(client, "late")) == 2
    MlflowStore(world.root).log(full("late", tags={"b": "2", "more": "1"}))
    assert run(client, "late").info.run_id == first.info.run_id
    assert client.get_run(late.info.run_id).info.status == "KILLED"


def test_mlflow_itself_repeats_no_creation(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MlflowStore(world.root)
    with store._alone():
        store._connect()
    retries = []
    real = store._client.create_run
    monkeypatch.setattr(
        store._client, "create_run", lambda *args, **more: retries.append(os.environ[RETRIES]) or real(*args, **more)
    )
    store.log(TrackedRun(key=("retries",), name="retries", status="FINISHED"))
    assert retries == ["0"]
    assert os.environ[RETRIES] == DEFAULTS[RETRIES]


def test_a_run_that_failed_may_finish_later(store: MlflowStore, client: Any) -> None:
    store.log(full("resumed", status="FAILED", params={"lr": "1e-3"}, series=()))
    store.log(full("resumed", params={"lr": "1e-4", "new": "1"}, series=((0, {"loss": 1.0}),)))
    found = run(client, "resumed")
    assert found.info.status == "FINISHED"
    assert found.data.params == {"lr": "1e-3", "new": "1"}  # MLflow's parameters never change
    assert found.data.tags["spd.changed_params"] == "lr"
    assert history(client, "resumed", "loss") == [(0, 1.0)]


def test_a_suite_that_is_run_again_ends_again(world: SimpleNamespace, client: Any) -> None:
    for _ in range(2):
        store = MlflowStore(world.root)
        store.log(TrackedRun(key=("again",), name="again", status="RUNNING"))
        assert run(client, "again").info.status == "RUNNING"
        store.log(TrackedRun(key=("again",), name="again", status="FINISHED"))
        assert run(client, "again").info.status == "FINISHED"


def test_a_deleted_run_is_logged_anew(world: SimpleNamespace, client: Any) -> None:
    MlflowStore(world.root).log(full("gone"))
    client.delete_run(run(client, "gone").info.run_id)
    assert MlflowStore(world.root).log(full("gone"))
    assert_whole(client, "gone")


def test_a_run_root_that_goes_away_is_not_made_anew(
    world: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(world.root))
    root, away = tmp_path / "runs", tmp_path / "away"
    store = MlflowStore(root)
    assert store.log(full("goes away"))
    root.rename(away)
    capfd.readouterr()
    with pytest.raises(ResourceError, match="the run root is gone, or is another folder now"):
        store.log(full("goes away", tags={}))
    assert not root.exists()
    root.mkdir()
    with pytest.raises(ResourceError, match="is another folder now"):
        store.log(full("goes away", tags={}))
    assert list(root.iterdir()) == []
    assert capfd.readouterr().err == ""
    root.rmdir()
    away.rename(root)
    assert store.log(full("goes away", tags={}))  # it is back


def test_two_run_roots_share_a_store(
    world: SimpleNamespace, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MlflowStore(world.root).log(full("shared root"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address(world.root))
    assert MlflowStore(tmp_path).log(full("shared root"))
    assert len(runs(client, "shared root")) == 2
    assert not MlflowStore(tmp_path).log(full("shared root"))


def test_names_and_values_over_mlflows_limits_are_mended_with_a_mark(store: MlflowStore, client: Any) -> None:
    many = {f"p{i}": "v" for i in range(150)}  # more than the 100 that one call takes
    odd = {"a=b<c>@d": "1", "/up/../x": "2", "long": "y" * (PARAM_LENGTH + 1), "just fits": "z" * PARAM_LENGTH}
    store.log(full("limits", params=many | odd, tags={f"t{i}": "v" for i in range(150)}))
    params = run(client, "limits").data.params
    assert len(params) == 154
    assert params["a_b_c__d"] == "1"
    assert params["x"] == "2"
    assert len(params["long"]) == PARAM_LENGTH
    assert params["long"].endswith(CUT)
    assert params["just fits"] == "z" * PARAM_LENGTH


@pytest.fixture
def emptied(client: Any) -> Iterator[Any]:
    """The client, with whatever the test deletes restored and its other experiments deleted for good."""
    from mlflow.entities import ViewType

    yield client
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        if experiment.name == EXPERIMENT and experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if experiment.name.startswith(f"{EXPERIMENT}-") and experiment.lifecycle_stage == "active":
            client.rename_experiment(experiment.experiment_id, f"old {experiment.experiment_id}")


def test_a_deleted_experiment_is_replaced_and_said_with_the_way_back(
    world: SimpleNamespace, emptied: Any, caplog: pytest.LogCaptureFixture
) -> None:
    MlflowStore(world.root).log(full("before"))
    experiment = emptied.get_experiment_by_name(EXPERIMENT)
    emptied.delete_experiment(experiment.experiment_id)
    with caplog.at_level(logging.WARNING):
        store = MlflowStore(world.root)
        assert store.log(full("before"))  # MLflow lacks it now
        assert store.log(full("after"))
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"restore --experiment-id {experiment.experiment_id}" in said
    second = emptied.get_experiment_by_name(f"{EXPERIMENT}-2")
    assert {found.info.run_name for found in emptied.search_runs([second.experiment_id])} == {"before", "after"}
    assert not MlflowStore(world.root).log(full("after"))

    emptied.restore_experiment(experiment.experiment_id)  # what the command does
    assert not MlflowStore(world.root).log(full("after"))  # still found where it is
    assert MlflowStore(world.root).log(full("third"))
    assert run(emptied, "third").info.experiment_id == experiment.experiment_id


def test_an_experiment_of_another_place_is_not_written_to(
    world: SimpleNamespace, emptied: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # a run root that was moved: its experiment still names the old folder for artifacts
    monkeypatch.setattr("spd_bench.tracking.mlflow_store.ARTIFACTS", "moved")
    with caplog.at_level(logging.WARNING):
        MlflowStore(world.root).log(full("moved"))
    found = run(emptied, "moved")
    assert found.info.artifact_uri.startswith((world.root / "moved").as_uri())
    assert "keeps its files in" in caplog.text


def test_what_an_earlier_version_logged_is_taken_over(world: SimpleNamespace, client: Any) -> None:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    old = client.create_run(experiment, run_name="old")
    client.log_param(old.info.run_id, "identity", "abc")
    client.set_terminated(old.info.run_id, "FINISHED")
    entry = full("old", earlier="params.identity = 'abc'")
    assert not MlflowStore(world.root).log(entry)
    assert run(client, "old").data.tags[CONTENT] == entry.content
    assert not MlflowStore(world.root).log(entry)
    assert MlflowStore(world.root).log(full("old", earlier="params.identity = 'abd'", tags={}))  # control
