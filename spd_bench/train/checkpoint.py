"""checkpoint.pt: weights, the optimiser's state until the end, and the log, sealed with a checksum."""

import hashlib
import io
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from spd_bench.api import PointDepthModel
from spd_bench.errors import StateError
from spd_bench.store import sealed
from spd_bench.train.log import TrainingLog

CHECKPOINT = "spd-bench checkpoint"
"""Kind of file that the seal of a checkpoint names."""
CHECKPOINT_FORMAT = 1
LOST = "restore it from a copy, or delete its folder: the same command then trains it anew"


def save(
    path: Path, model: PointDepthModel, optimiser: torch.optim.Optimizer | None, step: int, log: TrainingLog
) -> str:
    """Writes a checkpoint without the frozen encoder; returns the file's SHA-256.

    The file holds tensors and plain values only, so that `torch.load(weights_only=True)` reads it.
    """
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    state = {
        "format": CHECKPOINT_FORMAT,
        "step": step,
        "model": weights,
        "optimiser": optimiser.state_dict() if optimiser else None,
        "log": asdict(log),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return sealed.write_archive(path, CHECKPOINT, buffer.getvalue())


def load_weights(path: Path, model: PointDepthModel, *, digest: str | None = None) -> dict[str, Any]:
    """Loads a checkpoint's weights into `model`; returns the checkpoint.

    digest: the SHA-256 that the file must have. Raises StateError if it is damaged, newer than this version, or does
    not fit the model.
    """
    try:
        content = path.read_bytes()
        sealed.check_archive(content, CHECKPOINT)  # torch.load itself compares no checksum
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it is not the one that the finished training wrote")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if (found := int(state.get("format", 0))) > CHECKPOINT_FORMAT:
            raise ValueError(f"a newer spd-bench wrote it, in format {found}, this one knows {CHECKPOINT_FORMAT}")
        missing, unexpected = model.load_state_dict(state["model"], strict=False)
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise StateError(
            f"cannot be read ({type(error).__name__}: {cause})",
            where=str(path),
            hint=LOST if digest is not None else "delete it and run again",
        ) from error
    missing = [name for name in missing if not name.startswith("encoder.")]
    if missing or unexpected:
        raise StateError(
            f"does not fit the model: missing {missing[:3]}, unexpected {list(unexpected)[:3]}",
            where=str(path),
            hint="delete it and run again",
        )
    return state


def restore(path: Path, model: PointDepthModel, optimiser: torch.optim.Optimizer) -> tuple[int, TrainingLog]:
    """Loads a checkpoint into `model` and `optimiser`; returns the number of steps done and the log."""
    state = load_weights(path, model)
    if state["optimiser"] is not None:  # the checkpoint of a finished training keeps its weights only
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), TrainingLog.from_state(state["log"])
