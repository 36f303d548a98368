"""Blocks that are left out: the query state passes unchanged."""

from typing import ClassVar

from spd_bench.api import Block, ComponentConfig, QueryState, Scene


class _Skip(Block):
    reads: ClassVar[frozenset[str]] = frozenset()
    writes: ClassVar[frozenset[str]] = frozenset()

    class Config(ComponentConfig):
        """No options."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """The same state."""
        return state


class SkipB2(_Skip):
    """No local cross-attention: h⁽²⁾ = h⁽⁰⁾."""

    slot = "b2"


class SkipB3(_Skip):
    """No global cross-attention: h⁽²⁾′ = h⁽²⁾, and routing has no attention to use."""

    slot = "b3"


class SkipB4(_Skip):
    """No deformable read: B5 attends to the local tokens alone."""

    slot = "b4"


class SkipB5(_Skip):
    """No fused cross-attention: the depth head gets h⁽²⁾′, and no block reads B4's evidence."""

    slot = "b5"


class NoRouting(_Skip):
    """No anchors, for chains whose B4 is left out."""

    slot = "routing"
