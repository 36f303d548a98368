"""Parameter-matched controls: they separate the effect of a component from that of its number of parameters.

A model without a component is also smaller, which alone may make it worse. Its control leaves out the same component
and has the base's number of trainable parameters, by wider feed-forward layers in the remaining blocks (`Dims.ffn`).
The number of parameters is linear in that width, so two counts determine it.
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
    """The composition; a control gets its width and a description with the ratio that was reached.

    count: trainable parameters of a composition. Raises ConfigError if no width comes within `TOLERANCE` of the base,
    such as when no remaining block has a feed-forward layer.
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
            hint="remove it from axes.leave_one_out or axes.leave_group_out, or set parameter_matched: false",
        )
    difference = (
        f"{composition.difference}, feed-forward width: {width} → {found} ({ratio:.2%} of {base.name}'s parameters)"
    )
    return replace(control, difference=difference)
