"""The one module that writes below a run root: a file is there whole under its name, or it is not there.

What is written is on disk before its name is (and the name before this module returns), so that a file may vouch for
another that was written before it. A record is JSON that carries the version of its form and the SHA-256 of its
content; under `files` it may name the files beside it that it vouches for, each with its SHA-256.
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

from spd_bench.errors import ResourceError, StateError

log = logging.getLogger(__name__)

GO_ON = "what is finished stays, and the same command goes on from there"


# writing


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces `path` by `content` at once or not at all; returns when it is on disk.

    Raises ResourceError for what the disk refuses, StateError where a folder lies in the file's place.
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
    """Gives a file that is whole and on disk its name, replacing what had it."""
    os.replace(beside, path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by UTF-8 text at once or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by JSON; NaN and infinity are refused, they are not JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def make_folder(folder: Path) -> None:
    """Makes a folder, and those above it that are missing, each on disk in the one above."""
    missing = []
    while not folder.is_dir():
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


def remove(path: Path) -> None:
    """Removes a file; one that is not there is none of anybody's business."""
    with translate_os_errors(path):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return


def clear_debris(folder: Path) -> None:
    """Removes what processes of this machine left half-written when they were killed."""
    ours = re.compile(rf"\..*\.{re.escape(_node())}-(\d+)-[0-9a-f]{{8}}\.tmp")
    for path in folder.rglob(".*.tmp"):
        if (written := ours.fullmatch(path.name)) and not _is_alive(int(written[1])):
            remove(path)


def _temporary(name: str) -> str:
    """A name beside `name` that no other process, and no earlier try of this one, has."""
    return f".{name}.{_node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:32]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on disk; Windows does that itself."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as an error of ours."""
    try:
        yield
    except IsADirectoryError as error:
        raise StateError("a folder lies in its place", where=str(path), hint="move it away") from error
    except OSError as error:
        raise ResourceError(
            f"cannot be written ({error.strerror or error})",
            where=str(path),
            hint=f"free some space, or name a folder that can be written; {GO_ON}",
        ) from error


# records
