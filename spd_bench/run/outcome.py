"""How one job ended, and the hooks that follow its progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from spd_bench.run.plan import Job


class Progress(Protocol):
    """What a display is told about a run."""

    def job(self, job: Job) -> None:
        """A job starts."""

    def group(self, jobs: Sequence[Job], steps: int) -> None:
        """Several jobs start to train side by side."""

    def training(self, steps: int) -> None:
        """Its training starts, or goes on."""

    def step(self, step: int, loss: float) -> None:
        """A training step is done."""

    def image(self, done: int, total: int) -> None:
        """A test image is predicted."""


@dataclass(frozen=True)
class Outcome:
    """What one job came to: its folder and numbers, or why it failed."""

    job: Job
    folder: Path
    scores: Mapping[str, Any] | None
    log: Mapping[str, Any] | None
    failure: str = ""
    reused: bool = False
