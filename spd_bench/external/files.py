"""Reads dense predictions of another program from files: one map per test frame, matched by name where there are names.

    stack.npy       [N, H, W], in the order of the test split, or of a list of names given with it
    stack.npz       one such array, with `frames` [N] beside it or without; or one map [H, W] per frame, by its name
    stack.h5        one such array; with `frames` [N] beside it, matched by those names
    folder/         one .npy, .npz, .h5, .png, .tif, .tiff, .pfm or .exr per frame

How names are matched: `names.match`. Missing and doubtful names are errors; predictions of other frames are counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import FrameId
from spd_bench.data.reading.depth_files import read_values
from spd_bench.data.reading.hdf5 import reading
from spd_bench.errors import ConfigError, DataError
from spd_bench.external import containers
from spd_bench.external.containers import HDF5, NAMES, check, one_channel
from spd_bench.external.names import match

IMAGES = (".png", ".tif", ".tiff", ".pfm", ".exr")
SUFFIXES = (".npy", ".npz", *HDF5, *IMAGES)
KEYED = (".npz", *HDF5)
"""Files that hold several arrays, each under a key."""


@dataclass(frozen=True)
class Maps:
    """One predicted map per frame, in the order of the frames asked for."""

    what: str
    """The form that they came in."""
    read: Callable[[int], NDArray[np.floating[Any]]]
    """Frame number → [H, W] in file units, NaN where an image holds 0."""
    by_place: bool = False
    """Whether the order of the maps alone says which frame each belongs to."""


def check_there(source: Path) -> None:
    """Raises DataError if there is no file or folder."""
    if not source.exists():
        raise DataError("there are no predictions here", where=str(source), hint="check the path")
    if not source.is_file() and not source.is_dir():  # opening a pipe would wait for ever
        raise DataError("expected a file or folder, found a pipe or a device", where=str(source), hint="check the path")


def open_maps(
    source: Path, frames: Sequence[FrameId], *, dataset_key: str | None = None, names: Path | None = None
) -> Maps:
    """The maps at `source` for these frames.

    dataset_key: which array of a `.npz` or HDF5 file, where it holds several. names: text file with one frame name per
    line, in the order of the stack. Raises DataError for anything but one map per frame, ConfigError for an option
    that does not go with the form of `source`.
    """
    suffix = source.suffix.lower()
    check_there(source)
    if source.is_dir():
        if names is not None:
            raise ConfigError("files in a folder have names already", where=str(source), hint="leave --names out")
        return _folder(source, frames, dataset_key)
    if dataset_key is not None and suffix not in KEYED:
        raise ConfigError("only .npz and HDF5 files have keys", where=str(source), hint="leave --dataset-key out")
    if suffix == ".npy":
        return _stack(containers.npy(source), "NumPy", frames, _lines(names), str(source))
    if suffix == ".npz":
        return _npz(source, frames, dataset_key, names)
    if suffix in HDF5:
        with reading("its arrays", str(source)):
            return _hdf5(source, frames, dataset_key, names)
    raise DataError(
        f"expected {', '.join(('.npy', *KEYED))} or a folder, found {source.suffix or 'a file without extension'}",
        where=str(source),
        hint="save one array [N, H, W], or one file per frame in a folder",
    )


# ---------------------------------------------------------------------------------------------- folders


def _folder(root: Path, frames: Sequence[FrameId], key: str | None) -> Maps:
    """One file per frame, at any depth. Files with other extensions are not read."""
    files = sorted(path for path in root.rglob("*") if not path.name.startswith(".") and path.is_file())
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or "without extension" for path in files if path not in set(paths))
    count = ", ".join(f"{suffix} {number}" for suffix, number in others.most_common())
    besides = f"; {others.total()} files with other extensions were not read ({count})" if others else ""
    keys = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    matched = match(keys, frames, where=str(root), besides=besides)
    chosen = [paths[number] for number in matched.order]
    kinds = ", ".join(sorted({path.suffix.lower() for path in chosen}))
    more = f", {len(matched.surplus)} files of other frames left out" if matched.surplus else ""
    return Maps(f"one {kinds} per frame{more}", lambda index: _file(chosen[index], key))


def _file(path: Path, key: str | None) -> NDArray[np.floating[Any]]:
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return _image(path)
    if suffix in HDF5:
        with reading("its map", str(path)):
            store = containers.hdf5(path)
            flat = {name: own for name in store if (own := containers.own(store, name)) is not None}
            chosen = _key(key, [name for name, array in flat.items() if _is_map(array.shape)], list(store), path)
            array = flat[chosen][()]
    elif suffix == ".npz":
        headers = containers.npz_headers(path)
        fits = [name for name, (shape, _) in headers.items() if _is_map(shape)]
        array = containers.npz(path, _key(key, fits, list(headers), path))
    else:
        array = containers.npy(path)
    array = one_channel(array, 2)
    check(array, 2, str(path))
    return _floating(array)


def _is_map(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and 1 in (shape[0], shape[2]))


def _key(wanted: str | None, fits: Sequence[str], all_keys: Sequence[str], path: Path) -> str:
    """The key asked for, or the only one that fits."""
    if wanted is not None and wanted not in all_keys:
        raise DataError(
            f'expected an array "{wanted}" in the file itself, found none (it has {", ".join(all_keys)})',
            where=str(path),
            hint="choose another --dataset-key",
        )
    if wanted is None and len(fits) != 1:
        raise DataError(
            f"expected one array of predictions, found {', '.join(fits) or 'none'} (of {', '.join(all_keys)})",
            where=str(path),
            hint="choose one with --dataset-key",
        )
    return wanted or fits[0]


def _image(path: Path) -> NDArray[np.floating[Any]]:
    """Stored numbers of 16 bits or more; 0 in an integer image is no prediction."""
    values = read_values(path)
    floating = _floating(values)
    return floating if values.dtype.kind == "f" else np.where(values == 0, np.nan, floating)


# ------------------------------------------------------------------------------------------------ stacks


def _stack(array: Any, form: str, frames: Sequence[FrameId], names: Sequence[str] | None, where: str) -> Maps:
    """Maps of one array [N, H, W], by name if there are names, else by position."""
    array = one_channel(array, 3)
    check(array, 3, where)
    what = f"{form} array of {'×'.join(map(str, array.shape))}"
    if names is not None:
        if len(names) != len(array):
            raise DataError(f"{len(names)} names for {len(array)} maps", where=where, hint="name each map once")
        matched = match([_without_suffix(name) for name in names], frames, where=where)
        more = f", {len(matched.surplus)} maps of other frames left out" if matched.surplus else ""
        return Maps(f"{what}, by frame name{more}", partial(_map_of, array, matched.order, where))
    if len(array) != len(frames):
        raise DataError(
            f"expected one map for each of {len(frames)} test frames, found {len(array)}",
            where=where,
            hint="give the frames' names too (--names, or `frames` in .npz and HDF5), of test frames and others",
        )
    read = partial(_map_of, array, range(len(frames)), where)
    return Maps(f"{what}, in the order of the test split", read, by_place=True)


def _map_of(array: Any, order: Sequence[int], where: str, index: int) -> NDArray[np.floating[Any]]:
    with reading(f"map {order[index]}", where):
        return _floating(array[order[index]])


def _npz(path: Path, frames: Sequence[FrameId], key: str | None, names: Path | None) -> Maps:
    headers = containers.npz_headers(path)
    stacks = [name for name, (shape, _) in headers.items() if len(shape) >= 3 and not _is_map(shape)]
    maps = [name for name, (shape, _) in headers.items() if _is_map(shape)]
    if maps and not stacks and key is None and names is None:
        matched = match([_without_suffix(name) for name in maps], frames, where=str(path))
        more = f", {len(matched.surplus)} of other frames left out" if matched.surplus else ""
        chosen = [maps[number] for number in matched.order]
        return Maps(f".npz with one map per frame{more}", partial(_npz_map, path, chosen))
    array = containers.npz(path, _key(key, stacks or maps, list(headers), path))
    listed = _lines(names)
    stored = next((name for name in NAMES if name in headers and headers[name][1].kind == "U"), None)
    if listed is None and stored is not None:
        listed = [str(name) for name in containers.npz(path, stored)]
    return _stack(array, ".npz", frames, listed, str(path))


def _npz_map(path: Path, keys: Sequence[str], index: int) -> NDArray[np.floating[Any]]:
    array = one_channel(containers.npz(path, keys[index]), 2)
    check(array, 2, str(path))
    return _floating(array)


def _hdf5(path: Path, frames: Sequence[FrameId], key: str | None, names: Path | None) -> Maps:
    store = containers.hdf5(path)
    held = {name: array for name in store if (array := containers.own(store, name)) is not None}
    stacks = [name for name, array in held.items() if array.ndim == 3 or (array.ndim == 4 and 1 in array.shape[1:])]
    if key is None and len(stacks) != 1:
        raise DataError(
            f"expected one array [N, H, W], found {', '.join(stacks) or 'none'}",
            where=str(path),
            hint="choose one with --dataset-key",
        )
    chosen = _key(key, stacks, list(held), path)
    array = held[chosen] if held[chosen].ndim == 3 else held[chosen][()]
    listed = _lines(names) or containers.hdf5_names(store, str(path))
    return _stack(array, "HDF5", frames, listed, str(path))


def _lines(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"expected one frame name per line, found {error}", where=str(path), hint="check --names"
        ) from error


def _without_suffix(name: str) -> str:
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in (*SUFFIXES, ".jpg", ".jpeg") else name


def _floating(values: Any) -> NDArray[np.floating[Any]]:
    return np.asarray(values, dtype=np.float64)
