"""A suite's axes → the ordered list of models to train, each a difference from `base`.

    leave_one_out      a component replaced by the stand-in that it names (`Link.left_out`)
    leave_group_out    several components left out at once
    parameter_matched  the models of these two axes again, widened to the base's number of parameters
    swap               a component, or the loss, replaced by another
    grid               one option of a component, or one value of the training recipe, changed
    cross              every combination of several paths' values
    add_one_in         everything on the axis left out, and then each slot added alone

A replacement keeps those options of the base's component that it has as well, so that a model differs from `base` in
one thing. Identical models become one model with several names.
"""

import fnmatch
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from spd_bench import registry
from spd_bench.errors import ConfigError, did_you_mean, quoted
from spd_bench.registry import PluginError, blamed
from spd_bench.suite.checks import check_components, check_options, check_recipe, dotted, load_component
from spd_bench.suite.schema import MODEL_SLOTS, WITHOUT_EFFECT, Axes, Choice, Suite, Train, target
from spd_bench.suite.yaml import Keys

NAME_LENGTH = 64


class Alias(NamedTuple):
    """A second name of a composition that several items of a suite ask for."""

    axis: str
    """The axis of that item; "" for a baseline."""
    name: str
    """The name that it gives."""


@dataclass(frozen=True, kw_only=True)
class CompositionSpec:
    """One model to train and score, and its training recipe."""

    name: str
    """Slug, unique in the suite."""
    kind: Literal["base", "ablation", "baseline"]
    """Its role in the suite."""
    axis: str = ""
    """The first axis that asks for it; "" for the base and baselines."""
    difference: str = ""
    """Its difference from the base, for people; "" for the base itself."""
    slots: Mapping[str, Choice]
    """Slot → component with all options filled in; only the encoder for a baseline."""
    train: Train
    """Training recipe, with all options of the loss filled in."""
    baseline: Choice | None = None
    """The baseline; None for a composition of blocks."""
    parameter_matched: bool = False
    """Whether it must have as many trainable parameters as the base."""
    ffn: int | None = None
    """Width of its feed-forward layers if parameter-matched, set by `model.matching`; None: that of `Dims`."""
    aliases: tuple[Alias, ...] = ()
    """Its other names."""
    where: str | None
    """"file:line:column" of the item of the suite that asks for it; None if the suite was not read from a file."""
    places: Mapping[str, str | None]
    """Slot (or "baseline") → place of its component, as `where`."""
    failure: str = ""
    """Why one of its components cannot be used, "" if all can. With a failure, options are as written in the suite."""

    @property
    def names(self) -> list[str]:
        """Its name and its aliases."""
        return [self.name, *(alias.name for alias in self.aliases)]

    def on(self, axis: str) -> bool:
        """Whether an axis asks for this composition, also under another name."""
        return axis in (self.axis, *(alias.axis for alias in self.aliases))


class _NoStandIn(ConfigError):
    """A component that names no stand-in cannot be left out."""


@dataclass(frozen=True)
class _Wish:
    """The change of the base that one item of an axis asks for."""

    keys: Keys
    """Keys of the item in the suite."""
    name: str
    """Name of the composition."""
    alias: str
    """Name to list if the composition already exists."""
    changes: Mapping[str, Choice]
    """Slot, or "loss" → another component."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Changed values of the training recipe."""
    may_equal_base: bool = False
    """Whether the result may be the base itself."""
    parameter_matched: bool = False
    """Whether the result gets the base's number of parameters."""

    @property
    def axis(self) -> str:
        return "parameter_matched" if self.parameter_matched else str(self.keys[1])


def compositions(suite: Suite, *, broken_too: bool = False) -> list[CompositionSpec]:
    """The base, the union of the axes in the order of the file, and the baselines. Imports the components.

    broken_too: list an ablation or baseline with a component that cannot be used, with its `failure`, instead of
    raising PluginError. Raises ConfigError, with its place, for a bad option, for leaving out a component that names
    no stand-in, and for an ablation that changes nothing; grid and cross may contain the base's own values.
    """
    check_components(suite, broken_too=broken_too)
    base = _base(suite)
    found = {_content(base): base}
    for wish in _wishes(suite):
        try:
            made = _ablation(suite, base, wish)
        except PluginError as error:
            if not broken_too:
                raise
            made = _ablation(suite, base, wish, failure=error.message)
        if _content(made) == _content(base) and not wish.may_equal_base:
            raise ConfigError(
                f"{dotted(wish.keys)}: the same as the base: this ablation changes nothing",
                where=suite.place(*wish.keys),
                hint="remove it, or choose a value that differs from the base's",
            )
        _add(found, made, Alias(wish.axis, wish.alias))
    for index, choice in enumerate(suite.baselines):
        try:
            baseline = _baseline(suite, base, index, choice)
        except PluginError as error:
            if not broken_too:
                raise
            baseline = replace(_asked_baseline(suite, base, index, choice), failure=error.message)
        _add(found, baseline, Alias("", choice.use))
    return _with_unique_names(list(found.values()))


@dataclass(frozen=True)
class Selection:
    """The compositions of a suite to run, by patterns of names and aliases (`*` any text, `?` any character)."""

    only: tuple[str, ...] = ()
    """Patterns of compositions to include; empty: all."""
    skip: tuple[str, ...] = ()
    """Patterns of compositions to exclude."""

    def of(self, found: Sequence[CompositionSpec]) -> list[CompositionSpec]:
        """The base, and the compositions that match `only` and not `skip`.

        A pattern of `skip` may exclude the base, except "*". Raises ConfigError for a pattern that matches no
        composition, and if no composition is left.
        """
        names = [name for composition in found for name in composition.names]
        for option, patterns in (("--only", self.only), ("--skip", self.skip)):
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    message = f"no composition {quoted(pattern)}"
                    raise ConfigError(message, where=option, hint=did_you_mean(pattern, names))
        chosen = [c for c in found if self._takes(c)]
        if not chosen:
            raise ConfigError("no composition is left", where=str(self), hint=f"skip fewer of {', '.join(names)}")
        return chosen

    def to_run(self, found: Sequence[CompositionSpec]) -> list[CompositionSpec]:
        """As `of`, without the base if `only` does not name it and no chosen composition is trained."""
        chosen = self.of(found)
        asked = [c for c in chosen if c.kind != "base" or _any(c, self.only)]
        return asked if self.only and asked and not any(map(trains, asked)) else chosen

    def _takes(self, composition: CompositionSpec) -> bool:
        if composition.kind == "base":
            return not _any(composition, [pattern for pattern in self.skip if pattern != "*"])
        return _any(composition, self.only or ("*",)) and not _any(composition, self.skip)

    def __str__(self) -> str:
        """The command-line options, for titles; "" for everything."""
        return " ".join([*(f"--only {name}" for name in self.only), *(f"--skip {name}" for name in self.skip)])


def trains(composition: CompositionSpec) -> bool:
    """Whether training changes anything in it; assumed of what cannot be loaded."""
    if composition.baseline is None:
        return True
    try:
        return bool(registry.load("baseline", composition.baseline.use).trained)
    except PluginError:
        return True


def _any(composition: CompositionSpec, patterns: Sequence[str]) -> bool:
    return any(fnmatch.filter(composition.names, pattern) for pattern in patterns)


def _wishes(suite: Suite) -> Iterator[_Wish]:
    written = [keys[1] for keys in suite.places if len(keys) == 2 and keys[0] == "axes"]
    makers = {
        "leave_one_out": _left_out,
        "leave_group_out": _group_left_out,
        "parameter_matched": _matched,
        "swap": _swapped,
        "grid": _grid,
        "cross": _crossed,
        "add_one_in": _added_alone,
    }
    for axis in dict.fromkeys([*written, *Axes.model_fields]):
        yield from makers[str(axis)](suite)


def _left_out(suite: Suite) -> Iterator[_Wish]:
    for index, slot in enumerate(suite.axes.leave_one_out):
        keys = ("axes", "leave_one_out", index)
        yield _Wish(keys, f"no-{slot}", f"no-{slot}", _stand_ins(suite, slot, keys))


def _group_left_out(suite: Suite) -> Iterator[_Wish]:
    for index, group in enumerate(suite.axes.leave_group_out):
        keys = ("axes", "leave_group_out", index)
        name = "-".join(["no", *sorted(group, key=MODEL_SLOTS.index)])
        yield _Wish(keys, name, name, _group_stand_ins(suite, group, keys))


def _group_stand_ins(suite: Suite, group: Sequence[str], keys: Keys) -> dict[str, Choice]:
    """Slot → component for a group that is left out at once.

    Two stand-ins may need different components in a further slot: one so that it works without its former input, the
    other because nothing reads it any more. If the group names that slot, the last of the two in the chain decides, as
    the slot serves that one; otherwise ConfigError.
    """
    changes: dict[str, Choice] = {}
    wanted_by: dict[str, str] = {}
    for slot in sorted(group, key=MODEL_SLOTS.index):
        try:
            stand_ins = _stand_ins(suite, slot, (*keys, group.index(slot)))
        except _NoStandIn:
            continue  # another stand-in of the group may fill this slot
        for place, choice in stand_ins.items():
            if place not in group and changes.get(place, choice) != choice:
                raise ConfigError(
                    f'{dotted(keys)}: without {wanted_by[place]}, {place} becomes "{changes[place].use}", and without '
                    f'{slot} "{choice.use}"',
                    where=suite.place(*keys),
                    hint=f"name {place} in the group too: it then becomes {choice.use}",
                )
            changes[place], wanted_by[place] = choice, slot
    for index, slot in enumerate(group):
        if slot not in changes:
            _stand_ins(suite, slot, (*keys, index))  # raises _NoStandIn
    return changes


def _matched(suite: Suite) -> Iterator[_Wish]:
    if suite.axes.parameter_matched:
        for wish in [*_left_out(suite), *_group_left_out(suite)]:
            name = f"{wish.name}-matched"
            # errors point at the item that is left out, whose control this is
            yield replace(wish, name=name, alias=name, parameter_matched=True)


def _swapped(suite: Suite) -> Iterator[_Wish]:
    for slot, choices in suite.axes.swap.items():
        for index, choice in enumerate(choices):
            name = _with_options(f"{slot}-{choice.use}", choice)
            yield _Wish(("axes", "swap", slot, index), name, name, {slot: choice})


def _grid(suite: Suite) -> Iterator[_Wish]:
    for path, values in suite.axes.grid.items():
        for index, value in enumerate(values):
            yield _set(suite, ("axes", "grid", path, index), {path: value})


def _crossed(suite: Suite) -> Iterator[_Wish]:
    for index, crossing in enumerate(suite.axes.cross):
        for values in itertools.product(*crossing.values()):
            yield _set(suite, ("axes", "cross", index), dict(zip(crossing, values, strict=True)))


def _set(suite: Suite, keys: Keys, values: Mapping[str, Any]) -> _Wish:
    """The change that sets every path to its value, a component before its options."""
    changes: dict[str, Choice] = {}
    recipe: dict[str, Any] = {}
    for path in sorted(values, key=lambda path: path.count(".")):
        meant = target(path)
        assert meant is not None  # checked when the suite was read
        if meant.part == "train":
            recipe[meant.option] = values[path]
        elif not meant.option:
            changes[meant.part] = Choice.read(values[path])
        else:
            into = changes.get(meant.part, Choice(use=suite.asked[meant.part].use))
            changes[meant.part] = Choice(use=into.use, options={**into.options, meant.option: values[path]})
    texts = {path: _value(path, value) for path, value in values.items()}
    name = "-".join(f"{path}-{text}" for path, text in texts.items())
    alias = ",".join(f"{path}={text}" for path, text in texts.items())
    return _Wish(keys, name, alias, changes, recipe, may_equal_base=True)


def _value(path: str, value: Any) -> str:
    """A value as text for names."""
    meant = target(path)
    if meant is None or meant.option:
        return _text(value)
    choice = Choice.read(value)
    return _with_options(choice.use, choice)


def _added_alone(suite: Suite) -> Iterator[_Wish]:
    """The base without all components of the axis, then with each of them alone."""
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
    """Slot → component for leaving out the base's component in `slot`; a stand-in may need changes in other slots."""
    base = suite.base.slots()[slot]
    left_out: Mapping[str, str] = getattr(load_component(base, slot), "left_out", {})
    if not left_out:
        raise _NoStandIn(
            f'{dotted(keys)}: {slot} "{base.use}" names no stand-in (left_out), so it cannot be left out',
            where=suite.place(*keys),
            hint=f"name a replacement with axes.swap.{slot}",
        )
    return {place: Choice(use=name) for place, name in left_out.items()}


def _base(suite: Suite) -> CompositionSpec:
    slots = {slot: _filled(suite, slot, choice, ("base", slot)) for slot, choice in suite.base.slots().items()}
    places = {slot: suite.place("base", slot, "use") for slot in slots}
    loss = _filled(suite, "loss", suite.train.loss, ("train", "loss"))
    return CompositionSpec(
        name=suite.base.name,
        kind="base",
        slots=slots,
        train=suite.train.model_copy(update={"loss": loss}),
        where=suite.place("base"),
        places=places,
    )


def _ablation(suite: Suite, base: CompositionSpec, wish: _Wish, *, failure: str = "") -> CompositionSpec:
    """The composition of one item. With `failure`, options stay as written, since its components cannot be used."""
    changed = dict(wish.changes)
    if not failure:
        changed = {
            part: _filled(suite, part, _like_base(suite, part, choice, wish.keys), wish.keys)
            for part, choice in wish.changes.items()
        }
    where = suite.place(*wish.keys)
    recipe = dict(wish.recipe) | ({"loss": changed.pop("loss").plain()} if "loss" in changed else {})
    made = CompositionSpec(
        name=wish.name,
        kind="ablation",
        axis=wish.axis,
        slots={**base.slots, **changed},
        train=check_recipe(base.train, recipe, suite=suite, keys=wish.keys) if recipe else base.train,
        parameter_matched=wish.parameter_matched,
        where=where,
        places={**base.places, **dict.fromkeys(changed, where)},
        failure=failure,
    )
    return replace(made, difference=_difference(base, made, wish.changes))


def _baseline(suite: Suite, base: CompositionSpec, index: int, choice: Choice) -> CompositionSpec:
    keys = ("baselines", index)
    config = check_options(choice, "baseline", suite=suite, keys=keys)
    ask = getattr(load_component(choice, "baseline", suite=suite, keys=keys), "own_encoder", lambda config: None)
    with blamed(f'encoder of baseline "{choice.use}"'):
        own = ask(config)
    made = _asked_baseline(suite, base, index, choice)
    encoder = _filled(suite, "encoder", Choice.read(own), keys) if own is not None else base.slots["encoder"]
    return replace(made, slots={"encoder": encoder}, baseline=_filled(suite, "baseline", choice, keys))


def _asked_baseline(suite: Suite, base: CompositionSpec, index: int, choice: Choice) -> CompositionSpec:
    """A baseline's composition from the suite alone, without importing the component."""
    alike = [other for other in suite.baselines if other.use == choice.use]
    where = suite.place("baselines", index)
    return CompositionSpec(
        name=choice.use if len(alike) == 1 else _with_options(choice.use, choice),
        kind="baseline",
        difference=f"baseline: {choice.use}{_given(choice)}",
        slots={"encoder": base.slots["encoder"]},
        train=base.train,
        baseline=choice,
        where=where,
        places={"encoder": base.places["encoder"], "baseline": where},
    )


def _like_base(suite: Suite, slot: str, choice: Choice, keys: Keys) -> Choice:
    """The choice with the base's options for this part added, if its component has them and it does not set them."""
    known = load_component(choice, slot, suite=suite, keys=keys).Config.model_fields
    kept = {key: value for key, value in suite.asked[slot].options.items() if key in known}
    return Choice(use=choice.use, options={**kept, **choice.options})


def _filled(suite: Suite, slot: str, choice: Choice, keys: Keys) -> Choice:
    """The choice with every option of its component filled in."""
    config = check_options(choice, slot, suite=suite, keys=keys)
    return Choice(use=choice.use, options=config.model_dump(mode="json"))


def _difference(base: CompositionSpec, made: CompositionSpec, asked: Mapping[str, Choice]) -> str:
    old, new = ({**c.slots, "loss": c.train.loss} for c in (base, made))
    parts = [
        text
        for part in (*MODEL_SLOTS, "loss")
        for text in _changed("train.loss" if part == "loss" else part, old[part], new[part], asked.get(part))
    ]
    before, after = (c.train.model_dump(mode="json", exclude={"loss"}) for c in (base, made))
    parts += [f"train.{key}: {_text(before[key])} → {_text(after[key])}" for key in after if after[key] != before[key]]
    return ", ".join(parts)


def _changed(path: str, old: Choice, new: Choice, asked: Choice | None) -> Iterator[str]:
    """Descriptions of the change of one part: another component with its given options, or each option that differs."""
    if old.use != new.use:
        yield f"{path}: {old.use} → {new.use}{_given(asked) if asked else ''}"
        return
    for key, value in new.options.items():
        if old.options[key] != value:
            yield f"{path}.{key}: {_text(old.options[key])} → {_text(value)}"


def _with_options(name: str, choice: Choice) -> str:
    return "-".join([name, *(f"{key}-{_text(value)}" for key, value in choice.options.items())])


def _given(choice: Choice) -> str:
    options = ", ".join(f"{key} {_text(value)}" for key, value in choice.options.items())
    return f" ({options})" if options else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _content(composition: CompositionSpec) -> str:
    """Key of the model and its training, independent of its name."""
    slots = {slot: choice.plain() for slot, choice in composition.slots.items()}
    baseline = composition.baseline.plain() if composition.baseline else None
    train = composition.train.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    return json.dumps([slots, baseline, train, composition.parameter_matched], sort_keys=True)


def _add(found: dict[str, CompositionSpec], made: CompositionSpec, alias: Alias) -> None:
    """Adds a new model, or an alias to the identical one."""
    content = _content(made)
    if content in found:
        first = found[content]
        found[content] = replace(first, aliases=(*first.aliases, alias))
    else:
        found[content] = made


def _with_unique_names(found: list[CompositionSpec]) -> list[CompositionSpec]:
    """The compositions with their names as unique slugs."""
    taken: set[str] = set()
    named: list[CompositionSpec] = []
    for composition in found:
        slug = re.sub(r"[^a-z0-9._-]+", "-", composition.name.lower()).strip("-._") or composition.kind
        name, count = slug[:NAME_LENGTH], 1
        while name in taken:
            count += 1
            name = f"{slug[: NAME_LENGTH - 4]}-{count}"
        taken.add(name)
        named.append(replace(composition, name=name))
    return named
