"""Frozen features on disk, in float16: encoded once, shared by all models, suites and processes that name the same.

    <root>/<key>/                   one encoder, input size, data set and augmentation; <key> hashes all of that
        about.json                  what the key hashes, for people too; its time is when the folder was last used
        val-00000.h5                a shard (`data.feature_shards`): the first views of one pass over a split
        train-s0-v1-00003.h5        views of augmentation 1 under seed 0
        .use-*.lock                 held by a process that reads here
    <root>/.<key>.lock              held by the process that builds there

Shards are immutable, and published whole. Which views one holds follows from its name, so building goes on after the
shards that are there, whatever was killed. A shard that is missing or damaged when it is read is built again.
"""

import logging
import os
import platform
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import Dataset

from spd_bench.api import Encoder, FrameId
from spd_bench.data.features import shards
from spd_bench.data.features.shards import MAPS, Damaged, Half, Shapes, Shard, view_bytes
from spd_bench.data.processes import items
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import View, Views
from spd_bench.errors import ConfigError, StateError
from spd_bench.process.locks import acquire
from spd_bench.store import files, records
from spd_bench.store.removal import TEMPORARY, own_files, remove_own

log = logging.getLogger(__name__)

SHARD_VIEWS = 64
SHARD_BYTES = 64 * 2**20
"""Most views of a shard and, beyond one view, most bytes: they bound memory, and what a kill costs."""
ENCODED_TOGETHER = {"cuda": 8}
"""Images per call of the encoder, by device; one elsewhere, since on a CPU more are no faster. No call spans two
shards, so that a shard's bits do not depend on what else is built."""
ABOUT = "about.json"
KEY_DIGITS = 16
SHARD = r"[^.].*-[0-9]{5}\.h5"
USE = r"\.use-[0-9]+-[0-9a-f]{8}\.lock"
"""Names of shards and of the marks of who reads, as regular expressions."""
GO_ON = "finished shards stay, the same command goes on from them"


class Pass(NamedTuple):
    """Every frame of a split, as it is (number −1) or as augmentation `number` of `seed` shows it."""

    split: str
    """Name of the split."""
    seed: int = -1
    """Seed of the augmentation; −1 for frames as they are."""
    number: int = -1
    """Number of the augmentation under the seed; −1 for frames as they are."""

    @property
    def name(self) -> str:
        """As shards are called."""
        return self.split if self.number < 0 else f"{self.split}-s{self.seed}-v{self.number}"


@dataclass(frozen=True, kw_only=True)
class FeaturesRecord:
    """What a folder of features records about itself."""

    identity: dict[str, Any]
    """What the folder's key hashes: encoder, weights, input size, data set and augmentation."""
    data: str
    """Description of the data set, for people."""
    suites: list[str]
    """Names of the suites that used the folder, sorted."""
    maps: Shapes
    """Rows, columns and channels of the four maps of a view."""
    bytes_per_view: int
    """Size of the four maps of one view in bytes."""
    versions: dict[str, str]
    """Versions of the packages that computed the first features, by package."""

    @classmethod
    def read(cls, folder: Path) -> "FeaturesRecord | None":
        """From a folder; None if it says nothing that makes sense."""
        try:
            about = cls(**(records.found_record(folder / ABOUT) or {}))
            maps = tuple((int(height), int(width), int(channels)) for height, width, channels in about.maps)
        except (ValueError, TypeError):
            return None
        kinds = (dict, str, list, dict)
        values = (about.identity, about.data, about.suites, about.versions)
        sound = len(maps) == len(MAPS) and all(isinstance(*pair) for pair in zip(values, kinds, strict=True))
        return replace(about, maps=maps) if sound else None


@dataclass(frozen=True)
class _Slot:
    """A shard, there or not: its file, what the file says that it is, and its views."""

    path: Path
    mark: str
    frames: Sequence[FrameId]
    of: Pass

    @property
    def names(self) -> list[str]:
        return [frame.frame for frame in self.frames]


class Shelf:
    """The features of one encoder, input size, data set and augmentation: one folder of the cache."""

    def __init__(
        self,
        root: Path,
        identity: Mapping[str, Any],
        views: Views,
        encoder: Encoder,
        *,
        device: torch.device,
        suite: str,
    ) -> None:
        key = records.sha256(identity)
        self.folder = root / key[:KEY_DIGITS]
        self.views = views
        self.encoder = encoder
        self.device = device
        self.suite = suite
        self._identity = dict(identity)
        self._key = key
        self._shapes: Shapes | None = None
        self._use: FileLock | None = None
        self._shards: dict[Path, Shard] = {}

    # what there is

    @property
    def shapes(self) -> Shapes:
        """Rows, columns and channels of the four maps; the encoder is asked once per folder, with one empty image."""
        if self._shapes is None:
            known = FeaturesRecord.read(self.folder)
            if known is not None and known.identity == self._identity:
                self._shapes = known.maps
            else:
                assert isinstance(self.views.image_size, tuple)  # an input of its own size is never cached on disk
                blank_3HW = torch.zeros(3, *self.views.image_size, dtype=torch.uint8)
                self._shapes = _shapes_of(self._encode([blank_3HW], ["blank"]))
        return self._shapes

    def count(self, passes: Collection[Pass]) -> tuple[int, int]:
        """Views of these passes, and how many of them are not there."""
        wanted = sum(len(self.views.data.frames(one.split)) for one in passes)
        return wanted, sum(len(slot.frames) for slot in self._missing(passes))

    def _missing(self, passes: Collection[Pass]) -> list[_Slot]:
        """Shards that are not there, in a fixed order."""
        there = {path.name for path in self.folder.glob("*.h5")}
        return [slot for one in sorted(passes) for slot in self._slots(one) if slot.path.name not in there]

    def _slots(self, one: Pass) -> list[_Slot]:
        frames = self.views.data.frames(one.split)
        step = self._views_per_shard()
        firsts = range(0, len(frames), step)
        return [self._slot(one, index, frames[first : first + step]) for index, first in enumerate(firsts)]

    def _views_per_shard(self) -> int:
        return max(1, min(SHARD_VIEWS, SHARD_BYTES // view_bytes(self.shapes)))

    def _slot(self, one: Pass, index: int, frames: Sequence[FrameId]) -> _Slot:
        name = f"{one.name}-{index:05d}"
        mark = f"spd-bench features {self._key}, {name} of {len(frames)} views"
        return _Slot(self.folder / f"{name}.h5", mark, frames, one)

    # reading

    def read(self, one: Pass, position: int) -> list[Half]:
        """The four maps [H, W, C] of one frame's view. A shard that is missing or damaged is built first.

        Raises StateError where it reads wrong all the same.
        """
        step = self._views_per_shard()
        index, row = divmod(position, step)
        path = self.folder / f"{one.name}-{index:05d}.h5"
        try:
            if path in self._shards:
                return self._shards[path].read(row)
        except Damaged:
            del self._shards[path]
        frames = self.views.data.frames(one.split)
        slot = self._slot(one, index, frames[index * step : (index + 1) * step])
        try:
            return self._opened(slot).read(row)
        except Damaged as damage:
            self._mend(slot, damage)
        try:
            return self._opened(slot).read(row)
        except Damaged as damage:
            raise StateError(
                f"built anew, and still {damage}", where=str(path), hint="the disk or its file system is failing"
            ) from damage

    def _opened(self, slot: _Slot) -> Shard:
        self.hold()
        self._shards[slot.path] = Shard.open(slot.path, slot.mark, slot.names, self.shapes)
        return self._shards[slot.path]

    def _mend(self, slot: _Slot, damage: Damaged) -> None:
        self._shards.pop(slot.path, None)
        with self._lock():
            if self._is_sound(slot):  # another process was faster
                return
            if slot.path.exists():
                log.warning("%s is damaged (%s): dropped, and built again", slot.path, damage)
                files.remove(slot.path)
            self._build([slot], workers=0, on_done=lambda count: None)

    def _is_sound(self, slot: _Slot) -> bool:
        try:
            Shard.open(slot.path, slot.mark, slot.names, self.shapes).check()
        except Damaged:
            return False
        return True

    # building

    def build(self, passes: Collection[Pass], *, workers: int, on_done: Callable[[int], None]) -> None:
        """Builds the shards that are missing, after waiting for a process that builds here.

        workers: processes that read images. on_done(count): `count` more views are encoded. Raises ResourceError for
        a disk that is full, ConfigError for features that float16 cannot hold.
        """
        self.hold()
        with self._lock():
            remove_own(self.folder, [TEMPORARY], folder_too=False)
            self._build(self._missing(passes), workers=workers, on_done=on_done)

    def _build(self, slots: Sequence[_Slot], *, workers: int, on_done: Callable[[int], None]) -> None:
        if not slots:
            return
        together = ENCODED_TOGETHER.get(self.device.type, 1)
        images = items(_Images(self.views, slots), workers=workers)
        for slot in slots:
            parts = []
            for first in range(0, len(slot.frames), together):
                names = slot.names[first : first + together]
                parts.append(self._encode([next(images) for _ in names], names))
                on_done(len(names))
            maps_NHWC = [np.concatenate(batches) for batches in zip(*parts, strict=True)]
            if (found := _shapes_of(maps_NHWC)) != self.shapes:
                raise StateError(
                    f"the encoder gives maps of {found}, the cache holds {self.shapes}",
                    where=str(self.folder),
                    hint=f"`spd-bench cache rm {self.folder.name}`; if the encoder changed, raise its version",
                )
            shards.write(slot.path, slot.mark, slot.names, maps_NHWC)

    @torch.no_grad()
    def _encode(self, images_3HW: Sequence[Tensor], names: Sequence[str]) -> list[Half]:
        """The four maps [B, H, W, C] of some images in float16."""
        maps_BHWC = self.encoder(unit_range(torch.stack(list(images_3HW)).to(self.device))).maps_BHWC
        halves: list[Half] = [m.half().cpu().contiguous().numpy() for m in maps_BHWC]
        for name, *values in zip(names, *halves, strict=True):
            if not all(np.isfinite(value).all() for value in values):
                raise ConfigError(
                    "float16 cannot hold its features",
                    where=f"frame {name}",
                    hint="keep them in memory, in float32, with data.cache: memory",
                )
        return halves

    # who is here

    def hold(self) -> None:
        """Marks the folder as in use by this process until it ends, and as used now by its suite."""
        if self._use is not None:
            return
        shapes = self.shapes
        with self._lock(), files.translate_os_errors(self.folder, hint="free some space"):
            files.make_folder(self.folder)
            known = FeaturesRecord.read(self.folder)
            about = FeaturesRecord(
                identity=self._identity,
                data=self.views.data.describe(),
                suites=sorted({*(known.suites if known else []), self.suite}),
                maps=shapes,
                bytes_per_view=view_bytes(shapes),
                versions=known.versions if known else {name: version(name) for name in ("spd-bench", "torch")},
            )
            records.write_record(self.folder / ABOUT, asdict(about))
            in_use(self.folder)  # clears what others left
            use = FileLock(self.folder / f".use-{os.getpid()}-{uuid.uuid4().hex[:8]}.lock")
            use.acquire(timeout=0)
            self._use = use

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Keeps other processes from building here; waits for one that does, and says which."""
        holder = self.folder.with_name(f".{self.folder.name}.holder")
        lock = lock_of(self.folder)
        with files.translate_os_errors(self.folder, hint="free some space"):
            files.make_folder(self.folder.parent)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.warning("waiting for %s, which builds frozen features in %s", _words_in(holder), self.folder)
                acquire(lock, "waiting for another process that builds features")
        try:
            files.write_text(holder, f"process {os.getpid()} on {platform.node()}")
            yield
        finally:
            lock.release()


class _Images(Dataset[Tensor]):
    """The images of all views of some shards, one after the other."""

    def __init__(self, views: Views, slots: Sequence[_Slot]) -> None:
        self.views = views
        self._names = [(frame, slot.of) for slot in slots for frame in slot.frames]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        frame, of = self._names[index]
        return self.views.see(frame, View(frame.frame, of.seed, of.number, again=True)).image_3HW


def lock_of(folder: Path) -> FileLock:
    """The lock of who builds; beside the folder, so that it stays when the folder goes."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def _words_in(holder: Path) -> str:
    """Who holds a lock, as far as that can be read."""
    try:
        return holder.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "another process"


def in_use(folder: Path) -> bool:
    """Whether a process reads there; only for who holds the lock. Marks of processes that ended are removed."""
    busy = False
    for path in own_files(folder, [USE]):
        mark = FileLock(path)
        try:
            mark.acquire(timeout=0)
        except Timeout:
            busy = True
        else:
            mark.release()
            files.remove(path)
    return busy


def _shapes_of(maps_NHWC: Sequence[Half]) -> Shapes:
    shapes = [(height, width, channels) for _, height, width, channels in (m.shape for m in maps_NHWC)]
    return tuple(shapes)
