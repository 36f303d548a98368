"""What a job reads: views, batches, frozen features, prior depths, the probe, and how its training is optimised."""

import math
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from spd_bench.api import SPLITS, AspectKept, Encoder, Features, PointDepthModel, Resampling
from spd_bench.data.batches import BatchPlan, ScoredImages
from spd_bench.data.extent import TrainingSample, sample_training
from spd_bench.data.features.shelf import Pass
from spd_bench.data.features.stored import StoredFeatures, build
from spd_bench.data.preflight import check_frames
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures, Views
from spd_bench.errors import ConfigError
from spd_bench.run.folder import VALIDATION, RunFolder
from spd_bench.run.planning.job import Job
from spd_bench.run.planning.plan import Experiment
from spd_bench.store import records
from spd_bench.store.run_root import CHECKED, CheckedRecord
from spd_bench.train.callback import Callback
from spd_bench.train.training import Optimisation

FEATURES = "features"
"""Folder of the cache of frozen features, below the root."""
VALIDATION_QUERIES = 256
"""Query points per image at a validation during training."""
PROBE_IMAGES, PROBE_QUERIES = 4, 64
"""Validation images, and queries of each, on which the blocks of a model are diagnosed once per epoch."""


class Probe(NamedTuple):
    """Images on which the blocks of a model are diagnosed."""

    images_B3HW: torch.Tensor
    """Images, values in [0, 1]."""
    features: Features
    """Their frozen features."""
    xy_BK2: torch.Tensor
    """Query points."""


class Inputs:
    """Reads the data of an experiment for its jobs; images and features are kept and shared between them."""

    def __init__(
        self, experiment: Experiment, root: Path, device: torch.device, *, like: "Inputs | None" = None
    ) -> None:
        """like: inputs whose kept images and features are reused if they are of the same data."""
        self.experiment = experiment
        self.root = root
        self.device = device
        self._cautions: list[str] = []
        self._views: dict[tuple[AspectKept | None, Resampling], Views] = {}
        self._features: dict[tuple[Encoder, AspectKept | None], FrozenFeatures] = {}
        if like is not None and like.experiment.suite.data == experiment.suite.data:
            self._views, self._features, self._cautions = like._views, like._features, like._cautions

    # ------------------------------------------------------------------------------------- before the first job

    def check_data(self, callback: Callback) -> None:
        """Reads every frame of the splits in use once, unless that was done before for the same data and demands.

        Raises DataError listing the frames that cannot be used, ConfigError where they are too few for every training.
        """
        self._refuse_too_few_frames()
        experiment, suite = self.experiment, self.experiment.suite
        queries = max(composition.train.queries for composition in experiment.compositions)
        demands = {"queries": queries, "max_k": max(*suite.eval.k, VALIDATION_QUERIES)}
        splits = self.splits_in_use
        some = [] if splits == SPLITS else [splits]
        seen = records.sha256([experiment.data.digest(), experiment.protocol.identity(), demands, *some])
        mark = self.root / CHECKED / f"{seen[:16]}.json"
        if (known := records.find(mark, CheckedRecord)) is None:
            found = check_frames(
                experiment.data, experiment.protocol, **demands, on_frame=callback.on_frame, splits=splits
            )
            known = CheckedRecord(
                dataset=experiment.data.describe(), queries=queries, max_k=demands["max_k"], cautions=found
            )
            records.write_record(mark, known)
        self._cautions = known.get("cautions", [])

    @property
    def about_data(self) -> str:
        """The data set in one line, with what its check found, as it stands above tables."""
        return "; ".join([self.experiment.data.describe(), *(f"CAUTION: {caution}" for caution in self._cautions)])

    @cached_property
    def splits_in_use(self) -> tuple[str, ...]:
        """The splits that the jobs read: test alone where no row trains or takes a prior from training depth."""
        experiment = self.experiment
        rows = [job.composition for job in experiment.jobs if not job.failure]
        trains = any(experiment.is_trained(row) for row in rows)
        learns = any(experiment.learns(row) for row in rows)
        return SPLITS if trains else ("train", "test") if learns else ("test",)

    def _refuse_too_few_frames(self) -> None:
        """Raises ConfigError where every training asks for larger batches than there are frames."""
        jobs = [job for job in self.experiment.jobs if not job.failure]
        trained = [job for job in jobs if self.experiment.is_trained(job.composition)]
        frames = len(self.experiment.data.frames("train")) if trained else 0
        if frames and all(job.composition.train.batch_size > frames for job in trained):
            self._steps_per_epoch(trained[0])

    def build_features(self, callback: Callback) -> None:
        """With `data.cache: disk`, encodes what the unfinished jobs will read and is not there yet.

        Raises ResourceError where the disk or the limit is too small; `on_message` gets the sizes before.
        """
        suite = self.experiment.suite
        wanted: dict[StoredFeatures, set[Pass]] = {}
        for job in self.experiment.jobs if suite.data.cache == "disk" else []:
            own_input = self.experiment.own_input(job.composition)
            if not job.failure and not own_input and not RunFolder(self.root, job).is_done:
                features = self._features_of(self.experiment.encoder_of(job.composition))
                assert isinstance(features, StoredFeatures)
                wanted.setdefault(features, set()).update(self._passes(job))
        build(
            wanted,
            limit_gb=suite.data.cache_limit_gb,
            workers=suite.train.workers,
            tell=callback.on_message,
            on_view=callback.on_view,
        )

    def _passes(self, job: Job) -> set[Pass]:
        """Which views of which splits a job reads."""
        passes = {Pass("test")}
        if self.experiment.is_trained(job.composition) and not RunFolder(self.root, job).is_trained:
            passes.add(Pass("val"))
            views = self._views_for(self.experiment.encoder_of(job.composition), None)
            first = self.experiment.data.frames("train")[0]
            for epoch in range(math.ceil(self.optimisation(job).steps / self._steps_per_epoch(job))):
                view = views.training(first, seed=job.seed, epoch=epoch)
                passes.add(Pass("train", view.seed, view.number))
        return passes

    # ------------------------------------------------------------------------------------------------- training

    def optimisation(self, job: Job) -> Optimisation:
        """The training recipe of a job, with epochs as steps."""
        recipe = job.composition.train
        epoch = self._steps_per_epoch(job)
        steps = recipe.steps or recipe.epochs * epoch  # type: ignore[operator]
        marks = {round(steps * (i + 1) / recipe.validations) for i in range(recipe.validations)}
        return Optimisation(
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

    def batches(self, job: Job, model: PointDepthModel) -> BatchPlan:
        """The training batches of a job; the same for every composition that shares seed and sizes."""
        recipe = job.composition.train
        return BatchPlan(
            views=self.views_of(model),
            frames=self.experiment.data.frames("train"),
            sampler=self.experiment.sampler,
            batch_size=recipe.batch_size,
            queries=recipe.queries,
            seed=job.seed,
            steps=self.optimisation(job).steps,
        )

    @cached_property
    def sample(self) -> TrainingSample:
        """Depths and camera views of a sample of the training frames, for priors and for records."""
        return sample_training(self.experiment.data)

    # ------------------------------------------------------------------------------- features and scored images

    def views_of(self, model: PointDepthModel) -> Views:
        """Frames as a model's encoder takes them: at the suite's input size or the model's own."""
        return self._views_for(model.encoder, model.own_input)

    def _views_for(self, encoder: Encoder, own_input: AspectKept | None) -> Views:
        key, about = (own_input, encoder.resampling), self.experiment.suite.data
        if key not in self._views:
            self._views[key] = Views(
                self.experiment.data,
                image_size=own_input or about.image_size,
                augmentation=about.augment,
                resampling=encoder.resampling,
            )
        return self._views[key]

    def frozen(self, model: PointDepthModel) -> FrozenFeatures:
        """The features of a model's encoder, shared by all models on it that take the same input size."""
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

    def images(self, model: PointDepthModel, split: str, *, max_k: int, k1_draws: int) -> ScoredImages:
        """The images of a split as a model takes them, with query points: max_k in draw 0, one in each other draw."""
        return ScoredImages(
            views=self.views_of(model),
            frames=self.experiment.data.frames(split),
            protocol=self.experiment.protocol,
            max_k=max_k,
            k1_draws=k1_draws,
            seed=self.experiment.suite.eval.seed,
        )

    def probe(self, model: PointDepthModel) -> Probe:
        """A few evenly spaced validation images with queries, as this model's encoder sees them."""
        images = self.images(model, VALIDATION, max_k=PROBE_QUERIES, k1_draws=1)
        every = np.linspace(0, len(images) - 1, min(len(images), PROBE_IMAGES)).round().astype(int)
        chosen = [images[int(i)] for i in np.unique(every)]
        shown_B3HW = unit_range(torch.stack([image.image_3HW for image in chosen]).to(self.device))
        maps = self.frozen(model).of([image.view for image in chosen], shown_B3HW)
        return Probe(shown_B3HW, maps, torch.stack([image.xy_P2 for image in chosen]).to(self.device))
