"""What tracking may cost a run: nothing in between, a limited time at the end, one warning and no exception."""

import threading
from pathlib import Path
from typing import Any

import pytest

from spd_bench.environment import DEFAULTS
from spd_bench.errors import ResourceError, Stopped
from spd_bench.tracking import tracker as module
from spd_bench.tracking.entry import TrackedRun
from spd_bench.tracking.tracker import QUEUE, Tracker, sync

FAR_S = 1000.0


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)


class Store:
    """Stands for an MLflow store: keeps names, or does what it is given."""

    shown, is_own = "sqlite:///here", True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.act: Any = lambda: None
        monkeypatch.setattr(module, "import_mlflow", lambda: None)
        monkeypatch.setattr(module, "MlflowStore", lambda root: self)

    def log(self, entry: TrackedRun) -> bool:
        self.act()
        self.names.append(entry.name)
        return True


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def entry(name: str, status: Any = "FINISHED") -> TrackedRun:
    return TrackedRun(key=(name,), name=name, status=status)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


def test_what_is_put_is_logged_in_order_and_the_latest_of_a_key(tmp_path: Path, store: Store) -> None:
    tracker = Tracker(tmp_path)
    for name in ("a", "b", "a"):
        tracker.put(entry(name))
    tracker.start()
    tracker.put(entry("c"))
    tracker.finish()
    assert store.names == ["a", "b", "c"]
    assert tracker.active


def test_a_run_does_not_wait_for_a_store_that_never_answers(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "OWN_PATIENCE_S", 0.3)
    held = threading.Event()
    store.act = lambda: held.wait(FAR_S)
    beats: list[int] = []
    tracker = Tracker(tmp_path)
    tracker.start()
    for name in ("a", "b", "c"):
        tracker.put(entry(name))  # returns, though the store holds the first
    tracker.finish(lambda: beats.append(1))
    assert beats
    assert not tracker.active
    (said,) = warnings(caplog)
    assert "3 runs were not taken within 0 s" in said
    assert "spd-bench sync" in said
    assert str(tmp_path) in said
    held.set()


def test_a_wait_beats_as_long_as_it_takes(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Making a database may take long: the run shows all the while that it gets on, and loses nothing."""
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    enough = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 50:
            enough.set()

    store.act = lambda: enough.wait(FAR_S)
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.put(entry("a"))
    tracker.finish(beat)
    assert len(beats) >= 50
    assert store.names == ["a"]
    assert warnings(caplog) == []


def test_the_import_beats_too(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    imported = threading.Event()
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        if len(beats) == 5:
            imported.set()

    monkeypatch.setattr(module, "import_mlflow", lambda: imported.wait(FAR_S))
    tracker = Tracker(tmp_path)
    tracker.start(beat)
    assert len(beats) >= 5
    tracker.finish()


def test_a_beat_may_end_the_wait(tmp_path: Path, store: Store) -> None:
    held = threading.Event()
    store.act = lambda: held.wait(FAR_S)
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.put(entry("a"))

    def stop() -> None:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        tracker.finish(stop)
    held.set()


def test_a_run_that_was_stopped_waits_briefly(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOPPED_PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "OWN_PATIENCE_S", FAR_S)  # the test's own time limit would end this one
    held = threading.Event()
    store.act = lambda: held.wait(FAR_S)
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.put(entry("a"))
    tracker.finish(in_order=False)
    held.set()


def test_what_failed_is_tried_again_with_the_next(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def refuse() -> None:
        failed.set()
        raise ConnectionError("to //user:secret@host")

    store.act = refuse
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.put(entry("a"))
    assert failed.wait(60)
    store.act = lambda: None
    tracker.put(entry("b"))
    tracker.finish()
    assert store.names == ["a", "b"]
    (said,) = warnings(caplog)
    assert "ConnectionError: to //…@host" in said


def test_without_mlflow_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> None:
        raise ImportError("No module named 'mlflow'")

    monkeypatch.setattr(module, "import_mlflow", absent)
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.put(entry("a"))
    tracker.finish()
    (said,) = warnings(caplog)
    assert "ImportError" in said


def test_a_run_root_that_cannot_be_written_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "import_mlflow", lambda: None)
    (tmp_path / "file").write_text("", encoding="utf-8")
    tracker = Tracker(tmp_path / "file" / "runs")
    tracker.start()
    tracker.put(entry("a"))
    tracker.finish()
    assert len(warnings(caplog)) == 1


@pytest.mark.slow
def test_an_unreachable_server_costs_one_warning_and_a_bounded_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    tracker = Tracker(tmp_path)
    tracker.start()
    for name in ("a", "b"):
        tracker.put(entry(name))
    tracker.finish()
    (said,) = warnings(caplog)
    assert "results are complete in the run folders" in said
    assert "secret" not in said
    assert "secret" not in tracker.store
    with pytest.raises(ResourceError, match="2 runs are not logged, 0 are") as caught:
        sync(tmp_path, [entry("a"), entry("b")])
    assert "secret" not in str(caught.value)


def test_the_wait_for_a_server_and_for_a_stop_is_bounded() -> None:
    assert module.STOPPED_PATIENCE_S <= module.PATIENCE_S <= 10 < module.OWN_PATIENCE_S


def test_sync_logs_the_rest_where_one_entry_is_refused(tmp_path: Path, store: Store) -> None:
    def refuse_b() -> None:
        if store.names == ["a"] and not seen:
            seen.append(1)
            raise ValueError("no such thing")

    seen: list[int] = []
    store.act = refuse_b
    with pytest.raises(ResourceError, match='1 runs are not logged, 2 are; the first is "b": ValueError: no such'):
        sync(tmp_path, map(entry, "abc"))
    assert store.names == ["a", "c"]


def test_sync_gives_up_where_nothing_is_taken(tmp_path: Path, store: Store) -> None:
    calls: list[int] = []

    def refuse() -> None:
        calls.append(1)
        raise ConnectionError("gone")

    store.act = refuse
    with pytest.raises(ResourceError):
        sync(tmp_path, map(entry, "abcdefghij"))
    assert len(calls) == module.REFUSALS


def test_a_queue_of_an_earlier_version_is_said_and_then_removed(
    tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / QUEUE).mkdir()
    for number in range(3):
        (tmp_path / QUEUE / f"00001764523012345678-77-00000{number}.json").write_text("{}", encoding="utf-8")
    tracker = Tracker(tmp_path)
    tracker.start()
    tracker.finish()
    (said,) = warnings(caplog)
    assert "3 calls" in said
    assert "spd-bench sync" in said
    assert (tmp_path / QUEUE).exists()
    assert sync(tmp_path, [entry("a")]).dropped == 3
    assert not (tmp_path / QUEUE).exists()
    assert sync(tmp_path, [entry("a")]).dropped == 0


def test_a_queue_stays_while_something_is_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / QUEUE).mkdir()
    (tmp_path / QUEUE / "00001764523012345678-77-000001.json").write_text("{}", encoding="utf-8")

    def refuse() -> None:
        raise ConnectionError("gone")

    store.act = refuse
    with pytest.raises(ResourceError):
        sync(tmp_path, [entry("a")])
    assert (tmp_path / QUEUE / "00001764523012345678-77-000001.json").exists()


def test_time_is_not_lost_while_a_store_is_slow(tmp_path: Path, store: Store) -> None:
    """A thousand entries are put while the store is held: none of the calls waits for it."""
    held = threading.Event()
    store.act = lambda: held.wait(FAR_S)
    tracker = Tracker(tmp_path)
    tracker.start()
    for number in range(1000):
        tracker.put(entry(str(number)))
    held.set()
    tracker.finish()
    assert len(store.names) == 1000
