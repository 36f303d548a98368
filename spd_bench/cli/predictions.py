"""Commands about predictions: predict, inspect, explore, export, and score for those of another program."""

import json
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from spd_bench.cli.app import app
from spd_bench.cli.options import (
    RUNS,
    AnswerFormat,
    DataOption,
    DataOptionOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    MapFormat,
    ProfileOption,
    RootOption,
    SetOption,
    overrides,
)
from spd_bench.cli.output import say
from spd_bench.errors import ConfigError


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
        Path | None,
        typer.Option("--save", help="Folder for pictures and depth maps; or NAME.png, one picture."),
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
    from spd_bench.predict.predict import predict_all, saving_at
    from spd_bench.predict.questions import Questions, parse_point
    from spd_bench.predict.sources import Sources
    from spd_bench.run.display import counting

    asked = Questions(tuple(map(parse_point, at or ())), points, grid, mask, dense)
    if dense and save is None:
        raise ConfigError("a depth map needs a folder", where="--dense", hint="add --save FOLDER")
    sources = Sources(images)
    saving = None if save is None else saving_at(save, map_.value, sources, dense=dense)
    model = load_run(run_, root=runs, seed=seed, device=device)
    answers = []
    with counting("predicting") as on_image:
        for answer in predict_all(model, sources, asked, saving=saving):
            answers.append(answer)
            on_image(len(answers), max(len(answers), sources.total))
    said = [caption(model.run, run_), *(line for answer in answers for line in notes(answer))]
    if format_ is AnswerFormat.json:
        typer.echo(as_json(answers, model.run, run_))
    elif format_ is AnswerFormat.csv:
        say("\n".join(said))
        typer.echo(as_csv(answers))
    else:
        written = [f"written: {path}" for answer in answers for path in answer.files]
        typer.echo("\n".join(filter(None, ["\n".join(said), table(answers), *written])))


@app.command()
def inspect(
    run_: Annotated[str, typer.Argument(help="Folder of a run, SUITE/COMPOSITION, SUITE, or SWEEP.", metavar="RUN")],
    image: Annotated[Path, typer.Option("--image", help="The image.")],
    at: Annotated[str, typer.Option("--at", help="The point, in pixels of the image as given.", metavar="U,V")],
    save: Annotated[Path | None, typer.Option("--save", help="Picture to write, .png or .svg.")] = None,
    as_json: JsonOption = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the run; default: the lowest.")] = None,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Show what a run looked at for one point: anchors and samples, attention, shares of tokens, calibration.

    For data sets there is `spd-bench data inspect`.
    """
    from spd_bench.ask.pictures import as_rgb
    from spd_bench.inside.picture import check_form, write_picture
    from spd_bench.inside.trace import look_inside
    from spd_bench.predict.answers import about, caption
    from spd_bench.predict.load import load_run
    from spd_bench.predict.questions import parse_point

    point = parse_point(at)
    if save is not None:
        check_form(save)
    model = load_run(run_, root=runs, seed=seed, device=device)
    image_HW3 = as_rgb(image)
    inside = look_inside(model, model.encode(image_HW3), point)
    if save is not None:
        write_picture(save, image_HW3, inside, title=caption(model.run, run_))
    if as_json:
        found = {"run": about(model.run, run_), "image": str(image), **inside.plain()}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join([caption(model.run, run_), *inside.lines(), *([f"written: {save}"] if save else [])]))


@app.command()
def explore(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, as predict --run names them; default: every row of the suite that ran last.", metavar="RUN"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the runs; default: the lowest of each.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes any free one.")] = 0,
    runs: RootOption = RUNS,
    device: DeviceOption = "auto",
) -> None:
    """Open a page on this machine: click into an image and read the depth there by each run, the truth and the error.

    Prints the address, which ends in a token; only this machine is answered.
    """
    from spd_bench.explore.command import explore as serve_page

    serve_page(names or (), root=runs, seed=seed, device=device, port=port, tell=say)


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
def score(
    predictions: Annotated[Path, typer.Argument(help="Stack, folder of maps, .jsonl, or a run's predictions.h5.")],
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
    crop: Annotated[
        str | None, typer.Option("--crop", help="Rows and columns that the maps show, such as 45:471,41:601, or none.")
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Score implausible predictions all the same; the row says so.")
    ] = False,
    points: Annotated[
        Path | None, typer.Option("--points", help="JSONL of points and true depths to score at instead.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also what other toolboxes would print, and why.")] = False,
    key: Annotated[str | None, typer.Option("--dataset-key", help="Name of the array in a .npz or HDF5 file.")] = None,
    names: Annotated[Path | None, typer.Option("--names", help="Frame names of a stack, one a line.")] = None,
    runs: RootOption = RUNS,
) -> None:
    """Score the predictions of another program as a suite scores its own, and add them to its comparisons."""
    from spd_bench.external.score import score_predictions
    from spd_bench.external.table import table
    from spd_bench.run.display import counting
    from spd_bench.run.planning.choose import choose_data
    from spd_bench.run.request import Request

    with counting("scoring") as on_image:
        scored = score_predictions(
            predictions,
            suite=choose_data(Request(suite=suite, profile=profile, sets=overrides(set_, dataset, option), data=data)),
            name=name,
            root=runs,
            unit=unit,
            quantity=quantity,
            align=align,
            gt_aligned=gt_aligned,
            crop=crop,
            as_is=as_is,
            dataset_key=key,
            names=names,
            points=points,
            explain=explain,
            on_image=on_image,
        )
    typer.echo(table(scored))
