"""Atomic, durable writes: the one module that writes below a run root.

A file exists whole under its name or not at all. Its content is on disk before its name, and its name before the call
returns, so that a file may vouch for another that was written before it.
"""

import json
import logging
import os
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spd_bench.errors import ResourceError, SpdError, StateError

log = logging.getLogger(__name__)

GO_ON = "what is finished stays, and the same command goes on from there"
GONE = "put it back, or name where it is now with --runs; the same command goes on there"
_kept: set[Path] = set()
WRITE_ELSEWHERE = f"free some space, or name a folder that can be written; {GO_ON}"


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content`, atomically; returns when it is on disk.

    Raises ResourceError where the disk refuses, StateError where a folder lies in the file's place.
    """
    with translate_os_errors(path):
        make_folder(path.parent)
        beside = path.with_name(_temporary(path.name))
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(handle, rest) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            publish(beside, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(beside)
            raise


def publish(beside: Path, path: Path) -> None:
    """Renames a file that is whole and on disk to its final name, replacing what has that name."""
    os.replace(beside, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by UTF-8 text, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by JSON, atomically. Raises ValueError for NaN and infinity, which are not JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def make_folder(folder: Path) -> None:
    """Makes a folder and the missing ones above it; returns when their names are on disk."""
    missing = []
    while not folder.is_dir():
        if folder.absolute() in _kept:
            raise ResourceError("the folder of all runs is gone: it was moved or removed", where=str(folder), hint=GONE)
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with translate_os_errors(each):
            try:
                os.mkdir(each)
            except FileExistsError:
                if not each.is_dir():  # another process may have made it
                    raise
            sync_folder(each.parent)


def keep(folder: Path) -> None:
    """From now on this process never makes `folder` anew, which is there: one that goes away ends the work."""
    _kept.add(folder.absolute())


def remove(path: Path) -> None:
    """Removes a file, or a link and not what it points to; a missing one is ignored."""
    with translate_os_errors(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def remove_folder(folder: Path) -> None:
    """Removes an empty folder; one that is missing, or that another process has put a file into, is ignored."""
    with suppress(OSError):
        os.rmdir(folder)


def _temporary(name: str) -> str:
    """A temporary name that no other process, and no earlier attempt of this one, uses."""
    return f".{name}.{node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def node() -> str:
    """The name of this machine, as temporary files carry it."""
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Flushes the names in a folder to disk; Windows does so by itself."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def translate_os_errors(where: Path, *, hint: str = WRITE_ELSEWHERE) -> Iterator[None]:
    """Converts an OSError inside the block into a StateError (a folder lies in the place) or a ResourceError."""
    try:
        yield
    except SpdError:
        raise
    except IsADirectoryError as error:
        raise StateError("a folder lies in its place", where=str(where), hint="move it away") from error
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5's word for a disk that filled up while it wrote
        what = getattr(error, "strerror", None) or error
        raise ResourceError(f"cannot be written ({what})", where=str(where), hint=hint) from error
