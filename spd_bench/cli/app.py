"""The command groups that commands register at."""

from typing import Any

import typer
import typer.core

from spd_bench.environment import set_defaults
from spd_bench.errors import EXIT_CODES

set_defaults()  # before any command imports what reads it


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
