"""What is done: one folder per training, named by its identity, and which of its files vouch for which.

<root>/
    trained/<composition>-s<seed>-<id>/
        run.json            identity, parameters, stand-ins: what was trained
        checkpoint.pt       weights (and, until the end, the optimiser's state)
        done.json           the training log; vouches for the checkpoint and says that training is finished
        failed.json         why the run failed, for other processes of the same session
        eval-<id>/
            predictions.h5  every scored point: the record
            scores.json     the numbers; vouches for the predictions and says that the evaluation is finished
        val-<id>/           the same for the validation split, by a sweep
    checked/<id>.json       data whose every frame has been read once
    features/<key>/         frozen features, with `data.cache: disk`
    suites/<suite>.json     the latest run of each suite: which folders its table is made of
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spd_bench.run.outcome import Outcome
from spd_bench.run.planning.job import Job
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED
from spd_bench.store.run_root import RUN, SCORES, TRAINED, TRAININGS, RunRecord, ScoresRecord, TrainedRecord
from spd_bench.suite import axes
from spd_bench.train.log import TrainingLog

CHECKPOINT, PREDICTIONS = "checkpoint.pt", "predictions.h5"
"""Files in a run's folder and in an evaluation's folder for which a record vouches."""
TEST, VALIDATION = "test", "val"
FOLDERS = {TEST: "eval", VALIDATION: "val"}
"""Split → first word of the folder of an evaluation on it."""


@dataclass(frozen=True, kw_only=True)
class SplitEvaluation:
    """One scoring of a job's trained model."""

    job: Job
    """The job."""
    split: str
    """test or val."""
    ks: tuple[int, ...]
    """Numbers of query points per image."""
    k1_draws: int
    """Draws of points that K = 1 is the mean of."""
    identity: Mapping[str, Any]
    """Everything that its numbers depend on beside the training."""

    @classmethod
    def test(cls, job: Job) -> "SplitEvaluation":
        """The evaluation of a job on the test split, as its suite asks for."""
        identity = job.eval_identity
        return cls(job=job, split=TEST, ks=tuple(identity["k"]), k1_draws=identity["k1_draws"], identity=identity)

    @classmethod
    def validation(cls, job: Job, k: int) -> "SplitEvaluation":
        """An evaluation of a job on the validation split at K points, by its suite's protocol."""
        identity = dict(job.eval_identity) | {"split": VALIDATION, "k": [k]}
        draws = identity["k1_draws"] if k == 1 else 1
        return cls(job=job, split=VALIDATION, ks=(k,), k1_draws=draws, identity=identity)

    @cached_property
    def id(self) -> str:
        """SHA-256 of the training's and the evaluation's identity."""
        return records.sha256([self.job.train_id, self.identity])

    @property
    def name(self) -> str:
        """Name of its folder inside the run's folder."""
        return f"{FOLDERS[self.split]}-{self.id[:10]}"


class RunFolder:
    """The folder of one job: what it holds, and what is therefore left to do."""

    def __init__(self, root: Path, job: Job) -> None:
        self.root = root
        self.job = job

    @property
    def path(self) -> Path:
        """The folder of this identity, under whatever name it was made; else the one that is to be made."""
        trained = self.root / TRAININGS
        short = self.job.train_id[:10]
        known = sorted(trained.glob(f"*-{short}"))
        return known[0] if known else trained / f"{self.job.composition.name[:40]}-s{self.job.seed}-{short}"

    @property
    def checkpoint(self) -> Path:
        """The file of weights."""
        return self.path / CHECKPOINT

    @property
    def is_trained(self) -> bool:
        """Whether the training is finished."""
        return records.find(self.path / TRAINED, TrainedRecord) is not None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_trained and self.scores(SplitEvaluation.test(self.job)) is not None

    @property
    def state(self) -> str:
        """What is left: "done", "to score" (it trains nothing), "to evaluate", "to resume" or "to train"."""
        if self.is_done:
            return "done"
        if not self.job.failure and not axes.trains(self.job.composition):
            return "to score"
        if self.is_trained:
            return "to evaluate"
        return "to resume" if self.checkpoint.exists() else "to train"

    def scores(self, evaluation: SplitEvaluation) -> ScoresRecord | None:
        """The record of a finished evaluation; None if it is missing or its predictions are not as written."""
        folder = self.path / evaluation.name
        record = records.find(folder / SCORES, ScoresRecord)
        return record if record is not None and records.vouched(folder, record) else None

    def log(self) -> TrainedRecord:
        """The log of the finished training. Raises StateError if it is missing or damaged."""
        return records.read(self.path / TRAINED, TrainedRecord)

    def outcome(self, *, reused: bool) -> Outcome:
        """The numbers of a job that is done; reused: whether it was done before."""
        path = self.path
        scores = records.read(path / SplitEvaluation.test(self.job).name / SCORES, ScoresRecord)
        return Outcome(self.job, path, scores, self.log(), reused=reused)

    def found(self) -> Outcome:
        """The outcome as the folder has it; a job that is still to be done has UNFINISHED as its failure."""
        return self.outcome(reused=True) if self.is_done else self.failed(UNFINISHED)

    def failed(self, cause: str) -> Outcome:
        """The outcome of a job that failed."""
        return Outcome(self.job, self.path, None, None, failure=cause)

    def digest(self) -> str | None:
        """The SHA-256 that the checkpoint of the finished training must have."""
        return self.log().get("files", {}).get(CHECKPOINT)

    def has_record(self) -> bool:
        """Whether run.json, which says what was trained, is there and sound."""
        return records.find(self.path / RUN, RunRecord) is not None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Writes run.json."""
        records.write_record(self.path / RUN, record)

    def write_log(self, log: TrainingLog, *, digest: str) -> None:
        """Writes done.json: from here on the training is finished; digest: SHA-256 of its checkpoint."""
        records.write_record(self.path / TRAINED, asdict(log) | {records.VOUCHED: {CHECKPOINT: digest}})

    def write_scores(self, evaluation: SplitEvaluation, record: Mapping[str, Any], *, digest: str) -> None:
        """Writes scores.json: from here on the evaluation is finished; digest: SHA-256 of its predictions."""
        vouching = dict(record) | {records.VOUCHED: {PREDICTIONS: digest}}
        records.write_record(self.path / evaluation.name / SCORES, vouching)
