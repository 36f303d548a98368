"""What to say to a user whose folder of RGB-D frames is not understood: the patterns in it, counted, ready to paste."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from spd_bench.data.reading.depth_files import DEPTH_SUFFIXES, OTHER_DEPTH_SUFFIXES, PREVIEW_SUFFIXES, READ, SAVE
from spd_bench.data.reading.images import COLOR_SUFFIXES
from spd_bench.data.sets.rgbd_layouts import Recording, matches

DEPTH_WORD = re.compile(r"depth|disp|dist|(^|[^a-z])(z|gt|d)([^a-z]|$)", re.IGNORECASE)
ROLE = re.compile(r"rgb|colou?r|ima?ge?s?|depth|disp|left|right|cam", re.IGNORECASE)
MOST_PATTERNS = 6
MOST_TRIED = 24


def pattern_of(file: str, *, parents: int = 0) -> str | None:
    """The pattern that a file is an example of: its last number becomes `{id}`; None for a file without one.

    parents: how many names of folders belong to it, whatever they are; with 0 one that says what files are does.
    """
    path = PurePosixPath(file)
    name, count = re.subn(r"\d+(?:\.\d+)?(?=\D*$)", "{id}", path.stem, count=1)
    if not count:
        return None
    folders = path.parent.parts[-max(1, parents) :]
    if parents == 0 and not (folders and ROLE.search(folders[-1])):
        folders = ()
    return "/".join([*folders, name + path.suffix])


def patterns_in(files: Iterable[str]) -> Counter[str]:
    """Pattern → number of files that could be colour or depth, the most frequent first."""
    wanted = COLOR_SUFFIXES | DEPTH_SUFFIXES | OTHER_DEPTH_SUFFIXES
    images = [file for file in files if _suffix(file) in wanted]
    parents = 1 if len({PurePosixPath(file).parent for file in images}) <= MOST_PATTERNS else 0
    found = (pattern_of(file, parents=parents) for file in images)
    return Counter(pattern for pattern in found if pattern)


def advice(files: Sequence[str]) -> str:
    """Which patterns the files have and, if two of them share frames, the options that name them; "" for no images."""
    counted = patterns_in(files)
    if not counted:
        return ""
    shown = ", ".join(f"{pattern} {count}" for pattern, count in counted.most_common(MOST_PATTERNS))
    rest = f" and {len(counted) - MOST_PATTERNS} more" if len(counted) > MOST_PATTERNS else ""
    said = f"found {shown}{rest}"
    if (pair := _best_pair(files, counted)) is not None:
        color, depth, shared = pair
        return (
            f"{said}; {shared} frames have both colour and depth with --dataset rgbd_folder "
            f"--option 'color={color}' --option 'depth={depth}'"
        )
    return f"{said}; {_why_unpaired(files, counted)}"


def _why_unpaired(files: Sequence[str], counted: Counter[str]) -> str:
    """Which files would have to be converted, if their formats are the reason, and else how to name frames."""
    depths = [pattern for pattern in counted if DEPTH_WORD.search(pattern)]
    readable = any(_suffix(pattern) in DEPTH_SUFFIXES for pattern in depths)
    depth = None if readable or not depths else depths[0]
    if depth is not None and _suffix(depth) in PREVIEW_SUFFIXES:
        return f"{_suffix(depth)} is a picture for the eye and not read as depth; use the original files: {READ}"
    if depth is not None:
        return f"{_suffix(depth)} is not read as depth, convert it: {SAVE}"
    read = COLOR_SUFFIXES | DEPTH_SUFFIXES | OTHER_DEPTH_SUFFIXES
    others = Counter(_suffix(file) for file in files if pattern_of(file) and _suffix(file) not in read)
    if others:
        kinds = ", ".join(f"{suffix or 'no extension'} {count}" for suffix, count in others.most_common(3))
        return (
            f"files of other formats are not looked at ({kinds}): colour is read as "
            f"{', '.join(sorted(COLOR_SUFFIXES))}, depth as {READ}; convert them, depth with {SAVE}"
        )
    return "no two of them share a frame: name colour and depth of a frame with the same number"


def unpaired(recording: Recording) -> str:
    """Two names of each side of a sequence in which nothing pairs, and the numbers that they share, if any."""
    sides = []
    numbers = []
    for what, lone in (("colour", recording.lone_color), ("depth", recording.lone_depth)):
        sides.append(f"{len(lone)} {what} files such as {', '.join(PurePosixPath(name).name for name in lone[:2])}")
        numbers.append({number for name in lone for number in re.findall(r"\d+", PurePosixPath(name).stem)})
    shared = len(numbers[0] & numbers[1])
    return f"{' and '.join(sides)} have no partner" + (f", though {shared} numbers are in both" if shared else "")


def ignored_text(ignored: Counter[str]) -> str:
    """What was left aside, for `describe`; "" for nothing."""
    if not ignored:
        return ""
    kinds = ", ".join(
        f"{kind} {count}" + (" (8-bit previews)" if kind in PREVIEW_SUFFIXES else "")
        for kind, count in sorted(ignored.items())
    )
    return f"; {ignored.total()} files that are no frames ignored ({kinds})"


def _best_pair(files: Sequence[str], counted: Counter[str]) -> tuple[str, str, int] | None:
    """Colour pattern, depth pattern, and the number of frames that have both; None if no two share a frame."""
    tried = dict.fromkeys([p for p, _ in counted.most_common(MOST_PATTERNS)])
    for parents in (1, 2):
        tried |= dict.fromkeys(pattern for file in files if (pattern := pattern_of(file, parents=parents)) is not None)
        tried = dict.fromkeys(list(tried)[: MOST_TRIED * parents])
    ids = {pattern: {(m["folder"], m["id"]) for m in matches(pattern, files)} for pattern in tried}
    depths = [p for p in tried if DEPTH_WORD.search(p) and _suffix(p) in DEPTH_SUFFIXES]
    colors = [p for p in tried if not DEPTH_WORD.search(p) and _suffix(p) in COLOR_SUFFIXES]
    found = [(c, d, len(ids[c] & ids[d])) for c in colors for d in depths]
    best = max(found, key=lambda each: each[2], default=None)
    return best if best is not None and best[2] else None


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
