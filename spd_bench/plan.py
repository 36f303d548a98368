"""A suite → everything that a run of it needs: data set, encoder, and the jobs with their identities.

What a training depends on and what an evaluation depends on are hashed apart: a new K evaluates again and trains
nothing. Names, places, numbers of workers and paths are not part of either (docs/adr/0003-identity.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from spd_bench import compose, files, registry
from spd_bench.ablate import Composition, compositions
from spd_bench.api import Component, DepthDataset, Encoder, PointDepthModel
from spd_bench.compose import Part
from spd_bench.data.elsewhere import TestElsewhere
from spd_bench.errors import DataError, SpdError
from spd_bench.metrics import Metric
from spd_bench.protocol import Protocol, protocol
from spd_bench.suite import Choice, Suite, check_options, load_suite

FORMAT = 1
"""Raise it when the harness itself computes something else from the same configuration."""


def missing(suite: Suite) -> list[str]:
    """What this machine lacks for a suite, one line each with how to get it; empty if nothing."""
    wanted = [("dataset", suite.data.dataset), ("encoder", suite.base.encoder)]
    wanted += [("dataset", suite.data.test)] if suite.data.test is not None else []
    wanted += [("baseline", choice) for choice in suite.baselines]
    found = []
    for slot, choice in wanted:
        component, config = registry.load(slot, choice.use), check_options(choice, slot)
        lacks = [component.missing(config)] if hasattr(component, "missing") else []
        own = component.own_encoder(config) if hasattr(component, "own_encoder") else None
        if own is not None:
            encoder = Choice.read(own)
            lacks.append(registry.load("encoder", encoder.use).missing(check_options(encoder, "encoder")))
        found += [lack for lack in lacks if lack and lack not in found]
    return found


@dataclass(frozen=True)
class Chosen:
    """A suite ready to run, and why a fallback profile was taken ("" if none was)."""

    suite: Suite
    why: str = ""


def choose(
    path_or_name: str | Path, *, profile: str | None, sets: Sequence[str] = (), data: str | Path | None = None
) -> Chosen:
    """The suite in the asked profile; without one, the suite itself or, where something is missing, its fallback.

    Raises DataError, saying what is missing and how to get it, where nothing may be substituted.
    """
    suite = load_suite(path_or_name, profile=profile, sets=sets, data=data)
    lacks = missing(suite)
    if not lacks:
        return Chosen(suite)
    if profile is None and suite.fallback is not None:
        fallback = load_suite(path_or_name, profile=suite.fallback.profile, sets=sets, data=data)
        if not missing(fallback):
            return Chosen(fallback, "; ".join(lacks))
        lacks = missing(fallback)
    raise DataError(
        "cannot run here:\n  " + "\n  ".join(lacks),
        where=suite.suite + (f" --profile {profile}" if profile else ""),
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and evaluation: a composition under one seed, with its two identities (SHA-256, hexadecimal)."""

    composition: Composition
    seed: int
    train_identity: Mapping[str, Any]
    eval_identity: Mapping[str, Any]

    @cached_property
    def train_id(self) -> str:
        """Identity of the training."""
        return files.sha256(self.train_identity)

    @cached_property
    def eval_id(self) -> str:
        """Identity of the evaluation, which includes the training's."""
        return files.sha256([self.train_id, self.eval_identity])

    @property
    def name(self) -> str:
        """For people: composition and seed."""
        return f"{self.composition.name} seed {self.seed}"


class Experiment:
    """A suite with its data set opened, its encoder built, its models checked and its jobs listed.

    Raises ConfigError or DataError, before anything is trained, for whatever cannot run.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.compositions = compositions(suite)
        self.protocol: Protocol = protocol(suite.eval.protocol, where=suite.place("eval", "protocol"))
        self.metrics: list[Metric] = [registry.load("metric", name)() for name in sorted(registry.names("metric"))]
        self._encoders: dict[str, Encoder] = {}
        self._gt_aligned: set[str] = set()
        self._check_models()
        self.data = self._open_data()
        self.sampler = self._component("query_sampler", suite.data.query_sampler, "data", "query_sampler")
        self.loss = self._component("loss", suite.train.loss, "train", "loss")
        self.jobs = [self._job(composition, seed) for composition in self.compositions for seed in suite.seeds]

    def _part(self, slot: str, choice: Choice, *keys: str) -> Part:
        return Part(choice.use, check_options(choice, slot, suite=self.suite, keys=keys), self.suite.place(*keys))

    def _component(self, slot: str, choice: Choice, *keys: str) -> Any:
        part = self._part(slot, choice, *keys)
        return registry.load(slot, part.name)(part.config)

    def model(self, composition: Composition, seed: int) -> PointDepthModel:
        """A fresh model of a composition."""
        if composition.baseline is not None:
            place = composition.places.get("baseline")
            part = Part(composition.baseline.use, check_options(composition.baseline, "baseline"), place)
            return compose.build_baseline(part, self.encoder_of(composition), seed=seed)
        parts = {
            slot: Part(choice.use, check_options(choice, slot), composition.places.get(slot))
            for slot, choice in composition.slots.items()
        }
        encoder = self.encoder_of(composition)
        parts.pop("encoder")
        return compose.build(parts, encoder, seed=seed)

    def encoder_of(self, composition: Composition) -> Encoder:
        """The encoder of a composition, built once and shared by all that name the same."""
        choice = composition.slots["encoder"]
        key = files.sha256(choice.plain())
        if key not in self._encoders:
            place = composition.places.get("encoder")
            self._encoders[key] = compose.build_encoder(Part(choice.use, check_options(choice, "encoder"), place))
        return self._encoders[key]

    def _open_data(self) -> DepthDataset:
        """The data set; with another one's test split where the suite says so."""
        about = self.suite.data
        data: DepthDataset = self._component("dataset", about.dataset, "data", "dataset")
        if about.test is None:
            return data
        return TestElsewhere(data, self._component("dataset", about.test, "data", "test"))

    def _check_models(self) -> None:
        for composition in self.compositions:
            try:
                model = self.model(composition, seed=0)
                if model.gt_aligned:
                    self._gt_aligned.add(composition.name)
                compose.check(model, name=composition.name, image_size=self.suite.data.image_size)
            except SpdError as error:
                raise error.at(composition.where or self.suite.suite) from None

    def stand_ins(self, composition: Composition) -> list[str]:
        """What stands in for the real thing in a composition."""
        parts: list[Component | type[Component]] = [self.encoder_of(composition), self.data]
        if composition.baseline is not None:
            parts.append(registry.load("baseline", composition.baseline.use))
        return [part.stand_in for part in parts if part.stand_in]

    def is_gt_aligned(self, composition: Composition) -> bool:
        """Whether ground truth of the scored image enters a composition's predictions (R-27)."""
        return composition.name in self._gt_aligned

    def _job(self, composition: Composition, seed: int) -> Job:
        suite = self.suite
        train = suite.train.model_dump(mode="json", exclude={"workers", "loss"})
        train_identity = {
            "format": FORMAT,
            "model": _slot_identity({s: c for s, c in composition.slots.items() if s != "encoder"})
            if composition.baseline is None
            else _slot_identity({"baseline": composition.baseline}),
            "encoder": _slot_identity({"encoder": composition.slots["encoder"]})
            | {"weights": self.encoder_of(composition).digest()},
            "train": train | _slot_identity({"loss": suite.train.loss}),
            "data": {
                "dataset": suite.data.dataset.use,
                "version": self.data.version,
                "digest": self.data.digest(),
                "image_size": list(suite.data.image_size),
                "augment": suite.data.augment.model_dump(mode="json"),
            }
            | _slot_identity({"query_sampler": suite.data.query_sampler}),
            "seed": seed,
        }
        eval_identity = {
            "format": FORMAT,
            "protocol": self.protocol.identity(),
            "k": list(suite.eval.k),
            "k1_draws": suite.eval.k1_draws,
            "seed": suite.eval.seed,
            "metrics": {metric.name: metric.version for metric in self.metrics},
        }
        return Job(composition=composition, seed=seed, train_identity=train_identity, eval_identity=eval_identity)


def _slot_identity(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Name, version and every option of each component; options that are places on this machine excepted."""
    identity = {}
    for slot, choice in choices.items():
        component = registry.load(slot, choice.use)
        config = check_options(choice, slot)
        options = config.model_dump(mode="json", exclude=set(component.places))
        identity[slot] = {"use": choice.use, "version": component.version, "options": options}
    return identity


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("spd-bench", "torch", "numpy", "scipy", "h5py", "transformers")}
