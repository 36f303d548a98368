"""B4 with constant sampling offsets."""

from torch import Tensor

from spd_bench.fused import forms
from spd_bench.fused.deformable_read import Weights
from spd_components.blocks.b4_deformable_read import DeformableRead


class FixedOffsets(DeformableRead):
    """As `deformable_read` (§6.4) with constant offsets Δ: the ring that training starts from (R-13).

    The weights a are learned as before. A fair comparison: the same levels, number of samples, attention and start,
    without W^Δ and b^Δ (27,792 parameters fewer).
    """

    def _start_offsets(self, ring: Tensor) -> None:
        """The ring as constants."""
        self.register_buffer("ring", ring, persistent=False)

    def _offsets(self, u_QD: Tensor, axis: int) -> Tensor:
        """The ring along x or y for every anchor: [Q, T]."""
        return self.get_buffer("ring")[axis::2].expand(len(u_QD), -1)

    def fused_weights(self) -> Weights:
        """As `deformable_read`, with the ring as constant offsets."""
        ring = self.get_buffer("ring")
        own = forms.unchanged(self, FixedOffsets, "_offsets")
        return super().fused_weights()._replace(constant=(ring[::2], ring[1::2]) if own else None)
