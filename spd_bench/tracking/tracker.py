"""Writes entries to MLflow beside a run that goes on (`Tracker`), or one after the other (`sync`).

A run waits for MLflow at its start, while MLflow is imported, and for a limited time at its end; never in between. What
MLflow has not taken by then is in the run folders, and `spd-bench sync` logs it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from spd_bench.errors import ResourceError, SpdError
from spd_bench.store.addresses import without_password
from spd_bench.store.removal import own_files, remove_own
from spd_bench.tracking.entry import TrackedRun
from spd_bench.tracking.mlflow_store import MlflowStore, import_mlflow

PATIENCE_S = 10.0
"""Longest wait for a server at the end of a run."""
OWN_PATIENCE_S = 120.0
"""The same for the database below the run root: making it takes 10 s, on a busy machine several times that."""
STOPPED_PATIENCE_S = 5.0
"""The same for a run that ends by an error or because it was asked to stop."""
IMPORT_S = 120.0
"""Longest wait for the import of MLflow."""
BEAT_S = 0.5
QUEUE = "untold"
"""Folder below a run root in which earlier versions queued calls to MLflow."""
CALL = r"[0-9]{20}-[0-9]+-[0-9]{6}\.json"
"""Names of the calls there, as a regular expression."""
REFUSALS = 3
"""Entries in a row that fail before `sync` gives up."""

Beat = Callable[[], None]
"""Called about every BEAT_S while a call waits: it shows that the work gets on, and may raise to end the wait."""

_log = logging.getLogger(__name__)


class Tracker:
    """Logs entries in a thread of its own; no method raises because of MLflow.

    Making one touches neither disk nor network.
    """

    def __init__(self, run_root: Path) -> None:
        self.run_root = run_root
        self._store = MlflowStore(run_root)
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, ...], TrackedRun] = {}
        self._added = False
        self._closing = False
        self._warned = False
        self._thread: threading.Thread | None = None

    @property
    def store(self) -> str:
        """Where runs are tracked, without any password."""
        return self._store.shown

    @property
    def active(self) -> bool:
        """Whether nothing has failed so far."""
        return not self._warned

    def start(self, beat: Beat = lambda: None) -> None:
        """Imports MLflow, beating meanwhile, and starts to log. Until then, and without it, `put` only collects."""
        imported = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(imported,), name="MLflow", daemon=True)
        self._thread.start()
        until = time.monotonic() + IMPORT_S
        # No import runs beside this one: two threads that import packages in circles can fail each other.
        while not imported.wait(BEAT_S) and time.monotonic() < until:
            beat()
        if left := queued(self.run_root):
            _log.warning(
                "%s holds %d calls to MLflow that an earlier version could not make: `spd-bench sync` logs their runs",
                self.run_root / QUEUE,
                left,
            )

    def put(self, entry: TrackedRun) -> None:
        """Has an entry logged soon, in place of one of the same key that still waits."""
        with self._changed:
            self._waiting[entry.key] = entry
            self._added = True
            self._changed.notify()

    def finish(self, beat: Beat = lambda: None, *, in_order: bool = True) -> None:
        """Waits until everything is logged, for a limited time; logs a warning if that is too short.

        in_order: False for a run that ends by an error or was asked to stop: it waits STOPPED_PATIENCE_S at most.
        """
        if self._thread is None:
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        patience_s = OWN_PATIENCE_S if self._store.is_own else PATIENCE_S
        patience_s = patience_s if in_order else min(patience_s, STOPPED_PATIENCE_S)
        until = time.monotonic() + patience_s
        while self._thread.is_alive() and time.monotonic() < until:
            beat()
            self._thread.join(min(BEAT_S, patience_s))
        if self._waiting:
            self._warn(f"{len(self._waiting)} runs were not taken within {patience_s:.0f} s")

    def _work(self, imported: threading.Event) -> None:
        """The thread: logs what waits whenever an entry is added; after a failure, tries again with the next one."""
        try:
            import_mlflow()
        except Exception as error:
            self._warn(_reason(error))
            return
        finally:
            imported.set()
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._added)
                self._added, closing = False, self._closing
            self._log_waiting()

    def _log_waiting(self) -> None:
        while True:
            with self._changed:
                entry = next(iter(self._waiting.values()), None)
            if entry is None:
                return
            try:
                self._store.log(entry)
            except Exception as error:
                self._warn(_reason(error))
                return
            with self._changed:
                if self._waiting.get(entry.key) is entry:
                    del self._waiting[entry.key]

    def _warn(self, reason: str) -> None:
        """Says once that MLflow lacks something."""
        if not self._warned:
            self._warned = True
            _log.warning(
                "MLflow tracking failed: %s. Nothing is lost: results are complete in the run folders below %s, and "
                "`spd-bench sync` logs them once MLflow works.",
                reason,
                self.run_root,
            )


@dataclass(frozen=True)
class Synced:
    """What `sync` did."""

    logged: int
    """Runs that MLflow lacked."""
    known: int
    """Runs that it had."""
    dropped: int
    """Calls of an earlier version's queue, which are removed: their runs are among the two above."""


def sync(run_root: Path, entries: Iterable[TrackedRun]) -> Synced:
    """Logs every entry that MLflow lacks, then removes the queue of an earlier version.

    Raises ResourceError where MLflow cannot be reached or refuses an entry; the others are logged all the same.
    """
    store = MlflowStore(run_root)
    logged = known = in_a_row = 0
    refused: list[tuple[TrackedRun, Exception]] = []
    for entry in entries:
        try:
            if store.log(entry):
                logged += 1
            else:
                known += 1
            in_a_row = 0
        except SpdError:
            raise
        except Exception as error:
            refused.append((entry, error))
            in_a_row += 1
            if in_a_row == REFUSALS:
                break
    if refused:
        entry, first = refused[0]
        raise ResourceError(
            f'{len(refused)} runs are not logged, {logged} are; the first is "{entry.name}": {_reason(first)}',
            where=store.shown,
            hint="once this is mended the same command logs the rest; what MLflow refuses each time stays in the run "
            "folders alone. MLFLOW_TRACKING_URI names another store",
        ) from first
    return Synced(logged, known, _drop_queue(run_root))


def queued(run_root: Path) -> int:
    """How many calls an earlier version has queued."""
    return len(own_files(run_root / QUEUE, [CALL]))


def _drop_queue(run_root: Path) -> int:
    """Removes an earlier version's queue; returns how many calls were in it."""
    return remove_own(run_root / QUEUE, [CALL]).files if queued(run_root) else 0


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {without_password(' '.join(str(error).split()))[:200]}"
