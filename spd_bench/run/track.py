"""The runs of a suite in MLflow, logged beside its jobs: the same entries that `spd-bench sync` makes of its record."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spd_bench.errors import Stopped
from spd_bench.process.watch import Watch
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED
from spd_bench.store.run_root import SuiteRecord
from spd_bench.tracking.entry import Status, TrackedRun
from spd_bench.tracking.folders import row_entry, suite_entry
from spd_bench.tracking.tracker import Tracker


class SuiteTracking:
    """Logs a suite and each row of it that has ended."""

    def __init__(self, tracker: Tracker, root: Path) -> None:
        self._tracker = tracker
        self._root = root
        self._stored: SuiteRecord | None = None
        self._parent: TrackedRun | None = None
        self._rows: set[tuple[str, ...]] = set()

    def note(self, stored: SuiteRecord) -> None:
        """Logs the suite, and the rows that have ended since the last call."""
        if self._parent is None:
            self._stored, self._parent = stored, suite_entry(self._root, stored, "RUNNING", store=self._tracker.store)
            self._tracker.put(self._parent)
        for row in stored["rows"]:
            place = (row["composition"], row["folder"], row["evaluation"])
            if row["failure"] == UNFINISHED or place in self._rows:
                continue
            self._rows.add(place)
            try:
                entry = row_entry(self._root, self._parent, row)
            except records.Unsound:  # the report says so
                continue
            self._tracker.put(entry)

    def close(self, status: Status) -> None:
        """Ends the suite's run, with its reports."""
        if self._stored is not None:
            self._tracker.put(suite_entry(self._root, self._stored, status, store=self._tracker.store))


@contextmanager
def logging_beside(tracker: Tracker, watch: Watch) -> Iterator[None]:
    """Starts a tracker, and at the end waits for it: briefly where an error passes through. The wait is no stall."""

    def beat() -> None:
        watch.at("recording in MLflow")

    def beat_to_the_end() -> None:
        with suppress(Stopped):
            beat()

    tracker.start(beat)
    ended = False
    try:
        yield
        ended = True
    finally:
        tracker.finish(beat if ended else beat_to_the_end, in_order=ended)


@contextmanager
def tracked(tracker: Tracker, root: Path, watch: Watch) -> Iterator[SuiteTracking]:
    """A suite's tracking, which ends as FINISHED or, where an error passes through, as KILLED."""
    with logging_beside(tracker, watch):
        tracking = SuiteTracking(tracker, root)
        status: Status = "KILLED"
        try:
            yield tracking
            status = "FINISHED"
        finally:
            tracking.close(status)
