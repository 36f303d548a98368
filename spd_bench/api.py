"""The contract of components: base classes to derive from, and the frozen values that pass between blocks.

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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from spd_bench.errors import ConfigError, DataError, did_you_mean
from spd_bench.fused import products, training
from spd_bench.geometry import Table

CHAIN: tuple[str, ...] = ("neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head")
"""Slots of the trainable chain, in the order of §2; the frozen encoder stands before them."""


class ComponentConfig(BaseModel):
    """Base of every component's nested `Config`: rejects unknown keys and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def unusual(self, *, without: Collection[str] = ()) -> str:
        """The options that differ from their defaults, as "name value, name value"; "" if there are none.

        without: options to leave out, such as paths.
        """
        fields = type(self).model_fields
        return ", ".join(
            f"{name} {getattr(self, name)}"
            for name, field in fields.items()
            if name not in without and getattr(self, name) != field.get_default(call_default_factory=True)
        )


class Component:
    """Base of everything that registers through an entry point: one class in one file, with a nested `Config`."""

    slot: ClassVar[str]
    """The slot that it fills; its entry-point group is "spd_bench.<slot>"."""
    version: ClassVar[int] = 1
    """Part of a run's identity: raise it when the same options compute something else."""
    stand_in: str = ""
    """What it replaces on a machine without the real thing, shown in every table; "" for the real thing."""
    places: ClassVar[frozenset[str]] = frozenset()
    """Options that hold a path on this machine. A run's identity holds the digest of the content, not the path."""

    class Config(ComponentConfig):
        """No options."""


@dataclass(frozen=True, kw_only=True)
class Dims:
    """The sizes that blocks share (§2), defined here alone."""

    features: int = 384
    """Channels of the encoder's maps, of each map unless `widths` says otherwise."""
    core: int = 192
    """Width D of the query vector and of tokens."""
    heads: int = 6
    """Attention heads N."""
    ffn: int = 768
    """Hidden width F of feed-forward layers."""
    pyramid: tuple[int, int, int, int] = (64, 128, 192, 384)
    """Channels of L1 to L4."""
    widths: tuple[int, int, int, int] | None = None
    """Channels of each of the encoder's maps, shallow to deep; None: `features` of each."""

    @property
    def maps(self) -> tuple[int, int, int, int]:
        """Channels of each of the encoder's maps, shallow to deep."""
        return self.widths or (self.features,) * 4

    @property
    def head(self) -> int:
        """Width of one head, d_head of §6.2."""
        return self.core // self.heads


Resampling = Literal["antialiased", "opencv"]
"""How a frame is resized to an encoder's input (R-23).

antialiased: Pillow's bicubic filter, a = -0.5, on 8-bit values; it averages when shrinking. opencv: OpenCV's
INTER_CUBIC, a = -0.75, on floating-point values, which may leave [0, 1] beside edges; it never averages.
"""


@dataclass(frozen=True)
class AspectKept:
    """The input size of a released model: the frame's aspect is kept and its shorter side is at least `shorter`."""

    shorter: int
    """Pixels of the shorter side."""
    multiple: int
    """Both sides are multiples of this: the nearest multiple, or the next larger one if that is below `shorter`."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the input for a frame of this size."""
        scale = max(self.shorter / height, self.shorter / width)
        return self._fitted(scale * height), self._fitted(scale * width)

    def _fitted(self, side: float) -> int:
        nearest = round(side / self.multiple) * self.multiple
        return nearest if nearest >= self.shorter else math.ceil(side / self.multiple) * self.multiple

    def __str__(self) -> str:
        """Text for captions."""
        return f"aspect kept, shorter side {self.shorter}, multiples of {self.multiple}"


@dataclass(frozen=True)
class Features:
    """The encoder's four maps of §3, frozen and cacheable."""

    maps_BHWC: tuple[Tensor, Tensor, Tensor, Tensor]
    """Shallow to deep, channels last: [B, Hp, Wp, C] on one grid, each with its own C (`Encoder.maps`)."""
    frame_size: tuple[int, int] | None = None
    """Rows and columns of the frames before they were resized for the encoder; None if they were not resized."""


@dataclass(frozen=True)
class Level:
    """One pyramid level.

    A neck may return a subclass that computes its map on first access; to change a level, construct a new `Level`.
    """

    map_BHWC: Tensor
    """The map, channels last."""
    extent: tuple[float, float] = (1.0, 1.0)
    """Fraction (x, y) of the image that the map covers (R-05)."""

    @property
    def height(self) -> int:
        """Rows of cells."""
        return self.map_BHWC.shape[1]

    @property
    def width(self) -> int:
        """Columns of cells."""
        return self.map_BHWC.shape[2]

    def table(self, *, pad: int, by: nn.Linear | None = None) -> Table:
        """The map, projected with `by` if given, as rows with `pad` zero cells on each side."""
        map_BHWC = self.map_BHWC if by is None else products.linear(self.map_BHWC, by.weight, by.bias)
        return Table.of(map_BHWC, extent=self.extent, pad=pad)


@dataclass(frozen=True)
class Pyramid:
    """Output of a neck (§4): four levels, fine to coarse."""

    l1: Level
    """4 times the patch grid."""
    l2: Level
    """2 times the patch grid."""
    l3: Level
    """The patch grid."""
    l4: Level
    """Half the patch grid; its cells are the sites of B3 and of routing."""


@dataclass(frozen=True)
class Scene:
    """Everything about one batch of images that all queries share (§5)."""

    pyramid: Pyramid
    """The neck's output."""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    """Slot → what `Block.prepare` returned."""


@dataclass(frozen=True)
class TokenPart:
    """Some of a query's tokens, with their standardised form computed at most once.

    Each reader has its own LayerNorm (LN_kv of §6.2, LN_kv2 of §6.5). These differ only in their affine part, so
    readers share the standardised tokens (R-30).
    """

    tokens_BKTD: Tensor
    """The tokens: [B, K, T, D]."""

    @cached_property
    def standard_BKTD(self) -> Tensor:
        """Tokens with mean 0 and variance 1 over D (LayerNorm without its affine part, eps 1e-5)."""
        return products.standardise(self.tokens_BKTD)

    @cached_property
    def shared(self) -> training.Shared | None:
        """`standard_BKTD` for the fused attention of a training step; None where stock operators run."""
        return training.share(self.tokens_BKTD)


class StandardTokens(TokenPart):
    """Tokens given in standardised form; the tokens themselves are computed on first access."""

    _tokens: Callable[[], Tensor]

    def __init__(self, standard_BKTD: Tensor, tokens: Callable[[], Tensor]) -> None:
        vars(self).update(standard_BKTD=standard_BKTD, _tokens=tokens)

    @cached_property
    def tokens_BKTD(self) -> Tensor:
        """The tokens themselves."""
        return self._tokens()


@dataclass(frozen=True)
class Anchors:
    """Routed L4 cells of each query (§6.3)."""

    site_BKR: Tensor
    """Row-major index into L4's cells."""
    gate_BKR: Tensor | None = None
    """Factor on each anchor's evidence: 1 in value, carries a gradient to the routing weights (R-12). None without a
    gradient."""


@dataclass(frozen=True)
class QueryState:
    """What the blocks have computed for each query point. A block returns a new state with the fields it writes.

    None: not written yet, or dropped because no later block reads it.
    """

    xy_BK2: Tensor
    """The query points in the unit square."""
    h_BKD: Tensor | None = None
    """"h" in `reads` and `writes`: the query vector of §6."""
    tokens: tuple[TokenPart, ...] | None = None
    """"tokens": local tokens and evidence, in parts."""
    attention_BKS: Tensor | None = None
    """"attention": ᾱ over L4's sites (§6.3)."""
    anchors: Anchors | None = None
    """"anchors": the routed sites."""
    depth_m_BK: Tensor | None = None
    """"depth": metres, unclamped."""


FIELDS = {
    "h": "h_BKD",
    "tokens": "tokens",
    "attention": "attention_BKS",
    "anchors": "anchors",
    "depth": "depth_m_BK",
}
"""Name in `reads` and `writes` → field of `QueryState`."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a block looked at for each query; `spd-bench inspect` draws it. Whatever does not apply stays empty."""

    points: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Name → places that were read, in the unit square [B, K, N, 2], and their weights [B, K, N]."""
    groups: tuple[tuple[str, int], ...] = ()
    """Names and sizes of the groups of tokens that the block appended, in order."""
    token_shares: tuple[Tensor, ...] = ()
    """Of each layer, the attention to every token of the query, mean over heads: [B, K, T]."""
    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Name → a number of each image: [B]."""


class Encoder(Component, nn.Module, ABC):
    """Slot `encoder` (§3): image → four frozen feature maps. Never trained, never in a checkpoint."""

    slot = "encoder"
    patch: ClassVar[int] = 14
    """Pixels of a cell's side: both sides of an input are multiples of it, and each cell of a map shows one patch."""
    channels: int = 384
    """Channels of each of the four maps; where they differ, of the deepest."""
    widths: tuple[int, int, int, int] | None = None
    """Channels of each of the four maps, shallow to deep; None: `channels` of each."""
    prefix_tokens: ClassVar[int] = 0
    """Tokens before those of the patches (CLS, registers), which are in no map."""
    licence: ClassVar[str] = ""
    """Licence of the weights, and what its terms ask of a user; "" where the author gives none."""
    resampling: ClassVar[Resampling] = "antialiased"
    """How frames are resized to the input size before `forward`."""

    @property
    def maps(self) -> tuple[int, int, int, int]:
        """Channels of each of the four maps, shallow to deep."""
        return self.widths or (self.channels,) * 4

    @abstractmethod
    def forward(self, image_B3HW: Tensor) -> Features:
        """The four maps of RGB images in [0, 1] at the network's input size; the encoder normalises them itself.

        With the resampling "opencv" values may leave [0, 1] beside edges.
        """

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of the weights (or of the definition, for a weight-free encoder): part of a run's identity."""

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What this machine lacks to build it with this config, and how to get it; None if nothing."""
        return None

    @classmethod
    def describe_weights(cls, path: Any) -> Mapping[str, str] | None:
        """Description of a file or folder of weights, as {what: finding}; None if no encoder of this family wrote it.

        Raises DataError, with expectation and finding, for a damaged file of the family.
        """
        return None


class Link(Component, nn.Module, ABC):
    """Base of every trainable part of the chain: a neck or a block, with its declarations."""

    reads: ClassVar[frozenset[str]]
    """What it needs: "features", "pyramid", or names in `FIELDS`. Blocks may always read xy and the pyramid."""
    writes: ClassVar[frozenset[str]]
    """What it adds, by the same names."""
    left_out: ClassVar[Mapping[str, str]] = {}
    """Slot → component that replaces it there in a leave-one-out ablation."""
    budget: ClassVar[Mapping[str, str]] = {}
    """Pattern of parameter names → row of the paper's budget (§9); the longest match counts."""
    no_gradient: ClassVar[tuple[str, ...]] = ()
    """Patterns of parameters whose exact gradient is zero and therefore not computed."""

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
        """The pyramid of a batch of images."""


class Block(Link):
    """A block of the decoder: slots b1 to b5, routing and depth_head (§6)."""

    def prepare(self, pyramid: Pyramid) -> Any:
        """Everything that this block computes once per image (§5); stored as `scene.prepared[slot]`."""
        return None

    @abstractmethod
    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        """The next state of every query, each computed independently of the other queries."""

    def diagnose(self, state: QueryState, scene: Scene) -> Mapping[str, float]:
        """Numbers to log in training, as {name: value}, from the state that this block receives.

        Logged once per epoch as `diagnose/<slot>/<name>`, in evaluation mode on a few validation images. Attention
        and anchors are logged for every block that writes them (`spd_bench.model.diagnose`).
        """
        return {}

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        """What this block looked at, from the state that it receives; in evaluation mode, without gradients.

        Attention over sites and anchors lie in the state, and are shown for every block that writes them.
        """
        return Looked()


class PointDepthModel(Component, nn.Module, ABC):
    """The one interface that the harness trains, scores and times; compositions and baselines implement it."""

    slot = "baseline"
    points_are_independent: ClassVar[bool] = True
    """Whether a point's depth is the same whichever other points are decoded with it."""
    trained: ClassVar[bool] = True
    """Whether it has parameters to train."""
    gt_aligned: bool = False
    """True where ground truth of the scored image enters the prediction (R-27): such rows get their own table."""
    own_input: ClassVar[AspectKept | None] = None
    """Input size of a released model, which is not trained, instead of `data.image_size`; None: the suite's."""
    trained_as: ClassVar[str | None] = None
    """Name of another baseline with the same options, parameters and function, computed differently. The two share
    initial weights and one training; only their cost differs."""

    encoder: Encoder

    @classmethod
    def own_encoder(cls, config: Any) -> Mapping[str, Any] | None:
        """Encoder that a baseline with this config needs, as in a suite: {use: name, option: value}.

        None (preferred, for a fair comparison): the suite's encoder.
        """
        return None

    def encode(self, image_B3HW: Tensor) -> Features:
        """Frozen features (T_encode), the same for every model on this encoder."""
        return self.encoder(image_B3HW)  # type: ignore[no-any-return]

    @abstractmethod
    def prepare(self, features: Features) -> Any:
        """Everything computed once per image (T_prepare); for a dense baseline its whole decoder.

        Scoring calls this and `decode` in PyTorch's inference mode; a model that needs gradients there leaves it with
        `torch.inference_mode(False)`.
        """

    @abstractmethod
    def decode(self, scene: Any, xy_BK2: Tensor) -> Tensor:
        """Metric depth in metres at points of the unit square, unclamped: [B, K] (T_decode(K))."""

    def fit_alignment(self, scene: Any, xy_BN2: Tensor, depth_m_BN: Tensor) -> None:
        """Fits a GT-aligned model to all valid pixels of the scored image and their true depth in metres."""
        raise NotImplementedError(f"{type(self).__name__} is not GT-aligned")

    def fit_prior(self, depth_m_N: Tensor) -> None:
        """Receives valid training depths in metres, once before training; ignored unless overridden."""

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Named parameters that training changes: all except the frozen encoder's."""
        return [(n, p) for n, p in self.named_parameters() if not n.startswith("encoder.") and p.requires_grad]


@dataclass(frozen=True)
class Frame:
    """One RGB-D frame at its original size."""

    image_HW3: Any
    """uint8 RGB."""
    depth_m_HW: Any
    """float32 metric z-depth in metres, 0 where unknown."""


@dataclass(frozen=True)
class FrameId:
    """Name of a frame and its scene."""

    frame: str
    """Unique in its data set."""
    scene: str
    """The scene that it shows; statistics cluster by scene."""


SPLITS: tuple[str, ...] = ("train", "val", "test")


def check_split(split: str) -> None:
    """Raises ConfigError for a name that is not in `SPLITS`."""
    if split not in SPLITS:
        raise ConfigError(f'no split "{split}"', hint=did_you_mean(split, SPLITS))


class DepthDataset(Component, ABC):
    """Slot `dataset`: RGB-D frames in three disjoint splits: train, val (model choice) and test (scored once).

    A layout with test frames only leaves the other two splits empty; a suite uses it as `data.test`.
    The constructor takes a validated config, finds the files and checks them. It raises
    `spd_bench.errors.DataError` with place and mend for anything missing, corrupt or in the wrong unit.
    """

    slot = "dataset"
    truth: str = "raw"
    """Kind of ground truth, checked against the protocol (R-24). raw: a sensor's depth, 0 in holes; filled: holes
    in-painted; rendered: exact."""
    generic: ClassVar[bool] = False
    """Whether a layout that is recognised too is the better answer, as it knows the data set."""
    assumed: str = ""
    """What is assumed of the files, such as their unit, and the option that says it; "" if nothing is. `describe` says
    it too, so that it stands above every table."""
    units_per_metre: float | None = None
    """File units in one metre, where files hold numbers of some unit: `data inspect` looks at the numbers with it."""

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """What this machine lacks for this config, and how to get it; None if nothing."""
        return None

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Whether a file or folder has this layout (`--data PATH`)."""
        return False

    @classmethod
    def advise(cls, path: Any) -> str:
        """How a file or folder that is not recognised could be read all the same, with options; "" for no idea."""
        return ""

    def complaints(self) -> Sequence[DataError]:
        """What is wrong with the files as a whole but keeps no frame from being read; for `data inspect`."""
        return ()

    @abstractmethod
    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of split "train", "val" or "test", in a fixed order; raises ConfigError for any other name."""

    @abstractmethod
    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError naming the file if it cannot be read."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 over the manifest (names, sizes, split rule, options): part of a run's identity."""

    @abstractmethod
    def describe(self) -> str:
        """One line for tables and logs: the kind of data, frames per split, and whether it is synthetic."""
