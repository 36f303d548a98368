"""What lies in the cache of frozen features (`data.feature_shelf`), whether it is whole, and making room."""

import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from spd_bench.data.features.shelf import ABOUT, KEY_DIGITS, FeaturesRecord, in_use, lock_of
from spd_bench.errors import BusyError, ConfigError, did_you_mean
from spd_bench.store import sealed


def size_of(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache. what, data: encoder, input size and views, and the data set, in words."""

    key: str
    folder: Path
    what: str
    data: str
    suites: tuple[str, ...]
    views: int
    bytes: int
    last_used: float


@dataclass(frozen=True)
class Removal:
    """What `FeatureCache` removed, and what it left because a process uses it."""

    removed: tuple[CacheEntry, ...]
    in_use: tuple[CacheEntry, ...]


class FeatureCache:
    """The folder of all features: what lies there, whether it is whole, and making room."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[CacheEntry]:
        """Every folder, the one used last first."""
        if not self.root.is_dir():
            return []
        folders = [path.parent for path in self.root.glob(f"*/{ABOUT}")]
        return sorted((_entry(folder) for folder in folders), key=lambda entry: (-entry.last_used, entry.key))

    def find(self, key: str) -> CacheEntry:
        """The entry whose key begins so; ConfigError if there is none or several."""
        entries = self.entries()
        found = [entry for entry in entries if entry.key.startswith(key)]
        if len(found) != 1:
            what = f'{len(found)} keys begin with "{key}"' if found else f'no key begins with "{key}"'
            raise ConfigError(what, where=str(self.root), hint=did_you_mean(key, [entry.key for entry in entries]))
        return found[0]

    def verify(self, on_shard: Callable[[int, int], None] = lambda done, total: None, key: str = "") -> list[Path]:
        """Shards whose content is not what was written, of all entries or of one. Reads everything.

        A run that reads such a shard drops it and builds it again.
        """
        entries = [self.find(key)] if key else self.entries()
        shards = [shard for entry in entries for shard in sorted(entry.folder.glob("*.h5"))]
        damaged = []
        for done, shard in enumerate(shards, start=1):
            if not _is_whole(shard):
                damaged.append(shard)
            on_shard(done, len(shards))
        return damaged

    def remove(self, key: str) -> CacheEntry:
        """Removes the entry whose key begins so; BusyError where a process builds it or reads from it."""
        entry = self.find(key)
        if not _remove(entry):
            raise BusyError("a process builds it or reads from it", where=str(entry.folder))
        return entry

    def remove_all(self) -> Removal:
        """Removes every entry that no process uses."""
        return _remove_each(self.entries())

    def remove_older(self, days: float) -> Removal:
        """Removes what was last used longer ago, and is not in use."""
        return _remove_each([entry for entry in self.entries() if time.time() - entry.last_used > days * 86400])

    def remove_to(self, limit_bytes: float) -> Removal:
        """Removes what was used longest ago and is not in use, until the rest takes no more than this."""
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        removed: list[CacheEntry] = []
        in_use: list[CacheEntry] = []
        for entry in reversed(entries):
            if total <= limit_bytes:
                break
            if _remove(entry):
                removed.append(entry)
                total -= entry.bytes
            else:
                in_use.append(entry)
        return Removal(tuple(removed), tuple(in_use))


def _entry(folder: Path) -> CacheEntry:
    shards = list(folder.glob("*.h5"))
    about = FeaturesRecord.read(folder)
    return CacheEntry(
        key=folder.name,
        folder=folder,
        what=_words(about.identity) if about else f"{ABOUT} cannot be read",
        data=about.data if about else "",
        suites=tuple(about.suites) if about else (),
        views=sum(_views_in(shard) for shard in shards),
        bytes=sum(shard.stat().st_size for shard in shards),
        last_used=(folder / ABOUT).stat().st_mtime,
    )


def _words(identity: Mapping[str, Any]) -> str:
    height, width = identity["data"]["image_size"]
    shown = "frames as they are" if isinstance(identity["views"], str) else "augmented frames"
    return f"{identity['encoder']['encoder']['use']}, {height}×{width}, {shown}"


_MARK = re.compile(r"spd-bench features ([0-9a-f]{64}), (\S+) of (\d+) views(?=,)")


def _mark(shard: Path) -> re.Match[str] | None:
    return _MARK.match(sealed.seal_of(shard))


def _views_in(shard: Path) -> int:
    mark = _mark(shard)
    return int(mark[3]) if mark else 0


def _is_whole(shard: Path) -> bool:
    """Whether a file is the shard that its folder and name say, with the content that it was written with."""
    mark = _mark(shard)
    if mark is None or (mark[1][:KEY_DIGITS], mark[2]) != (shard.parent.name, shard.stem):
        return False
    return sealed.is_whole(shard, mark[0])


def _remove_each(entries: Sequence[CacheEntry]) -> Removal:
    outcomes = [(entry, _remove(entry)) for entry in entries]
    return Removal(
        tuple(entry for entry, gone in outcomes if gone), tuple(entry for entry, gone in outcomes if not gone)
    )


def _remove(entry: CacheEntry) -> bool:
    """Deletes a folder unless a process uses it. What describes it goes last, so that a rest still shows."""
    lock = lock_of(entry.folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if in_use(entry.folder):
            return False
        for path in [*entry.folder.glob("*.h5"), *entry.folder.glob(".*.tmp"), entry.folder / ABOUT]:
            path.unlink(missing_ok=True)
        shutil.rmtree(entry.folder, ignore_errors=True)
    finally:
        lock.release()
    return True
