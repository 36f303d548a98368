"""A recorded training → its model with the trained weights, refused where it would compute something else."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from spd_bench import registry
from spd_bench.api import PointDepthModel
from spd_bench.ask.record import CHECKPOINT, TrainedRun, checkpoint_digest
from spd_bench.errors import ConfigError, DataError, StateError
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.train.checkpoint import load_weights

AGAIN = "install the version of it that trained the run, or train the run again"


def build_model(run: TrainedRun, device: torch.device) -> PointDepthModel:
    """The model of a run in evaluation mode on a device.

    Raises StateError for a component that is gone, has another version or other options, and for a checkpoint that is
    damaged or of another model; DataError for encoder weights that are missing or not those of the training;
    ConfigError for a model that needs ground truth of the image (R-27).
    """
    encoder = compose.build_encoder(_part(run, "encoder", run.identity["encoder"]["encoder"]))
    if encoder.digest() != run.identity["encoder"]["weights"]:
        raise DataError(
            "the weights of the encoder are not those that the run was trained on",
            where=str(run.folder),
            hint="point to the weights of the training, with DAV2_WEIGHTS for the released ones",
        )
    parts = {slot: _part(run, slot, about) for slot, about in run.identity["model"].items() if slot != "dims"}
    if "baseline" in parts:
        model = compose.build_baseline(parts["baseline"], encoder, seed=run.seed)
    else:
        ffn = run.identity["model"].get("dims", {}).get("ffn")
        model = compose.build(parts, encoder, seed=run.seed, ffn=ffn)
    if model.gt_aligned:
        raise ConfigError(
            f"{run.label} is aligned to the ground truth of each image, which an image of your own does not have",
            where=str(run.folder),
            hint="choose a run that is not GT-aligned",
        )
    load_weights(run.folder / CHECKPOINT, model, digest=checkpoint_digest(run))
    return model.to(device).eval()


def _part(run: TrainedRun, slot: str, about: Mapping[str, Any]) -> ChosenPart:
    """The component that the run was trained with. StateError unless it is installed in that very version."""
    named = f"{slot}: {about['use']}"
    try:
        component = registry.load(slot, about["use"])
    except ConfigError as error:
        raise StateError(f"{named} cannot be used: {error.message}", where=str(run.folder), hint=AGAIN) from error
    if component.version != about["version"]:
        found = f"version {component.version} of {named} is installed, the run was trained with {about['version']}"
        raise StateError(found, where=str(run.folder), hint=AGAIN)
    options = dict(about["options"]) | dict(run.local_options.get(slot, {}))
    try:
        config = component.Config.model_validate_json(json.dumps(options))
    except ValidationError as error:
        what = " ".join(str(error).split())[:200]
        raise StateError(f"{named} no longer takes its options: {what}", where=str(run.folder), hint=AGAIN) from error
    return ChosenPart(about["use"], config, str(run.folder))
