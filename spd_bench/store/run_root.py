"""The JSON records below a run root, as types; `docs/run_folder.md` says where each lies and what it vouches for.

`records.read` and `records.find` read them and refuse a record that lacks a required key. `NotRequired` are keys that
no reader needs, or that earlier versions did not write.
"""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict

Identity = Mapping[str, Any]
"""What a training or an evaluation depends on (`suite.identity`): nested mappings of plain values."""

RUN, TRAINED, SCORES, FAILED = "run.json", "done.json", "scores.json", "failed.json"
"""Names of the records in a run folder."""
TRAININGS, EXTERNAL, CHECKED, SUITES, REPORTS = "trained", "external", "checked", "suites", "reports"
"""Folders below a run root."""
TRACKING = "tracking.json"
"""Record of a run root."""


class RunRecord(TypedDict):
    """`trained/*/run.json`: what is trained."""

    composition: NotRequired[str]
    difference: NotRequired[str]
    seed: NotRequired[int]
    device: NotRequired[str]
    train_id: NotRequired[str]
    """SHA-256 of `identity`."""
    identity: Identity
    trainable_parameters: int
    parameters_by_slot: NotRequired[dict[str, int]]
    stand_ins: NotRequired[list[str]]


class TrainedRecord(TypedDict):
    """`trained/*/done.json`: the log of a finished training."""

    rows: list[tuple[int, dict[str, float]]]
    """(step, {name: value}), one per epoch and per validation."""
    sums: NotRequired[dict[str, float]]
    summed: NotRequired[int]
    seconds: float
    files: NotRequired[dict[str, str]]
    """`checkpoint.pt` and its SHA-256."""


class CostRecord(TypedDict):
    """Costs of one image, measured during an evaluation (`score.predict.Cost`, `cost.meter.Costs`)."""

    prepare_ms: float
    decode_ms: float
    points: int
    input_sizes: NotRequired[list[str]]
    """Rows×columns of the images that the encoder was given, each size once."""
    decode_ms_at_k: NotRequired[dict[str, float]]
    prepare_macs: NotRequired[float]
    decode_macs_at_k: NotRequired[dict[str, float]]
    peak_bytes: NotRequired[int]
    peak_k: NotRequired[int]


class ScoresRecord(TypedDict):
    """`scores.json` of an evaluation (`eval-*`), of a sweep's validation (`val-*`) or of external predictions."""

    identity: NotRequired[Identity]
    images: int
    seconds: NotRequired[float]
    scores: dict[str, float]
    """"metric@K" → value."""
    cost: NotRequired[CostRecord]
    all_pixels: NotRequired[Mapping[str, float] | None]
    files: NotRequired[dict[str, str]]
    """`predictions.h5` and its SHA-256."""


class ExternalRecord(TypedDict):
    """`external/*/run.json`: whose predictions were scored, and how they were read."""

    composition: str
    difference: str
    gt_aligned: bool
    stand_ins: list[str]
    judge: str
    identity: Identity
    dataset: NotRequired[str]
    protocol: NotRequired[str]


class FailureRecord(TypedDict):
    """`trained/*/failed.json`: why a job failed, for the other processes of the same session."""

    cause: str
    session: str


class CheckedRecord(TypedDict):
    """`checked/*.json`: data whose every frame has been read once, and what was asked of them."""

    dataset: str
    queries: int
    max_k: int


class SuiteRow(TypedDict):
    """One job of a suite: which folder has its numbers, or why it failed."""

    composition: str
    kind: Literal["base", "ablation", "baseline", "external"]
    axis: str
    difference: str
    aliases: list[list[str]]
    """(axis, name) of the other compositions that are the same."""
    gt_aligned: bool
    stand_ins: list[str]
    own_input: NotRequired[str]
    """Rule of a released model's own input size; "" where the suite's counts."""
    seed: int | None
    """None for external predictions, which `report.collect.recorded` adds."""
    folder: str
    """Relative to the run root."""
    evaluation: str
    """Folder below `folder`."""
    failure: str


class SuiteRecord(TypedDict):
    """`suites/*.json`: the folders that the latest table of a suite is made of."""

    suite: dict[str, Any]
    """The resolved suite."""
    profile: str | None
    why_fallback: NotRequired[str]
    finished: str
    dataset: str
    protocol: str
    averaging: NotRequired[str]
    judge: NotRequired[str]
    stand_ins: list[str]
    provenance: dict[str, str]
    tracked: NotRequired[dict[str, str | None]]
    """Earlier versions: MLflow store → id of the suite's run."""
    unfinished: NotRequired[int]
    rows: list[SuiteRow]


class ComparedRecord(SuiteRecord, total=False):
    """A record with full paths and external rows (`report.collect.recorded`), or several as one (`report.sources`)."""

    reference: str | None
    """The row that others are compared with."""
    asked: list[str]
    """The row that stands for each argument of `compare`."""
    sources: list[str]
    """A line for each argument of `compare`."""


class TrackingRecord(TypedDict):
    """`tracking.json`: the name by which MLflow tells this run root from others in the same store."""

    root: str
