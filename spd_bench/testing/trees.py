"""Structures of tensors: tuples, dicts and dataclasses of them."""

import dataclasses
import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from spd_bench.data.randomness import torch_seed

T = TypeVar("T")


def random_projection(outputs: Mapping[str, Tensor]) -> Tensor:
    """Returns a scalar that depends on every output, with random weights: plain sums of softmaxes are constant."""
    parts = [(x * torch.randn_like(x)).sum() for x in outputs.values() if x.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Returns the same structure with every tensor changed."""
    result: Any = value
    if isinstance(value, Tensor):
        result = change(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: map_tensors(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        result = dataclasses.replace(value, **fields)
    elif isinstance(value, dict):
        result = {name: map_tensors(part, change) for name, part in value.items()}
    elif isinstance(value, tuple):
        parts = [map_tensors(part, change) for part in value]
        result = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return result  # type: ignore[no-any-return]


def only(value: T, dim: int, index: int) -> T:
    """Returns the same structure with one image (dim 0) or one query (dim 1) of every tensor."""
    return map_tensors(value, lambda x: x.narrow(dim, index, 1))


def shuffled(value: T) -> T:
    """Returns the same structure with the queries of every tensor in another order, always the same one."""

    def shuffle(x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(torch_seed("order", x.shape[1])))
        return x[:, order.to(x.device)]

    return map_tensors(value, shuffle)


def cast(value: T, dtype: torch.dtype) -> T:
    """Returns the same structure with every real number in `dtype`."""
    return map_tensors(value, lambda x: x.to(dtype) if x.is_floating_point() else x)


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor of a structure with the path that leads to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from tensors(part, f"{name}[{index}]")


def sent(value: T) -> T:
    """Returns the value as another process would unpickle it."""
    return pickle.loads(pickle.dumps(value))  # type: ignore[no-any-return]  # noqa: S301
