"""Dataclasses as JSON, for values that go from one process to another; one writer and one reader for all of them."""

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def to_json(value: object) -> Any:
    """The fields of a dataclass as plain JSON values; paths become text, and nested dataclasses objects."""
    return TypeAdapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], plain: Any) -> T:
    """The dataclass of type `kind` that `to_json` wrote. Raises pydantic's ValidationError for anything else."""
    return TypeAdapter(kind).validate_python(plain)
