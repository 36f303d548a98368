"""HDF5 files that others made are looked at by a process of their own before this one opens them.

The HDF5 library trusts its files: a damaged one can crash it or keep it in a loop that no signal ends, and an intact
one can make it read any other file, claim terabytes, or unfold a few kilobytes into gigabytes. So a child with limits
on memory and time walks through the file first. It refuses links and storage that lead elsewhere, filters that are not
HDF5's own, and chunks too large to be read whole. What this process opens afterwards has been walked through once to
its end, so that damage has shown; values of varying length, which lie in a heap of their own, have all been read.

The child starts at the first file, in half a second, and serves this process for all others; a file is looked at once.
This module is also what the child runs: it imports no other module of spd_bench at its top.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

LONGEST_S = 60.0
"""For one file. The labelled file of NYU takes less than two seconds."""
MOST_MEMORY = 2 * 2**30
MOST_OBJECTS = 200_000
DEEPEST = 50
LARGEST_CHUNK = 256 * 2**20
"""Bytes that one read may have to unfold; frames have at most a few megabytes."""
OWN_FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
"""deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and h5py's lzf; others are plugins, code loaded from disk."""

Key = tuple[str, int, int, int, int]
_sound: set[Key] = set()
_examiners: dict[int, "_Examiner"] = {}


def problem_of(path: Path, offset: int = 0, size: int | None = None) -> str | None:
    """What is wrong with the HDF5 file at `path`, or in `size` bytes of it from `offset` on; None if nothing is.

    Raises OSError if it is not there. A file that has been found sound, and not been written since, is not read again.
    """
    about = path.stat()
    key = (os.path.realpath(path), offset, about.st_size if size is None else size, about.st_mtime_ns, about.st_ino)
    if key in _sound:
        return None
    asked = os.fspath(path.resolve()), offset, size
    try:
        problem = _examiner().ask(*asked)
    except _Killed:  # by something outside: that says nothing of the file
        try:
            problem = _examiner().ask(*asked)
        except _Killed:
            from spd_bench.errors import ResourceError  # here, since the child runs this module too

            raise ResourceError(
                "the process that examines HDF5 files was killed, twice, perhaps for want of memory",
                where=str(path),
                hint="the same command goes on",
            ) from None
    if problem is None:
        _sound.add(key)
    return problem


def _examiner() -> "_Examiner":
    """This process's child; after a fork another one, as two processes cannot share its pipes."""
    found = _examiners.get(os.getpid())
    if found is None or found.process.poll() is not None:
        found = _examiners[os.getpid()] = _Examiner()
    return found


class _Killed(Exception):
    """The child was killed from outside."""


class _Examiner:
    """The child, and one question at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 our own file, by our own interpreter
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PATH": os.devnull},
        )

    def ask(self, path: str, offset: int, size: int | None) -> str | None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps([path, offset, size]).encode() + b"\n")
            self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], LONGEST_S)
        answer = self.process.stdout.readline() if ready else b""
        if answer:
            return json.loads(answer)  # type: ignore[no-any-return]
        self.process.kill()
        status = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        if ready and status == -signal.SIGKILL:
            raise _Killed
        if not ready:
            return f"the HDF5 library did not finish within {LONGEST_S:g} s"
        return f"the HDF5 library crashed over it or ran out of memory (status {status})"


# ------------------------------------------------------------------------------------------------ in the child


def _serve() -> None:
    """Answers a line [path, offset, size] with a line: what is wrong, or null."""
    import h5py

    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has these limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, offset, size = json.loads(line)
        try:
            with open(path, "rb") as raw:
                raw.seek(offset)
                source: Any = path if size is None else BytesIO(raw.read(size))
            with h5py.File(source, "r") as file:
                _walk(file)
            problem = None
        except MemoryError:
            problem = "it does not fit into memory"
        except Exception as error:  # whatever h5py makes of damage
            problem = " ".join(str(error).split())[:300] or type(error).__name__
        print(json.dumps(problem), flush=True)


def _walk(file: Any) -> None:
    """Looks at every object once; ValueError for what no data set of this package needs."""
    import h5py

    seen: set[Any] = set()
    open_groups = [("", file, 0)]
    while open_groups:
        place, group, depth = open_groups.pop()
        if depth > DEEPEST:
            raise ValueError(f"groups nested deeper than {DEEPEST} levels")
        for name in group:
            inner = f"{place}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{inner[:100]!r} is a link to another place or file")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MOST_OBJECTS:
                raise ValueError(f"more than {MOST_OBJECTS} objects")
            if isinstance(item, h5py.Group):
                open_groups.append((inner, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                _look_at(item, inner[:100])


def _look_at(array: Any, place: str) -> None:
    """ValueError for an array that lies elsewhere, or of which one element may cost more than a chunk may."""
    if array.external or array.is_virtual:
        raise ValueError(f"{place!r} keeps its values in another file")
    created = array.id.get_create_plist()
    filters = {created.get_filter(number)[0] for number in range(created.get_nfilters())}
    if foreign := filters - OWN_FILTERS:
        raise ValueError(f"{place!r} needs filter {min(foreign)}, which is not HDF5's own")
    if array.dtype.hasobject:
        _read_all(array, place)
    if array.chunks is None:
        stored = array.id.get_storage_size()
        if array.shape is not None and array.nbytes > max(stored, LARGEST_CHUNK):
            raise ValueError(f"{place!r} claims {array.nbytes} bytes, stored are {stored}")
        return
    chunk = array.dtype.itemsize
    for side in array.chunks:
        chunk *= side
    if chunk > LARGEST_CHUNK:
        raise ValueError(f"{place!r} has chunks of {chunk} bytes, at most {LARGEST_CHUNK} are read")
    array.id.get_num_chunks()  # walks through the index


def _read_all(array: Any, place: str) -> None:
    """Reads values of varying length, over whose heap HDF5 may loop for ever; ValueError for very many."""
    if array.size is not None and array.size > MOST_OBJECTS:
        raise ValueError(f"{place!r} has {array.size} values of varying length, at most {MOST_OBJECTS} are read")
    read = array[()]
    values = read.flat if hasattr(read, "flat") else [read]
    length = sum(len(value) for value in values if hasattr(value, "__len__"))
    if length > LARGEST_CHUNK:
        raise ValueError(f"{place!r} has values of {length} bytes together, at most {LARGEST_CHUNK} are read")


if __name__ == "__main__":
    _serve()
