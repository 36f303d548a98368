"""Evaluation protocols (§8, R-24): which pixels count, how predictions are clamped, and how values are averaged.

A protocol is part of every evaluation's identity and of every table's caption.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError, did_you_mean, quoted

Depths = NDArray[np.floating[Any]]

POOLED = "over all scored points of all images together"
"""Averaging of a protocol that pools, in words."""
RENDERED = "rendered"
"""Exact depth of a synthetic scene; every protocol accepts it."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that §8 leaves open about scoring."""

    name: str
    """The name in a suite (`eval.protocol`)."""
    truth: Literal["raw", "filled", "any"]
    """Kind of ground truth that it accepts (`DepthDataset.truth`); it always accepts rendered depth."""
    rows: tuple[int, int] | None
    """Half-open range of rows of the original frame that count; None: all."""
    columns: tuple[int, int] | None
    """Half-open range of columns that count; None: all."""
    frame: tuple[int, int] | None
    """Frame size (height, width) that the crop is defined for, other sizes raise DataError; None: any size."""
    min_m: float = 1e-3
    """A pixel counts if its true depth is above this. Positive, so that unknown depth (0) never counts."""
    max_m: float = 10.0
    """A pixel counts if its true depth is below this."""
    min_strict: bool = True
    """Whether a depth equal to min_m is left out."""
    max_strict: bool = True
    """Whether a depth equal to max_m is left out."""
    clamped: bool = True
    """Whether predictions are clamped to [min_m, max_m]. The caller checks first that they are finite: a NaN never
    becomes a legal depth."""
    reading: Literal["bilinear"] = "bilinear"
    """How a map of another size than the frame is read, at the pixels' centres in the unit square (R-03)."""
    averaging: Literal["per_image", "pooled"] = "per_image"
    """per_image: each image's value, then the mean. pooled: all points of all images as one sample."""
    alignment: Literal["none"] = "none"
    """How predictions are aligned to ground truth: not at all (R-27)."""

    def __post_init__(self) -> None:
        """Raises ConfigError unless 0 < min_m < max_m."""
        if not 0 < self.min_m < self.max_m:
            raise ConfigError(f"protocol {self.name}: expected 0 < min_m < max_m, found {self.min_m}, {self.max_m}")

    def check_truth(self, truth: str, *, where: str | None = None) -> None:
        """Raises ConfigError for a data set with another kind of ground truth than this protocol accepts."""
        if self.truth in ("any", truth) or truth == RENDERED:
            return
        box = (self.rows, self.columns)
        variants = [p.name for p in PROTOCOLS.values() if p.truth == truth and (p.rows, p.columns) == box]
        raise ConfigError(
            f"protocol {self.name} is for {self.truth} depth, the data set has {truth} depth",
            where=where,
            hint=f"use eval.protocol: {(*variants, 'full_frame')[0]}, a variant whose numbers are not comparable with "
            f"those of {self.name}, or {self.truth} depth",
        )

    def valid(self, depth_m_HW: Depths, *, where: str) -> NDArray[np.bool_]:
        """Mask of the pixels that count: depth within the bounds, inside the crop.

        Raises DataError for a frame of another size than the crop is defined for.
        """
        height, width = depth_m_HW.shape
        if self.frame is not None and (height, width) != self.frame:
            raise DataError(
                f"protocol {self.name} is for frames of {self.frame[0]}×{self.frame[1]}, found {height}×{width}",
                where=where,
                hint="use eval.protocol: full_frame, or frames of the original size",
            )
        above = depth_m_HW > self.min_m if self.min_strict else depth_m_HW >= self.min_m
        below = depth_m_HW < self.max_m if self.max_strict else depth_m_HW <= self.max_m
        inside = np.zeros_like(above)
        inside[slice(*(self.rows or (0, height))), slice(*(self.columns or (0, width)))] = True
        counted: NDArray[np.bool_] = above & below & inside
        return counted

    def clamp(self, depth_m: Depths) -> Depths:
        """Predictions clamped as this protocol says."""
        return np.clip(depth_m, self.min_m, self.max_m) if self.clamped else depth_m

    def at_frame_size(self, map_HW: Depths, *, height: int, width: int) -> Depths:
        """A predicted map at the centres of the frame's pixels: [height, width], itself if it has that size.

        Bilinear between the map's own pixel centres, the outermost value beyond them. A value that is not finite makes
        every pixel that uses it not finite.
        """
        if map_HW.shape == (height, width):
            return map_HW
        return _read_rows(_read_rows(map_HW, height).T, width).T

    def caption(self) -> str:
        """Every field in one line, for tables."""
        frame = f"frames of {self.frame[0]}×{self.frame[1]}" if self.frame else "frames of any size"
        rows = f"rows {self.rows[0]}:{self.rows[1]}" if self.rows else "all rows"
        columns = f"columns {self.columns[0]}:{self.columns[1]}" if self.columns else "all columns"
        low, high = ("<" if strict else "≤" for strict in (self.min_strict, self.max_strict))
        clamped = "clamped to that range" if self.clamped else "not clamped"
        averaging = {"per_image": "per image, then mean over images", "pooled": POOLED}[self.averaging]
        return (
            f"{self.name}: {self.truth} ground truth, {frame}, {rows}, {columns}, "
            f"{self.min_m:.12g} {low} depth {high} {self.max_m:.12g} m, predictions {clamped}, "
            f"those of another size read at pixel centres ({self.reading}), alignment {self.alignment}, "
            f"no flip averaging, {averaging}"
        )

    def identity(self) -> dict[str, Any]:
        """Every field that changes a score, for the identity of an evaluation."""
        return asdict(self)


def _read_rows(map_HW: Depths, height: int) -> Depths:
    """Linear interpolation between rows, at the centres of `height` rows: [height, W]."""
    rows = len(map_HW)
    at = ((np.arange(height) + 0.5) * rows / height - 0.5).clip(0, rows - 1)
    low = at.astype(int)
    upper, lower = map_HW[low], map_HW[np.minimum(low + 1, rows - 1)]
    share = (at - low)[:, None]
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, which the caller rejects
        between: Depths = upper * (1 - share) + lower * share
    return np.where(share > 0, between, upper)  # 0 · NaN is NaN: a row of weight 0 must not enter


NYU_BTS = Protocol(name="nyu_bts", truth="raw", rows=(45, 471), columns=(41, 601), frame=(480, 640))
"""NYU Eigen test as the BTS lineage scores it: box, strict bounds, raw depth. The project's primary protocol (R-24)."""

NYU_BTS_FILLED = Protocol(name="nyu_bts_filled", truth="filled", rows=(45, 471), columns=(41, 601), frame=(480, 640))
"""The same box and bounds on filled depth. It has its own name because its numbers differ."""

NYU_DENSEDEPTH = Protocol(
    name="nyu_densedepth",
    truth="filled",
    rows=(20, 460),
    columns=(24, 616),
    frame=(480, 640),
    min_m=0.1,
    min_strict=False,
    max_strict=False,
    averaging="pooled",
)
"""NYU Eigen test as DenseDepth scores it: its box, filled depth, predictions clamped to 0.1..10 m, pixels pooled.

Filled depth lies within those bounds everywhere, so they exclude no pixel. One difference remains: DenseDepth swaps
truth and prediction where it calls its metrics, so its "rel" divides by the prediction. AbsRel divides by the truth
here, as in every protocol.
"""

FULL_FRAME = Protocol(name="full_frame", truth="any", rows=None, columns=None, frame=None)
"""No crop: for data sets without a benchmark's box."""

PROTOCOLS = {protocol.name: protocol for protocol in (NYU_BTS, NYU_BTS_FILLED, NYU_DENSEDEPTH, FULL_FRAME)}


def protocol(name: str, *, where: str | None = None) -> Protocol:
    """The protocol of this name; raises ConfigError for an unknown one."""
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {quoted(name)}", where=where, hint=did_you_mean(name, PROTOCOLS))
    return PROTOCOLS[name]
