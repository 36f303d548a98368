"""Progress on stderr: a bar where it is a terminal, one line per finished job everywhere."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from spd_bench.errors import printable
from spd_bench.train.callback import Callback

EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal for a bar."""


class _Clean(logging.Formatter):
    """One line per record, without codes of a terminal; a library's comes with its name and without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The message."""
        own = record.name.partition(".")[0] in ("spd_bench", "spd_components", "spd_baselines", "spd_rooms")
        said = printable(" ".join(record.getMessage().split()))
        return said if own else f"{record.name}: {said}"


class CleanConsole(Console):
    """A console on stderr that prints every text without codes of a terminal that it may hold."""

    def say(self, text: str) -> None:
        """Prints the text as it is but for unprintable characters, and wraps nothing."""
        self.print(printable(text, keep="\n"), highlight=False, markup=False, soft_wrap=True)


def stderr_console() -> CleanConsole:
    """A console on stderr, which shows progress and, from here on, warnings of Python and of the `logging` module."""
    console = CleanConsole(stderr=True)
    handler = RichHandler(console=console, show_path=False, rich_tracebacks=False)
    handler.setFormatter(_Clean())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    return console


@contextmanager
def planning(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Shows how many compositions are checked: a bar on a terminal, elsewhere a line every `EVERY_S` seconds."""
    shown = time.monotonic()
    with _bar(console) as bar:
        task = bar.add_task("checking compositions", total=None)

        def on_checked(done: int, total: int) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - shown > EVERY_S:
                shown = time.monotonic()
                console.print(f"checked {done} of {total} compositions", highlight=False, markup=False, soft_wrap=True)

        yield on_checked


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
    """Shows a bar for items that are counted; yields a function of (done, total) that moves it."""
    with _bar(Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Display(Callback):
    """A bar where the console is a terminal, and one line per finished job everywhere; use as a context."""

    def __init__(self, console: CleanConsole, jobs: int = 0) -> None:
        """jobs: number of jobs, for their lines."""
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

    def on_message(self, text: str) -> None:
        """Prints the text, without codes of a terminal that it may hold."""
        self.console.say(text)

    def on_frame(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=done, total=total, description="checking frames")

    def on_view(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=done, total=total, description="encoding views")

    def on_job(self, name: str) -> None:
        """Starts the bar anew under the job's name."""
        self.label = name
        self.bar.reset(self.task, total=None, description=name)

    def on_training(self, step: int, steps: int) -> None:
        """Starts the bar anew."""
        self.bar.reset(self.task, total=steps, completed=step, description=f"{self.label}: training")

    def on_step(self, step: int, loss: float) -> None:
        """Moves the bar and shows the loss."""
        self.bar.update(self.task, completed=step, description=f"{self.label}: training, loss {loss:.3f}")

    def on_image(self, done: int, total: int) -> None:
        """Moves the bar."""
        self.bar.update(self.task, completed=done, total=total, description=f"{self.label}: scoring")

    def on_job_end(self, name: str, result: str) -> None:
        """Prints a line."""
        self.finished += 1
        seconds = time.monotonic() - self.started
        line = printable(" ".join(result.split()))
        self.on_message(f"[{self.finished}/{self.jobs}] {name}: {line}  ({seconds:.0f} s)")
