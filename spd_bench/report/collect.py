"""Run folders → `Comparison`: every table is rebuilt from what the runs left behind, without model or data set."""

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from spd_bench import files, registry
from spd_bench.errors import ConfigError, StateError, did_you_mean
from spd_bench.protocol import POOLED
from spd_bench.report.comparison import Comparison, MetricInfo, Row


def latest(root: Path) -> str:
    """Name of the suite that ran last below `root`; ConfigError if none did."""
    records = sorted((root / "suites").glob("*.json"), key=lambda path: files.read_json(path)["finished"])
    if not records:
        raise ConfigError(f"no suite has been run below {root}", hint="spd-bench run suites/v13_ablation.yaml")
    return records[-1].stem


def record(root: Path, suite: str | None) -> dict[str, Any]:
    """What the latest run of a suite left; ConfigError for a suite that was not run."""
    name = suite or latest(root)
    path = root / "suites" / f"{Path(name).stem}.json"
    if not path.exists():
        known = [found.stem for found in (root / "suites").glob("*.json")]
        raise ConfigError(f'suite "{name}" has not been run below {root}', hint=did_you_mean(name, known))
    try:
        content: dict[str, Any] = files.read_json(path)
    except ValueError as error:
        raise StateError(f"is damaged ({error})", where=str(path), hint="run the suite again") from error
    return content


def collect(root: Path, suite: str | None = None) -> Comparison:
    """The comparison of a suite's latest run below `root` (default: the suite that ran last)."""
    stored = record(root, suite)
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in stored["rows"]:
        groups.setdefault(run["composition"], []).append(run | _numbers(root, run))
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
        rows=(*(_row(name, runs) for name, runs in groups.items()), *_external_rows(root, stored, set(groups))),
        provenance=stored["provenance"] | {"finished": stored["finished"]},
    )


def curves(root: Path, suite: str | None = None) -> dict[str, list[tuple[int, float]]]:
    """Validation curves of the primary metric: composition (and seed) → (step, value)."""
    stored = record(root, suite)
    key = f"val/{stored['suite']['report']['primary']['metric']}"
    found = {}
    for run in stored["rows"]:
        path = root / run["folder"] / "done.json"
        rows = files.read_json(path)["rows"] if path.exists() else []
        if points := [(int(step), float(values[key])) for step, values in rows if key in values]:
            found[f"{run['composition']} seed {run['seed']}"] = points
    return found


def watched(root: Path, suite: str | None = None) -> list[dict[str, str]]:
    """What the blocks of each run told of themselves at the end of training: rows of the same keys, for people."""
    found: dict[str, dict[str, float]] = {}
    for run in record(root, suite)["rows"]:
        path = root / run["folder"] / "done.json"
        rows = files.read_json(path)["rows"] if path.exists() else []
        told = {
            key.removeprefix("diagnose/"): value
            for key, value in (rows[-1][1] if rows else {}).items()
            if key.startswith("diagnose/")
        }
        if told:
            found[f"{run['composition']} seed {run['seed']}"] = told
    keys = list(dict.fromkeys(key for told in found.values() for key in told))
    return [
        {"run": name} | {key: f"{told[key]:.3g}" if key in told else "–" for key in keys}
        for name, told in found.items()
    ]


def _numbers(root: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """What one run's folder says; nothing for a run that failed."""
    folder = root / run["folder"]
    if run["failure"]:
        return {}
    try:
        scores = files.read_json(folder / run["evaluation"] / "scores.json")
        about, log = files.read_json(folder / "run.json"), files.read_json(folder / "done.json")
    except (OSError, ValueError) as error:
        raise StateError(
            f"a run of the table cannot be read ({error})", where=str(folder), hint="run the suite again"
        ) from error
    return {
        "scores": scores["scores"],
        "images": scores["images"],
        "cost": scores["cost"],
        "parameters": about["trainable_parameters"],
        "train_s": log["seconds"],
    }


def _row(name: str, runs: list[dict[str, Any]]) -> Row:
    first = runs[0]
    done = [run for run in runs if not run["failure"]]
    failures = [f"seed {run['seed']}: {run['failure']}" for run in runs if run["failure"]]
    cells = done[0]["scores"] if done else {}
    costs = {
        "T_prepare_ms": [run["cost"]["prepare_ms"] for run in done],
        # an evaluation decodes all the points of an image in one call
        **{f"T_decode({run['cost']['points']})_ms": [r["cost"]["decode_ms"] for r in done] for run in done[:1]},
        "train": [run["train_s"] for run in done],
    }
    return Row(
        name=name,
        kind=first["kind"],
        axis=first["axis"],
        difference=first["difference"],
        gt_aligned=first["gt_aligned"],
        trainable_parameters=done[0]["parameters"] if done else 0,
        seeds=tuple(run["seed"] for run in done),
        values={_cell(key): tuple(run["scores"].get(key, math.nan) for run in done) for key in cells},
        seconds={what: fmean(values) for what, values in costs.items() if values},
        stand_ins=tuple(first["stand_ins"]),
        failure="; ".join(failures) or None,
        aliases=tuple(alias[1] for alias in first["aliases"]),
    )


def _external_rows(root: Path, stored: Mapping[str, Any], taken: set[str]) -> list[Row]:
    """Rows of predictions that were scored on this very test: same data, protocol, query points and K.

    A name that is taken already gets the record's identity added.
    """
    rows: list[Row] = []
    for path in sorted((root / "external").glob("*/scores.json")):
        try:
            about, scores = files.read_json(path.with_name("run.json")), files.read_json(path)
        except (OSError, ValueError) as error:
            raise StateError(
                f"a record of external predictions cannot be read ({error})",
                where=str(path.parent),
                hint="delete it and score the predictions again",
            ) from error
        if about["judge"] == stored.get("judge"):
            name = path.parent.name if about["composition"] in taken else about["composition"]
            taken.add(name)
            rows.append(_external_row(name, about, scores))
    return rows


def _external_row(name: str, about: Mapping[str, Any], scores: Mapping[str, Any]) -> Row:
    return Row(
        name=name,
        kind="external",
        axis="",
        difference=about["difference"],
        gt_aligned=about["gt_aligned"],
        trainable_parameters=None,
        seeds=(),
        values={_cell(key): (value,) for key, value in scores["scores"].items()},
        seconds={},
        stand_ins=tuple(about["stand_ins"]),
        failure=None,
        aliases=(),
    )


def _cell(key: str) -> tuple[str, int]:
    metric, _, k = key.rpartition("@")
    return metric, int(k)


def _metrics(primary: str, averaging: str) -> tuple[MetricInfo, ...]:
    """Every registered metric, the primary one first."""
    names = sorted(registry.names("metric"), key=lambda name: (name != primary, name))
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
