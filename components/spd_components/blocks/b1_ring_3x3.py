"""B1 with narrower neighbourhoods."""

from spd_components.blocks.b1_local_tokens import LocalTokens


class Ring3x3(LocalTokens):
    """§6.1 with 3×3 instead of 5×5 neighbourhoods on L1 to L3: 8 ring + 8 learned + 9 + 9 + 9 = 43 tokens.

    A fair comparison: the same levels, layers and learned offsets, whose reach stays 6 cells, without the outer 16
    cells of each neighbourhood: 48 of 91 tokens and of 92 lookups, and 16 entries of the position table (3,072
    parameters).
    """

    side = 3
