"""The worker's side of supervision: it says where it stands, and is asked to stop.

The work says what it is at (`Watch.at`): in which stage it is, and which jobs are to blame if the process dies now.
That is one small write into a file which outlives the process, and a sign of life. When it is asked to stop, the next
call of `at` raises Stopped; training then leaves a checkpoint of the step that it has just finished.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_bench.errors import Stopped


@dataclass(frozen=True)
class Crumb:
    """Where a process stood when it last said so."""

    beat: int = 0
    """Number of times that it has said where it stands."""
    stage: str = ""
    """Stage of the work, in words that follow "while"."""
    jobs: Mapping[str, str] | None = None
    """Identity of the training → name of each job that is to blame if the process dies."""


class Watch:
    """Heartbeat and status of one process; without a path it records nothing.

    Create it before signals are handled, and use it in one thread.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        given_up: Mapping[str, str] | None = None,
        session: str = "",
        joined: bool = False,
        leads: bool = True,
        command: str = "",
    ) -> None:
        """given_up: identity → cause of the trainings that ended the process before this one.

        session: the turn at the suite that this process takes part in, while another process holds the suite's lock.
        joined: whether it shares the jobs with other processes. leads: whether it also writes what the suite's table
        is made of. command: the command line that the work is for.
        """
        self.given_up = dict(given_up or {})
        self.session = session
        self.joined = joined
        self.leads = leads
        self.command = command
        self._file = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
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
            self._jobs = before
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        self._beat += 1
        text = json.dumps([self._beat, self._stage, self._jobs]).encode()
        self._width = max(self._width, len(text))
        os.pwrite(self._file, text.ljust(self._width), 0)


def read_crumb(path: Path) -> Crumb | None:
    """Where a process last stood; None before its first word, and while it is writing."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    beat, stage, jobs = content
    return Crumb(beat, stage, jobs)
