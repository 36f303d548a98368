"""A suite: what a YAML file may say."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from spd_bench import registry
from spd_bench.errors import printable
from spd_bench.suite.yaml import Keys, Node, kind

Axis = Literal["leave_one_out", "leave_group_out", "parameter_matched", "swap", "grid", "cross", "add_one_in"]
BlockSlot = Literal["b1", "b2", "b3", "routing", "b4", "b5", "depth_head"]
ModelSlot = Literal["encoder", "neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head"]
SwapSlot = Literal["encoder", "neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head", "loss"]
MODEL_SLOTS: tuple[str, ...] = get_args(ModelSlot)
"""The slots that a composition fills, in the order of §2."""

SLUG = r"^[a-z0-9][a-z0-9._-]{0,63}$"
WITHOUT_EFFECT = frozenset({"workers", "validations"})
"""Values of the training recipe on which no number depends."""
COMBINATIONS = 1000
"""Most members that one crossing may have."""
PATCH = 14
"""Side in pixels of the encoder's patches (§3): an input size is a multiple of it."""


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A validator: the values, of which none may be there twice."""
    seen = set()
    for value in values:
        key = repr(value) if isinstance(value, dict | list | Choice) else value
        if key in seen:
            raise PydanticCustomError("unique", "lists {value} twice", {"value": printable(str(value))[:80]})
        seen.add(key)
    return values


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise PydanticCustomError("ascending", "should be [low, high]")
    return pair


class Section(BaseModel):
    """A part of a suite or a sweep: known keys alone, each of its type, and unchangeable once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Choice(Section):
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


class Base(Section):
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


class Augment(Section):
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
            raise PydanticCustomError(
                "zoom", "should have zoom reach 1 or more unless allow_padding is true", {"at": "zoom"}
            )
        return self


class Data(Section):
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
                {
                    "at": "cache",
                    "hint": "set augment.views, to 4 say, or augment.enabled: false, or keep cache: memory",
                },
            )
        return self


class Train(Section):
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
                "length",
                "should give either epochs or steps, found {found}",
                {"at": "epochs", "found": found, "hint": hint},
            )
        if self.min_lr > self.lr:
            raise PydanticCustomError("min_lr", "should have min_lr no larger than lr", {"at": "min_lr"})
        return self

    def but(self, values: Mapping[str, Any]) -> "Train":
        """The recipe with some values as a suite writes them; epochs and steps take each other's place.

        Raises pydantic's ValidationError where they are not valid.
        """
        length = {"epochs": None, "steps": None} if values.keys() & {"epochs", "steps"} else {}
        return Train.model_validate_json(json.dumps(self.model_dump(mode="json") | length | dict(values)))


class Evaluation(Section):
    """Scoring on the test split (§8, R-24 to R-26)."""

    protocol: Slug = "nyu_bts"
    k: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(unique)] = (1, 64, 256, 1024)
    """Numbers of query points per image."""
    k1_draws: Count = 32
    """Draws of a single point per image at K = 1 (R-26)."""
    seed: Annotated[int, Field(ge=0)] = 0


class PathTarget(NamedTuple):
    """What a path of `grid` or `cross` means.

    part: a slot of the model, "loss", or "train" for a value of the recipe. option: "" for the component itself.
    """

    part: str
    option: str


def target(path: str) -> PathTarget | None:
    """What `slot`, `slot.option`, `train.value`, `train.loss` or `train.loss.option` means; None for another path."""
    match path.split("."):
        case ["train", "loss", *option] if len(option) < 2 and "" not in option:
            return PathTarget("loss", *option or [""])
        case ["train", value] if value:
            return PathTarget("train", value)
        case [slot, *option] if slot in MODEL_SLOTS and len(option) < 2 and "" not in option:
            return PathTarget(slot, *option or [""])
    return None


Group = Annotated[tuple[BlockSlot, ...], Field(min_length=2), AfterValidator(unique)]
Values = Annotated[tuple[Any, ...], AfterValidator(unique)]
Crossing = Annotated[dict[str, Annotated[Values, Field(min_length=1)]], Field(min_length=1)]


class Axes(Section):
    """Which ablations to run, as differences from `base`. Their union is taken, in the order of the file."""

    leave_one_out: Annotated[tuple[BlockSlot, ...], AfterValidator(unique)] = ()
    """Each of these in turn replaced by what its component names as stand-in."""
    leave_group_out: tuple[Group, ...] = ()
    """Groups of slots, such as [[b2, b5], [b3, routing, b4]]; all of a group replaced by their stand-ins at once. Where
    two stand-ins want the same further slot differently, name that slot in the group: the later block's wish holds."""
    parameter_matched: bool = False
    """For everything left out by the two axes above, also a control with the base's number of trainable parameters:
    the feed-forward layers of what remains are made as wide as that takes."""
    swap: dict[SwapSlot, tuple[Component, ...]] = Field(default_factory=dict)
    """Slot, or loss → components to put there in turn."""
    grid: dict[str, Values] = Field(default_factory=dict)
    """Path → values to give it in turn. A path is "slot.option", "train.value" or "train.loss.option"."""
    cross: tuple[Crossing, ...] = ()
    """Mappings from path to values, such as {routing.r: [8, 32], neck: [pyramid, last_layer]}: every combination of
    each. A path may also be a slot or train.loss alone; its values are components then."""
    add_one_in: Annotated[tuple[BlockSlot, ...], AfterValidator(unique)] = ()
    """All of these left out, and then each added alone."""

    def sweeps(self) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, tuple[Any, ...]]]]:
        """The grid and every crossing: the keys that lead there in a suite, and path → values."""
        yield ("axes", "grid"), self.grid
        for index, crossing in enumerate(self.cross):
            yield ("axes", "cross", index), crossing


class Primary(Section):
    """The one number that the suite is judged by."""

    metric: str = "absrel"
    k: Count = 256


class Report(Section):
    """What the report puts first, and which comparisons its correction for multiplicity counts."""

    primary: Primary = Primary()
    family: Annotated[tuple[Axis, ...], AfterValidator(unique)] = ("leave_one_out",)
    equivalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the base's value below which a difference does not matter, declared before looking."""


class Checks(Section):
    """What must hold after a step of a build order before the next one starts (§10.3)."""

    shapes: Annotated[tuple[Shapes, ...], AfterValidator(unique)] = ()
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


class Step(Section):
    """One step of a build order (§10.3): the suite with some values changed, and what must hold then."""

    description: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values that differ from the suite's."""
    train: bool = True
    """Whether the model is trained and scored; shapes can be compared without."""
    checks: Checks


class Fallback(Section):
    """What to do when no profile is asked for and something that the suite needs is not on this machine."""

    profile: str


class Suite(Section):
    """A validated suite. `dump` gives the form of the YAML file, from which it can be validated again."""

    suite: Slug
    description: str = ""
    extends: str | None = None
    """Suite, by name or by path from this file's folder, whose values hold unless this one overrides them."""
    base: Base
    data: Data
    train: Train
    eval: Evaluation = Evaluation()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(unique)] = (0, 1, 2)
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

    @classmethod
    def read(cls, tree: Node, profile: str | None = None) -> "Suite":
        """The suite that a merged tree says; pydantic's ValidationError where it says none."""
        # as JSON: strict types still, but a list may become a tuple
        suite = cls.model_validate_json(json.dumps(tree.plain()))
        suite._source, suite._profile = tree, profile
        return suite

    @property
    def source(self) -> Node:
        """The tree that it was read from; empty if it came from no file."""
        return self._source

    @property
    def asked(self) -> dict[str, Choice]:
        """Part → component as the suite writes it: every slot of the model, and the loss."""
        return {**self.base.slots(), "loss": self.train.loss}

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
    swapped = {slot: {"type": "array", "items": choice(slot)} for slot in (*MODEL_SLOTS, "loss")}
    axes = parts["Axes"]["properties"]
    axes["swap"]["properties"] = swapped
    axes["grid"]["properties"] = {"train.loss": swapped["loss"]}
    axes["cross"]["items"]["properties"] = {slot: swapped[slot] for slot in MODEL_SLOTS} | axes["grid"]["properties"]
    schema["properties"]["baselines"]["items"] = choice("baseline")
    return schema
