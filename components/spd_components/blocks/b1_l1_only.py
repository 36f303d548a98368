"""B1 on the finest level alone."""

import torch
from torch import Tensor, nn

from spd_bench.api import Dims, Pyramid
from spd_components.blocks.b1_local_tokens import OFFSET_FREQ, POSITION_FREQ, L1Maps, L1Tokens


class L1Only(L1Tokens):
    """The seed and the 32 tokens of L1 of §6.1: 24 ring cells and 8 learned offsets; e_L1 separates them from B4's.

    A fair comparison of one scale with several: the same seed and L1 tokens, without L2, L3 and L4 (59 of 91 tokens and
    of 92 lookups, and 103,680 of B1's 139,088 parameters). B3 and B4 still read the other levels.
    """

    def __init__(self, config: L1Tokens.Config, dims: Dims) -> None:
        super().__init__(config, dims)
        fine = dims.pyramid[0]
        self.offset = nn.Linear(fine, 2 * self.learned)
        self.local = nn.Linear(fine + 4 * OFFSET_FREQ, dims.core)
        self.seed = nn.Linear(fine + 4 * POSITION_FREQ, dims.core)
        self.level_embed = nn.Parameter(0.02 * torch.randn(dims.core))

    def prepare(self, pyramid: Pyramid) -> L1Maps:
        """L1 as a table."""
        fine = self._fine_map(pyramid.l1)
        embedding_TD = self.level_embed.expand(len(fine.cell_code_TD) + self.learned, -1)
        return L1Maps(fine, self._in_one_call(L1Only, fine, (), embedding_TD))

    def _made(self, maps: L1Maps, xy_BK2: Tensor) -> tuple[Tensor, Tensor]:
        """The seed, and L1's tokens with e_L1."""
        around_BKTC, centre_BKC = self._around(maps.l1, xy_BK2)
        tokens_BKTD = self._local_tokens(maps.fine, xy_BK2, around_BKTC, centre_BKC)
        return self._seed(centre_BKC, xy_BK2), tokens_BKTD + self.level_embed.to(tokens_BKTD.dtype)
