"""A suite's raw tree in one long form, with a profile applied, or with a build-order step applied."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spd_bench import registry
from spd_bench.errors import ConfigError, quoted
from spd_bench.suite.schema import MODEL_SLOTS, target
from spd_bench.suite.yaml import Keys, Node, merge

_CHOICES: tuple[tuple[Keys, str], ...] = (
    *((("base", slot), slot) for slot in MODEL_SLOTS),
    (("data", "dataset"), "dataset"),
    (("data", "test"), "dataset"),
    (("data", "query_sampler"), "query_sampler"),
    (("train", "loss"), "loss"),
)


def long_form(tree: Node) -> Node:
    """The tree with components as `{use: name}` and axis paths as "slot.option", also in profiles: for `merge`."""
    tops: list[Keys] = [(), *((("profiles", name)) for name in names(tree, "profiles"))]
    tops += [(*top, "steps", name, "set") for top in tops for name in names(tree.nearest(top), "steps")]
    for top in tops:
        for keys, _ in _CHOICES:
            tree = _edit(tree, top + keys, _named)
        tree = _edit(tree, (*top, "axes", "grid"), _flat)
        tree = _edit(tree, (*top, "axes", "cross"), _each_flat)
    return tree


def names(node: Node, key: str) -> list[str]:
    """The keys of the mapping under `key`; empty if there is none."""
    found = node.value.get(key) if isinstance(node.value, dict) else None
    return list(found.value) if found is not None and isinstance(found.value, dict) else []


def _named(node: Node) -> Node:
    return Node({"use": node}, node.place, node.key) if isinstance(node.value, str) else node


def _flat(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    flat: dict[str, Node] = {}
    for path, item in _leaves(node):
        if path in flat:
            raise ConfigError(f"{quoted(path)} is given twice; first at {flat[path].key}", where=item.key)
        flat[path] = item
    return Node(flat, node.place, node.key)


def _leaves(node: Node, above: str = "") -> Iterator[tuple[str, Node]]:
    """Every value that is not a mapping, as (dotted path, node)."""
    for key, child in node.value.items():
        if isinstance(child.value, dict):
            yield from _leaves(child, f"{above}{key}.")
        else:
            yield above + key, child


def _each_flat(node: Node) -> Node:
    return Node([_flat(item) for item in node.value], node.place, node.key) if isinstance(node.value, list) else node


def _edit(node: Node, keys: Keys, change: Callable[[Node], Node]) -> Node:
    """The tree with the node at `keys`, if there is one, changed."""
    if not keys:
        return change(node)
    if not isinstance(node.value, dict) or keys[0] not in node.value:
        return node
    child = _edit(node.value[keys[0]], keys[1:], change)
    return Node({**node.value, keys[0]: child}, node.place, node.key)


def with_profile(tree: Node, name: str | None) -> Node:
    """The tree with one of its profiles merged over it."""
    if name is None:
        return tree
    profile = tree.nearest(("profiles", name))
    return merge(tree, Node(profile.value, profile.place)) if isinstance(profile.value, dict) else tree


def with_step(tree: Node, name: str) -> Node:
    """The suite of one build-order step: its name, its values, and the baselines that its checks name."""
    step = tree.nearest(("steps", name))
    values = step.nearest(("set",)) if isinstance(step.value, dict) and "set" in step.value else Node({}, step.place)
    baselines = []
    if isinstance(step.value, dict):
        better = step.nearest(("checks", "better_than"))
        baselines += better.value if isinstance(better.value, list) else []
        close = step.nearest(("checks", "close_to"))
        near = close.value if isinstance(close.value, dict) and close is not step.nearest(("checks",)) else {}
        baselines += [Node(key, node.key, node.key) for key, node in near.items()]
    alone = {
        "base": Node({"name": Node(name, step.head, step.head)}, step.head),
        "baselines": Node(_first_of_each(baselines), step.head),
        "steps": Node(None, step.head),
    }
    laid = merge(tree, Node(values.value, values.place)) if isinstance(values.value, dict) else tree
    return merge(laid, Node(alone, step.head))


def _first_of_each(nodes: list[Node]) -> list[Node]:
    """The nodes without repeated values."""
    return list({json.dumps(node.plain(), sort_keys=True): node for node in reversed(nodes)}.values())[::-1]


def dig(value: Any, keys: Keys) -> Any:
    """The value at `keys` in plain data of any shape; None if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def choices(plain: Mapping[str, Any]) -> Iterator[tuple[Keys, str, Any]]:
    """Every component that a suite names, as (keys, slot, value as written); ignores values of a wrong shape."""
    for keys, slot in _CHOICES:
        if (value := dig(plain, keys)) is not None:
            yield keys, slot, value
    swap = dig(plain, ("axes", "swap"))
    lists = [(("axes", "swap", slot), slot, items) for slot, items in swap.items()] if isinstance(swap, dict) else []
    for keys, slot, items in [*lists, (("baselines",), "baseline", plain.get("baselines"))]:
        if slot in registry.SLOTS and isinstance(items, list):
            yield from (((*keys, i), slot, item) for i, item in enumerate(items))
    crossed = dig(plain, ("axes", "cross"))
    sweeps: list[tuple[Keys, Any]] = [(("axes", "grid"), dig(plain, ("axes", "grid")))]
    sweeps += [(("axes", "cross", i), paths) for i, paths in enumerate(crossed if isinstance(crossed, list) else ())]
    for keys, paths in sweeps:
        for path, items in paths.items() if isinstance(paths, dict) else ():
            meant = target(path)
            if meant is not None and meant.part in registry.SLOTS and not meant.option and isinstance(items, list):
                yield from (((*keys, path, i), meant.part, item) for i, item in enumerate(items))
