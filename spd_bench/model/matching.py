"""Parameter-matched controls: what a component's loss costs beside the loss of its parameters.

A component that is left out takes its parameters along, so that a worse number may only say that the model is smaller.
Its control leaves the same component out and has the base's number of trainable parameters: the feed-forward layers
of what remains (`Dims.ffn`, the hidden width of every attention layer's two-layer perceptron) are made wider.
Parameters grow with that width by the same number for every unit, so two counts say which width it takes.
"""

from collections.abc import Callable
from dataclasses import replace

from spd_bench.api import Dims
from spd_bench.errors import ConfigError
from spd_bench.suite.axes import CompositionSpec

TOLERANCE = 0.02
"""Largest share by which a control's parameters may differ from the base's."""

Count = Callable[[CompositionSpec], int]


def matched(composition: CompositionSpec, base: CompositionSpec, count: Count) -> CompositionSpec:
    """The composition itself or, where it is a control, the control with its width and what that comes to.

    count: trainable parameters of a composition. Raises ConfigError where no width comes within `TOLERANCE` of the
    base, as where nothing that remains has a feed-forward layer.
    """
    if not composition.parameter_matched:
        return composition
    width, wanted = Dims().ffn, count(base)
    bare = count(replace(composition, ffn=width))
    per_unit = (count(replace(composition, ffn=2 * width)) - bare) / width
    found = max(1, width + round((wanted - bare) / per_unit)) if per_unit > 0 else width
    control = replace(composition, ffn=found)
    ratio = count(control) / wanted
    if abs(ratio - 1) > TOLERANCE:
        raise ConfigError(
            f"{composition.name}: widening the feed-forward layers of what remains gives {ratio:.1%} of the parameters "
            f"of {base.name}, not within {TOLERANCE:.0%}",
            where=composition.where,
            hint="take it out of axes.leave_one_out or axes.leave_group_out, or parameter_matched away",
        )
    difference = (
        f"{composition.difference}, feed-forward width: {width} → {found} ({ratio:.2%} of {base.name}'s parameters)"
    )
    return replace(control, difference=difference)
