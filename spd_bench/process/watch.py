"""What a supervisor sees of the work in another process, and how it asks it to stop.

The work says what it is at (`Watch.at`): which jobs would be at fault if the process ended now, in which stage, and
by saying so that it gets on. That is one small write into a file which outlives the process. Asked to stop, it stops
the next time it says so; training then leaves a checkpoint of the step that it has just finished.
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
    """Where the work stood last. jobs: identity of the training → name of each job at hand. beat: grows."""

    beat: int = 0
    stage: str = ""
    jobs: Mapping[str, str] | None = None


class Watch:
    """Where one process stands; without a path nobody looks. Made before signals are handled, used in one thread.

    given_up: trainings that ended the process before, with the cause. session: whose turn at the suite this is, where
    another process holds the suite's lock for it. joined: whether it shares the jobs with other processes.
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
        """leads: whether it also writes what the suite's table is made of; a process that only helps does not."""
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
        """Asks the work to stop when it next says where it is. Safe in a signal handler."""
        self._stopping = reason

    @property
    def stopping(self) -> bool:
        """Whether the work has been asked to stop."""
        return bool(self._stopping)

    def at(self, stage: str) -> None:
        """The work gets to a stage, in words that follow "while". Raises Stopped if it has been asked to stop."""
        self._stage = stage
        self._write()
        self.check()

    def check(self) -> None:
        """Raises Stopped if the work has been asked to stop."""
        if self._stopping:
            raise Stopped(self._stopping)

    @contextlib.contextmanager
    def on(self, jobs: Mapping[str, str]) -> Iterator[None]:
        """Within, these jobs are at fault for whatever ends the process."""
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
    """Where the work stood last; None where it has not said so yet, or is saying so at this moment."""
    try:
        content: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    beat, stage, jobs = content
    return Crumb(beat, stage, jobs)
