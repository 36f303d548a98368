"""Training batches and scored images, each a pure function of (seed, step) or (seed, frame).

Every composition of a suite therefore sees the same images, the same augmentation and the same queries, and their
comparison is paired. `FrozenFeatures` encodes a view of a frame at most once per process.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId
from spd_bench.data.augment import augment
from spd_bench.data.queries import evaluation_queries
from spd_bench.data.randomness import generator
from spd_bench.errors import DataError
from spd_bench.geometry import pixel_to_unit
from spd_bench.protocol import Protocol
from spd_bench.suite import Augment

View = tuple[str, int, int]
"""A frame, and the seed and number of its augmented view; (-1, -1) is the frame as it is."""


def plain_view(frame: FrameId) -> View:
    """The frame without augmentation, the same for every seed."""
    return (frame.frame, -1, -1)


def to_network(image_HW3: Any, image_size: tuple[int, int]) -> Tensor:
    """The encoder's input [3, H, W] in [0, 1]: resized to (H, W) with an antialiased bicubic filter (R-23)."""
    height, width = image_size
    resized = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255


def unit_points(uv_img_K2: Any, depth_m_HW: Any) -> Tensor:
    """Queried pixels as points of the unit square, float32 [K, 2] (R-03)."""
    height, width = depth_m_HW.shape
    uv = torch.from_numpy(np.ascontiguousarray(uv_img_K2)).double()
    return pixel_to_unit(uv, width=width, height=height).float()


class HeldFrames:
    """A data set whose decoded frames stay in memory, least recently read ones dropped beyond `limit`."""

    def __init__(self, data: DepthDataset, *, limit: int = 400) -> None:
        self.data = data
        self._read = lru_cache(maxsize=limit)(data.read)

    def read(self, frame: FrameId) -> Frame:
        """One frame."""
        return self._read(frame)

    def __getstate__(self) -> DepthDataset:
        """Worker processes start with nothing held."""
        return self.data

    def __setstate__(self, data: DepthDataset) -> None:
        HeldFrames.__init__(self, data)


@dataclass(frozen=True)
class Batch:
    """One training step's images (network input) and queries in the unit square with their true depth in metres."""

    views: tuple[View, ...]
    images_B3HW: Tensor
    xy_BK2: Tensor
    depth_m_BK: Tensor


@dataclass(frozen=True, kw_only=True)
class BatchPlan(Dataset[Batch]):
    """Step → batch. Queries are drawn anew in every epoch, augmented views come again after `augmentation.views`."""

    data: HeldFrames
    frames: Sequence[FrameId]
    image_size: tuple[int, int]
    sampler: Any
    augmentation: Augment
    batch_size: int
    queries: int
    seed: int
    steps: int

    def __len__(self) -> int:
        """Number of steps."""
        return self.steps

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass over the frames; the rest of an epoch's order is dropped."""
        return len(self.frames) // self.batch_size

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = generator("order", self.seed, epoch).permutation(len(self.frames))
        chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
        return _stack([self._item(self.frames[i], epoch) for i in chosen])

    def _item(self, frame_id: FrameId, epoch: int) -> Batch:
        frame = self.data.read(frame_id)
        view = plain_view(frame_id)
        if self.augmentation.enabled:
            views = self.augmentation.views
            view = (frame_id.frame, self.seed, epoch % views if views else epoch)
            frame = augment(frame, generator("augment", self.seed, view[2], frame_id.frame), self.augmentation)
        uv_K2 = self._queries(frame, frame_id, epoch)
        depth_m_K = torch.from_numpy(frame.depth_m_HW[uv_K2[:, 1], uv_K2[:, 0]].astype(np.float32))
        image = to_network(frame.image_HW3, self.image_size)
        return Batch((view,), image, unit_points(uv_K2, frame.depth_m_HW), depth_m_K)

    def _queries(self, frame: Frame, frame_id: FrameId, epoch: int) -> Any:
        rng = generator("queries", self.seed, epoch, frame_id.frame)
        try:
            return self.sampler.sample(frame.depth_m_HW, self.queries, rng)
        except DataError as error:
            raise error.at(f"frame {frame_id.frame}") from None

    def loader(self, *, first: int, workers: int) -> Iterator[Batch]:
        """Batches of steps first … steps − 1, prepared by `workers` processes."""
        return iter(DataLoader(self, batch_size=None, sampler=range(first, self.steps), num_workers=workers))


def _stack(items: Sequence[Batch]) -> Batch:
    return Batch(
        tuple(view for item in items for view in item.views),
        torch.stack([item.images_B3HW for item in items]),
        torch.stack([item.xy_BK2 for item in items]),
        torch.stack([item.depth_m_BK for item in items]),
    )


class FrozenFeatures:
    """Features of views that were encoded before in this process, least recently used ones dropped.

    The encoder is frozen, so that all compositions of a suite can share them.
    """

    def __init__(self, encoder: Encoder, *, limit_bytes: int = 2 * 2**30) -> None:
        self.encoder = encoder
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[View, Features] = OrderedDict()
        self._bytes = 0

    @torch.no_grad()
    def of(self, views: Sequence[View], images_B3HW: Tensor) -> Features:
        """Features of these views; only those not held are encoded."""
        new = [i for i, view in enumerate(views) if view not in self._held]
        fresh: dict[View, Features] = {}
        if new:
            encoded = self.encoder(images_B3HW[new])
            fresh = {views[i]: _slice(encoded, j) for j, i in enumerate(new)}
        parts = [fresh[view] if view in fresh else self._use(view) for view in views]
        for view, features in fresh.items():
            self._hold(view, features)
        maps = [torch.cat([part.maps_BHWC[layer] for part in parts]) for layer in range(4)]
        return Features((maps[0], maps[1], maps[2], maps[3]))

    def _use(self, view: View) -> Features:
        self._held.move_to_end(view)
        return self._held[view]

    def _hold(self, view: View, features: Features) -> None:
        size = sum(m.numel() * m.element_size() for m in features.maps_BHWC)
        if size > self.limit_bytes:
            return
        self._held[view] = features
        self._bytes += size
        while self._bytes > self.limit_bytes:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= sum(m.numel() * m.element_size() for m in dropped.maps_BHWC)


def _slice(features: Features, index: int) -> Features:
    maps = [m[index : index + 1].clone() for m in features.maps_BHWC]
    return Features((maps[0], maps[1], maps[2], maps[3]))


@dataclass(frozen=True)
class ScoredImage:
    """One image of an evaluation with its query points, the same for every method (R-26).

    draw_P: which random draw each point belongs to; draw 0 holds max(K) nested points, the others one each (K = 1).
    """

    frame: FrameId
    image_3HW: Tensor
    uv_img_P2: Any
    xy_P2: Tensor
    truth_m_P: Any
    draw_P: Any
    valid_xy_V2: Tensor
    valid_depth_m_V: Tensor


@dataclass(frozen=True, kw_only=True)
class ScoredImages(Dataset[ScoredImage]):
    """The images of a split with their scored points."""

    data: HeldFrames
    frames: Sequence[FrameId]
    image_size: tuple[int, int]
    protocol: Protocol
    max_k: int
    k1_draws: int
    seed: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.frames)

    def __getitem__(self, index: int) -> ScoredImage:
        """One image; DataError if fewer valid pixels than queries."""
        frame_id = self.frames[index]
        frame = self.data.read(frame_id)
        where = f"frame {frame_id.frame}"
        valid_HW = self.protocol.valid(frame.depth_m_HW, where=where)
        counts = [self.max_k] + [1] * (self.k1_draws - 1)
        try:
            draws = [
                evaluation_queries(valid_HW, count=count, seed=self.seed, frame=frame_id.frame, draw=draw)
                for draw, count in enumerate(counts)
            ]
        except DataError as error:
            raise error.at(where) from None
        uv_P2 = np.concatenate(draws)
        all_uv_V2 = np.argwhere(valid_HW)[:, ::-1]
        return ScoredImage(
            frame=frame_id,
            image_3HW=to_network(frame.image_HW3, self.image_size),
            uv_img_P2=uv_P2,
            xy_P2=unit_points(uv_P2, frame.depth_m_HW),
            truth_m_P=frame.depth_m_HW[uv_P2[:, 1], uv_P2[:, 0]].astype(np.float32),
            draw_P=np.repeat(np.arange(len(counts)), counts),
            valid_xy_V2=unit_points(all_uv_V2, frame.depth_m_HW),
            valid_depth_m_V=torch.from_numpy(frame.depth_m_HW[valid_HW].astype(np.float32)),
        )
