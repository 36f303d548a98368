"""What a plugin sees: the components' contract and the frozen values that pass between blocks.

A composition chains  encoder → neck → b1 → b2 → b3 → routing → b4 → b5 → depth_head  (§2). Each block may
prepare what it can compute once per image (§5) and then maps one frozen `QueryState` to the next. A baseline
implements `PointDepthModel` directly. The harness trains, scores and times both through the same three calls.

Letters used in tensor names, here and in every file (a subset is repeated there):

    B images in the batch      K query points per image     T tokens of a query (91, 123)
    S sites of L4 (324)        R routed anchors (32)        D core width (192)
    N, E heads, width per head (6, 32; D = N·E)             F, P feed-forward hidden, Fourier features
    L, M levels, samples per head in B4 (3, 4)              C, H, W channels, height, width of the named map
    2 an (x, y) pair, x first
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from spd_bench.errors import ConfigError, did_you_mean
from spd_bench.fused import inference, training
from spd_bench.geometry import Table

CHAIN: tuple[str, ...] = ("neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head")
"""Slots of the trainable chain, in the order of §2; the frozen encoder stands before them."""


class ComponentConfig(BaseModel):
    """Base of every component's nested `Config`: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class Component:
    """Anything that registers through an entry point: one class, one file, a nested `Config`, a version.

    `version` is part of a run's identity: raise it when the same options compute something else.
    `stand_in` names what a component stands in for ("" if it is the real thing); it is shown in every table.
    """

    slot: ClassVar[str]
    version: ClassVar[int] = 1
    stand_in: str = ""
    places: ClassVar[frozenset[str]] = frozenset()
    """Options that say where something lies on this machine; what lies there counts, the place does not."""

    class Config(ComponentConfig):
        """No options."""


@dataclass(frozen=True, kw_only=True)
class Dims:
    """The sizes that blocks share (§2). Nothing else in the project holds these numbers."""

    features: int = 384
    core: int = 192
    heads: int = 6
    ffn: int = 768
    pyramid: tuple[int, int, int, int] = (64, 128, 192, 384)

    @property
    def head(self) -> int:
        """Width of one head, d_head of §6.2."""
        return self.core // self.heads


Resampling = Literal["antialiased", "opencv"]
"""How a frame is brought to an encoder's input size (R-23).

antialiased: Pillow's bicubic filter, a = -0.5, on 8-bit values; it averages where it shrinks. opencv: OpenCV's
INTER_CUBIC, a = -0.75, on floating-point values, which may leave [0, 1] beside edges; it averages nowhere.
"""


@dataclass(frozen=True)
class AspectKept:
    """The input size of a released model: the frame's aspect is kept and its shorter side is at least `shorter`."""

    shorter: int
    """Pixels of the shorter side."""
    multiple: int
    """Both sides are multiples of this: the nearest one, or the next above where that would be below `shorter`."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the input for a frame of this size."""
        scale = max(self.shorter / height, self.shorter / width)
        return self._fitted(scale * height), self._fitted(scale * width)

    def _fitted(self, side: float) -> int:
        nearest = round(side / self.multiple) * self.multiple
        return nearest if nearest >= self.shorter else math.ceil(side / self.multiple) * self.multiple

    def __str__(self) -> str:
        """For captions."""
        return f"aspect kept, shorter side {self.shorter}, multiples of {self.multiple}"


@dataclass(frozen=True)
class Features:
    """The encoder's four maps of §3, shallow to deep, channels last: each [B, Hp, Wp, C], frozen, cacheable."""

    maps_BHWC: tuple[Tensor, Tensor, Tensor, Tensor]
    frame_size: tuple[int, int] | None = None
    """Rows and columns of the frames that were resized for the encoder; None if they had the size of its input."""


@dataclass(frozen=True)
class Level:
    """One pyramid level: a channels-last map and the fraction (x, y) of the image that it covers (R-05).

    A neck may return a subclass that makes its map where it is asked for; to change a level, make a new `Level`.
    """

    map_BHWC: Tensor
    extent: tuple[float, float] = (1.0, 1.0)

    @property
    def height(self) -> int:
        """Rows of cells."""
        return self.map_BHWC.shape[1]

    @property
    def width(self) -> int:
        """Columns of cells."""
        return self.map_BHWC.shape[2]

    def table(self, *, pad: int, by: nn.Linear | None = None) -> Table:
        """The map, or what the projection `by` makes of it, as rows with `pad` zero cells on each side."""
        map_BHWC = self.map_BHWC if by is None else inference.linear(self.map_BHWC, by.weight, by.bias)
        return Table.of(map_BHWC, extent=self.extent, pad=pad)


@dataclass(frozen=True)
class Pyramid:
    """Output of a neck (§4): L1 to L4, fine to coarse."""

    l1: Level
    l2: Level
    l3: Level
    l4: Level


@dataclass(frozen=True)
class Scene:
    """Everything about one batch of images that queries share (§5): the pyramid and each block's own share."""

    pyramid: Pyramid
    prepared: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenPart:
    """Some of a query's tokens [B, K, T, D], with their standardised form computed at most once.

    Every reader applies a LayerNorm of its own (LN_kv of §6.2, LN_kv2 of §6.5). Those differ only in their
    affine part, so the standardised tokens are shared (R-30).
    """

    tokens_BKTD: Tensor

    @cached_property
    def standard_BKTD(self) -> Tensor:
        """Tokens with mean 0 and variance 1 over D (LayerNorm without its affine part, eps 1e-5)."""
        return inference.standardise(self.tokens_BKTD)

    @cached_property
    def shared(self) -> training.Shared | None:
        """`standard_BKTD` for the fused attention of a training step; None where stock operators run."""
        return training.share(self.tokens_BKTD)


class StandardTokens(TokenPart):
    """Tokens of which the standardised form was computed alone; the tokens follow if they are asked for."""

    _tokens: Callable[[], Tensor]

    def __init__(self, standard_BKTD: Tensor, tokens: Callable[[], Tensor]) -> None:
        vars(self).update(standard_BKTD=standard_BKTD, _tokens=tokens)

    @cached_property
    def tokens_BKTD(self) -> Tensor:
        """The tokens themselves."""
        return self._tokens()


@dataclass(frozen=True)
class Anchors:
    """Routed L4 cells of each query (§6.3).

    site_BKR: row-major index into L4's cells. gate_BKR: factor on each anchor's evidence, 1 in value, that
    carries a gradient to the routing weights (R-12); None where routing has none to give.
    """

    site_BKR: Tensor
    gate_BKR: Tensor | None = None


@dataclass(frozen=True)
class QueryState:
    """What is known about each query point so far. A block returns a new state with the fields that it writes.

    xy_BK2: the queries in the unit square. The other fields carry the names used in `reads` and `writes`:
    h (query vector h of §6), tokens, attention (ᾱ over L4's sites), anchors, depth (metres, unclamped).
    """

    xy_BK2: Tensor
    h_BKD: Tensor | None = None
    tokens: tuple[TokenPart, ...] | None = None
    attention_BKS: Tensor | None = None
    anchors: Anchors | None = None
    depth_m_BK: Tensor | None = None


FIELDS = {
    "h": "h_BKD",
    "tokens": "tokens",
    "attention": "attention_BKS",
    "anchors": "anchors",
    "depth": "depth_m_BK",
}
"""Names that `reads` and `writes` may hold, and the fields of `QueryState` that they mean."""


class Encoder(Component, nn.Module, ABC):
    """Slot `encoder` (§3): image → four frozen feature maps. Never trained, never in a checkpoint."""

    slot = "encoder"
    channels: int = 384
    resampling: ClassVar[Resampling] = "antialiased"
    """How frames are brought to the input size before they come here."""

    @abstractmethod
    def forward(self, image_B3HW: Tensor) -> Features:
        """RGB in [0, 1], already at the network's input size; normalisation is the encoder's own business.

        With the resampling "opencv" values overshoot [0, 1] beside edges.
        """

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the weights (or of the definition, for a weight-free encoder): part of a run's identity."""

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What is missing to build it with this config and how to get it; None if nothing is."""
        return None

    @classmethod
    def describe_weights(cls, path: Any) -> Mapping[str, str] | None:
        """What a file or folder of weights is, as {what: finding}; None if it is not of this encoder's family.

        Raises DataError, saying what was expected and found, for a damaged file of the family.
        """
        return None


class Link(Component, nn.Module, ABC):
    """What every trainable part of the chain declares.

    reads, writes: what it needs and what it adds, by name: features and pyramid, or fields of `QueryState` (h, tokens,
    attention, anchors, depth; xy and the pyramid are always there, a field that no later block reads may be gone).
    left_out: what a leave-one-out puts in place, as {slot: component}. budget: parameter-name pattern → row of the
    paper's budget (§9); the longest match counts.
    no_gradient: patterns of parameters whose exact gradient is zero, so that none is computed.
    """

    reads: ClassVar[frozenset[str]]
    writes: ClassVar[frozenset[str]]
    left_out: ClassVar[Mapping[str, str]] = {}
    budget: ClassVar[Mapping[str, str]] = {}
    no_gradient: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims


class Neck(Link):
    """Slot `neck` (§4): four feature maps → pyramid."""

    slot = "neck"
    reads: ClassVar[frozenset[str]] = frozenset({"features"})
    writes: ClassVar[frozenset[str]] = frozenset({"pyramid"})

    @abstractmethod
    def forward(self, features: Features) -> Pyramid:
        """The pyramid of this batch of images."""


class Block(Link):
    """A block of the decoder: slots b1 to b5, routing and depth_head (§6)."""

    def prepare(self, pyramid: Pyramid) -> Any:
        """What this block can compute once per image (§5); stored as `scene.prepared[slot]`."""
        return None

    @abstractmethod
    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """The next state of every query. Queries never see each other."""

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """What is worth watching in training, from the state that this block was given: {name: value}.

        Logged once per epoch as `diagnose/<slot>/<name>`, in evaluation mode on a few validation images. Attention
        and anchors in the state are watched for every block that writes them (`spd_bench.model.diagnose`).
        """
        return {}


class PointDepthModel(Component, nn.Module, ABC):
    """The one interface that the harness trains, scores and times; compositions and baselines implement it.

    prepare, then decode, must give each point the same depth whichever other points are asked for;
    `points_are_independent = False` says that a model does not promise this.
    """

    slot = "baseline"
    points_are_independent: ClassVar[bool] = True
    trained: ClassVar[bool] = True
    gt_aligned: bool = False
    """True where ground truth of the scored image enters the prediction (R-27): such rows get their own table."""
    own_input: ClassVar[AspectKept | None] = None
    """Input size of a released model, whatever `data.image_size` is; such a model is not trained. None: the suite's."""
    trained_as: ClassVar[str | None] = None
    """Name of the baseline that this one is another way to compute: same options, parameters and function. They share
    initial weights and one training, and differ in cost alone."""

    encoder: Encoder

    @classmethod
    def own_encoder(cls, config: Any) -> Mapping[str, Any] | None:
        """Encoder that a baseline with this config needs, as in a suite: {use: name, option: value}.

        None: the suite's own, which is what makes a comparison fair wherever it is possible.
        """
        return None

    def encode(self, image_B3HW: Tensor) -> Features:
        """Frozen features (T_encode), the same for every model on this encoder."""
        return self.encoder(image_B3HW)  # type: ignore[no-any-return]

    @abstractmethod
    def prepare(self, features: Features) -> Any:
        """What is computed once per image (T_prepare); for a dense baseline its whole decoder.

        Scoring calls this and `decode` in PyTorch's inference mode; a model that needs gradients there leaves it with
        `torch.inference_mode(False)`.
        """

    @abstractmethod
    def decode(self, scene: Any, xy_BK2: Tensor) -> Tensor:
        """Metric depth in metres at points of the unit square, unclamped: [B, K] (T_decode(K))."""

    def fit_alignment(self, scene: Any, xy_BN2: Tensor, depth_m_BN: Tensor) -> None:
        """For GT-aligned models only: all valid pixels of the scored image with their true depth in metres."""
        raise NotImplementedError(f"{type(self).__name__} is not GT-aligned")

    def fit_prior(self, depth_m_N: Tensor) -> None:
        """Called once before training with valid training depths in metres; most models ignore it."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that training changes: all but the frozen encoder's."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("encoder.") and p.requires_grad]


@dataclass(frozen=True)
class Frame:
    """One RGB-D frame as it lies on disk.

    image_HW3: uint8 RGB. depth_m_HW: float32 metric z-depth in metres, 0 where unknown.
    """

    image_HW3: Any
    depth_m_HW: Any


@dataclass(frozen=True)
class FrameId:
    """Name of a frame, unique in its data set, and the scene that it belongs to (statistics cluster by scene)."""

    frame: str
    scene: str


SPLITS: tuple[str, ...] = ("train", "val", "test")


def check_split(split: str) -> None:
    """ConfigError for a split that no data set has."""
    if split not in SPLITS:
        raise ConfigError(f'no split "{split}"', hint=did_you_mean(split, SPLITS))


class DepthDataset(Component, ABC):
    """Slot `dataset`: RGB-D frames in three disjoint splits: train, val (model choice) and test (scored once).

    A layout that comes with test frames alone has the other two splits empty; a suite takes it as `data.test`.
    Construct with a validated config; the constructor finds the files and checks them. It raises
    `spd_bench.errors.DataError` with place and mend for anything missing, corrupt or in the wrong unit.
    """

    slot = "dataset"
    truth: str = "raw"
    """raw: what a sensor saw, holes unknown; filled: holes in-painted; rendered: exact. Protocols ask for it (R-24)."""

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What is missing on this machine for this config and how to get it; None if nothing is."""
        return None

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Whether a file or folder that a user points at looks like this layout."""
        return False

    @abstractmethod
    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of split "train", "val" or "test", in a fixed order; ConfigError for another (`check_split`)."""

    @abstractmethod
    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError naming the file if it cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 over the manifest (names, sizes, split rule, options): part of a run's identity."""

    @abstractmethod
    def describe(self) -> str:
        """One line for tables and logs: what the data is, how many frames per split, whether it is synthetic."""
