"""A suite → everything that a run of it needs: data set, encoders, checked models and jobs."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from spd_bench import registry
from spd_bench.api import AspectKept, Component, Encoder, Features, PointDepthModel
from spd_bench.errors import SpdError
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.model.matching import matched
from spd_bench.process.watch import Watch
from spd_bench.registry import PluginError
from spd_bench.run.planning import identity
from spd_bench.run.planning.checked import CheckedModels
from spd_bench.run.planning.job import Job
from spd_bench.run.planning.quarantine import Quarantine, undisturbed
from spd_bench.run.request import EVERYTHING
from spd_bench.run.tryout import try_loss, try_sampler
from spd_bench.score.judge import Judge, component
from spd_bench.store import records
from spd_bench.suite import axes
from spd_bench.suite.axes import CompositionSpec, Selection
from spd_bench.suite.checks import check_options
from spd_bench.suite.schema import Choice, Suite


def build_model(composition: CompositionSpec, encoder: Encoder, *, seed: int) -> PointDepthModel:
    """A fresh model of a composition on `encoder`; its initial weights follow from `seed`."""

    def part(slot: str, choice: Choice) -> ChosenPart:
        return ChosenPart(choice.use, check_options(choice, slot), composition.places.get(slot))

    if composition.baseline is not None:
        return compose.build_baseline(part("baseline", composition.baseline), encoder, seed=seed)
    parts = {slot: part(slot, choice) for slot, choice in composition.slots.items() if slot != "encoder"}
    return compose.build(parts, encoder, seed=seed, ffn=composition.ffn)


def with_width(composition: CompositionSpec, base: CompositionSpec, encoder: Encoder) -> CompositionSpec:
    """The composition, ready to be built: a parameter-matched control gets its width. encoder: that of both."""

    def count(made: CompositionSpec) -> int:
        return sum(parameter.numel() for _, parameter in build_model(made, encoder, seed=0).trainable())

    return matched(composition, base, count)


class Experiment:
    """A suite with its data set opened, its encoders built, its models checked and its jobs listed."""

    def __init__(
        self,
        suite: Suite,
        *,
        selection: Selection = EVERYTHING,
        encoders: dict[str, Encoder] | None = None,
        watch: Watch | None = None,
        on_checked: Callable[[int, int], None] = lambda done, total: None,
        has_run: Callable[[Job], bool] | None = None,
    ) -> None:
        """Raises ConfigError or DataError for whatever cannot run, before anything is trained.

        encoders: those of an experiment before, whose features are then shared. watch: that of a run; a composition
        whose own component fails in planning is then left out, and its jobs have failed before they begin. Without a
        watch such a failure raises PluginError. on_checked: gets how many compositions are checked, of how many.
        has_run: whether a job is finished; a composition that has run needs no check.
        """
        self.suite = suite
        self.encoders = {} if encoders is None else encoders
        self._quarantine = Quarantine(watch)
        self._gt_aligned: set[str] = set()
        self._encoded: dict[Encoder, Features] = {}
        self._models_checked = CheckedModels()
        self._job_has_run = has_run
        self._tried: set[str] = set()
        found = self._quarantine.compositions(suite)
        chosen = selection.to_run(found)
        self._on_checked, self._seen, self._count = on_checked, 0, len(chosen)
        self.compositions = [self._checked(composition, found[0]) for composition in chosen]
        self.data, self.protocol, self.metrics = self.judge.data, self.judge.protocol, self.judge.metrics
        self.sampler = component(suite, "query_sampler", suite.data.query_sampler, "data", "query_sampler")
        self._try_sampler()
        self.jobs = [job for composition in self.compositions for job in self._jobs(composition)]

    @cached_property
    def judge(self) -> Judge:
        """How the suite's models are judged: data, protocol and metrics. Raises DataError if the data are missing."""
        return Judge.of(self.suite)

    def _has_run(self, composition: CompositionSpec) -> bool:
        """Whether every job of a composition is finished."""
        has_run = self._job_has_run
        return has_run is not None and all(has_run(self._job(composition, seed)) for seed in self.suite.seeds)

    def model(self, composition: CompositionSpec, seed: int) -> PointDepthModel:
        """A fresh model of a composition on its own encoder."""
        with undisturbed():
            return build_model(composition, self.encoder_of(composition), seed=seed)

    def encoder_of(self, composition: CompositionSpec) -> Encoder:
        """The encoder of a composition; built once for all compositions that name the same."""
        choice, key = composition.slots["encoder"], _encoder_key(composition)
        if key not in self.encoders:
            place = composition.places.get("encoder")
            self.encoders[key] = compose.build_encoder(ChosenPart(choice.use, check_options(choice, "encoder"), place))
        return self.encoders[key]

    def loss_of(self, composition: CompositionSpec) -> Any:
        """The loss that a composition is trained with, configured."""
        choice = composition.train.loss
        return registry.load("loss", choice.use)(check_options(choice, "loss"))

    def _checked(self, composition: CompositionSpec, base: CompositionSpec) -> CompositionSpec:
        """The composition with its width; builds its model and runs it without data."""

        def check() -> CompositionSpec:
            made = with_width(composition, base, self.encoder_of(composition))
            if self._models_checked.aligned(made) is None:
                model = self.model(made, seed=0)
                if not (self._models_checked.alike(made, model) or self._has_run(made)):
                    known, size = self._encoded.get(model.encoder), self.suite.data.image_size
                    self._encoded[model.encoder] = compose.check(model, name=made.name, image_size=size, features=known)
                self._models_checked.add(made, model)
            if self.is_trained(made):
                self._try_loss(made)
            if self._models_checked.aligned(made):
                self._gt_aligned.add(made.name)
            return made

        try:
            done = self._quarantine.attempt(composition, check) or composition
            self._seen += 1
            self._on_checked(self._seen, self._count)
            return done
        except SpdError as error:
            raise error.at(composition.where or self.suite.suite) from None

    def _try_loss(self, composition: CompositionSpec) -> None:
        choice = composition.train.loss
        if (key := records.sha256(choice.plain())) not in self._tried:
            try_loss(self.loss_of(composition), choice.use)
            self._tried.add(key)

    def _try_sampler(self) -> None:
        """Raises PluginError for a sampler that fails for every training, placed in the suite."""
        if any(self.is_trained(composition) for composition in self.compositions):
            try:
                try_sampler(self.sampler, self.suite.data.query_sampler.use)
            except PluginError as error:
                raise error.at(self.suite.place("data", "query_sampler") or self.suite.suite) from None

    def stand_ins(self, composition: CompositionSpec) -> list[str]:
        """What stands in for the paper's parts in a composition; empty where the composition is left out."""
        if composition.name in self._quarantine.failures:
            return []
        parts: list[Component | type[Component]] = [self.encoder_of(composition), self.data]
        if composition.baseline is not None:
            parts.append(registry.load("baseline", composition.baseline.use))
        return [part.stand_in for part in parts if part.stand_in]

    def is_trained(self, composition: CompositionSpec) -> bool:
        """Whether training changes anything in a composition."""
        return axes.trains(composition)

    def learns(self, composition: CompositionSpec) -> bool:
        """Whether anything in a composition comes from training frames: trained weights, or a prior depth."""
        if self.is_trained(composition) or composition.baseline is None:
            return True
        made = registry.load("baseline", composition.baseline.use)
        return made.fit_prior is not PointDepthModel.fit_prior

    def own_input(self, composition: CompositionSpec) -> AspectKept | None:
        """The input size of a released model that a composition is; None where the suite's counts."""
        if composition.baseline is None or composition.name in self._quarantine.failures:
            return None
        own: AspectKept | None = registry.load("baseline", composition.baseline.use).own_input
        return own

    def is_gt_aligned(self, composition: CompositionSpec) -> bool:
        """Whether ground truth of the scored image enters a composition's predictions (R-27)."""
        return composition.name in self._gt_aligned

    def _jobs(self, composition: CompositionSpec) -> list[Job]:
        """The jobs of a composition, one per seed."""
        seeds = self.suite.seeds
        jobs = self._quarantine.attempt(composition, lambda: [self._job(composition, seed) for seed in seeds])
        return jobs or [self._left_out(composition, seed) for seed in seeds]

    def _left_out(self, composition: CompositionSpec, seed: int) -> Job:
        failure = self._quarantine.failures[composition.name]
        known = {"composition": composition.name, "failure": failure, "seed": seed}
        return Job(composition=composition, seed=seed, train_identity=known, eval_identity={}, failure=failure)

    def _job(self, composition: CompositionSpec, seed: int) -> Job:
        judged = self.judge.identity | identity.computed_by(composition)
        trained = identity.of_training(
            self.suite,
            composition,
            seed,
            data=self.judge.data,
            encoder=self.encoder_of(composition),
            own_input=self.own_input(composition),
        )
        return Job(composition=composition, seed=seed, train_identity=trained, eval_identity=judged)

    def features_identity(self, encoder: Encoder) -> dict[str, Any]:
        """Everything that changes the frozen features of frames as they are; `encoder` is one of `encoder_of`."""
        composition = next(c for c in self.compositions if self.encoders.get(_encoder_key(c)) is encoder)
        return identity.of_features(self.suite, composition, data=self.data, encoder=encoder)


def _encoder_key(composition: CompositionSpec) -> str:
    """A key that compositions on the same encoder share."""
    return records.sha256(composition.slots["encoder"].plain())
