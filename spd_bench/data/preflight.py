"""Opening the data that a user points at, and reading every frame once before anything is trained.

A corrupt file should not be found after hours.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.data.plausible import Plausibility
from spd_bench.errors import ConfigError, DataError
from spd_bench.protocol import Protocol
from spd_bench.suite.checks import check_options, load_component
from spd_bench.suite.load import recognised
from spd_bench.suite.schema import Choice

log = logging.getLogger(__name__)

SHOWN = 10
"""Problems that are listed; the rest are counted."""


def layout_of(path: Path, dataset: str | None) -> str:
    """Name of the data set component for what lies at `path`: `dataset` if it is given, else the one that knows it.

    Raises DataError if there is nothing at `path`, or if none or several know it.
    """
    return dataset or recognised(path, where=str(path), hint="choose with --dataset NAME")


def open_dataset(name: str, path: Path, options: Mapping[str, Any]) -> DepthDataset:
    """The data set `name` with its root at `path`.

    Raises ConfigError for an unknown name or option and for a data set that takes no root, and what the data set
    itself raises for its files.
    """
    choice = Choice(use=name, options={**options, "root": str(path)})
    component = load_component(choice, "dataset")
    if "root" not in component.Config.model_fields:
        raise ConfigError(f'data set "{name}" is not read from a path', hint="choose another with --dataset NAME")
    data: DepthDataset = component(check_options(choice, "dataset"))
    return data


def check_frames(
    data: DepthDataset,
    protocol: Protocol,
    *,
    queries: int,
    max_k: int,
    on_frame: Callable[[int, int], None],
    splits: Sequence[str] = SPLITS,
) -> list[str]:
    """Reads every frame of the splits that are needed, counts its valid pixels, and returns what tables must say.

    That is a picture in two splits, which is logged too.

    Raises DataError listing the frames that cannot be read, have fewer valid pixels than training asks for (`queries`),
    or, in val and test, fewer inside the protocol's crop than are scored (`max_k`). Raises it too for an empty split,
    and where the unit is assumed and depth does not look like rooms in it.
    """
    frames = [(split, frame) for split in splits for frame in data.frames(split)]
    empty = [split for split in splits if not data.frames(split)]
    if empty:
        alone = "test frames alone score rows that train nothing (--only NAME), or are named as data.test"
        hint = alone if "test" not in empty else "use more frames"
        raise DataError(f"no frames in split {', '.join(empty)}", where=data.describe(), hint=hint)
    problems = []
    seen = Plausibility(data.units_per_metre, bool(data.assumed), protocol.max_m)
    for done, (split, frame) in enumerate(frames, start=1):
        try:
            read = data.read(frame)
            seen.add(split, frame.frame, frame.scene, read.image_HW3, read.depth_m_HW)
            _check(read, frame, split, protocol, queries=queries, max_k=max_k)
        except DataError as error:
            problems.append(error)
        on_frame(done, len(frames))
    _refuse_implausible(seen, data)  # which may be why frames have too few pixels
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = [str(problem).replace("\n", " ") for problem in problems[:SHOWN]]
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        listed = "\n  ".join(["", *lines, *more])
        raise DataError(f"{len(problems)} of {len(frames)} frames cannot be used:{listed}")
    return [finding.note for finding in seen.findings() if finding.is_problem and finding.of_pictures]


def _refuse_implausible(seen: Plausibility, data: DepthDataset) -> None:
    """Raises DataError for the first problem if the unit is assumed; logs what is known of pictures."""
    for finding in seen.findings():
        if finding.is_problem and finding.of_pictures:
            log.warning("%s; %s", finding.note, finding.error.hint)
        elif finding.is_problem and data.assumed:
            raise finding.error.at(data.describe())


def refuse_malformed(frame: Frame, where: str) -> None:
    """DataError unless RGB is uint8 [H, W, 3] and depth float32 [H, W], finite and not negative (`Frame`)."""
    image_HW3, depth_m_HW = np.asarray(frame.image_HW3), np.asarray(frame.depth_m_HW)
    expected = (np.dtype(np.uint8), (*depth_m_HW.shape, 3), np.dtype(np.float32), 2)
    if (image_HW3.dtype, image_HW3.shape, depth_m_HW.dtype, depth_m_HW.ndim) != expected:
        raise DataError(
            f"expected RGB as uint8 [H, W, 3] and depth as float32 [H, W], found {image_HW3.dtype} "
            f"{list(image_HW3.shape)} and {depth_m_HW.dtype} {list(depth_m_HW.shape)}",
            where=where,
            hint="the data set component breaks its contract: run spd_bench.testing.DatasetContract on it",
        )
    if not (depth_m_HW >= 0).all() or not np.isfinite(depth_m_HW).all():
        raise DataError(
            "expected depth in metres with 0 where it is unknown, found negative or infinite values or NaN",
            where=where,
            hint="the data set component must turn what means unknown in its files into 0",
        )


def drawn_from(frame: Frame, split: str, protocol: Protocol, *, where: str) -> int:
    """Number of pixels that queries of this split are drawn from: in val and test those inside the protocol's crop."""
    depth_m_HW: Any = frame.depth_m_HW
    if split == "train":
        return int(np.count_nonzero(depth_m_HW > 0))
    return int(np.count_nonzero(protocol.valid(depth_m_HW, where=where)))


def _check(frame: Frame, name: FrameId, split: str, protocol: Protocol, *, queries: int, max_k: int) -> None:
    where = f"frame {name.frame}"
    asked, option = (queries, "train.queries") if split == "train" else (max_k, "the largest eval.k")
    if (counted := drawn_from(frame, split, protocol, where=where)) < asked:
        raise DataError(
            f"has {counted} valid pixels, {option} asks for {asked}",
            where=where,
            hint=f"lower {option}, or drop the frame",
        )
