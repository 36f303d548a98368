"""Data that several processes read."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from spd_bench.errors import ResourceError
from spd_bench.process.scratch import LONGEST_FOLDER

log = logging.getLogger(__name__)

LOST = ("exited unexpectedly", "is killed by signal")
"""PyTorch's words for a process that reads data and died."""


def items(dataset: Dataset[Any], *, order: Sequence[int] | None = None, workers: int) -> Iterator[Any]:
    """The items of a data set one by one, in this order, read by `workers` processes (0: by this one).

    If one of these processes dies, others go on once from the item at hand. Raises ResourceError if that happens
    again, and where the processes could not pass what they read: they would wait for each other for ever.
    """
    folder = tempfile.gettempdir()
    if workers and len(folder.encode()) > LONGEST_FOLDER:
        raise ResourceError(
            f"the folder for temporary files has {len(folder.encode())} characters; processes that read data need one "
            f"of at most {LONGEST_FOLDER}",
            where=folder,
            hint="set TMPDIR to a shorter one, or train.workers to 0",
        )
    if not workers:
        return iter(DataLoader(dataset, batch_size=None, sampler=order))
    return _read(dataset, range(len(dataset)) if order is None else order, workers)  # type: ignore[arg-type]


def _read(dataset: Dataset[Any], order: Sequence[int], workers: int) -> Iterator[Any]:
    done, tries = 0, 2
    while True:
        try:
            for item in _loader(dataset, order[done:], workers):
                yield item
                done += 1
            return
        except (RuntimeError, OSError, EOFError) as error:
            tries -= 1
            if not _is_loss(error):
                raise
            if not tries:
                raise ResourceError(
                    "a process that reads data was killed, twice, perhaps for want of memory",
                    hint="lower train.workers; the same command goes on",
                ) from error
            log.warning("a process that reads data was killed, perhaps for want of memory: others go on")


def _loader(dataset: Dataset[Any], order: Sequence[int], workers: int) -> Iterator[Any]:
    """PyTorch's iterator. The death of a process is raised where the next item is awaited, not anywhere in this one."""
    # as if its handler were installed: that raises in whatever the main thread is at, such as a component's code
    setattr(signal_handling, "_SIGCHLD_handler_set", True)  # noqa: B010 the module does not export it
    return iter(DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers))


def _is_loss(error: Exception) -> bool:
    """Whether a reading process died; what it raised itself is no such loss."""
    said = str(error)
    if said.startswith("Caught "):
        return False
    return isinstance(error, (ConnectionError, EOFError)) or any(words in said for words in LOST)
