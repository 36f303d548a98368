"""The commands `sweep run` and `sweep show`."""

import json
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from spd_bench.cli.app import sweep_app
from spd_bench.cli.options import (
    RUNS,
    DataOption,
    DataOptionOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    ProfileOption,
    RootOption,
    SetOption,
    StorageOption,
    TimeLimitOption,
    limits,
    overrides,
)
from spd_bench.cli.output import say
from spd_bench.errors import ConfigError


@sweep_app.command("run")
def sweep_run(
    sweep: Annotated[str, typer.Argument(help="Sweep file, or the name of a shipped sweep.", metavar="SWEEP")],
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Trials of all workers together; default: the file's.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds after which no further trial is begun.")
    ] = None,
    storage: StorageOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
    time_limit: TimeLimitOption = None,
    stall: Annotated[
        float, typer.Option("--stall", min=1, help="Give up a trial that makes no progress for this many seconds.")
    ] = 600,
) -> None:
    """Train a suite's base with values that a sampler proposes, and choose by the validation split.

    Any number of processes that are given the same command share the trials. Nothing is trained twice: what a suite or
    another sweep has trained counts, and the same command goes on after a stop, with the trial at hand first.
    """
    from spd_bench.sweep.launch import launch_sweep
    from spd_bench.sweep.request import SweepRequest

    request = SweepRequest(
        sweep=sweep,
        profile=profile,
        sets=overrides(set_, dataset, option),
        data=data,
        root=runs,
        device=device,
        storage=storage,
        trials=trials,
        timeout=timeout,
    )
    ended = launch_sweep(request, limits=limits(stall, time_limit), tell=say)
    typer.echo(ended.table)
    typer.echo(f"\nstudy:   {ended.study} in {ended.database}")
    typer.echo(f"report:  {ended.report}\nMLflow:  {ended.tracking}")
    typer.echo(f"more:    spd-bench sweep show {ended.study} --write-suite best.yaml")
    if ended.failed:
        raise typer.Exit(4)


@sweep_app.command("show")
def sweep_show(
    name: Annotated[str | None, typer.Argument(help="Sweep or study; default: the latest.", metavar="SWEEP")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Trials in the table.")] = 10,
    write_suite: Annotated[
        Path | None, typer.Option("--write-suite", help="Write a suite that confirms the best trial over fresh seeds.")
    ] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Trial for --write-suite; default: the best.")] = None,
    storage: StorageOption = None,
    runs: RootOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Show a sweep's best trials or its front, what mattered, and what stood in for the real thing."""
    from spd_bench.sweep.show import show_sweep, write_confirming, write_page
    from spd_bench.sweep.tables import terminal

    if trial is not None and write_suite is None:
        raise ConfigError(
            f"--trial {trial} chooses what --write-suite writes, which is not given",
            where="sweep show",
            hint="add --write-suite FILE",
        )
    summary = show_sweep(name, root=runs, storage=storage)
    if write_suite is not None:
        write_confirming(summary, trial, write_suite)
        typer.echo(f"written: {write_suite}\nconfirm it:  spd-bench run {write_suite}")
        return
    if as_json:
        typer.echo(json.dumps(summary.plain(), indent=1, ensure_ascii=False))
    else:
        typer.echo(f"{terminal(summary, top=top)}\n\nreport:  {write_page(summary, runs)}")
