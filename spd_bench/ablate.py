"""A suite's axes → the ordered list of models to train, each a difference from `base`.

    leave_one_out   a component replaced by what it names as its stand-in (`Block.left_out`)
    swap            a component replaced by another
    grid            one option of a component given another value
    add_one_in      everything on the axis left out, and then each added alone

A replacement keeps those options that the suite gave to the base's component and that it knows too, so that a
model differs from `base` in one thing. Models that come out the same are one model, known by several names.
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from spd_bench.errors import ConfigError, did_you_mean
from spd_bench.suite import MODEL_SLOTS, Axes, Choice, Suite
from spd_bench.suite_checks import check_components, check_options, dotted, load_component
from spd_bench.yamlio import Keys

NAME_LENGTH = 64


class Alias(NamedTuple):
    """Another reason for which a suite asks for a composition."""

    axis: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Composition:
    """One model to train and score: a component for every slot, or a baseline on the same encoder.

    name: slug, unique in the suite. axis: the axis that asked for it first, "" for the base and baselines.
    difference: what sets it apart from the base, for people; "" for the base itself.
    slots: slot → component with all its options filled in; the encoder alone for a baseline.
    where: "file:line:column" of the item of the suite that asks for it; places: the same for each slot's component
    (and for "baseline"). None where the suite came from no file.
    """

    name: str
    kind: Literal["base", "ablation", "baseline"]
    axis: str = ""
    difference: str = ""
    slots: Mapping[str, Choice]
    baseline: Choice | None = None
    aliases: tuple[Alias, ...] = ()
    where: str | None
    places: Mapping[str, str | None]

    @property
    def names(self) -> list[str]:
        """Its own name and its others."""
        return [self.name, *(alias.name for alias in self.aliases)]

    def on(self, axis: str) -> bool:
        """Whether an axis asks for this composition, first or under another name."""
        return axis in (self.axis, *(alias.axis for alias in self.aliases))


@dataclass(frozen=True)
class _Wish:
    """What one item of an axis asks for: other components in some slots. `keys` lead to the item in the suite."""

    keys: Keys
    name: str
    alias: str
    changes: Mapping[str, Choice]
    may_equal_base: bool = False

    @property
    def axis(self) -> str:
        return str(self.keys[1])


def compositions(suite: Suite) -> list[Composition]:
    """The base, the union of the axes in the order of the file, and the baselines. Imports the components.

    Raises ConfigError, with its place, for a bad option, for leaving out a component that names no stand-in, and for
    an ablation that changes nothing; a grid may pass through the base's own value.
    """
    check_components(suite)
    base = _base(suite)
    found = {_content(base): base}
    for wish in _wishes(suite):
        made = _ablation(suite, base, wish)
        if _content(made) == _content(base) and not wish.may_equal_base:
            raise ConfigError(
                f"{dotted(wish.keys)}: the same as the base: this ablation changes nothing",
                where=suite.place(*wish.keys),
                hint="take it out, or ask for something that base does not have",
            )
        _add(found, made, Alias(wish.axis, wish.alias))
    for index, choice in enumerate(suite.baselines):
        _add(found, _baseline(suite, base, index, choice), Alias("", choice.use))
    return _told_apart(list(found.values()))


@dataclass(frozen=True)
class Selection:
    """Which compositions of a suite to take, by name or alias; `*` and `?` stand for any text and any letter."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def of(self, found: Sequence[Composition]) -> list[Composition]:
        """The base and those that `only` names (all, if it names none) without those that `skip` names.

        Raises ConfigError for a name that no composition has.
        """
        names = [name for composition in found for name in composition.names]
        for option, patterns in (("--only", self.only), ("--skip", self.skip)):
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    raise ConfigError(f'no composition "{pattern}"', where=option, hint=did_you_mean(pattern, names))
        return [c for c in found if c.kind == "base" or (_any(c, self.only or ("*",)) and not _any(c, self.skip))]

    def __str__(self) -> str:
        """For titles: the options as given, "" for everything."""
        return " ".join([*(f"--only {name}" for name in self.only), *(f"--skip {name}" for name in self.skip)])


def _any(composition: Composition, patterns: Sequence[str]) -> bool:
    return any(fnmatch.filter(composition.names, pattern) for pattern in patterns)


def _wishes(suite: Suite) -> Iterator[_Wish]:
    written = [keys[1] for keys in suite.places if len(keys) == 2 and keys[0] == "axes"]
    makers = {"leave_one_out": _left_out, "swap": _swapped, "grid": _grid, "add_one_in": _added_alone}
    for axis in dict.fromkeys([*written, *Axes.model_fields]):
        yield from makers[str(axis)](suite)


def _left_out(suite: Suite) -> Iterator[_Wish]:
    for index, slot in enumerate(suite.axes.leave_one_out):
        keys = ("axes", "leave_one_out", index)
        yield _Wish(keys, f"no-{slot}", f"no-{slot}", _stand_ins(suite, slot, keys))


def _swapped(suite: Suite) -> Iterator[_Wish]:
    for slot, choices in suite.axes.swap.items():
        for index, choice in enumerate(choices):
            name = _with_options(f"{slot}-{choice.use}", choice)
            yield _Wish(("axes", "swap", slot, index), name, name, {slot: choice})


def _grid(suite: Suite) -> Iterator[_Wish]:
    for path, values in suite.axes.grid.items():
        slot, option = path.split(".")
        for index, value in enumerate(values):
            choice = Choice(use=suite.base.slots()[slot].use, options={option: value})
            name, alias = f"{path}-{_text(value)}", f"{path}={_text(value)}"
            yield _Wish(("axes", "grid", path, index), name, alias, {slot: choice}, may_equal_base=True)


def _added_alone(suite: Suite) -> Iterator[_Wish]:
    """None of the axis's components, then each of them without the others."""
    slots = sorted(suite.axes.add_one_in, key=MODEL_SLOTS.index)
    stand_ins = {
        slot: _stand_ins(suite, slot, ("axes", "add_one_in", suite.axes.add_one_in.index(slot))) for slot in slots
    }
    if slots:
        nothing = {place: choice for slot in slots for place, choice in stand_ins[slot].items()}
        name = "-".join(["no", *slots])
        yield _Wish(("axes", "add_one_in"), name, name, nothing)
    for index, added in enumerate(suite.axes.add_one_in):
        keys = ("axes", "add_one_in", index)
        changes = {place: choice for slot in slots if slot != added for place, choice in stand_ins[slot].items()}
        if added in changes:
            raise ConfigError(
                f"{dotted(keys)}: {added} cannot be added alone: leaving another out puts "
                f'"{changes[added].use}" in its place',
                where=suite.place(*keys),
                hint="take it off this axis",
            )
        yield _Wish(keys, f"only-{added}", f"only-{added}", changes, may_equal_base=True)


def _stand_ins(suite: Suite, slot: str, keys: Keys) -> dict[str, Choice]:
    """What stands in the place of the base's component in `slot`; that may take other slots along."""
    base = suite.base.slots()[slot]
    left_out: Mapping[str, str] = getattr(load_component(base, slot), "left_out", {})
    if not left_out:
        raise ConfigError(
            f'{dotted(keys)}: {slot} "{base.use}" names no stand-in (left_out), so it cannot be left out',
            where=suite.place(*keys),
            hint=f"say with axes.swap.{slot} what to put there",
        )
    return {place: Choice(use=name) for place, name in left_out.items()}


def _base(suite: Suite) -> Composition:
    slots = {slot: _filled(suite, slot, choice, ("base", slot)) for slot, choice in suite.base.slots().items()}
    places = {slot: suite.place("base", slot, "use") for slot in slots}
    return Composition(name=suite.base.name, kind="base", slots=slots, where=suite.place("base"), places=places)


def _ablation(suite: Suite, base: Composition, wish: _Wish) -> Composition:
    slots, places = dict(base.slots), dict(base.places)
    for slot, choice in wish.changes.items():
        slots[slot] = _filled(suite, slot, _like_base(suite, slot, choice, wish.keys), wish.keys)
        places[slot] = suite.place(*wish.keys)
    return Composition(
        name=wish.name,
        kind="ablation",
        axis=wish.axis,
        difference=_difference(base.slots, slots, wish.changes),
        slots=slots,
        where=suite.place(*wish.keys),
        places=places,
    )


def _baseline(suite: Suite, base: Composition, index: int, choice: Choice) -> Composition:
    keys = ("baselines", index)
    config = check_options(choice, "baseline", suite=suite, keys=keys)
    ask = getattr(load_component(choice, "baseline", suite=suite, keys=keys), "own_encoder", lambda config: None)
    own = ask(config)
    encoder = _filled(suite, "encoder", Choice.read(own), keys) if own is not None else base.slots["encoder"]
    alike = [other for other in suite.baselines if other.use == choice.use]
    return Composition(
        name=choice.use if len(alike) == 1 else _with_options(choice.use, choice),
        kind="baseline",
        difference=f"baseline: {choice.use}{_given(choice)}",
        slots={"encoder": encoder},
        baseline=_filled(suite, "baseline", choice, keys),
        where=suite.place(*keys),
        places={"encoder": base.places["encoder"], "baseline": suite.place(*keys)},
    )


def _like_base(suite: Suite, slot: str, choice: Choice, keys: Keys) -> Choice:
    """The choice with the base's options for this slot, where it knows them and does not set them itself."""
    known = load_component(choice, slot, suite=suite, keys=keys).Config.model_fields
    kept = {key: value for key, value in suite.base.slots()[slot].options.items() if key in known}
    return Choice(use=choice.use, options={**kept, **choice.options})


def _filled(suite: Suite, slot: str, choice: Choice, keys: Keys) -> Choice:
    """The choice with every option of its component filled in."""
    config = check_options(choice, slot, suite=suite, keys=keys)
    return Choice(use=choice.use, options=config.model_dump(mode="json"))


def _difference(base: Mapping[str, Choice], slots: Mapping[str, Choice], asked: Mapping[str, Choice]) -> str:
    parts: list[str] = []
    for slot in MODEL_SLOTS:
        old, new = base[slot], slots[slot]
        if old.use != new.use:
            parts.append(f"{slot}: {old.use} → {new.use}{_given(asked[slot])}")
            continue
        changed = [key for key, value in new.options.items() if old.options[key] != value]
        parts += [f"{slot}.{key}: {_text(old.options[key])} → {_text(new.options[key])}" for key in changed]
    return ", ".join(parts)


def _with_options(name: str, choice: Choice) -> str:
    return "-".join([name, *(f"{key}-{_text(value)}" for key, value in choice.options.items())])


def _given(choice: Choice) -> str:
    options = ", ".join(f"{key} {_text(value)}" for key, value in choice.options.items())
    return f" ({options})" if options else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _content(composition: Composition) -> str:
    """What the model is, whatever it is called."""
    slots = {slot: choice.plain() for slot, choice in composition.slots.items()}
    baseline = composition.baseline.plain() if composition.baseline else None
    return json.dumps([slots, baseline], sort_keys=True)


def _add(found: dict[str, Composition], made: Composition, alias: Alias) -> None:
    """Keep a new model; note one that is there already under its other name."""
    content = _content(made)
    if content in found:
        first = found[content]
        found[content] = replace(first, aliases=(*first.aliases, alias))
    else:
        found[content] = made


def _told_apart(found: list[Composition]) -> list[Composition]:
    """The same compositions with their names as slugs, each given once."""
    taken: set[str] = set()
    named: list[Composition] = []
    for composition in found:
        slug = re.sub(r"[^a-z0-9._-]+", "-", composition.name.lower()).strip("-._") or composition.kind
        name, count = slug[:NAME_LENGTH], 1
        while name in taken:
            count += 1
            name = f"{slug[: NAME_LENGTH - 4]}-{count}"
        taken.add(name)
        named.append(replace(composition, name=name))
    return named
