"""Rendered frames on disk: one HDF5 file per split, written atomically and checked before it is parsed.

A file is an HDF5 image behind a user block of 512 bytes that holds the SHA-256 of everything after it. HDF5 reads some
damaged files without an error and hangs on others, so the digest is compared first. A file is written under a temporary
name and renamed, under a lock, so that processes may start together and a killed one leaves no partial file.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spd_bench.errors import DataError
from spd_rooms.render import Options, Rendered
from spd_rooms.workers import refuse_unguarded_main, render_scenes

log = logging.getLogger(__name__)

HEADER_BYTES = 512
MAGIC = b"spd-bench rooms, sha256 "
BYTES_PER_PIXEL = 5
"""Largest number of bytes per pixel on disk: three of colour, two of depth."""


def ensure(path: Path, options: Options, split: str, scenes: int, frames_per_scene: int) -> None:
    """Renders `path`, the file of this split, unless it is already there and undamaged.

    Raises DataError if the folder cannot be written or has no space.
    """
    from filelock import FileLock

    if is_sound(path):
        return
    refuse_unguarded_main()
    with _as_data_error(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("rendering %s, or waiting for the process that does", path)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                if is_sound(path):
                    return
                log.warning("%s is damaged: rendering it again", path)
            _clear_debris(path)
            _require_space(path.parent, scenes * frames_per_scene * options.height * options.width * BYTES_PER_PIXEL)
            _publish(path, options, split, scenes, frames_per_scene)


def is_sound(path: Path) -> bool:
    """Whether the file exists and its content matches the digest in its header."""
    try:
        with path.open("rb") as file:
            return file.read(HEADER_BYTES) == _header(_digest(file))
    except OSError:
        return False


def open_file(path: Path) -> Any:
    """The file of a split for reading, as an `h5py.File`. Raises DataError if it cannot be opened."""
    import h5py

    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """The error for a cache file that was damaged after it was checked."""
    return DataError(
        f"cannot read rendered frames: {error}",
        where=str(path),
        hint="start again: a damaged file is noticed at the start and rendered again",
    )


def _publish(path: Path, options: Options, split: str, scenes: int, frames_per_scene: int) -> None:
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        frames = render_scenes(options, split, scenes, frames_per_scene)
        _write(beside, frames, scenes * frames_per_scene, options)
        with beside.open("r+b") as file:
            file.seek(HEADER_BYTES)
            header = _header(_digest(file))
            file.seek(0)
            file.write(header)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _write(path: Path, frames: Iterator[Rendered], count: int, options: Options) -> None:
    import h5py

    shape = (options.height, options.width)
    with h5py.File(path, "w", userblock_size=HEADER_BYTES) as file:
        rgb = file.create_dataset("rgb", (count, *shape, 3), np.uint8, chunks=(1, *shape, 3))
        depth = file.create_dataset(
            "depth_mm",
            (count, *shape),
            np.uint16,
            chunks=(1, *shape),
            compression="gzip",
            compression_opts=2,
            shuffle=True,
        )
        for i, frame in enumerate(frames):
            rgb[i], depth[i] = frame.rgb_HW3, frame.depth_mm_HW


def _digest(file: Any) -> str:
    """SHA-256 from the file's current position to its end."""
    return hashlib.file_digest(file, "sha256").hexdigest()


def _header(digest: str) -> bytes:
    return (MAGIC + digest.encode() + b"\n").ljust(HEADER_BYTES, b"\0")


def _clear_debris(path: Path) -> None:
    """Removes temporary files of killed processes; the caller holds the lock, so no process is writing them."""
    for left in path.parent.glob(f".{path.name}.tmp-*"):
        if left.name.rpartition("-")[2].isdigit() and left.is_file() and not left.is_symlink():
            left.unlink()


def _require_space(folder: Path, needed: int) -> None:
    # a full disk kills the process inside HDF5, without an exception
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"rendering needs up to {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            where=str(folder),
            hint="free some space, set SPD_BENCH_CACHE to a folder on another disk, or ask for fewer or smaller frames",
        )


@contextmanager
def _as_data_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot store rendered frames here: {error}",
            where=str(folder),
            hint="set SPD_BENCH_CACHE to a writable folder",
        ) from error
