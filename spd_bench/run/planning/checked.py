"""Which models of a suite need no check of their own, because they differ in no shape from one that was checked."""

from typing import Any

from spd_bench.api import PointDepthModel
from spd_bench.store import records
from spd_bench.suite.axes import CompositionSpec

NUMBERS = (0.0, 1.0)
"""Fractions that may switch a part of a model off, and so count as they are."""


class CheckedModels:
    """The models that were checked (`compose.check`)."""

    def __init__(self) -> None:
        self._aligned: dict[str, bool] = {}
        self._shapes: set[str] = set()

    def aligned(self, made: CompositionSpec) -> bool | None:
        """Whether the same model, trained in another way, is aligned to ground truth; None if none was checked."""
        return self._aligned.get(_key(made))

    def alike(self, made: CompositionSpec, model: PointDepthModel) -> bool:
        """Whether a model was checked that has the same components, parameters and options but for fractions."""
        return _shapes(made, model) in self._shapes

    def add(self, made: CompositionSpec, model: PointDepthModel) -> None:
        """Takes in a model that was checked, or is alike one."""
        self._aligned[_key(made)] = model.gt_aligned
        self._shapes.add(_shapes(made, model))


def _key(made: CompositionSpec) -> str:
    return records.sha256(_parts(made))


def _parts(made: CompositionSpec) -> dict[str, Any]:
    """Everything of a composition that its model is built from; the training recipe is no part of it."""
    return {
        "slots": {slot: choice.plain() for slot, choice in made.slots.items()},
        "baseline": made.baseline and made.baseline.plain(),
        "ffn": made.ffn,
    }


def _shapes(made: CompositionSpec, model: PointDepthModel) -> str:
    """A key of what shapes and gradients depend on: components, options but for fractions, and tensors."""
    parameters = [[name, [*p.shape], str(p.dtype), p.requires_grad] for name, p in model.named_parameters()]
    buffers = [[name, [*b.shape], str(b.dtype)] for name, b in model.named_buffers()]
    return records.sha256({"parts": _without_fractions(_parts(made)), "tensors": [parameters, buffers]})


def _without_fractions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_fractions(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_fractions(inner) for inner in value]
    return "a fraction" if isinstance(value, float) and value not in NUMBERS else value
