"""Arguments and options that several commands share, and what they mean."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from spd_bench.errors import ConfigError

if TYPE_CHECKING:
    from spd_bench.process.supervise import Limits
    from spd_bench.run.request import Request


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
    list[str] | None,
    typer.Option("--only", help="Only these compositions, and the base if any of them trains; repeatable."),
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


def numbers(text: str, option: str, count: int | None = None) -> list[int]:
    """Whole numbers with commas between them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts) or (count is not None and len(parts) != count):
        wanted = f"{count} positive whole numbers" if count else "positive whole numbers"
        raise ConfigError(f'expected {wanted} with commas, found "{text}"', where=option)
    return [int(part) for part in parts]


def limits(stall_s: float, time_limit: str | None) -> "Limits":
    """The values of --stall and --time-limit."""
    from spd_bench.process.supervise import Limits, seconds

    return Limits(stall_s, seconds(time_limit, where="--time-limit") if time_limit else None)


def overrides(
    sets: Sequence[str] | None,
    dataset: str | None = None,
    options: Sequence[str] | None = None,
    seeds: str | None = None,
) -> tuple[str, ...]:
    """What lies over a suite's values, in the form of `suite.overrides.partial_tree`.

    Raises ConfigError where --set gives what --dataset or --option gives as well.
    """
    twice = {f"data.dataset.{text.partition('=')[0].strip()}": f"--option {text}" for text in options or ()}
    twice |= {} if dataset is None else {"data.dataset": f"--dataset {dataset}"}
    for text in sets or ():
        if (other := twice.get(text.partition("=")[0].strip())) is not None:
            raise ConfigError(f"{other} gives the same value", where=f"--set {text}", hint="leave one of the two away")
    named = () if dataset is None else (f"--dataset {dataset}",)
    listed = () if seeds is None else (f"--seeds {seeds}",)
    return (*named, *(sets or ()), *(f"--option {text}" for text in options or ()), *listed)


def option_values(texts: Sequence[str] | None) -> dict[str, Any]:
    """The values of --option."""
    from spd_bench.suite.yaml import setting

    options: dict[str, Any] = {}
    for text in texts or ():
        options |= setting(text, "--option").plain()
    return options


def request(
    suite: str,
    profile: str | None,
    sets: tuple[str, ...],
    data: str | None,
    root: Path,
    device: str,
    only: Sequence[str] | None,
    skip: Sequence[str] | None,
) -> "Request":
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
