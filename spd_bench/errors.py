"""The exceptions that a user can act on, each with the exit code of the command (`EXIT_CODES`).

    SpdError            1   a bug in spd-bench, unless a subclass says otherwise
    ├─ ConfigError      2   suite, option or command line
    ├─ DataError        3   data set or weights: missing, corrupt, wrong unit
    ├─ ResourceError    5   disk, memory or a process ran out
    ├─ BusyError        6   another process holds the folder
    └─ StateError       7   saved state that cannot be used
    no exception        4   the suite finished, some of its runs failed: `run` prints the table first
    Stopped      75 130 143   stopped by a signal or a time limit; not an error

Only `spd_bench.cli` prints them and exits.
"""

import difflib
import errno
from collections.abc import Iterable

EXIT_CODES = {
    0: "everything is done",
    1: "a bug in spd-bench; the message names a file with its traceback",
    2: "suite, option or command line",
    3: "data or weights: missing, damaged, wrong unit",
    4: "the suite finished, some of its runs failed",
    5: "disk full or read-only, out of memory, or a process was lost",
    6: "another process runs this suite",
    7: "saved state that cannot be used",
    75: "stopped by SIGUSR1 or --time-limit; the same command goes on",
    130: "stopped by SIGINT (Ctrl-C); the same command goes on",
    143: "stopped by SIGTERM; the same command goes on",
}
"""Exit code → meaning."""
TIME_LIMIT = "the time limit"
STOP_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, TIME_LIMIT: 75}
"""Signal, or the time limit, that stops the work in good order → exit code."""
OUT_OF_MEMORY = "out of memory"
"""First words of the failure of a run that ran out of memory."""


LONGEST_LIST = 800
"""Characters of a list of known names in a hint."""
LONGEST_NAME = 200
"""Number of characters of a name that `did_you_mean` compares."""


class SpdError(Exception):
    """One problem: its place, what was expected and found, and the remedy.

    where: `file:line:column`, a path or an option. hint: what to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{printable(self.where)}: {self.message}" if self.where else self.message
        return printable(f"{text}\n  hint: {self.hint}" if self.hint else text, keep="\n")

    def at(self, where: str) -> "SpdError":
        """Sets the place unless there is one, and returns the error."""
        if self.where is None:
            self.where = where
        return self


class ConfigError(SpdError):
    """The suite, an option or the command line is wrong."""

    exit_code = 2


class DataError(SpdError):
    """Data or weights are missing, corrupt or not what they claim to be."""

    exit_code = 3


class ResourceError(SpdError):
    """The machine ran out of disk, memory or processes; what was finished stays."""

    exit_code = 5


class BusyError(SpdError):
    """Another process holds what this one needs."""

    exit_code = 6


class StateError(SpdError):
    """Saved state is damaged or from another version."""

    exit_code = 7


class Stopped(BaseException):
    """The work stopped in good order, as it was asked to. Derives from BaseException, like KeyboardInterrupt.

    reason: a key of `STOP_CODES`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def exit_code(self) -> int:
        """The exit code for this reason."""
        return STOP_CODES[self.reason]


class WorkerBug(Exception):
    """An unexpected exception raised in a worker process, with that process's traceback."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


def shortage(error: BaseException) -> ResourceError | None:
    """Returns a ResourceError for an error that a full disk or lack of memory caused; None for any other."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT):
        hint = "make room or write elsewhere; the same command goes on"
        return ResourceError(f"{error.strerror}", where=error.filename and str(error.filename), hint=hint)
    text = " ".join(str(error).split())
    # PyTorch's own class is not imported here, and on a CPU it raises a plain RuntimeError
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text)
    ):
        hint = "lower train.batch_size or train.queries, or run fewer processes"
        return ResourceError(f"{OUT_OF_MEMORY}: {text}".rstrip(": ")[:300], hint=hint)
    return None


def printable(text: str, *, keep: str = "") -> str:
    """Returns the text with unprintable characters escaped: line breaks, terminal codes, directions of writing."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def quoted(text: object, *, most: int = 80) -> str:
    """Returns the text in quotes, on one line, cut to `most` characters."""
    short = printable(str(text)[: most + 1])
    return f'"{short}"' if len(short) <= most else f'"{short[: most - 3]}..."'


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint for an unknown `name`: the closest of `known`, or all of them if nothing is close."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name[:LONGEST_NAME], options, n=1, cutoff=0.5)
    close = close or [option for option in options if option.startswith(name)][:1]
    if close:
        return f"did you mean {quoted(close[0])}?"
    if not options:
        return "there is none"
    listed = printable(", ".join(options))
    shown = listed if len(listed) <= LONGEST_LIST else listed[: listed.rindex(", ", 0, LONGEST_LIST)] + ", …"
    return f"known: {shown}"
