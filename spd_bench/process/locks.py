"""Locks: one process at a time trains a training, and one leads a suite.

Kernel locks (`filelock`), which end with the process that holds them, however it ends. Lock files are never removed,
since a waiting process may have one open. Do not rely on them across the machines of a network file system.
"""

import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from spd_bench.errors import BusyError, StateError
from spd_bench.process.watch import watching
from spd_bench.store import files, records

BEAT_S = 0.5
"""Seconds between two signs of life of a process that waits."""
NAMED_WITHIN_S = 1.0
"""Seconds after a lock within which its holder's record is expected."""


def acquire(lock: FileLock, stage: str) -> None:
    """Waits for a lock, which is no stall: says so meanwhile, in words that follow "while", and may raise Stopped."""
    while True:
        try:
            lock.acquire(timeout=BEAT_S)
            return
        except Timeout:
            for watch in watching:
                watch.at(stage)


@contextmanager
def training_lock(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a run's folder, named by the identity at the end of the folder's name.

    A process that holds it may take it again. Raises BusyError if another process holds it and `wait` is false.
    """
    locks = folder.parent.with_name(".locks")
    files.make_folder(locks)
    lock = FileLock(locks / f"{folder.name.rpartition('-')[2]}.lock", is_singleton=True)
    try:
        if wait:
            acquire(lock, "waiting for another process")
        else:
            lock.acquire(timeout=0)
    except Timeout:
        raise BusyError("another process works at this run", where=str(folder)) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Holder:
    """The process that leads a suite."""

    pid: int
    """Its process id."""
    host: str
    """Its machine."""
    since: str
    """Time of the lock, UTC."""
    command: str
    """Its command line."""
    session: str
    """Its turn at the suite, which processes that help it share."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}: {self.command}"


@contextmanager
def suite_lock(root: Path, suite: str, *, command: str, session: str = "") -> Iterator[Holder]:
    """Holds the lock of a suite and yields its record.

    session: the turn to continue; by default a new one begins. Raises BusyError, naming the holder, if another process
    holds the lock.
    """
    path = root / f".{suite}.lock"
    files.make_folder(root)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found = holder(root, suite)
        raise BusyError(
            f'suite "{suite}" is being run by another process' + (f" ({found})" if found else ""),
            where=str(root),
            hint="wait for it, or share its jobs with --join",
        ) from None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    me = Holder(os.getpid(), platform.node(), since, command, session or uuid.uuid4().hex)
    try:
        records.write_record(_beside(path), asdict(me))
        yield me
    finally:
        files.remove(_beside(path))
        lock.release()


def is_led(root: Path, suite: str) -> bool:
    """Whether a process leads a suite at this moment."""
    path = root / f".{suite}.lock"
    if not _beside(path).exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def holder(root: Path, suite: str) -> Holder | None:
    """The process that leads a locked suite; None if its record does not appear in time."""
    until = time.monotonic() + NAMED_WITHIN_S
    while True:
        try:
            return Holder(**records.read_record(_beside(root / f".{suite}.lock")))
        except (StateError, TypeError):
            if time.monotonic() > until:
                return None
            time.sleep(0.05)


def _beside(lock: Path) -> Path:
    return lock.with_suffix(".holder.json")
