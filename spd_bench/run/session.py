"""One `spd-bench run` from the command line to the printed table."""

import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.logging import RichHandler

from spd_bench.errors import OUT_OF_MEMORY, BusyError, ConfigError
from spd_bench.fused import build
from spd_bench.model.device import device_named
from spd_bench.process.locks import suite_lock
from spd_bench.process.watch import Watch
from spd_bench.report.collect import collect, curves, watched
from spd_bench.report.comparison import Comparison
from spd_bench.report.html import html_report
from spd_bench.report.tables import render
from spd_bench.report.verdicts import Verdicts, judged
from spd_bench.run import choose, plan
from spd_bench.run.build_order import BuildOrder
from spd_bench.run.display import Display
from spd_bench.run.example import example_command
from spd_bench.run.forecast import UNKNOWN, Estimate, Forecast
from spd_bench.run.outcome import Outcome
from spd_bench.run.record import suite_record, write_suite_record
from spd_bench.run.runner import Runner, device_label
from spd_bench.run.track import tracked
from spd_bench.store import files
from spd_bench.store.records import UNFINISHED
from spd_bench.suite.axes import Selection
from spd_bench.suite.schema import Suite
from spd_bench.tracking.tracker import Tracker

log = logging.getLogger("spd_bench")

WAIT_S = 0.5
"""How often one looks whether another process has finished a job."""


@dataclass(frozen=True)
class Finished:
    """What a run leaves: the table as printed, the page, where MLflow has it, and how many jobs failed.

    comparable: whether `compare` can make other tables of it; a build order is no comparison. starved: whether
    every job failed for want of memory. left: jobs that another process leads or does, which then writes the report.
    """

    table: str
    report: Path
    tracking: str
    failed: int
    comparable: bool = True
    starved: bool = False
    left: int = 0
    example: str = ""
    """A command that asks the base for depth in a test image; "" where the base failed."""


def work(arguments: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """`run_suite` in a worker process (`process.supervise`): its arguments and what it leaves, as JSON has them."""
    selection = Selection(*map(tuple, arguments["selection"]))
    given = {key: arguments[key] for key in ("profile", "sets", "data", "device")}
    root = Path(arguments["root"])
    finished = run_suite(arguments["suite"], **given, root=root, selection=selection, watch=watch)
    return asdict(finished) | {"report": str(finished.report)}


def run_suite(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    selection: Selection = choose.EVERYTHING,
    watch: Watch | None = None,
) -> Finished:
    """Plans, trains, evaluates, logs and reports a suite; what is done already is skipped.

    watch: told where the work stands; its session, if it has one, holds the suite's lock. Raises ConfigError or
    DataError before anything is trained, BusyError if the suite is running elsewhere.
    """
    watch = watch or Watch()
    watch.at("planning")
    console = stderr_console()
    chosen = choose.choose(suite, profile=profile, sets=sets, data=data, selection=selection, watch=watch)
    where = device_named(device)
    name = chosen.suite.suite
    if watch.joined and chosen.steps:
        raise ConfigError("the steps of a build order follow one another", where="--join", hint="run it without")
    if watch.session:
        return (_run_steps if chosen.steps else _run)(chosen, root, where, console, watch)
    with suite_lock(root, name, command=_command(watch)):
        return (_run_steps if chosen.steps else _run)(chosen, root, where, console, watch)


def _command(watch: Watch) -> str:
    return watch.command or " ".join(["spd-bench", *sys.argv[1:]])


def stderr_console() -> Console:
    """Where progress goes and, from here on, warnings."""
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
    device: str = "auto",
    selection: Selection = choose.EVERYTHING,
) -> tuple[list[dict[str, Any]], str]:
    """Every job with its difference from the base, its state and what it will take, and a title; writes nothing.

    device: that of the runs that the estimates are for.
    """
    chosen = choose.choose(suite, profile=profile, sets=sets, data=data, selection=selection)
    where = device_named(device)
    rows: list[dict[str, Any]] = []
    estimates: list[Estimate] = []
    begun: dict[str, set[str]] = {}
    for step, planned in chosen.steps.items() or [("", chosen.suite)]:
        experiment = plan.Experiment(planned, selection=choose.EVERYTHING if chosen.steps else selection)
        runner = Runner(experiment, root, where)
        forecast = Forecast(runner)
        for job in experiment.jobs:
            untrained = step and not chosen.suite.steps[step].train
            state = "shapes only" if untrained else _state(runner, job, begun)
            estimates.append(forecast.of(job, state))
            rows.append(_planned(job, state, estimates[-1]))
    return rows, f"{_title(chosen, experiment)}\n{_summary(rows, estimates)}"


def _state(runner: Runner, job: plan.Job, begun: dict[str, set[str]]) -> str:
    """What will be left of a job when the jobs before it are done; `begun`: their trainings and evaluations."""
    tests = begun.setdefault(job.train_id, set())
    state = runner.state(job)
    if job.eval_id in tests:
        state = "done"
    elif tests and state not in ("done", "to score"):
        state = "to evaluate"
    tests.add(job.eval_id)
    return state


def _planned(job: plan.Job, state: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "composition": job.composition.name,
        "seed": job.seed,
        "difference": job.composition.difference,
        "state": state,
        "estimated_minutes": None if estimate.seconds is None else round(estimate.seconds / 60, 2),
        "estimated_from": estimate.source,
        "identity": job.train_id[:10],
    }


def _summary(rows: Sequence[Mapping[str, Any]], estimates: Sequence[Estimate]) -> str:
    """How many jobs are in each state, and what is left in all."""
    states = [row["state"] for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    known = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    missing = len(estimates) - len(known)
    total = f"estimated {sum(known) / 60:.1f} min in all, from finished runs" if any(known) or not missing else ""
    rest = f"{missing} {UNKNOWN}" if missing else ""
    return f"{counted}: {'; and '.join(filter(None, (total, rest)))}"


def build_cache(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    selection: Selection = choose.EVERYTHING,
) -> None:
    """Encodes, with `data.cache: disk`, what a suite's runs will read and is not there yet; trains nothing."""
    console = stderr_console()
    chosen = choose.choose(suite, profile=profile, sets=[*sets, "data.cache=disk"], data=data, selection=selection)
    where = device_named(device)
    for planned in chosen.steps.values() or [chosen.suite]:
        experiment = plan.Experiment(planned, selection=choose.EVERYTHING if chosen.steps else selection)
        _build_features(Runner(experiment, root, where), console)


def _run(chosen: choose.Chosen, root: Path, device: torch.device, console: Console, watch: Watch) -> Finished:
    experiment = plan.Experiment(chosen.suite, selection=chosen.selection, watch=watch)
    console.print(_title(chosen, experiment), highlight=False, markup=False, soft_wrap=True)
    runner = Runner(experiment, root, device, watch=watch)
    _check_data(runner, console)
    _build_features(runner, console)
    tracker = Tracker(root)
    source = _provenance(device, watch)
    # the process that leads records for those that help, too
    with tracked(tracker, root, watch) if watch.leads else nullcontext() as tracking:

        def note(outcomes: Sequence[Outcome]) -> None:
            if tracking is not None:
                stored = suite_record(root, experiment, outcomes, why=chosen.why, provenance=source)
                write_suite_record(root, stored)
                tracking.note(stored)

        outcomes = _run_jobs(runner, console, note)
        failed = sum(bool(outcome.failure) for outcome in outcomes)
        starved = failed > 0 and all(outcome.failure.startswith(OUT_OF_MEMORY) for outcome in outcomes)
        if not watch.leads:
            left = sum(outcome.failure == UNFINISHED for outcome in outcomes)
            return Finished("", _stem(root, chosen.suite), tracker.store, failed - left, left=left)
        watch.at("writing the report")
        comparison = collect(root, chosen.suite.suite)
        verdicts = judged(root, chosen.suite.suite)
        report = _report(root, chosen.suite, comparison, verdicts)
    table = render(comparison, format="terminal", verdicts=verdicts)
    example = "" if outcomes[0].failure else example_command(root, experiment)
    return Finished(table, report, tracker.store, failed, starved=starved, example=example)


def _run_steps(chosen: choose.Chosen, root: Path, device: torch.device, console: Console, watch: Watch) -> Finished:
    """A build order (§10.3): each step's model, then its checks; the first step that fails is the last one run."""
    tracker, source = Tracker(root), _provenance(device, watch)
    walk = BuildOrder(chosen, source, root / "reports" / chosen.suite.suite)
    experiment: plan.Experiment | None = None
    runner: Runner | None = None
    with tracked(tracker, root, watch) as tracking:
        for name, suite in chosen.steps.items():
            encoders = experiment.encoders if experiment else None
            experiment = plan.Experiment(suite, encoders=encoders, watch=watch)
            runner = Runner(experiment, root, device, like=runner, watch=watch)
            if not walk.results:
                console.print(_title(chosen, experiment), highlight=False, markup=False, soft_wrap=True)
                _check_data(runner, console)
            if chosen.suite.steps[name].train:
                _build_features(runner, console)
            outcomes = _run_jobs(runner, console) if chosen.suite.steps[name].train else []
            tracking.note(suite_record(root, experiment, outcomes, why=chosen.why, provenance=source))
            result = walk.examine(name, runner, outcomes)
            console.print(result.line(), highlight=False, markup=False, soft_wrap=True)
            if not result.passed:
                break
        report = walk.write()
    return Finished(walk.table(), report, tracker.store, failed=0 if walk.passed else 1, comparable=False)


def _check_data(runner: Runner, console: Console) -> None:
    files.clear_debris(runner.root)
    with Display(console, 0) as display:
        runner.check_data(display.frame)


def _build_features(runner: Runner, console: Console) -> None:
    with Display(console, 0) as display:
        runner.build_features(
            lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True), display.view
        )


def _run_jobs(
    runner: Runner,
    console: Console,
    note: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Every job of an experiment, shown; those that another process has, later.

    note: told of all outcomes before the first job and after each; of a job to come, that it is unfinished. A process
    that only helps leaves what is then still in other hands unfinished.
    """
    watch, jobs = runner.watch, runner.experiment.jobs
    outcomes = [runner.found(job) for job in jobs]
    note(outcomes)
    waiting = list(range(len(jobs)))
    with Display(console, len(jobs)) as display:
        if not watch.joined:  # side by side, one process would have them all
            runner.train_in_step(jobs, display)
        while waiting:
            busy = []
            for index in waiting:
                watch.at("choosing a job")
                try:
                    outcomes[index] = runner.run(jobs[index], display)
                except BusyError:
                    busy.append(index)
                    continue
                note(outcomes)
                display.done(outcomes[index], runner.experiment.suite.report.primary)
            if busy == waiting:
                if not watch.leads:
                    break
                watch.at(f"waiting for {jobs[busy[0]].name}, which another process does")
                time.sleep(WAIT_S)
            waiting = busy
    return outcomes


def _stem(root: Path, suite: Suite) -> Path:
    return root / "reports" / suite.suite


def _report(root: Path, suite: Suite, comparison: Comparison, verdicts: Verdicts | None) -> Path:
    """Writes the page, the tables as Markdown, CSV and JSON, and the resolved configuration."""
    stem = _stem(root, suite)
    resolved = json.dumps(suite.dump(), indent=1, ensure_ascii=False)
    files.write_text(stem.with_suffix(".suite.json"), resolved + "\n")
    for suffix, form in ((".md", "markdown"), (".csv", "csv"), (".json", "json")):
        files.write_text(stem.with_suffix(suffix), render(comparison, format=form, verdicts=verdicts) + "\n")
    page = stem.with_suffix(".html")
    drawn, diagnosed = curves(root, suite.suite), watched(root, suite.suite)
    files.write_text(page, html_report(comparison, drawn, configuration=resolved, verdicts=verdicts, watched=diagnosed))
    return page


def _title(chosen: choose.Chosen, experiment: plan.Experiment) -> str:
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


def _provenance(device: torch.device, watch: Watch) -> dict[str, str]:
    """Versions, revision, machine and command: what a number came from."""
    return plan.versions() | {
        "git": _git_state(),
        "python": platform.python_version(),
        "device": device_label(device),
        "operators": build.description(),
        "command": _command(watch),
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
