"""Components by slot and name, from the entry points of every installed distribution.

Listing reads metadata only; `load` imports a component's module. A plugin that cannot be imported raises PluginError
for the commands that name it and does not affect the others. Where two distributions register the same name, both are
called "distribution:name". A plain name that spd-bench registers always means its own component; suite files of the
user must be explicit (`suite.checks`).

Plugins are trusted code and are not sandboxed. `SPD_BENCH_PLUGINS` selects which distributions are visible: all if
unset, only spd-bench if empty, else spd-bench and those in a comma-separated list.
"""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from spd_bench.errors import ConfigError, SpdError, did_you_mean, quoted, shortage

SLOTS: tuple[str, ...] = (
    "encoder",
    "neck",
    "b1",
    "b2",
    "b3",
    "routing",
    "b4",
    "b5",
    "depth_head",
    "baseline",
    "dataset",
    "query_sampler",
    "loss",
    "metric",
)
"""Every slot that a component can fill; its entry-point group is "spd_bench.<slot>"."""

OWN = "spd-bench"
"""This distribution, always visible."""
PLUGINS_VARIABLE = "SPD_BENCH_PLUGINS"


class PluginError(ConfigError):
    """An installed component cannot be used. `traceback` is that of its import, "" if it could be imported."""

    def __init__(
        self, message: str, *, traceback: str = "", hint: str | None = None, exit_code: int = ConfigError.exit_code
    ) -> None:
        """exit_code: another one where it may not be the component's fault."""
        super().__init__(message, hint=hint)
        self.traceback = traceback
        self.exit_code = exit_code


@dataclass(frozen=True, order=True)
class Entry:
    """One registered component, from its distribution's metadata."""

    slot: str
    """The slot that it is registered for."""
    name: str
    """Its name in suites."""
    distribution: str
    """The distribution that registers it."""
    version: str
    """The version of that distribution."""
    value: str
    """Where its class is: "module:Class"."""

    @property
    def qualified(self) -> str:
        """The unambiguous name, "distribution:name"."""
        return f"{self.distribution}:{self.name}"


@dataclass(frozen=True)
class Status:
    """Whether a component can be loaded."""

    entry: Entry
    """The component."""
    problem: str = ""
    """Why it cannot be loaded, in one line; "" if it can."""
    traceback: str = ""
    """The traceback of its import; "" if it can be loaded."""

    @property
    def ok(self) -> bool:
        """True if it loads."""
        return not self.problem


def entries(slot: str | None = None) -> list[Entry]:
    """Registered components of one slot, or of all, sorted; imports nothing.

    Raises ConfigError for an unknown slot, and where SPD_BENCH_PLUGINS names a distribution without components.
    """
    if slot is not None and slot not in SLOTS:
        raise ConfigError(f"unknown slot {quoted(slot)}", hint=did_you_mean(slot, SLOTS))
    found = _allowed(_discover())
    return sorted(entry for entry in found if slot in (None, entry.slot))


def names(slot: str) -> list[str]:
    """Names that a suite may use in this slot: plain, or "distribution:name" where two distributions share one.

    A component of spd-bench always has its plain name.
    """
    found = entries(slot)
    plain = [entry.name for entry in found]
    return [
        entry.qualified if plain.count(entry.name) > 1 and entry.distribution != OWN else entry.name for entry in found
    ]


def sharing(slot: str, name: str) -> list[Entry]:
    """The entries with this plain name if there are several; otherwise an empty list."""
    matches = [entry for entry in entries(slot) if entry.name == name]
    return matches if len(matches) > 1 else []


def ambiguous(slot: str, name: str, owners: Iterable[Entry]) -> ConfigError:
    """The error for a name that several distributions register."""
    found = list(owners)
    choices = " or ".join(f'"{entry.qualified}"' for entry in found)
    return ConfigError(
        f"{slot} {quoted(name)} is registered by {' and '.join(entry.distribution for entry in found)}",
        hint=f"write {choices}, or leave plugins out: {PLUGINS_VARIABLE} lists the distributions that count, and "
        "empty means this one alone",
    )


def find(slot: str, name: str) -> Entry:
    """The entry of `name` or "distribution:name"; imports nothing.

    Raises ConfigError for an unknown name (with the nearest name, and the slots that have it) and for a name that
    several distributions other than spd-bench register (listing them).
    """
    matches = [entry for entry in entries(slot) if name in (entry.name, entry.qualified)]
    own = [entry for entry in matches if entry.distribution == OWN]
    if len(matches) > 1 and not own:
        raise ambiguous(slot, name, matches)
    matches = own or matches
    if not matches:
        elsewhere = [entry.slot for entry in entries() if name in (entry.name, entry.qualified)]
        found = f"; there is a {' and a '.join(elsewhere)} of that name" if elsewhere else ""
        raise ConfigError(f"unknown {slot} {quoted(name)}{found}", hint=did_you_mean(name, names(slot)))
    return matches[0]


def load(slot: str, name: str) -> type[Any]:
    """The component class of `name` (or "distribution:name"); imports it.

    Raises ConfigError as `find`, and PluginError if the import fails or the class belongs to another slot.
    """
    return _import(find(slot, name))


_GIVEN_UP: dict[Entry, tuple[str, int]] = {}


def give_up(slot: str, name: str, cause: str, *, exit_code: int = PluginError.exit_code) -> None:
    """Blocks imports of this component in this process, because one ended another process. Raises as `find`.

    exit_code: that of the PluginError that such an import raises.
    """
    _GIVEN_UP[find(slot, name)] = cause, exit_code


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Converts exceptions of component code in its body into PluginError(f"{what}: …").

    A SpdError passes unchanged, since a component raises it on purpose; lack of memory or disk becomes one.
    """
    try:
        yield
    except SpdError:
        raise
    except (Exception, SystemExit) as error:  # a component may call sys.exit
        if lacks := shortage(error):
            raise lacks from error
        raise PluginError(f"{what}: {_in_one_line(error)}{_place(error)}", traceback=traceback.format_exc()) from error


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _place(error: BaseException) -> str:
    """Place of the innermost frame outside of PyTorch, as " (file:line in function)"; "" if there is none."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""


def status(slot: str, name: str) -> Status:
    """Whether a component can be loaded, with the traceback if not. Raises ConfigError as `find`."""
    entry = find(slot, name)
    try:
        _import(entry)
    except PluginError as error:
        return Status(entry, error.message, error.traceback)
    return Status(entry)


def _import(entry: Entry) -> type[Any]:
    """The class of an entry, imported and checked. Output that a plugin prints on import goes to stderr."""
    named = f'{entry.slot} "{entry.name}" of distribution {entry.distribution} {entry.version}'
    point = EntryPoint(name=entry.name, value=entry.value, group=f"spd_bench.{entry.slot}")
    if entry in _GIVEN_UP:
        cause, exit_code = _GIVEN_UP[entry]
        raise PluginError(f"{named} cannot be imported: {cause}", exit_code=exit_code)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            component = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{named} cannot be imported: {_in_one_line(error)}",
            traceback=traceback.format_exc(),
            hint="`spd-bench list --check` shows its traceback",
        ) from error
    config = getattr(component, "Config", None)
    if not isinstance(component, type) or not isinstance(config, type) or not issubclass(config, BaseModel):
        raise PluginError(
            f"{named} is not a component: {entry.value} is {component!r}",
            hint="register a class derived from spd_bench.api",
        )
    actual = getattr(component, "slot", None)
    if actual != entry.slot:
        raise PluginError(f'{named} is a component for slot "{actual}", not "{entry.slot}"', hint="correct its group")
    return component


def _discover() -> Iterable[Entry]:
    """Every entry of a "spd_bench.*" group on sys.path."""
    return _scan(tuple(sys.path))


@lru_cache(maxsize=1)
def _scan(path: tuple[str, ...]) -> tuple[Entry, ...]:
    """All entries on `path`; cached, since one pass over the metadata takes 5 ms for 200 distributions."""
    installed = entry_points()
    return tuple(
        Entry(
            slot=slot,
            name=point.name,
            distribution=(point.dist and point.dist.name) or "?",
            version=(point.dist and point.dist.version) or "?",
            value=point.value,
        )
        for slot in SLOTS
        for point in installed.select(group=f"spd_bench.{slot}")
    )


def _allowed(found: Iterable[Entry]) -> list[Entry]:
    """The entries that SPD_BENCH_PLUGINS selects."""
    every = list(found)
    wanted = os.environ.get(PLUGINS_VARIABLE)
    if wanted is None:
        return every
    asked = [name.strip() for name in wanted.split(",") if name.strip()]
    installed = {_normal(entry.distribution) for entry in every}
    for name in asked:
        if _normal(name) not in installed:
            raise ConfigError(
                f'no installed distribution "{name}" registers components',
                where=PLUGINS_VARIABLE,
                hint=did_you_mean(_normal(name), installed - {OWN}),
            )
    return [entry for entry in every if _normal(entry.distribution) in {OWN, *map(_normal, asked)}]


def _normal(distribution: str) -> str:
    """A distribution's name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
