"""JSON records that carry the version of their form and the SHA-256 of their content.

Under `files` a record may name the files beside it that it vouches for, each with its SHA-256. The forms are in
`store.run_root`.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from spd_bench.errors import StateError
from spd_bench.store.files import write_json

log = logging.getLogger(__name__)

Form = TypeVar("Form")
"""A TypedDict, as in `store.run_root`."""

RECORD_VERSION = 1
"""Version of the form of records. Raise it when an older spd-bench would misread one."""
SEAL, VOUCHED = "seal", "files"
"""Keys of a record: its version and digest, and the digests of the files beside it."""


class Unsound(StateError):
    """A file is missing, or its content is not what was written."""


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Replaces `path` by a record: `content` as JSON with its version and digest."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    write_json(path, {**plain, SEAL: {"version": RECORD_VERSION, "sha256": sha256(plain)}})


def read_record(path: Path) -> dict[str, Any]:
    """Returns the content of a record. A record without a seal, which earlier versions wrote, is not checked.

    Raises Unsound if it is missing or damaged, StateError if a newer spd-bench wrote it.
    """
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop(SEAL, None)
        newer = seal is not None and int(seal["version"]) > RECORD_VERSION
        if seal is not None and not newer and seal["sha256"] != sha256(content):
            raise ValueError("its SHA-256 is not the one it was written with")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise Unsound(f"is missing or damaged ({what})", where=str(path), hint="run the suite again") from error
    if newer:
        raise StateError(
            f"was written by a newer spd-bench (record version {seal['version']}, this one knows {RECORD_VERSION})",
            where=str(path),
            hint="use that version, or name another folder with --runs",
        )
    found: dict[str, Any] = content
    return found


def read(path: Path, form: type[Form]) -> Form:
    """Returns the content of a record of this form (a TypedDict).

    Raises as `read_record`, and Unsound if a required key is missing.
    """
    content = read_record(path)
    required: frozenset[str] = getattr(form, "__required_keys__", frozenset())
    if missing := sorted(required - content.keys()):
        raise Unsound(
            f"is not a {form.__name__} ({missing[0]} is missing)", where=str(path), hint="run the suite again"
        )
    return cast(Form, content)


def find(path: Path, form: type[Form]) -> Form | None:
    """Returns as `read`, or None if the record is missing or damaged (logged); the caller then recreates it."""
    try:
        return read(path, form)
    except Unsound as damage:
        if os.path.lexists(path):
            log.warning("%s: %s; it is made again", path, damage.message)
        return None


def found_record(path: Path) -> dict[str, Any] | None:
    """Returns as `read_record`, or None if the record is missing or damaged (logged); the caller recreates it."""
    try:
        return read_record(path)
    except Unsound as damage:
        if os.path.lexists(path):
            log.warning("%s: %s; it is made again", path, damage.message)
        return None


def vouched(folder: Path, record: Mapping[str, Any]) -> bool:
    """Checks the files that a record vouches for against their SHA-256; logs the first that differs."""
    for name, digest in record.get(VOUCHED, {}).items():
        if (found := digest_of(folder / name)) != digest:
            what = "is missing" if found is None else "is not the file that was written"
            log.warning("%s %s; it is made again", folder / name, what)
            return False
    return True


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, in hexadecimal; None if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()


UNFINISHED = "not finished yet"
"""Failure of a row that has no numbers because its suite is still running, or was stopped."""
