"""The commands `data inspect`, `data points` and `data prepare`."""

import json
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from spd_bench.cli.app import data_app
from spd_bench.cli.options import (
    DataOption,
    DataOptionOption,
    DatasetOption,
    JsonOption,
    ProfileOption,
    SetOption,
    option_values,
    overrides,
)


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
            path, dataset=dataset, options=option_values(option), protocol=protocol, on_frame=on_frame, limit=limit
        )
    typer.echo(json.dumps(found.plain(), indent=1, ensure_ascii=False) if as_json else "\n".join(found.lines()))
    if found.problems:
        raise typer.Exit(3)


@data_app.command("points")
def data_points(
    suite: Annotated[str, typer.Argument(help="Suite whose test points are written.")] = "v13_ablation",
    profile: ProfileOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    dataset: DatasetOption = None,
    option: DataOptionOption = None,
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")] = Path("points.jsonl"),
) -> None:
    """Write a suite's test points with their true depth, one line of JSON per frame (DepthVLM-Bench's form)."""
    from spd_bench.external.points import write_points
    from spd_bench.run.planning.choose import choose_data
    from spd_bench.run.request import Request

    request = Request(suite=suite, profile=profile, sets=overrides(set_, dataset, option), data=data)
    written = write_points(choose_data(request), out)
    typer.echo(f"{written}\nscore answers:  spd-bench score ANSWERS.jsonl --name NAME, with depth replaced by them")


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
        packed = pack(path, output, dataset=dataset, options=option_values(option), workers=workers, on_frame=on_frame)
    typer.echo(f"{packed}\nuse it:  spd-bench run SUITE --data {output}")
