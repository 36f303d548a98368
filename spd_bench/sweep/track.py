"""A sweep's study → MLflow entries: one for the sweep, one below it for each trial that has ended."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spd_bench.store.run_root import REPORTS, TRAINED
from spd_bench.sweep.study import DATABASE, Database, Study, default_url
from spd_bench.sweep.tables import TrialRow
from spd_bench.tracking.entry import Series, Status, TrackedRun
from spd_bench.tracking.folders import folder_tags, trained_series

ENDED = ("complete", "pruned", "refused", "failed")
"""States of a trial that is logged."""


def sweep_entry(root: Path, study: str, about: Mapping[str, Any], status: Status) -> TrackedRun:
    """The run of a sweep, with its page and the test scores of the chosen trial once it has ended."""
    name = f"sweep {about['sweep']['sweep']}"
    page, test = root / REPORTS / f"{study}.html", about.get("test")
    return TrackedRun(
        key=("sweep", study),
        name=name,
        status=status,
        params={"profile": about["profile"] or "(none)", "dataset": about["dataset"], "study": study},
        tags={"stand_ins": "; ".join(about["stand_ins"]), "study": study},
        series=((0, {f"test/{cell}": value for cell, value in test.items()}),) if test else (),
        files=(page,) if status != "RUNNING" and page.exists() else (),
        earlier=f"tags.study = '{study}' and tags.`mlflow.runName` = '{name}'",
    )


def trial_entry(root: Path, parent: TrackedRun, trial: TrialRow) -> TrackedRun:
    """The run of a trial that has ended, with its training where that lies below this run root."""
    study = parent.params["study"]
    failure = trial.notes.get("failure") if trial.state == "failed" else None
    folder = root / trial.notes["folder"] if trial.state == "complete" and "folder" in trial.notes else None
    series: Series = ((0, {f"objective/{name}": value for name, value in trial.objectives.items()}),)
    if folder is not None and (folder / TRAINED).exists():
        series = trained_series(folder) + series
    return TrackedRun(
        key=(*parent.key, str(trial.number)),
        name=f"trial {trial.number}",
        status="FAILED" if trial.state == "failed" else "FINISHED",
        parent=parent,
        params={path: str(value) for path, value in trial.values.items()},
        tags={"study": study, "trial": str(trial.number), "outcome": f"failed: {failure}" if failure else trial.state}
        | (folder_tags(folder, "") if folder is not None else {}),
        series=series if trial.objectives else (),
        earlier=f"tags.study = '{study}' and tags.trial = '{trial.number}'",
    )


def entries(root: Path) -> Iterator[TrackedRun]:
    """Every trial that has ended, and every sweep without running trials, of the database below a run root."""
    if not (root / DATABASE).exists():
        return
    database = Database(default_url(root), root)
    for name in database.names():
        summary = Study.load(database, name).summary()
        open_ = summary.count("waiting") > 0 or len(summary.trials) < summary.total
        parent = sweep_entry(root, name, summary.about, "KILLED" if open_ else "FINISHED")
        yield from (trial_entry(root, parent, trial) for trial in summary.trials if trial.state in ENDED)
        if summary.count("running") == 0:
            yield parent
