"""Frozen features that a run reads from the cache on disk (`data.feature_shelf`) in place of encoding images."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spd_bench.api import SPLITS, Encoder, Features
from spd_bench.data.features.cache import FeatureCache, size_of
from spd_bench.data.features.shards import Half, view_bytes
from spd_bench.data.features.shelf import Pass, Shelf
from spd_bench.data.resizing import WORDS
from spd_bench.data.views import FrozenFeatures, View, Views
from spd_bench.errors import ResourceError
from spd_bench.store import sealed

FORMAT = 1
"""Raise it when the same key would stand for other features, or a shard would hold other views."""


class StoredFeatures(FrozenFeatures):
    """Features of views from the cache on disk: rounded to float16, given as float32.

    The plain views of frames lie on one shelf, augmented ones on another, so that suites which differ in augmentation
    share what they score. Reading a view calls no encoder, unless its shard is missing or damaged.
    """

    def __init__(
        self,
        encoder: Encoder,
        root: Path,
        identity: Mapping[str, Any],
        views: Views,
        *,
        device: torch.device,
        suite: str,
    ) -> None:
        """root: the cache. identity: encoder with weights, data and input size. suite: its name, for people."""
        super().__init__(encoder, limit_bytes=0)
        self.root = root
        self.what = f"{identity['encoder']['encoder']['use']} on {views.data.describe()}"
        augmentation = views.augmentation.model_dump(mode="json", exclude={"enabled", "views"})
        common = {"format": FORMAT, "type": "float16", "resize": WORDS[views.resampling], **identity}
        self._plain, self._augmented = (
            Shelf(root, {**common, "views": shown}, views, encoder, device=device, suite=suite)
            for shown in ("as they are", {"augmented": augmentation})
        )
        self._place = {
            frame.frame: (split, position)
            for split in SPLITS
            for position, frame in enumerate(views.data.frames(split))
        }

    def of(self, views: Sequence[View], images_B3HW: Tensor) -> Features:
        """Features of these views; of their images only the device matters."""
        device = images_B3HW.device
        carried = torch.float32 if device.type == "cpu" else torch.float16  # half as much to send to another device
        maps = [torch.empty(len(views), *shape, dtype=carried) for shape in self._shelf(views[0]).shapes]
        for row, view in enumerate(views):
            for map_BHWC, half_HWC in zip(maps, self._read(view), strict=True):
                map_BHWC[row] = torch.from_numpy(half_HWC)
        first, second, third, fourth = (map_BHWC.to(device).float() for map_BHWC in maps)
        return Features((first, second, third, fourth))

    def _read(self, view: View) -> list[Half]:
        split, position = self._place[view.frame]
        return self._shelf(view).read(Pass(split, view.seed, view.number), position)

    def _shelf(self, one: Pass | View) -> Shelf:
        return self._plain if one.number < 0 else self._augmented

    def shelves(self, passes: Collection[Pass]) -> dict[Shelf, list[Pass]]:
        """Where these passes lie, in a fixed order."""
        found: dict[Shelf, list[Pass]] = {}
        for one in sorted(passes):
            found.setdefault(self._shelf(one), []).append(one)
        return found


Wanted = Mapping[StoredFeatures, Collection[Pass]]
"""What a run will read."""


@dataclass(frozen=True)
class Foreseen:
    """What building one folder takes, before it starts."""

    what: str
    """Encoder and data set, for people."""
    folder: Path
    """Folder that the features are built in."""
    views: int
    """Number of views that the run reads."""
    missing: int
    """Number of these views that are not stored yet."""
    view_bytes: int
    """Size of one view in bytes."""

    @property
    def bytes_needed(self) -> int:
        """Disk that it will still take."""
        return self.missing * self.view_bytes

    def __str__(self) -> str:
        there = f", {self.views - self.missing} of them there" if self.missing < self.views else ""
        return (
            f"frozen features of {self.what}: {self.views} views × {self.view_bytes / 1e6:.2f} MB{there}; "
            f"{size_of(self.bytes_needed)} to build in {self.folder}"
        )


def foresee(wanted: Wanted) -> list[Foreseen]:
    """What building takes, folder by folder; the folders are from now on in use by this process."""
    found = []
    for features, passes in wanted.items():
        for shelf, some in features.shelves(passes).items():
            shelf.hold()
            views, missing = shelf.count(some)
            found.append(Foreseen(features.what, shelf.folder, views, missing, view_bytes(shelf.shapes)))
    return found


def build(
    wanted: Wanted,
    *,
    limit_gb: float | None,
    workers: int,
    tell: Callable[[str], None],
    on_view: Callable[[int, int], None],
) -> None:
    """Builds what is missing, after telling the size of each folder that lacks something.

    limit_gb: what the whole cache may take. workers: processes that read images. on_view(done, total) is called as
    views are encoded. Raises ResourceError, before anything is encoded, where the limit or the disk is too small.
    """
    foreseen = foresee(wanted)
    if not any(one.missing for one in foreseen):
        return
    for one in foreseen:
        if one.missing:
            tell(str(one))
    total = sum(one.views for one in foreseen)
    _require_room(next(iter(wanted)).root, sum(one.bytes_needed for one in foreseen), limit_gb)
    done = total - sum(one.missing for one in foreseen)

    def on_done(count: int) -> None:
        nonlocal done
        done += count
        on_view(done, total)

    for features, passes in wanted.items():
        for shelf, some in features.shelves(passes).items():
            shelf.build(some, workers=workers, on_done=on_done)


def _require_room(root: Path, needed: int, limit_gb: float | None) -> None:
    there = sum(entry.bytes for entry in FeatureCache(root).entries())
    if limit_gb is not None and there + needed > limit_gb * 1e9:
        raise ResourceError(
            f"the feature cache would take {size_of(there + needed)}, data.cache_limit_gb allows {limit_gb:g} GB",
            where=str(root),
            hint="make room with `spd-bench cache rm`, raise the limit, or use data.cache: memory",
        )
    hint = "make room, perhaps with `spd-bench cache rm`, or use data.cache: memory"
    sealed.require_space(root, needed, what="the feature cache", hint=hint)
