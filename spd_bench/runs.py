"""Runs: one folder per training, named by its identity; what is done is skipped, what was interrupted goes on.

<root>/trained/<composition>-s<seed>-<id>/
    run.json            identity, parameters, stand-ins: what was trained
    checkpoint.pt       weights (and, until the end, the optimiser's state)
    done.json           the training log; its presence says that training is finished
    eval-<id>/
        predictions.h5  every scored point: the record
        scores.json     the numbers; its presence says that the evaluation is finished
<root>/checked/<id>.json    data whose every frame has been read once
<root>/features/<key>/      frozen features, with `data.cache: disk`
    <root>/suites/<suite>.json   the latest run of each suite: which folders its table is made of
"""

import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from spd_bench import files, score, train
from spd_bench.api import Encoder, Features, PointDepthModel
from spd_bench.compose import Composition
from spd_bench.data.batches import BatchPlan, ScoredImages
from spd_bench.data.feature_shelf import Pass
from spd_bench.data.preflight import check_frames
from spd_bench.data.randomness import generator
from spd_bench.data.stored_features import StoredFeatures, build
from spd_bench.data.views import FrozenFeatures, Views, unit_range
from spd_bench.diagnose import diagnose, label
from spd_bench.errors import ConfigError, DataError, SpdError
from spd_bench.evaluate import load as load_predictions
from spd_bench.evaluate import predict
from spd_bench.evaluate import save as save_predictions
from spd_bench.plan import Experiment, Job

FEATURES = "features"
"""Folder of the cache of frozen features, below the root."""
VALIDATION_QUERIES = 256
WATCHED_IMAGES, WATCHED_QUERIES = 4, 64
"""Validation images and queries of each on which the blocks are watched once per epoch."""
PRIOR_FRAMES, PRIOR_POINTS = 500, 256
"""How many training frames and points of each a model sees before training (`fit_prior`)."""


class Progress(Protocol):
    """What a display is told about a run."""

    def job(self, job: Job) -> None:
        """A job starts."""

    def group(self, jobs: Sequence[Job], steps: int) -> None:
        """Several jobs start to train side by side."""

    def training(self, steps: int) -> None:
        """Its training starts, or goes on."""

    def step(self, step: int, loss: float) -> None:
        """A training step is done."""

    def image(self, done: int, total: int) -> None:
        """A test image is predicted."""


@dataclass(frozen=True)
class Outcome:
    """What one job came to: its folder and numbers, or why it failed."""

    job: Job
    folder: Path
    scores: Mapping[str, Any] | None
    log: Mapping[str, Any] | None
    failure: str = ""
    reused: bool = False


OnFailure = Callable[[train.Training, Exception], None]


class Probe(NamedTuple):
    """Images (uint8), their features and queries, on which a model's blocks are looked at."""

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
    ) -> None:
        """`like`: a runner before on the same data, whose images and features need not be made again."""
        self.experiment = experiment
        self.root = root
        self.device = device
        about = experiment.suite.data
        self.views = Views(experiment.data, image_size=about.image_size, augmentation=about.augment)
        self._features: dict[Encoder, FrozenFeatures] = {}
        self._failures: dict[str, str] = {}
        if like is not None and like.experiment.suite.data == about:
            self.views, self._features = like.views, like._features

    def folder(self, job: Job) -> Path:
        """The folder of a job: found by identity, whatever it was called when it was made."""
        trained = self.root / "trained"
        short = job.train_id[:10]
        known = sorted(trained.glob(f"*-{short}"))
        return known[0] if known else trained / f"{job.composition.name[:40]}-s{job.seed}-{short}"

    def is_done(self, job: Job) -> bool:
        """Whether nothing is left to do."""
        return (self._eval_folder(job) / "scores.json").exists()

    def check_data(self, on_frame: Callable[[int, int], None]) -> None:
        """Reads every frame once before the first job, unless that was done for this data and these demands.

        Raises DataError listing the frames that cannot be used.
        """
        experiment, suite = self.experiment, self.experiment.suite
        demands = {"queries": suite.train.queries, "max_k": max(*suite.eval.k, VALIDATION_QUERIES)}
        seen = files.sha256([experiment.data.digest(), experiment.protocol.identity(), demands])
        mark = self.root / "checked" / f"{seen[:16]}.json"
        if not mark.exists():
            check_frames(experiment.data, experiment.protocol, **demands, on_frame=on_frame)
            files.write_json(mark, {"dataset": experiment.data.describe(), **demands})

    def state(self, job: Job) -> str:
        """What `run` would do: nothing, evaluate, go on, or train."""
        folder = self.folder(job)
        if self.is_done(job):
            return "done"
        if (folder / "done.json").exists():
            return "to evaluate"
        return "to resume" if (folder / "checkpoint.pt").exists() else "to train"

    def _eval_folder(self, job: Job) -> Path:
        return self.folder(job) / f"eval-{job.eval_id[:10]}"

    def run(self, job: Job, progress: Progress) -> Outcome:
        """Trains and evaluates unless that is done; a failure is an outcome, not an exception."""
        folder = self.folder(job)
        if self.is_done(job):
            return self._outcome(job, reused=True)
        if job.train_id not in self._failures:
            progress.job(job)
            with self._failures_of(job):
                self._evaluate(job, self._trained(job, progress), progress)
                return self._outcome(job, reused=False)
        return Outcome(job, folder, None, None, failure=self._failures[job.train_id])

    @contextmanager
    def _failures_of(self, job: Job) -> Iterator[None]:
        """Notes what a job raises; but a DataError is raised, since every other composition would meet it too."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            self._note(job, error)

    def _note(self, job: Job, error: Exception) -> None:
        """Keeps why a job failed: an error of ours in a line, a component's own bug with its traceback in a file."""
        if isinstance(error, SpdError):
            self._failures[job.train_id] = str(error).splitlines()[0]
        else:
            files.write_text(self.folder(job) / "failure.txt", "".join(traceback.format_exception(error)))
            self._failures[job.train_id] = f"{type(error).__name__}: {error}"

    def _outcome(self, job: Job, *, reused: bool) -> Outcome:
        folder = self.folder(job)
        log = files.read_json(folder / "done.json")
        return Outcome(job, folder, files.read_json(self._eval_folder(job) / "scores.json"), log, reused=reused)

    # ---------------------------------------------------------------------------------------------- training

    def train_in_step(self, jobs: Sequence[Job], progress: Progress) -> None:
        """Trains the jobs that are not trained yet side by side, one group per seed and encoder.

        A batch is then encoded once for the whole group. Worth it where the same features do not come again, and so
        cannot be held: with held ones each model may as well train alone. A model that fails drops out; `run` tells.
        """
        if not self.views.always_new:
            return
        groups: dict[tuple[int, Encoder], dict[train.Training, Job]] = {}
        for job in jobs:
            with self._failures_of(job):
                begun = {other.train_id for group in groups.values() for other in group.values()}
                if self._is_trained(job) or self.is_done(job) or job.train_id in begun:
                    continue
                model = self._start(job)
                if model.trained:
                    groups.setdefault((job.seed, model.encoder), {})[self._training(job, model)] = job
        for group in groups.values():
            self._train_group(group, progress)

    def _train_group(self, group: Mapping[train.Training, Job], progress: Progress) -> None:
        progress.group(list(group.values()), self._optimisation().steps)
        self._train(list(group), progress, lambda training, error: self._note(group[training], error))
        for training, job in group.items():
            if job.train_id not in self._failures:
                self._finish(job, training.model, training.log)

    def _trained(self, job: Job, progress: Progress) -> PointDepthModel:
        if self._is_trained(job):
            return self.model(job, trained=True)
        model = self._start(job)
        progress.training(self._optimisation().steps if model.trained else 0)
        log = train.TrainingLog()
        if model.trained:
            training = self._training(job, model)
            self._train([training], progress, None)
            log = training.log
        self._finish(job, model, log)
        return model

    def _is_trained(self, job: Job) -> bool:
        return (self.folder(job) / "done.json").exists()

    def _start(self, job: Job) -> PointDepthModel:
        """The model before its first step, with its record in its folder."""
        model = self.model(job, trained=False)
        files.write_json(self.folder(job) / "run.json", self._record(job, model))
        model.fit_prior(self._prior_depths())
        return model

    def _training(self, job: Job, model: PointDepthModel) -> train.Training:
        return train.Training(
            model,
            self.experiment.loss,
            self._optimisation(),
            seed=job.seed,
            checkpoint=self.folder(job) / "checkpoint.pt",
            validate=self._validate,
            watch=self._watch,
            device=self.device,
        )

    def _train(self, trainings: Sequence[train.Training], progress: Progress, on_failure: OnFailure | None) -> None:
        train.train(
            trainings,
            self._batches(trainings[0].seed, trainings[0].how.steps),
            self._frozen(trainings[0].model),
            on_step=progress.step,
            on_failure=on_failure,
            workers=self.experiment.suite.train.workers,
        )

    def _finish(self, job: Job, model: PointDepthModel, log: train.TrainingLog) -> None:
        folder = self.folder(job)
        train.save(folder / "checkpoint.pt", model, None, self._optimisation().steps, log)
        files.write_json(folder / "done.json", asdict(log))

    def _record(self, job: Job, model: PointDepthModel) -> dict[str, Any]:
        counts: dict[str, int] = {}
        for name, parameter in model.trainable():
            slot = name.split(".")[0]
            counts[slot] = counts.get(slot, 0) + parameter.numel()
        return {
            "composition": job.composition.name,
            "difference": job.composition.difference,
            "seed": job.seed,
            "train_id": job.train_id,
            "identity": job.train_identity,
            "trainable_parameters": sum(counts.values()),
            "parameters_by_slot": counts,
            "stand_ins": self.experiment.stand_ins(job.composition),
        }

    def _optimisation(self) -> train.Optimisation:
        recipe = self.experiment.suite.train
        epoch = self._steps_per_epoch()
        steps = recipe.steps or recipe.epochs * epoch  # type: ignore[operator]
        marks = {round(steps * (i + 1) / recipe.validations) for i in range(recipe.validations)}
        return train.Optimisation(
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

    def _steps_per_epoch(self) -> int:
        suite, frames = self.experiment.suite, len(self.experiment.data.frames("train"))
        if frames < suite.train.batch_size:
            raise ConfigError(
                f"train.batch_size {suite.train.batch_size} is larger than the training split ({frames} frames)",
                where=suite.place("train", "batch_size"),
                hint="lower train.batch_size",
            )
        return frames // suite.train.batch_size

    def _batches(self, seed: int, steps: int) -> BatchPlan:
        self._steps_per_epoch()
        suite = self.experiment.suite
        return BatchPlan(
            views=self.views,
            frames=self.experiment.data.frames("train"),
            sampler=self.experiment.sampler,
            batch_size=suite.train.batch_size,
            queries=suite.train.queries,
            seed=seed,
            steps=steps,
        )

    def _frozen(self, model: PointDepthModel) -> FrozenFeatures:
        """Features are shared by every model on the same encoder."""
        return self._features_of(model.encoder)

    def _features_of(self, encoder: Encoder) -> FrozenFeatures:
        if encoder not in self._features:
            on_device, suite = encoder.to(self.device), self.experiment.suite
            self._features[encoder] = (
                FrozenFeatures(on_device)
                if suite.data.cache == "memory"
                else StoredFeatures(
                    on_device,
                    self.root / FEATURES,
                    self.experiment.features_identity(encoder),
                    self.views,
                    device=self.device,
                    suite=suite.suite,
                )
            )
        return self._features[encoder]

    def build_features(self, tell: Callable[[str], None], on_view: Callable[[int, int], None]) -> None:
        """With `data.cache: disk`, encodes what the jobs that are not done will read and is not there yet.

        tell: of the sizes, before it starts. Raises ResourceError where the disk or the limit is too small.
        """
        suite = self.experiment.suite
        wanted: dict[StoredFeatures, set[Pass]] = {}
        for job in self.experiment.jobs if suite.data.cache == "disk" else []:
            if not self.is_done(job):
                features = self._features_of(self.experiment.encoder_of(job.composition))
                assert isinstance(features, StoredFeatures)
                wanted.setdefault(features, set()).update(self._passes(job))
        build(wanted, limit_gb=suite.data.cache_limit_gb, workers=suite.train.workers, tell=tell, on_view=on_view)

    def _passes(self, job: Job) -> set[Pass]:
        """Which views of which splits a job reads."""
        passes = {Pass("test")}
        if self.experiment.is_trained(job.composition) and not self._is_trained(job):
            passes.add(Pass("val"))
            first = self.experiment.data.frames("train")[0]
            for epoch in range(math.ceil(self._optimisation().steps / self._steps_per_epoch())):
                view = self.views.training(first, seed=job.seed, epoch=epoch)
                passes.add(Pass("train", view.seed, view.number))
        return passes

    def _prior_depths(self) -> torch.Tensor:
        """Depths in metres at random valid pixels of evenly spaced training frames, for `fit_prior`."""
        frames = self.experiment.data.frames("train")
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), PRIOR_FRAMES)).round().astype(int))
        points = []
        for index in chosen:
            depth_m_HW = self.experiment.data.read(frames[index]).depth_m_HW
            valid_m_N = depth_m_HW[depth_m_HW > 0]
            rng = generator("prior", frames[index].frame)
            points.append(rng.choice(valid_m_N, size=min(PRIOR_POINTS, len(valid_m_N)), replace=False))
        return torch.from_numpy(np.concatenate(points).astype(np.float32))

    # -------------------------------------------------------------------------------------------- evaluation

    def _images(self, split: str, max_k: int, k1_draws: int) -> ScoredImages:
        return ScoredImages(
            views=self.views,
            frames=self.experiment.data.frames(split),
            protocol=self.experiment.protocol,
            max_k=max_k,
            k1_draws=k1_draws,
            seed=self.experiment.suite.eval.seed,
        )

    def _validate(self, model: PointDepthModel) -> dict[str, float]:
        """Every metric on the validation split at one K."""
        images = self._images("val", VALIDATION_QUERIES, 1)
        predictions, _ = predict(model, images, self._frozen(model), device=self.device)
        metrics = self.experiment.metrics
        values = score.reported(predictions, metrics, [VALIDATION_QUERIES], self.experiment.protocol)
        return {f"val/{name}": value for (name, _), value in values.items()}

    def _watch(self, model: PointDepthModel) -> dict[str, float]:
        """What the blocks of a composition do on a few validation images (§10.3, step 5); nothing for a baseline."""
        if not isinstance(model, Composition):
            return {}
        probe = self.probe(model)
        return label(diagnose(model, probe.features, probe.xy_BK2))

    def model(self, job: Job, *, trained: bool) -> PointDepthModel:
        """The model of a job, with its initial weights or those of its finished training."""
        model = self.experiment.model(job.composition, job.seed).to(self.device)
        if trained:
            train.load_weights(self.folder(job) / "checkpoint.pt", model)
        return model

    def probe(self, model: PointDepthModel) -> Probe:
        """A few validation images, spread evenly, with queries, as this model's encoder sees them."""
        images = self._images("val", WATCHED_QUERIES, 1)
        every = np.linspace(0, len(images) - 1, min(len(images), WATCHED_IMAGES)).round().astype(int)
        chosen = [images[int(i)] for i in np.unique(every)]
        shown_B3HW = torch.stack([image.image_3HW for image in chosen]).to(self.device)
        maps = self._frozen(model).of([image.view for image in chosen], unit_range(shown_B3HW))
        return Probe(shown_B3HW, maps, torch.stack([image.xy_P2 for image in chosen]).to(self.device))

    def _evaluate(self, job: Job, model: PointDepthModel, progress: Progress) -> None:
        suite, metrics = self.experiment.suite, self.experiment.metrics
        images = self._images("test", max(suite.eval.k), suite.eval.k1_draws)
        predictions, cost = predict(
            model,
            images,
            self._frozen(model),
            device=self.device,
            on_image=lambda done: progress.image(done, len(images)),
        )
        folder = self._eval_folder(job)
        attributes = {"identity": job.eval_id, "protocol": self.experiment.judge.caption}
        save_predictions(folder / "predictions.h5", predictions, attributes)
        # scored from the file, so that the record is known to hold the numbers
        summary = score.reported(
            load_predictions(folder / "predictions.h5"), metrics, suite.eval.k, self.experiment.protocol
        )
        record = {
            "identity": job.eval_identity,
            "images": len(predictions.frames),
            "scores": {f"{name}@{k}": value for (name, k), value in summary.items()},
            "cost": asdict(cost),
        }
        files.write_json(folder / "scores.json", record)


def record_suite(
    root: Path,
    experiment: Experiment,
    outcomes: Sequence[Outcome],
    *,
    why: str,
    provenance: Mapping[str, str],
    tracked: Mapping[str, str | None],
) -> Path:
    """Writes which folders the suite's latest table is made of, and under which MLflow run it is tracked."""
    suite = experiment.suite
    rows = [
        {
            "composition": outcome.job.composition.name,
            "kind": outcome.job.composition.kind,
            "axis": outcome.job.composition.axis,
            "difference": outcome.job.composition.difference,
            "aliases": [list(alias) for alias in outcome.job.composition.aliases],
            "gt_aligned": experiment.is_gt_aligned(outcome.job.composition),
            "stand_ins": experiment.stand_ins(outcome.job.composition),
            "seed": outcome.job.seed,
            "folder": str(outcome.folder.relative_to(root)),
            "evaluation": f"eval-{outcome.job.eval_id[:10]}",
            "failure": outcome.failure,
        }
        for outcome in outcomes
    ]
    path = root / "suites" / f"{suite.suite}.json"
    files.write_json(
        path,
        {
            "suite": suite.dump(),
            "profile": suite.profile,
            "why_fallback": why,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "dataset": experiment.data.describe(),
            "protocol": experiment.judge.caption,
            "averaging": experiment.protocol.averaging,
            "judge": experiment.judge.id,
            "stand_ins": experiment.stand_ins(experiment.compositions[0]),
            "provenance": provenance,
            "tracked": tracked,
            "rows": rows,
        },
    )
    return path
