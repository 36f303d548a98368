"""Everything that the numbers of a job depend on, as plain values.

What a training and what an evaluation depend on are hashed apart: a new K evaluates again and trains nothing. Names,
places, numbers of workers and paths belong to neither (docs/adr/0003-identity.md).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spd_bench import registry
from spd_bench.api import AspectKept, DepthDataset, Encoder
from spd_bench.suite.axes import CompositionSpec
from spd_bench.suite.checks import check_options
from spd_bench.suite.identity import FORMAT
from spd_bench.suite.schema import WITHOUT_EFFECT, Choice, Suite


def of_training(
    suite: Suite,
    composition: CompositionSpec,
    seed: int,
    *,
    data: DepthDataset,
    encoder: Encoder,
    own_input: AspectKept | None,
) -> dict[str, Any]:
    """The identity of a composition's training under one seed; own_input: a released model's own input size."""
    train = composition.train.model_dump(mode="json", exclude={*WITHOUT_EFFECT, "loss"})
    return {
        "format": FORMAT,
        "model": _of_model(composition),
        "encoder": _of_encoder(composition, encoder),
        "train": train | of_components({"loss": composition.train.loss}),
        "data": _of_data(suite, data, own_input)
        | {"augment": suite.data.augment.model_dump(mode="json")}
        | ({"features": "float16"} if suite.data.cache == "disk" else {})
        | of_components({"query_sampler": suite.data.query_sampler}),
        "seed": seed,
    }


def of_features(suite: Suite, composition: CompositionSpec, *, data: DepthDataset, encoder: Encoder) -> dict[str, Any]:
    """The identity of the frozen features of frames as they are, on a composition's encoder."""
    return {"harness": FORMAT, "encoder": _of_encoder(composition, encoder), "data": _of_data(suite, data)}


def computed_by(composition: CompositionSpec) -> dict[str, Any]:
    """For a baseline that shares another's training: its own identity, so that it is scored and timed itself."""
    baseline = composition.baseline
    shared = baseline is not None and registry.load("baseline", baseline.use).trained_as is not None
    return {"computed_by": of_components({"baseline": baseline})} if baseline is not None and shared else {}


def of_components(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Slot → name, version and options of each component, without options that are places on this machine."""
    identity = {}
    for slot, choice in choices.items():
        component = registry.load(slot, choice.use)
        config = check_options(choice, slot)
        options = config.model_dump(mode="json", exclude=set(component.places))
        identity[slot] = {"use": choice.use, "version": component.version, "options": options}
    return identity


def local_options(composition: CompositionSpec) -> dict[str, dict[str, Any]]:
    """Slot → options of each component that are places on this machine, as far as the suite gives them."""
    chosen = composition.slots if composition.baseline is None else {"baseline": composition.baseline}
    choices = {"encoder": composition.slots["encoder"], **chosen}
    found = {}
    for slot, choice in choices.items():
        names = registry.load(slot, choice.use).places
        if given := {name: value for name, value in choice.options.items() if name in names and value is not None}:
            found[slot] = given
    return found


def _of_model(composition: CompositionSpec) -> dict[str, Any]:
    baseline = composition.baseline
    if baseline is None:
        widths = {} if composition.ffn is None else {"dims": {"ffn": composition.ffn}}
        return of_components({s: c for s, c in composition.slots.items() if s != "encoder"}) | widths
    trained_as = registry.load("baseline", baseline.use).trained_as or baseline.use
    return of_components({"baseline": Choice(use=trained_as, options=baseline.options)})


def _of_encoder(composition: CompositionSpec, encoder: Encoder) -> dict[str, Any]:
    return of_components({"encoder": composition.slots["encoder"]}) | {"weights": encoder.digest()}


def _of_data(suite: Suite, data: DepthDataset, own_input: AspectKept | None = None) -> dict[str, Any]:
    size = suite.data.image_size
    return {
        "dataset": suite.data.dataset.use,
        "version": data.version,
        "digest": data.digest(),
        "image_size": list(size) if own_input is None else asdict(own_input),
    }
