"""The worker's side of supervision: it says where it stands, and is asked to stop.

The work says what it is at (`Watch.at`): in which stage it is, and which jobs are to blame if the process dies now.
That is one small write into a file which outlives the process, and a sign of life. When it is asked to stop, the next
call of `at` raises Stopped; training then leaves a checkpoint of the step that it has just finished.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_bench.errors import Stopped

GAVE_UP = 70
"""Exit code of a process that ended itself; its file says why."""


@dataclass(frozen=True)
class Crumb:
    """Where a process stood when it last said so."""

    beat: int = 0
    """Number of times that it has said where it stands."""
    stage: str = ""
    """Stage of the work, in words that follow "while"."""
    jobs: Mapping[str, str] | None = None
    """Identity of the training → name of each job that is to blame if the process dies."""
    cause: str = ""
    """Why the process ended itself, if it did."""


class Watch:
    """Heartbeat and status of one process; without a path it records nothing.

    Create it before signals are handled, and use it in one thread.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        at_hand: Path | None = None,
        given_up: Mapping[str, str] | None = None,
        outside: Collection[str] = (),
        alone: Collection[str] = (),
        session: str = "",
        joined: bool = False,
        leads: bool = True,
        command: str = "",
    ) -> None:
        """at_hand: a second file for the same, which outlives this process and its supervisor.

        given_up: identity → cause of the trainings that ended the process before this one.

        outside: those of them whose process something outside may have ended. alone: identities of the jobs to be
        tried first, each alone, since they were at hand when a process ended.
        session: the turn at the suite that this process takes part in, while another process holds the suite's lock.
        joined: whether it shares the jobs with other processes. leads: whether it also writes what the suite's table
        is made of. command: the command line that the work is for.
        """
        self.given_up = dict(given_up or {})
        self.outside = frozenset(outside)
        self.alone = frozenset(alone)
        self.session = session
        self.joined = joined
        self.leads = leads
        self.command = command
        self._path = path
        opened = [os.open(each, os.O_RDWR | os.O_CREAT, 0o600) for each in (path, at_hand) if each is not None]
        self._files = [(number, os.fstat(number)) for number in opened]
        self._beat, self._stage, self._width = 0, "", 0
        self._jobs: dict[str, str] = {}
        self._stopping = ""

    def stop(self, reason: str) -> None:
        """Asks the work to stop when it next says where it stands. Safe in a signal handler."""
        self._stopping = reason

    @property
    def stopping(self) -> bool:
        """Whether the work has been asked to stop."""
        return bool(self._stopping)

    def at(self, stage: str) -> None:
        """Records a stage of the work, in words that follow "while". Raises Stopped if the work was asked to stop."""
        self._stage = stage
        self._write()
        self.check()

    def check(self) -> None:
        """Raises Stopped if the work has been asked to stop."""
        if self._stopping:
            raise Stopped(self._stopping)

    @contextlib.contextmanager
    def blaming(self, jobs: Mapping[str, str]) -> Iterator[None]:
        """If the process dies inside this block, these jobs (identity → name) are blamed."""
        before, self._jobs = self._jobs, dict(jobs)
        try:
            self._write()
            yield
        finally:
            self._require_descriptors()
            self._jobs = before
            self._write()

    def ran_out_of_memory(self, cause: str, jobs: Mapping[str, str] | None = None) -> None:
        """Ends a worker process, whose memory may not be whole any more; returns in any other process.

        cause: what was raised, for the supervisor. jobs: those to blame; by default those at hand.
        """
        if self._path is not None:
            self._end(cause, self._jobs if jobs is None else jobs)

    def _write(self) -> None:
        if not self._files:
            return
        self._require_descriptors()
        self._beat += 1
        text = json.dumps([self._beat, self._stage, self._jobs]).encode()
        self._width = max(self._width, len(text))
        for number, _ in self._files:
            os.pwrite(number, text.ljust(self._width), 0)

    def _require_descriptors(self) -> None:
        """Ends the process if a file is closed or another one has its descriptor: other files have lost theirs."""
        for number, own in self._files:
            try:
                same = os.path.samestat(os.fstat(number), own)
            except OSError:
                same = False
            if not same:
                self._end("the files of the process were closed", self._jobs)

    def _end(self, cause: str, jobs: Mapping[str, str]) -> None:
        assert self._path is not None
        text = json.dumps([self._beat + 1, self._stage, dict(jobs), cause]).encode()
        self._path.write_bytes(text.ljust(self._width))
        os._exit(GAVE_UP)


watching: list[Watch] = []
"""The Watch of this process, if it is a worker."""


def read_crumb(path: Path) -> Crumb | None:
    """Where a process last stood; None before its first word, and while it is writing."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return Crumb(*content)
