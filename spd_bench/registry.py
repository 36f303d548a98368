"""Components by slot and name, over the entry points of every installed distribution.

Listing reads metadata only; a component's module is imported when it is loaded. A plugin that cannot be imported
is an error of its own, and stops only what names it. Two distributions may register the same name: it is then
spoken of as "distribution:name". A plain name that this distribution registers means its own component, whatever else
is installed; suite files of the user must be explicit (`suite.checks`).

Plugins are trusted code: nothing here contains them. `SPD_BENCH_PLUGINS` narrows which ones are seen: unset, all;
empty, only this distribution's own; else a comma list of distributions, in addition to its own.
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
PLUGINS_VARIABLE = "SPD_BENCH_PLUGINS"


class PluginError(ConfigError):
    """An installed component cannot be used; `traceback` holds what its import raised, "" if it did import."""

    def __init__(self, message: str, *, traceback: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


@dataclass(frozen=True, order=True)
class Entry:
    """One registered component, as its distribution's metadata has it. `value` is "module:Class"."""

    slot: str
    name: str
    distribution: str
    version: str
    value: str

    @property
    def qualified(self) -> str:
        """The name that no other distribution can share, "distribution:name"."""
        return f"{self.distribution}:{self.name}"


@dataclass(frozen=True)
class Status:
    """Whether a component loads: `problem` is one line and `traceback` the whole story, both "" where it does."""

    entry: Entry
    problem: str = ""
    traceback: str = ""

    @property
    def ok(self) -> bool:
        """True if it loads."""
        return not self.problem


def entries(slot: str | None = None) -> list[Entry]:
    """Registered components of one slot, or of all, sorted; nothing is imported.

    Raises ConfigError for an unknown slot, and where SPD_BENCH_PLUGINS names a distribution without components.
    """
    if slot is not None and slot not in SLOTS:
        raise ConfigError(f"unknown slot {quoted(slot)}", hint=did_you_mean(slot, SLOTS))
    found = _allowed(_discover())
    return sorted(entry for entry in found if slot in (None, entry.slot))


def names(slot: str) -> list[str]:
    """What a suite may write in this slot: plain names, or "distribution:name" where two distributions share one.

    A shared name of this distribution's own stays plain.
    """
    found = entries(slot)
    plain = [entry.name for entry in found]
    return [
        entry.qualified if plain.count(entry.name) > 1 and entry.distribution != OWN else entry.name for entry in found
    ]


def sharing(slot: str, name: str) -> list[Entry]:
    """The entries that a plain name could mean, if they are several; none otherwise."""
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
    """The entry that `name` or "distribution:name" means; nothing is imported.

    Raises ConfigError for an unknown name, with the nearest one and with the slots that do have it, and for a name
    that several other distributions register, naming them.
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
    """Import and return the component class that `name` (or "distribution:name") means.

    Raises ConfigError as `find`, and PluginError where the import fails or the class belongs in another slot.
    """
    return _import(find(slot, name))


_GIVEN_UP: dict[Entry, str] = {}


def give_up(slot: str, name: str, cause: str) -> None:
    """Never import this component again in this process: an import of it ended another one. Raises as `find`."""
    _GIVEN_UP[find(slot, name)] = cause


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
    """Within, a component's own code runs: what it raises becomes a PluginError that begins with `what`.

    An error of ours stays what it is, since a component raises one on purpose; want of memory or disk is one of ours.
    """
    try:
        yield
    except SpdError:
        raise
    except (Exception, SystemExit) as error:  # a component may call sys.exit
        if lacks := shortage(error):
            raise lacks from error
        raise PluginError(f"{what}: {_told(error)}{_place(error)}", traceback=traceback.format_exc()) from error


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def _place(error: BaseException) -> str:
    """Where a component raised it, as " (file:line in function)": the innermost frame outside of PyTorch."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""


def status(slot: str, name: str) -> Status:
    """Whether a component loads, with its traceback if not. Raises ConfigError only as `find`."""
    entry = find(slot, name)
    try:
        _import(entry)
    except PluginError as error:
        return Status(entry, error.message, error.traceback)
    return Status(entry)


def _import(entry: Entry) -> type[Any]:
    """Import a component. What a plugin prints meanwhile goes to stderr: stdout belongs to the command."""
    named = f'{entry.slot} "{entry.name}" of distribution {entry.distribution} {entry.version}'
    point = EntryPoint(name=entry.name, value=entry.value, group=f"spd_bench.{entry.slot}")
    if entry in _GIVEN_UP:
        raise PluginError(f"{named} cannot be imported: {_GIVEN_UP[entry]}")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            component = point.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{named} cannot be imported: {_told(error)}",
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
    """Every entry of our groups on sys.path, whoever registers it."""
    return _scan(tuple(sys.path))


@lru_cache(maxsize=1)
def _scan(path: tuple[str, ...]) -> tuple[Entry, ...]:
    """One pass over the metadata of what lies on `path`, 5 ms for 200 distributions; kept, as a suite asks often."""
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
    """The entries that SPD_BENCH_PLUGINS lets through."""
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
