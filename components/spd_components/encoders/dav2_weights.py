"""Reads and describes files with Depth Anything V2's weights, under the names of a Hugging Face `model.safetensors`.

A file must have exactly the expected names and shapes, and finite values.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spd_bench.errors import DataError
from spd_components.encoders.dav2_layouts import WeightEntry, WeightLayout, layout_of
from spd_components.encoders.dav2_release import HUGGING_FACE_FILE, RELEASED_FILES, SHA256
from spd_components.encoders.dav2_sizes import SIZES, DAv2Size

DOWNLOAD = f"download it again; the released files are {', '.join(RELEASED_FILES)}"
MOST_REPEATED = 2**24
"""Largest number of elements of a tensor that repeats stored values; no tensor of DAv2-L has more."""


@dataclass(frozen=True)
class ReleasedWeights:
    """One file's tensors by Hugging Face name."""

    backbone: dict[str, Tensor]
    """The encoder, without prefix."""
    head: dict[str, Tensor] | None
    """The depth head (neck.*, head.*); None if the file has none."""
    sha256: str
    """SHA-256 of the file."""


def read_weights(path: Path, size: DAv2Size) -> ReleasedWeights:
    """The checked weights of one file of any known layout.

    Raises DataError, with the file as its place, for a file that cannot be read, for missing or unexpected names
    and wrong shapes (listed), and for values that are not finite.
    """
    tensors = read_tensors(path)
    layout = layout_of(tensors)
    if layout is None:
        raise DataError(
            f"not the tensors of Depth Anything V2: found {listed(tensors, most=4) or 'none at all'}",
            where=str(path),
            hint=f"{size.encoder} reads the released files and their Hugging Face conversions",
        )
    if found := problems(tensors, layout, size):
        others = [other.encoder for other in SIZES if not problems(tensors, layout, other)]
        raise DataError(
            f"does not fit Depth Anything V2 {size.name}, {size.vit}: {found}",
            where=str(path),
            hint=f"use the encoder {others[0]}" if others else DOWNLOAD,
        )
    refuse_non_finite(tensors, path)
    return ReleasedWeights(
        backbone=_renamed(tensors, layout.vit(size)),
        head=_renamed(tensors, layout.head(size)) or None,
        sha256=sha256_of_file(path),
    )


def describe(path: Path) -> dict[str, str] | None:
    """Description of a file as {what: finding}; of a folder with several known files as {file: findings in one line}.

    None for a file of another family, and for a folder without any. Raises DataError for a damaged file, with missing
    and unexpected names and wrong shapes compared with the nearest size.
    """
    if not path.exists():
        raise DataError("no such file or folder", where=str(path))
    if not path.is_dir():
        return _describe_file(path)
    files = [path / name for name in (*RELEASED_FILES, HUGGING_FACE_FILE) if (path / name).is_file()]
    described = {file.name: found for file in files if (found := _describe_file(file)) is not None}
    if len(described) == 1:
        return next(iter(described.values()))
    return {name: "; ".join(found.values()) for name, found in described.items()} or None


def _describe_file(path: Path) -> dict[str, str] | None:
    try:
        tensors = read_tensors(path)
    except DataError:
        if path.name in (*RELEASED_FILES, HUGGING_FACE_FILE):
            raise
        return None  # not weights, or those of another family
    layout = layout_of(tensors)
    if layout is None:
        return None
    size = min(SIZES, key=lambda size: len(_differences(tensors, layout, size)))
    if found := problems(tensors, layout, size):
        raise DataError(
            f"nearest to Depth Anything V2 {size.name} in the layout {layout.title}, but {found}",
            where=str(path),
            hint=DOWNLOAD,
        )
    refuse_non_finite(tensors, path)
    sha256, head = sha256_of_file(path), layout.head(size)
    known = SHA256.get(sha256)
    return {
        "model": f"Depth Anything V2 {size.name}, {size.vit}" if head else f"DINOv2 {size.vit}",
        "layout": layout.title,
        "encoder": _amount(tensors, layout.vit(size)),
        "depth head": _amount(tensors, head) if head else "none",
        "release": f"the {known.title}, {known.name}" if known else "none whose SHA-256 is known here",
        "SHA-256": sha256,
        "fits": size.encoder,
    }


def _amount(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str:
    sizes = [tensors[name].numel() for name in names]
    return f"{len(sizes)} tensors, {sum(sizes):,} parameters"


def sha256_of_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, in float32. Code in a `.pth` is not executed.

    Raises DataError for a file that cannot be read, and for one with other content.
    """
    from safetensors.torch import load_file

    if not path.is_file():  # opening a pipe would wait for ever
        raise DataError("expected a file of weights, found none", where=str(path), hint=DOWNLOAD)
    _refuse_compressed(path)
    try:
        table = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # an unpickler raises errors of any kind for foreign bytes
        reason = str(error).strip().splitlines()
        raise DataError(
            f"cannot be read as weights ({type(error).__name__}: {reason[0] if reason else 'no reason given'})",
            where=str(path),
            hint=DOWNLOAD,
        ) from error
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise DataError(
            "expected a table of named tensors, found something else",
            where=str(path),
            hint="use the released file, not a training checkpoint that wraps it",
        )
    if inflated := [str(name) for name, value in table.items() if not _is_stored(value)]:
        raise DataError(f"not every value of {listed(inflated)} is stored", where=str(path), hint=DOWNLOAD)
    return {str(name): value.detach().float() for name, value in table.items()}


def _refuse_compressed(path: Path) -> None:
    """Raises DataError for a zip with compressed members: PyTorch writes none, and a small one may expand endlessly."""
    try:
        if not zipfile.is_zipfile(path):  # it raises BadZipFile, too
            return
        with zipfile.ZipFile(path) as archive:
            compressed = [info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
    except Exception as error:  # damaged directories raise BadZipFile, OSError, struct.error, UnicodeError, ...
        raise DataError(f"cannot be read as weights ({error})", where=str(path), hint=DOWNLOAD) from error
    if compressed:
        raise DataError("a zip archive that is compressed; PyTorch's are not", where=str(path), hint=DOWNLOAD)


def _is_stored(value: Tensor) -> bool:
    """Whether all elements of a tensor are stored; one that repeats a few values could have any size."""
    stored = value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    return value.layout == torch.strided and (stored or value.numel() <= MOST_REPEATED)


def refuse_non_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises DataError naming the tensors with values that are not finite."""
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise DataError(f"values that are not finite in {listed(broken)}", where=str(path), hint=DOWNLOAD)


def problems(tensors: Mapping[str, Tensor], layout: WeightLayout, size: DAv2Size) -> str:
    """Differences of a file from this size, in words; "" if there are none."""
    by_kind: dict[str, list[str]] = {}
    for kind, what in _differences(tensors, layout, size):
        by_kind.setdefault(kind, []).append(what)
    return "; ".join(f"{kind} {listed(what)}" for kind, what in by_kind.items())


def _differences(tensors: Mapping[str, Tensor], layout: WeightLayout, size: DAv2Size) -> list[tuple[str, str]]:
    expected = layout.vit(size) | layout.head(size)
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    shapes = [
        f"{name} {found[name]} instead of {entry.shape}"
        for name, entry in expected.items()
        if name in found and found[name] != entry.shape
    ]
    return [
        *(("missing", name) for name in expected.keys() - found.keys()),
        *(("unexpected", name) for name in found.keys() - expected.keys()),
        *(("wrong shape", shape) for shape in shapes),
    ]


def _renamed(tensors: Mapping[str, Tensor], entries: Mapping[str, WeightEntry]) -> dict[str, Tensor]:
    """Tensors under their Hugging Face names; one with several names is cut into as many equal parts."""
    return {
        new: part.clone()
        for name, entry in entries.items()
        for new, part in zip(entry.hugging_face, tensors[name].chunk(len(entry.hugging_face)), strict=True)
    }


def listed(names: Iterable[str], *, most: int = 12) -> str:
    """The first `most` names in order, and the number of further ones."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
