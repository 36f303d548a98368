"""Checks of a suite that report every problem at once, each with the place of the value that caused it.

`problems_of` imports no component: it checks names against the metadata of installed distributions. `check_options`
and `check_components` import components.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from spd_bench import registry
from spd_bench.errors import ConfigError, did_you_mean, printable, quoted
from spd_bench.suite.forms import choices, dig, names, with_profile, with_step
from spd_bench.suite.schema import COMBINATIONS, MODEL_SLOTS, SLUG, WITHOUT_EFFECT, Axes, Choice, Suite, Train, target
from spd_bench.suite.shipped import is_shipped
from spd_bench.suite.yaml import Keys, Node, kind


@dataclass(frozen=True)
class SuiteProblem:
    """One problem of a suite."""

    where: str | None
    """Place of the value, "file:line:column"; None if unknown."""
    path: str
    """The value's keys, such as axes.swap.neck[0]."""
    message: str
    """What was expected and found."""
    hint: str | None = None
    """How to mend it, if known."""

    def __str__(self) -> str:
        where = printable(self.where) if self.where else None
        text = ": ".join(part for part in (where, self.path, self.message) if part)
        return f"{text}; {self.hint}" if self.hint else text


def load_component(choice: Choice, slot: str, *, suite: Suite | None = None, keys: Keys = ()) -> type[Any]:
    """The class of a component; imports it. `suite` and `keys`: as for `check_options`.

    Raises ConfigError or PluginError as `registry.load`, with the place in the suite.
    """
    try:
        return registry.load(slot, choice.use)
    except ConfigError as error:
        if place := _source(suite).nearest(keys).head:
            error.at(place)
        raise


def check_options(choice: Choice, slot: str, *, suite: Suite | None = None, keys: Keys = ()) -> Any:
    """The validated `Config` of a component; imports it.

    With the suite and the keys of the choice in it, errors carry the place of the option that caused them. Raises
    ConfigError listing every problem with the options, and PluginError where the component cannot be loaded.
    """
    config, problems = _configure(choice, slot, suite, keys)
    refuse(problems)
    return config


def check_components(suite: Suite, *, broken_too: bool = False) -> None:
    """Imports every component that the suite names and checks its options and all values that axes give them.

    broken_too: ignore components that cannot be imported (the caller reports them). Raises ConfigError listing every
    problem.
    """
    passed_over = (registry.PluginError,) if broken_too else ()
    problems: list[SuiteProblem] = []
    for keys, slot, value in choices(suite.dump()):
        with suppress(*passed_over):
            problems += _configure(Choice.read(value), slot, suite, keys)[1]
    refuse(problems or [*_option_problems(suite, passed_over), *_size_problems(suite, passed_over)])


def _configure(choice: Choice, slot: str, suite: Suite | None, keys: Keys) -> tuple[Any, list[SuiteProblem]]:
    config = load_component(choice, slot, suite=suite, keys=keys).Config
    with registry.blamed(f'options of {slot} "{choice.use}"'):
        try:
            return config.model_validate_json(json.dumps(choice.options)), []
        except ValidationError as invalid:
            source = _source(suite)
            return None, [_problem(error, config, source, keys, noun="option") for error in _apart(invalid)]


def _source(suite: Suite | None) -> Node:
    return suite.source if suite else Node({}, "")


def _option_problems(suite: Suite, passed_over: tuple[type[BaseException], ...]) -> Iterator[SuiteProblem]:
    """Problems of the values that grid and cross give to options, checked with each component that may get them.

    passed_over: exceptions of a component's import that are ignored.
    """
    for above, paths in suite.axes.sweeps():
        for path, values in paths.items():
            meant = target(path)
            assert meant is not None  # checked when the suite was read
            if meant.option and meant.part != "train":
                rivals = paths.get(path.rpartition(".")[0], (suite.asked[meant.part],))
                for choice in map(Choice.read, rivals):
                    with suppress(*passed_over):
                        yield from _values_of_option(suite, (*above, path), meant.part, choice, meant.option, values)


def _size_problems(suite: Suite, passed_over: tuple[type[BaseException], ...]) -> Iterator[SuiteProblem]:
    """Sides of the input that are no whole number of patches, two at least, of an encoder that the suite names.

    passed_over: as for `_option_problems`.
    """
    for name in dict.fromkeys(Choice.read(value).use for _, slot, value in choices(suite.dump()) if slot == "encoder"):
        with suppress(*passed_over):
            patch: int = getattr(
                registry.load("encoder", name), "patch", 1
            )  # a class that is no Encoder is no matter here
            for index, side in enumerate(suite.data.image_size):
                if side % patch or side < 2 * patch:
                    least = "" if side % patch else f" and at least {2 * patch}"
                    hint = f"encoder {name} sees patches of {patch} pixels: {max(round(side / patch), 2) * patch}, say"
                    message = f"should be a multiple of {patch}{least}, found {side}"
                    yield _at(suite.source, ("data", "image_size", index), message, hint)


def _values_of_option(
    suite: Suite, keys: Keys, slot: str, choice: Choice, option: str, values: Sequence[Any]
) -> Iterator[SuiteProblem]:
    config = registry.load(slot, choice.use).Config
    if option not in config.model_fields:
        hint = did_you_mean(option, config.model_fields)
        yield _at(suite.source, keys, f'{slot} "{choice.use}" has no option {quoted(option)}', hint, key=True)
        return
    for i, value in enumerate(values):
        try:
            config.model_validate_json(json.dumps({**choice.options, option: value}))
        except ValidationError as invalid:
            yield _at(suite.source, (*keys, i), _message(invalid.errors()[0], "option"))


def check_recipe(train: Train, values: Mapping[str, Any], *, suite: Suite, keys: Keys) -> Train:
    """The recipe with some values replaced (`Train.but`).

    Raises ConfigError, at the place of `keys`, for values that contradict each other. Each value alone was checked when
    the suite was read.
    """
    try:
        return train.but(values)
    except ValidationError as invalid:
        message = _message(invalid.errors()[0], "value")
        raise ConfigError(f"{dotted(keys)}: {message}", where=suite.place(*keys)) from None


def problems_of(tree: Node, *, shared: bool = True) -> list[SuiteProblem]:
    """Problems of a merged tree: unknown names, schema errors, and values that contradict each other.

    shared: whether a name that several distributions register is a problem.
    """
    found = list(_name_problems(tree, shared))
    for name in names(tree, "steps"):
        found += _step_problems(tree, name, shared)
    try:
        suite = Suite.read(tree)
    except ValidationError as invalid:
        return found + [_problem(error, Suite, tree) for error in _apart(invalid)]
    return found + list(_cross_problems(suite, tree))


def _step_problems(tree: Node, name: str, shared: bool) -> list[SuiteProblem]:
    """Problems of the suite of one build-order step."""
    keys = ("steps", name, "set")
    fixed = ("suite", "description", "extends", "profiles", "fallback", "steps", "axes", "baselines", "report")
    values = dig(tree.plain(), keys)
    touched = [key for key in fixed if isinstance(values, dict) and key in values]
    if touched:
        return [_at(tree, (*keys, key), "a step cannot change this", key=True) for key in touched]
    return problems_of(with_step(tree, name), shared=shared)


def profile_problems(tree: Node, name: str, *, shared: bool = True) -> list[SuiteProblem]:
    """Problems of a suite with one of its profiles applied. shared: as for `problems_of`."""
    fixed = ("suite", "description", "extends", "profiles", "fallback")
    profile = tree.nearest(("profiles", name)).value
    touched = [key for key in fixed if isinstance(profile, dict) and key in profile]
    if touched:
        return [_at(tree, ("profiles", name, key), "a profile cannot change this", key=True) for key in touched]
    return problems_of(with_profile(tree, name), shared=shared)


def _name_problems(tree: Node, shared: bool) -> Iterator[SuiteProblem]:
    """Unknown names, and plain names that another distribution registers too, but for those in shipped files."""
    plain = tree.plain()
    named = [
        (keys, slot, value.get("use") if isinstance(value, dict) else value) for keys, slot, value in choices(plain)
    ]
    named.append((("report", "primary", "metric"), "metric", dig(plain, ("report", "primary", "metric"))))
    for keys, slot, name in named:
        if isinstance(name, str):
            try:
                registry.find(slot, name)
                owners = registry.sharing(slot, name) if shared else []
                place = tree.nearest((*keys, "use")).head
                if owners and not is_shipped(place) and not place.startswith("--data "):  # the user did not write it
                    found = registry.ambiguous(slot, name, owners)
                    yield _at(tree, (*keys, "use"), found.message, found.hint)
            except ConfigError as error:
                if error.where is not None:  # not about this name
                    raise
                yield _at(tree, (*keys, "use"), error.message, error.hint)


def _cross_problems(suite: Suite, tree: Node) -> Iterator[SuiteProblem]:
    from spd_bench.protocol import PROTOCOLS

    if suite.extends is not None:  # loading removes the key, so this one came from a profile or from --set
        yield _at(tree, ("extends",), "can only be given in the file itself")
    primary = suite.report.primary
    if primary.k not in suite.eval.k:
        yield _at(tree, ("report", "primary", "k"), f"{primary.k} is not one of eval.k, {list(suite.eval.k)}")
    if suite.fallback is not None and suite.fallback.profile not in suite.profiles:
        name = suite.fallback.profile
        yield _at(tree, ("fallback", "profile"), f"unknown profile {quoted(name)}", did_you_mean(name, suite.profiles))
    if suite.eval.protocol not in PROTOCOLS:
        name = suite.eval.protocol
        yield _at(tree, ("eval", "protocol"), f"unknown protocol {quoted(name)}", did_you_mean(name, PROTOCOLS))
    if suite.steps and (suite.axes != Axes() or suite.baselines):
        yield _at(tree, ("steps",), "a build order has neither axes nor baselines", "set axes: null and baselines: []")
    for name, step in suite.steps.items():
        for metric in sorted(step.checks.below.keys() - set(registry.names("metric"))):
            mend = did_you_mean(metric, registry.names("metric"))
            yield _at(tree, ("steps", name, "checks", "below", metric), "unknown metric", mend, key=True)
    yield from _axes_problems(suite, tree)


def _axes_problems(suite: Suite, tree: Node) -> Iterator[SuiteProblem]:
    axes = suite.axes
    if axes.parameter_matched and not (axes.leave_one_out or axes.leave_group_out):
        hint = "give axes.leave_one_out or axes.leave_group_out"
        yield _at(tree, ("axes", "parameter_matched"), "no axis leaves anything out that could have a control", hint)
    for keys, paths in axes.sweeps():
        crossing = keys[1] == "cross"
        if crossing and (count := math.prod(map(len, paths.values()))) > COMBINATIONS:
            yield _at(tree, keys, f"makes {count:,} combinations, more than {COMBINATIONS:,}")
        if crossing and {"train.epochs", "train.steps"} <= paths.keys():
            yield _at(tree, (*keys, "train.steps"), "a training has either epochs or steps", key=True)
        for path, values in paths.items():
            yield from _path_problems(suite, tree, (*keys, path), path, values)


def _path_problems(suite: Suite, tree: Node, keys: Keys, path: str, values: Sequence[Any]) -> Iterator[SuiteProblem]:
    """Problems of a path of grid or cross and of its values that can be found without importing a component."""
    meant, crossing = target(path), keys[1] == "cross"
    if meant is None or (not crossing and meant.part in MODEL_SLOTS and not meant.option):
        form = "slot, slot.option or train.value" if crossing else "slot.option"
        first, known = path.partition(".")[0], (*MODEL_SLOTS, "train")
        hint = did_you_mean(first, known) if first not in known else None
        hint = f"axes.swap.{first} takes components" if meant is not None else hint
        yield _at(tree, keys, f"should be {form}, such as routing.r", hint, key=True)
    elif meant.part == "train":
        yield from _recipe_problems(suite.train, tree, keys, meant.option, values)
    elif not meant.option:
        for i, value in enumerate(values):
            try:
                Choice.read(value)
            except PydanticCustomError as error:
                yield _at(tree, (*keys, i), error.message())


def _recipe_problems(train: Train, tree: Node, keys: Keys, name: str, values: Sequence[Any]) -> Iterator[SuiteProblem]:
    known = [field for field in Train.model_fields if field not in WITHOUT_EFFECT]
    if name not in known:
        message = f"no number depends on train.{name}" if name in WITHOUT_EFFECT else f"train has no {quoted(name)}"
        yield _at(tree, keys, message, did_you_mean(name, known), key=True)
        return
    for i, value in enumerate(values):
        try:
            train.but({name: value})
        except ValidationError as invalid:
            # a crossing's values are checked together once they are combined
            wrong = [error for error in invalid.errors() if error["loc"] or keys[1] == "grid"]
            yield from (_at(tree, (*keys, i), _message(error, "value")) for error in wrong[:1])


def _at(tree: Node, keys: Keys, message: str, hint: str | None = None, *, key: bool = False) -> SuiteProblem:
    """A problem with the value at `keys` (or, with `key`, with the last key itself)."""
    node = tree.nearest(keys)
    shown = keys[:-1] if keys[-1:] == ("use",) else keys
    return SuiteProblem((key and node.key) or node.head or None, dotted(shown), message, hint)


def dotted(keys: Keys) -> str:
    """Keys as text, such as axes.swap.neck[0]."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{_shown(key)}" for key in keys).removeprefix(".")


def _shown(key: str) -> str:
    """A key as it is if printable and short, else in quotes."""
    return key if key.isprintable() and 0 < len(key) <= 80 else quoted(key)


def _apart(invalid: ValidationError) -> list[ErrorDetails]:
    """The errors, without "list too short" where the list is short only because its items are invalid."""
    errors = invalid.errors()
    around = {error["loc"][:-1] for error in errors}
    return [error for error in errors if error["type"] != "too_short" or error["loc"] not in around]


def schema_problems(invalid: ValidationError, model: type[BaseModel], tree: Node) -> list[SuiteProblem]:
    """Pydantic's errors for another kind of file than a suite, as problems with places."""
    return [_problem(error, model, tree) for error in invalid.errors()]


def _problem(
    error: ErrorDetails, model: type[BaseModel], tree: Node, keys: Keys = (), noun: str = "key"
) -> SuiteProblem:
    """One of pydantic's errors as a problem."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    unknown = error["type"] == "extra_forbidden"
    context = error.get("ctx", {})
    hint = _suggestion(str(loc[-1]), model, loc[:-1]) if unknown else context.get("hint")
    if "at" in context:  # of several values that contradict each other, the one to show
        return replace(_at(tree, (*keys, *loc, context["at"]), _message(error, noun), hint), path=dotted(keys + loc))
    return _at(tree, keys + loc, _message(error, noun), hint, key=unknown or loc != error["loc"])


def _message(error: ErrorDetails, noun: str) -> str:
    """A message for one of pydantic's errors: what was expected and what was found."""
    match error["type"]:
        case "extra_forbidden":
            name = str(error["loc"][-1])
            return f"unknown {noun}" + ("" if name.isascii() else f", spelt {name[:80]!a}")
        case "missing":
            return "a value is missing here" if isinstance(error["loc"][-1], int) else f"this {noun} is required"
        case "model_type" | "dict_type":
            expected = "should be a mapping"
        case "tuple_type" | "list_type":
            expected = "should be a list"
        case "string_pattern_mismatch" if error.get("ctx", {}).get("pattern") == SLUG:
            expected = "should be at most 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
        case "too_short" | "too_long":
            limits = error["ctx"]
            bound = f"at least {limits['min_length']}" if "min_length" in limits else f"at most {limits['max_length']}"
            return f"should be a list of {bound}, found {limits['actual_length']}"
        case _:
            what, _, expected = error["msg"].partition(" ")
            if what not in ("Input", "String"):
                return error["msg"].removeprefix("Value error, ")
    return f"{expected}, found {kind(error['input'])}"


def _suggestion(name: str, model: type[BaseModel], keys: Keys) -> str:
    """Hint for an unknown key: the path where a suite has this key, else the nearest known key."""
    owner: type[BaseModel] = model
    for key in keys:
        if str(key) in owner.model_fields:  # else a name that the user chose, such as a step's
            owner = _submodel(owner.model_fields[str(key)].annotation) or owner
    if model is Suite:
        elsewhere = [path for path in _paths(Suite) if path.endswith(f".{name}")]
        if elsewhere:
            return f'did you mean "{elsewhere[0]}"?'
    return did_you_mean(name, owner.model_fields)


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = _submodel(field.annotation)
        if inner is not None and inner is not Choice:
            yield from _paths(inner, f"{prefix}{name}.")


def _submodel(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def refuse(problems: Iterable[SuiteProblem]) -> None:
    """Raises one ConfigError with all problems, in the order of the file; does nothing without any."""
    found = sorted(dict.fromkeys(problems), key=_position)
    if len(found) == 1:
        path, message = found[0].path, found[0].message
        raise ConfigError(f"{path}: {message}" if path else message, where=found[0].where, hint=found[0].hint)
    if found:
        raise ConfigError("\n".join(str(problem) for problem in found))


def _position(problem: SuiteProblem) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where or "", re.DOTALL)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where or "", 0, 0)
