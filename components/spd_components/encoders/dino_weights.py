"""Finds and reads the published weights of DINOv2 and DINOv3: `model.safetensors` of Hugging Face repositories."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spd_bench.errors import DataError
from spd_components.encoders.dav2_release import HUGGING_FACE_FILE
from spd_components.encoders.dav2_weights import read_tensors, refuse_non_finite

VARIABLE = "DINO_WEIGHTS"
"""Environment variable for a folder that holds a folder for each published repository."""
OF_THE_WHOLE_MODEL = ("layer_norm.", "pooler.")
"""First words of tensors that a published model has beside its backbone."""


def find_file(given: str | None, release: str) -> Path:
    """The file of weights: what the option `weights` names, else below DINO_WEIGHTS.

    Raises DataError, with how to get it, if there is none.
    """
    how = (
        f"download {HUGGING_FACE_FILE} of the public release facebook/{release}, its licence accepted, "
        f"as {release}/{HUGGING_FACE_FILE} into the folder that {VARIABLE} names, or give the option weights"
    )
    shared = os.environ.get(VARIABLE)
    if given is None and not shared:
        raise DataError(f"the weights {release} are needed and missing", hint=how)
    path = Path(given).expanduser() if given is not None else Path(str(shared)).expanduser() / release
    file = path / HUGGING_FACE_FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"no weights of {release} there", where=str(file), hint=how)
    return file


def backbone_with(path: Path, network: Any, config: Any, title: str) -> nn.Module:
    """transformers' backbone on the CPU with a file's weights.

    transformers fills missing tensors with random numbers and only logs that, so anything that it reports is a
    DataError, as are values that are not finite.
    """
    from transformers.utils import logging

    tensors = read_tensors(path)
    refuse_non_finite(tensors, path)
    state = {name: value for name, value in tensors.items() if not name.startswith(OF_THE_WHOLE_MODEL)}
    bar_was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with torch.device("cpu"):
            model, report = network.from_pretrained(None, config=config, state_dict=state, output_loading_info=True)
    except RuntimeError as error:
        raise DataError(f"does not fit {title}: {str(error)[:200]}", where=str(path)) from error
    finally:
        if bar_was_on:
            logging.enable_progress_bar()
    if wrong := {what: sorted(map(str, names))[:3] for what, names in report.items() if names}:
        listed = "; ".join(f"{what.replace('_', ' ')} {', '.join(names)}" for what, names in wrong.items())
        raise DataError(
            f"does not fit {title}: {listed}", where=str(path), hint="is it the file of another size or model?"
        )
    backbone: nn.Module = model
    return backbone
