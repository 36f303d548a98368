"""One `spd-bench run` in one process, from the request to the report and the printed table."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spd_bench.errors import OUT_OF_MEMORY, BusyError, ConfigError
from spd_bench.model.device import device_named
from spd_bench.pictures.album import Album
from spd_bench.process.boundary import from_json, to_json
from spd_bench.process.locks import suite_lock
from spd_bench.process.watch import Watch
from spd_bench.report.collect import collect, curves, watched
from spd_bench.report.comparison import Comparison
from spd_bench.report.html import html_report
from spd_bench.report.tables import render
from spd_bench.report.verdicts import Verdicts, judged
from spd_bench.run.build_order.walk import BuildOrder
from spd_bench.run.display import CleanConsole, Display, planning, stderr_console
from spd_bench.run.example import example_command
from spd_bench.run.folder import RunFolder
from spd_bench.run.outcome import Outcome
from spd_bench.run.pictures import suite_album
from spd_bench.run.planning import choose, plan
from spd_bench.run.preview import title
from spd_bench.run.provenance import command_of, provenance
from spd_bench.run.record import suite_record, write_suite_record
from spd_bench.run.request import EVERYTHING, Finished, Request
from spd_bench.run.runner import Runner
from spd_bench.run.track import tracked
from spd_bench.store import files
from spd_bench.store.records import UNFINISHED
from spd_bench.store.removal import clear_debris
from spd_bench.store.run_root import TRAININGS
from spd_bench.suite.schema import Suite
from spd_bench.tracking.tracker import Tracker

log = logging.getLogger("spd_bench")

WAIT_S = 0.5
"""Seconds between two looks whether another process has finished a job."""


def work_on_suite(arguments: Mapping[str, Any], watch: Watch) -> Any:
    """`run_suite` in a worker process: the request and what the run leaves, as JSON (`process.boundary`)."""
    return to_json(run_suite(from_json(Request, arguments), watch))


def run_suite(request: Request, watch: Watch | None = None) -> Finished:
    """Plans, trains, evaluates, logs and reports a suite in this process; finished work is skipped.

    watch: that of a worker process; its session, if it has one, holds the suite's lock. Raises ConfigError or
    DataError before anything is trained, BusyError if the suite is running elsewhere.
    """
    watch = watch or Watch()
    watch.at("planning")
    console = stderr_console()
    chosen = choose.choose(request, watch)
    device = device_named(request.device)
    if watch.joined and chosen.steps:
        raise ConfigError("the steps of a build order follow one another", where="--join", hint="run it without")
    run = _run_steps if chosen.steps else _run
    if watch.session:
        return run(chosen, request.root, device, console, watch)
    with suite_lock(request.root, chosen.suite.suite, command=command_of(watch)):
        return run(chosen, request.root, device, console, watch)


def build_cache(request: Request) -> None:
    """Encodes what a suite's runs will read with `data.cache: disk` and is not there yet; trains nothing."""
    console = stderr_console()
    chosen = choose.choose(replace(request, sets=(*request.sets, "data.cache=disk")))
    device = device_named(request.device)
    for planned in chosen.steps.values() or [chosen.suite]:
        experiment = plan.Experiment(planned, selection=EVERYTHING if chosen.steps else chosen.selection)
        _build_features(Runner(experiment, request.root, device), console)


def _run(chosen: choose.Chosen, root: Path, device: torch.device, console: CleanConsole, watch: Watch) -> Finished:
    with planning(console) as on_checked:
        experiment = plan.Experiment(
            chosen.suite,
            selection=chosen.selection,
            watch=watch,
            on_checked=on_checked,
            has_run=(lambda job: RunFolder(root, job).is_done) if (root / TRAININGS).is_dir() else None,
        )
    console.say(title(chosen, experiment))
    runner = Runner(experiment, root, device, watch=watch)
    _check_data(runner, console)
    _build_features(runner, console)
    tracker = Tracker(root)
    source = provenance(device, watch)
    # the process that leads records for those that help, too
    with tracked(tracker, root, watch) if watch.leads else nullcontext() as tracking:

        def note(outcomes: Sequence[Outcome]) -> None:
            if tracking is not None:
                stored = suite_record(runner, outcomes, why=chosen.why, provenance=source)
                write_suite_record(root, stored)
                tracking.note(stored)

        outcomes = _run_jobs(runner, console, note)
        failed = sum(bool(outcome.failure) for outcome in outcomes)
        starved = all(outcome.failure.startswith(OUT_OF_MEMORY) for outcome in outcomes)
        if not watch.leads:
            left = sum(outcome.failure == UNFINISHED for outcome in outcomes)
            return Finished("", _stem(root, chosen.suite), tracker.store, failed - left, left=left)
        watch.at("writing the report")
        comparison = collect(root, chosen.suite.suite)
        verdicts = judged(root, chosen.suite.suite)
        album = suite_album(runner, outcomes, _stem(root, chosen.suite))
        report = _report(root, chosen.suite, comparison, verdicts, album)
    table = render(comparison, format="terminal", verdicts=verdicts)
    example = "" if outcomes[0].failure else example_command(root, experiment)
    return Finished(table, report, tracker.store, failed, starved=starved, example=example)


def _run_steps(
    chosen: choose.Chosen, root: Path, device: torch.device, console: CleanConsole, watch: Watch
) -> Finished:
    """Runs a build order (§10.3): each step's model, then its checks; stops after the first step that fails."""
    tracker, source = Tracker(root), provenance(device, watch)
    walk = BuildOrder(chosen, source, root / "reports" / chosen.suite.suite)
    experiment: plan.Experiment | None = None
    runner: Runner | None = None
    with tracked(tracker, root, watch) as tracking:
        for name, suite in chosen.steps.items():
            encoders = experiment.encoders if experiment else None
            experiment = plan.Experiment(suite, encoders=encoders, watch=watch)
            runner = Runner(experiment, root, device, like=runner, watch=watch)
            if not walk.results:
                console.say(title(chosen, experiment))
                _check_data(runner, console)
            if chosen.suite.steps[name].train:
                _build_features(runner, console)
            outcomes = _run_jobs(runner, console) if chosen.suite.steps[name].train else []
            tracking.note(suite_record(runner, outcomes, why=chosen.why, provenance=source))
            result = walk.examine(name, runner, outcomes)
            console.say(result.line())
            if not result.passed:
                break
        report = walk.write()
    return Finished(walk.table(), report, tracker.store, failed=0 if walk.passed else 1, comparable=False)


def _check_data(runner: Runner, console: CleanConsole) -> None:
    clear_debris(runner.root)
    with Display(console) as display:
        runner.check_data(display)


def _build_features(runner: Runner, console: CleanConsole) -> None:
    with Display(console) as display:
        runner.build_features(display)


def _run_jobs(
    runner: Runner,
    console: CleanConsole,
    note: Callable[[Sequence[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Runs every job of an experiment and shows it; jobs that another process has come last.

    note: gets all outcomes before the first job and after each; a job to come is unfinished. A process that only
    helps leaves jobs unfinished that are then still in other hands.
    """
    watch, jobs, primary = runner.watch, runner.experiment.jobs, runner.experiment.suite.report.primary
    outcomes = [runner.folder(job).found() for job in jobs]
    note(outcomes)

    def run_each(indices: Sequence[int], display: Display) -> list[int]:
        """Runs these jobs; returns those that another process has."""
        busy = []
        for index in indices:
            watch.at("choosing a job")
            try:
                outcomes[index] = runner.run(jobs[index], display)
            except BusyError:
                busy.append(index)
                continue
            note(outcomes)
            display.on_job_end(jobs[index].name, outcomes[index].result(primary))
        return busy

    alone = [index for index, job in enumerate(jobs) if job.train_id in watch.alone]
    with Display(console, len(jobs)) as display:
        waiting = run_each(alone, display)
        if not watch.joined:  # side by side, one process would have them all
            runner.train_in_step(jobs, display)
        waiting += [index for index in range(len(jobs)) if index not in alone]
        while waiting:
            busy = run_each(waiting, display)
            if busy == waiting:
                if not watch.leads:
                    break
                watch.at(f"waiting for {jobs[busy[0]].name}, which another process does")
                time.sleep(WAIT_S)
            waiting = busy
    return outcomes


def _stem(root: Path, suite: Suite) -> Path:
    return root / "reports" / suite.suite


def _report(root: Path, suite: Suite, comparison: Comparison, verdicts: Verdicts | None, album: Album | None) -> Path:
    """Writes the page, the tables as Markdown, CSV and JSON, and the resolved configuration; returns the page."""
    stem = _stem(root, suite)
    resolved = json.dumps(suite.dump(), indent=1, ensure_ascii=False)
    files.write_text(stem.with_suffix(".suite.json"), resolved + "\n")
    for suffix, form in ((".md", "markdown"), (".csv", "csv"), (".json", "json")):
        files.write_text(stem.with_suffix(suffix), render(comparison, format=form, verdicts=verdicts) + "\n")
    page = stem.with_suffix(".html")
    drawn, diagnosed = curves(root, suite.suite), watched(root, suite.suite)
    text = html_report(comparison, drawn, configuration=resolved, verdicts=verdicts, watched=diagnosed, album=album)
    files.write_text(page, text)
    return page
