"""Which job a suite's worker has at hand, on disk below the run root before the job starts.

A component may kill the supervisor itself. The file then stays, and the next start of the suite reads it: a job that
was at hand, at the same stage, each of the last `TIMES` times is given up. Training goes on between two ordinary
kills, so that their stages differ.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from spd_bench.errors import StateError
from spd_bench.process.verdict import Verdict
from spd_bench.process.watch import read_crumb
from spd_bench.store import files, records

TIMES = 3
"""Starts of a suite in a row that end with the same job at the same stage before the job is given up."""


class AtHand:
    """The file of the process that leads a suite, and how often it was found. Only for who holds the suite's lock."""

    def __init__(self, root: Path, suite: str) -> None:
        self.root = root
        self.path = root / f".{suite}.at-hand"
        self._tally = root / f".{suite}.at-hand.json"

    def begin(self, verdict: Verdict, tell: Callable[[str], None]) -> None:
        """Gives up in `verdict` what has ended the starts before, and clears the file for this one."""
        left = read_crumb(self.path)
        files.remove(self.path)
        if left is None or not left.jobs:
            files.remove(self._tally)
            return
        found = {"jobs": dict(left.jobs), "stage": left.stage}
        times = self._times(found) + 1
        records.write_record(self._tally, found | {"times": times})
        if times >= TIMES:
            cause = f"the watching process was killed {times} times while {left.stage}"
            verdict.given_up |= dict.fromkeys(left.jobs, cause)
            tell(f"{', '.join(left.jobs.values())}: {cause}; going on with the others")

    def end(self) -> None:
        """Removes the files: this start ends in good order."""
        files.remove(self.path)
        files.remove(self._tally)

    def _times(self, found: Mapping[str, object]) -> int:
        try:
            before = records.read_record(self._tally)
        except StateError:
            return 0
        same = {key: before.get(key) for key in found} == found
        return int(before["times"]) if same else 0
