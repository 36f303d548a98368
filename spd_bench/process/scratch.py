"""A folder for temporary files that is removed however the process ends: by itself, or by the next start."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from spd_bench.store.removal import is_own_folder, own_files, remove_tree

PREFIX = "spd-bench-"
HELD = "held.lock"
"""Lock of the process that uses the folder."""
SOCKET_PATH = 107 if sys.platform == "linux" else 103
"""Characters that the path of a socket may have."""
SOCKET_NAME = len("/pymp-12345678/listener-12345678")
"""How Python calls the sockets over which processes pass tensors, below the folder for temporary files."""
LONGEST_FOLDER = SOCKET_PATH - SOCKET_NAME
"""Bytes that the path of the folder for temporary files may have."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this process alone. Folders whose processes were killed are removed first."""
    above = Path(tempfile.gettempdir())
    _sweep(above)
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=above))
    lock = FileLock(made / HELD)
    lock.acquire(timeout=0)
    folder = above / made.name[1:]
    os.rename(made, folder)  # it has its name only once it is locked
    try:
        yield folder
    finally:
        remove_tree(folder)
        lock.release()


def environment(folder: Path) -> dict[str, str]:
    """The variables of this process, with `folder` for temporary files where its path is short enough for sockets."""
    short = len(os.fsencode(folder)) <= LONGEST_FOLDER
    return {**os.environ, **({"TMPDIR": str(folder)} if short else {})}


def _sweep(above: Path) -> None:
    """Removes folders that no process holds any more."""
    for folder in sorted(above.glob(f"{PREFIX}*")):
        if not is_own_folder(folder) or not own_files(folder, [HELD]) or not _is_mine(folder):
            continue
        lock = FileLock(folder / HELD)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            remove_tree(folder)
            lock.release()


def _is_mine(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
