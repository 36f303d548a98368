"""Every registered component keeps its slot's contract, and the kits catch components that do not.

A new component is covered by registering it. What no machine of ours can run is skipped with its own reason.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from spd_baselines.dpt_head import DPTHead
from spd_bench import registry
from spd_bench.api import (
    CHAIN,
    Anchors,
    Block,
    Component,
    ComponentConfig,
    DepthDataset,
    Dims,
    Encoder,
    Features,
    Frame,
    FrameId,
    Level,
    Looked,
    Neck,
    PointDepthModel,
    Pyramid,
    QueryState,
    Scene,
)
from spd_bench.errors import ConfigError
from spd_bench.testing import (
    MANY,
    BaselineContract,
    BlockContract,
    ComponentContract,
    DatasetContract,
    EncoderContract,
    NeckContract,
    PatchEncoder,
)

INDOOR = (
    "ultralytics_depth", "scannet", "sun_rgbd", "diode", "ibims1", "hypersim", "arkitscenes", "replica", "seven_scenes",
)  # fmt: skip
"""Published layouts; `tests/data/test_indoor.py` sets the kit on files of each."""

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "encoder/dav2_small": {"random_weights": True},
    "dataset/synthetic_rooms": {
        "train_scenes": 2,
        "val_scenes": 1,
        "test_scenes": 1,
        "frames_per_scene": 1,
        "height": 48,
        "width": 64,
    },
    "baseline/callable": {"function": "tiny:brightness"},
    "baseline/spd_v13_literal": {"r": 5},  # 12 sites of L4 on the kit's small image
    "dataset/rgbd_folder": {"root": "/no/such/folder"},
    "dataset/packed": {"root": "/no/such/folder"},
    **{f"dataset/{name}": {"root": "/no/such/folder"} for name in INDOOR},
}
"""What a component has to be constructed with, where its defaults do not fit."""


def registered(*slots: str) -> Any:
    """An automatic fixture that sets the kit on every component registered in these slots."""
    found = [entry for slot in slots for entry in registry.entries(slot)]

    @pytest.fixture(autouse=True, params=found, ids=lambda entry: f"{entry.slot}/{entry.name}")
    def chosen(self: Any, request: pytest.FixtureRequest) -> None:
        entry = request.param
        self.component = registry.load(entry.slot, entry.qualified)
        self.options = OPTIONS.get(f"{entry.slot}/{entry.name}", {})

    return chosen


class TestBlocks(BlockContract):
    chosen = registered(*CHAIN[1:])


class TestNecks(NeckContract):
    chosen = registered("neck")


class TestEncoders(EncoderContract):
    chosen = registered("encoder")


class EncoderWithHead(PatchEncoder):
    """Carries a depth head with random numbers, as dav2_small does with the released ones."""

    def __init__(self, release: str) -> None:
        super().__init__()
        self.release = release

    def depth_head_state(self) -> Mapping[str, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            state: dict[str, Tensor] = DPTHead(channels=self.channels, output=nn.ReLU()).state_dict()
        state["head.conv3.weight"] *= 30  # a map that varies
        state["head.conv3.bias"] += 2  # and stays positive
        return state


def built_rgb(own: Mapping[str, Any]) -> Encoder:
    cls = registry.load("encoder", own["use"])
    return cls(cls.Config(read_by=own["read_by"]))  # type: ignore[no-any-return]


class TestBaselines(BaselineContract):
    chosen = registered("baseline")

    @property
    def many(self) -> int:  # type: ignore[override]
        """Fewer for the literal transcription, which decodes point by point and in no chunks: its 1,024 take 20 s."""
        return 64 if self.component.__name__ == "SPDv13Literal" else MANY

    def encoder(self) -> Encoder:
        own = self.component.own_encoder(self.config) or {}
        if own.get("use") == "rgb":
            return built_rgb(own)
        return EncoderWithHead(own.get("release", "relative"))


class TestDatasets(DatasetContract):
    chosen = registered("dataset")

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPD_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "rooms"))


class TestOthers(ComponentContract):
    chosen = registered("query_sampler", "loss", "metric")


def test_every_slot_is_covered() -> None:
    covered = {*CHAIN, "encoder", "baseline", "dataset", "query_sampler", "loss", "metric"}
    assert covered == set(registry.SLOTS)


def test_example_of_the_contributors_guide_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text(encoding="utf-8")
    tmp_path.joinpath("example_of_the_guide.py").write_text(guide.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    assert failures(BlockContract, importlib.import_module("example_of_the_guide").AnchorTokens) == set()


# ------------------------------------------------------------------------------------------- kits that must not pass


def failures(kit: type[ComponentContract], component: type[Any], **options: Any) -> set[str]:
    """Names of the kit's tests that a component fails, without "test_"."""
    failed = set()
    for name in dir(kit):
        if name.startswith("test_"):
            case = kit()
            case.component, case.options = component, options
            try:
                getattr(case, name)()
            except pytest.skip.Exception:
                continue
            except Exception:
                failed.add(name.removeprefix("test_"))
    return failed


class Good(Block):
    """A small block that keeps the contract: the control of the controls."""

    slot = "b2"
    reads = frozenset({"h"})
    writes = frozenset({"h"})

    class Config(ComponentConfig):
        """Options."""

        gain: float = Field(default=1.0, gt=0)
        """Factor on what is added."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.mix = nn.Linear(dims.core, dims.core)

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        assert state.h_BKD is not None
        return replace(state, h_BKD=state.h_BKD + self.config.gain * self.change(state.h_BKD, state, scene))

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        """What is added to h."""
        return torch.tanh(self.mix(h_BKD))


class SeesOtherQueries(Good):
    """Adds the mean over queries."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        return torch.tanh(self.mix(h_BKD)).mean(1, keepdim=True).expand_as(h_BKD)


class SeesOtherImages(Good):
    """Normalises over the batch."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        mixed_BKD: Tensor = self.mix(h_BKD)
        return mixed_BKD - mixed_BKD.mean(0)


class SeesManyQueries(Good):
    """Adds the mean over queries where they fill a chunk, as a model does that normalises within one."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        mixed_BKD = torch.tanh(self.mix(h_BKD))
        return mixed_BKD - mixed_BKD.mean(1, keepdim=True) * (h_BKD.shape[1] >= 128)


class CountsPlaces(Good):
    """Adds something to every second query."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        place_K1 = torch.arange(h_BKD.shape[1], device=h_BKD.device)[:, None] % 2
        return torch.tanh(self.mix(h_BKD)) * (1 + place_K1)


class WritesMore(Good):
    """Replaces the anchors too, which it does not declare."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        assert state.anchors is not None
        return replace(super().forward(state, scene), anchors=Anchors(state.anchors.site_BKR.flip(-1)))


class WritesLess(Good):
    """Declares attention, which it hands on as it came."""

    writes = frozenset({"h", "attention"})


class ReadsMore(Good):
    """Reads depth, which it does not declare."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        seen = torch.zeros_like(h_BKD[..., 0]) if state.depth_m_BK is None else state.depth_m_BK
        return torch.tanh(self.mix(h_BKD)) * seen[..., None]


class HasDeadParameter(Good):
    """Holds a layer that is never used."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.spare = nn.Linear(dims.core, dims.core)


class ExcusesLivingParameter(Good):
    """Says that a bias has no gradient; it has one."""

    no_gradient = ("mix.bias",)


class ExcusesNothing(Good):
    """Names a parameter that it does not have."""

    no_gradient = ("gone.bias",)


class KnowsOnlyFloat32(Good):
    """Computes with a matrix that does not follow `.to(dtype)`."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.matrix = torch.eye(dims.core)

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        return torch.tanh(self.mix(h_BKD) @ self.matrix)


class GivesFloat32(Good):
    """Rounds its output to float32."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        after = super().forward(state, scene)
        assert after.h_BKD is not None
        return replace(after, h_BKD=after.h_BKD.float())


class AlwaysDrops(Good):
    """Applies dropout in evaluation too."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        return F.dropout(torch.tanh(self.mix(h_BKD)), 0.5)


class Counts(Good):
    """Computes something else each time."""

    calls = 0

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        self.calls += 1
        return torch.tanh(self.mix(h_BKD)) * self.calls


class KeepsWeightsElsewhere(Good):
    """Holds weights that no state_dict has."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.register_buffer("gains", torch.rand(dims.core), persistent=False)

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        return torch.tanh(self.mix(h_BKD)) * self.get_buffer("gains")


class DrawsFromNumpy(Good):
    """Initial weights do not follow the seed."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        with torch.no_grad():
            self.mix.bias.copy_(torch.from_numpy(np.random.default_rng().normal(size=dims.core)))


class WorksInPlace(Good):
    """Changes the h that came in."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        with torch.no_grad():
            h_BKD.mul_(0.5)
        return torch.tanh(self.mix(h_BKD))


class DividesByZero(Good):
    """Not finite for a query on the left border."""

    def change(self, h_BKD: Tensor, state: QueryState, scene: Scene) -> Tensor:
        return torch.tanh(self.mix(h_BKD)) / state.xy_BK2[..., :1]


class KnowsThePaperSizes(Good):
    """Holds the core width itself."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, Dims())
        self.mix = nn.Linear(192, 192)


class GivesTransposed(Good):
    """Writes h [B, D, K]."""

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        after = super().forward(state, scene)
        assert after.h_BKD is not None
        return replace(after, h_BKD=after.h_BKD.transpose(1, 2))


class NamesUnknownThings(Good):
    """Reads a field and is replaced by a component that nobody knows."""

    reads = frozenset({"h", "hidden"})
    left_out = {"b2": "nothing_of_that_name"}


class HasLooseConfig(Good):
    """Takes any option, describes none and is a draft."""

    version = 0

    class Config(ComponentConfig):
        model_config = {"extra": "ignore", "frozen": False}
        gain: float = 1.0


HasLooseConfig.__doc__ = None


class NamesMissingTokens(Good):
    """Shows a group of tokens, but appends none."""

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        return Looked(groups=(("mine", 3),))


class SharesAreNotWhole(Good):
    """Shows shares of the attention that sum to a half."""

    def looked(self, state: QueryState, scene: Scene) -> Looked:
        count = sum(part.tokens_BKTD.shape[2] for part in state.tokens or ())
        return Looked(token_shares=(torch.full((*state.xy_BK2.shape[:2], count), 0.5 / count),))


class RoutesOutside(Block):
    """Anchors one past the last site, with a gate that scales."""

    slot = "routing"
    reads = frozenset({"attention"})
    writes = frozenset({"anchors"})

    def forward(self, state: QueryState, scene: Scene) -> QueryState:
        assert state.attention_BKS is not None
        weight_BKR, site_BKR = state.attention_BKS.topk(3, dim=-1)
        return replace(state, anchors=Anchors(site_BKR + 1, gate_BKR=1 + weight_BKR))


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Good, set()),
        (SeesOtherQueries, {"queries_do_not_see_each_other"}),
        (SeesManyQueries, {"queries_do_not_see_each_other"}),
        (CountsPlaces, {"queries_do_not_see_each_other"}),
        (SeesOtherImages, {"images_do_not_see_each_other"}),
        (WritesMore, {"writes_exactly_what_it_declares", "reads_only_what_it_declares"}),  # it needs the old anchors
        (WritesLess, {"writes_exactly_what_it_declares", "reads_only_what_it_declares"}),
        (ReadsMore, {"reads_only_what_it_declares"}),
        (HasDeadParameter, {"gradients_reach_every_parameter"}),
        (ExcusesLivingParameter, {"gradients_reach_every_parameter"}),
        (ExcusesNothing, {"gradients_reach_every_parameter"}),
        (GivesFloat32, {"runs_in_float32_and_float64"}),
        (DividesByZero, {"outputs_are_finite", "runs_under_bfloat16_autocast"}),
        (RoutesOutside, {"gives_the_right_shapes"}),
        (KeepsWeightsElsewhere, {"state_dict_holds_everything"}),
        (DrawsFromNumpy, {"initial_weights_follow_the_seed"}),
        (NamesUnknownThings, {"fits_the_chain", "reads_only_what_it_declares"}),
        (NamesMissingTokens, {"shows_what_it_looked_at"}),
        (SharesAreNotWhole, {"shows_what_it_looked_at"}),
        (HasLooseConfig, {"says_what_it_is", "config_is_strict", "every_option_is_described"}),
    ],
)
def test_kit_names_the_fault_of_a_block(block: type[Block], expected: set[str]) -> None:
    assert failures(BlockContract, block) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (KnowsOnlyFloat32, {"runs_in_float32_and_float64", "runs_on_the_meta_device"}),
        (KnowsThePaperSizes, {"gives_the_right_shapes"}),
        (GivesTransposed, {"gives_the_right_shapes"}),
        (AlwaysDrops, {"is_deterministic_in_eval", "eval_mode_is_one_state"}),
        (Counts, {"is_deterministic_in_eval"}),
        (WorksInPlace, {"inputs_are_not_changed"}),
    ],
)
def test_kit_catches_a_block_that_is_wrong_everywhere(block: type[Block], expected: set[str]) -> None:
    assert failures(BlockContract, block) >= expected


class GoodNeck(Neck):
    """Four linear maps, resized."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.levels = nn.ModuleList(map(nn.Linear, self.widths(dims), dims.pyramid))

    def forward(self, features: Features) -> Pyramid:
        maps = [level(map_BHWC) for level, map_BHWC in zip(self.levels, features.maps_BHWC, strict=True)]
        return Pyramid(*(Level(self.resize(map_BHWC, index)) for index, map_BHWC in enumerate(maps)))

    def widths(self, dims: Dims) -> tuple[int, ...]:
        return dims.maps

    def resize(self, map_BHWC: Tensor, index: int) -> Tensor:
        size = [round(side * (4, 2, 1, 0.5)[index]) for side in map_BHWC.shape[1:3]]
        return F.interpolate(map_BHWC.permute(0, 3, 1, 2), size=size, mode="bilinear").permute(0, 2, 3, 1)


class OneWidth(GoodNeck):
    """Expects four maps as wide as the deepest."""

    def widths(self, dims: Dims) -> tuple[int, ...]:
        return (dims.features,) * 4


class CoarseToFine(GoodNeck):
    """The pyramid upside down."""

    def resize(self, map_BHWC: Tensor, index: int) -> Tensor:
        return super().resize(map_BHWC, 3 - index)


class ChannelsFirst(GoodNeck):
    """Levels are [B, C, H, W]."""

    def resize(self, map_BHWC: Tensor, index: int) -> Tensor:
        return super().resize(map_BHWC, index).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("neck", "expected"),
    [
        (GoodNeck, set()),
        (OneWidth, {"takes_maps_of_their_own_widths"}),
        (CoarseToFine, {"gives_the_pyramid", "takes_maps_of_their_own_widths"}),
        (ChannelsFirst, {"gives_the_pyramid", "takes_maps_of_their_own_widths"}),
    ],
)
def test_kit_catches_wrong_necks(neck: type[Neck], expected: set[str]) -> None:
    assert failures(NeckContract, neck) == expected


class SmallEncoder(PatchEncoder):
    """Keeps the contract."""

    def __init__(self, config: Any) -> None:
        super().__init__(channels=6)
        self.config = config

    def forward(self, image_B3HW: Tensor) -> Features:
        if image_B3HW.shape[-1] % 14:
            raise ConfigError("sides must be multiples of 14")
        return super().forward(image_B3HW)


class Crops(PatchEncoder):
    """Takes any size and has a digest that is no digest."""

    def __init__(self, config: Any) -> None:
        super().__init__(channels=6)

    def digest(self) -> str:
        return "version 1"


class Learns(SmallEncoder):
    """Has weights that ask for a gradient again, and drops in training."""

    def forward(self, image_B3HW: Tensor) -> Features:
        gain = torch.ones((), requires_grad=True)
        return super().forward(F.dropout(image_B3HW * gain, 0.5, self.training))


class ThreeMapsFirst(SmallEncoder):
    """Three maps, channels first."""

    def forward(self, image_B3HW: Tensor) -> Features:
        maps = super().forward(image_B3HW).maps_BHWC
        return Features(tuple(map_BHWC.permute(0, 3, 1, 2) for map_BHWC in maps[:3]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        (SmallEncoder, set()),
        (Crops, {"digest_is_stable", "refuses_an_image_off_the_grid"}),
        (Learns, {"is_frozen"}),
        (ThreeMapsFirst, {"gives_four_maps_on_the_grid"}),
    ],
)
def test_kit_catches_wrong_encoders(encoder: type[Encoder], expected: set[str]) -> None:
    assert failures(EncoderContract, encoder) == expected


class Plane(PointDepthModel):
    """Depth from the point alone: keeps the contract."""

    def __init__(self, config: Any, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.slope = nn.Linear(2, 1)

    def prepare(self, features: Features) -> None:
        return None

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        out_BK: Tensor = F.softplus(self.slope(xy_BK2)[..., 0])
        return out_BK


class Negative(Plane):
    """Depths below zero."""

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        return -super().decode(scene, xy_BK2)


class Centred(Plane):
    """A point's depth depends on where the others are."""

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        return super().decode(scene, xy_BK2 - xy_BK2.mean(1, keepdim=True))


class CentredInChunks(Plane):
    """The same, but only among more points than a first look takes."""

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        chunks = [chunk - chunk.mean(1, keepdim=True) * (chunk.shape[1] == 128) for chunk in xy_BK2.split(128, dim=1)]
        return super().decode(scene, torch.cat(chunks, dim=1))


class Remembers(Plane):
    """A point's depth depends on what was asked of the scene before."""

    def prepare(self, features: Features) -> Any:
        return {"asked": 0}

    def decode(self, scene: Any, xy_BK2: Tensor) -> Tensor:
        scene["asked"] += 1
        return super().decode(None, xy_BK2) * int(scene["asked"])


class CentredAndSaysSo(Centred):
    """The same, but it makes no promise."""

    points_are_independent = False


class SaysUntrained(Plane):
    """Has parameters, but declares that it is not trained."""

    trained = False


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Plane, set()),
        (Negative, {"gives_positive_depth_in_metres"}),
        (Centred, {"points_do_not_see_each_other"}),
        (CentredInChunks, {"points_do_not_see_each_other"}),
        (Remembers, {"points_do_not_see_each_other"}),
        (CentredAndSaysSo, set()),
        (SaysUntrained, {"trains_what_it_says"}),
    ],
)
def test_kit_catches_wrong_models(model: type[PointDepthModel], expected: set[str]) -> None:
    assert failures(BaselineContract, model) == expected


class Frames(DepthDataset):
    """Two frames per split, 2 m away, a hole in each: keeps the contract."""

    names: Mapping[str, Sequence[str]] = {"train": ("a", "b"), "val": ("c", "d"), "test": ("e", "f")}

    def __init__(self, config: Component.Config) -> None:
        self.config = config

    def frames(self, split: str) -> Sequence[FrameId]:
        if split not in self.names:
            raise ConfigError(f"no split {split}")
        return [FrameId(name, scene=split) for name in self.names[split]]

    def read(self, frame: FrameId) -> Frame:
        depth_m_HW = np.full((4, 6), 2, np.float32)
        depth_m_HW[0, 0] = 0
        return Frame(np.zeros((4, 6, 3), np.uint8), self.spoilt(depth_m_HW))

    def spoilt(self, depth_m_HW: Any) -> Any:
        return depth_m_HW

    def digest(self) -> str:
        return "0" * 64

    def describe(self) -> str:
        return "six frames"


class Leaks(Frames):
    """A test frame is in the training split as well."""

    names: Mapping[str, Sequence[str]] = {**Frames.names, "train": ("a", "e")}


class Shuffles(Frames):
    """Another order each time."""

    def frames(self, split: str) -> Sequence[FrameId]:
        self.turn = -getattr(self, "turn", -1)
        return list(super().frames(split))[:: self.turn]


class Millimetres(Frames):
    """Depth as the camera stores it."""

    def spoilt(self, depth_m_HW: Any) -> Any:
        return depth_m_HW * 1000


class HolesAreNaN(Frames):
    """NaN instead of 0 where nothing is known."""

    def spoilt(self, depth_m_HW: Any) -> Any:
        return np.where(depth_m_HW == 0, np.float32("nan"), depth_m_HW)


class DoublePrecision(Frames):
    """Depth in float64, transposed."""

    def spoilt(self, depth_m_HW: Any) -> Any:
        return depth_m_HW.T.astype(np.float64)


class Noisy(Frames):
    """Every read is another frame."""

    def spoilt(self, depth_m_HW: Any) -> Any:
        return (depth_m_HW * np.random.default_rng().uniform(1, 2)).astype(np.float32)


class Careless(Frames):
    """Any split is empty, the digest counts, the description has two lines, everything is recognised."""

    def frames(self, split: str) -> Sequence[FrameId]:
        return super().frames(split) if split in self.names else []

    def digest(self) -> str:
        self.count = getattr(self, "count", 0) + 1
        return f"{self.count:064x}"

    def describe(self) -> str:
        return "six\nframes"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        return True


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (Frames, set()),
        (Leaks, {"splits_are_disjoint"}),
        (Shuffles, {"order_is_fixed"}),
        (Millimetres, {"reads_images_and_metres"}),
        (HolesAreNaN, {"reads_images_and_metres", "reading_twice_gives_the_same"}),
        (DoublePrecision, {"reads_images_and_metres"}),
        (Noisy, {"reading_twice_gives_the_same"}),
        (
            Careless,
            {
                "refuses_an_unknown_split",
                "digest_is_stable",
                "describes_itself_in_one_line",
                "recognises_only_its_own",
            },
        ),
    ],
)
def test_kit_catches_wrong_datasets(dataset: type[DepthDataset], expected: set[str]) -> None:
    assert failures(DatasetContract, dataset) == expected
