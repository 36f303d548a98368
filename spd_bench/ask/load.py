"""From the folder of a run to a model that answers."""

from pathlib import Path

import torch

from spd_bench.ask.build import build_model
from spd_bench.ask.model import RunModel
from spd_bench.ask.record import read_run


def load_folder(folder: Path, *, device: torch.device) -> RunModel:
    """The model of a finished training. Raises as `record.read_run` and `build.build_model`."""
    run = read_run(folder)
    return RunModel(run, build_model(run, device), device)
