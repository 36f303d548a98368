"""B1 at fixed offsets alone."""

from spd_components.blocks.b1_local_tokens import LocalTokens


class NoLearnedOffsets(LocalTokens):
    """§6.1 without the eight learned offsets: 24 ring tokens of L1, 25 of L2, 25 of L3, 9 of L4, 83 in all.

    A fair comparison: the same otherwise, without 8 of 91 tokens, 8 of 92 lookups and the layer that predicts them
    (1,040 of B1's 139,088 parameters), and so without any read more than two cells of L1 away.
    """

    learned = 0
