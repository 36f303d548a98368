"""B5 of §6.5: the query attends to local and deformable evidence together."""

from pydantic import Field

from spd_components.blocks.token_cross_attention import TokenCrossAttention


class FusedCrossAttention(TokenCrossAttention):
    """Three Pre-LN cross-attention layers over T_fused: h⁽²⁾′ → h⁽⁵⁾ (§6.5, R-30), with an LN_kv2 of their own."""

    slot = "b5"
    left_out = {"b5": "mean_tokens"}
    budget = {"": "B5: fused cross-attention + depth head (§6.5)"}

    class Config(TokenCrossAttention.Config):
        """Options of B5."""

        layers: int = Field(default=3, ge=1, le=8)
        """Number of decoder layers."""
