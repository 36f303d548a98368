"""What `run`, `plan` and `cache build` are asked for, and what `run` leaves; both cross to a worker process as JSON."""

from dataclasses import dataclass
from pathlib import Path

from spd_bench.suite.axes import Selection
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Suite

EVERYTHING = Selection()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A suite as a command names it, where its runs lie, and what computes them."""

    suite: str
    """Suite file, or the name of a shipped suite."""
    profile: str | None = None
    """Profile laid over the suite; with one, nothing is substituted for what this machine lacks."""
    sets: tuple[str, ...] = ()
    """Values laid over suite and profile, each as `path=value`, in order."""
    data: str | None = None
    """Folder or file of RGB-D data that replaces the suite's data set."""
    root: Path = Path("runs")
    """Folder of all runs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    selection: Selection = EVERYTHING
    """Compositions of the suite that are run beside its base."""

    def load(self, *, step: str | None = None) -> Suite:
        """Reads and checks the suite, or one step of its build order. Raises ConfigError listing every problem."""
        return load_suite(self.suite, profile=self.profile, sets=self.sets, data=self.data, step=step)


@dataclass(frozen=True)
class Finished:
    """What a run leaves."""

    table: str
    """The comparison as printed; "" where this process only helped another one."""
    report: Path
    """The page."""
    tracking: str
    """Where MLflow keeps the run."""
    failed: int
    """Number of failed jobs."""
    comparable: bool = True
    """Whether `compare` can make other tables of it; false for a build order."""
    starved: bool = False
    """Whether every job failed for lack of memory."""
    left: int = 0
    """Jobs that another process leads or works at; that process then writes the report."""
    example: str = ""
    """A command that predicts depth in a test image with the base; "" where the base failed."""
