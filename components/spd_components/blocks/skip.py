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
    """No local cross-attention: h⁽⁰⁾ goes on as h⁽²⁾."""

    slot = "b2"


class SkipB3(_Skip):
    """No global cross-attention: h⁽²⁾ goes on as h⁽²⁾′, and there is no attention to route on."""

    slot = "b3"


class SkipB4(_Skip):
    """No deformable read: B5 attends to the local tokens alone."""

    slot = "b4"


class SkipB5(_Skip):
    """No fused cross-attention: h⁽²⁾′ goes on to the depth head, and B4's evidence is not read."""

    slot = "b5"


class NoRouting(_Skip):
    """No anchors, for chains whose B4 is left out."""

    slot = "routing"
