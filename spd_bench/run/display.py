"""Progress on stderr: a bar where it is a terminal, one line per finished job everywhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spd_bench.run.outcome import Outcome
from spd_bench.run.plan import Job


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for one thing that is counted; gives what to call with (done, total)."""
    with _bar(Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Display:
    """Progress of a suite."""

    def __init__(self, console: Console, jobs: int) -> None:
        self.console = console
        self.jobs = jobs
        self.finished = 0
        self.label = ""
        self.started = time.monotonic()
        self.bar = _bar(console)
        self.task: TaskID = self.bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        """Starts the bar."""
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the bar."""
        self.bar.stop()

    def job(self, job: Job) -> None:
        """A job starts."""
        self.label = job.name

    def group(self, jobs: Sequence[Job], steps: int) -> None:
        """Several jobs start to train side by side."""
        self.label = f"{len(jobs)} models side by side, seed {jobs[0].seed}"
        self.bar.reset(self.task, total=steps, description=f"{self.label}: training")

    def training(self, steps: int) -> None:
        """Its training starts, or goes on."""
        self.bar.reset(self.task, total=steps or None, description=f"{self.label}: training")

    def step(self, step: int, loss: float) -> None:
        """A training step is done."""
        self.bar.update(self.task, completed=step, description=f"{self.label}: training, loss {loss:.3f}")

    def image(self, done: int, total: int) -> None:
        """A test image is predicted."""
        self.bar.update(self.task, completed=done, total=total, description=f"{self.label}: scoring")

    def frame(self, done: int, total: int) -> None:
        """A frame has been checked."""
        self.bar.update(self.task, completed=done, total=total, description="checking frames")

    def view(self, done: int, total: int) -> None:
        """A view has been encoded."""
        self.bar.update(self.task, completed=done, total=total, description="encoding views")

    def done(self, outcome: Outcome, primary: Any) -> None:
        """One line about a finished job."""
        self.finished += 1
        if outcome.failure:
            what = f"FAILED: {outcome.failure}"
        else:
            assert outcome.scores is not None
            value = outcome.scores["scores"][f"{primary.metric}@{primary.k}"]
            what = f"{primary.metric}@{primary.k} {value:.4f}" + (" (done before)" if outcome.reused else "")
        clock = time.monotonic() - self.started
        self.console.print(
            f"[{self.finished}/{self.jobs}] {outcome.job.name}: {what}  ({clock:.0f} s)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
