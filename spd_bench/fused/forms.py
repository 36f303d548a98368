"""When a fused form may replace the stock operators, and what the kernels are compiled for.

`fused.build` compiles `kernels/` once per machine with its own C++ compiler. Fused forms equal their stock forms to
rounding. Those of inference run only where `ready` returns True: without gradients or autocast, on a CPU, in float32 or
float64. Elsewhere, without a compiler, or with SPD_BENCH_FUSED=0, the stock forms run; `build.description` says which,
and every timing and every run records it. The forms in `products` choose by themselves where they have a stock form
beside them; for the others the caller checks `ready` (and `unchanged`) and keeps the stock form beside the call.

Where the time is saved: tokens are written once, already standardised (B1); anchors that read the same place are read
one after the other (B4); the next query's tokens are prefetched during the attention of this one (B2, B5).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from spd_bench.fused import build

HEADS, WIDTH = 6, 32
CORE = HEADS * WIDTH
"""Heads, width per head and core width that the kernels are compiled for: the paper's (§2)."""
SIDES = (1, 3, 5)
"""Sides of neighbourhoods that the kernels are compiled for."""
ENLARGED = (64, 128, CORE)
"""Channels of enlarged levels that the kernels are compiled for."""
LANES = 16
"""The kernels read at most this many numbers at once; channels of a table are a multiple of it."""
PANEL = 2 * LANES
"""Columns of a product are a multiple of it."""
MANY = 128
"""Fewest rows for which rearranging the weights of a product is faster than rearranging the rows."""

_off = 0


@contextmanager
def stock() -> Iterator[None]:
    """Context manager in which the stock forms run: to count their arithmetic, or to compare with them."""
    global _off  # noqa: PLW0603 - a switch of the process
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def ready(*tensors: Tensor, heads: int = HEADS, width: int = WIDTH) -> bool:
    """Whether the fused forms of inference support these tensors, heads and width per head."""
    return not torch.is_grad_enabled() and fits(*tensors, heads=heads, width=width)


def fits(*tensors: Tensor, heads: int = HEADS, width: int = WIDTH) -> bool:
    """As `ready`, with or without gradients: for the forms of `fused.training`."""
    if _off or torch.is_autocast_enabled("cpu") or (heads, width) != (HEADS, WIDTH):
        return False
    if torch.compiler.is_exporting():  # a graph holds operators, and its tensors have no values yet
        return False
    kind = tensors[0].dtype
    same = kind in (torch.float32, torch.float64) and all(t.dtype == kind and t.device.type == "cpu" for t in tensors)
    return same and build.loaded()[0] is not None


def unchanged(component: object, base: type, *methods: str) -> bool:
    """Whether a component inherits these methods from `base`: a fused form must not replace an overridden one."""
    return all(getattr(type(component), name) is getattr(base, name) for name in methods)
