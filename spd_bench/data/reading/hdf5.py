"""Arrays from HDF5 files that others made: what lies in the file itself, in the shape and type that were expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from spd_bench.data.reading.archives import Span
from spd_bench.data.reading.untrusted import problem_of
from spd_bench.errors import DataError

DAMAGED = "the file is damaged or has been re-saved; download it again"
RAISED = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises over damaged files; found by flipping bytes."""


def open_hdf5(source: Path | Span, *, kind: str = "an HDF5 file") -> Any:
    """The HDF5 file at a path or in a span, open for reading, after another process has looked at it (`untrusted`).

    Raises DataError for anything else.
    """
    import h5py

    where = str(source)
    try:
        if isinstance(source, Span):
            problem, content = problem_of(source.path, source.offset, source.size), BytesIO(source.read())
        else:
            problem, content = problem_of(source), None
        if problem is not None:
            raise DataError(f"expected {kind}, found none that can be read ({problem})", where=where, hint=DAMAGED)
        return h5py.File(source if content is None else content, "r")
    except RAISED as error:
        raise DataError(f"expected {kind}, found {error}", where=where, hint=DAMAGED) from error


@contextmanager
def reading(what: str, where: str) -> Iterator[None]:
    """Turns what HDF5 raises over damaged content into a DataError."""
    try:
        yield
    except RAISED as error:
        raise DataError(f"{what} cannot be read ({error})", where=where, hint=DAMAGED) from error


def own_dataset(file: Any, field: str, where: str) -> Any:
    """A data set whose bytes lie in this very file: HDF5 can point a name, or its storage, at any other file.

    Raises:
        DataError: the field is missing, is no data set, or points elsewhere.
    """
    import h5py

    if field not in file:
        raise DataError(f"expected a field {field!r}, found {sorted(map(str, file))}", where=where, hint=DAMAGED)
    if not isinstance(file.get(field, getlink=True), h5py.HardLink) or not holds_own_bytes(file[field]):
        raise DataError(
            f"expected {field} as an array in the file itself, found a link, a group or storage outside",
            where=where,
            hint=DAMAGED,
        )
    return file[field]


def own_array(file: Any, field: str, shape: tuple[int, ...], dtype: str, where: str) -> Any:
    """As `own_dataset`, and of this shape and type."""
    array = own_dataset(file, field, where)
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"expected {field} of shape {shape} and type {dtype}, found {array.shape} and {array.dtype}",
            where=where,
            hint=DAMAGED,
        )
    return array


def holds_own_bytes(item: Any) -> bool:
    """Whether it is a data set and its bytes lie in its own file."""
    import h5py

    return isinstance(item, h5py.Dataset) and not item.external and not item.is_virtual
