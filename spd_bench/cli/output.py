"""Text for the terminal."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from spd_bench.errors import printable


def listing(found: Mapping[str, str]) -> str:
    """One line per entry, values aligned."""
    width = max(map(len, found), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in found.items())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows below one line of headings."""
    from tabulate import tabulate

    return str(tabulate(rows, headers="keys", tablefmt="simple", intfmt=","))


def show_progress(text: str) -> None:
    """Prints to stderr where a person watches it; a log is spared the line."""
    if sys.stderr.isatty():
        say(text)


def say(text: str) -> None:
    """Prints to stderr, with unprintable characters escaped."""
    print(printable(text, keep="\n"), file=sys.stderr, flush=True)
