"""Who is to blame for the end of a worker process, and what the next one is to do.

What may have come from outside (the memory killer, a busy machine) is first laid to no job: the jobs at hand are tried
once more, each alone, by a new process. A job that ends its process again, or by an error of its own, is given up.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from spd_bench.errors import ResourceError
from spd_bench.process.watch import Crumb

OWN_ERRORS = ("SIGSEGV", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
"""Signals that a process brings upon itself."""


@dataclass(frozen=True)
class End:
    """How a worker process ended before its work was done."""

    how: str
    """In words that follow "the worker"."""
    outside: bool
    """Whether something outside of the work may have ended it."""


@dataclass
class Verdict:
    """What the processes before have shown; the next process's `Watch` gets it."""

    given_up: dict[str, str] = field(default_factory=dict)
    """Identity of each job that is not tried again → cause."""
    outside: set[str] = field(default_factory=set)
    """Those of them whose process something outside may have ended, twice."""
    alone: set[str] = field(default_factory=set)
    """Jobs that are tried once more, each alone."""
    _stages: set[str] = field(default_factory=set)
    """Stages in which a process ended without a job at hand."""

    def watch(self) -> Mapping[str, object]:
        """Arguments of the next process's Watch."""
        return {"given_up": self.given_up, "outside": sorted(self.outside), "alone": sorted(self.alone)}

    def after(self, crumb: Crumb, end: End, frame: str = "") -> str:
        """Takes in the end of a process that last stood at `crumb`; returns a line for the user.

        frame: where it stood in Python, or "". Raises ResourceError where no job is at hand and it was the second time.
        """
        jobs = {key: name for key, name in (crumb.jobs or {}).items() if key not in self.given_up}
        at = f"while {crumb.stage or 'starting'}"
        cause = f"{crumb.cause}, {at}" if crumb.cause else f"worker {end.how} {at}"
        if not jobs:
            stage = re.sub(r"\d+", "", crumb.stage)
            if not end.outside or stage in self._stages:
                raise ResourceError(
                    cause if crumb.cause else f"the {cause}",
                    hint="the same command goes on; see whether memory suffices and plugins work "
                    "(`spd-bench list --check`)",
                )
            self._stages.add(stage)
            return f"{cause}; trying once more in a new process"
        names = ", ".join(jobs.values())
        first = not set(jobs) <= self.alone
        if first and (end.outside or len(jobs) > 1):
            self.alone |= set(jobs)
            return f"{names}: {cause}; trying {_once_more(jobs)}"
        self.given_up |= dict.fromkeys(jobs, cause + frame)
        if end.outside:
            self.outside |= set(jobs)
        return f"{names}: {cause}; going on with the others"


def _once_more(jobs: Collection[str]) -> str:
    return "each once more, alone" if len(jobs) > 1 else "once more, alone, in a new process"
