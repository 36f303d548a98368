"""How folders of RGB-D frames are named, and which colour file belongs to which depth file.

A sequence is a folder in which colour files have depth partners. A pattern is a path relative to the sequence:
`{id}` stands for what names a frame, `*` for an extension that is read. Colour and depth of one id are one frame, or
what a list of associations pairs, or, where no id is shared, the nearest time stamps: nothing is paired by guess.
Names decide no unit: what a layout assumes is said (`RGBDFolder.assumed`).
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.data.reading.depth_files import DEPTH_SUFFIXES
from spd_bench.data.reading.images import COLOR_SUFFIXES
from spd_bench.errors import DataError

COLOR_FOLDERS = ("rgb", "RGB", "color", "colour", "Color", "image", "images", "Image", "img")
DEPTH_FOLDERS = ("depth", "Depth", "depths")


@dataclass(frozen=True)
class Layout:
    """Patterns of a frame's two files, the number of file units in one metre, and what users must know."""

    name: str
    """Name, as the option `layout` takes it."""
    color: str
    """Pattern of the colour file, relative to the sequence; {id} marks the frame."""
    depth: str
    """Pattern of the depth file, likewise."""
    scale: float
    """File units in one metre."""
    truth: str = "raw"
    """Kind of depth: raw or rendered."""
    remark: str = ""
    """What users must know, appended to the description."""


FOLDERS = Layout("folders", "<color>/{id}.*", "<depth>/{id}.*", scale=1000)
LAYOUTS = (
    Layout(
        "seven_scenes",
        "frame-{id}.color.*",
        "frame-{id}.depth.*",
        scale=1000,
        remark="; as published, depth is not registered to colour",
    ),
    Layout("tum", "<color>/{id}.*", "<depth>/{id}.*", scale=5000),
    Layout("icl_nuim", "<color>/{id}.*", "<depth>/{id}.*", scale=5000, truth="rendered"),
    FOLDERS,
)
"""Known layouts. TUM is known by its own lists of files (rgb.txt and depth.txt, or associations of time stamps),
ICL-NUIM by a list of associations between numbered files."""

TUM_STAMP = re.compile(r"\d+\.\d+")
TUM_LARGEST_GAP_S = 0.02
ASSOCIATIONS = ("associations.txt", "association.txt", "associate.txt", "associated.txt", "assoc.txt")
COPY = re.compile(r"(?P<of>.+?)(?: ?\(\d+\)| - Copy.*| copy(?: \d+)?|[ .]\(?conflict.*|\.sync-conflict-.*)$")
"""What desktops and sync tools make of a file's name when they copy it."""


@dataclass(frozen=True)
class Pair:
    """Colour and depth file of one frame, relative to the root."""

    id: str
    """Name of the frame within its sequence."""
    color: str
    """Colour file, a POSIX path relative to the root."""
    depth: str
    """Depth file, likewise."""


@dataclass(frozen=True)
class Recording:
    """One sequence of frames and the files without a partner."""

    folder: str
    """Folder of the sequence relative to the root; "" for the root itself."""
    pairs: tuple[Pair, ...]
    """Frames in order."""
    pairing: str
    """How colour and depth were brought together."""
    lone_color: tuple[str, ...] = ()
    """Colour files without a partner."""
    lone_depth: tuple[str, ...] = ()
    """Depth files without a partner."""


@dataclass
class Matched:
    """The files of one kind: sequence folder → id → file, and what was left aside, by extension."""

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """File by sequence folder and frame id, POSIX paths relative to the root."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Number of files that fit the pattern and are left out, by extension; "copies" counts copies."""


def files_below(root: Path) -> list[str]:
    """All files below a folder, as sorted POSIX paths relative to it; hidden ones are left out, links followed."""
    found: list[str] = []
    visited: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in visited else [name for name in below if not name.startswith((".", "__MACOSX"))]
        if real not in visited:
            prefix = Path(folder).relative_to(root).as_posix()
            found += [name if prefix == "." else f"{prefix}/{name}" for name in names if not name.startswith(".")]
        visited.add(real)
    return sorted(found)


def known_layout(files: Iterable[str], name: str) -> Layout | None:
    """The layout of this name, or for "auto" the one that the files show, if some files match both patterns.

    Raises DataError for "auto" where sequences have layouts of several units.
    """
    files = list(files)
    for layout in LAYOUTS:
        if (name == layout.name or (name == "auto" and layout.name == "seven_scenes")) and _fits(layout, files):
            return layout
    if name != "auto" or not _fits(FOLDERS, files):
        return None
    shown = {folder: _shown(folder, ids, files) for folder, ids in _sequences(files).items()}
    kinds = sorted(set(shown.values()))
    if len(kinds) > 1:
        examples = ", ".join(f"{next(f for f, k in shown.items() if k == kind) or '.'} ({kind})" for kind in kinds)
        raise DataError(
            f"expected sequences of one layout, found {examples}: their units differ",
            hint="use each kind on its own, or say --option layout=folders and --option depth_scale=UNITS_PER_METRE",
        )
    return next(layout for layout in LAYOUTS if layout.name == kinds[0])


def recordings(root: Path, files: Iterable[str], layout: Layout) -> tuple[list[Recording], Counter[str]]:
    """Every sequence among `files`, by folder; and how many files beside frames were left aside, by extension.

    Raises:
        DataError: two files claim one id, or a line of a list of associations names no pair of files.
    """
    files = list(files)
    colors = _by_sequence(layout.color, files, root, COLOR_SUFFIXES)
    depths = _by_sequence(layout.depth, files, root, DEPTH_SUFFIXES)
    found = []
    for folder in sorted(colors.files.keys() | depths.files.keys()):
        color, depth = colors.files.get(folder, {}), depths.files.get(folder, {})
        partners, pairing = _partners(root / folder, color, depth, folder, layout)
        pairs = tuple(Pair(id, color[id], depth[partners[id]]) for id in sorted(partners, key=natural))
        paired = {pair.color for pair in pairs} | {pair.depth for pair in pairs}
        lone = [tuple(sorted(set(kind.values()) - paired)) for kind in (color, depth)]
        found.append(Recording(folder, pairs, pairing, *lone))
    return found, colors.ignored + depths.ignored


def _partners(
    folder: Path, color: Mapping[str, str], depth: Mapping[str, str], name: str, layout: Layout
) -> tuple[dict[str, str], str]:
    """Colour id → depth id of one sequence, and how they were found."""
    listing = next((folder / file for file in ASSOCIATIONS if (folder / file).is_file()), None)
    if listing is not None and "<" in layout.color:
        return _associated(listing, color, depth, name), listing.name
    same = color.keys() & depth.keys()
    stamps = all(map(TUM_STAMP.fullmatch, [*color, *depth]))
    if stamps and (layout.name == "tum" or not same):
        return nearest_stamps(list(color), list(depth)), "nearest time stamps"
    return {id: id for id in same}, "equal ids"


def nearest_stamps(colors: list[str], depths: list[str]) -> dict[str, str]:
    """Colour stamp → depth stamp, where each is the other's nearest and they are at most 0.02 s apart."""
    if not colors or not depths:
        return {}
    colors, depths = sorted(colors, key=float), sorted(depths, key=float)
    color_s, depth_s = np.array(colors, dtype=float), np.array(depths, dtype=float)
    to_depth, to_color = _nearest(color_s, depth_s), _nearest(depth_s, color_s)
    mutual = to_color[to_depth] == np.arange(len(colors))
    near = np.abs(color_s - depth_s[to_depth]) <= TUM_LARGEST_GAP_S
    return {colors[i]: depths[to_depth[i]] for i in np.flatnonzero(mutual & near)}


def natural(id: str) -> list[Any]:
    """Sort key in which digits count as numbers: 2 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", id))]


def _nearest(query_s: npt.NDArray[np.float64], sorted_s: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Index of the nearest of `sorted_s` for every query; the earlier one of a tie."""
    return np.searchsorted((sorted_s[1:] + sorted_s[:-1]) / 2, query_s)


def _fits(layout: Layout, files: list[str]) -> bool:
    kinds = ((layout.color, COLOR_SUFFIXES), (layout.depth, DEPTH_SUFFIXES))
    return all(any(_is_read(match[0], suffixes) for match in matches(pattern, files)) for pattern, suffixes in kinds)


def _sequences(files: list[str]) -> dict[str, list[str]]:
    """Folder → ids of the colour files in it, for sequences that have depth files too."""
    depth = {match["folder"] or "" for match in matches(FOLDERS.depth, files) if _is_read(match[0], DEPTH_SUFFIXES)}
    found: dict[str, list[str]] = {}
    for match in matches(FOLDERS.color, files):
        if (match["folder"] or "") in depth and _is_read(match[0], COLOR_SUFFIXES):
            found.setdefault(match["folder"] or "", []).append(match["id"])
    return found


def _shown(folder: str, ids: list[str], files: list[str]) -> str:
    """Name of the layout that the lists beside a sequence's folders show."""
    beside = {PurePosixPath(name).name for name in files if PurePosixPath(name).parent.as_posix() == (folder or ".")}
    stamps = all(map(TUM_STAMP.fullmatch, ids))
    if stamps and ({"rgb.txt", "depth.txt"} <= beside or beside & set(ASSOCIATIONS)):
        return "tum"
    return "icl_nuim" if beside & set(ASSOCIATIONS) and not stamps else "folders"


def matches(pattern: str, files: Iterable[str]) -> list[re.Match[str]]:
    """The files that a pattern fits, with groups `folder` (the sequence) and `id`."""
    body = re.escape(pattern).replace(r"\{id\}", "(?P<id>[^/]+)").replace(r"\*", "[^./]*")
    for mark, names in (("<color>", COLOR_FOLDERS), ("<depth>", DEPTH_FOLDERS)):
        body = body.replace(mark, f"(?:{'|'.join(names)})")
    expression = re.compile(rf"(?:(?P<folder>.+)/)?{body}")
    return [match for match in map(expression.fullmatch, files) if match]


def _is_read(file: str, suffixes: Iterable[str]) -> bool:
    return PurePosixPath(file).suffix.lower() in suffixes


def _by_sequence(pattern: str, files: Iterable[str], root: Path, suffixes: frozenset[str]) -> Matched:
    """The files that a pattern fits; where it leaves the extension open, those with one that is read."""
    found = Matched()
    every = matches(pattern, files)
    ids = {(match["folder"] or "", match["id"]) for match in every}
    for match in every:
        copied = COPY.fullmatch(match["id"])
        copy = copied is not None and ((match["folder"] or "", copied["of"]) in ids)
        if copy or (pattern.endswith(".*") and not _is_read(match[0], suffixes)):
            found.ignored["copies" if copy else PurePosixPath(match[0]).suffix.lower() or "no extension"] += 1
            continue
        sequence = found.files.setdefault(match["folder"] or "", {})
        if sequence.setdefault(match["id"], match[0]) != match[0]:
            raise DataError(
                f"frame {match['id']} has two files: {sequence[match['id']]} and {match[0]}",
                where=str(root),
                hint="move one away, or give color and depth patterns that only one of them fits",
            )
    return found


def _associated(path: Path, color: Mapping[str, str], depth: Mapping[str, str], folder: str) -> dict[str, str]:
    """Colour id → depth id from lines `stamp rgb/FILE stamp depth/FILE`, in either order."""
    color_id, depth_id = ({file: id for id, file in kind.items()} for kind in (color, depth))
    partners = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        names = [f"{folder}/{name}" if folder else name for name in line.split()[1::2]]
        id = next((color_id[name] for name in names if name in color_id), None)
        partner = next((depth_id[name] for name in names if name in depth_id), None)
        if id is None or partner is None or len(names) != 2:
            raise DataError(
                f"expected `stamp rgb/FILE stamp depth/FILE` with files of this sequence, found {line!r}",
                where=f"{path}:{number}",
                hint="write the list again, or remove it to pair by equal names or nearest time stamps",
            )
        partners[id] = partner
    return partners
