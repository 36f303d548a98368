"""What a model prepares for an image, taken apart into its tensors and put together again, whatever its classes are."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Path = tuple[Any, ...]
"""Keys, indices and names of attributes that lead to a tensor."""


def tensors(scene: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor below `scene` but the parameters of modules, with the path that leads to it."""
    if isinstance(scene, Tensor):
        if not isinstance(scene, nn.Parameter):
            yield path, scene
        return
    for key, value in _parts(scene):
        yield from tensors(value, (*path, key))


def at(scene: Any, path: Path) -> Tensor:
    """The tensor at a path."""
    for key in path:
        # an attribute may be a cached property that was not asked for yet
        named = isinstance(key, str) and not isinstance(scene, Mapping)
        scene = getattr(scene, key) if named else scene[key]
    assert isinstance(scene, Tensor)
    return scene


def rebuilt(scene: Any, found: Mapping[Path, Tensor], path: Path = ()) -> Any:
    """A copy of `scene` with other tensors at the paths of `found`."""
    if path in found:
        return found[path]
    parts = {key: rebuilt(value, found, (*path, key)) for key, value in _parts(scene)}
    if isinstance(scene, Mapping):
        return parts
    if isinstance(scene, list | tuple):
        values = list(parts.values())
        return type(scene)(*values) if hasattr(scene, "_fields") else type(scene)(values)
    if not parts:
        return scene
    made = copy.copy(scene)
    vars(made).update(parts)
    return made


def used(scene: Any, act: Callable[[], object]) -> list[Path]:
    """Paths of the tensors of `scene` that `act` computes with; of a tensor that several paths lead to, the first."""
    act()  # what is computed once, at the first call, belongs to the scene
    with _Recorder() as recorder:
        act()
    found: dict[int, Path] = {}
    for path, tensor in tensors(scene):
        if id(tensor) in recorder.seen:
            found.setdefault(id(tensor), path)
    return list(found.values())


class _Recorder(TorchDispatchMode):
    """Notes which tensors operators are given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.seen |= {id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        return func(*args, **kwargs)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a value consists of: items of mappings and sequences, attributes of plain objects; nothing of a module."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type) and not callable(value):
        yield from vars(value).items()
