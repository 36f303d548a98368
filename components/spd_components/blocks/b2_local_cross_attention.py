"""B2 of §6.2: the query attends to its local tokens."""

from spd_components.blocks.token_cross_attention import TokenCrossAttention


class LocalCrossAttention(TokenCrossAttention):
    """Two Pre-LN cross-attention layers over T_unified: h⁽⁰⁾ → h⁽²⁾ (§6.2, R-30)."""

    slot = "b2"
    left_out = {"b2": "skip"}
    budget = {"": "B2: local cross-attention (§6.2)"}
