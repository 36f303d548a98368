"""Reads dense predictions of another program from files: one map per test frame, matched by name where there are names.

    stack.npy       [N, H, W], in the order of the test split, or of a list of names given with it
    stack.h5        one array [N, H, W]; with `frames` [N] beside it, matched by those names
    folder/         one .npy, .png, .tif or .tiff per frame

A name is the frame's own, with or without `_` in place of `/`, or ends in `rgb_NUMBER` as file names of the BTS lineage
do. Missing, surplus and doubtful names are errors: no frame is ever dropped.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.data.reading.hdf5 import holds_own_bytes, open_hdf5, reading
from spd_bench.data.reading.images import DEPTH_MODES, LARGEST_SIDE, open_image
from spd_bench.errors import ConfigError, DataError

IMAGES = (".png", ".tif", ".tiff")
SUFFIXES = (".npy", *IMAGES)
SHOWN = 10
"""Names that an error lists; the rest are counted."""


@dataclass(frozen=True)
class Maps:
    """One predicted map per frame, in the order of the frames asked for.

    what: the form that they came in. read: frame number → [H, W] in file units, NaN where an image holds 0.
    """

    what: str
    read: Callable[[int], NDArray[np.floating[Any]]]


def check_there(source: Path) -> None:
    """Raises DataError if there is no file or folder."""
    if not source.exists():
        raise DataError("there are no predictions here", where=str(source), hint="check the path")
    if not source.is_file() and not source.is_dir():  # opening a pipe would wait for ever
        raise DataError("expected a file or folder, found a pipe or a device", where=str(source), hint="check the path")


def open_maps(
    source: Path, frames: Sequence[str], *, dataset_key: str | None = None, names: Path | None = None
) -> Maps:
    """The maps at `source` for these frames.

    dataset_key: which array of an HDF5 file, where it holds several. names: text file with one frame name per line, in
    the order of the stack. Raises DataError for anything but exactly one map per frame, ConfigError for an option
    that does not go with the form of `source`.
    """
    suffix = source.suffix.lower()
    check_there(source)
    if dataset_key is not None and suffix not in (".h5", ".hdf5"):
        raise ConfigError("only HDF5 files have keys", where=str(source), hint="leave --dataset-key out")
    if source.is_dir():
        if names is not None:
            raise ConfigError("files in a folder have names already", where=str(source), hint="leave --names out")
        return _folder(source, frames)
    if suffix == ".npy":
        return _stack(_array(source), "NumPy", frames, _lines(names), str(source))
    if suffix in (".h5", ".hdf5"):
        with reading("its arrays", str(source)):
            return _hdf5(source, frames, dataset_key, names)
    raise DataError(
        f"expected .npy, .h5, .hdf5 or a folder, found {source.suffix or 'a file without extension'}",
        where=str(source),
        hint="save one array [N, H, W], or one file per frame in a folder",
    )


def match(keys: Sequence[str], frames: Sequence[str], *, where: str) -> list[int]:
    """Which of `keys` names each frame. DataError unless keys and frames are paired one to one without doubt."""
    named: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        for form in {key, _bts_number(key)} - {None}:
            named.setdefault(str(form), []).append(number)
    found = [_candidates(named, frame) for frame in frames]
    doubtful = [f"{f} ({', '.join(keys[n] for n in some)})" for f, some in zip(frames, found, strict=True) if some[1:]]
    missing = [frame for frame, some in zip(frames, found, strict=True) if not some]
    used = [number for some in found for number in some]
    shared = [frame for frame, some in zip(frames, found, strict=True) if any(used.count(n) > 1 for n in some)]
    surplus = [key for number, key in enumerate(keys) if number not in used]
    for problem, listed in (
        ("frames have more than one prediction", doubtful),
        ("frames share a prediction with another frame", shared),
        (f"of {len(frames)} test frames have no prediction", missing),
        ("predictions belong to no test frame", surplus),
    ):
        if listed:
            raise DataError(
                f"{len(listed)} {problem}: {shortlist(listed)}",
                where=where,
                hint=f"name predictions by frame, such as {frames[0]}; one for each frame of the test split",
            )
    return [some[0] for some in found]


def shortlist(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _candidates(named: dict[str, list[int]], frame: str) -> list[int]:
    """Keys of a frame: by its own name, else by the number in BTS-like names."""
    own = {number for form in (frame, frame.replace("/", "_")) for number in named.get(form, ())}
    return sorted(own) or named.get(f"rgb_{frame.rpartition('/')[2].removeprefix('rgb_')}", [])


def _bts_number(key: str) -> str | None:
    """`rgb_00045` of `bathroom_rgb_00045` and `bathroom/rgb_00045`."""
    before, mark, number = key.rpartition("rgb_")
    return f"rgb_{number}" if mark and number.isdigit() and before[-1:] in ("", "/", "_") else None


# ---------------------------------------------------------------------------------------------- folders


def _folder(root: Path, frames: Sequence[str]) -> Maps:
    """One file per frame, at any depth. Files with other extensions are not looked at."""
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    keys = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    chosen = [paths[number] for number in match(keys, frames, where=str(root))]
    kinds = ", ".join(sorted({path.suffix.lower() for path in chosen}))
    return Maps(f"one {kinds} per frame", lambda index: _file(chosen[index]))


def _file(path: Path) -> NDArray[np.floating[Any]]:
    if path.suffix.lower() in IMAGES:
        return _image(path)
    array = _array(path)
    _check(array, 2, str(path))
    return _floating(array)


def _image(path: Path) -> NDArray[np.floating[Any]]:
    """Greyscale with 16 bits or more; 0 in an integer image is no prediction."""
    image = open_image(path)
    if image.mode not in DEPTH_MODES:
        raise DataError(
            f"expected one channel of 16 bits or more, found PIL mode {image.mode}",
            where=str(path),
            hint="8-bit images are scaled and rounded for display and cannot be scored; write 16-bit PNG or .npy",
        )
    values = np.asarray(image)
    floating = _floating(values)
    return floating if values.dtype.kind == "f" else np.where(values == 0, np.nan, floating)


# ------------------------------------------------------------------------------------------------ stacks


def _stack(array: Any, form: str, frames: Sequence[str], names: Sequence[str] | None, where: str) -> Maps:
    """Maps of one array [N, H, W], by name if there are names, else by position."""
    _check(array, 3, where)
    what = f"{form} array of {'×'.join(map(str, array.shape))}"
    if names is not None:
        if len(names) != len(array):
            raise DataError(f"{len(names)} names for {len(array)} maps", where=where, hint="name each map once")
        order = match([_without_suffix(name) for name in names], frames, where=where)
        return Maps(f"{what}, by frame name", partial(_map_of, array, order, where))
    if len(array) != len(frames):
        raise DataError(
            f"expected one map for each of {len(frames)} test frames, found {len(array)}",
            where=where,
            hint="give the frames' names too (--names, or `frames` in HDF5) to see which are missing or surplus",
        )
    return Maps(f"{what}, in the order of the test split", partial(_map_of, array, range(len(frames)), where))


def _map_of(array: Any, order: Sequence[int], where: str, index: int) -> NDArray[np.floating[Any]]:
    with reading(f"map {order[index]}", where):
        return _floating(array[order[index]])


def _array(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim more than the file has
    except Exception as error:  # damaged headers raise OSError, ValueError, EOFError, tokenize.TokenError, ...
        raise DataError(
            f"expected a NumPy array without pickled objects, found a damaged or foreign file ({error})",
            where=str(path),
            hint="save it again with numpy.save",
        ) from error


def _hdf5(path: Path, frames: Sequence[str], key: str | None, names: Path | None) -> Maps:
    store = open_hdf5(path, kind="HDF5")
    stacks = [name for name in store if _own(store, name) is not None and store[name].ndim == 3]
    if key is None and len(stacks) != 1:
        found = ", ".join(stacks) or "none"
        raise DataError(
            f"expected one array [N, H, W], found {found}", where=str(path), hint="choose one with --dataset-key"
        )
    array = _own(store, key or stacks[0])
    if array is None:
        raise DataError(
            f'expected an array "{key}" in the file itself, found none (it has {", ".join(store)})',
            where=str(path),
            hint="choose another --dataset-key",
        )
    listed = _lines(names) or _names_in(store, str(path))
    return _stack(array, "HDF5", frames, listed, str(path))


def _own(store: Any, key: str) -> Any:
    """An array whose bytes lie in this very file, else None: HDF5 can point a name, or storage, at any other file."""
    import h5py

    if key not in store or not isinstance(store.get(key, getlink=True), h5py.HardLink):
        return None
    return store[key] if holds_own_bytes(store[key]) else None


def _names_in(store: Any, where: str) -> list[str] | None:
    import h5py

    names = _own(store, "frames")
    if names is None:
        return None
    if names.ndim != 1 or h5py.check_string_dtype(names.dtype) is None:
        raise DataError(
            f"expected `frames` as a list of names, found {names.dtype} of shape {names.shape}",
            where=where,
            hint="write the frames' names as strings, or remove `frames`",
        )
    return [str(name) for name in names.asstr()[()]]


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


# ------------------------------------------------------------------------------------------------ values


def _check(array: Any, axes: int, where: str) -> None:
    """DataError for an array of other axes, or of too few bits to hold depth."""
    sides: Iterable[int] = array.shape[-2:]
    if array.ndim != axes or not all(0 < side <= LARGEST_SIDE for side in sides):
        raise DataError(
            f"expected shape {'[N, H, W]' if axes == 3 else '[H, W]'}, found {list(array.shape)}",
            where=where,
            hint="remove axes of length one; predictions have one channel",
        )
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 2:
        raise DataError(
            f"expected floating point, or integers of 16 bits or more, found {array.dtype}",
            where=where,
            hint="8-bit values are scaled and rounded for display and cannot be scored",
        )


def _floating(values: Any) -> NDArray[np.floating[Any]]:
    return np.asarray(values, dtype=np.float64)
