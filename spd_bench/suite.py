"""A suite: what a YAML file may say, and how it is read, inherited, overridden and checked.

Order of precedence, later wins: the file that `extends` names, the file, a profile, `--set`, `--data`. Nothing
here imports a component before `check_options`; names are checked against the metadata of installed distributions.
Every problem of a suite is reported at once, each with the place of the value that caused it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from spd_bench import registry
from spd_bench.errors import ConfigError, DataError, did_you_mean
from spd_bench.yamlio import Keys, Node, kind, load_yaml, merge, setting

Axis = Literal["leave_one_out", "swap", "grid", "add_one_in"]
BlockSlot = Literal["b1", "b2", "b3", "routing", "b4", "b5", "depth_head"]
ModelSlot = Literal["encoder", "neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head"]
MODEL_SLOTS: tuple[str, ...] = get_args(ModelSlot)
"""The slots that a composition fills, in the order of §2."""

SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
PATCH = 14
"""Side in pixels of the encoder's patches (§3): an input size is a multiple of it."""


# ------------------------------------------------------------------------------------------------- schema


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise PydanticCustomError("unique", "lists {value} twice", {"value": str(twice[0])})
    return values


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("ascending", "should be [low, high]")
    return pair


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Choice(_Part):
    """A component by its registered name, with the options that were given to it."""

    use: str
    options: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, value: Any) -> "Choice":
        """From the form it has in a suite: `name`, or `{use: name, option: value, ...}`."""
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            return cls(use=value)
        if isinstance(value, dict) and isinstance(value.get("use"), str):
            return cls(use=value["use"], options={key: item for key, item in value.items() if key != "use"})
        raise PydanticCustomError(
            "choice",
            "should be a component, as a name or as {form}, found {found}",
            {"form": "{use: name, option: value}", "found": kind(value)},
        )

    def plain(self) -> dict[str, Any]:
        """The form it has in a suite."""
        return {"use": self.use, **self.options}


Slug = Annotated[str, Field(pattern=SLUG)]
Shapes = Literal["pyramid", "precompute", "tokens", "evidence"]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=2 * PATCH, le=2048, multiple_of=PATCH)]
Jitter = Annotated[float, Field(ge=0, le=1)]
Component = Annotated[
    Choice,
    BeforeValidator(Choice.read),
    PlainSerializer(Choice.plain),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["use"]}]}),
]


class Base(_Part):
    """The full model, one component per slot (§2)."""

    name: Slug = "base"
    """What tables call it."""
    encoder: Component
    neck: Component
    b1: Component
    b2: Component
    b3: Component
    routing: Component
    b4: Component
    b5: Component
    depth_head: Component

    def slots(self) -> dict[str, Choice]:
        """Slot → component, in the order of §2."""
        return {slot: getattr(self, slot) for slot in MODEL_SLOTS}


class Augment(_Part):
    """Augmentation of training images (§7.3, R-18)."""

    enabled: bool = True
    """Whether frames are varied at all."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    zoom: Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ascending)] = (
        0.8,
        1.2,
    )
    """Range of the zoom factor; metric depth is divided by it. Below 1 it takes effect only with allow_padding."""
    allow_padding: bool = False
    """Whether a zoom below 1 may surround the frame with black pixels of unknown depth (R-18)."""
    brightness: Jitter = 0.2
    """Factor on brightness within 1 ± this."""
    contrast: Jitter = 0.2
    """Factor on the distance from the mean grey within 1 ± this."""
    saturation: Jitter = 0.2
    """Factor on the distance from each pixel's grey within 1 ± this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Turn of the hue circle within ± this."""
    views: Annotated[int, Field(ge=0)] = 0
    """How many augmented views of a frame exist, one after the other in successive epochs; 0: a new one each time.
    Features of views that come again are not encoded again."""

    @property
    def always_new(self) -> bool:
        """Whether every epoch shows views that do not come again."""
        return self.enabled and self.views == 0

    @model_validator(mode="after")
    def _zoom_is_possible(self) -> "Augment":
        if self.zoom[1] < 1 and not self.allow_padding:
            raise PydanticCustomError("zoom", "should have zoom reach 1 or more unless allow_padding is true")
        return self


class Data(_Part):
    """Images, their size, and where training asks for depth (§7.1, §7.3)."""

    dataset: Component
    test: Component | None = None
    """Another data set, whose test split is scored in place of the first one's."""
    image_size: tuple[Side, Side] = (518, 518)
    """[height, width] of the network's input (R-23)."""
    query_sampler: Component = Choice(use="uniform")
    augment: Augment = Augment()
    cache: Literal["memory", "disk"] = "memory"
    """Where features of views that come again are kept: in this process, in float32, or below the folder of all runs,
    in float16, for every run on the same encoder and data. float16 changes numbers: it counts as another training."""
    cache_limit_gb: Annotated[float, Field(gt=0)] | None = None
    """Size that the whole cache on disk must not exceed; null: what the disk has free."""

    @model_validator(mode="after")
    def _cacheable(self) -> "Data":
        if self.cache == "disk" and self.augment.always_new:
            raise PydanticCustomError(
                "cache",
                "cache: disk keeps views that come again, and with augment.views: 0 no training view does",
                {"hint": "set augment.views, to 4 say, or augment.enabled: false, or keep cache: memory"},
            )
        return self


class Train(_Part):
    """The training recipe of §7.3; its values are the defaults. Say either `epochs` or `steps`."""

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count = 8
    queries: Count = 256
    """Queries per image in training."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate at the end of the cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    loss: Component = Choice(use="huber_silog")
    lambda_si: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the structure term of the loss (§7.2)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    validations: Count = 5
    """Times that the validation split is scored, spread evenly over training; the numbers do not depend on it."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read data; the numbers do not depend on it."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            found = "both" if self.epochs else "neither"
            hint = "null takes an inherited value away, such as epochs: null"
            raise PydanticCustomError(
                "length", "should give either epochs or steps, found {found}", {"found": found, "hint": hint}
            )
        if self.min_lr > self.lr:
            raise PydanticCustomError("min_lr", "should have min_lr no larger than lr")
        return self


class Evaluation(_Part):
    """Scoring on the test split (§8, R-24 to R-26)."""

    protocol: Slug = "nyu_bts"
    k: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_unique)] = (1, 64, 256, 1024)
    """Numbers of query points per image."""
    k1_draws: Count = 32
    """Draws of a single point per image at K = 1 (R-26)."""
    seed: Annotated[int, Field(ge=0)] = 0


class Axes(_Part):
    """Which ablations to run, as differences from `base`. Their union is taken, in the order of the file."""

    leave_one_out: Annotated[tuple[BlockSlot, ...], AfterValidator(_unique)] = ()
    """Each of these in turn replaced by what its component names as stand-in."""
    swap: dict[ModelSlot, tuple[Component, ...]] = Field(default_factory=dict)
    """Slot → components to put there in turn."""
    grid: dict[str, Annotated[tuple[Any, ...], AfterValidator(_unique)]] = Field(default_factory=dict)
    """"slot.option" → values to give it in turn."""
    add_one_in: Annotated[tuple[BlockSlot, ...], AfterValidator(_unique)] = ()
    """All of these left out, and then each added alone."""


class Primary(_Part):
    """The one number that the suite is judged by."""

    metric: str = "absrel"
    k: Count = 256


class Report(_Part):
    """What the report puts first, and which comparisons its correction for multiplicity counts."""

    primary: Primary = Primary()
    family: Annotated[tuple[Axis, ...], AfterValidator(_unique)] = ("leave_one_out",)
    equivalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the base's value below which a difference does not matter, declared before looking."""


class Checks(_Part):
    """What must hold after a step of a build order before the next one starts (§10.3)."""

    shapes: Annotated[tuple[Shapes, ...], AfterValidator(_unique)] = ()
    """Of which parts the shapes are compared with the paper's: §4, §5, §6.1, §6.4."""
    picture: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Draw L3's first three principal components; their least correlation between neighbouring cells."""
    watched: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """"slot/name" of what a block tells of itself → the range [low, high] that it must lie in."""
    below: dict[str, float] = Field(default_factory=dict)
    """Metric → value that it must stay below, at the primary K."""
    better_than: tuple[Component, ...] = ()
    """Baselines that the primary metric must beat."""
    close_to: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Baseline → largest ratio of the primary metric to that baseline's."""


class Step(_Part):
    """One step of a build order (§10.3): the suite with some values changed, and what must hold then."""

    description: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values that differ from the suite's."""
    train: bool = True
    """Whether the model is trained and scored; shapes can be compared without."""
    checks: Checks


class Fallback(_Part):
    """What to do when no profile is asked for and something that the suite needs is not on this machine."""

    profile: str


class Suite(_Part):
    """A validated suite. `dump` gives the form of the YAML file, from which it can be validated again."""

    suite: Slug
    description: str = ""
    extends: str | None = None
    """Suite, by name or by path from this file's folder, whose values hold unless this one overrides them."""
    base: Base
    data: Data
    train: Train
    eval: Evaluation = Evaluation()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_unique)] = (0, 1, 2)
    axes: Axes = Axes()
    baselines: tuple[Component, ...] = ()
    report: Report = Report()
    steps: dict[Slug, Step] = Field(default_factory=dict)
    """A build order in place of axes and baselines: steps run one after the other, up to the first that fails."""
    profiles: dict[Slug, dict[str, Any]] = Field(default_factory=dict)
    """Named overrides of the values above."""
    fallback: Fallback | None = None

    _source: Node = PrivateAttr(default=Node({}, ""))
    _profile: str | None = PrivateAttr(default=None)

    @property
    def profile(self) -> str | None:
        """The profile that this suite was loaded with."""
        return self._profile

    @property
    def places(self) -> dict[Keys, str]:
        """Place of every value that was written down, by its keys; empty if the suite came from no file."""
        return self._source.places()

    def place(self, *keys: str | int) -> str | None:
        """Where the value at these keys was written, or the nearest one around it."""
        return self._source.nearest(keys).head or None

    def dump(self) -> dict[str, Any]:
        """Everything that the suite says, defaults filled in, in plain values that JSON and YAML can hold."""
        return self.model_dump(mode="json", exclude={"extends"})


def json_schema() -> dict[str, Any]:
    """JSON Schema of a suite file, for editors; component names are those of the installed distributions."""

    def choice(slot: str) -> dict[str, Any]:
        use = {"enum": registry.names(slot)}
        return {"anyOf": [use, {"type": "object", "properties": {"use": use}}]}

    schema = Suite.model_json_schema()
    parts = schema["$defs"]
    for part in parts.values():
        part.pop("required", None)  # a suite that extends another may leave anything out
    schema["required"] = ["suite"]
    for slot in MODEL_SLOTS:
        parts["Base"]["properties"][slot] = choice(slot)
    parts["Data"]["properties"] |= {
        "dataset": choice("dataset"),
        "test": choice("dataset"),
        "query_sampler": choice("query_sampler"),
    }
    parts["Train"]["properties"]["loss"] = choice("loss")
    parts["Axes"]["properties"]["swap"]["properties"] = {
        slot: {"type": "array", "items": choice(slot)} for slot in MODEL_SLOTS
    }
    schema["properties"]["baselines"]["items"] = choice("baseline")
    return schema


# ------------------------------------------------------------------------------------------------- reading


def shipped() -> dict[str, Path]:
    """Suites that come with this distribution, by name."""
    package = Path(__file__).parent
    folder = package / "suites"  # in a wheel; in a checkout they lie beside the package
    found = folder if folder.is_dir() else package.parent / "suites"
    return {path.stem: path for path in sorted(found.glob("*.yaml"))}


def find_suite(path_or_name: str | Path) -> Path:
    """The file that is meant: this path, else a shipped suite (`name`, `name.yaml` or `suites/name.yaml`).

    Raises ConfigError for an unknown one.
    """
    path = Path(path_or_name)
    return path if _is_file(path) else _find_shipped(path)


def _find_shipped(path: Path) -> Path:
    name = path.name.removesuffix(".yaml")
    known = shipped()
    if path.parent in (Path(), Path("suites")) and name in known:
        return _short(known[name])
    raise ConfigError(f'no suite "{path}", as a file or among those shipped', hint=did_you_mean(name, known))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def load_suite(
    path_or_name: str | Path,
    *,
    profile: str | None = None,
    sets: Iterable[str] = (),
    data: str | Path | None = None,
    step: str | None = None,
) -> Suite:
    """Read and check a suite.

    profile: named override of the suite to apply. step: step of a build order to take, as a suite of its own. data:
    file or folder of RGB-D data; the data set whose layout it has is used, the suite's own first. sets: "a.b=value"
    overrides, the last one wins.

    Raises ConfigError listing every problem, one a line; the profiles that are not asked for are checked too.
    """
    path = find_suite(path_or_name)
    tree = _inherited(path)
    known = _names(tree, "profiles")
    if profile is not None and profile not in known:
        raise ConfigError(f'unknown profile "{profile}"', where=str(path), hint=did_you_mean(profile, known))
    problems = _problems(tree) + [problem for name in known for problem in _profile_problems(tree, name)]
    tree = _with_profile(tree, profile)
    if step is not None:
        tree = _with_step(tree, step)
    for text in sets:
        tree = merge(tree, _long_form(setting(text)))
    if data is not None:
        tree = _with_data(tree, Path(data))
    _refuse(problems + _problems(tree))
    suite = _parse(tree)
    suite._source, suite._profile = tree, profile
    return suite


def _inherited(path: Path, below: tuple[Path, ...] = ()) -> Node:
    """A suite file laid over what it extends; `below` are the files that led here."""
    tree = _long_form(load_yaml(path))
    extends = tree.value.get("extends")
    if extends is None or extends.value is None:
        return tree
    chain = (*below, path)
    parent = _parent(extends, path)
    if parent.resolve() in [file.resolve() for file in chain]:
        circle = " → ".join(str(file) for file in (*chain, parent))
        raise ConfigError(f"extends goes in a circle: {circle}", where=extends.place)
    inherited = _inherited(parent, chain)
    own = {key: node for key, node in tree.value.items() if key != "extends"}
    passed_on = {key: node for key, node in inherited.value.items() if key not in ("suite", "description")}
    return merge(Node(passed_on, tree.place), Node(own, tree.place))


def _parent(extends: Node, path: Path) -> Path:
    """The file that `extends` means: beside this one or below its folder, else a shipped suite."""
    text = extends.value
    if not isinstance(text, str):
        raise ConfigError(f"extends: should be the name of a suite, found {kind(text)}", where=extends.place)
    folder = path.parent
    for name in (text, f"{text}.yaml"):
        if _is_file(folder / name):
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f'extends: "{text}" leaves the folder of this suite', where=extends.place)
            return folder / name
    try:
        return _find_shipped(Path(text))
    except ConfigError as error:
        raise ConfigError(f"extends: {error.message}", where=extends.place, hint=error.hint) from error


_CHOICES: tuple[tuple[Keys, str], ...] = (
    *((("base", slot), slot) for slot in MODEL_SLOTS),
    (("data", "dataset"), "dataset"),
    (("data", "test"), "dataset"),
    (("data", "query_sampler"), "query_sampler"),
    (("train", "loss"), "loss"),
)


def _long_form(tree: Node) -> Node:
    """Components as `{use: name}` and grid paths as "slot.option", here and in every profile, ready to be merged."""
    tops: list[Keys] = [(), *((("profiles", name)) for name in _names(tree, "profiles"))]
    tops += [(*top, "steps", name, "set") for top in tops for name in _names(tree.nearest(top), "steps")]
    for top in tops:
        for keys, _ in _CHOICES:
            tree = _edit(tree, top + keys, _named)
        tree = _edit(tree, (*top, "axes", "grid"), _flat)
    return tree


def _names(node: Node, key: str) -> list[str]:
    """The keys of a mapping that lies under `key`; none where there is no such mapping."""
    found = node.value.get(key) if isinstance(node.value, dict) else None
    return list(found.value) if found is not None and isinstance(found.value, dict) else []


def _named(node: Node) -> Node:
    return Node({"use": node}, node.place, node.key) if isinstance(node.value, str) else node


def _flat(node: Node) -> Node:
    if not isinstance(node.value, dict):
        return node
    flat: dict[str, Node] = {}
    for slot, child in node.value.items():
        nested = isinstance(child.value, dict)
        members = {f"{slot}.{key}": item for key, item in child.value.items()} if nested else {slot: child}
        for key, item in members.items():
            if key in flat:
                raise ConfigError(f'"{key}" is given twice; first at {flat[key].key}', where=item.key)
            flat[key] = item
    return Node(flat, node.place, node.key)


def _edit(node: Node, keys: Keys, change: Callable[[Node], Node]) -> Node:
    """The tree with the node at `keys`, if there is one, changed."""
    if not keys:
        return change(node)
    if not isinstance(node.value, dict) or keys[0] not in node.value:
        return node
    child = _edit(node.value[keys[0]], keys[1:], change)
    return Node({**node.value, keys[0]: child}, node.place, node.key)


def _with_profile(tree: Node, name: str | None) -> Node:
    if name is None:
        return tree
    profile = tree.nearest(("profiles", name))
    return merge(tree, Node(profile.value, profile.place)) if isinstance(profile.value, dict) else tree


def _with_step(tree: Node, name: str) -> Node:
    """The suite that a step of its build order stands for, called after the step, with the baselines that it names."""
    step = tree.nearest(("steps", name))
    values = step.nearest(("set",)) if isinstance(step.value, dict) and "set" in step.value else Node({}, step.place)
    baselines = []
    if isinstance(step.value, dict):
        better = step.nearest(("checks", "better_than"))
        baselines += better.value if isinstance(better.value, list) else []
        close = step.nearest(("checks", "close_to"))
        near = close.value if isinstance(close.value, dict) and close is not step.nearest(("checks",)) else {}
        baselines += [Node(key, node.key, node.key) for key, node in near.items()]
    alone = {
        "base": Node({"name": Node(name, step.head, step.head)}, step.head),
        "baselines": Node(_first_of_each(baselines), step.head),
        "steps": Node(None, step.head),
    }
    laid = merge(tree, Node(values.value, values.place)) if isinstance(values.value, dict) else tree
    return merge(laid, Node(alone, step.head))


def _first_of_each(nodes: list[Node]) -> list[Node]:
    """The nodes without those that repeat the value of one before."""
    return list({json.dumps(node.plain(), sort_keys=True): node for node in reversed(nodes)}.values())[::-1]


def _with_data(tree: Node, path: Path) -> Node:
    """The tree with the data set that recognises `path` as its layout, rooted there."""
    where = f"--data {path}"
    own = _dig(tree.plain(), ("data", "dataset", "use"))
    name = recognised(path, preferred=own, where=where, hint="choose with --set data.dataset=NAME")
    choice = {"use": Node(name, where, where), "root": Node(str(path), where, where)}
    return merge(tree, Node({"data": Node({"dataset": Node(choice, where, where)}, where, where)}, where))


def recognised(path: Path, *, preferred: str | None = None, where: str, hint: str) -> str:
    """Name of the data set that knows this layout, `preferred` before others.

    Raises DataError if there is nothing at `path`, or if none or several know it.
    """
    if not path.exists():
        raise DataError("no such file or folder", where=where)
    able = [name for name in registry.names("dataset") if _recognises(name, path)]
    if preferred in able:
        able = [preferred]
    if len(able) != 1:
        raise DataError(
            f"several data sets have this layout: {', '.join(able)}" if able else "no data set has this layout",
            where=where,
            hint=f"known layouts: {', '.join(registry.names('dataset'))}; {hint}",
        )
    return able[0]


def _recognises(name: str, path: Path) -> bool:
    """Whether a data set knows this layout; one that cannot be imported knows none."""
    try:
        return bool(registry.load("dataset", name).recognise(path))
    except registry.PluginError:
        return False


def _short(path: Path) -> Path:
    """A path as a reader at this working directory would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _dig(value: Any, keys: Keys) -> Any:
    """The value at `keys` in plain data of any shape, None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


# ------------------------------------------------------------------------------------------------- checking


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


def choices(plain: Mapping[str, Any]) -> Iterator[tuple[Keys, str, Any]]:
    """Every component that a suite names, as (keys, slot, value as written); shapes that are wrong are passed by."""
    for keys, slot in _CHOICES:
        if (value := _dig(plain, keys)) is not None:
            yield keys, slot, value
    swap = _dig(plain, ("axes", "swap"))
    lists = [(("axes", "swap", slot), slot, items) for slot, items in swap.items()] if isinstance(swap, dict) else []
    for keys, slot, items in [*lists, (("baselines",), "baseline", plain.get("baselines"))]:
        if slot in registry.SLOTS and isinstance(items, list):
            yield from (((*keys, i), slot, item) for i, item in enumerate(items))


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
    _refuse(problems)
    return config


def check_components(suite: Suite) -> None:
    """Import every component that the suite names, and check its options and every value of the grid.

    Raises ConfigError listing every problem.
    """
    problems: list[Problem] = []
    for keys, slot, value in choices(suite.dump()):
        problems += _configure(Choice.read(value), slot, suite, keys)[1]
    _refuse(problems or _grid_problems(suite))


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


def _parse(tree: Node) -> Suite:
    # as JSON: strict types still, but a list may become a tuple
    return Suite.model_validate_json(json.dumps(tree.plain()))


def _problems(tree: Node) -> list[Problem]:
    """What is wrong with a merged tree: names, schema, and values that contradict each other."""
    found = list(_name_problems(tree))
    for name in _names(tree, "steps"):
        found += _step_problems(tree, name)
    try:
        suite = _parse(tree)
    except ValidationError as invalid:
        return found + [_problem(error, Suite, tree) for error in invalid.errors()]
    return found + list(_cross_problems(suite, tree))


def _step_problems(tree: Node, name: str) -> list[Problem]:
    """What is wrong with the suite that a step stands for."""
    keys = ("steps", name, "set")
    fixed = ("suite", "description", "extends", "profiles", "fallback", "steps", "axes", "baselines", "report")
    values = _dig(tree.plain(), keys)
    touched = [key for key in fixed if isinstance(values, dict) and key in values]
    if touched:
        return [_at(tree, (*keys, key), "a step cannot change this", key=True) for key in touched]
    return _problems(_with_step(tree, name))


def _profile_problems(tree: Node, name: str) -> list[Problem]:
    """What is wrong with a suite under one of its profiles, whether or not anybody asked for it."""
    fixed = ("suite", "description", "extends", "profiles", "fallback")
    profile = tree.nearest(("profiles", name)).value
    touched = [key for key in fixed if isinstance(profile, dict) and key in profile]
    if touched:
        return [_at(tree, ("profiles", name, key), "a profile cannot change this", key=True) for key in touched]
    return _problems(_with_profile(tree, name))


def _name_problems(tree: Node) -> Iterator[Problem]:
    plain = tree.plain()
    named = [
        (keys, slot, value.get("use") if isinstance(value, dict) else value) for keys, slot, value in choices(plain)
    ]
    named.append((("report", "primary", "metric"), "metric", _dig(plain, ("report", "primary", "metric"))))
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


def _refuse(problems: Iterable[Problem]) -> None:
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
