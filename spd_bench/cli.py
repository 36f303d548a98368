"""The command line: parse, call one function, print. Heavy imports happen inside the commands that need them."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from spd_bench.errors import SpdError

for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MPLBACKEND": "Agg",
    # threads that spin at barriers stall for seconds as soon as another process wants a core (docs/adr/0004)
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(_name, _value)

data_app = typer.Typer(help="Look at RGB-D data, and pack it for fast training.", no_args_is_help=True)
weights_app = typer.Typer(help="Look at files of encoder weights.", no_args_is_help=True)
app = typer.Typer(
    name="spd-bench",
    help="Ablation and evaluation harness for sparse query-point depth (SPD v13).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")


class Format(StrEnum):
    """Table formats."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


SuiteArg = Annotated[str, typer.Argument(help="Suite file, or the name of a shipped suite.", metavar="SUITE")]
ProfileOption = Annotated[str | None, typer.Option("--profile", help="Named overrides of the suite; never falls back.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override one value, as path=value; repeatable.", metavar="PATH=VALUE")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="Folder or file of RGB-D data; its layout is recognised.", metavar="PATH")
]
RootOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs.", envvar="SPD_BENCH_RUNS")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
OnlyOption = Annotated[
    list[str] | None, typer.Option("--only", help="Only these compositions and the base; * is a wildcard; repeatable.")
]
SkipOption = Annotated[list[str] | None, typer.Option("--skip", help="Not these compositions; repeatable.")]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set component, where the layout is not recognised.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
RUNS = Path("runs")
INTERRUPTED = 130
"""Exit code that Typer gives for Ctrl-C."""


@app.command()
def run(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Train and score every composition of a suite, log to MLflow, and print the comparison table.

    Finished work is skipped and an interrupted training goes on: run the same command again.
    """
    from spd_bench.session import run_suite

    outcome = run_suite(
        suite,
        profile=profile,
        sets=set_ or (),
        data=data,
        root=runs,
        device=device,
        selection=_selection(only, skip),
    )
    typer.echo(outcome.table)
    typer.echo(f"\nreport:  {outcome.report}\nMLflow:  {outcome.tracking}")
    if outcome.comparable:
        typer.echo("tables:  spd-bench compare --metric absrel")
    if outcome.failed:
        raise typer.Exit(4)


@app.command()
def compare(
    suite: Annotated[str | None, typer.Argument(help="Name of a suite that was run; default: the latest.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="One metric at every K.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", help="Only these K; repeatable.")] = None,
    format_: Annotated[Format, typer.Option("--format", help="Form of the table.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of printing.")] = None,
    runs: RootOption = RUNS,
) -> None:
    """Show the comparison table of a finished suite, rebuilt from its run folders."""
    from spd_bench import files
    from spd_bench.report.collect import collect
    from spd_bench.report.tables import render

    table = render(collect(runs, suite), format=format_.value, metric=metric, ks=tuple(k) if k else None)
    if output is None:
        typer.echo(table)
    else:
        files.write_text(output, table + "\n")


@app.command()
def check(suite: SuiteArg, profile: ProfileOption = None, set_: SetOption = None, data: DataOption = None) -> None:
    """Check a suite's file, names and values without importing any component."""
    from spd_bench.suite import load_suite

    loaded = load_suite(suite, profile=profile, sets=set_ or (), data=data)
    typer.echo(f"{loaded.suite}: no problem found in the file; `spd-bench plan {suite}` checks the models too")


@app.command()
def plan(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    runs: RootOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """List every composition as its difference from the base, and what `run` would train; writes nothing."""
    from spd_bench.session import plan_suite

    rows, title = plan_suite(
        suite, profile=profile, sets=set_ or (), data=data, root=runs, selection=_selection(only, skip)
    )
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    typer.echo(title)
    typer.echo(_table(rows))


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
    typer.echo(json.dumps(rows, indent=1) if as_json else _table(rows))


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="Component, as NAME or SLOT/NAME.")],
) -> None:
    """Show what a component computes, its options with defaults, what it reads and writes, and where it comes from."""
    from spd_bench.describe import describe_component

    typer.echo(describe_component(name))


@app.command()
def params(
    suite: Annotated[str, typer.Argument(help="Suite whose base is counted.", metavar="SUITE")] = "v13_ablation",
    as_json: JsonOption = False,
) -> None:
    """Count the trainable parameters of a suite's base beside the paper's budget (§9)."""
    from spd_bench.describe import parameter_budget

    rows = parameter_budget(suite)
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else _table(rows))


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help=".npy or HDF5 stack, folder of maps, or a run's predictions.h5.")],
    name: Annotated[str, typer.Option("--name", help="What tables call it.")],
    suite: Annotated[
        str, typer.Option("--suite", help="Suite whose data, protocol and points apply.")
    ] = "v13_ablation",
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    unit: Annotated[str, typer.Option("--unit", help="m, mm, or file units in one metre.")] = "m",
    quantity: Annotated[str, typer.Option("--quantity", help="depth or disparity.")] = "depth",
    align: Annotated[
        str, typer.Option("--align", help="none, lsq_disparity, lsq_depth or median, fitted to the ground truth.")
    ] = "none",
    gt_aligned: Annotated[bool, typer.Option("--gt-aligned", help="They were aligned to ground truth before.")] = False,
    key: Annotated[str | None, typer.Option("--dataset-key", help="Name of the array in an HDF5 file.")] = None,
    names: Annotated[Path | None, typer.Option("--names", help="Frame names of a stack, one a line.")] = None,
    runs: RootOption = RUNS,
) -> None:
    """Score somebody else's predictions as a suite's own, and add them to its comparisons."""
    from spd_bench.display import counting
    from spd_bench.external import score_predictions, table
    from spd_bench.plan import choose_data

    with counting("scoring") as on_image:
        scored = score_predictions(
            predictions,
            suite=choose_data(suite, profile=profile, sets=set_ or (), data=data),
            name=name,
            root=runs,
            unit=unit,
            quantity=quantity,
            align=align,
            gt_aligned=gt_aligned,
            dataset_key=key,
            names=names,
            on_image=on_image,
        )
    typer.echo(table(scored))


@data_app.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="Folder or file of RGB-D data.")],
    dataset: DatasetOption = None,
    protocol: Annotated[str, typer.Option("--protocol", help="Its crop and bounds are looked at.")] = "nyu_bts",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames of each split; default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what data this is, and every problem with it, in one pass; exit code 3 if there is one."""
    from spd_bench.display import counting
    from spd_bench.inspection import inspect_data

    with counting("reading frames") as on_frame:
        found = inspect_data(path, dataset=dataset, protocol=protocol, on_frame=on_frame, limit=limit)
    typer.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if found.problems:
        raise typer.Exit(3)


@data_app.command("prepare")
def data_prepare(
    path: Annotated[Path, typer.Argument(help="Folder or file of RGB-D data.")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    dataset: DatasetOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Option of the data set, as name=value; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read frames.")] = 2,
) -> None:
    """Pack RGB-D data of any layout into one HDF5 file that trains fast; the same command goes on after a stop."""
    from spd_bench.display import counting
    from spd_bench.packing import pack
    from spd_bench.yamlio import setting

    options: dict[str, Any] = {}
    for text in option or ():
        options |= setting(text, "--option").plain()
    with counting("packing") as on_frame:
        packed = pack(path, output, dataset=dataset, options=options, workers=workers, on_frame=on_frame)
    typer.echo(f"{packed}\nuse it:  spd-bench run SUITE --data {output}")


@weights_app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(help="File or folder of weights.")], as_json: JsonOption = False
) -> None:
    """Say what a file of weights is, and which encoder it fits."""
    from spd_bench.describe import describe_weights

    found = describe_weights(path)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _list(found))


def _selection(only: Sequence[str] | None, skip: Sequence[str] | None) -> Any:
    from spd_bench.ablate import Selection

    return Selection(tuple(only or ()), tuple(skip or ()))


def _list(found: Mapping[str, str]) -> str:
    width = max(map(len, found), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in found.items())


def _table(rows: Sequence[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return str(tabulate(rows, headers="keys", tablefmt="simple", intfmt=","))


def main() -> None:
    """Entry point of the console script: runs a command and turns errors into one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except SpdError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say("stopped; the same command goes on from here")
        raise
    except Exception as error:
        with tempfile.NamedTemporaryFile(
            "w", prefix="spd-bench-", suffix=".txt", delete=False, encoding="utf-8"
        ) as crash:
            traceback.print_exc(file=crash)
        _say(f"error: a bug in spd-bench: {type(error).__name__}: {error}\n  hint: please report it with {crash.name}")
        sys.exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
