"""Views of frames, and their frozen features, held in memory while they come again.

A view is a frame as it is, or as augmentation number n of one seed shows it. What a view looks like is a function of
its name, so holding one changes no number.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from cachetools import LRUCache
from torch import Tensor

from spd_bench.api import AspectKept, DepthDataset, Encoder, Features, FrameId, Resampling
from spd_bench.data.augment import augment
from spd_bench.data.randomness import generator
from spd_bench.data.resizing import resized
from spd_bench.suite.schema import Augment

VIEWS_BYTES = 3 * 2**29
FEATURES_BYTES = 3 * 2**30


class View(NamedTuple):
    """Name of a view: a frame as it is, or one augmentation of it."""

    frame: str
    """Name of the frame."""
    seed: int
    """Seed of the training run; -1 for the frame as it is."""
    number: int
    """Which augmentation of this seed; -1 for the frame as it is."""
    again: bool
    """Whether the view may come again, so that it is worth holding."""


class Seen(NamedTuple):
    """What a view shows: the network's input and the depth."""

    image_3HW: Tensor
    """Input of the network as `resized` gives it, [3, H, W] in [0, 1]."""
    depth_m_HW: Any
    """Depth in metres at frame size, [H, W], 0 where unknown."""


class Views:
    """Views of a data set's frames, prepared for one kind of network input."""

    def __init__(
        self,
        data: DepthDataset,
        *,
        image_size: tuple[int, int] | AspectKept,
        augmentation: Augment,
        resampling: Resampling = "antialiased",
        limit_bytes: int = VIEWS_BYTES,
    ) -> None:
        """image_size: rows and columns of the input, or the rule that gives them for each frame."""
        self.data = data
        self.image_size = image_size
        self.augmentation = augmentation
        self.resampling: Resampling = resampling
        self.limit_bytes = limit_bytes
        self._held: LRUCache[View, Seen] = LRUCache(limit_bytes, getsizeof=_bytes_seen)

    @staticmethod
    def plain(frame: FrameId) -> View:
        """The frame as it is, the same for every seed."""
        return View(frame.frame, -1, -1, again=True)

    def training(self, frame: FrameId, *, seed: int, epoch: int) -> View:
        """The view that an epoch shows of a frame."""
        if not self.augmentation.enabled:
            return self.plain(frame)
        views = self.augmentation.views
        return View(frame.frame, seed, epoch % views if views else epoch, again=views > 0)

    @property
    def always_new(self) -> bool:
        """Whether every epoch shows views that do not come again."""
        return self.augmentation.always_new

    def see(self, frame: FrameId, view: View) -> Seen:
        """The view's image and depth; DataError from the data set for a frame that cannot be read."""
        seen = self._held.get(view)
        if seen is None:
            seen = self._prepare(frame, view)
            _hold(self._held, view, seen)
        return seen

    def _prepare(self, frame_id: FrameId, view: View) -> Seen:
        frame = self.data.read(frame_id)
        if view.number >= 0:
            frame = augment(frame, generator("augment", view.seed, view.number, view.frame), self.augmentation)
        size = self.image_size
        if isinstance(size, AspectKept):
            size = size.size(*frame.depth_m_HW.shape)
        return Seen(resized(frame.image_HW3, size, self.resampling), frame.depth_m_HW)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes start with nothing held."""
        return self.__dict__ | {"_held": LRUCache(self.limit_bytes, getsizeof=_bytes_seen)}


class FrozenFeatures:
    """Features of views. The encoder is frozen, so all models of a suite on the same encoder share them."""

    def __init__(self, encoder: Encoder, *, limit_bytes: int = FEATURES_BYTES) -> None:
        self.encoder = encoder
        self._held: LRUCache[View, Features] = LRUCache(limit_bytes, getsizeof=_bytes_features)

    @torch.no_grad()
    def of(self, views: Sequence[View], images_B3HW: Tensor) -> Features:
        """Features of these views from their images in [0, 1]; only those not held are encoded."""
        new = [i for i, view in enumerate(views) if view not in self._held]
        found = {view: self._held[view] for view in views if view in self._held}
        if new:
            encoded = self.encoder(images_B3HW[new])
            found |= {views[i]: _one(encoded, j) for j, i in enumerate(new)}
        for i in new:
            _hold(self._held, views[i], found[views[i]])
        maps = [torch.cat([found[view].maps_BHWC[layer] for view in views]) for layer in range(4)]
        return Features((maps[0], maps[1], maps[2], maps[3]))


def _hold(held: "LRUCache[View, Any]", view: View, value: Any) -> None:
    """Keeps what comes again and fits."""
    if view.again and held.getsizeof(value) <= held.maxsize:
        held[view] = value


def _bytes_seen(seen: Seen) -> int:
    return seen.image_3HW.nbytes + int(seen.depth_m_HW.nbytes)


def _bytes_features(features: Features) -> int:
    return sum(m.numel() * m.element_size() for m in features.maps_BHWC)


def _one(features: Features, index: int) -> Features:
    maps = [m[index : index + 1].clone() for m in features.maps_BHWC]
    return Features((maps[0], maps[1], maps[2], maps[3]))
