"""The record of a finished training, read from its folder without the data set that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_bench.errors import ConfigError, StateError
from spd_bench.store import records
from spd_bench.store.run_root import RUN, TRAINED, RunRecord, TrainedRecord
from spd_bench.suite.identity import FORMAT

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class TrainingRange:
    """What the frames of a training were like."""

    sizes: tuple[tuple[int, int], ...]
    """Sizes (height, width) of the training frames."""
    near_m: float
    """Smallest depth in metres that training saw, augmentation included."""
    far_m: float
    """Largest depth in metres that training saw, augmentation included."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished training as its folder records it."""

    folder: Path
    """The folder that holds `run.json` and `checkpoint.pt`."""
    composition: str
    """Name of the composition in its suite."""
    difference: str
    """What sets it apart from the base of its suite; "" for the base."""
    seed: int
    """Seed of the training."""
    identity: Mapping[str, Any]
    """Everything that the training depends on: components with version and options, recipe, data, seed."""
    image_size: tuple[int, int] | None
    """Input size of the network (height, width); None for a released model, which has a size of its own per image."""
    data: str
    """The data set that it was trained on, in one line."""
    stand_ins: tuple[str, ...]
    """What stood in for the real thing in training, one line each."""
    seen: TrainingRange | None
    """What the training frames were like; None where an earlier version made the record."""
    local_options: Mapping[str, Mapping[str, Any]]
    """Slot → options that say where files lie on the machine of the training."""

    @property
    def label(self) -> str:
        """Composition and seed, for people."""
        return f"{self.composition} seed {self.seed}"


def read_run(folder: Path) -> TrainedRun:
    """The record of a finished training.

    Raises ConfigError where `folder` holds no run; StateError for a training that is not finished, a damaged record,
    and one that a harness of another format wrote.
    """
    if not (folder / RUN).is_file():
        raise ConfigError("holds no run.json", where=str(folder), hint="name a folder below runs/trained, or SUITE/ROW")
    record = records.read(folder / RUN, RunRecord)
    if not (folder / TRAINED).is_file():
        raise StateError(
            "this training is not finished", where=str(folder), hint="give the command that started it again"
        )
    try:
        return _typed(folder, record)
    except (KeyError, TypeError, ValueError) as error:
        hint = "restore it from a copy, or train the run again"
        raise StateError(f"cannot be read as a run ({error!r})", where=str(folder / RUN), hint=hint) from error


def checkpoint_digest(run: TrainedRun) -> str | None:
    """The SHA-256 of the checkpoint that the finished training wrote; None where an earlier version recorded none."""
    return records.read(run.folder / TRAINED, TrainedRecord).get("files", {}).get(CHECKPOINT)


def _typed(folder: Path, record: RunRecord) -> TrainedRun:
    identity = record["identity"]
    if identity["format"] != FORMAT:
        raise StateError(
            f"was trained by a harness of format {identity['format']}, this one has format {FORMAT}",
            where=str(folder),
            hint="use the version of spd-bench that trained it, or train it again",
        )
    about = record.get("trained_on", {})
    size = identity["data"]["image_size"]
    return TrainedRun(
        folder=folder,
        composition=record["composition"],
        difference=record["difference"],
        seed=record["seed"],
        identity=identity,
        image_size=(size[0], size[1]) if isinstance(size, list) else None,
        data=about.get("data", identity["data"]["dataset"]),
        stand_ins=tuple(record["stand_ins"]),
        seen=_seen(about, identity["data"]["augment"]) if "sizes" in about else None,
        local_options=record.get("local_options", {}),
    )


def _seen(about: Mapping[str, Any], augment: Mapping[str, Any]) -> TrainingRange:
    """Sizes and depths of the frames, with the depths that a zoom by s made of them, d / s (R-18)."""
    low, high = augment["zoom"] if augment["enabled"] else (1.0, 1.0)
    if not augment["allow_padding"]:
        low, high = max(1.0, low), max(1.0, high)
    return TrainingRange(
        sizes=tuple((height, width) for height, width in about["sizes"]),
        near_m=about["depth_m"]["min"] / max(1.0, high),
        far_m=about["depth_m"]["max"] / min(1.0, low),
    )
