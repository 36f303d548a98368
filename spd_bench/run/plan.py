"""A suite → everything that a run of it needs: data set, encoder, and the jobs with their identities.

What a training depends on and what an evaluation depends on are hashed apart: a new K evaluates again and trains
nothing. Names, places, numbers of workers and paths are not part of either (docs/adr/0003-identity.md).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from spd_bench import registry
from spd_bench.api import AspectKept, Component, Encoder, Features, PointDepthModel
from spd_bench.errors import SpdError
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.model.matching import matched
from spd_bench.process.watch import Watch
from spd_bench.run.choose import EVERYTHING
from spd_bench.run.quarantine import Quarantine, undisturbed
from spd_bench.score.judge import Judge, _component
from spd_bench.store import records
from spd_bench.suite import axes
from spd_bench.suite.axes import CompositionSpec, Selection
from spd_bench.suite.checks import check_options
from spd_bench.suite.identity import FORMAT
from spd_bench.suite.schema import WITHOUT_EFFECT, Choice, Suite


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and evaluation: a composition under one seed, with its two identities (SHA-256, hexadecimal).

    failure: why it cannot be begun, "" if it can; the identities then only tell it from the others.
    """

    composition: CompositionSpec
    seed: int
    train_identity: Mapping[str, Any]
    eval_identity: Mapping[str, Any]
    failure: str = ""

    @cached_property
    def train_id(self) -> str:
        """Identity of the training."""
        return records.sha256(self.train_identity)

    @cached_property
    def eval_id(self) -> str:
        """Identity of the evaluation, which includes the training's."""
        return records.sha256([self.train_id, self.eval_identity])

    @property
    def name(self) -> str:
        """For people: composition and seed."""
        return f"{self.composition.name} seed {self.seed}"


def build_model(composition: CompositionSpec, encoder: Encoder, *, seed: int) -> PointDepthModel:
    """A fresh model of a composition on an encoder that is built already."""

    def part(slot: str, choice: Choice) -> ChosenPart:
        return ChosenPart(choice.use, check_options(choice, slot), composition.places.get(slot))

    if composition.baseline is not None:
        return compose.build_baseline(part("baseline", composition.baseline), encoder, seed=seed)
    parts = {slot: part(slot, choice) for slot, choice in composition.slots.items() if slot != "encoder"}
    return compose.build(parts, encoder, seed=seed, ffn=composition.ffn)


def with_width(composition: CompositionSpec, base: CompositionSpec, encoder: Encoder) -> CompositionSpec:
    """The composition, ready to be built: a parameter-matched control gets its width. `encoder`: that of both."""

    def count(made: CompositionSpec) -> int:
        return sum(parameter.numel() for _, parameter in build_model(made, encoder, seed=0).trainable())

    return matched(composition, base, count)


class Experiment:
    """A suite with its data set opened, its encoder built, its models checked and its jobs listed.

    Raises ConfigError or DataError, before anything is trained, for whatever cannot run.
    """

    def __init__(
        self,
        suite: Suite,
        *,
        selection: Selection = EVERYTHING,
        encoders: dict[str, Encoder] | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`encoders`: those of an experiment before, so that what they have encoded need not be encoded again.

        watch: that of a run. A composition that a component of its own keeps from being planned is then left out: its
        jobs have failed before they begin. Without a run it is a PluginError.
        """
        self.suite = suite
        self.encoders = {} if encoders is None else encoders
        self._quarantine = Quarantine(watch)
        self._gt_aligned: set[str] = set()
        self._encoded: dict[Encoder, Features] = {}
        found = self._quarantine.compositions(suite)
        self.compositions = [self._checked(composition, found[0]) for composition in selection.to_run(found)]
        self.judge = Judge.of(suite)
        self.data, self.protocol, self.metrics = self.judge.data, self.judge.protocol, self.judge.metrics
        self.sampler = _component(suite, "query_sampler", suite.data.query_sampler, "data", "query_sampler")
        self.jobs = [job for composition in self.compositions for job in self._jobs(composition)]

    def model(self, composition: CompositionSpec, seed: int) -> PointDepthModel:
        """A fresh model of a composition, on its own encoder."""
        with undisturbed():
            return build_model(composition, self.encoder_of(composition), seed=seed)

    def encoder_of(self, composition: CompositionSpec) -> Encoder:
        """The encoder of a composition, built once and shared by all that name the same."""
        choice, key = composition.slots["encoder"], _encoder_key(composition)
        if key not in self.encoders:
            place = composition.places.get("encoder")
            self.encoders[key] = compose.build_encoder(ChosenPart(choice.use, check_options(choice, "encoder"), place))
        return self.encoders[key]

    def loss_of(self, composition: CompositionSpec) -> Any:
        """The loss that a composition is trained with."""
        choice = composition.train.loss
        return registry.load("loss", choice.use)(check_options(choice, "loss"))

    def _checked(self, composition: CompositionSpec, base: CompositionSpec) -> CompositionSpec:
        """The composition, with its width, once its model has been built and run without data."""

        def check() -> CompositionSpec:
            made = with_width(composition, base, self.encoder_of(composition))
            model = self.model(made, seed=0)
            encoded, size = self._encoded.get(model.encoder), self.suite.data.image_size
            self._encoded[model.encoder] = compose.check(model, name=made.name, image_size=size, features=encoded)
            if model.gt_aligned:
                self._gt_aligned.add(made.name)
            return made

        try:
            return self._quarantine.attempt(composition, check) or composition
        except SpdError as error:
            raise error.at(composition.where or self.suite.suite) from None

    def stand_ins(self, composition: CompositionSpec) -> list[str]:
        """What stands in for the real thing in a composition; nothing where that is left out."""
        if composition.name in self._quarantine.failures:
            return []
        parts: list[Component | type[Component]] = [self.encoder_of(composition), self.data]
        if composition.baseline is not None:
            parts.append(registry.load("baseline", composition.baseline.use))
        return [part.stand_in for part in parts if part.stand_in]

    def is_trained(self, composition: CompositionSpec) -> bool:
        """Whether training changes anything in it."""
        return axes.trains(composition)

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
        suite = self.suite
        train = composition.train.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "loss"})
        train_identity = {
            "format": FORMAT,
            "model": self._model_identity(composition),
            "encoder": self._encoder_identity(composition),
            "train": train | _slot_identity({"loss": composition.train.loss}),
            "data": self._data_identity(self.own_input(composition))
            | {"augment": suite.data.augment.model_dump(mode="json")}
            | ({"features": "float16"} if suite.data.cache == "disk" else {})
            | _slot_identity({"query_sampler": suite.data.query_sampler}),
            "seed": seed,
        }
        return Job(
            composition=composition,
            seed=seed,
            train_identity=train_identity,
            eval_identity=self.judge.identity | self._computed_by(composition),
        )

    def _model_identity(self, composition: CompositionSpec) -> dict[str, Any]:
        baseline = composition.baseline
        if baseline is None:
            widths = {} if composition.ffn is None else {"dims": {"ffn": composition.ffn}}
            return _slot_identity({s: c for s, c in composition.slots.items() if s != "encoder"}) | widths
        trained_as = registry.load("baseline", baseline.use).trained_as or baseline.use
        return _slot_identity({"baseline": Choice(use=trained_as, options=baseline.options)})

    def _computed_by(self, composition: CompositionSpec) -> dict[str, Any]:
        """For a baseline that shares another's training: its own identity, so that it is scored and timed itself."""
        baseline = composition.baseline
        shared = baseline is not None and registry.load("baseline", baseline.use).trained_as is not None
        return {"computed_by": _slot_identity({"baseline": baseline})} if baseline is not None and shared else {}

    def features_identity(self, encoder: Encoder) -> dict[str, Any]:
        """Everything that changes the frozen features of frames as they are; `encoder` is one of `encoder_of`."""
        composition = next(c for c in self.compositions if self.encoders.get(_encoder_key(c)) is encoder)
        return {"harness": FORMAT, "encoder": self._encoder_identity(composition), "data": self._data_identity()}

    def _encoder_identity(self, composition: CompositionSpec) -> dict[str, Any]:
        weights = self.encoder_of(composition).digest()
        return _slot_identity({"encoder": composition.slots["encoder"]}) | {"weights": weights}

    def _data_identity(self, own_input: AspectKept | None = None) -> dict[str, Any]:
        size = self.suite.data.image_size
        return {
            "dataset": self.suite.data.dataset.use,
            "version": self.data.version,
            "digest": self.data.digest(),
            "image_size": list(size) if own_input is None else asdict(own_input),
        }


def _encoder_key(composition: CompositionSpec) -> str:
    """The same for compositions that share an encoder."""
    return records.sha256(composition.slots["encoder"].plain())


def _slot_identity(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Name, version and every option of each component; options that are places on this machine excepted."""
    identity = {}
    for slot, choice in choices.items():
        component = registry.load(slot, choice.use)
        config = check_options(choice, slot)
        options = config.model_dump(mode="json", exclude=set(component.places))
        identity[slot] = {"use": choice.use, "version": component.version, "options": options}
    return identity


def local_options(composition: CompositionSpec) -> dict[str, dict[str, Any]]:
    """Of each component, the options that say where something lies on this machine, as far as they are given."""
    chosen = composition.slots if composition.baseline is None else {"baseline": composition.baseline}
    choices = {"encoder": composition.slots["encoder"], **chosen}
    found = {}
    for slot, choice in choices.items():
        names = registry.load(slot, choice.use).places
        if given := {name: value for name, value in choice.options.items() if name in names and value is not None}:
            found[slot] = given
    return found


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("spd-bench", "torch", "numpy", "scipy", "h5py", "transformers")}
