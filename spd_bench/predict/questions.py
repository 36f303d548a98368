"""Which points of an image are asked for: given ones, a grid, a file of them, or the pixels of a mask."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spd_bench.data.reading.images import open_image
from spd_bench.errors import ConfigError, DataError, quoted


@dataclass(frozen=True)
class Questions:
    """The points to ask of every image, in the order at, points, grid, mask; and whether every pixel is asked."""

    at: tuple[tuple[float, float], ...] = ()
    """Points (u, v) in pixels."""
    points: Path | None = None
    """CSV file of points."""
    grid: int | None = None
    """Columns and rows of a regular grid."""
    mask: Path | None = None
    """Image whose pixels other than zero are asked for."""
    dense: bool = False
    """Whether every pixel gets a depth map of its own."""

    def __post_init__(self) -> None:
        """Raises ConfigError where nothing is asked."""
        if not (self.at or self.points or self.grid or self.mask or self.dense):
            raise ConfigError("no point is asked for", hint="add --at U,V, --grid N, --points FILE, --mask or --dense")

    def of_image(self, *, width: int, height: int) -> npt.NDArray[np.float64]:
        """The points (u, v) of an image of this size: float64 [N, 2]."""
        parts = [np.asarray(self.at, np.float64).reshape(-1, 2)]
        parts += [] if self.points is None else [read_points(self.points)]
        parts += [] if self.grid is None else [even_grid(self.grid, width=width, height=height)]
        parts += [] if self.mask is None else [masked_pixels(self.mask, width=width, height=height)]
        return np.concatenate(parts)


def parse_point(text: str) -> tuple[float, float]:
    """The point that "U,V" means; ConfigError for another text."""
    try:
        u, v = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"expected U,V in pixels, found {quoted(text)}", where="--at") from None
    if not (math.isfinite(u) and math.isfinite(v)):
        raise ConfigError(f"expected finite numbers, found {quoted(text)}", where="--at")
    return u, v


def even_grid(count: int, *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Centres of `count` × `count` equal parts of the image, row by row: [count², 2]."""
    middle = (np.arange(count) + 0.5) / count
    v_NN, u_NN = np.meshgrid(middle * height - 0.5, middle * width - 0.5, indexing="ij")
    return np.stack([u_NN.ravel(), v_NN.ravel()], axis=-1)


def masked_pixels(path: Path, *, width: int, height: int) -> npt.NDArray[np.float64]:
    """Pixels (u, v) of a mask that are not zero, row by row. DataError for a mask of another size, or an empty one."""
    mask_HW = np.asarray(open_image(path).convert("L"))
    if mask_HW.shape != (height, width):
        rows, columns = mask_HW.shape
        raise DataError(f"expected {width}×{height} pixels like the image, found {columns}×{rows}", where=str(path))
    vu_N2 = np.argwhere(mask_HW > 0)
    if not len(vu_N2):
        raise DataError("no pixel of the mask is set", where=str(path))
    return vu_N2[:, ::-1].astype(np.float64)


def read_points(path: Path) -> npt.NDArray[np.float64]:
    """Points of a CSV file: the columns `u` and `v` of its header, or without a header two columns.

    Raises DataError for a file that cannot be read, with the line that is no point.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot be read as CSV ({error})", where=str(path), hint="check the path") from error
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = "u" in header and "v" in header
    columns = (header.index("u"), header.index("v")) if named else (0, 1)
    numbered = list(enumerate(rows, start=1))[named:]
    points = [_cells(row, columns, f"{path}:{line}", alone=not named) for line, row in numbered if any(row)]
    if not points:
        raise DataError("holds no point", where=str(path), hint="a header u,v and one point a line")
    return np.asarray(points, np.float64)


def _cells(row: Sequence[str], columns: tuple[int, int], where: str, *, alone: bool) -> tuple[float, float]:
    try:
        if alone and len(row) != 2:
            raise ValueError(f"{len(row)} columns")
        u, v = (float(row[column]) for column in columns)
    except (ValueError, IndexError) as error:
        hint = "a header u,v (other columns are ignored), or two columns of numbers"
        raise DataError(
            f"expected a point u,v, found {quoted(','.join(row))} ({error})", where=where, hint=hint
        ) from None
    return u, v
