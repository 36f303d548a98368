"""B1 with the centre as a token: the other reading of R-01."""

from spd_components.blocks.b1_local_tokens import LocalTokens


class CentreToken(LocalTokens):
    """§6.1 with the centre as a 33rd token of L1, GELU(W_loc [f_q; φ(0)]) + e_L1: the other reading of R-01, 92 tokens.

    A fair comparison: the same parameters and the same 92 lookups, since the seed reads the centre anyway. Attention
    gets one more token.
    """

    centre_is_token = True
