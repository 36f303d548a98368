"""One `spd-bench run` from the command line to the printed table."""

import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.logging import RichHandler

from spd_bench import files, plan
from spd_bench.ablate import Selection
from spd_bench.build_order import BuildOrder
from spd_bench.display import Display
from spd_bench.errors import BusyError, ConfigError, DataError, SpdError
from spd_bench.report.collect import collect, curves, record, watched
from spd_bench.report.comparison import Comparison
from spd_bench.report.html import html_report
from spd_bench.report.tables import render
from spd_bench.report.verdicts import Verdicts, judged
from spd_bench.runs import Outcome, Runner, record_suite
from spd_bench.suite import Suite
from spd_bench.tracking import Tracker

log = logging.getLogger("spd_bench")


@dataclass(frozen=True)
class Finished:
    """What a run leaves: the table as printed, the page, where MLflow has it, and how many jobs failed.

    comparable: whether `compare` can make other tables of it; a build order is no comparison.
    """

    table: str
    report: Path
    tracking: str
    failed: int
    comparable: bool = True


def run_suite(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    selection: Selection = plan.EVERYTHING,
) -> Finished:
    """Plans, trains, evaluates, logs and reports a suite; what is done already is skipped.

    Raises ConfigError or DataError before anything is trained, BusyError if the suite is running elsewhere.
    """
    console = _console()
    chosen = plan.choose(suite, profile=profile, sets=sets, data=data, selection=selection)
    where = device_named(device)
    name = chosen.suite.suite
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{name}.lock")
    try:
        with lock.acquire(timeout=0):
            return (_run_steps if chosen.steps else _run)(chosen, root, where, console)
    except Timeout:
        raise BusyError(f'suite "{name}" is being run by another process', where=str(root)) from None


def _console() -> Console:
    """Where progress and warnings go."""
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    return console


def plan_suite(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    selection: Selection = plan.EVERYTHING,
) -> tuple[list[dict[str, Any]], str]:
    """Every job with its difference from the base and its state, and a title; trains and writes nothing."""
    chosen = plan.choose(suite, profile=profile, sets=sets, data=data, selection=selection)
    rows: list[dict[str, Any]] = []
    for planned in chosen.steps.values() or [chosen.suite]:
        experiment = plan.Experiment(planned, selection=plan.EVERYTHING if chosen.steps else selection)
        runner = Runner(experiment, root, torch.device("cpu"))
        rows += [
            {
                "composition": job.composition.name,
                "seed": job.seed,
                "difference": job.composition.difference,
                "state": runner.state(job),
                "identity": job.train_id[:10],
            }
            for job in experiment.jobs
        ]
    return rows, _title(chosen, experiment)


def build_cache(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    selection: Selection = plan.EVERYTHING,
) -> None:
    """Encodes, with `data.cache: disk`, what a suite's runs will read and is not there yet; trains nothing."""
    console = _console()
    chosen = plan.choose(suite, profile=profile, sets=[*sets, "data.cache=disk"], data=data, selection=selection)
    where = device_named(device)
    for planned in chosen.steps.values() or [chosen.suite]:
        experiment = plan.Experiment(planned, selection=plan.EVERYTHING if chosen.steps else selection)
        _build_features(Runner(experiment, root, where), console)


def _run(chosen: plan.Chosen, root: Path, device: torch.device, console: Console) -> Finished:
    experiment = plan.Experiment(chosen.suite, selection=chosen.selection)
    console.print(_title(chosen, experiment), highlight=False, markup=False, soft_wrap=True)
    runner = Runner(experiment, root, device)
    _check_data(runner, console)
    _build_features(runner, console)
    tracker = Tracker(root)
    source = _provenance(device)
    with _tracked_suite(tracker, chosen, experiment, source, root) as parent:
        outcomes = _run_jobs(runner, tracker, parent, console)
        tracked = {tracker.store: parent}
        record_suite(root, experiment, outcomes, why=chosen.why, provenance=source, tracked=tracked)
        comparison = collect(root, chosen.suite.suite)
        verdicts = judged(root, chosen.suite.suite)
        report = _report(root, chosen.suite, comparison, verdicts)
        tracker.log_files(parent, sorted(report.parent.glob(f"{chosen.suite.suite}.*")))
    failed = sum(bool(outcome.failure) for outcome in outcomes)
    return Finished(render(comparison, format="terminal", verdicts=verdicts), report, tracker.store, failed)


def _run_steps(chosen: plan.Chosen, root: Path, device: torch.device, console: Console) -> Finished:
    """A build order (§10.3): each step's model, then its checks; the first step that fails is the last one run."""
    tracker, source = Tracker(root), _provenance(device)
    walk = BuildOrder(chosen, source, root / "reports" / chosen.suite.suite)
    experiment: plan.Experiment | None = None
    runner: Runner | None = None
    parent: str | None = None
    with ExitStack() as stack:
        for name, suite in chosen.steps.items():
            experiment = plan.Experiment(suite, encoders=experiment.encoders if experiment else None)
            runner = Runner(experiment, root, device, like=runner)
            if not walk.results:
                console.print(_title(chosen, experiment), highlight=False, markup=False, soft_wrap=True)
                _check_data(runner, console)
                parent = stack.enter_context(_tracked_suite(tracker, chosen, experiment, source, root))
            if chosen.suite.steps[name].train:
                _build_features(runner, console)
            outcomes = _run_jobs(runner, tracker, parent, console) if chosen.suite.steps[name].train else []
            result = walk.examine(name, runner, outcomes)
            console.print(result.line(), highlight=False, markup=False, soft_wrap=True)
            if not result.passed:
                break
        report = walk.write()
        tracker.log_files(parent, sorted(report.parent.glob(f"{chosen.suite.suite}.*")))
    return Finished(walk.table(), report, tracker.store, failed=0 if walk.passed else 1, comparable=False)


def _check_data(runner: Runner, console: Console) -> None:
    with Display(console, 0) as display:
        runner.check_data(display.frame)


def _build_features(runner: Runner, console: Console) -> None:
    with Display(console, 0) as display:
        runner.build_features(
            lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), display.view
        )


def _run_jobs(runner: Runner, tracker: Tracker, parent: str | None, console: Console) -> list[Outcome]:
    """Every job of an experiment, shown and tracked."""
    outcomes: list[Outcome] = []
    with Display(console, len(runner.experiment.jobs)) as display:
        runner.train_in_step(runner.experiment.jobs, display)
        for job in runner.experiment.jobs:
            outcome = runner.run(job, display)
            outcomes.append(outcome)
            display.done(outcome, runner.experiment.suite.report.primary)
            _track(tracker, parent, outcome)
    return outcomes


@contextmanager
def _tracked_suite(
    tracker: Tracker, chosen: plan.Chosen, experiment: plan.Experiment, source: dict[str, str], root: Path
) -> Iterator[str | None]:
    """The MLflow run of a suite, closed as finished or, where an error passes through, as killed."""
    parent = tracker.open_suite(
        chosen.suite.suite,
        params={"profile": chosen.suite.profile or "(none)", "dataset": experiment.data.describe()},
        tags=source | {"stand_ins": "; ".join(experiment.stand_ins(experiment.compositions[0]))},
        resume_id=_tracked_before(root, chosen.suite, tracker.store),
    )
    ended = False
    try:
        yield parent
        ended = True
    finally:
        tracker.close(parent, "FINISHED" if ended else "KILLED")


def _tracked_before(root: Path, suite: Suite, store: str) -> str | None:
    """The MLflow run of this very suite, if its last run is in the same store."""
    try:
        last = record(root, suite.suite)
    except SpdError:
        return None
    same = last["suite"] == suite.dump() and last["profile"] == suite.profile
    return last.get("tracked", {}).get(store) if same else None


def _report(root: Path, suite: Suite, comparison: Comparison, verdicts: Verdicts | None) -> Path:
    """Writes the page, the tables as Markdown, CSV and JSON, and the resolved configuration."""
    stem = root / "reports" / suite.suite
    resolved = json.dumps(suite.dump(), indent=1, ensure_ascii=False)
    files.write_text(stem.with_suffix(".suite.json"), resolved + "\n")
    for suffix, form in ((".md", "markdown"), (".csv", "csv"), (".json", "json")):
        files.write_text(stem.with_suffix(suffix), render(comparison, format=form, verdicts=verdicts) + "\n")
    page = stem.with_suffix(".html")
    drawn, told = curves(root, suite.suite), watched(root, suite.suite)
    files.write_text(page, html_report(comparison, drawn, configuration=resolved, verdicts=verdicts, watched=told))
    return page


def _track(tracker: Tracker, parent: str | None, outcome: Outcome) -> None:
    """One child run per composition and seed below each suite run, logged once; its id lies in the run's folder."""
    if parent is None:
        return
    mark = outcome.folder / "mlflow.json"
    job, key = outcome.job, f"{tracker.store} {parent} {outcome.job.composition.name}"
    known = files.read_json(mark) if mark.exists() else {}
    if outcome.reused and key in known:
        return
    run_id = tracker.open_run(
        job.name,
        parent_id=parent,
        params={
            "composition": job.composition.name,
            "difference": job.composition.difference,
            "seed": str(job.seed),
            "identity": job.train_id,
        },
        tags={"kind": job.composition.kind, "axis": job.composition.axis, "failure": outcome.failure},
        resume_id=known.get(key),
    )
    if outcome.scores is not None and outcome.log is not None:
        tracker.log_series(run_id, [(int(step), values) for step, values in outcome.log["rows"]])
        cells = ((*name.rpartition("@"), value) for name, value in outcome.scores["scores"].items())
        tracker.log_series(run_id, [(0, {f"test/K{k}/{name}": value for name, _, k, value in cells})])
        tracker.log_files(run_id, [outcome.folder / "run.json"])
    if run_id is not None:
        files.write_json(mark, known | {key: run_id})
    tracker.close(run_id, "FAILED" if outcome.failure else "FINISHED")


def _title(chosen: plan.Chosen, experiment: plan.Experiment) -> str:
    suite = experiment.suite
    lines = []
    if chosen.why:
        lines.append(f"FALL-BACK to profile {suite.profile}, because this machine lacks:")
        lines += [f"  - {lack}" for lack in chosen.why.split("; ")]
    stand_ins = experiment.stand_ins(experiment.compositions[0])
    if stand_ins:
        lines.append(f"STAND-INS: {'; '.join(stand_ins)}")
    lines.append(f"suite {suite.suite}, profile {suite.profile or '(none)'}: {experiment.data.describe()}")
    lines.append(f"protocol {experiment.judge.caption}")
    count = len(experiment.compositions)
    if chosen.steps:
        lines.append(f"build order of {len(chosen.steps)} steps (§10.3): {', '.join(chosen.steps)}")
    else:
        which = f" ({chosen.selection})" if str(chosen.selection) else ""
        lines.append(f"{count} compositions{which} × {len(suite.seeds)} seed(s) = {len(experiment.jobs)} jobs")
    return "\n".join(lines)


def device_named(name: str) -> torch.device:
    """The device that --device means; ConfigError for an unknown name, DataError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'unknown device "{name}"', where="--device", hint="auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError("no CUDA device is available here", where=f"--device {name}", hint="use --device cpu")
    return device


def _provenance(device: torch.device) -> dict[str, str]:
    """Versions, revision, machine and command: what a number came from."""
    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    return plan.versions() | {
        "git": _git_state(),
        "python": platform.python_version(),
        "device": f"{device} ({machine}), {torch.get_num_threads()} threads",
        "command": " ".join(["spd-bench", *sys.argv[1:]]),
    }


def _git_state() -> str:
    """Revision of the checkout that this package runs from, with "+changes" for a dirty one; "" outside a checkout."""
    here = Path(__file__).parent
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--dirty=+changes", "--abbrev=12"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "not a checkout"
    return revision.stdout.strip()
