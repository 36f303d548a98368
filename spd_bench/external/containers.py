"""Arrays in files: `.npy`, `.npz` and HDF5, without pickled objects and without trust in what a header claims."""

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.data.reading.hdf5 import holds_own_bytes, open_hdf5
from spd_bench.data.reading.images import LARGEST_SIDE
from spd_bench.errors import DataError

HDF5 = (".h5", ".hdf5")
LARGEST_BYTES = 4 * 2**30
"""An array of a compressed file is held in memory; more than this is refused."""
NAMES = ("frames", "names")
"""Lists of frame names beside a stack."""


def check(array: Any, axes: int, where: str) -> None:
    """DataError for an array of other axes, or of too few bits to hold depth."""
    sides: Iterable[int] = array.shape[-2:]
    if array.ndim != axes or not all(0 < side <= LARGEST_SIDE for side in sides):
        raise DataError(
            f"expected shape {'[N, H, W]' if axes == 3 else '[H, W]'}, found {list(array.shape)}",
            where=where,
            hint="predictions have one channel",
        )
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 2:
        raise DataError(
            f"expected floating point, or integers of 16 bits or more, found {array.dtype}",
            where=where,
            hint="8-bit values are scaled and rounded for display and cannot be scored",
        )


def one_channel(array: Any, axes: int) -> Any:
    """The array without one axis of length one, where it has one axis too many: [N, 1, H, W], [H, W, 1]."""
    spare = [axis for axis in (-1, -3) if array.ndim == axes + 1 and array.shape[axis] == 1]
    return np.squeeze(array, spare[0]) if spare and isinstance(array, np.ndarray) else array


def npy(path: Path) -> Any:
    """The array of a `.npy` file, mapped: a header cannot claim more than the file has."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise OSError, ValueError, EOFError, tokenize.TokenError, ...
        raise DataError(
            f"expected a NumPy array without pickled objects, found a damaged or foreign file ({error})",
            where=str(path),
            hint="save it again with numpy.save; a dictionary of maps with numpy.savez(path, **maps)",
        ) from error


def npz_headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of a `.npz` file, from the headers alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _header(archive, info) for info in archive.infolist()}
    except DataError:
        raise
    except Exception as error:  # damaged archives and headers raise all kinds
        raise DataError(
            f"expected NumPy arrays in a .npz file, found a damaged or foreign file ({error})",
            where=str(path),
            hint="save them again with numpy.savez",
        ) from error


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or size > min(LARGEST_BYTES, info.file_size):
        raise DataError(
            f"{info.filename} claims {size / 1e9:.3g} GB or holds pickled objects",
            where=str(archive.filename),
            hint="save plain arrays with numpy.savez",
        )
    return shape, dtype


def npz(path: Path, key: str) -> NDArray[Any]:
    """One array of a `.npz` file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            array: NDArray[Any] = stored[key]
            return array
    except Exception as error:
        raise DataError(f"{key} cannot be read ({error})", where=str(path), hint="save it again") from error


def hdf5(path: Path) -> Any:
    """An HDF5 file, opened."""
    return open_hdf5(path, kind="HDF5")


def own(store: Any, key: str) -> Any:
    """An array whose bytes lie in this very file, else None: HDF5 can point a name, or storage, at any other file."""
    import h5py

    if key not in store or not isinstance(store.get(key, getlink=True), h5py.HardLink):
        return None
    return store[key] if holds_own_bytes(store[key]) else None


def hdf5_names(store: Any, where: str) -> list[str] | None:
    """The list of frame names in an HDF5 file, None without one."""
    import h5py

    names = next((found for key in NAMES if (found := own(store, key)) is not None), None)
    if names is None:
        return None
    if names.ndim != 1 or h5py.check_string_dtype(names.dtype) is None:
        raise DataError(
            f"expected `frames` as a list of names, found {names.dtype} of shape {names.shape}",
            where=where,
            hint="write the frames' names as strings, or remove `frames`",
        )
    return [str(name) for name in names.asstr()[()]]
