"""What scoring external predictions gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spd_bench.external.explain import Explanation
from spd_bench.score.judge import Judge


@dataclass(frozen=True)
class Scored:
    """External predictions with their numbers."""

    name: str
    """What tables call it."""
    folder: Path
    """Where they are recorded."""
    judge: Judge
    """Data set, protocol and metrics."""
    difference: str
    """What they are and how they were read."""
    gt_aligned: bool
    """Whether ground truth entered the predictions (R-27)."""
    images: int
    """Test frames that were scored."""
    values: Mapping[tuple[str, int], float]
    """(metric, K) → number."""
    all_pixels: Mapping[str, float] | None
    """Metric → number over every valid pixel; None where only points are known."""
    doubts: tuple[str, ...] = ()
    """What speaks against the reading; they were scored as they are (`--as-is`)."""
    explanation: Explanation | None = None
    """What other toolboxes would print for the same files."""
