"""The command line: parse, call one function, print. Heavy imports happen inside the commands that need them."""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
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

app = typer.Typer(
    name="spd-bench",
    help="Ablation and evaluation harness for sparse query-point depth (SPD v13).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
RUNS = Path("runs")
INTERRUPTED = 130
"""Exit code that Typer gives for Ctrl-C."""


@app.command()
def run(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Train and score every composition of a suite, log to MLflow, and print the comparison table.

    Finished work is skipped and an interrupted training goes on: run the same command again.
    """
    from spd_bench.session import run_suite

    outcome = run_suite(suite, profile=profile, sets=set_ or (), data=data, root=runs, device=device)
    typer.echo(outcome.table)
    typer.echo(f"\nreport:  {outcome.report}\nMLflow:  {outcome.tracking}\ntables:  spd-bench compare --metric absrel")
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
    runs: RootOption = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List every composition as its difference from the base, and what `run` would train; writes nothing."""
    from spd_bench.session import plan_suite

    rows, title = plan_suite(suite, profile=profile, sets=set_ or (), data=data, root=runs)
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    typer.echo(title)
    typer.echo(_table(rows))


@app.command("list")
def list_(
    slot: Annotated[str | None, typer.Argument(help="Only this slot.")] = None,
    check_: Annotated[bool, typer.Option("--check", help="Import each component and report broken ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
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
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Count the trainable parameters of a suite's base beside the paper's budget (§9)."""
    from spd_bench.describe import parameter_budget

    rows = parameter_budget(suite)
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else _table(rows))


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
