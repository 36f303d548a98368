"""How one job ended."""

from dataclasses import dataclass
from pathlib import Path

from spd_bench.run.planning.job import Job
from spd_bench.store.run_root import ScoresRecord, TrainedRecord
from spd_bench.suite.schema import Primary


@dataclass(frozen=True)
class Outcome:
    """The numbers of one job, or why it failed."""

    job: Job
    """The job."""
    folder: Path
    """Its folder, which a job that could not be planned does not have."""
    scores: ScoresRecord | None
    """The record of its evaluation on the test split; None if it failed."""
    log: TrainedRecord | None
    """The record of its training; None if it failed."""
    failure: str = ""
    """Why it failed; "" if it did not."""
    reused: bool = False
    """Whether it was done before."""

    def result(self, primary: Primary) -> str:
        """The primary number or the failure, in words."""
        if self.scores is None:
            return f"FAILED: {self.failure}"
        value = self.scores["scores"][f"{primary.metric}@{primary.k}"]
        return f"{primary.metric}@{primary.k} {value:.4f}" + (" (done before)" if self.reused else "")
