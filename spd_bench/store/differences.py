"""The fields in which two identities differ, for `spd-bench why` and for refused comparisons."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from spd_bench.store import records

ABSENT = "–"


class Differing(NamedTuple):
    """One field and its text in both identities; a dash where an identity has no such field."""

    field: str
    """Dotted key."""
    first: str
    """Text in the first identity."""
    second: str
    """Text in the second identity."""


def differences(first: Any, second: Any) -> list[Differing]:
    """Returns the fields in which two nested mappings differ, in the order of the first."""
    ours, theirs = dict(_fields(first)), dict(_fields(second))
    return [
        Differing(key, ours.get(key, ABSENT), theirs.get(key, ABSENT))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    ]


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yields every leaf of nested mappings as (dotted key, text)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _fields(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, str) else records.canonical(value)
