"""Commands about components, models and weights: list, describe, params, profile, weights check."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from spd_bench.cli.app import app, weights_app
from spd_bench.cli.options import (
    RUNS,
    DeviceOption,
    JsonOption,
    ProfileOption,
    RootOption,
    SetOption,
    SuiteArg,
    numbers,
)
from spd_bench.cli.output import listing, table


@app.command("list")
def list_(
    slot: Annotated[str | None, typer.Argument(help="Only this slot.")] = None,
    check_: Annotated[bool, typer.Option("--check", help="Import each component and report broken ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the registered components; reads metadata only."""
    from spd_bench import registry

    rows = []
    for entry in registry.entries(slot):
        row = {"slot": entry.slot, "name": entry.name, "from": f"{entry.distribution} {entry.version}"}
        if check_:
            row["state"] = registry.status(entry.slot, entry.qualified).problem or "ok"
        rows.append(row)
    typer.echo(json.dumps(rows, indent=1) if as_json else table(rows))


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="Component, as NAME or SLOT/NAME.")],
) -> None:
    """Show what a component computes, its options with defaults, what it reads and writes, and where it comes from."""
    from spd_bench.model.describe import describe_component

    typer.echo(describe_component(name))


@app.command()
def params(
    suite: Annotated[str, typer.Argument(help="Suite whose base is counted.", metavar="SUITE")] = "v13_ablation",
    as_json: JsonOption = False,
) -> None:
    """Count the trainable parameters of a suite's base beside the paper's budget (§9)."""
    from spd_bench.model.describe import parameter_budget

    rows = parameter_budget(suite)
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else table(rows))


@app.command()
def profile(
    suite: SuiteArg,
    composition: Annotated[
        list[str] | None, typer.Option("--only", help="These compositions beside the base; repeatable.")
    ] = None,
    profile_: ProfileOption = None,
    set_: SetOption = None,
    k: Annotated[str, typer.Option("--k", help="Numbers of query points, with commas.")] = "1,64,256,1024,4096",
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="Times that everything is measured.")] = 9,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of a CPU.")] = 1,
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    training: Annotated[
        str | None, typer.Option("--training", help="Also time a training step of this many images and queries: 8,256.")
    ] = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Measure T_encode, T_prepare, T_decode(K), memory and arithmetic beside the literal form and the dense heads."""
    from spd_bench.cost import timing

    if device != "cuda" and not timing.is_pinned(threads):
        raise typer.Exit(timing.run_pinned(sys.orig_argv, threads))
    from spd_bench.model.device import device_named
    from spd_bench.profile.measure import profile_entry, profile_suite, write_profile
    from spd_bench.profile.results import TrainingShape
    from spd_bench.profile.tables import profile_terminal
    from spd_bench.run.display import counting
    from spd_bench.suite.load import load_suite
    from spd_bench.tracking.tracker import Tracker

    shape = TrainingShape(*numbers(training, "--training", 2)) if training else None
    with counting("measuring") as on_call:
        measured = profile_suite(
            load_suite(suite, profile=profile_, sets=set_ or ()),
            only=composition or (),
            ks=numbers(k, "--k"),
            rounds=rounds,
            threads=threads,
            device=device_named(device),
            precision=precision,
            training=shape,
            on_call=on_call,
        )
    typer.echo(profile_terminal(measured))
    paths = write_profile(measured, runs)
    tracker = Tracker(runs)
    tracker.start()
    tracker.put(profile_entry(measured, paths))
    tracker.finish()
    typer.echo("written: " + ", ".join(map(str, paths)))


@weights_app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(help="File or folder of weights.")], as_json: JsonOption = False
) -> None:
    """Say what a file of weights is, and which encoder it fits."""
    from spd_bench.model.describe import describe_weights

    found = describe_weights(path)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else listing(found))
