"""The suite in the profile that this machine can run, and what the machine lacks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from spd_bench import registry
from spd_bench.errors import DataError
from spd_bench.process.watch import Watch
from spd_bench.run.planning.quarantine import Quarantine
from spd_bench.run.request import EVERYTHING, Request
from spd_bench.suite.axes import CompositionSpec, Selection
from spd_bench.suite.checks import check_options
from spd_bench.suite.schema import Choice, Suite


def missing(suite: Suite, selection: Selection = EVERYTHING, watch: Watch | None = None) -> list[str]:
    """What this machine lacks for a suite, one line each with how to get it; empty if nothing.

    watch: as for `Experiment`; a composition that cannot be planned is then skipped.
    """
    quarantine = Quarantine(watch)
    chosen = selection.to_run(quarantine.compositions(suite))
    found = {lack: lack for choice in (suite.data.dataset, suite.data.test) for lack in _lack("dataset", choice)}
    for composition in chosen:
        whose = "" if composition.kind == "base" else f"{composition.name} (--skip {composition.name} leaves it out): "
        for lack in quarantine.attempt(composition, partial(_lacks_parts, composition)) or ():
            found.setdefault(lack, whose + lack)
    return list(found.values())


def _lacks_parts(composition: CompositionSpec) -> list[str]:
    return [*_lack("encoder", composition.slots["encoder"]), *_lack("baseline", composition.baseline)]


def _lack(slot: str, choice: Choice | None) -> list[str]:
    """What this machine lacks for a component, as a list of at most one line."""
    ask = None if choice is None else getattr(registry.load(slot, choice.use), "missing", None)
    lack = ask(check_options(choice, slot)) if ask is not None and choice is not None else None
    return [lack] if lack else []


@dataclass(frozen=True)
class Chosen:
    """A suite in the profile that is run here."""

    suite: Suite
    """The suite."""
    why: str = ""
    """What this machine lacks for the suite as it is, where its fallback profile was taken; else ""."""
    steps: Mapping[str, Suite] = field(default_factory=dict)
    """For a build order: each step as a suite of its own."""
    selection: Selection = EVERYTHING
    """Compositions that are run beside the base."""


def choose(request: Request, watch: Watch | None = None) -> Chosen:
    """The suite in the requested profile; without one, the suite itself or, if something is missing, its fallback.

    watch: as for `Experiment`. Raises DataError, naming what is missing and how to get it, where nothing may be
    substituted.
    """
    asked = _loaded(request)
    lacks = _lacks(asked, watch)
    if not lacks:
        return asked
    if request.profile is None and asked.suite.fallback is not None:
        fallback = _loaded(replace(request, profile=asked.suite.fallback.profile))
        why, lacks = "; ".join(lacks), _lacks(fallback, watch)
        if not lacks:
            return replace(fallback, why=why)
    raise DataError(
        "cannot run here:\n  " + "\n  ".join(lacks),
        where=asked.suite.suite + (f" --profile {request.profile}" if request.profile else ""),
    )


def choose_data(request: Request) -> Suite:
    """The suite in the requested profile, for commands that need only its data set; nothing is substituted.

    Raises DataError if the data set is missing.
    """
    suite = request.load()
    if lack := _lacks_data(suite):
        raise DataError(lack, where=suite.suite, hint="or name a profile whose data are here, with --profile")
    return suite


def _lacks_data(suite: Suite) -> str | None:
    choices = [choice for choice in (suite.data.dataset, suite.data.test) if choice is not None]
    lacks = [registry.load("dataset", choice.use).missing(check_options(choice, "dataset")) for choice in choices]
    return next(filter(None, lacks), None)


def _loaded(request: Request) -> Chosen:
    suite = request.load()
    steps = {name: request.load(step=name) for name in suite.steps}
    return Chosen(suite, steps=steps, selection=request.selection)


def _lacks(chosen: Chosen, watch: Watch | None) -> list[str]:
    found = missing(chosen.suite, chosen.selection, watch)
    for step in chosen.steps.values():  # a step has baselines of its own, which no selection names
        found += missing(step, watch=watch)
    return list(dict.fromkeys(found))
