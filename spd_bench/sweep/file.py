"""The YAML file of a sweep: its schema, and every check of it before the first trial.

A sweep is a suite's base with some values left open. Each end of a range and each choice is put into the suite and
checked as a suite is: its schema, the options of its components, and the contracts between blocks.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from spd_bench import registry
from spd_bench.api import Encoder, PointDepthModel
from spd_bench.errors import ConfigError, DataError, SpdError, did_you_mean
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request
from spd_bench.suite.axes import CompositionSpec, Selection, compositions
from spd_bench.suite.checks import SuiteProblem, check_components, check_options, problems_of, refuse, schema_problems
from spd_bench.suite.forms import long_form, names
from spd_bench.suite.load import find_suite, shipped_sweeps
from spd_bench.suite.schema import MODEL_SLOTS, Component, Count, Section, Slug, Suite, unique
from spd_bench.suite.yaml import Keys, Node, load_yaml, merge, setting
from spd_bench.sweep.request import SweepRequest

SWEPT = ("base", "data", "train")
"""Parts of a suite that define what is trained; the others define how it is judged, which no trial may change."""
UNSWEPT: Mapping[str, str] = {
    "base.name": "it is a name",
    "data.dataset": "trials on different data cannot be compared",
    "data.test": "trials are never scored on a test split",
    "data.cache": "it changes what is stored",
    "data.cache_limit_gb": "it changes what is stored",
    "train.workers": "numbers do not depend on it",
    "train.validations": "numbers do not depend on it",
}
"""Values of those parts that cannot be swept, and why."""
FIXED_BY_SUITE = ("suite", "description", "extends", "profiles", "fallback", "steps", "axes", "baselines", "seeds")
BASE = Selection(skip=("*",))
OTHER_LENGTH = {"steps": "epochs", "epochs": "steps"}
"""A swept length of training replaces the suite's, whether that is in steps or epochs."""
CORNERS = 32
"""Up to this number, all combinations of ends and choices are checked; above it, each value beside the first others."""

Cost = Literal["t_prepare", "t_decode", "t_model", "parameters"]
WITH_K = ("t_decode", "t_model")
"""Costs that depend on the number of query points."""
Grid = tuple[dict[str, Any], ...]


class Dimension(Section):
    """One open value: `{float: [low, high]}`, `{int: [low, high]}` or `{choice: [value, value]}`."""

    model_config = ConfigDict(populate_by_name=False)

    float_: tuple[float, float] | None = Field(default=None, alias="float")
    """Real numbers from low to high."""
    int_: tuple[int, int] | None = Field(default=None, alias="int")
    """Whole numbers from low to high."""
    choice: Annotated[tuple[Any, ...], Field(min_length=2), AfterValidator(unique)] | None = None
    """These values; a component is a name or `{use: name, option: value}`."""
    log: bool = False
    """Whether values are drawn by ratio instead of difference."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Only low, low + step, ..., high."""

    @model_validator(mode="after")
    def _possible(self) -> "Dimension":
        given = [form for form in (self.float_, self.int_, self.choice) if form is not None]
        if len(given) != 1:
            raise PydanticCustomError("dimension", "should have one of float, int and choice")
        if self.choice is not None:
            if self.log or self.step is not None:
                raise PydanticCustomError("dimension", "should have neither log nor step beside choice")
        else:
            self._possible_range(*self.range)
        return self

    def _possible_range(self, low: float, high: float) -> None:
        if low >= high:
            message = "should have the lower end first and the upper end above it, found [{low}, {high}]"
            raise PydanticCustomError("range", message, {"low": low, "high": high})
        if self.log and low <= 0:
            raise PydanticCustomError("range", "should begin above 0 with log, found {low}", {"low": low})
        if self.log and self.step is not None:
            raise PydanticCustomError("range", "should have log or step, not both")
        if self.step is None:
            return
        if self.int_ is not None and not self.step.is_integer():
            raise PydanticCustomError("range", "should have a whole step, found {step}", {"step": self.step})
        steps = (high - low) / self.step
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            last = low + math.floor(steps) * self.step
            found = {"found": f"{steps:g} steps", "hint": f"the last step is {last:g}; end there"}
            raise PydanticCustomError("range", "should reach its upper end in whole steps, found {found}", found)

    @property
    def range(self) -> tuple[float, float]:
        """[low, high] of a range."""
        ends = self.int_ if self.int_ is not None else self.float_
        assert ends is not None
        return ends

    def ends(self) -> list[tuple[Any, tuple[str | int, ...]]]:
        """The values that are checked (every choice, or both ends), each with the keys that lead to it in the file."""
        if self.choice is not None:
            return [(value, ("choice", i)) for i, value in enumerate(self.choice)]
        form = "int" if self.int_ is not None else "float"
        return [(value, (form, i)) for i, value in enumerate(self.range)]

    def grid(self) -> list[Any] | None:
        """Every value; None where there is no finite number of them."""
        if self.choice is not None:
            return [label(value) for value in self.choice]
        low, high = self.range
        if self.step is None:
            return None
        count = round((high - low) / self.step) + 1
        values = [low + i * self.step for i in range(count)]
        return [int(value) for value in values] if self.int_ is not None else values


def label(value: Any) -> str | int | float | bool | None:
    """A choice as samplers store it: a scalar as it is, anything else as JSON."""
    return value if value is None or isinstance(value, str | int | float | bool) else json.dumps(value, sort_keys=True)


class Sampler(Section):
    """Proposes the next trial; seeded for each trial anew, so that workers do not repeat each other."""

    use: Literal["tpe", "random", "grid", "gp"] = "tpe"
    """tpe: multivariate tree-structured Parzen estimator; gp: Gaussian process; grid: every combination."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the proposals."""
    startup: Count = 10
    """Random trials before tpe and gp begin to learn."""


class Pruner(Section):
    """Stops trials early, by the validations during training, which are at 256 query points."""

    use: Literal["none", "hyperband", "median", "wilcoxon"] = "none"
    """wilcoxon: by a paired test of the errors of single images against the best trial's."""


class Objective(Section):
    """A metric on the validation split, or a cost, that is minimised (or maximised, where more is better)."""

    metric: str | None = None
    """A registered metric, on the validation split, by the suite's protocol."""
    cost: Cost | None = None
    """t_prepare, t_decode, t_model (both together), in milliseconds per image; or trainable parameters."""
    k: Count | None = None
    """Number of query points per image."""

    @model_validator(mode="after")
    def _complete(self) -> "Objective":
        if (self.metric is None) == (self.cost is None):
            raise PydanticCustomError("objective", "should have either metric or cost")
        _check_k(self.k, self.metric is not None or self.cost in WITH_K, str(self.metric or self.cost))
        return self

    @property
    def name(self) -> str:
        """Name for tables, such as absrel@256."""
        return _named(str(self.metric or self.cost), self.k)


class Constraint(Section):
    """A cost with an upper bound; it is measured before training, and a trial above it is not trained."""

    cost: Cost
    """As in an objective."""
    k: Count | None = None
    """Number of query points per image."""
    below: Annotated[float, Field(gt=0)]
    """The bound: milliseconds or parameters, or with relative_to a factor."""
    relative_to: Component | None = None
    """Baseline whose cost is the unit; times are then measured in turns, so that a busy machine does not matter."""

    @model_validator(mode="after")
    def _complete(self) -> "Constraint":
        _check_k(self.k, self.cost in WITH_K, self.cost)
        return self

    @property
    def name(self) -> str:
        """Name for tables, such as t_model@256 / dpt_trained."""
        relative = f" / {self.relative_to.use}" if self.relative_to is not None else ""
        return _named(self.cost, self.k) + relative


def _check_k(k: int | None, wanted: bool, name: str) -> None:
    if wanted != (k is not None):
        message = "{name} needs k, a number of query points" if wanted else "{name} does not depend on k"
        raise PydanticCustomError("k", message, {"name": name})


def _named(name: str, k: int | None) -> str:
    return name if k is None else f"{name}@{k}"


class Sweep(Section):
    """A validated sweep."""

    sweep: Slug
    """The sweep's name."""
    description: str = ""
    """One line for people."""
    suite: str
    """Suite, by name or by path from this file's folder, whose base is swept."""
    profile: Slug | None = None
    """Profile of the suite; with one, nothing is substituted for what is missing here."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values that differ from the suite's, such as a shorter training."""
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    """Path in the suite, such as train.lambda_si, routing.r or neck → the values that it may take."""
    sampler: Sampler = Sampler()
    """How values are proposed."""
    pruner: Pruner = Pruner()
    """How trials are stopped early."""
    objective: Annotated[tuple[Objective, ...], Field(min_length=1), AfterValidator(unique)]
    """One, or several for a Pareto front."""
    constraints: tuple[Constraint, ...] = ()
    """Bounds on costs."""
    trials: Count | None = None
    """Trials of all workers together; null: every combination of a grid."""
    timeout: Annotated[float, Field(gt=0)] | None = None
    """Seconds after which a worker begins no further trial."""
    seed: Annotated[int, Field(ge=0)] | None = None
    """Seed of every trial's training; null: the first of the suite's."""
    profiles: dict[Slug, dict[str, Any]] = Field(default_factory=dict)
    """Overrides of the values above for a profile of the suite, asked for or fallen back to."""

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        several = len(self.objective) > 1
        if several and self.pruner.use != "none":
            raise PydanticCustomError("pruner", "several objectives cannot be pruned", {"hint": "use pruner: none"})
        if self.pruner.use != "none" and self.objective[0].metric is None:
            raise PydanticCustomError("pruner", "a cost does not change in training: there is nothing to prune by")
        if all(objective.metric is None for objective in self.objective):
            raise PydanticCustomError("objective", "should have a metric among its objectives")
        if self.sampler.use == "grid":
            endless = [path for path, dimension in self.space.items() if dimension.grid() is None]
            if endless:
                message = "sampler grid needs a choice or a step, {paths} has neither"
                raise PydanticCustomError("grid", message, {"paths": ", ".join(endless)})
        elif self.trials is None:
            raise PydanticCustomError("trials", "should say how many trials")
        return self

    def grid(self) -> Grid:
        """Every combination, in the order of the file; only where the sampler is grid."""
        values = {path: dimension.grid() or [] for path, dimension in self.space.items()}
        return tuple(dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values()))

    @property
    def total(self) -> int:
        """Trials of all workers together."""
        if self.sampler.use != "grid":
            assert self.trials is not None
            return self.trials
        return min(len(self.grid()), self.trials or len(self.grid()))


def json_schema() -> dict[str, Any]:
    """JSON Schema of a sweep file, for editors."""
    return Sweep.model_json_schema()


@dataclass(frozen=True)
class SweepPlan:
    """A sweep on its suite, ready to run."""

    sweep: Sweep
    """The validated file."""
    base: Suite
    """The suite with the sweep's `set`, and with its base as the only composition."""
    why: str
    """As in `run.planning.choose.Chosen`."""
    suite_path: Path
    """The suite's file."""
    tree: Node
    """The sweep's file as a tree, for places in messages."""

    def suite(self, values: Mapping[str, Any], name: str | None = None) -> Suite:
        """The suite of one trial; values: path → value or label, from a sampler."""
        open_ = {path: _valued(self.tree, path, self._meant(path, value)) for path, value in values.items()}
        return _with(self.base, open_, name)

    def _meant(self, path: str, value: Any) -> Any:
        choices = self.sweep.space[path].choice
        return value if choices is None else next(choice for choice in choices if label(choice) == value)


def find_sweep(path_or_name: str | Path) -> Path:
    """The file of a sweep: this path, else a shipped sweep. Raises ConfigError if there is neither."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    known = shipped_sweeps()
    name = path.name.removesuffix(".yaml").removeprefix("sweep_")
    if path.parent in (Path(), Path("suites")) and name in known:
        return known[name]
    raise ConfigError(f'no sweep "{path}", as a file or among those shipped', hint=did_you_mean(name, known))


def load_sweep(request: SweepRequest, *, at: Callable[[str], None] = lambda stage: None) -> SweepPlan:
    """Reads and checks a sweep, its suite, and the suite at every end of the space; trains nothing.

    at: gets, in words that follow "while", which values are checked. Raises ConfigError listing every problem,
    DataError where the machine lacks what the suite needs and nothing may be substituted.
    """
    path = find_sweep(request.sweep)
    tree = _normal(load_yaml(path))
    known = names(tree, "profiles")
    refuse([*_problems(tree), *itertools.chain(*(_problems(_under(tree, name)) for name in known))])
    first = _parsed(tree)
    suite_path = _suite_path(first.suite, tree, path)
    profile = request.profile or first.profile
    chosen = choose.choose(
        Request(suite=str(suite_path), profile=profile, sets=request.sets, data=request.data, selection=BASE)
    )
    if chosen.steps:
        raise ConfigError("suite: a build order cannot be swept", where=tree.nearest(("suite",)).head)
    tree = _under(tree, chosen.suite.profile) if chosen.suite.profile in known else tree
    own = {"trials": Node(request.trials, "--trials"), "timeout": Node(request.timeout, "--timeout")}
    tree = merge(tree, Node({key: node for key, node in own.items() if node.value is not None}, ""))
    sweep = _parsed(tree)
    found = SweepPlan(sweep, _base(sweep, tree, chosen.suite, request.sets, request.data), chosen.why, suite_path, tree)
    _check_space(found, at)
    return found


def _normal(tree: Node) -> Node:
    """The tree with short forms written out: a single objective, a sampler or a pruner by name."""
    members = dict(tree.value)
    if "objective" in members and isinstance(members["objective"].value, dict):
        one = members["objective"]
        members["objective"] = Node([Node(one.value, one.place)], one.place, one.key)
    for name in ("sampler", "pruner"):
        if name in members and isinstance(members[name].value, str):
            one = members[name]
            members[name] = Node({"use": Node(one.value, one.place)}, one.place, one.key)
    if "set" in members and isinstance(members["set"].value, dict):
        members["set"] = long_form(members["set"])
    if "profiles" in members and isinstance(members["profiles"].value, dict):
        profiles = members["profiles"]
        normal = {key: _normal(node) if isinstance(node.value, dict) else node for key, node in profiles.value.items()}
        members["profiles"] = Node(normal, profiles.place, profiles.key)
    return Node(members, tree.place, tree.key)


def _under(tree: Node, profile: str | None) -> Node:
    """The tree with the sweep's values for a profile of its suite merged into it."""
    values = tree.nearest(("profiles", str(profile)))
    return merge(tree, Node(values.value, values.place)) if isinstance(values.value, dict) else tree


def _parsed(tree: Node) -> Sweep:
    return Sweep.model_validate_json(json.dumps(tree.plain()))


def _problems(tree: Node) -> list[SuiteProblem]:
    """The problems of a sweep that need no suite to be found."""
    found = []
    for i, node in enumerate(tree.value["objective"].value if "objective" in tree.value else []):
        metric = node.plain().get("metric") if isinstance(node.value, dict) else None
        if isinstance(metric, str) and metric not in registry.names("metric"):
            place = node.value["metric"].place
            hint = did_you_mean(metric, registry.names("metric"))
            found.append(SuiteProblem(place, f"objective[{i}].metric", f'unknown metric "{metric}"', hint))
    for path in names(tree, "space"):
        found += _path_problems(path, tree.nearest(("space", path)).key)
    for keys in (("set",), *(("profiles", name, "set") for name in names(tree, "profiles"))):
        node = tree.nearest(keys)
        values = node.value if node.key and isinstance(node.value, dict) else {}
        fixed = [key for key in values if key in FIXED_BY_SUITE]
        found += [SuiteProblem(node.value[key].key, f"set.{key}", "a sweep cannot change this") for key in fixed]
    try:
        _parsed(tree)
    except ValidationError as invalid:
        found += [replace(one, hint=_as_written(one.hint)) for one in schema_problems(invalid, Sweep, tree)]
    return found


def _as_written(hint: str | None) -> str | None:
    """A hint with the file's keys `float` and `int`, whose fields have other names in Python."""
    return re.sub(r"\b(float|int)_", r"\1", hint) if hint else hint


def _path_problems(path: str, where: str) -> Iterator[SuiteProblem]:
    keys = keys_of(path)
    dotted = ".".join(keys)
    why = next((why for taboo, why in UNSWEPT.items() if dotted == taboo or dotted.startswith(f"{taboo}.")), None)
    if why is not None:
        yield SuiteProblem(where, f"space.{path}", f"cannot be swept: {why}")
    elif keys[0] in Suite.model_fields and keys[0] not in SWEPT:
        yield SuiteProblem(where, f"space.{path}", "cannot be swept: it does not say what is trained")
    elif keys[0] not in SWEPT or not all(keys):
        hint = did_you_mean(keys[0], [*SWEPT, *MODEL_SLOTS])
        yield SuiteProblem(where, f"space.{path}", "should be a path in a suite, such as train.lr or routing.r", hint)


def keys_of(path: str) -> tuple[str, ...]:
    """The keys of a path of the space in a suite: routing.r stands for base.routing.r."""
    parts = tuple(path.split("."))
    return ("base", *parts) if parts[0] in MODEL_SLOTS else parts


def _suite_path(text: str, tree: Node, path: Path) -> Path:
    """The file of the suite that a sweep names: beside the sweep's own, else a shipped one."""
    for name in (text, f"{text}.yaml"):
        if (path.parent / name).is_file():
            return path.parent / name
    try:
        return find_suite(text)
    except ConfigError as error:
        raise ConfigError(f"suite: {error.message}", where=tree.nearest(("suite",)).head, hint=error.hint) from None


def _base(sweep: Sweep, tree: Node, suite: Suite, sets: Sequence[str], data: str | Path | None) -> Suite:
    """The suite with the sweep's `set` below `--set` and `--data`, and its base as the only composition, one seed."""
    laid = suite.source
    if "set" in tree.value:
        values = tree.value["set"]
        laid = merge(laid, Node(values.value, values.place))
        for text in sets:
            laid = merge(laid, long_form(setting(text)))
        if data is not None:
            dataset = suite.source.nearest(("data", "dataset"))
            laid = merge(laid, Node({"data": Node({"dataset": dataset}, dataset.place)}, dataset.place))
    seed = suite.seeds[0] if sweep.seed is None else sweep.seed
    kept = {key: node for key, node in laid.value.items() if key not in ("axes", "baselines", "steps", "fallback")}
    kept["seeds"] = Node([Node(seed, "seed")], "seed")
    if "report" in kept and isinstance(kept["report"].value, dict):
        report = {key: node for key, node in kept["report"].value.items() if key == "primary"}
        kept["report"] = Node(report, kept["report"].place, kept["report"].key)
    base = _suite_of(Node({key: node for key, node in kept.items() if key != "profiles"}, laid.place), suite.profile)
    if lacks := choose.missing(base, BASE):
        raise DataError("cannot run here:\n  " + "\n  ".join(lacks), where=sweep.sweep)
    return base


def _suite_of(tree: Node, profile: str | None) -> Suite:
    refuse(problems_of(tree))
    return Suite.read(tree, profile)


def _valued(tree: Node, path: str, value: Any, keys: Keys = ()) -> Node:
    """A value of the space as a node with its place in the sweep's file."""
    dimension = tree.nearest(("space", path))
    place = dimension.nearest(keys).place if keys else dimension.key
    return _plain_node(value, place, dimension.key)


def _plain_node(value: Any, place: str, key: str = "") -> Node:
    if isinstance(value, dict):
        return Node({name: _plain_node(item, place, place) for name, item in value.items()}, place, key)
    if isinstance(value, list | tuple):
        return Node([_plain_node(item, place) for item in value], place, key)
    return Node(value, place, key)


def _laid(base: Suite, values: Mapping[str, Node], name: str | None) -> Node:
    tree = base.source
    if name is not None:
        tree = merge(tree, Node({"base": Node({"name": Node(name, "")}, "")}, ""))
    # a component before its options
    for path, node in sorted(values.items(), key=lambda item: item[0].count(".")):
        keys = keys_of(path)
        if (length := OTHER_LENGTH.get(keys[-1])) and keys[0] == "train":
            tree = merge(tree, Node({"train": Node({length: Node(None, "")}, "")}, ""))
        nested = node
        for key in reversed(keys):
            nested = Node({key: nested}, node.key, node.key)
        tree = merge(tree, long_form(nested))
    return tree


def _with(base: Suite, values: Mapping[str, Node], name: str | None = None) -> Suite:
    return _suite_of(_laid(base, values, name), base.profile)


def _check_space(found: SweepPlan, at: Callable[[str], None]) -> None:
    """Checks every corner of the space as a suite: schema, then options, then contracts; lists all of a kind."""
    corners = _corners(found)
    refuse(itertools.chain(*(problems_of(_laid(found.base, corner, None)) for corner in corners)))
    suites = [_with(found.base, corner) for corner in corners]
    _all_or_error(partial(check_components, suite) for suite in suites)
    encoders: dict[str, Encoder] = {}
    models = {_model_of(suite): (suite, corner) for suite, corner in zip(suites, corners, strict=True)}
    _all_or_error(partial(_check_contract, suite, corner, encoders, at) for suite, corner in models.values())


def _corners(found: SweepPlan) -> list[dict[str, Node]]:
    """Combinations of the ends and choices of all dimensions: path → value."""
    sweep = found.sweep
    ends = {
        path: [_valued(found.tree, path, value, keys) for value, keys in dimension.ends()]
        for path, dimension in sweep.space.items()
    }
    if math.prod(map(len, ends.values())) <= CORNERS:
        return [dict(zip(ends, corner, strict=True)) for corner in itertools.product(*ends.values())]
    first = {path: nodes[0] for path, nodes in ends.items()}
    return [first | {path: node} for path, nodes in ends.items() for node in nodes]


def _model_of(suite: Suite) -> str:
    """A key that corners with the same model share."""
    return json.dumps([suite.base.model_dump(mode="json"), suite.data.image_size])


def _check_contract(
    suite: Suite, corner: Mapping[str, Node], encoders: dict[str, Encoder], at: Callable[[str], None]
) -> None:
    """Checks the model at one corner; an error gets the place of the value that caused it."""
    at("checking " + ", ".join(f"{path} {label(node.plain())}" for path, node in corner.items()))
    try:
        with registry.blamed("this sweep"):
            model = built(suite, compositions(suite)[0], encoders)
            compose.check(model, name="this sweep", image_size=suite.data.image_size)
    except SpdError as error:
        error.where = _blame(error, corner)
        raise error from None


def _blame(error: SpdError, corner: Mapping[str, Node]) -> str:
    """The place of the value that an error names, else of the last dimension."""
    named = [node.place for path, node in corner.items() if path in error.message]
    return named[0] if named else list(corner.values())[-1].place


def built(suite: Suite, composition: CompositionSpec, encoders: dict[str, Encoder]) -> PointDepthModel:
    """A composition's model with its initial weights; encoders: those built before, to which a new one is added."""
    choice = composition.slots["encoder"]
    key = json.dumps(choice.plain(), sort_keys=True)
    if key not in encoders:
        encoders[key] = compose.build_encoder(ChosenPart(choice.use, check_options(choice, "encoder")))
    return plan.build_model(composition, encoders[key], seed=suite.seeds[0])


def _all_or_error(checks: Iterable[Callable[[], None]]) -> None:
    """Runs every check; raises its only error, or one that lists several, each once."""
    errors: dict[str, SpdError] = {}
    for check in checks:
        try:
            check()
        except ConfigError as error:
            errors.setdefault(str(error), error)
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        raise ConfigError("\n".join(errors))
