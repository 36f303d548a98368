"""The schema of a suite's YAML file, as pydantic models."""

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
"""Fields of `Train` that change no number."""
COMBINATIONS = 1000
"""Largest number of combinations of one crossing."""


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Validator that raises PydanticCustomError for a repeated value."""
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
    """Base of every part of a suite or a sweep: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Choice(Section):
    """A component and its options."""

    use: str
    """The registered name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The options that the suite gives."""

    @classmethod
    def read(cls, value: Any) -> "Choice":
        """A choice from its form in a suite: `name`, or `{use: name, option: value, ...}`."""
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
        """The long form in a suite: `{use: name, option: value, ...}`."""
        return {"use": self.use, **self.options}


Slug = Annotated[str, Field(pattern=SLUG)]
Shapes = Literal["pyramid", "precompute", "tokens", "evidence"]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=2, le=2048)]
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
    """Its name in tables."""
    encoder: Component
    """Frozen feature encoder (§3)."""
    neck: Component
    """Feature maps → pyramid (§4)."""
    b1: Component
    """Query seed and local tokens (§6.1)."""
    b2: Component
    """Attention to the local tokens (§6.2)."""
    b3: Component
    """Attention to all of L4 (§6.3)."""
    routing: Component
    """Choice of anchors (§6.3)."""
    b4: Component
    """Evidence around the anchors (§6.4)."""
    b5: Component
    """Attention to local tokens and evidence (§6.5)."""
    depth_head: Component
    """Query vector → metres (§6.5)."""

    def slots(self) -> dict[str, Choice]:
        """Slot → component, in the order of §2."""
        return {slot: getattr(self, slot) for slot in MODEL_SLOTS}


class Augment(Section):
    """Augmentation of training images (§7.3, R-18)."""

    enabled: bool = True
    """Whether training images are augmented."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    zoom: Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ascending)] = (
        0.8,
        1.2,
    )
    """Range of the zoom factor; metric depth is divided by it. A factor below 1 needs allow_padding."""
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
    """Number of augmented views of a frame, used in successive epochs; 0: a new view in every epoch.
    The features of repeated views are encoded once."""

    @property
    def always_new(self) -> bool:
        """Whether no training view is repeated."""
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
    """The data set."""
    test: Component | None = None
    """Another data set, whose test split is scored instead of the first one's."""
    image_size: tuple[Side, Side] = (518, 518)
    """[height, width] of the network's input (R-23), each a multiple of the encoder's patch: 14 pixels for dav2_*."""
    query_sampler: Component = Choice(use="uniform")
    """How training chooses its query points."""
    augment: Augment = Augment()
    """Augmentation of training images."""
    cache: Literal["memory", "disk"] = "memory"
    """Where the features of repeated views are stored. memory: in this process, in float32. disk: in the run root, in
    float16, shared by all runs on the same encoder and data; float16 changes numbers, so it is a different training."""
    cache_limit_gb: Annotated[float, Field(gt=0)] | None = None
    """Largest size of the whole cache on disk; null: the free space of the disk."""

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
    """The training recipe of §7.3; its values are the defaults. Set either `epochs` or `steps`."""

    epochs: Count | None = None
    """Passes over the training images."""
    steps: Count | None = None
    """Optimiser steps."""
    batch_size: Count = 8
    """Images per step."""
    queries: Count = 256
    """Queries per image in training."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate at the start of the cosine."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-6
    """Learning rate at the end of the cosine."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """AdamW's decay, on weight matrices only (R-19)."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's betas."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    loss: Component = Choice(use="huber_silog")
    """The loss (§7.2)."""
    lambda_si: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the structure term of the loss (§7.2)."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of matrix products; parameters are float32 in both."""
    validations: Count = 5
    """How many times training scores the validation split, at even distances. Changes no number."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read data. Changes no number."""

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if (self.epochs is None) == (self.steps is None):
            found = "both" if self.epochs else "neither"
            hint = "null removes an inherited value, such as epochs: null"
            raise PydanticCustomError(
                "length",
                "should give either epochs or steps, found {found}",
                {"at": "epochs", "found": found, "hint": hint},
            )
        if self.min_lr > self.lr:
            raise PydanticCustomError("min_lr", "should have min_lr no larger than lr", {"at": "min_lr"})
        return self

    def but(self, values: Mapping[str, Any]) -> "Train":
        """The recipe with some values replaced, given as in a suite; epochs replaces steps and vice versa.

        Raises pydantic's ValidationError for invalid values.
        """
        length = {"epochs": None, "steps": None} if values.keys() & {"epochs", "steps"} else {}
        return Train.model_validate_json(json.dumps(self.model_dump(mode="json") | length | dict(values)))


class Evaluation(Section):
    """Scoring on the test split (§8, R-24 to R-26)."""

    protocol: Slug = "nyu_bts"
    """Name of the protocol (`spd_bench.protocol`)."""
    k: Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(unique)] = (1, 64, 256, 1024)
    """Numbers of query points per image."""
    k1_draws: Count = 32
    """Draws of a single point per image at K = 1 (R-26)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the query points."""


class PathTarget(NamedTuple):
    """The meaning of a path of `grid` or `cross`."""

    part: str
    """A slot of the model, "loss", or "train" for a value of the recipe."""
    option: str
    """The option or the recipe's field; "" for the component itself."""


def target(path: str) -> PathTarget | None:
    """The target of `slot`, `slot.option`, `train.value`, `train.loss` or `train.loss.option`; None for other paths."""
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
    """The ablations to run, as differences from `base`: the union of all axes, in the order of the file."""

    leave_one_out: Annotated[tuple[BlockSlot, ...], AfterValidator(unique)] = ()
    """Slots to leave out, one model each: the component is replaced by the stand-in that it names."""
    leave_group_out: tuple[Group, ...] = ()
    """Groups of slots to leave out at once, such as [[b2, b5], [b3, routing, b4]]. Where two stand-ins need different
    components in a further slot, name that slot in the group: the later block in the chain decides."""
    parameter_matched: bool = False
    """Whether each model of the two axes above gets a control with the base's number of trainable parameters, by
    wider feed-forward layers in the remaining blocks."""
    swap: dict[SwapSlot, tuple[Component, ...]] = Field(default_factory=dict)
    """Slot (or loss) → components to put there, one model each."""
    grid: dict[str, Values] = Field(default_factory=dict)
    """Path → values, one model each. A path is "slot.option", "train.value" or "train.loss.option"."""
    cross: tuple[Crossing, ...] = ()
    """Mappings from path to values, such as {routing.r: [8, 32], neck: [pyramid, last_layer]}: one model for every
    combination. A path may also be a slot or train.loss; its values are then components."""
    add_one_in: Annotated[tuple[BlockSlot, ...], AfterValidator(unique)] = ()
    """Slots of which the first model leaves out all, and each further model all but one."""

    def sweeps(self) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, tuple[Any, ...]]]]:
        """The grid and every crossing, each as (keys in the suite, path → values)."""
        yield ("axes", "grid"), self.grid
        for index, crossing in enumerate(self.cross):
            yield ("axes", "cross", index), crossing


class Primary(Section):
    """The one number that verdicts are about."""

    metric: str = "absrel"
    """A registered metric."""
    k: Count = 256
    """Number of query points, one of eval.k."""


class ReportPictures(Section):
    """What the report shows of single test images."""

    rows: Annotated[tuple[str, ...], AfterValidator(unique)] = ()
    """Names of rows to show beside the base, * is a wildcard; without any the best other row and the worst ablation."""
    columns: Annotated[int, Field(ge=0, le=640)] = 160
    """Most pixels in a row of a dense rendering, each a query point; 0 draws no pictures."""


class Report(Section):
    """The primary metric, and the comparisons that get verdicts."""

    primary: Primary = Primary()
    """The metric and K that tables show first and verdicts are about."""
    family: Annotated[tuple[Axis, ...], AfterValidator(unique)] = ("leave_one_out",)
    """Axes whose comparisons get a verdict; the correction for multiplicity counts them."""
    equivalence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the base's value below which a difference does not matter. Declare it before you see results."""
    pictures: ReportPictures = ReportPictures()
    """Depth of single test images beside each other."""


class Checks(Section):
    """The checks of a build-order step, which must pass before the next step starts (§10.3)."""

    shapes: Annotated[tuple[Shapes, ...], AfterValidator(unique)] = ()
    """Parts whose shapes are compared with the paper's: §4, §5, §6.1, §6.4."""
    picture: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Least correlation of neighbouring cells in L3's first three principal components, which are also drawn."""
    watched: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """"slot/name" of a diagnostic of a block (`Block.diagnose`) → range [low, high] that it must lie in."""
    below: dict[str, float] = Field(default_factory=dict)
    """Metric → value that it must stay below, at the primary K."""
    better_than: tuple[Component, ...] = ()
    """Baselines that the primary metric must beat."""
    close_to: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Baseline → largest ratio of the primary metric to that of the baseline."""


class Step(Section):
    """One step of a build order (§10.3): the suite with some values changed, and its checks."""

    description: str = ""
    """A title for tables."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Values that differ from the suite's."""
    train: bool = True
    """Whether the model is trained and scored; shapes can be checked without training."""
    checks: Checks
    """Must pass before the next step starts."""


class Fallback(Section):
    """The profile for a machine without the suite's data or weights, used if the command names no profile."""

    profile: str
    """One of the suite's profiles."""


class Suite(Section):
    """A validated suite. `dump` returns the content of a YAML file that validates to the same suite."""

    suite: Slug
    """The suite's name."""
    description: str = ""
    """One line for people."""
    extends: str | None = None
    """Suite to inherit values from: a path relative to this file's folder, or the name of a shipped suite."""
    base: Base
    """The full model."""
    data: Data
    """Images and query points."""
    train: Train
    """Training recipe."""
    eval: Evaluation = Evaluation()
    """Scoring."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(unique)] = (0, 1, 2)
    """Seeds under which every composition is trained."""
    axes: Axes = Axes()
    """Ablations of the base."""
    baselines: tuple[Component, ...] = ()
    """Other models to train and score on the same data."""
    report: Report = Report()
    """Primary metric and verdicts."""
    steps: dict[Slug, Step] = Field(default_factory=dict)
    """A build order, instead of axes and baselines: the steps run in order until one fails."""
    profiles: dict[Slug, dict[str, Any]] = Field(default_factory=dict)
    """Named overrides of the values above."""
    fallback: Fallback | None = None
    """What to run where data or weights are missing and the command names no profile; null: refuse."""

    _source: Node = PrivateAttr(default=Node({}, ""))
    _profile: str | None = PrivateAttr(default=None)

    @classmethod
    def read(cls, tree: Node, profile: str | None = None) -> "Suite":
        """The suite of a merged tree; raises pydantic's ValidationError for an invalid one."""
        # through JSON, so that strict validation accepts a list for a tuple
        suite = cls.model_validate_json(json.dumps(tree.plain()))
        suite._source, suite._profile = tree, profile
        return suite

    @property
    def source(self) -> Node:
        """The tree that it was read from; empty if it was not read from a file."""
        return self._source

    @property
    def asked(self) -> dict[str, Choice]:
        """Part → component, as written in the suite: every slot of the model, and "loss"."""
        return {**self.base.slots(), "loss": self.train.loss}

    @property
    def profile(self) -> str | None:
        """The profile that this suite was loaded with."""
        return self._profile

    @property
    def places(self) -> dict[Keys, str]:
        """Keys → place of every value in the file; empty if the suite was not read from a file."""
        return self._source.places()

    def place(self, *keys: str | int) -> str | None:
        """Place of the value at these keys, or of the nearest value that contains it; None if unknown."""
        return self._source.nearest(keys).head or None

    def dump(self) -> dict[str, Any]:
        """All values, defaults included, as plain data for JSON or YAML."""
        return self.model_dump(mode="json", exclude={"extends"})


def json_schema() -> dict[str, Any]:
    """JSON Schema of a suite file, for editors; component names are those of the installed distributions."""

    def choice(slot: str) -> dict[str, Any]:
        use = {"enum": registry.names(slot)}
        return {"anyOf": [use, {"type": "object", "properties": {"use": use}}]}

    schema = Suite.model_json_schema()
    parts = schema["$defs"]
    for part in parts.values():
        part.pop("required", None)  # a suite that extends another may omit any key
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
