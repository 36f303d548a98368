"""A sweep's entries for MLflow: what its worker logs is what `spd-bench sync` makes of the database."""

from collections.abc import Callable
from pathlib import Path

import pytest

from spd_bench.sweep import track
from spd_bench.sweep.request import SweepRequest
from spd_bench.sweep.show import show_sweep
from spd_bench.sweep.study import Database, default_url
from spd_bench.sweep.worker import run_sweep
from spd_bench.tracking.entry import TrackedRun
from spd_bench.tracking.tracker import Tracker

SWEEP = """
sweep: tiny
suite: tiny.yaml
space:
  train.lr: {choice: [1e-3, 1e+30]}
sampler: grid
objective: {metric: absrel, k: 16}
"""


@pytest.mark.slow
def test_a_worker_logs_what_sync_finds(tiny_suite: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, logged = tiny_suite(2), {}
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    root = folder / "r u%20n#s?1&a+b"

    def put(self: Tracker, entry: TrackedRun) -> None:
        logged[entry.key] = entry

    monkeypatch.setattr(Tracker, "start", lambda self, beat=None: None)
    monkeypatch.setattr(Tracker, "put", put)
    before = {path.name for path in folder.iterdir()}
    swept = run_sweep(SweepRequest(sweep=str(folder / "sweep.yaml"), root=root, device="cpu"))
    assert swept.finished
    assert {path.name for path in folder.iterdir()} - before == {root.name}
    assert (root / "sweeps.db").is_file()
    assert show_sweep(None, root=root).study == swept.study

    found = {entry.key: entry for entry in track.entries(root)}
    assert [entry.name for entry in found.values()] == ["trial 0", "trial 1", "sweep tiny"]
    assert {key: entry.content for key, entry in found.items()} == {key: e.content for key, e in logged.items()}
    # a learning rate of 1e30 does not train
    states = {entry.params.get("train.lr"): entry.status for entry in found.values() if entry.parent}
    assert states == {"0.001": "FINISHED", "1e+30": "FAILED"}
    done = next(entry for entry in found.values() if entry.params.get("train.lr") == "0.001")
    assert done.tags["spd.training"] in next((root / "trained").glob("*/eval-*")).parent.name
    assert done.series[-1][1].keys() == {"objective/absrel@16"}
    (whole,) = (entry for entry in found.values() if entry.parent is None)
    assert whole.status == "FINISHED"
    assert whole.series[0][1].keys() == {"test/absrel@8"}  # the only K of the suite
    assert [path.suffix for path in whole.files] == [".html"]


@pytest.mark.parametrize("name", ["r u%20n#s?1&a+b", "100%", "a?b=c", "é ü"])
def test_a_run_root_with_an_odd_name_holds_the_sweeps_database(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    database = Database(default_url(root), root)
    assert database.names() == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (root / "sweeps.db").is_file()
    assert list(track.entries(tmp_path)) == []  # where there is none, none is made
    assert not (tmp_path / "sweeps.db").exists()
