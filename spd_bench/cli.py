"""The command line: parse, call one function, print. Heavy imports happen inside the commands that need them."""

import json
import shlex
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from spd_bench.environment import set_defaults
from spd_bench.errors import EXIT_CODES, STOP_CODES, ConfigError, SpdError, Stopped, WorkerBug, printable, shortage

set_defaults()


class RunByDefault(typer.core.TyperGroup):
    """Command group that defaults to `run` when the first argument is not a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with `run` put before them where no command is named."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


data_app = typer.Typer(help="Look at RGB-D data, and pack it for fast training.", no_args_is_help=True)
cache_app = typer.Typer(help="Frozen features on disk, shared by all suites.", no_args_is_help=True)
weights_app = typer.Typer(help="Look at files of encoder weights.", no_args_is_help=True)
sweep_app = typer.Typer(
    help="Search for the best values of a suite: `sweep FILE` is short for `sweep run FILE`.",
    no_args_is_help=True,
    cls=RunByDefault,
)
app = typer.Typer(
    name="spd-bench",
    help="Ablation and evaluation harness for sparse query-point depth (SPD v13).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)


app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(cache_app, name="cache")
app.add_typer(sweep_app, name="sweep")


class Format(StrEnum):
    """Table formats."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


class MapFormat(StrEnum):
    """Files of depth maps."""

    npy = "npy"
    png = "png"


class AnswerFormat(StrEnum):
    """Forms of predicted depths."""

    table = "table"
    csv = "csv"
    json = "json"


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
SeedsOption = Annotated[
    str | None, typer.Option("--seeds", help="In place of the suite's: numbers and ranges, as 0,1,2 or 0-4.")
]
SkipOption = Annotated[list[str] | None, typer.Option("--skip", help="Not these compositions; repeatable.")]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set component, where the layout is not recognised.")
]
DataOptionOption = Annotated[
    list[str] | None, typer.Option("--option", help="Option of the data set, as name=value; repeatable.")
]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", help="Database of the trials, sqlite:/// or postgresql://; default: below --runs."),
]
TimeLimitOption = Annotated[
    str | None, typer.Option("--time-limit", help="Stop in good order (exit code 75) after 3h30m, 90m or 45s.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
RUNS = Path("runs")


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
    from spd_bench.run.launch import launch_suite

    ended = launch_suite(
        _request(suite, profile, _overrides(set_, dataset, option, seeds), data, runs, device, only, skip),
        limits=_limits(stall, time_limit),
        join=join,
        command=" ".join(["spd-bench", *sys.argv[1:]]),
        tell=_say,
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
def predict(
    images: Annotated[list[Path], typer.Argument(help="Images, videos, or folders of images.", metavar="IMAGE...")],
    run_: Annotated[
        str, typer.Option("--run", help="Folder of a run, SUITE/COMPOSITION, SUITE, or SWEEP for its best trial.")
    ],
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="A point in pixels of the image as given; repeatable.", metavar="U,V"),
    ] = None,
    grid: Annotated[int | None, typer.Option("--grid", min=1, max=1024, help="N × N points, evenly spread.")] = None,
    points: Annotated[Path | None, typer.Option("--points", help="CSV file of points, with a header u,v.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Image whose pixels other than 0 are asked for.")] = None,
    dense: Annotated[bool, typer.Option("--dense", help="Every pixel, as a depth map; needs --save.")] = False,
    save: Annotated[
        Path | None, typer.Option("--save", help="Folder for a picture of each image, and for depth maps.")
    ] = None,
    map_: Annotated[MapFormat, typer.Option("--map", help="Maps as metres (npy) or millimetres (16-bit png).")] = (
        MapFormat.npy
    ),
    format_: Annotated[AnswerFormat, typer.Option("--format", help="Form of the answer.")] = AnswerFormat.table,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the run; default: the lowest.")] = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Depth in metres at pixels of your own images, by a trained run.

    A pixel means its centre; 0,0 is the upper left one: spd-bench predict photo.jpg --run v13_ablation/v13 --at 320,240
    """
    from spd_bench.predict.answers import as_csv, as_json, caption, notes, table
    from spd_bench.predict.load import load_run
    from spd_bench.predict.predict import Saving, predict_all
    from spd_bench.predict.questions import Questions, parse_point
    from spd_bench.predict.sources import Sources
    from spd_bench.run.display import counting

    asked = Questions(tuple(map(parse_point, at or ())), points, grid, mask, dense)
    if dense and save is None:
        raise ConfigError("a depth map needs a folder", where="--dense", hint="add --save FOLDER")
    sources = Sources(images)
    model = load_run(run_, root=runs, seed=seed, device=device)
    saving = None if save is None else Saving(save, map_.value)
    answers = []
    with counting("predicting") as on_image:
        for answer in predict_all(model, sources, asked, saving=saving):
            answers.append(answer)
            on_image(len(answers), max(len(answers), sources.total))
    said = [caption(model.run, run_), *(line for answer in answers for line in notes(answer))]
    if format_ is AnswerFormat.json:
        typer.echo(as_json(answers, model.run, run_))
    elif format_ is AnswerFormat.csv:
        _say("\n".join(said))
        typer.echo(as_csv(answers))
    else:
        written = [f"written: {path}" for answer in answers for path in answer.files]
        typer.echo("\n".join(filter(None, ["\n".join(said), table(answers), *written])))


@app.command()
def export(
    run_: Annotated[str, typer.Argument(help="Folder of a run, SUITE/COMPOSITION, SUITE, or SWEEP.", metavar="RUN")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not be there yet.")],
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Image to compare on; repeatable. Default: the test images that `run` has left."),
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as ONNX, tried with its runtimes.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the run; default: the lowest.")] = None,
    runs: RootOption = RUNS,
) -> None:
    """Write a trained run as one folder that needs only PyTorch and NumPy, compared with the run on real images."""
    from spd_bench.export.folder import example_images, export_run
    from spd_bench.predict.load import load_run

    model = load_run(run_, root=runs, seed=seed, device="cpu")
    images = image or example_images(model)
    if not images:
        raise ConfigError("no image to compare the export with the run on", where="export", hint="add --image IMAGE")
    compared = export_run(model, run_, out, images=images, with_onnx=onnx)
    typer.echo(
        "\n".join([*(one.line() for one in compared), f"written: {out}", f"try:     python {out}/ask.py IMAGE U,V"])
    )


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

    shape = TrainingShape(*_numbers(training, "--training", 2)) if training else None
    with counting("measuring") as on_call:
        measured = profile_suite(
            load_suite(suite, profile=profile_, sets=set_ or ()),
            only=composition or (),
            ks=_numbers(k, "--k"),
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
        typer.echo(_table(rows) if rows else "the two runs have the same identity")


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
    # single folders come last: a sweep's trial shows its folder
    found = chain(
        folders.suites(runs, store), sweeps.entries(runs), measure.entries(runs), folders.single_folders(runs)
    )
    done = tracker.sync(runs, found)
    typer.echo(f"{store}: logged {done.logged} runs, {done.known} were there")
    if done.dropped:
        typer.echo(f"removed {runs / tracker.QUEUE}: {done.dropped} calls that an earlier version had queued for them")


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

    loaded = load_suite(suite, profile=profile, sets=_overrides(set_, dataset, option), data=data)
    typer.echo(f"{loaded.suite}: no problem found in the file; `spd-bench plan {suite}` checks the models too")


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
    from spd_bench.run.preview import plan_suite

    sets = _overrides(set_, dataset, option, seeds)
    rows, title = plan_suite(_request(suite, profile, sets, data, runs, device, only, skip))
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
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
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
    """Score the predictions of another program as a suite scores its own, and add them to its comparisons."""
    from spd_bench.external.score import score_predictions, table
    from spd_bench.run.choose import choose_data
    from spd_bench.run.display import counting
    from spd_bench.run.request import Request

    with counting("scoring") as on_image:
        scored = score_predictions(
            predictions,
            suite=choose_data(Request(suite=suite, profile=profile, sets=_overrides(set_, dataset, option), data=data)),
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
        sets=_overrides(set_, dataset, option),
        data=data,
        root=runs,
        device=device,
        storage=storage,
        trials=trials,
        timeout=timeout,
    )
    ended = launch_sweep(request, limits=_limits(stall, time_limit), tell=_say)
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


@data_app.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="Folder or file of RGB-D data.")],
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    protocol: Annotated[str, typer.Option("--protocol", help="Its crop and bounds are looked at.")] = "nyu_bts",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Frames of each split; default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what data this is, and every problem with it, in one pass; exit code 3 if there is one."""
    from spd_bench.data.inspect import inspect_data
    from spd_bench.run.display import counting

    with counting("reading frames") as on_frame:
        found = inspect_data(
            path, dataset=dataset, options=_options(option), protocol=protocol, on_frame=on_frame, limit=limit
        )
    typer.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if found.problems:
        raise typer.Exit(3)


@data_app.command("prepare")
def data_prepare(
    path: Annotated[Path, typer.Argument(help="Folder or file of RGB-D data.")],
    output: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that read frames.")] = 2,
) -> None:
    """Pack RGB-D data of any layout into one HDF5 file that trains fast; the same command goes on after a stop."""
    from spd_bench.data.pack import pack
    from spd_bench.run.display import counting

    with counting("packing") as on_frame:
        packed = pack(path, output, dataset=dataset, options=_options(option), workers=workers, on_frame=on_frame)
    typer.echo(f"{packed}\nuse it:  spd-bench run SUITE --data {output}")


@cache_app.command("build")
def cache_build(
    suite: SuiteArg,
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    only: OnlyOption = None,
    skip: SkipOption = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Encode what a suite's runs will read with data.cache: disk; its size is shown first, and nothing is trained."""
    from spd_bench.run.session import build_cache

    build_cache(_request(suite, profile, _overrides(set_, dataset, option), data, runs, device, only, skip))


@cache_app.command("ls")
def cache_ls(runs: RootOption = RUNS, as_json: JsonOption = False) -> None:
    """List what lies in the cache, the one used last first."""
    import time

    rows = [
        {
            "key": entry.key,
            "features": entry.what,
            "data": entry.data,
            "views": entry.views,
            "MB": round(entry.bytes / 1e6, 1),
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used)),
            "suites": ", ".join(entry.suites),
        }
        for entry in _cache(runs).entries()
    ]
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else _table(rows) if rows else "empty")


@cache_app.command("verify")
def cache_verify(
    key: Annotated[str, typer.Argument(help="Key, or its beginning; default: everything.")] = "",
    runs: RootOption = RUNS,
) -> None:
    """Compare every checksum; damaged shards are listed (exit code 7) and made anew by the next run that needs them."""
    from spd_bench.run.display import counting

    with counting("verifying") as on_shard:
        damaged = _cache(runs).verify(on_shard, key)
    typer.echo("\n".join(f"damaged: {path}" for path in damaged) or "every shard is whole")
    if damaged:
        raise typer.Exit(7)


@cache_app.command("rm")
def cache_rm(
    key: Annotated[str | None, typer.Argument(help="Key, or its beginning.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything.")] = False,
    older_than: Annotated[float | None, typer.Option("--older-than", min=0, help="Unused for this many days.")] = None,
    to_limit: Annotated[
        float | None, typer.Option("--to-limit", min=0, help="Least recently used first, down to this many GB.")
    ] = None,
    runs: RootOption = RUNS,
) -> None:
    """Remove features; what a process is using stays."""
    if sum([key is not None, all_, older_than is not None, to_limit is not None]) != 1:
        raise ConfigError("give one of KEY, --all, --older-than and --to-limit", where="cache rm")
    cache = _cache(runs)
    if key is not None:
        typer.echo(f"removed {cache.remove(key).key}")
        return
    if older_than is not None:
        removal = cache.remove_older(older_than)
    else:
        removal = cache.remove_all() if to_limit is None else cache.remove_to(to_limit * 1e9)
    freed = sum(entry.bytes for entry in removal.removed) / 1e6
    typer.echo(f"removed {len(removal.removed)} ({freed:.1f} MB), left {len(removal.in_use)} in use")


def _cache(runs: Path) -> Any:
    from spd_bench.data.features.cache import FeatureCache
    from spd_bench.run.inputs import FEATURES

    return FeatureCache(runs / FEATURES)


@weights_app.command("check")
def weights_check(
    path: Annotated[Path, typer.Argument(help="File or folder of weights.")], as_json: JsonOption = False
) -> None:
    """Say what a file of weights is, and which encoder it fits."""
    from spd_bench.model.describe import describe_weights

    found = describe_weights(path)
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _list(found))


def _numbers(text: str, option: str, count: int | None = None) -> list[int]:
    """Whole numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or (count is not None and len(parts) != count):
        wanted = f"{count} positive whole numbers" if count else "positive whole numbers"
        raise ConfigError(f'expected {wanted} with commas, found "{text}"', where=option)
    return [int(part) for part in parts]


def _limits(stall_s: float, time_limit: str | None) -> Any:
    from spd_bench.process.supervise import Limits, seconds

    return Limits(stall_s, seconds(time_limit, where="--time-limit") if time_limit else None)


def _overrides(
    sets: Sequence[str] | None,
    dataset: str | None = None,
    options: Sequence[str] | None = None,
    seeds: str | None = None,
) -> tuple[str, ...]:
    """What lies over a suite's values, in the form of `suite.overrides.partial_tree`."""
    named = () if dataset is None else (f"--dataset {dataset}",)
    listed = () if seeds is None else (f"--seeds {seeds}",)
    return (*named, *(sets or ()), *(f"--option {text}" for text in options or ()), *listed)


def _options(texts: Sequence[str] | None) -> dict[str, Any]:
    """The values of --option."""
    from spd_bench.suite.yaml import setting

    options: dict[str, Any] = {}
    for text in texts or ():
        options |= setting(text, "--option").plain()
    return options


def _request(
    suite: str,
    profile: str | None,
    sets: tuple[str, ...],
    data: str | None,
    root: Path,
    device: str,
    only: Sequence[str] | None,
    skip: Sequence[str] | None,
) -> Any:
    """The options that `run`, `plan` and `cache build` share, as a `run.request.Request`."""
    from spd_bench.run.request import Request
    from spd_bench.suite.axes import Selection

    return Request(
        suite=suite,
        profile=profile,
        sets=sets,
        data=data,
        root=root,
        device=device,
        selection=Selection(tuple(only or ()), tuple(skip or ())),
    )


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
    except Stopped as stopped:
        again = shlex.join(["spd-bench", *sys.argv[1:]])
        _say(f"stopped by {stopped.reason}; the same command goes on from here:\n  {again}")
        sys.exit(stopped.exit_code)
    except SystemExit as end:
        if end.code == STOP_CODES["SIGINT"]:  # Typer's own for Ctrl-C
            _say("stopped; the same command goes on from here")
        raise
    except Exception as error:
        if lacks := shortage(error):
            _say(f"error: {lacks}")
            sys.exit(lacks.exit_code)
        with tempfile.NamedTemporaryFile(
            "w", prefix="spd-bench-", suffix=".txt", delete=False, encoding="utf-8"
        ) as crash:
            crash.write(getattr(error, "traceback", None) or traceback.format_exc())
            crash.write(f"\n{sys.version} on {sys.platform}\nspd-bench {' '.join(sys.argv[1:])}\n")
        what = str(error) if isinstance(error, WorkerBug) else f"{type(error).__name__}: {error}"
        _say(f"error: a bug in spd-bench: {what}\n  hint: please report it with {crash.name}")
        sys.exit(1)


def _say(text: str) -> None:
    print(printable(text, keep="\n"), file=sys.stderr, flush=True)
