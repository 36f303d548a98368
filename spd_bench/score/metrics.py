"""The metrics of §8 and related ones, each a value per image from the scored points of that image.

g is the true depth and p the clamped prediction, both in metres, e = ln p − ln g. The reported number is the mean over
images, except for `RMSEPooled`: the root of the mean of squares (R-25). To add a metric, derive a class from `Metric`
and register it as an entry point "spd_bench.metric".
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import Component

Depths = NDArray[np.floating[Any]]


class Metric(Component):
    """One number per image from true and predicted depths in metres, and its mean over images."""

    slot = "metric"
    name: ClassVar[str]
    """The name in suites and tables."""
    unit: ClassVar[str] = ""
    """The unit in tables."""
    formula: ClassVar[str]
    """The value of one image, for the legend of tables."""
    lower_is_better: ClassVar[bool] = True
    """Whether smaller values are better."""
    aggregation: ClassVar[str] = "per image, then mean over images"
    """How images are averaged, for the legend of tables."""
    averaged: ClassVar[Literal["mean", "root_mean_square"]] = "mean"
    """How images are averaged, for the statistics, which work on the scale of the reported number."""
    min_points: ClassVar[int] = 1
    """Fewest points per image for which the metric is defined; below it tables have no value."""

    @abstractmethod
    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""

    def over_images(self, values: NDArray[np.float64]) -> float:
        """The reported number from the values of all images."""
        return float(np.mean(values))


class AbsRel(Metric):
    """mean |g − p| / g."""

    name = "absrel"
    formula = "mean |g − p| / g"

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""
        return float(np.mean(np.abs(truth_m - predicted_m) / truth_m))


class SqRel(Metric):
    """mean (g − p)² / g, in metres."""

    name = "sqrel"
    unit = "m"
    formula = "mean (g − p)² / g"

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""
        return float(np.mean((truth_m - predicted_m) ** 2 / truth_m))


class RMSE(Metric):
    """√ mean (g − p)² per image, then the mean; at K = 1 this is the mean absolute error (R-25)."""

    name = "rmse"
    unit = "m"
    formula = "√ mean (g − p)²"

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""
        return float(np.sqrt(np.mean((truth_m - predicted_m) ** 2)))


class RMSEPooled(Metric):
    """√ of the mean over images of the mean squared error; comparable across K (R-25)."""

    name = "rmse_pooled"
    unit = "m"
    formula = "√ mean (g − p)²"
    aggregation = "mean square per image, mean over images, then the root"
    averaged = "root_mean_square"

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The mean squared error of one image."""
        return float(np.mean((truth_m - predicted_m) ** 2))

    def over_images(self, values: NDArray[np.float64]) -> float:
        """The root of the mean square."""
        return float(np.sqrt(np.mean(values)))


class Log10(Metric):
    """mean |log10 g − log10 p|."""

    name = "log10"
    formula = "mean |log10 g − log10 p|"

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""
        return float(np.mean(np.abs(np.log10(truth_m) - np.log10(predicted_m))))


class SILog(Metric):
    """100 √(mean e² − (mean e)²), the population form of the BTS lineage; not defined at K = 1."""

    name = "silog"
    formula = "100 √(mean e² − (mean e)²), e = ln p − ln g"
    min_points = 2

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The value of one image."""
        return 100 * float(np.std(np.log(predicted_m) - np.log(truth_m)))


class _Delta(Metric):
    """Computed in float32 from depths in float32, as the BTS lineage does.

    Depths in whole millimetres often hit the factor exactly, and rounding decides on which side they fall. Of the pairs
    (4n mm, 5n mm) up to 10 m, whose ratio is 1.25 and not below it, 10 % count as inside in float32, and 42 % where the
    same float32 depths are divided in float64.
    """

    version = 2
    lower_is_better = False
    power: ClassVar[int]

    def of_image(self, truth_m: Depths, predicted_m: Depths) -> float:
        """The share of points within the factor."""
        truth_m, predicted_m = truth_m.astype(np.float32), predicted_m.astype(np.float32)
        ratio = np.maximum(truth_m / predicted_m, predicted_m / truth_m)
        return float(np.mean(ratio < 1.25**self.power))


class Delta1(_Delta):
    """Share of points with max(g/p, p/g) < 1.25."""

    name = "delta1"
    formula = "share of max(g/p, p/g) < 1.25 in float32"
    power = 1


class Delta2(_Delta):
    """Share of points with max(g/p, p/g) < 1.25²."""

    name = "delta2"
    formula = "share of max(g/p, p/g) < 1.25² in float32"
    power = 2


class Delta3(_Delta):
    """Share of points with max(g/p, p/g) < 1.25³."""

    name = "delta3"
    formula = "share of max(g/p, p/g) < 1.25³ in float32"
    power = 3
