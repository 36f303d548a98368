"""Runs: one folder per training, named by its identity; what is done is skipped, what was interrupted goes on.

<root>/trained/<composition>-s<seed>-<id>/
    run.json            identity, parameters, stand-ins: what was trained
    checkpoint.pt       weights (and, until the end, the optimiser's state)
    done.json           the training log; it vouches for the checkpoint, and says that training is finished
    eval-<id>/
        predictions.h5  every scored point: the record
        scores.json     the numbers; it vouches for the predictions, and says that the evaluation is finished
<root>/checked/<id>.json    data whose every frame has been read once
<root>/features/<key>/      frozen features, with `data.cache: disk`
    <root>/suites/<suite>.json   the latest run of each suite: which folders its table is made of
"""

import math
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from spd_bench.api import AspectKept, Encoder, Features, PointDepthModel, Resampling
from spd_bench.cost.meter import Meter
from spd_bench.data.batches import BatchPlan, ScoredImages
from spd_bench.data.extent import TrainingSample, sample_training
from spd_bench.data.features.shelf import Pass
from spd_bench.data.features.stored import StoredFeatures, build
from spd_bench.data.preflight import check_frames
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures, Views
from spd_bench.errors import OUT_OF_MEMORY, BusyError, ConfigError, DataError, ResourceError, SpdError, shortage
from spd_bench.model.compose import ComposedModel
from spd_bench.model.diagnose import diagnose, label
from spd_bench.process.locks import training_lock
from spd_bench.process.watch import Watch
from spd_bench.run.outcome import Outcome, Progress
from spd_bench.run.plan import Experiment, Job, local_options
from spd_bench.run.quarantine import undisturbed
from spd_bench.score import score
from spd_bench.score.predict import Predictions, predict
from spd_bench.score.predict import load as load_predictions
from spd_bench.score.predict import save as save_predictions
from spd_bench.store import files, records
from spd_bench.store.records import UNFINISHED
from spd_bench.train import loop

FEATURES = "features"
"""Folder of the cache of frozen features, below the root."""
VALIDATION_QUERIES = 256
WATCHED_IMAGES, WATCHED_QUERIES = 4, 64
"""Validation images and queries of each on which the blocks are watched once per epoch."""


OnFailure = Callable[[loop.Training, BaseException], None]
FAILED = "failed.json"
"""Why a run failed, for other processes of the same session; the next session tries it again."""


class Probe(NamedTuple):
    """Images in [0, 1], their features and queries, on which a model's blocks are looked at."""

    images_B3HW: torch.Tensor
    features: Features
    xy_BK2: torch.Tensor


class Runner:
    """Runs the jobs of an experiment below a root folder."""

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        device: torch.device,
        *,
        like: "Runner | None" = None,
        watch: Watch | None = None,
    ) -> None:
        """like: a runner before on the same data, whose images and features need not be made again.

        watch: told where the work stands; by default nobody looks.
        """
        self.experiment = experiment
        self.root = root
        self.device = device
        about = experiment.suite.data
        self._views: dict[tuple[AspectKept | None, Resampling], Views] = {}
        self._features: dict[tuple[Encoder, AspectKept | None], FrozenFeatures] = {}
        self.watch = watch or Watch()
        self._failures = dict(self.watch.given_up)
        if like is not None and like.experiment.suite.data == about:
            self._views, self._features = like._views, like._features

    def folder(self, job: Job) -> Path:
        """The folder of a job: found by identity, whatever it was called when it was made."""
        trained = self.root / "trained"
        short = job.train_id[:10]
        known = sorted(trained.glob(f"*-{short}"))
        return known[0] if known else trained / f"{job.composition.name[:40]}-s{job.seed}-{short}"

    def is_done(self, job: Job) -> bool:
        """Whether nothing is left to do."""
        return self._is_trained(job) and self._scores(job) is not None

    def _scores(self, job: Job) -> dict[str, Any] | None:
        """What its evaluation came to, if its files are there as they were written."""
        folder = self._eval_folder(job)
        record = records.found_record(folder / "scores.json")
        return record if record is not None and records.vouched(folder, record) else None

    def check_data(self, on_frame: Callable[[int, int], None]) -> None:
        """Reads every frame once before the first job, unless that was done for this data and these demands.

        Raises DataError listing the frames that cannot be used, ConfigError where they are too few for every training.
        """
        self._refuse_too_few_frames()
        experiment, suite = self.experiment, self.experiment.suite
        queries = max(composition.train.queries for composition in experiment.compositions)
        demands = {"queries": queries, "max_k": max(*suite.eval.k, VALIDATION_QUERIES)}
        seen = records.sha256([experiment.data.digest(), experiment.protocol.identity(), demands])
        mark = self.root / "checked" / f"{seen[:16]}.json"
        if records.found_record(mark) is None:
            watched = self._watched("checking frame", on_frame)
            check_frames(experiment.data, experiment.protocol, **demands, on_frame=watched)
            records.write_record(mark, {"dataset": experiment.data.describe(), **demands})

    def state(self, job: Job) -> str:
        """What `run` would do: nothing, score what is not trained, evaluate, go on, or train."""
        folder = self.folder(job)
        if self.is_done(job):
            return "done"
        if not job.failure and not self.experiment.is_trained(job.composition):
            return "to score"
        if self._is_trained(job):
            return "to evaluate"
        return "to resume" if (folder / "checkpoint.pt").exists() else "to train"

    @property
    def device_label(self) -> str:
        """The device, its kind and the threads, as records have them."""
        return device_label(self.device)

    def steps(self, job: Job) -> int:
        """Steps of a job's whole training."""
        return self._optimisation(job).steps

    def _eval_folder(self, job: Job) -> Path:
        return self.folder(job) / f"eval-{job.eval_id[:10]}"

    def run(self, job: Job, progress: Progress) -> Outcome:
        """Trains and evaluates unless that is done; a failure is an outcome, not an exception.

        Raises BusyError where another process works at this training.
        """
        folder = self.folder(job)
        if job.failure:
            return Outcome(job, folder, None, None, failure=job.failure)
        with training_lock(folder, wait=False):
            if self.is_done(job):
                self._require_record(job)
                return self._outcome(job, reused=True)
            if not self._has_failed(job):
                progress.job(job)
                with self.watch.on({job.train_id: job.name}), self._failures_of(job):
                    self._evaluate(job, self._trained(job, progress), progress)
                    return self._outcome(job, reused=False)
            self._tell_failure(job)
            return Outcome(job, folder, None, None, failure=self._failures[job.train_id])

    def found(self, job: Job) -> Outcome:
        """What a job has come to before; UNFINISHED is the failure of one that is still to be done."""
        if self.is_done(job):
            return self._outcome(job, reused=True)
        return Outcome(job, self.folder(job), None, None, failure=UNFINISHED)

    def _has_failed(self, job: Job) -> bool:
        """Whether it has failed in this session, here or in another process that shares its jobs."""
        if job.train_id not in self._failures and self.watch.session:
            record = records.found_record(self.folder(job) / FAILED)
            if record is not None and record["session"] == self.watch.session:
                self._failures[job.train_id] = record["cause"]
        return job.train_id in self._failures

    def _tell_failure(self, job: Job) -> None:
        """Leaves the cause for other processes of this session, which then do not try it again."""
        if self.watch.session:
            record = {"cause": self._failures[job.train_id], "session": self.watch.session}
            records.write_record(self.folder(job) / FAILED, record)

    @contextmanager
    def _failures_of(self, job: Job) -> Iterator[None]:
        """Notes what a job raises; but a DataError or ResourceError is raised: every other would meet it too."""
        try:
            with undisturbed():
                yield
        except (DataError, ResourceError):
            raise
        except (Exception, SystemExit) as error:  # a component may call sys.exit
            self.watch.check()  # helpers of ours may have been stopped too, which is no failure of the job
            self._note(job, error)

    def _note(self, job: Job, error: BaseException) -> None:
        """Keeps why a job failed: an error of ours in a line, a component's own bug with its traceback in a file."""
        lacks = shortage(error)
        if lacks is not None and not lacks.message.startswith(OUT_OF_MEMORY):
            raise lacks from error
        if isinstance(error, SpdError) or lacks is not None:
            self._failures[job.train_id] = str(lacks or error).splitlines()[0]
        else:
            files.write_text(self.folder(job) / "failure.txt", "".join(traceback.format_exception(error)))
            self._failures[job.train_id] = f"{type(error).__name__}: {error}"

    def _outcome(self, job: Job, *, reused: bool) -> Outcome:
        folder = self.folder(job)
        log = records.read_record(folder / "done.json")
        return Outcome(job, folder, records.read_record(self._eval_folder(job) / "scores.json"), log, reused=reused)

    # ---------------------------------------------------------------------------------------------- training

    def train_in_step(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Trains the jobs that are not trained yet side by side, one group per seed, encoder and kind of batch.

        A batch is then encoded once for the whole group. Worth it where the same features do not come again, and so
        cannot be held: with held ones each model may as well train alone. A model that fails drops out; `run` tells.
        """
        if not self.experiment.suite.data.augment.always_new:
            return
        groups: dict[tuple[Any, ...], dict[loop.Training, Job]] = {}
        with ExitStack() as locks:
            for job in jobs:
                begun = {other.train_id for group in groups.values() for other in group.values()}
                settled = job.failure or self._is_trained(job) or self.is_done(job) or self._has_failed(job)
                if settled or job.train_id in begun:
                    continue
                with suppress(BusyError):  # another process has it, `run` waits for that
                    locks.enter_context(training_lock(self.folder(job), wait=False))
                    with self.watch.on({job.train_id: job.name}), self._failures_of(job):
                        model = self._start(job)
                        if model.trained:
                            training, batches = self._training(job, model), self._batches(job, model)
                            alike = (model.encoder, job.seed, batches.batch_size, batches.queries, batches.steps)
                            groups.setdefault(alike, {})[training] = job
            for group in groups.values():
                self._train_group(group, progress)

    def _train_group(self, group: Mapping[loop.Training, Job], progress: Progress) -> None:
        jobs = list(group.values())
        progress.group(jobs, self._optimisation(jobs[0]).steps)

        @contextmanager
        def at(training: loop.Training) -> Iterator[None]:
            with self.watch.on({group[training].train_id: group[training].name}), undisturbed():
                yield

        with self.watch.on({job.train_id: job.name for job in jobs}):
            self._train(jobs[0], list(group), progress, lambda training, error: self._note(group[training], error), at)
        for training, job in group.items():
            if job.train_id not in self._failures:
                self._finish(job, training.model, training.log)

    def _trained(self, job: Job, progress: Progress) -> PointDepthModel:
        if self._is_trained(job):
            self._require_record(job)
            return self.model(job, trained=True)
        model = self._start(job)
        progress.training(self._optimisation(job).steps if model.trained else 0)
        log = loop.TrainingLog()
        if model.trained:
            training = self._training(job, model)
            self._train(job, [training], progress, None, lambda training: nullcontext())
            log = training.log
        self._finish(job, model, log)
        return model

    def _is_trained(self, job: Job) -> bool:
        return records.found_record(self.folder(job) / "done.json") is not None

    def _require_record(self, job: Job) -> None:
        """Writes what was trained once more if that is lost; the training itself does not read it."""
        path = self.folder(job) / "run.json"
        if records.found_record(path) is None:
            records.write_record(path, self._record(job, self.model(job, trained=False)))

    def _start(self, job: Job) -> PointDepthModel:
        """The model before its first step, with its record in its folder."""
        self.watch.at("building the model")
        model = self.model(job, trained=False)
        records.write_record(self.folder(job) / "run.json", self._record(job, model))
        model.fit_prior(torch.from_numpy(self._sample.depth_m_N))
        return model

    def _training(self, job: Job, model: PointDepthModel) -> loop.Training:
        return loop.Training(
            model,
            self.experiment.loss_of(job.composition),
            self._optimisation(job),
            seed=job.seed,
            checkpoint=self.folder(job) / "checkpoint.pt",
            validate=self._validate,
            watch=self._watch,
            device=self.device,
        )

    def _train(
        self,
        job: Job,
        trainings: Sequence[loop.Training],
        progress: Progress,
        on_failure: OnFailure | None,
        at: Callable[[loop.Training], AbstractContextManager[None]],
    ) -> None:
        def on_step(step: int, loss: float) -> None:
            progress.step(step, loss)
            self.watch.at(f"training at step {step + 1}")

        self.watch.at(f"training at step {min(training.step for training in trainings) + 1}")
        loop.train(
            trainings,
            self._batches(job, trainings[0].model),
            self._frozen(trainings[0].model),
            on_step=on_step,
            on_failure=on_failure,
            at=at,
            stopping=lambda: self.watch.stopping,
            workers=self.experiment.suite.train.workers,
        )

    def _finish(self, job: Job, model: PointDepthModel, log: loop.TrainingLog) -> None:
        folder = self.folder(job)
        digest = loop.save(folder / "checkpoint.pt", model, None, self._optimisation(job).steps, log)
        records.write_record(folder / "done.json", asdict(log) | {records.VOUCHED: {"checkpoint.pt": digest}})

    def _record(self, job: Job, model: PointDepthModel) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for name, parameter in model.trainable():
            slot = name.split(".")[0]
            counts[slot] = counts.get(slot, 0) + parameter.numel()
        return {
            "composition": job.composition.name,
            "difference": job.composition.difference,
            "seed": job.seed,
            "device": self.device_label,
            "train_id": job.train_id,
            "identity": job.train_identity,
            "trainable_parameters": sum(counts.values()),
            "parameters_by_slot": counts,
            "stand_ins": self.experiment.stand_ins(job.composition),
            "trained_on": {"data": self.experiment.data.describe()} | self._sample.extent(),
            "local_options": local_options(job.composition),
        }

    def _optimisation(self, job: Job) -> loop.Optimisation:
        recipe = job.composition.train
        epoch = self._steps_per_epoch(job)
        steps = recipe.steps or recipe.epochs * epoch  # type: ignore[operator]
        marks = {round(steps * (i + 1) / recipe.validations) for i in range(recipe.validations)}
        return loop.Optimisation(
            steps=steps,
            lr=recipe.lr,
            min_lr=recipe.min_lr,
            weight_decay=recipe.weight_decay,
            betas=recipe.betas,
            clip=recipe.clip,
            lambda_si=recipe.lambda_si,
            precision=recipe.precision,
            validate_at=tuple(sorted(marks | {steps})),
            log_at=tuple(range(epoch, steps, epoch)),
        )

    def _steps_per_epoch(self, job: Job) -> int:
        suite, frames = self.experiment.suite, len(self.experiment.data.frames("train"))
        size = job.composition.train.batch_size
        if frames < size:
            own = size != suite.train.batch_size
            raise ConfigError(
                f"train.batch_size {size} is larger than the training split ({frames} frames)",
                where=job.composition.where if own else suite.place("train", "batch_size"),
                hint=f"--set train.batch_size={frames}, or more frames",
            )
        return frames // size

    def _refuse_too_few_frames(self) -> None:
        """ConfigError, once for all, where every training asks for larger batches than there are frames."""
        jobs = [job for job in self.experiment.jobs if not job.failure]
        trained = [job for job in jobs if self.experiment.is_trained(job.composition)]
        frames = len(self.experiment.data.frames("train")) if trained else 0
        if frames and all(job.composition.train.batch_size > frames for job in trained):
            self._steps_per_epoch(trained[0])

    def views_of(self, model: PointDepthModel) -> Views:
        """Frames as a model's encoder takes them: at the suite's input size or the model's own."""
        return self._views_for(model.encoder, model.own_input)

    def _views_for(self, encoder: Encoder, own_input: AspectKept | None) -> Views:
        key, about = (own_input, encoder.resampling), self.experiment.suite.data
        if key not in self._views:
            size = own_input or about.image_size
            self._views[key] = Views(
                self.experiment.data,
                image_size=size,
                augmentation=about.augment,
                resampling=encoder.resampling,
            )
        return self._views[key]

    def _batches(self, job: Job, model: PointDepthModel) -> BatchPlan:
        """What a job is trained on; the same for every composition that shares seed and sizes."""
        recipe = job.composition.train
        return BatchPlan(
            views=self.views_of(model),
            frames=self.experiment.data.frames("train"),
            sampler=self.experiment.sampler,
            batch_size=recipe.batch_size,
            queries=recipe.queries,
            seed=job.seed,
            steps=self._optimisation(job).steps,
        )

    def _frozen(self, model: PointDepthModel) -> FrozenFeatures:
        """Features are shared by every model on the same encoder that takes the same input size."""
        return self._features_of(model.encoder, model.own_input)

    def _features_of(self, encoder: Encoder, own_input: AspectKept | None = None) -> FrozenFeatures:
        key = (encoder, own_input)
        if key not in self._features:
            on_device, suite = encoder.to(self.device), self.experiment.suite
            self._features[key] = (
                FrozenFeatures(on_device)
                if suite.data.cache == "memory" or own_input
                else StoredFeatures(
                    on_device,
                    self.root / FEATURES,
                    self.experiment.features_identity(encoder),
                    self._views_for(encoder, None),
                    device=self.device,
                    suite=suite.suite,
                )
            )
        return self._features[key]

    def build_features(self, tell: Callable[[str], None], on_view: Callable[[int, int], None]) -> None:
        """With `data.cache: disk`, encodes what the jobs that are not done will read and is not there yet.

        tell: of the sizes, before it starts. Raises ResourceError where the disk or the limit is too small.
        """
        suite = self.experiment.suite
        wanted: dict[StoredFeatures, set[Pass]] = {}
        for job in self.experiment.jobs if suite.data.cache == "disk" else []:
            own_input = self.experiment.own_input(job.composition)
            if not job.failure and not own_input and not self.is_done(job):
                features = self._features_of(self.experiment.encoder_of(job.composition))
                assert isinstance(features, StoredFeatures)
                wanted.setdefault(features, set()).update(self._passes(job))
        build(
            wanted,
            limit_gb=suite.data.cache_limit_gb,
            workers=suite.train.workers,
            tell=tell,
            on_view=self._watched("encoding view", on_view),
        )

    def _watched(self, stage: str, on_item: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`on_item` (done, total), which also says that the next item's turn has come."""

        def on_done(done: int, total: int) -> None:
            on_item(done, total)
            self.watch.at(f"{stage} {min(done + 1, total)} of {total}")

        return on_done

    def _passes(self, job: Job) -> set[Pass]:
        """Which views of which splits a job reads."""
        passes = {Pass("test")}
        if self.experiment.is_trained(job.composition) and not self._is_trained(job):
            passes.add(Pass("val"))
            views = self._views_for(self.experiment.encoder_of(job.composition), None)
            first = self.experiment.data.frames("train")[0]
            for epoch in range(math.ceil(self._optimisation(job).steps / self._steps_per_epoch(job))):
                view = views.training(first, seed=job.seed, epoch=epoch)
                passes.add(Pass("train", view.seed, view.number))
        return passes

    @cached_property
    def _sample(self) -> TrainingSample:
        """What the training frames look like."""
        return sample_training(self.experiment.data)

    # -------------------------------------------------------------------------------------------- evaluation

    def _images(self, model: PointDepthModel, split: str, max_k: int, k1_draws: int) -> ScoredImages:
        return ScoredImages(
            views=self.views_of(model),
            frames=self.experiment.data.frames(split),
            protocol=self.experiment.protocol,
            max_k=max_k,
            k1_draws=k1_draws,
            seed=self.experiment.suite.eval.seed,
        )

    def _validate(self, model: PointDepthModel) -> dict[str, float]:
        """Every metric on the validation split at one K."""
        images = self._images(model, "val", VALIDATION_QUERIES, 1)
        on_image = self._watched("validating at image", lambda done, total: None)
        predictions, _ = predict(
            model,
            images,
            self._frozen(model),
            device=self.device,
            on_image=lambda done: on_image(done, len(images)),
        )
        self.validated(predictions)
        metrics = self.experiment.metrics
        values = score.reported(predictions, metrics, [VALIDATION_QUERIES], self.experiment.protocol)
        return {f"val/{name}": value for (name, _), value in values.items()}

    def validated(self, predictions: Predictions) -> None:
        """Told what each validation predicted."""

    def _watch(self, model: PointDepthModel) -> dict[str, float]:
        """What the blocks of a composition do on a few validation images (§10.3, step 5); nothing for a baseline."""
        if not isinstance(model, ComposedModel):
            return {}
        probe = self.probe(model)
        return label(diagnose(model, probe.features, probe.xy_BK2))

    def model(self, job: Job, *, trained: bool) -> PointDepthModel:
        """The model of a job, with its initial weights or those of its finished training."""
        model = self.experiment.model(job.composition, job.seed).to(self.device)
        if trained:
            folder = self.folder(job)
            digest = records.read_record(folder / "done.json").get(records.VOUCHED, {}).get("checkpoint.pt")
            loop.load_weights(folder / "checkpoint.pt", model, digest=digest)
        return model

    def probe(self, model: PointDepthModel) -> Probe:
        """A few validation images, spread evenly, with queries, as this model's encoder sees them."""
        images = self._images(model, "val", WATCHED_QUERIES, 1)
        every = np.linspace(0, len(images) - 1, min(len(images), WATCHED_IMAGES)).round().astype(int)
        chosen = [images[int(i)] for i in np.unique(every)]
        shown_B3HW = unit_range(torch.stack([image.image_3HW for image in chosen]).to(self.device))
        maps = self._frozen(model).of([image.view for image in chosen], shown_B3HW)
        return Probe(shown_B3HW, maps, torch.stack([image.xy_P2 for image in chosen]).to(self.device))

    def _evaluate(self, job: Job, model: PointDepthModel, progress: Progress) -> None:
        started = time.monotonic()
        suite, metrics = self.experiment.suite, self.experiment.metrics
        images = self._images(model, "test", max(suite.eval.k), suite.eval.k1_draws)
        on_image = self._watched("scoring image", progress.image)
        self.watch.at(f"scoring image 1 of {len(images)}")
        meter = Meter(model, ks=suite.eval.k, images=len(images), device=self.device)
        predictions, cost = predict(
            model,
            images,
            self._frozen(model),
            device=self.device,
            on_image=lambda done: on_image(done, len(images)),
            on_scene=meter,
        )
        folder = self._eval_folder(job)
        attributes = {"identity": job.eval_id, "protocol": self.experiment.judge.caption}
        digest = save_predictions(folder / "predictions.h5", predictions, attributes)
        # scored from the file, so that the record is known to hold the numbers
        summary = score.reported(
            load_predictions(folder / "predictions.h5"), metrics, suite.eval.k, self.experiment.protocol
        )
        record = {
            "identity": job.eval_identity,
            "images": len(predictions.frames),
            "seconds": time.monotonic() - started,
            "scores": {f"{name}@{k}": value for (name, k), value in summary.items()},
            "cost": asdict(cost) | asdict(meter.costs),
            records.VOUCHED: {"predictions.h5": digest},
        }
        records.write_record(folder / "scores.json", record)


def device_label(device: torch.device) -> str:
    """A device, its kind and the threads that this process may use."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return f"{device} ({machine or platform.machine()}), {torch.get_num_threads()} threads"
