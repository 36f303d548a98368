"""Run folders → `Comparison`: every table is rebuilt from what the runs left behind, without model or data set."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from spd_bench import registry
from spd_bench.errors import ConfigError, StateError, did_you_mean, quoted
from spd_bench.protocol import POOLED
from spd_bench.report.comparison import Comparison, MetricInfo, Row
from spd_bench.score.judge import metric_names
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED


def latest(root: Path) -> str:
    """Name of the suite that ran last below `root`; ConfigError if none did."""
    finished = sorted((root / "suites").glob("*.json"), key=lambda path: str(records.read_record(path)["finished"]))
    if not finished:
        raise ConfigError(f"no suite has been run below {root}", hint="spd-bench run suites/v13_ablation.yaml")
    return finished[-1].stem


def record(root: Path, suite: str | None) -> dict[str, Any]:
    """What the latest run of a suite left; ConfigError for a suite that was not run."""
    name = suite or latest(root)
    path = root / "suites" / f"{Path(name).stem}.json"
    if not path.exists():
        known = [found.stem for found in (root / "suites").glob("*.json")]
        raise ConfigError(f"suite {quoted(name)} has not been run below {root}", hint=did_you_mean(name, known))
    return records.read_record(path)


def recorded(root: Path, suite: str | None = None) -> dict[str, Any]:
    """A record with every row of its table: folders by their full path, external predictions among the rows."""
    stored = record(root, suite)
    rows = [row | {"folder": str(root.resolve() / row["folder"])} for row in stored["rows"]]
    return stored | {"rows": rows + _external_rows(root, stored)}


def collect(root: Path, suite: str | None = None) -> Comparison:
    """The comparison of a suite's latest run below `root` (default: the suite that ran last)."""
    return comparison(recorded(root, suite))


def comparison(stored: Mapping[str, Any]) -> Comparison:
    """The comparison of a suite's record (`recorded`), or of several as one (`sources.gather`)."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in stored["rows"]:
        if run["failure"] != UNFINISHED:
            groups.setdefault(run["composition"], []).append(run | _numbers(run))
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
        images=max((run.get("images", 0) for runs in groups.values() for run in runs), default=0),
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
        path = root / run["folder"] / "done.json"
        rows = records.read_record(path)["rows"] if path.exists() else []
        if points := [(int(step), float(values[key])) for step, values in rows if key in values]:
            found[f"{run['composition']} seed {run['seed']}"] = points
    return found


def watched(root: Path, suite: str | None = None) -> list[dict[str, str]]:
    """What the blocks of each run told of themselves at the end of training: rows of the same keys, for people."""
    found: dict[str, dict[str, float]] = {}
    for run in record(root, suite)["rows"]:
        path = root / run["folder"] / "done.json"
        rows = records.read_record(path)["rows"] if path.exists() else []
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


def _numbers(run: Mapping[str, Any]) -> dict[str, Any]:
    """What one run's folder says; nothing for a run that failed."""
    folder = Path(run["folder"])
    if run["failure"]:
        return {}
    scores = records.read_record(folder / run["evaluation"] / "scores.json")
    if run["kind"] == "external":
        return {"scores": scores["scores"], "images": scores["images"]}
    about, log = records.read_record(folder / "run.json"), records.read_record(folder / "done.json")
    return {
        "scores": scores["scores"],
        "images": scores["images"],
        "cost": scores["cost"],
        "input_sizes": scores["cost"].get("input_sizes", []),
        "parameters": about["trainable_parameters"],
        "train_s": log["seconds"],
    }


def _row(name: str, runs: list[dict[str, Any]]) -> Row:
    first = runs[0]
    if first["kind"] == "external":
        return _external_row(name, first)
    done = [run for run in runs if not run["failure"]]
    failures = [f"seed {run['seed']}: {run['failure']}" for run in runs if run["failure"]]
    cells = done[0]["scores"] if done else {}
    return Row(
        name=name,
        kind=first["kind"],
        axis=first["axis"],
        difference=first["difference"],
        gt_aligned=first["gt_aligned"],
        trainable_parameters=done[0]["parameters"] if done else 0,
        seeds=tuple(run["seed"] for run in done),
        values={_cell(key): tuple(run["scores"].get(key, math.nan) for run in done) for key in cells},
        seconds=_seconds(done),
        macs=_macs(done[0]["cost"]) if done else {},
        peak_bytes=_peak_bytes(done[0]["cost"]) if done else {},
        stand_ins=tuple(first["stand_ins"]),
        failure="; ".join(failures) or None,
        aliases=tuple(alias[1] for alias in first["aliases"]),
        own_input=_own_input(first, done),
    )


def _own_input(first: Mapping[str, Any], done: Sequence[Mapping[str, Any]]) -> str:
    """What a model with an input size of its own saw, "" for the others."""
    rule = first.get("own_input", "")
    sizes = done[0]["input_sizes"] if done else []
    return f"{', '.join(sizes) or 'not run'} ({rule})" if rule else ""


def _seconds(done: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Times as means over the seeds that have them."""
    found: dict[str, list[float]] = {}
    for run in done:
        cost = run["cost"]
        # an earlier version timed one call alone, that for all the points of an image at every K and draw
        decode_ms = cost.get("decode_ms_at_k", {cost["points"]: cost["decode_ms"]})
        times = {"T_prepare_ms": cost["prepare_ms"]} | {f"T_decode({k})_ms": ms for k, ms in decode_ms.items()}
        for what, value in (times | {"train": run["train_s"]}).items():
            found.setdefault(what, []).append(value)
    return {what: fmean(values) for what, values in found.items()}


def _macs(cost: Mapping[str, Any]) -> dict[int, float]:
    """K → multiply-adds of prepare and decode(K)."""
    return {int(k): cost["prepare_macs"] + macs for k, macs in cost.get("decode_macs_at_k", {}).items()}


def _peak_bytes(cost: Mapping[str, Any]) -> dict[int, float]:
    return {cost["peak_k"]: cost["peak_bytes"]} if "peak_bytes" in cost else {}


def _external_rows(root: Path, stored: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of predictions that were scored on this very test: same data, protocol, query points and K.

    A name that is taken already gets the record's identity added.
    """
    rows: list[dict[str, Any]] = []
    taken = {row["composition"] for row in stored["rows"]}
    for path in sorted((root.resolve() / "external").glob("*/scores.json")):
        try:
            about, _ = records.read_record(path.with_name("run.json")), records.read_record(path)
        except records.Unsound as error:
            raise StateError(
                error.message, where=error.where, hint="delete its folder and score the predictions again"
            ) from error
        if about["judge"] == stored.get("judge"):
            name = path.parent.name if about["composition"] in taken else about["composition"]
            taken.add(name)
            said = {key: about[key] for key in ("difference", "gt_aligned", "stand_ins")}
            place = {"folder": str(path.parent), "evaluation": "", "seed": None, "failure": ""}
            rows.append({"composition": name, "kind": "external", "axis": "", "aliases": []} | said | place)
    return rows


def _external_row(name: str, run: Mapping[str, Any]) -> Row:
    return Row(
        name=name,
        kind="external",
        axis="",
        difference=run["difference"],
        gt_aligned=run["gt_aligned"],
        trainable_parameters=None,
        seeds=(),
        values={_cell(key): (value,) for key, value in run["scores"].items()},
        seconds={},
        stand_ins=tuple(run["stand_ins"]),
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


def metric_info(metric: Any, averaging: str) -> MetricInfo:
    """What tables say of a metric under a protocol's averaging: "per_image" leaves it to the metric, "pooled" not."""
    return MetricInfo(
        name=metric.name,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        formula=metric.formula,
        aggregation=POOLED if averaging == "pooled" else metric.aggregation,
    )
