"""`spd-bench sync` against real run folders and a real database: what MLflow lacks is logged, once."""

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import SMALL, write_frames

from spd_bench.cli import main
from spd_bench.environment import DEFAULTS
from spd_bench.process.locks import suite_lock
from spd_bench.run import session
from spd_bench.run.request import Finished, Request
from spd_bench.store import records
from spd_bench.store.run_root import SuiteRecord
from spd_bench.tracking import folders
from spd_bench.tracking.mlflow_store import address
from spd_bench.tracking.tracker import Tracker

pytestmark = pytest.mark.slow

SUITE = (
    "\nsuite: tiny\n"
    + SMALL
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 2, batch_size: 2, queries: 8, lr: 1e-3, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [1, 8], k1_draws: 2}}
seeds: [0]
baselines: [constant]
report: {{primary: {{metric: absrel, k: 8}}}}
"""
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of two compositions that was run without MLflow, below a run root with an odd name."""
    folder = tmp_path_factory.mktemp("suite")
    frames = write_frames(folder / "frames", height=48, width=64)
    (folder / "tiny.yaml").write_text(SUITE.format(root=frames), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "start", lambda self, beat=None: None)
        run(folder / "tiny.yaml", folder / "r u%20n#s?1&a+b")
    return folder


@pytest.fixture
def folder(untracked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untracked, tmp_path / "copy"))


def run(suite: Path, root: Path) -> Finished:
    return session.run_suite(Request(suite=str(suite), root=root, device="cpu"))


def synced(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `spd-bench sync` prints."""
    monkeypatch.setattr(sys, "argv", ["spd-bench", "sync", "--runs", str(root)])
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        main()
    return capsys.readouterr().out


def tracked(root: Path) -> dict[str, Any]:
    """The active runs by name; each name once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=address(root))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {run.info.run_name: run for run in client.search_runs(ids)}
    assert len(found) == len(client.search_runs(ids))
    return found


def test_sync_logs_every_finished_folder_that_mlflow_lacks_and_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.tracking import MlflowClient

    root = folder / "r u%20n#s?1&a+b"
    (root / "untold").mkdir()
    records.write_record(
        root / "untold" / "00001764523012345678-77-000001.json", {"call": "close", "run": "untold-1", "store": "x"}
    )

    # two rows and their suite; each row's folder is shown by its row
    said = synced(root, monkeypatch, capsys)
    assert "logged 3 runs, 2 were there" in said
    assert "untold: 1 calls that an earlier version had queued" in said
    assert not (root / "untold").exists()
    assert {path.name for path in folder.iterdir()} == {"frames", "tiny.yaml", "r u%20n#s?1&a+b"}
    found = tracked(root)
    assert set(found) == {"tiny", "small seed 0", "constant seed 0"}
    assert {each.info.status for each in found.values()} == {"FINISHED"}
    row = found["small seed 0"]
    assert row.data.tags["mlflow.parentRunId"] == found["tiny"].info.run_id
    (scores,) = root.glob("trained/small-*/eval-*/scores.json")
    assert row.data.metrics["test/K8/absrel"] == json.loads(scores.read_bytes())["scores"]["absrel@8"]
    assert row.data.metrics["train/loss"] > 0
    client = MlflowClient(tracking_uri=address(root))
    assert "tiny.html" in {file.path for file in client.list_artifacts(found["tiny"].info.run_id)}

    # twice is once; and a run that tracks itself finds what sync has logged, and the other way round
    assert "logged 0 runs, 5 were there" in synced(root, monkeypatch, capsys)
    assert run(folder / "tiny.yaml", root).failed == 0
    assert {name: each.info.run_id for name, each in tracked(root).items()} == {
        name: each.info.run_id for name, each in found.items()
    }
    assert tracked(root)["tiny"].info.status == "FINISHED"
    assert "logged 0 runs, 5 were there" in synced(root, monkeypatch, capsys)

    # a run that was deleted comes back with its folder
    client.delete_run(row.info.run_id)
    assert "logged 1 runs, 4 were there" in synced(root, monkeypatch, capsys)
    assert tracked(root)["small seed 0"].data.metrics == row.data.metrics

    # an experiment that was deleted does not make sync fail
    client.delete_experiment(row.info.experiment_id)
    assert "logged 3 runs, 2 were there" in synced(root, monkeypatch, capsys)
    assert f"mlflow experiments restore --experiment-id {row.info.experiment_id}" in caplog.text
    assert set(tracked(root)) == set(found)

    # without the suite's record the folders are runs of their own
    client.delete_experiment(client.get_experiment_by_name("spd-bench-2").experiment_id)
    (root / "suites" / "tiny.json").unlink()
    assert "logged 2 runs, 0 were there" in synced(root, monkeypatch, capsys)
    assert set(tracked(root)) == {"small seed 0", "constant seed 0"}

    # what is damaged is named, and costs nothing else
    client.delete_experiment(client.get_experiment_by_name("spd-bench-3").experiment_id)
    (done,) = root.glob("trained/small-*/done.json")
    done.write_text("{", encoding="utf-8")
    assert "logged 1 runs, 0 were there" in synced(root, monkeypatch, capsys)
    assert f"not logged: {done}" in caplog.text


def entry_of(root: Path) -> list[str]:
    return [entry.name for entry in folders.suites(root, "")]


def test_what_is_unfinished_or_running_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder / "r u%20n#s?1&a+b"
    assert entry_of(root) == ["small seed 0", "constant seed 0", "tiny"]
    path = root / "suites" / "tiny.json"
    stored = records.read(path, SuiteRecord)
    stored["rows"][1]["failure"] = records.UNFINISHED
    stored["rows"][0]["failure"] = "ValueError: no"
    records.write_record(path, stored)
    found = list(folders.suites(root, ""))
    assert [(entry.name, entry.status) for entry in found] == [("small seed 0", "FAILED"), ("tiny", "KILLED")]
    assert found[0].tags["failure"] == "ValueError: no"
    assert found[0].series == ()
    with suite_lock(root, "tiny", command="spd-bench run tiny"):
        assert entry_of(root) == []
    assert "suite tiny is running" in caplog.text
    assert entry_of(root) != []


def test_an_earlier_versions_runs_are_found_by_what_it_recorded(folder: Path) -> None:
    root = folder / "r u%20n#s?1&a+b"
    path = root / "suites" / "tiny.json"
    stored = records.read(path, SuiteRecord)
    stored["tracked"] = {"sqlite:///x": "0a1b"}
    records.write_record(path, stored)
    row, _, parent = folders.suites(root, "sqlite:///x")
    assert parent.earlier == "attributes.run_id = '0a1b'"
    assert "tags.`mlflow.parentRunId` = '0a1b'" in row.earlier
    assert row.params["identity"] in row.earlier
    assert all(entry.earlier == "" for entry in folders.suites(root, "sqlite:///y"))  # of another store
