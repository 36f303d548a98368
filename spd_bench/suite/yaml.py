"""Strict YAML whose values know their place, so that an error can point at the line that caused it.

The language is a subset of YAML 1.2: one document, one mapping at the top, no tags, no anchors, aliases or merge
keys, no duplicate keys. A plain scalar is `null`, `true`, `false`, a decimal integer, a finite decimal number, or
text: `no`, `010`, `1:30`, `1_000` and `2020-01-01` are text, and `1e-4` is a number.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from spd_bench.errors import ConfigError, quoted

Keys = tuple[str | int, ...]
"""Position of a value in a tree: keys of mappings and indices of lists, from the top."""

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 50
MAX_VALUES = 10_000
"""Largest number of keys, items and values of a file: ten times that of any suite; reading takes time for each."""
MAX_INT = 2**63 - 1

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}


@dataclass(frozen=True)
class Node:
    """A value and its place."""

    value: Any
    """A scalar, a dict of nodes or a list of nodes."""
    place: str
    """Where it was written: "file:line:column" (from 1), or "--set a.b=c"."""
    key: str = ""
    """Place of the mapping key that names it; "" if no key does."""

    def plain(self) -> Any:
        """The same tree in plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def nearest(self, keys: Keys) -> "Node":
        """The node at `keys`, or the deepest node on the path to it."""
        if keys:
            child = dict(_children(self)).get(keys[0])
            if child is not None:
                return child.nearest(keys[1:])
        return self

    def places(self) -> dict[Keys, str]:
        """Keys → place of every value, in document order; a list or mapping under a key has the place of the key."""
        found: dict[Keys, str] = {(): self.head}
        for key, child in _children(self):
            found |= {(key, *rest): place for rest, place in child.places().items()}
        return found

    @property
    def head(self) -> str:
        """The place to show in messages: a scalar's own place; for a list or mapping that of its key."""
        return self.key or self.place if isinstance(self.value, dict | list) else self.place


def _children(node: Node) -> Iterator[tuple[str | int, Node]]:
    if isinstance(node.value, dict):
        yield from node.value.items()
    elif isinstance(node.value, list):
        yield from enumerate(node.value)


def load_yaml(path: Path) -> Node:
    """The tree of one suite file, a mapping at the top.

    Raises ConfigError, with file:line:column where possible, for syntax outside the subset above, for a file over
    1 MiB or 10,000 values, for nesting over 50 levels and for text that is not UTF-8.
    """
    name = str(path)
    root = parse_yaml(_read_text(path), name)
    if not isinstance(root.value, dict):
        raise ConfigError(
            f"expected a mapping of keys at the top, found {kind(root.value)}",
            where=f"{name}:1:1" if root.value is None else root.place,
            hint='a suite starts with a line such as "suite: my_ablation"',
        )
    return root


def parse_yaml(text: str, name: str) -> Node:
    """The tree of one document; `name` is the file name in its places. Raises ConfigError as `load_yaml`."""
    return _Parser(text, name).document()


def setting(text: str, option: str = "--set") -> Node:
    """The partial tree of an override `a.b.c=value`, to merge over a suite; every place is "--set a.b.c=value".

    The value is YAML: a scalar, or a flow list or mapping such as `[1, 2]`.
    """
    where = f"{option} {text}"
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys) or not value.strip() or len(keys) > MAX_DEPTH:
        raise ConfigError(
            "expected path.to.key=value", where=where, hint="for example --set train.lr=3e-4; null removes a value"
        )
    try:
        node = _relocate(parse_yaml(value, where), where)
    except ConfigError as error:
        raise ConfigError(error.message, where=where, hint=error.hint) from error
    for key in reversed(keys):
        node = Node({key: node}, where, where)
    return replace(node, key="")


def merge(base: Node, override: Node) -> Node:
    """The tree `override` merged over `base`; every value keeps its place.

    Mappings merge key by key; other values are replaced. `null` removes the key. Where two mappings have different
    values of `use`, they name different components, and the later one replaces the earlier with all its options.
    """
    if not isinstance(base.value, dict) or not isinstance(override.value, dict) or _rival(base, override):
        return override
    merged = dict(base.value)
    for key, child in override.value.items():
        if key not in merged:
            merged[key] = child
        elif child.value is None:
            del merged[key]
        else:
            merged[key] = merge(merged[key], child)
    return Node(merged, base.place, base.key)


def kind(value: Any) -> str:
    """A short description of a value for error messages."""
    if isinstance(value, dict | list):
        return ("a " if value else "an empty ") + ("mapping" if isinstance(value, dict) else "list")
    if isinstance(value, str):
        return f"the text {quoted(value, most=60)}"
    return "nothing" if value is None else json.dumps(value)


def _rival(base: Node, override: Node) -> bool:
    used = [node.value["use"].value for node in (base, override) if "use" in node.value]
    return len(used) == 2 and used[0] != used[1]


def _relocate(node: Node, where: str) -> Node:
    value = node.value
    if isinstance(value, dict):
        value = {key: _relocate(child, where) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_relocate(child, where) for child in value]
    return Node(value, where, where)


def _read_text(path: Path) -> str:
    """The file's text; raises ConfigError without reading all of a file that is too large."""
    name = str(path)
    try:
        if not path.is_file():
            found = "this is a folder" if path.is_dir() else "no such file"
            raise ConfigError(f"{found}; expected a YAML file", where=name)
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read this file: {error.strerror}", where=name) from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"larger than {MAX_BYTES} bytes: this cannot be a suite", where=name)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConfigError("not UTF-8 text", where=f"{name}:{line}:{column}", hint="save it as UTF-8") from error
    return text


def _syntax_error(error: YAMLError, text: str, name: str) -> ConfigError:
    """ruamel's error as a ConfigError of one line with a place."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        where = f"{name}:{mark.line + 1}:{mark.column + 1}"
        parts = [getattr(error, "context", None), getattr(error, "problem", None)]
        return ConfigError("not valid YAML: " + ", ".join(part for part in parts if part), where=where)
    position = getattr(error, "position", 0)
    before = text[:position]
    where = f"{name}:{before.count(chr(10)) + 1}:{position - before.rfind(chr(10))}"
    character = ascii(text[position : position + 1])
    return ConfigError(f"not valid YAML: the character {character} may not stand in a text file", where=where)


class _Parser:
    """Builds nodes from ruamel's events; rejects syntax outside the subset at its first event."""

    def __init__(self, text: str, name: str) -> None:
        self.events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        self.text = text
        self.name = name
        self.reached = f"{name}:1:1"
        self.values = 0

    def next(self) -> Any:
        """The next event; raises ConfigError with a place for any failure of ruamel."""
        try:
            event = next(self.events)
        except YAMLError as error:
            raise _syntax_error(error, self.text, self.name) from error
        except (ArithmeticError, AssertionError, ValueError) as error:  # an escape or a directive with a wild number
            raise ConfigError(f"not valid YAML after this place: {error}", where=self.reached) from error
        self.reached = self.place(event)
        return event

    def document(self) -> Node:
        self.next()
        start = self.next()
        if isinstance(start, StreamEndEvent):
            return Node(None, f"{self.name}:1:1")
        if start.version not in (None, (1, 2)) or start.tags:
            raise self.refusal("%YAML and %TAG directives are not part of a suite; this is YAML 1.2", start)
        root = self.node(self.next(), depth=1)
        self.next()
        after = self.next()
        if isinstance(after, DocumentStartEvent):
            raise self.refusal("a second document starts here; a suite is one document", after)
        return root

    def node(self, event: Any, depth: int) -> Node:
        if isinstance(event, AliasEvent):
            raise self.refusal(f"aliases (*{event.anchor}) are not allowed", event, hint="write the value out")
        if event.anchor is not None:
            raise self.refusal(f"anchors (&{event.anchor}) are not allowed", event, hint="write the value out")
        if event.tag is not None:
            raise self.refusal(f"tags ({event.tag}) are not allowed", event, hint="a suite holds plain values only")
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.refusal(f"more than {MAX_VALUES} values: this cannot be a suite", event)
        if depth > MAX_DEPTH:
            raise self.refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, MappingStartEvent):
            return Node(self.mapping(depth), self.place(event))
        if isinstance(event, SequenceStartEvent):
            return Node(self.sequence(depth), self.place(event))
        return Node(self.scalar(event), self.place(event))

    def mapping(self, depth: int) -> dict[str, Node]:
        members: dict[str, Node] = {}
        while not isinstance(event := self.next(), MappingEndEvent):
            key = self.key(event, depth)
            if key in members:
                raise self.refusal(f"the key {quoted(key)} is given twice; first at {members[key].key}", event)
            members[key] = replace(self.node(self.next(), depth + 1), key=self.place(event))
        return members

    def key(self, event: Event, depth: int) -> str:
        if isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
            raise self.refusal("merge keys (<<) are not allowed", event, hint="write the values out, or use extends")
        key = self.node(event, depth + 1).value
        if not isinstance(key, str):
            hint = None if isinstance(key, dict | list) else "put it in quotes"
            raise self.refusal(f"a key must be text, found {kind(key)}", event, hint)
        return key

    def sequence(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self.next(), SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        return items

    def scalar(self, event: ScalarEvent) -> str | int | float | bool | None:
        """A quoted or block scalar is text; a plain one is read by the rules at the top of this file."""
        text: str = event.value
        if bad := _UNPRINTABLE.search(text):
            raise self.refusal(f"the character {bad.group()!a} may not stand in a suite", event)
        if not event.implicit[0]:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            if len(text) > len(str(MAX_INT)) + 1 or abs(int(text)) > MAX_INT:
                raise self.refusal("an integer outside 64 bits", event)
            return int(text)
        if _NOT_FINITE.fullmatch(text) or (_FLOAT.fullmatch(text) and abs(float(text)) == float("inf")):
            raise self.refusal(f"{text} is not a finite number", event)
        return float(text) if _FLOAT.fullmatch(text) else text

    def place(self, event: Event) -> str:
        return f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"

    def refusal(self, message: str, event: Event, hint: str | None = None) -> ConfigError:
        return ConfigError(message, where=self.place(event), hint=hint)
