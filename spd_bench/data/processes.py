"""Data that several processes read."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from spd_bench.errors import ResourceError

SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Characters that the path of a socket may have."""
SOCKET_NAME = len("/pymp-12345678/listener-12345678")
"""How Python calls the sockets over which processes pass tensors, below the folder for temporary files."""


def items(dataset: Dataset[Any], *, order: Sequence[int] | None = None, workers: int) -> Iterator[Any]:
    """The items of a data set one by one, in this order, read by `workers` processes (0: by this one).

    Raises ResourceError where the processes could not pass what they read: they would wait for each other for ever.
    """
    folder = tempfile.gettempdir()
    if workers and len(folder.encode()) > SOCKET_PATH - SOCKET_NAME:
        raise ResourceError(
            f"the folder for temporary files has {len(folder.encode())} characters; processes that read data need one "
            f"of at most {SOCKET_PATH - SOCKET_NAME}",
            where=folder,
            hint="set TMPDIR to a shorter one, or train.workers to 0",
        )
    return iter(DataLoader(dataset, batch_size=None, sampler=order, num_workers=workers))
