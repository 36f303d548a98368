"""Points of frames as a JSONL file, in the form of published sampled-point benchmarks (DepthVLM-Bench, DepthLM).

One line per frame:

    {"image": "00045", "pixel_coords": [[column, row], ...], "depth": [metres, ...]}

`image` names the frame as files of predictions do (`names.match`), with or without an extension. Coordinates count
pixels of the frame from its upper left, depth is along the axis. `original_depth_size` [columns, rows], where it is
given, must be the frame's own. Other keys are ignored.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import FrameId
from spd_bench.data.batches import ScoredImages
from spd_bench.errors import DataError
from spd_bench.external.names import match
from spd_bench.external.tally import Tally
from spd_bench.score.judge import Judge
from spd_bench.store import files
from spd_bench.suite.schema import Suite

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
FORM = 'one line per frame: {"image": NAME, "pixel_coords": [[column, row], ...], "depth": [metres, ...]}'


@dataclass(frozen=True)
class Line:
    """Points of one frame, as the file has them."""

    index: int
    """Number of the frame in the test split."""
    uv_N2: NDArray[np.int64]
    """Pixels (column, row)."""
    depth_m_N: NDArray[np.float32]
    """Depth in metres at them: the truth, or an answer."""
    size: tuple[int, int] | None
    """Rows and columns that the coordinates count in, where the file says so."""
    where: str
    """File and line, for messages."""


def lines_of(path: Path, frames: Sequence[FrameId]) -> list[Line]:
    """The lines of a file that belong to test frames, in the order of the split. DataError for what is no such file."""
    parsed = []
    try:
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if text.strip():
                parsed.append(_parsed(text, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), hint="check the path") from error
    keys = [key for key, *_ in parsed]
    order = match(keys, frames, where=str(path), every=False).order
    return [Line(index, *parsed[place][1:]) for index, place in enumerate(order) if place >= 0]


def _parsed(text: str, where: str) -> tuple[str, NDArray[np.int64], NDArray[np.float32], tuple[int, int] | None, str]:
    try:
        line: Any = json.loads(text)
        key, uv_N2, depth_m_N = line["image"], np.array(line["pixel_coords"]), np.array(line["depth"], np.float32)
        width, height = line.get("original_depth_size", (None, None))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(f"expected a frame with its points, found {error!r}", where=where, hint=FORM) from error
    whole = uv_N2.dtype.kind in "iu" or (uv_N2.dtype.kind == "f" and bool((uv_N2 == np.round(uv_N2)).all()))
    if not isinstance(key, str) or uv_N2.ndim != 2 or uv_N2.shape[1] != 2 or not whole or not len(uv_N2):
        raise DataError(
            f"expected pixel_coords as pairs of whole numbers, found {uv_N2.dtype} of shape {list(uv_N2.shape)}",
            where=where,
            hint=FORM,
        )
    if depth_m_N.shape != (len(uv_N2),):
        raise DataError(
            f"expected {len(uv_N2)} depths for as many points, found {list(depth_m_N.shape)}", where=where, hint=FORM
        )
    if not (np.isfinite(depth_m_N) & (depth_m_N > 0)).all():
        raise DataError("expected positive, finite depths in metres", where=where, hint="leave other points out")
    size = (int(height), int(width)) if height is not None else None
    name = PurePosixPath(key)
    named = str(name.with_suffix("")) if name.suffix.lower() in SUFFIXES else key
    return named, uv_N2.astype(np.int64), depth_m_N, size, where


def checked_in(line: Line, frame: str, size: tuple[int, int]) -> None:
    """DataError for coordinates that count in another size than the frame's, or lie outside of it."""
    if line.size is not None and line.size != size:
        raise DataError(
            f"its coordinates count in {line.size[0]}×{line.size[1]}, frame {frame} is {size[0]}×{size[1]}",
            where=line.where,
            hint="give coordinates in pixels of the frame",
        )
    outside = (line.uv_N2 < 0).any(axis=1) | (line.uv_N2 >= size[::-1]).any(axis=1)
    if outside.any():
        raise DataError(
            f"point {line.uv_N2[outside][0].tolist()} lies outside frame {frame} of {size[0]}×{size[1]}",
            where=line.where,
            hint="coordinates are [column, row] and count from 0",
        )


def write_points(suite: Suite, path: Path) -> str:
    """Writes the test points of a suite with their true depths; returns what was written."""
    images = Tally(Judge.of(suite), lambda done, total: None).images
    files.write_text(path, "\n".join(written(images)) + "\n")
    return f"{len(images)} frames × {len(images[0].draw_P)} points in {path}"


def written(images: ScoredImages) -> Iterator[str]:
    """The test points of a suite, one line of JSON per frame: the nested points of draw 0, then the other draws'."""
    for index in range(len(images)):
        image = images[index]
        height, width = image.frame_size
        yield json.dumps(
            {
                "image": image.frame.frame,
                "scene": image.frame.scene,
                "original_depth_size": [width, height],
                "pixel_coords": image.uv_img_P2.tolist(),
                "depth": [float(f"{depth:.9g}") for depth in image.truth_m_P],
                "depth_type": "z_depth",
            }
        )
