"""Trains, finishes and evaluates jobs; what `folder` says is done is skipped, what was interrupted continues."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from spd_bench.api import PointDepthModel
from spd_bench.cost.meter import Meter
from spd_bench.errors import BusyError
from spd_bench.model.compose import ComposedModel
from spd_bench.model.diagnose import diagnose, label
from spd_bench.process.locks import training_lock
from spd_bench.process.watch import Watch
from spd_bench.run.failures import Failures
from spd_bench.run.folder import PREDICTIONS, TEST, VALIDATION, RunFolder, SplitEvaluation
from spd_bench.run.heartbeat import Heartbeat
from spd_bench.run.inputs import VALIDATION_QUERIES, Inputs
from spd_bench.run.outcome import Outcome
from spd_bench.run.planning.identity import local_options
from spd_bench.run.planning.job import Job
from spd_bench.run.planning.plan import Experiment
from spd_bench.run.planning.quarantine import undisturbed
from spd_bench.run.provenance import device_label
from spd_bench.score import score
from spd_bench.score.predict import load as load_predictions
from spd_bench.score.predict import predict
from spd_bench.score.predict import save as save_predictions
from spd_bench.train import checkpoint as checkpoints
from spd_bench.train import loop
from spd_bench.train.callback import Callback, Callbacks
from spd_bench.train.log import TrainingLog
from spd_bench.train.training import Training


class Runner:
    """Trains and evaluates the jobs of an experiment below a root folder."""

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        device: torch.device,
        *,
        like: "Runner | None" = None,
        watch: Watch | None = None,
    ) -> None:
        """like: a runner whose images and features are reused if they are of the same data. watch: that of a worker."""
        self.experiment = experiment
        self.root = root
        self.device = device
        self.watch = watch or Watch()
        self.inputs: Inputs = Inputs(experiment, root, device, like=None if like is None else like.inputs)
        self.failures = Failures(self.watch)

    def folder(self, job: Job) -> RunFolder:
        """The folder of a job."""
        return RunFolder(self.root, job)

    def check_data(self, callback: Callback) -> None:
        """`Inputs.check_data`, with heartbeats."""
        self.inputs.check_data(self._heard(callback))

    def build_features(self, callback: Callback) -> None:
        """`Inputs.build_features`, with heartbeats."""
        self.inputs.build_features(self._heard(callback))

    def run(self, job: Job, callback: Callback) -> Outcome:
        """Trains and evaluates a job unless that is done; a failure is an outcome, not an exception.

        Raises BusyError if another process works at this training.
        """
        folder = self.folder(job)
        if job.failure:
            return folder.failed(job.failure)
        with training_lock(folder.path, wait=False):
            if folder.is_done:
                self._require_record(job)
                return folder.outcome(reused=True)
            if not self.failures.cause(folder):
                callback.on_job(job.name)
                with self.watch.blaming({job.train_id: job.name}), self.failures.caught(folder):
                    model = self.train(job, callback)
                    self.evaluate_split(SplitEvaluation.test(job), model, callback)
                    return folder.outcome(reused=False)
            self.failures.share(folder)
            return folder.failed(self.failures.cause(folder))

    def model(self, job: Job, *, trained: bool) -> PointDepthModel:
        """The model of a job, with its initial weights or those of its finished training."""
        model = self.experiment.model(job.composition, job.seed).to(self.device)
        if trained:
            folder = self.folder(job)
            checkpoints.load_weights(folder.checkpoint, model, digest=folder.digest())
        return model

    def _heard(self, *callbacks: Callback) -> Callback:
        """The callbacks, and after them the heartbeat, which may end the work."""
        return Callbacks(*callbacks, Heartbeat(self.watch))

    # ------------------------------------------------------------------------------------------------- training

    def train_in_step(self, jobs: Sequence[Job], callback: Callback) -> None:
        """Trains the jobs that are not trained yet side by side, one group per seed, encoder and kind of batch.

        A batch is then encoded once for the whole group. That pays where features do not recur, so that they cannot
        be kept; where they are kept, each model may as well train alone. A model that fails is left out, and `run`
        returns its failure.
        """
        if not self.experiment.suite.data.augment.always_new:
            return
        groups: dict[tuple[Any, ...], dict[Training, Job]] = {}
        with ExitStack() as locks:
            for job in jobs:
                folder = self.folder(job)
                begun = {other.train_id for group in groups.values() for other in group.values()}
                settled = job.failure or folder.is_trained or self.failures.cause(folder)
                if settled or job.train_id in self.watch.alone or job.train_id in begun:
                    continue
                with suppress(BusyError):  # another process has the job; `run` waits for it
                    locks.enter_context(training_lock(folder.path, wait=False))
                    with self.watch.blaming({job.train_id: job.name}), self.failures.caught(folder):
                        model = self._start(job)
                        if model.trained:
                            training, batches = self._training(job, model, callback), self.inputs.batches(job, model)
                            alike = (model.encoder, job.seed, batches.batch_size, batches.queries, batches.steps)
                            groups.setdefault(alike, {})[training] = job
            for group in groups.values():
                self._train_group(group, callback)

    def _train_group(self, group: Mapping[Training, Job], callback: Callback) -> None:
        jobs = list(group.values())
        callback.on_job(f"{len(jobs)} models side by side, seed {jobs[0].seed}")
        with self.watch.blaming({job.train_id: job.name for job in jobs}):
            self._advance(jobs[0], list(group), Callbacks(callback, _SideBySide(self, group)))
        for training, job in group.items():
            if not self.failures.cause(self.folder(job)):
                self._finish(job, training.model, training.log)
        callback.on_training_end()

    def train(self, job: Job, callback: Callback) -> PointDepthModel:
        """The trained model of a job; trains it, or continues its training, unless that is finished."""
        if self.folder(job).is_trained:
            self._require_record(job)
            return self.model(job, trained=True)
        model, log = self._start(job), TrainingLog()
        if model.trained:
            training = self._training(job, model, callback)
            self._advance(job, [training], callback)
            log = training.log
        self._finish(job, model, log)
        callback.on_training_end()
        return model

    def _start(self, job: Job) -> PointDepthModel:
        """The model before its first step; writes its record."""
        self.watch.at("building the model")
        model = self.model(job, trained=False)
        self.folder(job).write_record(self._record(job, model))
        if self.experiment.learns(job.composition):
            model.fit_prior(torch.from_numpy(self.inputs.sample.depth_m_N))
        return model

    def _training(self, job: Job, model: PointDepthModel, callback: Callback) -> Training:
        return Training(
            model,
            self.experiment.loss_of(job.composition),
            self.inputs.optimisation(job),
            seed=job.seed,
            checkpoint=self.folder(job).checkpoint,
            validate=lambda model: self._validate(model, callback),
            diagnose=self._diagnose,
            device=self.device,
        )

    def _advance(self, job: Job, trainings: Sequence[Training], callback: Callback) -> None:
        """Takes the trainings, whose batches are those of `job`, to their last step."""
        heard = self._heard(callback)
        heard.on_training(min(training.step for training in trainings), trainings[0].how.steps)
        loop.train(
            trainings,
            self.inputs.batches(job, trainings[0].model),
            self.inputs.frozen(trainings[0].model),
            callback=heard,
            workers=self.experiment.suite.train.workers,
        )

    def _finish(self, job: Job, model: PointDepthModel, log: TrainingLog) -> None:
        """Replaces the last checkpoint by the final weights and marks the training as finished."""
        folder = self.folder(job)
        steps = self.inputs.optimisation(job).steps if model.trained else 0
        folder.write_log(log, digest=checkpoints.save(folder.checkpoint, model, None, steps, log))

    def _require_record(self, job: Job) -> None:
        """Writes what was trained again if it is lost; the training itself does not read it."""
        folder = self.folder(job)
        if not folder.has_record():
            folder.write_record(self._record(job, self.model(job, trained=False)))

    def _record(self, job: Job, model: PointDepthModel) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for name, parameter in model.trainable():
            slot = name.split(".")[0]
            counts[slot] = counts.get(slot, 0) + parameter.numel()
        return {
            "composition": job.composition.name,
            "difference": job.composition.difference,
            "seed": job.seed,
            "device": device_label(self.device),
            "train_id": job.train_id,
            "identity": job.train_identity,
            "trainable_parameters": sum(counts.values()),
            "parameters_by_slot": counts,
            "stand_ins": self.experiment.stand_ins(job.composition),
            "trained_on": {"data": self.experiment.data.describe()} | self._extent(job),
            "local_options": local_options(job.composition),
        }

    def _extent(self, job: Job) -> dict[str, Any]:
        """What training frames look like; empty for a row that takes nothing from them."""
        return self.inputs.sample.extent() if self.experiment.learns(job.composition) else {}

    # ----------------------------------------------------------------------------------------------- evaluation

    def _validate(self, model: PointDepthModel, callback: Callback) -> dict[str, float]:
        """Every metric on the validation split at one K, for the training log."""
        heard, experiment, k = self._heard(callback), self.experiment, VALIDATION_QUERIES
        images = self.inputs.images(model, VALIDATION, max_k=k, k1_draws=1)
        predictions, _ = predict(
            model,
            images,
            self.inputs.frozen(model),
            device=self.device,
            on_image=lambda done: heard.on_validation_image(done, len(images)),
        )
        reported = score.reported(predictions, experiment.metrics, [k], experiment.protocol)
        values = {name: value for (name, _), value in reported.items()}

        def per_image(name: str) -> list[float]:
            metrics = [metric for metric in experiment.metrics if metric.name == name]
            numbers = score.per_image(predictions, metrics, [k], experiment.protocol)[name, k]
            return [float(number) for number in numbers]

        heard.on_validation(values, per_image)
        return {f"val/{name}": value for name, value in values.items()}

    def _diagnose(self, model: PointDepthModel) -> dict[str, float]:
        """What the blocks of a composition do on a few validation images (§10.3, step 5); nothing for a baseline."""
        if not isinstance(model, ComposedModel):
            return {}
        probe = self.inputs.probe(model)
        return label(diagnose(model, probe.features, probe.xy_BK2))

    def evaluate_split(self, evaluation: SplitEvaluation, model: PointDepthModel, callback: Callback) -> None:
        """Predicts the images of an evaluation's split, scores them, and writes predictions.h5 and scores.json."""
        started, heard, job = time.monotonic(), self._heard(callback), evaluation.job
        on_image = heard.on_image if evaluation.split == TEST else heard.on_validation_image
        images = self.inputs.images(model, evaluation.split, max_k=max(evaluation.ks), k1_draws=evaluation.k1_draws)
        on_image(0, len(images))
        meter = Meter(model, ks=evaluation.ks, images=len(images), device=self.device)
        predictions, cost = predict(
            model,
            images,
            self.inputs.frozen(model),
            device=self.device,
            on_image=lambda done: on_image(done, len(images)),
            on_scene=meter,
        )
        path = self.folder(job).path / evaluation.name / PREDICTIONS
        attributes = {"identity": evaluation.id, "protocol": self.experiment.judge.caption}
        if evaluation.split != TEST:
            attributes["split"] = evaluation.split
        digest = save_predictions(path, predictions, attributes)
        # scored from the file, so that the record is known to hold the numbers
        summary = score.reported(
            load_predictions(path), self.experiment.metrics, evaluation.ks, self.experiment.protocol
        )
        record = {
            "identity": evaluation.identity,
            "images": len(predictions.frames),
            "seconds": time.monotonic() - started,
            "scores": {f"{name}@{k}": value for (name, k), value in summary.items()},
            "cost": asdict(cost) | asdict(meter.costs),
        }
        self.folder(job).write_scores(evaluation, record, digest=digest)


class _SideBySide(Callback):
    """Blames each model of a group for what happens at its own step, and leaves out those that fail."""

    def __init__(self, runner: Runner, group: Mapping[Training, Job]) -> None:
        self.runner = runner
        self.group = group

    @contextmanager
    def advancing(self, training: Training) -> Iterator[None]:
        """Names the job, and restores what its components change for others."""
        job = self.group[training]
        with self.runner.watch.blaming({job.train_id: job.name}), undisturbed():
            yield

    def on_failure(self, training: Training, error: BaseException) -> bool:
        """Keeps the cause; the others continue."""
        self.runner.failures.keep(self.runner.folder(self.group[training]), error)
        return True
