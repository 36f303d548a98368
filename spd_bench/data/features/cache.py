"""What lies in the cache of frozen features (`data.feature_shelf`), whether it is whole, and making room."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from spd_bench.data.features.shelf import ABOUT, KEY_DIGITS, SHARD, USE, FeaturesRecord, in_use, lock_of
from spd_bench.errors import BusyError, ConfigError, did_you_mean
from spd_bench.store import records, sealed
from spd_bench.store.removal import TEMPORARY, is_own_folder, own_files, remove_own


def size_of(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache."""

    key: str
    """Name of the folder: the first digits of the hash of its record's identity."""
    folder: Path
    """Path of the folder."""
    what: str
    """Encoder, input size and kind of views, for people; says so if the record cannot be read."""
    data: str
    """Description of the data set; empty if the record cannot be read."""
    suites: tuple[str, ...]
    """Names of the suites that used the folder, sorted."""
    views: int
    """Number of stored views."""
    bytes: int
    """Size of the shards on disk in bytes."""
    last_used: float
    """Time of the last use, in seconds since 1970 (UTC)."""


Tell = Callable[[CacheEntry], None]


@dataclass(frozen=True)
class Removal:
    """What `FeatureCache` removed, and what it left because a process uses it."""

    removed: tuple[CacheEntry, ...]
    """Folders that are deleted."""
    in_use: tuple[CacheEntry, ...]
    """Folders that stay because a process uses them."""


class FeatureCache:
    """The folder of all features: what lies there, whether it is whole, and making room."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[CacheEntry]:
        """Every folder of features, the one used last first; links and folders of others are none."""
        if self.root.is_symlink():
            raise ConfigError(
                f"this is a link to {os.readlink(self.root)}",
                where=str(self.root),
                hint="--runs names the folder above the features themselves",
            )
        folders = sorted(self.root.iterdir()) if self.root.is_dir() else []
        found = [_entry(folder) for folder in folders if _is_own(folder)]
        return sorted(found, key=lambda entry: (-entry.last_used, entry.key))

    def find(self, key: str) -> CacheEntry:
        """The entry whose key begins so; ConfigError if there is none or several, or the key is empty."""
        if not key.strip():
            raise ConfigError("the key is empty", where=str(self.root), hint="`spd-bench cache ls` lists the keys")
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
        shards = [shard for entry in entries for shard in own_files(entry.folder, [SHARD])]
        damaged = []
        for done, shard in enumerate(shards, start=1):
            if not _is_whole(shard):
                damaged.append(shard)
            on_shard(done, len(shards))
        return damaged

    def remove(self, key: str, *, tell: Tell = lambda entry: None) -> CacheEntry:
        """Removes the entry whose key begins so; BusyError where a process builds it or reads from it.

        tell: here and below gets each entry before it is removed.
        """
        entry = self.find(key)
        if not _remove(entry, tell):
            raise BusyError("a process builds it or reads from it", where=str(entry.folder))
        return entry

    def remove_all(self, *, tell: Tell = lambda entry: None) -> Removal:
        """Removes every entry that no process uses."""
        return _remove_each(self.entries(), tell)

    def remove_older(self, days: float, *, tell: Tell = lambda entry: None) -> Removal:
        """Removes what was last used longer ago, and is not in use."""
        found = [entry for entry in self.entries() if time.time() - entry.last_used > days * 86400]
        return _remove_each(found, tell)

    def remove_to(self, limit_bytes: float, *, tell: Tell = lambda entry: None) -> Removal:
        """Removes what was used longest ago and is not in use, until the rest takes no more than this."""
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        removed: list[CacheEntry] = []
        in_use: list[CacheEntry] = []
        for entry in reversed(entries):
            if total <= limit_bytes:
                break
            if _remove(entry, tell):
                removed.append(entry)
                total -= entry.bytes
            else:
                in_use.append(entry)
        return Removal(tuple(removed), tuple(in_use))


def _entry(folder: Path) -> CacheEntry:
    shards = own_files(folder, [SHARD])
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


def _is_own(folder: Path) -> bool:
    """Whether a folder has the mark of features: its name is the key of what its record, or a shard, says it holds."""
    if not is_own_folder(folder) or not own_files(folder, [re.escape(ABOUT)]):
        return False
    about = FeaturesRecord.read(folder)
    if about is not None and records.sha256(about.identity)[:KEY_DIGITS] == folder.name:
        return True
    marks = [_mark(shard) for shard in own_files(folder, [SHARD])]
    return any(mark is not None and mark[1][:KEY_DIGITS] == folder.name for mark in marks)


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


def _remove_each(entries: Sequence[CacheEntry], tell: Tell) -> Removal:
    outcomes = [(entry, _remove(entry, tell)) for entry in entries]
    return Removal(
        tuple(entry for entry, gone in outcomes if gone), tuple(entry for entry, gone in outcomes if not gone)
    )


def _remove(entry: CacheEntry, tell: Tell) -> bool:
    """Deletes a folder unless a process uses it. What describes it goes last, so that a rest still shows."""
    lock = lock_of(entry.folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if not _is_own(entry.folder) or in_use(entry.folder):
            return False
        tell(entry)
        remove_own(entry.folder, [SHARD, TEMPORARY, USE, re.escape(ABOUT)])
    finally:
        lock.release()
    return True
