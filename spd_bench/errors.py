"""Errors that a user can mend, each with the exit code of the command that met it.

    SpdError            1   a bug of ours, unless a subclass says otherwise
    ├─ ConfigError      2   suite, option or command line
    ├─ DataError        3   data set or weights: missing, corrupt, wrong unit
    ├─ RunsFailed       4   the suite finished, some of its runs failed
    ├─ ResourceError    5   disk, memory or a process ran out
    ├─ BusyError        6   another process holds the folder
    └─ StateError       7   saved state that cannot be used

Only `spd_bench.cli` formats them; nothing else prints or exits.
"""

import difflib
from collections.abc import Iterable


class SpdError(Exception):
    """One problem: where it is, what was expected and found, and what to do about it.

    `where` is `file:line:column`, a path or an option; `hint` is the mend.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def at(self, where: str) -> "SpdError":
        """The same error with a place, if it had none yet."""
        if self.where is None:
            self.where = where
        return self


class ConfigError(SpdError):
    """The suite, an option or the command line asks for something that cannot be."""

    exit_code = 2


class DataError(SpdError):
    """Data or weights are missing, corrupt or not what they claim to be."""

    exit_code = 3


class RunsFailed(SpdError):
    """The suite went to its end, but at least one run failed."""

    exit_code = 4


class ResourceError(SpdError):
    """The machine ran out of disk, memory or processes; what was finished stays."""

    exit_code = 5


class BusyError(SpdError):
    """Another process holds what this one needs."""

    exit_code = 6


class StateError(SpdError):
    """Saved state is damaged or from another version."""

    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: the closest of `known`, or all of them when none is close."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    close = close or [option for option in options if option.startswith(name)][:1]
    if close:
        return f'did you mean "{close[0]}"?'
    return "known: " + ", ".join(options) if options else "there is none"
