"""Multiply-adds and least memory traffic of a model by block, counted from the operations that it runs.

Multiply-adds: matrix products, convolutions and attention as PyTorch counts them, and reads that PyTorch does not
count: `embedding_bag` and the bilinear `grid_sample` one per gathered value, bilinear resizing four per value, pooling
one per value pooled. Element-wise work (norms, softmax, GELU, sines) is not counted. Fused forms are counted as their
stock operators, since a counter cannot look into a kernel.

Least traffic of a block: every tensor that it reads and did not create (parameters, its prepared data, the state of the
queries) once, and every tensor that it returns once. Intermediate tensors and repeated reads are not included. A gather
counts the rows it reads, at most the whole table.

Letters: B images, K queries.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from spd_bench.api import Features, PointDepthModel
from spd_bench.cost.timing import DecodeWork, Work
from spd_bench.fused import forms
from spd_bench.model.compose import QUERY_CHUNK, ComposedModel

REST = "(rest)"
"""Row for everything that a model computes outside its blocks."""
aten = torch.ops.aten
Shape = tuple[int, ...]
BAGS = (aten._embedding_bag, aten._embedding_bag_forward_only)


def _bag_flops(table: Shape, indices: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(indices) * table[1]


def _grid_sample_flops(maps: Shape, grid: Shape, *args: Any, out_shape: Shape, **kwargs: Any) -> int:
    return 2 * 4 * prod(out_shape)


def _resize_flops(maps: Shape, *args: Any, out_shape: Shape, **kwargs: Any) -> int:
    return 2 * 4 * prod(out_shape)


def _pool_flops(maps: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(maps)


FORMULAS: Mapping[Any, Callable[..., int]] = {
    **dict.fromkeys(BAGS, _bag_flops),
    aten.grid_sampler_2d: _grid_sample_flops,
    aten.upsample_bilinear2d: _resize_flops,
    aten.avg_pool2d: _pool_flops,
}
"""FLOPs, twice the multiply-adds, of operations that `FlopCounterMode` knows no formula for, from their shapes."""


@torch.no_grad()
def macs(call: Callable[[], object]) -> float:
    """Multiply-adds of one call with stock operators; a FLOP count is twice that."""
    with forms.stock(), FlopCounterMode(display=False, custom_mapping=dict(FORMULAS)) as flops:
        call()
    return float(flops.get_total_flops() / 2)


@torch.no_grad()
def prepare_work(model: PointDepthModel, features: Features) -> dict[str, Work]:
    """Work of `prepare` by block, for the images of `features`."""
    if not isinstance(model, ComposedModel):
        return _by_block(model, lambda: model.prepare(features))
    found = {}
    with _counted() as count:
        pyramid = model.neck(features)
    found["neck"] = count(pyramid)
    for slot in model.block_slots:
        with _counted() as count:
            share = model.block(slot).prepare(pyramid)
        found[slot] = count(share)
    return found


@torch.no_grad()
def decode_work(model: PointDepthModel, features: Features) -> dict[str, DecodeWork]:
    """Work of `decode` by block for one image: per query, and per chunk of queries."""
    scene = model.prepare(features)
    some, more = QUERY_CHUNK // 2, QUERY_CHUNK
    few, many = (_by_block(model, lambda k=k: model.decode(scene, _points(k, features))) for k in (some, more))  # type: ignore[misc]
    return {block: _split(few[block], many[block], some, more) for block in many}


def _points(count: int, features: Features) -> Tensor:
    like = features.maps_BHWC[0]
    return torch.full((1, count, 2), 0.5, dtype=like.dtype, device=like.device)


def _split(few: Work, many: Work, some: int, more: int) -> DecodeWork:
    """Slope and intercept of the work from two numbers of queries."""
    macs, moved = (many.macs - few.macs) / (more - some), (many.bytes - few.bytes) / (more - some)
    return DecodeWork(Work(macs, moved), Work(few.macs - some * macs, few.bytes - some * moved))


def _by_block(model: PointDepthModel, call: Callable[[], object]) -> dict[str, Work]:
    """Work of a call by child module, and the rest under `REST`."""
    found: dict[str, Work] = {}
    handles = [
        handle for name, child in model.named_children() for handle in _watched(child, name, found) if name != "encoder"
    ]
    try:
        with _counted() as count:
            result = call()
    finally:
        for handle in handles:
            handle.remove()
    whole = count(result)
    rest = whole.macs - sum(work.macs for work in found.values())
    return found | ({REST: Work(rest, whole.bytes if not found else 0.0)} if rest or not found else {})


def _watched(child: nn.Module, name: str, found: dict[str, Work]) -> Iterator[Any]:
    """Handles of hooks that add the work of each call of a module to `found`."""
    open_counts: list[Any] = []

    def before(module: nn.Module, args: Any) -> None:
        context = _counted()
        open_counts.append((context, context.__enter__()))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        context, count = open_counts.pop()
        context.__exit__(None, None, None)
        done, before_it = count(output), found.get(name, Work(0.0, 0.0))
        found[name] = Work(before_it.macs + done.macs, before_it.bytes + done.bytes)

    yield child.register_forward_pre_hook(before)
    yield child.register_forward_hook(after)


@contextmanager
def _counted() -> Iterator[Callable[[Any], Work]]:
    """Context manager that counts operations; yields a function from their output to their work."""
    traffic = _Traffic()
    with forms.stock(), FlopCounterMode(display=False, custom_mapping=dict(FORMULAS)) as flops, traffic:
        yield lambda output: Work(flops.get_total_flops() / 2, float(traffic.bytes_to(output)))


class _Traffic(TorchDispatchMode):
    """Records the storages that operations read without having created them, with their bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: dict[Any, int] = {}
        self.made: set[Any] = set()
        self.held: list[Tensor] = []  # keeps tensors alive, so that no later one reuses an address that is a key here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            if _storage(tensor) not in self.made:
                self._note(tensor, _nbytes(tensor) if func.overloadpacket not in BAGS else _gathered(tensor, args))
        output = func(*args, **(kwargs or {}))
        new = [tensor for tensor in _tensors(output) if _storage(tensor) not in self.read]
        self.made.update(map(_storage, new))
        self.held += new
        return output

    def _note(self, tensor: Tensor, size: int) -> None:
        name = _storage(tensor)
        self.read[name] = max(self.read.get(name, 0), size)
        self.held.append(tensor)

    def bytes_to(self, output: Any) -> int:
        """Bytes read, plus bytes of the output's tensors that were created inside."""
        handed = {_storage(t): _nbytes(t) for t in _reachable(output) if _storage(t) in self.made}
        return sum(self.read.values()) + sum(handed.values())


def _gathered(tensor: Tensor, args: Any) -> int:
    """Bytes of the rows that a bag reads of its table; all bytes of its other arguments."""
    table, indices = args[0], args[1]
    rows = min(table.shape[0], indices.numel())
    return rows * table.shape[1] * table.element_size() if tensor is table else _nbytes(tensor)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata


def _nbytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements: an expanded dimension is stored once."""
    stored = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return stored * tensor.element_size()


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _reachable(value: Any) -> Iterator[Tensor]:
    """All tensors in containers and in attributes of objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _reachable(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _reachable(item)
    elif hasattr(value, "__dict__"):
        yield from _reachable(vars(value))
