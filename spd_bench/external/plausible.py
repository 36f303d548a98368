"""Whether predictions are what they are taken for, judged by the ground truth that they are scored on.

Of each image: the median of prediction / truth over its valid pixels tells the unit, Spearman's rank correlation tells
depth from disparity, and the rank correlation of the map mirrored, turned or transposed tells its orientation. Of a
stack without names: which other frame's truth each map fits better tells the order.

Letters: V valid pixels, S of them that ranks are computed on, G cells of a coarse grid, I images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]

RATIO_RANGE = (0.5, 2.0)
"""Median of prediction / truth, over images, of predictions in metres."""
OUTLIER = 5.0
"""An image whose own ratio is this much above or below the median of all has another unit."""
RANKED = 2000
"""Pixels of an image on which ranks are computed."""
CLEAR, BETTER = 0.5, 0.2
"""A rank correlation that is no accident, and how much better another reading must be to be believed."""
GRID = (12, 16)
COMMON_UNITS = {1000.0: "mm", 256.0: "256", 5000.0: "5000", 100.0: "100", 10000.0: "10000", 6553.5: "6553.5"}
"""File units per metre that are in use → how `--unit` takes them."""

Turn = Callable[[Values, Values], tuple[Values, Values]]
TURNS: dict[str, Turn] = {
    "mirrored left to right": lambda x, y: (1 - x, y),
    "upside down": lambda x, y: (x, 1 - y),
    "turned by 180°": lambda x, y: (1 - x, 1 - y),
    "with rows and columns exchanged": lambda x, y: (y, x),
}
"""What may have happened to a map → where in it a point of the unit square lies."""


@dataclass
class AgainstTruth:
    """What is seen of predictions against their truth, image by image."""

    expected: int
    """1 where predictions should rise with depth, -1 where they should fall, as disparity does."""
    per_metre: float | None
    """File units in one metre as they were read; None for predictions without metres."""
    by_place: bool
    """Whether the order of the maps alone names their frames."""
    frames: list[str] = field(default_factory=list)
    """Names of the images, in order."""
    ratios: list[float] = field(default_factory=list)
    """Of each image, the median of prediction / truth."""
    ranks: list[float] = field(default_factory=list)
    """Of each image, the rank correlation, positive as expected."""
    turned: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TURNS})
    """The same of the map turned, by the name of the turn."""
    _truth_G: list[Values] = field(default_factory=list)
    _map_G: list[Values] = field(default_factory=list)

    def add(self, frame: str, map_HW: Values, truth_m_HW: Values, valid_HW: NDArray[np.bool_]) -> None:
        """One image: its map at the frame's pixels, in the values that were read, finite at the valid ones."""
        rows, columns = np.nonzero(valid_HW)
        truth_V, map_V = truth_m_HW[rows, columns].astype(np.float64), map_HW[rows, columns]
        self.frames.append(frame)
        self.ratios.append(float(np.median(map_V / truth_V)))
        chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), RANKED)).round().astype(int))
        truth_S, (height, width) = truth_V[chosen], map_HW.shape
        self.ranks.append(self.expected * rank_correlation(map_V[chosen], truth_S))
        x_S, y_S = (columns[chosen] + 0.5) / width, (rows[chosen] + 0.5) / height
        for name, turn in TURNS.items():
            x, y = turn(x_S, y_S)
            there_S = map_HW[(y * height).astype(int), (x * width).astype(int)]
            known_S = np.isfinite(there_S)
            rank = rank_correlation(there_S[known_S], truth_S[known_S]) if known_S.mean() > 0.5 else np.nan
            self.turned[name].append(self.expected * rank)
        if self.by_place:
            at = [
                np.linspace(0, side - 1, cells).round().astype(int)
                for side, cells in zip(map_HW.shape, GRID, strict=True)
            ]
            grid = np.ix_(*at)
            self._truth_G.append(np.where(valid_HW[grid], truth_m_HW[grid], np.nan).ravel())
            self._map_G.append(np.where(valid_HW[grid], map_HW[grid], np.nan).ravel())

    @property
    def ratio(self) -> float:
        """Median over images of the median of prediction / truth."""
        return float(np.median(self.ratios))

    @property
    def rank(self) -> float:
        """Median rank correlation, positive as expected; NaN where most maps are constant."""
        return float(np.median(self.ranks))

    def doubts(self) -> list[tuple[str, str]]:
        """What speaks against the reading, and what would make it right."""
        if sign := self._sign():
            return sign  # of disparity the ratio of medians says nothing
        return [*self._orientation(), *self._order(), *self._unit(), *self._outliers()]

    def _sign(self) -> list[tuple[str, str]]:
        if not self.rank < -CLEAR or self._best_turn()[1] > -self.rank:
            return []
        depth = self.expected > 0
        hint = (
            "for inverse depth say --quantity disparity --align lsq_disparity, or convert it to depth in metres"
            if depth
            else "say --quantity depth"
        )
        what = "fall where the truth rises" if depth else "rise where the truth rises"
        return [(f"predictions {what} (rank correlation {self.expected * self.rank:.2f})", hint)]

    def _orientation(self) -> list[tuple[str, str]]:
        name, found = self._best_turn()
        here = 0.0 if np.isnan(self.rank) else abs(self.rank)
        clearly = found > self.rank + BETTER or 1 - found < (1 - self.rank) / 3
        if not (found > CLEAR and found > here and (clearly or np.isnan(self.rank))):
            return []
        said = f"predictions fit the truth better {name} (rank correlation {found:.2f}, as they are {self.rank:.2f})"
        return [(said, "save the maps as the frames lie")]

    def _best_turn(self) -> tuple[str, float]:
        """How a map would have to be turned to rise most with the truth, and its rank correlation then."""
        found = {name: float(np.nan_to_num(np.median(ranks), nan=-1.0)) for name, ranks in self.turned.items()}
        name = max(found, key=lambda name: found[name])
        return name, found[name]

    def _order(self) -> list[tuple[str, str]]:
        if not self.by_place or len(self.frames) < 2:
            return []
        truth_IG, map_IG = (_standardised(np.stack(grids)) for grids in (self._truth_G, self._map_G))
        likeness_II = self.expected * map_IG @ truth_IG.T
        best, own = likeness_II.argmax(axis=1), np.diagonal(likeness_II)
        wrong = (best != np.arange(len(own))) & (likeness_II.max(axis=1) > np.maximum(own + BETTER, CLEAR))
        if 2 * np.count_nonzero(wrong) <= len(own):
            return []
        first = int(np.flatnonzero(wrong)[0])
        return [
            (
                f"{np.count_nonzero(wrong)} of {len(own)} maps fit another frame's truth better: map {first} that of "
                f"frame {self.frames[int(best[first])]}, not of {self.frames[first]}",
                "the maps are in another order than the test split: give their names with --names",
            )
        ]

    def _unit(self) -> list[tuple[str, str]]:
        if self.per_metre is None or RATIO_RANGE[0] <= self.ratio <= RATIO_RANGE[1]:
            return []
        right = self.per_metre * self.ratio
        near = min(COMMON_UNITS, key=lambda known: abs(np.log(known / right)))
        unit = COMMON_UNITS[near] if abs(np.log(near / right)) < np.log(1.5) else f"{right:.4g}"
        return [
            (
                f"the median of prediction / truth is {self.ratio:.4g}",
                f"with --unit {unit} it would be {self.ratio * self.per_metre / _per_metre(unit):.3g}; relative or "
                "normalised predictions have no metres: say how to --align them",
            )
        ]

    def _outliers(self) -> list[tuple[str, str]]:
        if self.per_metre is None:
            return []
        apart = np.abs(np.log(np.array(self.ratios) / self.ratio)) > np.log(OUTLIER)
        if not apart.any():
            return []
        shown = [f"{self.frames[i]} ({self.ratios[i]:.3g})" for i in np.flatnonzero(apart)[:5]]
        return [
            (
                f"in {np.count_nonzero(apart)} of {len(apart)} frames the median of prediction / truth is far from "
                f"{self.ratio:.3g}, that of the others: {', '.join(shown)}",
                "write all predictions in one unit",
            )
        ]


def rank_correlation(a: Values, b: Values) -> float:
    """Spearman's rank correlation; NaN where either holds one value."""
    from scipy.stats import rankdata

    if len(a) < 2 or a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _per_metre(unit: str) -> float:
    return 1000.0 if unit == "mm" else float(unit)


def _standardised(values_IG: Values) -> Values:
    """Each row with mean 0 and length 1 over its finite cells, 0 elsewhere."""
    known_IG = np.isfinite(values_IG)
    filled_IG = np.where(known_IG, values_IG, 0)
    mean_I1 = filled_IG.sum(axis=1, keepdims=True) / np.maximum(known_IG.sum(axis=1, keepdims=True), 1)
    from_mean_IG = np.where(known_IG, values_IG - mean_I1, 0)
    scaled_IG: Values = from_mean_IG / np.maximum(np.linalg.norm(from_mean_IG, axis=1, keepdims=True), 1e-12)
    return scaled_IG
