"""Training batches and scored images, each a pure function of (seed, step) or (seed, frame).

Every composition of a suite therefore sees the same images, the same augmentation and the same queries, and their
comparison is paired.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spd_bench.api import FrameId
from spd_bench.data.processes import items
from spd_bench.data.queries import evaluation_queries
from spd_bench.data.randomness import generator
from spd_bench.data.views import View, Views
from spd_bench.errors import DataError
from spd_bench.geometry import pixel_to_unit
from spd_bench.protocol import Protocol


def unit_points(uv_img_K2: Any, depth_m_HW: Any) -> Tensor:
    """Queried pixels as points of the unit square, float32 [K, 2] (R-03)."""
    height, width = depth_m_HW.shape
    uv = torch.from_numpy(np.ascontiguousarray(uv_img_K2)).double()
    return pixel_to_unit(uv, width=width, height=height).float()


@dataclass(frozen=True)
class Batch:
    """One training step: images, query points and their true depth."""

    views: tuple[View, ...]
    """Name of the view that each image shows, B of them."""
    images_B3HW: Tensor
    """Network inputs as `resized` returns them: uint8, or float32 with 1 as full intensity."""
    xy_BK2: Tensor
    """Query points in the unit square (x, y), float32."""
    depth_m_BK: Tensor
    """True depth at the query points in metres, float32."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan(Dataset[Batch]):
    """Step → batch. Queries are drawn anew in every epoch; views may come again (`Augment.views`)."""

    views: Views
    """Reads and augments the frames."""
    frames: Sequence[FrameId]
    """Frames of the training split; every epoch orders them anew."""
    sampler: Any
    """Component that draws query pixels: `sample(depth_m_HW, count, rng)` returns (u, v), int [K, 2]."""
    batch_size: int
    """Images per batch."""
    queries: int
    """Query points per image (K)."""
    seed: int
    """Seed of the order, the augmentation and the queries."""
    steps: int
    """Number of batches of the whole training."""

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

    def _item(self, frame: FrameId, epoch: int) -> Batch:
        view = self.views.training(frame, seed=self.seed, epoch=epoch)
        image_3HW, depth_m_HW = self.views.see(frame, view)
        uv_K2 = self._queries(depth_m_HW, frame, epoch)
        depth_m_K = torch.from_numpy(depth_m_HW[uv_K2[:, 1], uv_K2[:, 0]].astype(np.float32))
        return Batch((view,), image_3HW, unit_points(uv_K2, depth_m_HW), depth_m_K)

    def _queries(self, depth_m_HW: Any, frame: FrameId, epoch: int) -> Any:
        rng = generator("queries", self.seed, epoch, frame.frame)
        try:
            return self.sampler.sample(depth_m_HW, self.queries, rng)
        except DataError as error:
            raise error.at(f"frame {frame.frame}") from None

    def loader(self, *, first: int, workers: int) -> Iterator[Batch]:
        """Batches of steps first … steps − 1, prepared by `workers` processes."""
        return items(self, order=range(first, self.steps), workers=workers)


def _stack(items: Sequence[Batch]) -> Batch:
    return Batch(
        tuple(view for item in items for view in item.views),
        torch.stack([item.images_B3HW for item in items]),
        torch.stack([item.xy_BK2 for item in items]),
        torch.stack([item.depth_m_BK for item in items]),
    )


@dataclass(frozen=True)
class ScoredImage:
    """One image of an evaluation with its query points, the same for every method (R-26).

    Letters: P query points of all draws, V valid pixels of the frame.
    """

    frame: FrameId
    """Name of the frame, and its scene."""
    view: View
    """Name of the view: the frame as it is, without augmentation."""
    image_3HW: Tensor
    """Network input as `resized` returns it: uint8, or float32 with 1 as full intensity."""
    uv_img_P2: Any
    """Query pixels (u, v) of the frame, int64."""
    xy_P2: Tensor
    """The same points in the unit square (x, y), float32."""
    truth_m_P: Any
    """True depth at the query pixels in metres, float32."""
    draw_P: Any
    """Random draw of each point, int64: draw 0 holds max(K) nested points, every other draw one point (K = 1)."""
    valid_xy_V2: Tensor
    """Every valid pixel inside the protocol's crop as a point of the unit square, float32."""
    valid_depth_m_V: Tensor
    """True depth at these pixels in metres, float32."""
    frame_size: tuple[int, int]
    """Rows and columns of the frame, before it is resized to the network's input."""


@dataclass(frozen=True, kw_only=True)
class ScoredImages(Dataset[ScoredImage]):
    """The images of a split with their scored points."""

    views: Views
    """Reads the frames."""
    frames: Sequence[FrameId]
    """Frames of the split, in the order in which they are scored."""
    protocol: Protocol
    """Decides which pixels are valid."""
    max_k: int
    """Query points of draw 0, the largest K that is scored."""
    k1_draws: int
    """Number of draws that score K = 1; draw 0 is one of them."""
    seed: int
    """Seed of the query points."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.frames)

    def __getitem__(self, index: int) -> ScoredImage:
        """One image; DataError if fewer valid pixels than queries."""
        frame = self.frames[index]
        view = self.views.plain(frame)
        image_3HW, depth_m_HW = self.views.see(frame, view)
        where = f"frame {frame.frame}"
        valid_HW = self.protocol.valid(depth_m_HW, where=where)
        counts = [self.max_k] + [1] * (self.k1_draws - 1)
        try:
            draws = [
                evaluation_queries(valid_HW, count=count, seed=self.seed, frame=frame.frame, draw=draw)
                for draw, count in enumerate(counts)
            ]
        except DataError as error:
            raise error.at(where) from None
        uv_P2 = np.concatenate(draws)
        return ScoredImage(
            frame=frame,
            view=view,
            image_3HW=image_3HW,
            uv_img_P2=uv_P2,
            xy_P2=unit_points(uv_P2, depth_m_HW),
            truth_m_P=depth_m_HW[uv_P2[:, 1], uv_P2[:, 0]].astype(np.float32),
            draw_P=np.repeat(np.arange(len(counts)), counts),
            valid_xy_V2=unit_points(np.argwhere(valid_HW)[:, ::-1], depth_m_HW),
            valid_depth_m_V=torch.from_numpy(depth_m_HW[valid_HW].astype(np.float32)),
            frame_size=depth_m_HW.shape,
        )
