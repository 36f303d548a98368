"""One trial of a sweep: trained as `run` trains, scored on the validation split alone, and timed.

<root>/trained/<composition>-s<seed>-<id>/val-<id>/    as eval-<id>/, of the validation split
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spd_bench.api import Features, PointDepthModel
from spd_bench.cost import timing
from spd_bench.errors import BusyError
from spd_bench.process.locks import training_lock
from spd_bench.process.watch import Watch
from spd_bench.run.outcome import Outcome, Progress
from spd_bench.run.plan import Experiment, Job
from spd_bench.run.runner import VALIDATION_QUERIES, Runner
from spd_bench.score import score
from spd_bench.score.predict import Predictions, predict
from spd_bench.score.predict import load as load_predictions
from spd_bench.score.predict import save as save_predictions
from spd_bench.store import records
from spd_bench.sweep.file import WITH_K

ROUNDS = 9
"""Times that every cost is measured; medians count."""
WAIT_S = 0.5
"""How often one looks whether another process has finished the same training."""

ANY_DEPTHS_M = torch.linspace(1, 9, 9)
"""What a model costs does not depend on the depths that it expects."""

OnValidation = Callable[[int, Predictions], None]


class Pruned(BaseException):
    """The training was given up; no failure of the model, so that it is none of `Exception`."""


class TrialRunner(Runner):
    """Trains one job; none of its own methods reads a test split."""

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        device: torch.device,
        *,
        like: Runner | None,
        watch: Watch,
        tell: OnValidation,
    ) -> None:
        """tell: told of each validation its number within the training and what was predicted."""
        super().__init__(experiment, root, device, like=like, watch=watch)
        self._tell = tell
        self._untold: list[Predictions] = []

    def validated(self, predictions: Predictions) -> None:
        """Keeps what a validation predicted until its checkpoint is written."""
        self._untold.append(predictions)

    def attempt(self, job: Job, work: Callable[[], None]) -> str:
        """Does `work`, which is at a job; why that failed, or "".

        Raises DataError and ResourceError: every other trial would meet them too.
        """
        with self._failures_of(job):
            work()
        return self._failures.get(job.train_id, "")

    def train(self, job: Job, progress: Progress) -> bool:
        """Trains unless that is done, by this or any other process; whether it was."""
        while True:
            try:
                with training_lock(self.folder(job), wait=False):
                    if self._is_trained(job):
                        return True
                    progress.job(job)
                    self._trained(job, _Listening(progress, self._after_step))
                    self._after_step(self.marks[-1])  # where it had only its last validation still to do
                    return False
            except BusyError:
                self._wait(job)

    def test(self, job: Job, progress: Progress) -> Outcome:
        """What `run` does: the test split, scored once for all."""
        while True:
            try:
                return self.run(job, progress)
            except BusyError:
                self._wait(job)

    def _wait(self, job: Job) -> None:
        self.watch.at(f"waiting for {job.name}, which another process does")
        time.sleep(WAIT_S)

    def _after_step(self, step: int) -> None:
        untold, self._untold = self._untold, []
        first = sum(mark <= step for mark in self.marks) - len(untold) + 1
        for number, predictions in enumerate(untold, start=first):
            self._tell(number, predictions)

    @property
    def marks(self) -> tuple[int, ...]:
        """Steps after which the training is validated."""
        return self._optimisation(self.experiment.jobs[0]).validate_at

    def log(self, job: Job) -> dict[str, Any]:
        """The log of a finished training."""
        log: dict[str, Any] = records.read_record(self.folder(job) / "done.json")
        return log

    def validation(self, job: Job, k: int) -> dict[str, float]:
        """Every metric on the validation split at K points, of a job that is trained, by the suite's protocol."""
        rows = [values for _, values in self.log(job)["rows"]]
        if k == VALIDATION_QUERIES and rows:  # the same images and points as a validation during training
            last = {name.removeprefix("val/"): v for name, v in rows[-1].items() if name.startswith("val/")}
            if last:
                return last
        identity = dict(job.eval_identity) | {"split": "val", "k": [k]}
        folder = self.folder(job) / f"val-{records.sha256([job.train_id, identity])[:10]}"
        found = records.found_record(folder / "scores.json")
        if found is None or not records.vouched(folder, found):
            found = self._score_validation(job, k, folder, identity)
        return dict(found["scores"])

    def _score_validation(self, job: Job, k: int, folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
        model = self.model(job, trained=True)
        images = self._images(model, "val", k, self.experiment.suite.eval.k1_draws if k == 1 else 1)
        on_image = self._watched("validating at image", lambda done, total: None)
        predictions, _ = predict(
            model,
            images,
            self._frozen(model),
            device=self.device,
            on_image=lambda done: on_image(done, len(images)),
        )
        attributes = {"identity": job.train_id, "split": "val", "protocol": self.experiment.judge.caption}
        digest = save_predictions(folder / "predictions.h5", predictions, attributes)
        kept = load_predictions(folder / "predictions.h5")
        summary = score.reported(kept, self.experiment.metrics, [k], self.experiment.protocol)
        record = {
            "identity": identity,
            "images": len(kept.frames),
            "scores": {name: value for (name, _), value in summary.items()},
            records.VOUCHED: {"predictions.h5": digest},
        }
        records.write_record(folder / "scores.json", record)
        return record

    def per_image(self, predictions: Predictions, metric: str) -> list[float]:
        """A metric's value on each image of a validation."""
        metrics = [one for one in self.experiment.metrics if one.name == metric]
        values = score.per_image(predictions, metrics, [VALIDATION_QUERIES], self.experiment.protocol)
        return [float(value) for value in values[metric, VALIDATION_QUERIES]]

    def reported(self, predictions: Predictions, metric: str) -> float:
        """A metric's value at a validation."""
        metrics = [one for one in self.experiment.metrics if one.name == metric]
        values = score.reported(predictions, metrics, [VALIDATION_QUERIES], self.experiment.protocol)
        return values[metric, VALIDATION_QUERIES]

    def features(self, model: PointDepthModel) -> Features:
        """Frozen features of one validation image, for timing."""
        return Features(tuple(level[:1] for level in self.probe(model).features.maps_BHWC))  # type: ignore[arg-type]


class _Listening:
    """A progress display, and who is told after each step, when its checkpoint is on disk."""

    def __init__(self, shown: Progress, after: Callable[[int], None]) -> None:
        self.shown = shown
        self.after = after

    def job(self, job: Job) -> None:
        self.shown.job(job)

    def group(self, jobs: Sequence[Job], steps: int) -> None:
        self.shown.group(jobs, steps)

    def training(self, steps: int) -> None:
        self.shown.training(steps)

    def step(self, step: int, loss: float) -> None:
        self.shown.step(step, loss)
        self.after(step)

    def image(self, done: int, total: int) -> None:
        self.shown.image(done, total)


class TrialCosts:
    """Costs of several models on the same features, measured in turns."""

    def __init__(
        self,
        models: Mapping[str, PointDepthModel],
        features: Features,
        ks: Sequence[int],
        device: torch.device,
        *,
        on_call: Callable[[int, int], None],
    ) -> None:
        """on_call: as for `cost.timing.measure`."""
        self.parameters = {who: sum(p.numel() for _, p in model.trainable()) for who, model in models.items()}
        calls: dict[tuple[str, int | None], Callable[[], object]] = {}
        for who, model in models.items():
            on_device = model.to(device).eval()
            on_device.fit_prior(ANY_DEPTHS_M)  # without one, some refuse to decode
            scene = _without_gradient(on_device.prepare, features)()
            calls[who, None] = _without_gradient(on_device.prepare, features)
            for k in ks:
                xy_1K2 = torch.rand(1, k, 2, generator=torch.Generator().manual_seed(0)).to(device)
                calls[who, k] = _without_gradient(on_device.decode, scene, xy_1K2)
        self._timed = timing.measure(calls, rounds=ROUNDS, device=device, on_call=on_call)

    def of(self, who: str, cost: str, k: int | None) -> float:
        """Parameters, or the median milliseconds per image."""
        return float(self.parameters[who]) if cost == "parameters" else 1e3 * self._timing(who, cost, k).spread.median

    def ratio(self, who: str, other: str, cost: str, k: int | None) -> float:
        """How many times as much as the other; times compared round by round."""
        if cost == "parameters":
            return self.parameters[who] / max(1, self.parameters[other])
        return timing.ratio(self._timing(who, cost, k), self._timing(other, cost, k)).median

    def _timing(self, who: str, cost: str, k: int | None) -> timing.Timing:
        if cost == "t_prepare":
            return self._timed[who, None]
        assert cost in WITH_K
        decode = self._timed[who, k]
        return decode if cost == "t_decode" else self._timed[who, None] + decode


def _without_gradient(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            return call(*args)

    return run
