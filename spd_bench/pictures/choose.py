"""Which rows and which test images the report shows: by rule, never by hand.

Rows: the base and, unless the suite names others, the best other row and the worst ablation at the primary metric.
Images: of each contrast (a row against the base) the one that gains most, the one nearest the median difference, and
the one that loses most. Equal values go to the earlier row or image, so that the same results give the same pictures.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PerImage = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A row of the table that a picture may show."""

    name: str
    """Name of the row."""
    kind: str
    """base, ablation or baseline."""
    error_I: PerImage
    """The primary metric of each test image, so that lower is better: [I]."""


@dataclass(frozen=True)
class Contrast:
    """A row against the base, with the images that show it."""

    row: str
    """Name of the row."""
    images: Mapping[str, int]
    """"best", "median" and "worst" for the row → index of the test image."""


def contrasts(candidates: Sequence[Candidate], patterns: Sequence[str] = ()) -> list[Contrast]:
    """The contrasts that the report shows; none without a base and another row.

    patterns: names of rows to show, with * as a wildcard; empty for the rule of this module.
    """
    base = next((candidate for candidate in candidates if candidate.kind == "base"), None)
    others = [candidate for candidate in candidates if candidate is not base]
    if base is None:
        return []
    return [Contrast(row.name, _images(row.error_I - base.error_I)) for row in _rows(others, patterns)]


def _rows(others: Sequence[Candidate], patterns: Sequence[str]) -> list[Candidate]:
    if patterns:
        return [row for row in others if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]
    found: dict[str, Candidate] = {}
    if others:
        best = min(others, key=_mean)
        found[best.name] = best
    if ablations := [row for row in others if row.kind == "ablation"]:
        worst = max(ablations, key=_mean)
        found[worst.name] = worst
    return list(found.values())


def _mean(row: Candidate) -> float:
    return float(np.mean(row.error_I))


def _images(difference_I: PerImage) -> dict[str, int]:
    """Extremes and median of a row's differences from the base; negative is better for the row."""
    to_median_I = np.abs(difference_I - np.median(difference_I))
    found: dict[str, Any] = {
        "best": np.argmin(difference_I),
        "median": np.argmin(to_median_I),
        "worst": np.argmax(difference_I),
    }
    return {name: int(index) for name, index in found.items()}
