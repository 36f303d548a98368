"""The commands `cache build`, `ls`, `verify` and `rm`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from spd_bench.cli.app import cache_app
from spd_bench.cli.options import (
    RUNS,
    DataOption,
    DataOptionOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    OnlyOption,
    ProfileOption,
    RootOption,
    SetOption,
    SkipOption,
    SuiteArg,
    overrides,
    request,
)
from spd_bench.cli.output import say, table
from spd_bench.errors import ConfigError


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

    build_cache(request(suite, profile, overrides(set_, dataset, option), data, runs, device, only, skip))


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
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else table(rows) if rows else "empty")


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
        typer.echo(f"removed {cache.remove(key, tell=_removing).key}")
        return
    if older_than is not None:
        removal = cache.remove_older(older_than, tell=_removing)
    elif to_limit is not None:
        removal = cache.remove_to(to_limit * 1e9, tell=_removing)
    else:
        removal = cache.remove_all(tell=_removing)
    freed = sum(entry.bytes for entry in removal.removed) / 1e6
    typer.echo(f"removed {len(removal.removed)} ({freed:.1f} MB), left {len(removal.in_use)} in use")


def _removing(entry: Any) -> None:
    say(f"removing {entry.key} ({entry.what}, {entry.views} views, {entry.bytes / 1e6:.1f} MB)")


def _cache(runs: Path) -> Any:
    from spd_bench.data.features.cache import FeatureCache
    from spd_bench.run.inputs import FEATURES

    return FeatureCache(runs / FEATURES)
