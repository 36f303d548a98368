"""Per-image alignment of relative predictions to ground truth, as the literature does it (R-27).

With g the true depth at the valid pixels of one image, r the relative depth and x the relative disparity,

    lsq_disparity   (a, c) = argmin Σ (a·x + c − 1/g)²,   depth = 1 / max(a·x + c, 1e-3)
    lsq_depth       (a, c) = argmin Σ (a·r + c − g)²,     depth = a·r + c
    median          a = median(g) / median(r),            depth = a·r

in double precision. Each becomes the other by r = 1 / max(x, 1e-3) and x = 1 / max(r, 1e-3). The fit takes every valid
pixel, never the scored points: at one point least squares would always be exact. What is scored after this has seen
the ground truth of the image.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import DataError

Quantity = Literal["depth", "disparity"]
How = Literal["lsq_disparity", "lsq_depth", "median"]
Values = NDArray[np.floating[Any]]

FLOOR = 1e-3
"""Smallest value whose inverse is taken."""


def inverse(values: Values) -> Values:
    """Depth of a disparity and disparity of a depth: 1 / max(value, 1e-3)."""
    return 1 / np.maximum(values, FLOOR)


def is_affine(how: How, quantity: Quantity) -> bool:
    """Whether the fit takes the predictions as they are: then zero and below are values like any other."""
    return (how, quantity) in (("lsq_disparity", "disparity"), ("lsq_depth", "depth"))


@dataclass(frozen=True)
class FittedAlignment:
    """Scale and shift of one image's predictions, in depth or in disparity as `how` says."""

    how: How
    """Rule of the fit."""
    quantity: Quantity
    """What the predictions are."""
    scale: float
    """Factor of the fit."""
    shift: float
    """Constant of the fit; 0 for the median."""

    @classmethod
    def fit(cls, how: How, quantity: Quantity, predicted_V: Values, truth_m_V: Values) -> "FittedAlignment":
        """Fit to all valid pixels of one image.

        Raises DataError for fewer than two pixels, and for predictions of one value, which no scale fits.
        """
        x_V, target_V = _fitted_to(how, quantity, predicted_V.astype(np.float64)), truth_m_V.astype(np.float64)
        if how == "median":
            return cls(how, quantity, float(np.median(target_V) / np.median(x_V)), 0.0)
        if len(x_V) < 2 or x_V.min() == x_V.max():
            raise DataError(
                f"scale and shift need at least two different predictions, found {len(np.unique(x_V))}",
                hint="predictions of one value cannot be aligned; leave the alignment out",
            )
        if how == "lsq_disparity":
            target_V = 1 / target_V
        from_mean_V = x_V - x_V.mean()
        scale = float(from_mean_V @ (target_V - target_V.mean()) / (from_mean_V @ from_mean_V))
        return cls(how, quantity, scale, float(target_V.mean() - scale * x_V.mean()))

    def depth_m(self, predicted: Values) -> Values:
        """Predictions of the image in metres, in double precision; least squares in depth may go below zero."""
        aligned = self.scale * _fitted_to(self.how, self.quantity, predicted.astype(np.float64)) + self.shift
        return inverse(aligned) if self.how == "lsq_disparity" else aligned


def _fitted_to(how: How, quantity: Quantity, predicted: Values) -> Values:
    """Predictions as disparity for a fit in disparity, else as depth."""
    wanted = "disparity" if how == "lsq_disparity" else "depth"
    return predicted if quantity == wanted else inverse(predicted)
