"""B4 that reads the nearest cell instead of interpolating."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spd_components.blocks.b4_fixed_offsets import FixedOffsets

NUDGE = 1e-3
"""In cells. Samples of the ring often lie on the border of two cells; without it, rounding would choose the cell."""


class NearestRead(FixedOffsets):
    """As `fixed_offsets`, but each sample reads the cell that it lies in: 1 lookup instead of 4 of a bilinear read.

    On a border it reads the right or lower cell; outside the map zero, as everywhere (R-07). The position of a sample
    has no gradient then, so learned offsets could not leave the ring: they are constants. A fair comparison with
    `fixed_offsets`: the same samples, weights and parameters, without interpolation.
    """

    def _cells(
        self, row_QT: Tensor, down_T: Tensor, fx_QT: Tensor, fy_QT: Tensor, alpha_QT: Tensor
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """The one cell of each sample, of the four around it, and its whole weight."""
        right_QT, down_QT = ((f_QT >= 0.5 - NUDGE).to(row_QT.dtype) for f_QT in (fx_QT, fy_QT))
        return ((torch.addcmul(row_QT + right_QT * self.dims.heads, down_QT, down_T), alpha_QT),)
