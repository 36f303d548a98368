"""What is wrong with a suite: every problem at once, each with the place of the value that caused it.

Nothing here imports a component before `check_options`; names are checked against the metadata of installed
distributions.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from spd_bench import registry
from spd_bench.errors import ConfigError, did_you_mean
from spd_bench.suite import MODEL_SLOTS, SLUG, Axes, Choice, Suite
from spd_bench.suite_forms import choices, dig, names, with_profile, with_step
from spd_bench.yamlio import Keys, Node, kind


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a suite: its place, the keys of the value, what is wrong and perhaps the mend."""

    where: str | None
    path: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.where, self.path, self.message) if part)
        return f"{text}; {self.hint}" if self.hint else text


def load_component(choice: Choice, slot: str, *, suite: Suite | None = None, keys: Keys = ()) -> type[Any]:
    """The class of a component; imports it. `suite` and `keys`: as for `check_options`.

    Raises ConfigError or PluginError as `registry.load`, placed where the suite asks for the component.
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


def check_components(suite: Suite) -> None:
    """Import every component that the suite names, and check its options and every value of the grid.

    Raises ConfigError listing every problem.
    """
    problems: list[Problem] = []
    for keys, slot, value in choices(suite.dump()):
        problems += _configure(Choice.read(value), slot, suite, keys)[1]
    refuse(problems or _grid_problems(suite))


def _configure(choice: Choice, slot: str, suite: Suite | None, keys: Keys) -> tuple[Any, list[Problem]]:
    config = load_component(choice, slot, suite=suite, keys=keys).Config
    try:
        return config.model_validate_json(json.dumps(choice.options)), []
    except ValidationError as invalid:
        source = _source(suite)
        return None, [_problem(error, config, source, keys, noun="option") for error in invalid.errors()]


def _source(suite: Suite | None) -> Node:
    return suite._source if suite else Node({}, "")


def _grid_problems(suite: Suite) -> Iterator[Problem]:
    """Every value of the grid put into the base's component in turn."""
    for path, values in suite.axes.grid.items():
        slot, option = path.split(".")
        base = suite.base.slots()[slot]
        config = registry.load(slot, base.use).Config
        for i, value in enumerate(values):
            try:
                config.model_validate_json(json.dumps({**base.options, option: value}))
            except ValidationError as invalid:
                keys: Keys = ("axes", "grid", path)
                if option not in config.model_fields:
                    hint = did_you_mean(option, config.model_fields)
                    yield _at(suite._source, keys, f'{slot} "{base.use}" has no option "{option}"', hint, key=True)
                    break
                message = _message(invalid.errors()[0], "option")
                yield _at(suite._source, (*keys, i), message)


def parse(tree: Node) -> Suite:
    """The suite that a merged tree says; pydantic's ValidationError where it says none."""
    # as JSON: strict types still, but a list may become a tuple
    return Suite.model_validate_json(json.dumps(tree.plain()))


def problems_of(tree: Node) -> list[Problem]:
    """What is wrong with a merged tree: names, schema, and values that contradict each other."""
    found = list(_name_problems(tree))
    for name in names(tree, "steps"):
        found += _step_problems(tree, name)
    try:
        suite = parse(tree)
    except ValidationError as invalid:
        return found + [_problem(error, Suite, tree) for error in invalid.errors()]
    return found + list(_cross_problems(suite, tree))


def _step_problems(tree: Node, name: str) -> list[Problem]:
    """What is wrong with the suite that a step stands for."""
    keys = ("steps", name, "set")
    fixed = ("suite", "description", "extends", "profiles", "fallback", "steps", "axes", "baselines", "report")
    values = dig(tree.plain(), keys)
    touched = [key for key in fixed if isinstance(values, dict) and key in values]
    if touched:
        return [_at(tree, (*keys, key), "a step cannot change this", key=True) for key in touched]
    return problems_of(with_step(tree, name))


def profile_problems(tree: Node, name: str) -> list[Problem]:
    """What is wrong with a suite under one of its profiles, whether or not anybody asked for it."""
    fixed = ("suite", "description", "extends", "profiles", "fallback")
    profile = tree.nearest(("profiles", name)).value
    touched = [key for key in fixed if isinstance(profile, dict) and key in profile]
    if touched:
        return [_at(tree, ("profiles", name, key), "a profile cannot change this", key=True) for key in touched]
    return problems_of(with_profile(tree, name))


def _name_problems(tree: Node) -> Iterator[Problem]:
    plain = tree.plain()
    named = [
        (keys, slot, value.get("use") if isinstance(value, dict) else value) for keys, slot, value in choices(plain)
    ]
    named.append((("report", "primary", "metric"), "metric", dig(plain, ("report", "primary", "metric"))))
    for keys, slot, name in named:
        if isinstance(name, str):
            try:
                registry.find(slot, name)
            except ConfigError as error:
                if error.where is not None:  # not about this name
                    raise
                yield _at(tree, (*keys, "use"), error.message, error.hint)


def _cross_problems(suite: Suite, tree: Node) -> Iterator[Problem]:
    from spd_bench.protocol import PROTOCOLS

    if suite.extends is not None:  # what a file extends is merged, and the key gone, before this
        yield _at(tree, ("extends",), "can only be given in the file itself")
    primary = suite.report.primary
    if primary.k not in suite.eval.k:
        yield _at(tree, ("report", "primary", "k"), f"{primary.k} is not one of eval.k, {list(suite.eval.k)}")
    if suite.fallback is not None and suite.fallback.profile not in suite.profiles:
        name = suite.fallback.profile
        yield _at(tree, ("fallback", "profile"), f'unknown profile "{name}"', did_you_mean(name, suite.profiles))
    if suite.eval.protocol not in PROTOCOLS:
        name = suite.eval.protocol
        yield _at(tree, ("eval", "protocol"), f'unknown protocol "{name}"', did_you_mean(name, PROTOCOLS))
    if suite.steps and (suite.axes != Axes() or suite.baselines):
        yield _at(tree, ("steps",), "a build order has neither axes nor baselines", "set axes: null and baselines: []")
    for name, step in suite.steps.items():
        for metric in sorted(step.checks.below.keys() - set(registry.names("metric"))):
            mend = did_you_mean(metric, registry.names("metric"))
            yield _at(tree, ("steps", name, "checks", "below", metric), "unknown metric", mend, key=True)
    for path in suite.axes.grid:
        slot, dot, option = path.partition(".")
        if slot not in MODEL_SLOTS or not dot or not option or "." in option:
            hint = did_you_mean(slot, MODEL_SLOTS) if slot not in MODEL_SLOTS else None
            yield _at(tree, ("axes", "grid", path), "should be slot.option, such as routing.r", hint, key=True)


def _at(tree: Node, keys: Keys, message: str, hint: str | None = None, *, key: bool = False) -> Problem:
    """A problem with the value at `keys` (or, with `key`, with the last key itself)."""
    node = tree.nearest(keys)
    shown = keys[:-1] if keys[-1:] == ("use",) else keys
    return Problem((key and node.key) or node.head or None, dotted(shown), message, hint)


def dotted(keys: Keys) -> str:
    """Keys as a reader writes them: axes.swap.neck[0]."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _problem(error: ErrorDetails, model: type[BaseModel], tree: Node, keys: Keys = (), noun: str = "key") -> Problem:
    """One of pydantic's errors in our words."""
    loc = tuple(part for part in error["loc"] if part != "[key]")
    unknown = error["type"] == "extra_forbidden"
    hint = _suggestion(str(loc[-1]), model, loc[:-1]) if unknown else error.get("ctx", {}).get("hint")
    return _at(tree, keys + loc, _message(error, noun), hint, key=unknown or loc != error["loc"])


def _message(error: ErrorDetails, noun: str) -> str:
    """What was expected and what was found."""
    match error["type"]:
        case "extra_forbidden":
            return f"unknown {noun}"
        case "missing":
            return "a value is missing here" if isinstance(error["loc"][-1], int) else f"this {noun} is required"
        case "model_type" | "dict_type":
            expected = "should be a mapping"
        case "tuple_type" | "list_type":
            expected = "should be a list"
        case "string_pattern_mismatch" if error.get("ctx", {}).get("pattern") == SLUG:
            expected = "should be at most 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"
        case _:
            if not error["msg"].startswith("Input "):
                return error["msg"].removeprefix("Value error, ")
            expected = error["msg"].removeprefix("Input ")
    return f"{expected}, found {kind(error['input'])}"


def _suggestion(name: str, model: type[BaseModel], keys: Keys) -> str:
    """For an unknown key: where in a suite that very key belongs, else the nearest one that belongs here."""
    owner: type[BaseModel] = model
    for key in keys:
        if str(key) in owner.model_fields:  # else it is a name of the user's own, such as that of a step
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


def refuse(problems: Iterable[Problem]) -> None:
    """Raise what was found, in the order of the file, each problem once."""
    found = sorted(dict.fromkeys(problems), key=_position)
    if len(found) == 1:
        path, message = found[0].path, found[0].message
        raise ConfigError(f"{path}: {message}" if path else message, where=found[0].where, hint=found[0].hint)
    if found:
        raise ConfigError("\n".join(str(problem) for problem in found))


def _position(problem: Problem) -> tuple[str, int, int]:
    match = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where or "", re.DOTALL)
    return (match[1], int(match[2]), int(match[3])) if match else (problem.where or "", 0, 0)
