"""Whether a map holds depth or its inverse, by what slanted planes look like.

Along a line of pixels the inverse of depth is linear on every plane, so that of three pixels at equal distances the
middle one has the harmonic mean of the outer depths. A map of disparity or inverse depth has their arithmetic mean.
Floors, walls and tables outnumber what is curved: on a real kitchen, 15 frames of 15 vote for depth, and 15 of 15 for
the inverse once their values are inverted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP = 3 / 32
"""Distance of the three pixels, as a share of the map's width."""
ROWS = 8
"""Step between the rows, and between the columns, that are looked at."""
SLANT = (0.25, 1.0)
"""|ln| of the outer values' ratio: less is noise, more is an edge."""
NEAR = 0.25
"""A vote is nearer to its mean than this share of the two means' difference."""
LEAST_VOTES = 100


def inverse_votes(values_HW: NDArray[Any]) -> tuple[int, int]:
    """How many triples of pixels of one map are planes of depth, and how many are planes of its inverse.

    values_HW: values in any unit, 0 where unknown.
    """
    step = max(2, round(STEP * values_HW.shape[1]))
    depth, inverse = 0, 0
    for lines_LW in (values_HW[::ROWS], values_HW.T[::ROWS]):
        if lines_LW.shape[1] <= 2 * step:
            continue
        first, middle, last = (
            part.astype(np.float64)
            for part in (lines_LW[:, : -2 * step : 2], lines_LW[:, step:-step:2], lines_LW[:, 2 * step :: 2])
        )
        known = (first > 0) & (middle > 0) & (last > 0)
        first, middle, last = first[known], middle[known], last[known]
        slant = np.abs(np.log(first / last))
        slanted = (slant > SLANT[0]) & (slant < SLANT[1])
        first, middle, last = first[slanted], middle[slanted], last[slanted]
        arithmetic, harmonic = (first + last) / 2, 2 * first * last / (first + last)
        limit = NEAR * (arithmetic - harmonic)
        depth += int(np.count_nonzero(np.abs(middle - harmonic) < limit))
        inverse += int(np.count_nonzero(np.abs(middle - arithmetic) < limit))
    return depth, inverse
