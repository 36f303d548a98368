"""How folders of RGB-D frames are named, and which colour file belongs to which depth file.

A sequence is a folder in which colour files have depth partners. A pattern is a path relative to the sequence:
`{id}` stands for what names a frame, `*` for a run of characters without dot or slash, such as an extension.
Colour and depth of one id are one frame; nothing else is paired by guess. TUM's two cameras have clocks of their
own: there `associations.txt` says what is paired, or else the nearest time stamps are.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Patterns of a frame's two files, the number of file units in one metre, and what users must know."""

    name: str
    color: str
    depth: str
    scale: float
    remark: str = ""


LAYOUTS = (
    Layout(
        "seven_scenes",
        "frame-{id}.color.*",
        "frame-{id}.depth.*",
        scale=1000,
        remark="; as published, depth is not registered to colour",
    ),
    Layout("tum", "rgb/{id}.*", "depth/{id}.*", scale=5000),
    Layout("folders", "rgb/{id}.*", "depth/{id}.*", scale=1000),
)
"""Known layouts, in the order in which "auto" tries them. TUM's ids are time stamps in seconds."""

TUM_STAMP = re.compile(r"\d+\.\d+")
TUM_LARGEST_GAP_S = 0.02
TUM_PAIRS = "associations.txt"


@dataclass(frozen=True)
class Pair:
    """Colour and depth file of one frame, relative to the root."""

    id: str
    color: str
    depth: str


@dataclass(frozen=True)
class Recording:
    """One sequence: its folder relative to the root ("" for the root itself), its frames in order, and how many
    colour and depth files found no partner."""

    folder: str
    pairs: tuple[Pair, ...]
    lone_color: int
    lone_depth: int


def files_below(root: Path) -> list[str]:
    """All files below a folder, as sorted POSIX paths relative to it; hidden folders are left out, links followed."""
    found: list[str] = []
    visited: set[str] = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        below[:] = [] if real in visited else [name for name in below if not name.startswith(".")]
        if real not in visited:
            found += [Path(folder, name).relative_to(root).as_posix() for name in names]
        visited.add(real)
    return sorted(found)


def known_layout(files: Iterable[str], name: str) -> Layout | None:
    """The layout of this name, or the first known one for "auto", if it fits: some files match both patterns."""
    files = list(files)
    return next((layout for layout in LAYOUTS if name in ("auto", layout.name) and _fits(layout, files)), None)


def recordings(root: Path, files: Iterable[str], layout: Layout) -> list[Recording]:
    """Every sequence among `files`, by folder.

    Raises:
        DataError: two files claim one id, or a line of associations.txt names no pair of files.
    """
    files = list(files)
    colors, depths = (_by_sequence(pattern, files, root) for pattern in (layout.color, layout.depth))
    found = []
    for folder in sorted(colors.keys() | depths.keys()):
        color, depth = colors.get(folder, {}), depths.get(folder, {})
        listing = root / folder / TUM_PAIRS
        if layout.name != "tum":
            partners = {id: id for id in color.keys() & depth.keys()}
        elif listing.is_file():
            partners = _associated(listing, color, depth, folder)
        else:
            partners = nearest_stamps(list(color), list(depth))
        pairs = tuple(Pair(id, color[id], depth[partners[id]]) for id in sorted(partners, key=natural))
        found.append(Recording(folder, pairs, len(color) - len(pairs), len(depth) - len(pairs)))
    return found


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
    ids = [[match["id"] for match in _matches(pattern, files)] for pattern in (layout.color, layout.depth)]
    return all(ids) and (layout.name != "tum" or all(map(TUM_STAMP.fullmatch, ids[0] + ids[1])))


def _matches(pattern: str, files: Iterable[str]) -> list[re.Match[str]]:
    body = re.escape(pattern).replace(r"\{id\}", "(?P<id>[^/]+)").replace(r"\*", "[^./]*")
    expression = re.compile(rf"(?:(?P<folder>.+)/)?{body}")
    return [match for match in map(expression.fullmatch, files) if match]


def _by_sequence(pattern: str, files: Iterable[str], root: Path) -> dict[str, dict[str, str]]:
    """Sequence folder → id → file."""
    found: dict[str, dict[str, str]] = {}
    for match in _matches(pattern, files):
        sequence = found.setdefault(match["folder"] or "", {})
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
                hint="write the list again, or remove it to pair by nearest time stamps",
            )
        partners[id] = partner
    return partners
