"""Scores to compare: per-image values of a composition, the margin that does not matter, and their scale.

Letters: S seeds, I images.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError

Values = NDArray[np.float64]
Aggregation = Literal["mean", "root_mean_square"]
"""How per-image values become the reported number: their mean, or the root of the mean of squares (`rmse_pooled`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Per-image values of one composition in one metric at one K.

    Raises DataError for values that are not finite or not one per seed and image, and for a repeated seed or image.
    Missing values are never dropped, since values are rarely missing by chance.
    """

    name: str
    """Name of the composition, for messages."""
    values_SI: Values
    """One value per seed and image."""
    seeds: tuple[int, ...]
    """The seeds."""
    images: tuple[str, ...]
    """Names of the images."""
    scenes: tuple[str, ...]
    """Scene of each image."""
    single: bool = False
    """Whether this is one set of external predictions, paired with every seed of the other composition. Its seeds are
    unknown, so that every comparison with it is exploratory."""

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.images))
        if self.values_SI.shape != expected or len(self.scenes) != len(self.images) or 0 in expected:
            raise DataError(
                f"expected one value per seed and image {expected} and one scene per image, found values "
                f"{self.values_SI.shape} and {len(self.scenes)} scenes",
                where=self.name,
                hint="score every seed on every image again",
            )
        for kind, names in (("seed", self.seeds), ("image", self.images)):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise DataError(f"{kind} {twice[0]} is there twice", where=self.name, hint=f"give each {kind} once")
        bad_SI = ~np.isfinite(self.values_SI)
        if bad_SI.any():
            s, i = np.argwhere(bad_SI)[0]
            raise DataError(
                f"{bad_SI.sum()} of {bad_SI.size} values are not finite, the first {self.values_SI[s, i]} for seed "
                f"{self.seeds[s]}, image {self.images[i]}",
                where=self.name,
                hint="score this composition again; a run that failed has no place in a comparison",
            )

    def of_seeds(self, seeds: Sequence[int], names: Sequence[int]) -> "Scores":
        """The values of some seeds, in this order, under other names; a single set is repeated."""
        rows = [0 if self.single else self.seeds.index(seed) for seed in seeds]
        return replace(self, values_SI=self.values_SI[rows], seeds=tuple(names))


@dataclass(frozen=True)
class Margin:
    """The largest difference that does not matter, declared before seeing results."""

    amount: float
    """In the metric's unit, or as a share of the base's value."""
    relative: bool = False
    """Whether it is a share of the base's value."""

    def __post_init__(self) -> None:
        if not (0 < self.amount < np.inf):
            raise ConfigError(f"a margin must be positive and finite, not {self.amount}")

    def of(self, base: float) -> float:
        """The margin in the metric's unit. A relative margin treats the base's measured value as exact."""
        return self.amount * abs(base) if self.relative else self.amount


def as_averaged(scores: Scores, aggregation: Aggregation) -> Values:
    """Values [S, I] whose mean over images is each seed's reported number.

    The root of a mean square is not a mean over images. Its linearisation about that seed's mean M is (delta method):
    r[i] = √M + (v[i] − M) / (2 √M), which averages to √M exactly. So every statistic is on the reported scale, and
    images keep their influence on it.

    Raises DataError for a negative square, or a seed whose squares are all zero: √ has no slope there.
    """
    if aggregation == "mean":
        return scores.values_SI
    mean_S1 = scores.values_SI.mean(axis=1, keepdims=True)
    if (scores.values_SI < 0).any() or (mean_S1 == 0).any():
        raise DataError(
            "mean squares per image must not be negative, nor all zero", where=scores.name, hint="check the metric"
        )
    return np.asarray(np.sqrt(mean_S1) + (scores.values_SI - mean_S1) / (2 * np.sqrt(mean_S1)))


def check_paired(base: Scores, variant: Scores) -> None:
    """Raises DataError unless both have the same seeds, images and scenes, in the same order."""
    for kind in ("seeds", "images", "scenes"):
        ours, theirs = getattr(variant, kind), getattr(base, kind)
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False))
            at = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
            here, there = (repr(names[at]) if at < len(names) else "nothing" for names in (ours, theirs))
            raise DataError(
                f"its {kind} are not those of {base.name}: number {at} is {here}, expected {there}",
                where=variant.name,
                hint="a paired comparison needs the same seeds and the same images, in the same order",
            )
