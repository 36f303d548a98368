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
    """Name in its suite."""
    difference: NotRequired[str]
    """What sets it apart from the base; "" for the base."""
    seed: NotRequired[int]
    """Seed of the training."""
    device: NotRequired[str]
    """Device, its kind and the number of threads."""
    train_id: NotRequired[str]
    """SHA-256 of `identity`."""
    identity: Identity
    """Everything that the training depends on."""
    trainable_parameters: int
    """Number of trained parameters."""
    parameters_by_slot: NotRequired[dict[str, int]]
    """The same by slot."""
    stand_ins: NotRequired[list[str]]
    """What stands in for what."""
    trained_on: NotRequired[dict[str, Any]]
    """The data set in one line, and sizes and depths of its training frames."""
    local_options: NotRequired[dict[str, dict[str, Any]]]
    """Slot → options that name files of the machine of the training."""


class TrainedRecord(TypedDict):
    """`trained/*/done.json`: the log of a finished training."""

    rows: list[tuple[int, dict[str, float]]]
    """(step, {name: value}), one per epoch and per validation."""
    sums: NotRequired[dict[str, float]]
    """Sums since the last row."""
    summed: NotRequired[int]
    """Number of steps in `sums`."""
    seconds: float
    """Seconds of training."""
    files: NotRequired[dict[str, str]]
    """`checkpoint.pt` and its SHA-256."""


class CostRecord(TypedDict):
    """Costs of one image, measured during an evaluation (`score.predict.Cost`, `cost.meter.Costs`)."""

    prepare_ms: float
    """T_prepare, the median in milliseconds."""
    decode_ms: float
    """Time of one decode of `points` points."""
    points: int
    """Number of points of that decode."""
    input_sizes: NotRequired[list[str]]
    """Rows×columns of the images that the encoder was given, each size once."""
    decode_ms_at_k: NotRequired[dict[str, float]]
    """K → T_decode(K) in milliseconds."""
    prepare_macs: NotRequired[float]
    """Multiply-adds of prepare."""
    decode_macs_at_k: NotRequired[dict[str, float]]
    """K → multiply-adds of decode(K)."""
    peak_bytes: NotRequired[int]
    """Most bytes held beside model and features."""
    peak_k: NotRequired[int]
    """K at which `peak_bytes` was measured."""


class ScoresRecord(TypedDict):
    """`scores.json` of an evaluation (`eval-*`), of a sweep's validation (`val-*`) or of external predictions."""

    identity: NotRequired[Identity]
    """Everything that the evaluation depends on."""
    images: int
    """Number of images."""
    seconds: NotRequired[float]
    """Seconds of the evaluation."""
    scores: dict[str, float]
    """"metric@K" → value."""
    cost: NotRequired[CostRecord]
    """Costs of one image; external predictions have none."""
    all_pixels: NotRequired[Mapping[str, float] | None]
    """External predictions: metric → value over all valid pixels."""
    files: NotRequired[dict[str, str]]
    """`predictions.h5` and its SHA-256."""


class ExternalRecord(TypedDict):
    """`external/*/run.json`: whose predictions were scored, and how they were read."""

    composition: str
    """Name in tables."""
    difference: str
    """Which files these are, and how they were read."""
    gt_aligned: bool
    """Whether they were fitted to ground truth (R-27)."""
    stand_ins: list[str]
    """What stands in for what."""
    judge: str
    """Identity of the test."""
    identity: Identity
    """The files' digest and how they were read."""
    dataset: NotRequired[str]
    """The data set in one line."""
    protocol: NotRequired[str]
    """The protocol in one line."""


class FailureRecord(TypedDict):
    """`trained/*/failed.json`: why a job failed, for the other processes of the same session."""

    cause: str
    """Why, in one line."""
    session: str
    """The session in which it failed; another session tries again."""


class CheckedRecord(TypedDict):
    """`checked/*.json`: data whose every frame has been read once, and what was asked of them."""

    dataset: str
    """The data set in one line."""
    queries: int
    """Query points per training frame that were asked for."""
    max_k: int
    """Largest K that was asked for."""
    cautions: NotRequired[list[str]]
    """What tables must say of the data, such as a picture in two splits."""


class SuiteRow(TypedDict):
    """One job of a suite: which folder has its numbers, or why it failed."""

    composition: str
    """Name in the table."""
    kind: Literal["base", "ablation", "baseline", "external"]
    """What the row is."""
    axis: str
    """Axis that asked for it; "" for the base and baselines."""
    difference: str
    """What sets it apart from the base."""
    aliases: list[list[str]]
    """(axis, name) of the other compositions that are the same."""
    gt_aligned: bool
    """Whether ground truth enters its predictions (R-27)."""
    stand_ins: list[str]
    """What stands in for what in this row."""
    own_input: NotRequired[str]
    """Rule of a released model's own input size; "" where the suite's counts."""
    seed: int | None
    """None for external predictions, which `report.collect.recorded` adds."""
    folder: str
    """Relative to the run root."""
    evaluation: str
    """Folder below `folder`."""
    failure: str
    """Why there is no result; "" if there is one, UNFINISHED for a job to come."""


class SuiteRecord(TypedDict):
    """`suites/*.json`: the folders that the latest table of a suite is made of."""

    suite: dict[str, Any]
    """The resolved suite."""
    profile: str | None
    """Profile of the suite; None without one."""
    why_fallback: NotRequired[str]
    """Why a fall-back profile was taken."""
    finished: str
    """UTC time of writing."""
    dataset: str
    """The data set in one line."""
    protocol: str
    """The protocol in one line."""
    averaging: NotRequired[str]
    """How the protocol averages."""
    judge: NotRequired[str]
    """Identity of the test: rows compare where it is equal."""
    stand_ins: list[str]
    """What stands in for what in every row."""
    provenance: dict[str, str]
    """Versions, revision, machine, command."""
    tracked: NotRequired[dict[str, str | None]]
    """Earlier versions: MLflow store → id of the suite's run."""
    unfinished: NotRequired[int]
    """Number of rows that are UNFINISHED."""
    rows: list[SuiteRow]
    """One row per composition and seed."""


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
    """Random name."""
