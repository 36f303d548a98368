"""Commands about a suite and its runs: run, plan, check, compare, why, sync."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from spd_bench.cli.app import app
from spd_bench.cli.options import (
    RUNS,
    DataOption,
    DataOptionOption,
    DatasetOption,
    DeviceOption,
    Format,
    JsonOption,
    OnlyOption,
    ProfileOption,
    RootOption,
    SeedsOption,
    SetOption,
    SkipOption,
    SuiteArg,
    TimeLimitOption,
    limits,
    overrides,
    request,
)
from spd_bench.cli.output import say, show_progress, table
from spd_bench.errors import ConfigError


@app.command()
def run(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    seeds: SeedsOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
    time_limit: TimeLimitOption = None,
    stall: Annotated[
        float, typer.Option("--stall", min=1, help="Give up a run that makes no progress for this many seconds.")
    ] = 600,
    join: Annotated[
        bool, typer.Option("--join", help="Share the jobs of a suite with the process that runs it.")
    ] = False,
) -> None:
    """Train and score every composition of a suite, log to MLflow, and print the comparison table.

    Finished work is skipped and an interrupted training goes on: run the same command again.
    """
    show_progress(f"planning {suite}")
    from spd_bench.run.launch import launch_suite

    ended = launch_suite(
        request(suite, profile, overrides(set_, dataset, option, seeds), data, runs, device, only, skip),
        limits=limits(stall, time_limit),
        join=join,
        command=" ".join(["spd-bench", *sys.argv[1:]]),
        tell=say,
    )
    if not ended.table:
        typer.echo(f"no job is left to start; the process that leads awaits {ended.left} and writes the report")
    else:
        typer.echo(ended.table)
        typer.echo(f"\nreport:  {ended.report}\nMLflow:  {ended.tracking}")
        if ended.comparable:
            typer.echo("tables:  spd-bench compare --metric absrel")
        if ended.example:
            typer.echo(f"depth:   {ended.example}")
    if ended.failed:
        raise typer.Exit(5 if ended.starved else 4)


@app.command()
def plan(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    seeds: SeedsOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """List every composition as its difference from the base, what `run` would do, and for how long; writes nothing.

    Minutes are estimated from finished runs below the folder of all runs on the same kind of device.
    """
    show_progress(f"planning {suite}")
    from spd_bench.run.preview import plan_suite

    sets = overrides(set_, dataset, option, seeds)
    rows, title = plan_suite(request(suite, profile, sets, data, runs, device, only, skip))
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    typer.echo(title)
    typer.echo(table(rows))


@app.command()
def check(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
) -> None:
    """Check a suite's file, names and values without importing any component."""
    from spd_bench.suite.load import load_suite

    loaded = load_suite(suite, profile=profile, sets=overrides(set_, dataset, option), data=data)
    typer.echo(f"{loaded.suite}: no problem found in the file; `spd-bench plan {suite}` checks the models too")


@app.command()
def compare(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Suites that were run, or single rows of them; default: the suite that ran last.",
            metavar="[[ROOT:]SUITE[/COMPOSITION]]...",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="One metric at every K.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Only these K; repeatable.")] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Row that differences are taken from; default: the first base.")
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            help="Axis, or names of rows (* is a wildcard), whose p are adjusted together and get verdicts; "
            "repeatable. Default: what the suite declares; of several suites, their bases.",
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Form of the table.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of printing.")] = None,
    runs: RootOption = RUNS,
) -> None:
    """Show the table of a finished suite, or of several in one, and what can be said of its differences.

    Two suites: spd-bench compare mine theirs. Two rows: compare mine/no-b3 mine/no-b4. The runs of another machine:
    compare mine /mnt/other/runs:mine.
    """
    from spd_bench.report.compare import compared
    from spd_bench.store import files

    table = compared(
        sources or (), runs, format=format_.value, metric=metric, ks=k or (), baseline=baseline, family=family or ()
    )
    if output is None:
        typer.echo(table)
    else:
        files.write_text(output, table + "\n")


@app.command()
def why(
    first: Annotated[Path, typer.Argument(help="Folder of a run, or its run.json.", metavar="RUN_A")],
    second: Annotated[Path, typer.Argument(help="Folder of another run.", metavar="RUN_B")],
    as_json: JsonOption = False,
) -> None:
    """Say which fields of two runs' identities differ."""
    from spd_bench.model.describe import identity_differences

    rows = identity_differences(first, second)
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        typer.echo(table(rows) if rows else "the two runs have the same identity")


@app.command()
def sync(runs: RootOption = RUNS) -> None:
    """Log in MLflow every finished suite, run, sweep and profile below --runs that its store lacks.

    The store is MLFLOW_TRACKING_URI, or mlflow.db below --runs. Repeating this changes nothing. A run that was deleted
    in MLflow is logged again while its folder is there; a deleted experiment is not filled, the next one
    (spd-bench-2) is, and the command that restores the old one is printed.
    """
    from itertools import chain

    from spd_bench.profile import measure
    from spd_bench.sweep import track as sweeps
    from spd_bench.tracking import folders, tracker
    from spd_bench.tracking.mlflow_store import MlflowStore

    if not runs.is_dir():
        raise ConfigError("there is no such folder", where=f"--runs {runs}", hint="name the folder of all runs")
    store = MlflowStore(runs).shown
    if calls := tracker.queued(runs):
        say(f"{runs / tracker.QUEUE}: {calls} calls that an earlier version queued go once everything is logged")
    # single folders come last: a sweep's trial shows its folder
    found = chain(
        folders.suites(runs, store), sweeps.entries(runs), measure.entries(runs), folders.single_folders(runs)
    )
    done = tracker.sync(runs, found)
    typer.echo(f"{store}: logged {done.logged} runs, {done.known} were there")
    if done.dropped:
        typer.echo(f"removed {runs / tracker.QUEUE}: {done.dropped} calls that an earlier version had queued for them")
