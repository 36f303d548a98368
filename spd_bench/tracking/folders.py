"""Run root → entries: each suite and its rows, then every finished run folder that no other entry shows."""

import glob
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from spd_bench.process.locks import is_led
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED
from spd_bench.store.run_root import (
    REPORTS,
    RUN,
    SCORES,
    SUITES,
    TRAINED,
    TRAININGS,
    RunRecord,
    ScoresRecord,
    SuiteRecord,
    SuiteRow,
    TrainedRecord,
)
from spd_bench.tracking.entry import Series, Status, TrackedRun
from spd_bench.tracking.mlflow_store import EVALUATION, TRAINING

_log = logging.getLogger(__name__)


def suite_entry(root: Path, stored: SuiteRecord, status: Status, *, store: str = "") -> TrackedRun:
    """The run of a suite, with its reports once it has ended.

    store: where it is tracked, by which the record of an earlier version names its run.
    """
    name = str(stored["suite"]["suite"])
    return TrackedRun(
        key=("suite", name, records.sha256(stored["suite"]), stored["profile"] or ""),
        name=name,
        status=status,
        params={"profile": stored["profile"] or "(none)", "dataset": stored["dataset"]},
        tags=stored["provenance"] | {"stand_ins": "; ".join(stored["stand_ins"])},
        files=() if status == "RUNNING" else reports(root, name),
        earlier=_run_of(stored.get("tracked", {}).get(store)),
    )


def reports(root: Path, name: str) -> tuple[Path, ...]:
    """The reports of a suite that was run."""
    found = sorted((root / REPORTS).glob(f"{glob.escape(name)}.*"))
    return tuple(path for path in found if not path.name.startswith(f"{name}.profile."))


def row_entry(root: Path, parent: TrackedRun, row: SuiteRow, *, parent_run: str | None = None) -> TrackedRun:
    """The run of one composition and seed, with its training and test series.

    parent_run: id of the suite's run in an earlier version. Raises Unsound where a record of its folder is damaged.
    """
    folder, evaluation = root / row["folder"], row["evaluation"]
    name = f"{row['composition']} seed {row['seed']}"
    failed = bool(row["failure"])
    about = None if failed else records.read(folder / RUN, RunRecord)
    return TrackedRun(
        key=(*parent.key, row["composition"], folder.name, evaluation),
        name=name,
        status="FAILED" if failed else "FINISHED",
        parent=parent,
        params={"composition": row["composition"], "difference": row["difference"], "seed": str(row["seed"])}
        | ({"identity": about["train_id"]} if about is not None else {}),
        tags={"kind": row["kind"], "axis": row["axis"], "failure": row["failure"]} | folder_tags(folder, evaluation),
        series=() if failed else trained_series(folder) + _test_series(folder / evaluation),
        files=() if failed else (folder / RUN,),
        earlier=_row_of_earlier(parent_run, name, about),
    )


def suites(root: Path, store: str) -> Iterator[TrackedRun]:
    """Every suite below a root that no process leads, each after its rows; logs what it skips."""
    for path in sorted((root / SUITES).glob("*.json")):
        if is_led(root, path.stem):
            _log.warning("suite %s is running: the process that leads it tracks it", path.stem)
        else:
            yield from _sound(lambda: _suite_entries(root, path, store))  # noqa: B023 called at once


def single_folders(root: Path) -> Iterator[TrackedRun]:
    """Every finished run folder, needed where no suite or sweep shows it."""
    for folder in sorted((root / TRAININGS).glob("*/")):
        if (folder / TRAINED).exists():
            yield from _sound(lambda: _folder_entries(folder))  # noqa: B023 called at once


def _suite_entries(root: Path, path: Path, store: str) -> Iterator[TrackedRun]:
    stored = records.read(path, SuiteRecord)
    ended: Status = "KILLED" if any(row["failure"] == UNFINISHED for row in stored["rows"]) else "FINISHED"
    parent, parent_run = suite_entry(root, stored, ended, store=store), stored.get("tracked", {}).get(store)
    for row in stored["rows"]:
        if row["failure"] != UNFINISHED:
            yield from _sound(lambda: iter([row_entry(root, parent, row, parent_run=parent_run)]))  # noqa: B023
    yield parent


def _folder_entries(folder: Path) -> Iterator[TrackedRun]:
    """One run per evaluation of a training, or one of the training alone."""
    about = records.read(folder / RUN, RunRecord)
    for evaluation in sorted(path.parent.name for path in folder.glob(f"eval-*/{SCORES}")) or [""]:
        place = folder_tags(folder, evaluation)
        shown = " and ".join(f"tags.`{name}` = '{value}'" for name, value in place.items() if value)
        yield TrackedRun(
            key=("folder", folder.name, evaluation),
            name=f"{about['composition']} seed {about['seed']}",
            status="FINISHED",
            params={
                "composition": about["composition"],
                "difference": about["difference"],
                "seed": str(about["seed"]),
                "identity": about["train_id"],
            },
            tags={"stand_ins": "; ".join(about["stand_ins"])} | place,
            series=trained_series(folder) + (_test_series(folder / evaluation) if evaluation else ()),
            files=(folder / RUN,),
            earlier=f"params.identity = '{about['train_id']}'",
            unless=f"{shown} and attributes.status = 'FINISHED'",
        )


def trained_series(folder: Path) -> Series:
    """The log of a finished training."""
    log = records.read(folder / TRAINED, TrainedRecord)
    return tuple((int(step), values) for step, values in log["rows"])


def folder_tags(folder: Path, evaluation: str) -> dict[str, str]:
    """Tags that name a run folder: the identity of its training, and its evaluation."""
    return {TRAINING: folder.name.rpartition("-")[2], EVALUATION: evaluation}


def _test_series(evaluation: Path) -> Series:
    """The scores of an evaluation, as test/K64/absrel."""
    scores = records.read(evaluation / SCORES, ScoresRecord)["scores"]
    cells = ((*name.rpartition("@"), value) for name, value in scores.items())
    return ((0, {f"test/K{k}/{metric}": value for metric, _, k, value in cells}),)


def _run_of(run_id: str | None) -> str:
    return f"attributes.run_id = '{run_id}'" if run_id and run_id.isalnum() else ""


def _row_of_earlier(parent_run: str | None, name: str, about: RunRecord | None) -> str:
    """Finds the run that an earlier version logged below the same suite's run."""
    if about is None or not parent_run or not parent_run.isalnum() or "'" in name:
        return ""
    return (
        f"tags.`mlflow.parentRunId` = '{parent_run}' and params.identity = '{about['train_id']}' "
        f"and tags.`mlflow.runName` = '{name}'"
    )


def _sound(make: Callable[[], Iterator[TrackedRun]]) -> Iterator[TrackedRun]:
    """The entries that `make` yields, up to a record that is missing or damaged, which is logged."""
    try:
        yield from make()
    except records.Unsound as damage:
        _log.warning("not logged: %s", damage)
