"""Run folders → `Comparison`: every table is made from records alone, without model or data set."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

from spd_bench import registry
from spd_bench.errors import ConfigError, StateError, did_you_mean, quoted
from spd_bench.protocol import POOLED
from spd_bench.report.comparison import Comparison, MetricInfo, Row
from spd_bench.score.judge import metric_names
from spd_bench.score.metrics import Metric
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED
from spd_bench.store.run_root import (
    EXTERNAL,
    RUN,
    SCORES,
    SUITES,
    TRAINED,
    ComparedRecord,
    CostRecord,
    ExternalRecord,
    RunRecord,
    ScoresRecord,
    SuiteRecord,
    SuiteRow,
    TrainedRecord,
)


def latest(root: Path) -> str:
    """Name of the suite that ran last below `root`. Raises ConfigError if there is none."""
    finished = sorted((root / SUITES).glob("*.json"), key=lambda path: records.read(path, SuiteRecord)["finished"])
    if not finished:
        raise ConfigError(f"no suite has been run below {root}", hint="spd-bench run suites/v13_ablation.yaml")
    return finished[-1].stem


def record(root: Path, suite: str | None) -> SuiteRecord:
    """The record of the latest run of a suite. Raises ConfigError for a suite that was not run."""
    name = suite or latest(root)
    path = root / SUITES / f"{Path(name).stem}.json"
    if not path.exists():
        known = [found.stem for found in (root / SUITES).glob("*.json")]
        raise ConfigError(f"suite {quoted(name)} has not been run below {root}", hint=did_you_mean(name, known))
    return records.read(path, SuiteRecord)


def recorded(root: Path, suite: str | None = None) -> ComparedRecord:
    """A record with every row of its table: folders by their full path, external predictions among the rows."""
    stored = record(root, suite)
    rows = [SuiteRow(**row | {"folder": str(root.resolve() / row["folder"])}) for row in stored["rows"]]
    return cast(ComparedRecord, stored | {"rows": rows + _external_rows(root, stored)})


def collect(root: Path, suite: str | None = None) -> Comparison:
    """The comparison of a suite's latest run below `root` (default: the suite that ran last)."""
    return comparison(recorded(root, suite))


class _Run(NamedTuple):
    """One row, and the records of its folder: None where it failed, and for what external predictions do not have."""

    row: SuiteRow
    scores: ScoresRecord | None
    about: RunRecord | None
    log: TrainedRecord | None


class _Done(NamedTuple):
    """A run that finished."""

    row: SuiteRow
    scores: ScoresRecord
    about: RunRecord
    log: TrainedRecord

    @property
    def cost(self) -> CostRecord:
        return self.scores["cost"]


def comparison(stored: ComparedRecord) -> Comparison:
    """The comparison of a suite's record (`recorded`), or of several as one (`sources.gather`)."""
    groups: dict[str, list[_Run]] = {}
    for row in stored["rows"]:
        if row["failure"] != UNFINISHED:
            groups.setdefault(row["composition"], []).append(_read(row))
    if not groups:
        raise ConfigError(
            f'no run of suite "{stored["suite"]["suite"]}" is finished yet', hint="the command that ran it goes on"
        )
    report = stored["suite"]["report"]["primary"]
    return Comparison(
        suite=stored["suite"]["suite"],
        profile=stored["profile"] or "(none)",
        dataset=stored["dataset"],
        protocol=stored["protocol"],
        images=max((run.scores["images"] for runs in groups.values() for run in runs if run.scores), default=0),
        stand_ins=tuple(stored["stand_ins"]),
        primary=(report["metric"], report["k"]),
        ks=tuple(stored["suite"]["eval"]["k"]),
        metrics=_metrics(report["metric"], stored.get("averaging", "per_image")),
        rows=tuple(_row(name, runs) for name, runs in groups.items()),
        provenance=stored["provenance"] | {"finished": stored["finished"]},
        unfinished=stored.get("unfinished", 0),
        sources=tuple(stored.get("sources", ())),
    )


def curves(root: Path, suite: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """Validation curves of the primary metric: composition (and seed) → (step, value)."""
    stored = record(root, suite)
    key = f"val/{stored['suite']['report']['primary']['metric']}"
    found = {}
    for run in stored["rows"]:
        rows = _log(root / run["folder"])
        if points := [(int(step), float(values[key])) for step, values in rows if key in values]:
            found[f"{run['composition']} seed {run['seed']}"] = points
    return found


def watched(root: Path, suite: str | None = None) -> list[dict[str, str]]:
    """Diagnostics of the blocks of each run at the end of training: rows of the same keys, as text."""
    found: dict[str, dict[str, float]] = {}
    for run in record(root, suite)["rows"]:
        rows = _log(root / run["folder"])
        values = {
            key.removeprefix("diagnose/"): value
            for key, value in (rows[-1][1] if rows else {}).items()
            if key.startswith("diagnose/")
        }
        if values:
            found[f"{run['composition']} seed {run['seed']}"] = values
    keys = list(dict.fromkeys(key for values in found.values() for key in values))
    return [
        {"run": name} | {key: f"{values[key]:.3g}" if key in values else "–" for key in keys}
        for name, values in found.items()
    ]


def _log(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The rows of a finished training; none where it is not finished."""
    path = folder / TRAINED
    return records.read(path, TrainedRecord)["rows"] if path.exists() else []


def _read(row: SuiteRow) -> _Run:
    """A row with the records of its folder."""
    folder = Path(row["folder"])
    if row["failure"]:
        return _Run(row, None, None, None)
    scores = records.read(folder / row["evaluation"] / SCORES, ScoresRecord)
    if row["kind"] == "external":
        return _Run(row, scores, None, None)
    return _Run(row, scores, records.read(folder / RUN, RunRecord), records.read(folder / TRAINED, TrainedRecord))


def _row(name: str, runs: Sequence[_Run]) -> Row:
    first = runs[0].row
    if first["kind"] == "external":
        return _external_row(name, runs[0])
    done = [_Done(run.row, run.scores, run.about, run.log) for run in runs if run.scores and run.about and run.log]
    failures = [f"seed {run.row['seed']}: {run.row['failure']}" for run in runs if run.row["failure"]]
    cells = done[0].scores["scores"] if done else {}
    return Row(
        name=name,
        kind=first["kind"],
        axis=first["axis"],
        difference=first["difference"],
        gt_aligned=first["gt_aligned"],
        trainable_parameters=done[0].about["trainable_parameters"] if done else 0,
        seeds=tuple(int(run.row["seed"] or 0) for run in done),
        values={_cell(key): tuple(run.scores["scores"].get(key, math.nan) for run in done) for key in cells},
        seconds=_seconds(done),
        macs=_macs(done[0].cost) if done else {},
        peak_bytes=_peak_bytes(done[0].cost) if done else {},
        stand_ins=tuple(first["stand_ins"]),
        failure="; ".join(failures) or None,
        aliases=tuple(alias[1] for alias in first["aliases"]),
        own_input=_own_input(first, done),
    )


def _own_input(first: SuiteRow, done: Sequence[_Done]) -> str:
    """What a model with an input size of its own saw, "" for the others."""
    rule = first.get("own_input", "")
    sizes = done[0].cost.get("input_sizes", []) if done else []
    return f"{', '.join(sizes) or 'not run'} ({rule})" if rule else ""


def _seconds(done: Sequence[_Done]) -> dict[str, float]:
    """Times as means over the seeds that have them."""
    found: dict[str, list[float]] = {}
    for run in done:
        cost = run.cost
        # an earlier version timed one call alone, that for all the points of an image at every K and draw
        decode_ms = cost.get("decode_ms_at_k", {str(cost["points"]): cost["decode_ms"]})
        times = {"T_prepare_ms": cost["prepare_ms"]} | {f"T_decode({k})_ms": ms for k, ms in decode_ms.items()}
        for what, value in (times | {"train": run.log["seconds"]}).items():
            found.setdefault(what, []).append(value)
    return {what: fmean(values) for what, values in found.items()}


def _macs(cost: CostRecord) -> dict[int, float]:
    """K → multiply-adds of prepare and decode(K)."""
    return {int(k): cost["prepare_macs"] + macs for k, macs in cost.get("decode_macs_at_k", {}).items()}


def _peak_bytes(cost: CostRecord) -> dict[int, float]:
    """K → bytes, at the largest K."""
    return {cost["peak_k"]: cost["peak_bytes"]} if "peak_bytes" in cost else {}


def _external_rows(root: Path, stored: SuiteRecord) -> list[SuiteRow]:
    """Rows of predictions that were scored on this very test: same data, protocol, query points and K.

    A name that is taken already gets the record's identity added.
    """
    rows: list[SuiteRow] = []
    taken = {row["composition"] for row in stored["rows"]}
    for path in sorted((root.resolve() / EXTERNAL).glob(f"*/{SCORES}")):
        try:
            about, _ = records.read(path.with_name(RUN), ExternalRecord), records.read(path, ScoresRecord)
        except records.Unsound as error:
            raise StateError(
                error.message, where=error.where, hint="delete its folder and score the predictions again"
            ) from error
        if about["judge"] == stored.get("judge"):
            name = path.parent.name if about["composition"] in taken else about["composition"]
            taken.add(name)
            rows.append(
                SuiteRow(
                    composition=name,
                    kind="external",
                    axis="",
                    difference=about["difference"],
                    aliases=[],
                    gt_aligned=about["gt_aligned"],
                    stand_ins=about["stand_ins"],
                    seed=None,
                    folder=str(path.parent),
                    evaluation="",
                    failure="",
                )
            )
    return rows


def _external_row(name: str, run: _Run) -> Row:
    return Row(
        name=name,
        kind="external",
        axis="",
        difference=run.row["difference"],
        gt_aligned=run.row["gt_aligned"],
        trainable_parameters=None,
        seeds=(),
        values={_cell(key): (value,) for key, value in run.scores["scores"].items()} if run.scores else {},
        seconds={},
        stand_ins=tuple(run.row["stand_ins"]),
        failure=None,
        aliases=(),
    )


def _cell(key: str) -> tuple[str, int]:
    metric, _, k = key.rpartition("@")
    return metric, int(k)


def _metrics(primary: str, averaging: str) -> tuple[MetricInfo, ...]:
    """Every registered metric, the primary one first."""
    names = sorted(metric_names(), key=lambda name: (name != primary, name))
    return tuple(metric_info(registry.load("metric", name), averaging) for name in names)


def metric_info(metric: Metric | type[Metric], averaging: str) -> MetricInfo:
    """The metric as tables describe it. averaging: of the protocol; "pooled" overrides the metric's own."""
    return MetricInfo(
        name=metric.name,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        formula=metric.formula,
        aggregation=POOLED if averaging == "pooled" else metric.aggregation,
    )
