"""The command line: parse, call one function, print. Heavy imports happen inside the commands that need them.

`app` has the groups, `options` what commands share; the other modules register their commands when they are imported.
"""

import shlex
import sys
import tempfile
import traceback

# isort: off
from spd_bench.cli import suites, predictions, models, sweeps, data, cache  # noqa: F401 the order of --help

# isort: on
from spd_bench.cli.app import app
from spd_bench.cli.output import say
from spd_bench.errors import STOP_CODES, SpdError, Stopped, WorkerBug, shortage

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script: runs a command and turns errors into one message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except SpdError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except Stopped as stopped:
        again = shlex.join(["spd-bench", *sys.argv[1:]])
        say(f"stopped by {stopped.reason}; the same command goes on from here:\n  {again}")
        sys.exit(stopped.exit_code)
    except SystemExit as end:
        if end.code == STOP_CODES["SIGINT"]:  # Typer's own for Ctrl-C
            say("stopped; the same command goes on from here")
        raise
    except Exception as error:
        if lacks := shortage(error):
            say(f"error: {lacks}")
            sys.exit(lacks.exit_code)
        with tempfile.NamedTemporaryFile(
            "w", prefix="spd-bench-", suffix=".txt", delete=False, encoding="utf-8"
        ) as crash:
            crash.write(getattr(error, "traceback", None) or traceback.format_exc())
            crash.write(f"\n{sys.version} on {sys.platform}\nspd-bench {' '.join(sys.argv[1:])}\n")
        what = str(error) if isinstance(error, WorkerBug) else f"{type(error).__name__}: {error}"
        say(f"error: a bug in spd-bench: {what}\n  hint: please report it with {crash.name}")
        sys.exit(1)
