"""Removing what spd-bench wrote below a run root, a cache or beside a pack, and nothing else.

Every command that removes goes through `remove_own`. It follows no link, takes regular files whose names are those that
their writer gives them, in a folder that the caller has recognised, and removes a folder only once that is empty.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from spd_bench.store import files

TEMPORARY = r"\..+\.(?:[A-Za-z0-9]*-)?[0-9]+-[0-9a-f]{1,8}\.tmp"
"""Names of files that a killed process left half-written (`store.files.write_bytes`), as a regular expression."""


@dataclass(frozen=True)
class Removed:
    """What was removed from one folder, and what was left there."""

    files: int
    """Number of files that were removed."""
    left: tuple[Path, ...]
    """What lies there still: files of others, links, folders."""


def is_own_folder(folder: Path) -> bool:
    """Whether there is a folder under this name itself, not a link to one."""
    return _mode(folder, stat.S_ISDIR)


def own_files(folder: Path, names: Collection[str]) -> list[Path]:
    """Regular files in a folder whose whole names match one of the expressions, in their order and sorted.

    Empty for a link to a folder. Links among the files are left out.
    """
    if not is_own_folder(folder):
        return []
    there = sorted(folder.iterdir())
    return [path for name in names for path in there if re.fullmatch(name, path.name) and _mode(path, stat.S_ISREG)]


def remove_own(folder: Path, names: Collection[str], *, folder_too: bool = True) -> Removed:
    """Removes the `own_files` of a folder in the order of `names`, and the folder if it is empty then.

    names: regular expressions of whole file names. folder_too: whether the empty folder goes as well.
    """
    own = own_files(folder, names)
    for path in own:
        files.remove(path)
    left = tuple(sorted(folder.iterdir())) if is_own_folder(folder) else ()
    if folder_too and is_own_folder(folder) and not left:
        files.remove_folder(folder)
    return Removed(len(own), left)


def remove_tree(folder: Path) -> None:
    """Removes a folder for temporary files and what is in it; links in it go, and what they point to stays."""
    if is_own_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)


def clear_debris(folder: Path) -> None:
    """Removes what killed processes of this machine left half-written in a folder and those below it."""
    ours = re.compile(rf"\..*\.{re.escape(files.node())}-([0-9]+)-[0-9a-f]{{8}}\.tmp")
    for path in _below(folder):
        written = ours.fullmatch(path.name)
        if written and _mode(path, stat.S_ISREG) and not files.is_alive(int(written[1])):
            files.remove(path)


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, through no link."""
    for above, _, names in os.walk(folder, followlinks=False):
        yield from (Path(above, name) for name in names if name.endswith(".tmp"))


def _mode(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False
