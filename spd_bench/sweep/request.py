"""What `sweep run` is asked for, and what it leaves; both cross to its worker process as JSON."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """A sweep as a command names it, where its trials lie, and what computes them."""

    sweep: str
    """Sweep file, or the name of a shipped sweep."""
    profile: str | None = None
    """Profile of the sweep's suite; with one, nothing is substituted for what this machine lacks."""
    sets: tuple[str, ...] = ()
    """Values laid over the suite, each as `path=value`, in order."""
    data: str | None = None
    """Folder or file of RGB-D data that replaces the suite's data set."""
    root: Path = Path("runs")
    """Folder of all runs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    storage: str | None = None
    """Database of the trials; None: a SQLite file below `root`."""
    trials: int | None = None
    """Trials of all workers together; None: as the file says."""
    timeout: float | None = None
    """Seconds after which no further trial begins; None: as the file says."""
    began: float | None = None
    """Start of the timeout, by `time.monotonic`; None: when the work begins."""


@dataclass(frozen=True, kw_only=True)
class SweepEnd:
    """What a sweep leaves when one of its workers ends."""

    table: str
    """The best trials or the front, as printed."""
    study: str
    """Name of the study."""
    database: str
    """Where the study lies, without a password."""
    report: Path
    """The page."""
    tracking: str
    """Where MLflow keeps the sweep."""
    finished: bool
    """Whether every trial has ended."""
    failed: bool
    """Whether every trial has ended and none is complete."""
