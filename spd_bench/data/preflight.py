"""Every frame is read once before anything is trained: a corrupt file should not be found after hours."""

from collections.abc import Callable
from typing import Any

import numpy as np

from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.errors import DataError
from spd_bench.protocol import Protocol

SHOWN = 10
"""Problems that are listed; the rest are counted."""


def check_frames(
    data: DepthDataset, protocol: Protocol, *, queries: int, max_k: int, on_frame: Callable[[int, int], None]
) -> None:
    """Reads every frame of every split and counts its valid pixels.

    Raises DataError listing the frames that cannot be read, have fewer valid pixels than training asks for (`queries`),
    or, in val and test, fewer inside the protocol's crop than are scored (`max_k`). Raises it too for an empty split.
    """
    frames = [(split, frame) for split in SPLITS for frame in data.frames(split)]
    empty = [split for split in SPLITS if not data.frames(split)]
    if empty:
        raise DataError(f"no frames in split {', '.join(empty)}", where=data.describe(), hint="use more frames")
    problems = []
    for done, (split, frame) in enumerate(frames, start=1):
        try:
            _check(data.read(frame), frame, split, protocol, queries=queries, max_k=max_k)
        except DataError as error:
            problems.append(error)
        on_frame(done, len(frames))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [str(problem).replace("\n", " ") for problem in problems[:SHOWN]]
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "\n  ".join(["", *lines, *more])
        raise DataError(f"{len(problems)} of {len(frames)} frames cannot be used:{listed}")


def _check(frame: Frame, name: FrameId, split: str, protocol: Protocol, *, queries: int, max_k: int) -> None:
    depth_m_HW: Any = frame.depth_m_HW
    where = f"frame {name.frame}"
    if split == "train":
        counted, asked, option = int(np.count_nonzero(depth_m_HW > 0)), queries, "train.queries"
    else:
        counted, asked, option = int(protocol.valid(depth_m_HW, where=where).sum()), max_k, "the largest eval.k"
    if counted < asked:
        raise DataError(
            f"has {counted} valid pixels, {option} asks for {asked}",
            where=where,
            hint=f"lower {option}, or drop the frame",
        )
