"""How other toolboxes score metric depth on NYU Depth V2 by default: facts about their code, each with its source.

What they do to files of predictions; averaging over a flipped image, which some add when they run a network, is not
among it. Rounding of the printed digits is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spd_bench.external.crops import CropBox
from spd_bench.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Which true depths count, in metres."""

    above_m: float
    """Lower bound in metres."""
    below_m: float
    """Upper bound in metres."""
    strict: bool = True
    """Whether the bounds themselves are left out."""
    fewest: int = 1
    """An image with fewer such pixels is skipped."""

    def of(self, truth_m_HW: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The pixels that count."""
        if self.strict:
            inside: NDArray[np.bool_] = (truth_m_HW > self.above_m) & (truth_m_HW < self.below_m)
        else:
            inside = (truth_m_HW >= self.above_m) & (truth_m_HW <= self.below_m)
        return inside

    def __str__(self) -> str:
        """For people."""
        sign = "<" if self.strict else "≤"
        skipped = f", images with fewer than {self.fewest} pixels skipped" if self.fewest > 1 else ""
        return f"{self.above_m:g} {sign} d {sign} {self.below_m:g} m{skipped}"


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """Bounds of predictions, and a value in place of NaN. None: no bound, NaN stays NaN."""

    low_m: float | None = None
    """Lower bound in metres."""
    high_m: float | None = None
    """Upper bound in metres."""
    nan_m: float | None = None
    """What NaN is replaced by, in metres."""

    def of(self, predicted_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predictions as they are scored."""
        if self.nan_m is not None:
            predicted_m = np.where(np.isnan(predicted_m), self.nan_m, predicted_m)
        if self.low_m is None and self.high_m is None:
            return predicted_m
        clamped: NDArray[np.float64] = np.clip(predicted_m, self.low_m, self.high_m)
        return clamped

    def __str__(self) -> str:
        """For people."""
        if self.low_m is None and self.high_m is None:
            return "none"
        return f"{self.low_m:g} to {'∞' if self.high_m is None else f'{self.high_m:g}'} m"


LogError = Literal["silog", "silog_half", "rmse_log"]
LOG_ERRORS: Mapping[LogError, str] = {
    "silog": "100 √(mean e² − (mean e)²)",
    "silog_half": "√(mean e² − ½ (mean e)²)",
    "rmse_log": "√ mean e²",
}
"""Error in e = ln p − ln g, by its formula; the first two are both printed as "silog"."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Everything in which toolboxes differ."""

    mask: Mask
    """Which true depths count."""
    crop: CropBox | None
    """Which part of the frame counts; None for all of it."""
    clamping: Clamp
    """Bounds of predictions."""
    alignment: Literal["none", "median"] = "none"
    """median: each image's predictions times median(g) / median(p), the lower of two middle values."""
    resizing: Literal["centres", "corners"] = "corners"
    """How a map of another size is read: at the pixels' centres, or enlarged with align_corners=True."""
    averaging: Literal["per_image", "pooled"] = "per_image"
    """pooled: all pixels of all images are one sample."""
    log_error: LogError = "silog"
    """Formula of the error in logarithms."""


@dataclass(frozen=True)
class Toolbox:
    """A toolbox with its defaults for NYU Depth V2."""

    name: str
    """For people."""
    rules: Rules
    """Its defaults."""
    source: str
    """Where its code says so."""


EIGEN = CropBox((45, 471), (41, 601))
TOOLBOXES = (
    Toolbox(
        "BTS",
        Rules(
            mask=Mask(above_m=1e-3, below_m=10),
            crop=EIGEN,
            clamping=Clamp(low_m=1e-3, high_m=10),
            resizing="centres",  # its files have the size of the frame
        ),
        "github.com/cleinc/bts utils/eval_with_pngs.py with its README's --max_depth_eval 10 --eigen_crop",
    ),
    Toolbox(
        "AdaBins, ZoeDepth",
        Rules(
            mask=Mask(above_m=1e-3, below_m=10),
            crop=EIGEN,
            clamping=Clamp(low_m=1e-3, high_m=10, nan_m=1e-3),
        ),
        "github.com/isl-org/ZoeDepth zoedepth/utils/misc.py compute_metrics with zoedepth/utils/config.py; "
        "github.com/shariqfarooq123/AdaBins evaluate.py",
    ),
    Toolbox(
        "Depth Anything V2",
        Rules(
            mask=Mask(above_m=1e-3, below_m=20, strict=False, fewest=10),
            crop=None,
            clamping=Clamp(),
            log_error="silog_half",
        ),
        "github.com/DepthAnything/Depth-Anything-V2 metric_depth/train.py, metric_depth/util/metric.py",
    ),
    Toolbox(
        "mmsegmentation",
        Rules(
            mask=Mask(above_m=0, below_m=10),
            crop=EIGEN,
            clamping=Clamp(),
            resizing="centres",
            log_error="silog_half",
        ),
        "github.com/open-mmlab/mmsegmentation mmseg/evaluation/metrics/depth_metric.py, configs/_base_/datasets/nyu.py",
    ),
    Toolbox(
        "ultralytics",
        Rules(
            mask=Mask(above_m=1e-3, below_m=100, fewest=10),
            crop=None,
            clamping=Clamp(low_m=1e-3, high_m=100, nan_m=100),
            alignment="median",
        ),
        "ultralytics 8.4.190 utils/metrics.py DepthMetrics, models/yolo/depth/val.py; "
        "cfg/datasets/nyu-depth.yaml has no max_depth",
    ),
    Toolbox(
        "depth-estimation",
        Rules(
            mask=Mask(above_m=1e-3, below_m=10),
            crop=None,
            clamping=Clamp(low_m=1e-6),
            resizing="centres",
            averaging="pooled",
            log_error="rmse_log",
        ),
        "depth-estimation 0.1.3 evaluation/evaluate.py, evaluation/metrics.py, data/nyu_depth_v2.py, "
        "for metric models; its own truth is the filled depth",
    ),
)


def own_rules(protocol: Protocol) -> Rules:
    """The same of a protocol of this project."""
    box = CropBox(protocol.rows, protocol.columns) if protocol.rows and protocol.columns else None
    return Rules(
        mask=Mask(above_m=protocol.min_m, below_m=protocol.max_m, strict=protocol.min_strict and protocol.max_strict),
        crop=box,
        clamping=Clamp(low_m=protocol.min_m, high_m=protocol.max_m) if protocol.clamped else Clamp(),
        resizing="centres",
        averaging=protocol.averaging,
    )
