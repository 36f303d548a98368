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
    """One training step: images as `resized` gives them, queries in the unit square, their true depth in metres."""

    views: tuple[View, ...]
    images_B3HW: Tensor
    xy_BK2: Tensor
    depth_m_BK: Tensor


@dataclass(frozen=True, kw_only=True)
class BatchPlan(Dataset[Batch]):
    """Step → batch. Queries are drawn anew in every epoch; views may come again (`Augment.views`)."""

    views: Views
    frames: Sequence[FrameId]
    sampler: Any
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

    draw_P: which random draw each point belongs to; draw 0 holds max(K) nested points, the others one each (K = 1).
    frame_size: rows and columns of the frame, of which image_3HW is the network's input.
    """

    frame: FrameId
    view: View
    image_3HW: Tensor
    uv_img_P2: Any
    xy_P2: Tensor
    truth_m_P: Any
    draw_P: Any
    valid_xy_V2: Tensor
    valid_depth_m_V: Tensor
    frame_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ScoredImages(Dataset[ScoredImage]):
    """The images of a split with their scored points."""

    views: Views
    frames: Sequence[FrameId]
    protocol: Protocol
    max_k: int
    k1_draws: int
    seed: int

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
