"""How a kit fails or skips a test, with what was expected."""

import re
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Models are compared in float64; this leaves room for parts that compute in float32."""


def require(holds: bool, problem: str) -> None:
    """Fails the test with `problem` unless it holds."""
    __tracebackhide__ = True
    if not holds:
        fail(problem)


def fail(problem: str) -> NoReturn:
    """Fails the test."""
    __tracebackhide__ = True
    raise AssertionError(problem)


def skip(reason: str) -> NoReturn:
    """Skips the test with a reason."""
    import pytest

    pytest.skip(reason)


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, *, exact: bool = False) -> None:
    """Fails unless both hold the same tensors, to 1e-5 or exactly."""
    __tracebackhide__ = True
    require(found.keys() == expected.keys(), f"{what}: gives {sorted(found)}, expected {sorted(expected)}")
    tolerance = 0.0 if exact else TOLERANCE
    for name, value in found.items():
        label = f"{what}: {name or 'the output'} differs"
        try:
            torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)
        except AssertionError as error:
            fail(f"{label}\n{error}")


def require_shape(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    """Fails unless the tensor has this shape; None passes."""
    if value is not None:
        require(tuple(value.shape) == shape, f"{name} has shape {tuple(value.shape)}, expected {shape}")


def require_one_digest(*digests: str) -> None:
    """Fails unless the digests of one object before and after use, and of an equal object, are the same."""
    digest = digests[0]
    require(bool(re.fullmatch("[0-9a-f]{64}", digest)), f"digest is {digest!r}, not 64 hexadecimal digits")
    require(set(digests) == {digest}, f"the digest is not stable: {', '.join(digests)}")
