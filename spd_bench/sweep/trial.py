"""One trial of a sweep: trained as `run` trains, and scored on the validation split alone."""

import time
from collections.abc import Callable

from spd_bench.api import Features, PointDepthModel
from spd_bench.errors import BusyError
from spd_bench.process.locks import training_lock
from spd_bench.run.folder import SplitEvaluation
from spd_bench.run.inputs import VALIDATION_QUERIES
from spd_bench.run.outcome import Outcome
from spd_bench.run.runner import Runner
from spd_bench.train.callback import Callback

WAIT_S = 0.5
"""Seconds between two looks whether another process has finished the same training."""


class Trial:
    """The only job of a runner's experiment; no method but `test` reads a test split."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        (self.job,) = runner.experiment.jobs
        self.folder = runner.folder(self.job)

    @property
    def marks(self) -> tuple[int, ...]:
        """Steps after which the training is validated."""
        return self.runner.inputs.optimisation(self.job).validate_at

    def attempt(self, work: Callable[[], None]) -> str:
        """Calls `work`; returns why the job failed in it, or "".

        Raises DataError and ResourceError, which every other trial would meet too.
        """
        with self.runner.failures.caught(self.folder):
            work()
        return self.runner.failures.cause(self.folder)

    def train(self, callback: Callback) -> bool:
        """Trains unless that is done, by this or any other process; returns whether it was done before."""
        while True:
            try:
                with training_lock(self.folder.path, wait=False):
                    if self.folder.is_trained:
                        return True
                    callback.on_job(self.job.name)
                    self.runner.train(self.job, callback)
                    return False
            except BusyError:
                self._wait()

    def test(self, callback: Callback) -> Outcome:
        """The outcome of the job on the test split, as `run` computes it."""
        while True:
            try:
                return self.runner.run(self.job, callback)
            except BusyError:
                self._wait()

    def _wait(self) -> None:
        self.runner.watch.at(f"waiting for {self.job.name}, which another process does")
        time.sleep(WAIT_S)

    def validation(self, k: int) -> dict[str, float]:
        """Every metric of the trained model on the validation split at K points, by the suite's protocol."""
        rows = [values for _, values in self.folder.log()["rows"]]
        if k == VALIDATION_QUERIES and rows:  # the same images and points as a validation during training
            last = {name.removeprefix("val/"): v for name, v in rows[-1].items() if name.startswith("val/")}
            if last:
                return last
        evaluation = SplitEvaluation.validation(self.job, k)
        return self._scores(evaluation) or self._evaluated(evaluation)

    def _evaluated(self, evaluation: SplitEvaluation) -> dict[str, float]:
        self.runner.evaluate_split(evaluation, self.runner.model(self.job, trained=True), Callback())
        return self._scores(evaluation)

    def _scores(self, evaluation: SplitEvaluation) -> dict[str, float]:
        """Metric → value of a finished evaluation at its only K; empty if it is to be done."""
        record, (k,) = self.folder.scores(evaluation), evaluation.ks
        cells = [(*cell.rpartition("@"), value) for cell, value in record["scores"].items()] if record else []
        return {name: value for name, _, at, value in cells if at == str(k)}  # earlier versions wrote no K

    def features(self, model: PointDepthModel) -> Features:
        """Frozen features of one validation image, for timing."""
        probe = self.runner.inputs.probe(model)
        return Features(tuple(level[:1] for level in probe.features.maps_BHWC))  # type: ignore[arg-type]
