"""Contract kits: what the harness relies on in a component, as tests that its author gets for one line.

    from my_plugin import MyRead
    from spd_bench.testing import BlockContract

    class TestMyRead(BlockContract):
        component = MyRead
        options = {"radius": 3}  # only where the defaults do not fit

pytest then runs every `test_*` below on it: `BlockContract`, `NeckContract`, `EncoderContract`, `BaselineContract`
and `DatasetContract`, or `ComponentContract` alone for the other slots. Every failure says what was expected.

Inputs are small and awkward on purpose: sizes that are not those of the paper, maps that are not square, points on
borders and corners. Models are compared in float64, where hard choices (top-R) do not flip by rounding; the tolerance
of 1e-5 leaves room for parts that compute in float32.

Letters: B images, K queries, T tokens, S sites of L4, R anchors, D core width, C H W channels, rows and columns.
"""

import copy
import dataclasses
import fnmatch
import inspect
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import (
    CHAIN,
    FIELDS,
    Anchors,
    ComponentConfig,
    DepthDataset,
    Dims,
    Encoder,
    Features,
    FrameId,
    Level,
    Pyramid,
    QueryState,
    Scene,
    TokenPart,
)
from spd_bench.data.randomness import torch_seed
from spd_bench.errors import ConfigError

DIMS = Dims(features=20, core=24, heads=3, ffn=40, pyramid=(8, 16, 24, 32))
"""Small sizes for blocks and necks. L3 is as wide as the core, as in the paper (§6.1)."""

TOLERANCE = 1e-5
BATCH, QUERIES = 2, 17
MANY = 1024
"""The most queries at which §8 scores an image; models decode them in several chunks."""
PATCH = 14
"""Pixels of a cell's side on the encoders' grid (§3)."""
SPLITS = ("train", "val", "test")
PLAUSIBLE_M = (0.1, 100.0)
"""Where the median depth of a frame may lie: millimetres and disparities do not."""

T = TypeVar("T")


# ------------------------------------------------------------------------------------------------ every component


class ComponentContract:
    """What holds in every slot: a class with slot, version, docstring and a strict, described `Config`."""

    component: type[Any]
    """The class under test."""
    options: Mapping[str, Any] = {}
    """Options to construct it with."""

    @property
    def config(self) -> Any:
        """The validated options."""
        return self.component.Config(**self.options)

    def test_says_what_it_is(self) -> None:
        """A known slot, a whole version number and a docstring of its own: `spd-bench describe` shows them."""
        name = self.component.__name__
        slot, version = getattr(self.component, "slot", None), getattr(self.component, "version", None)
        require(slot in registry.SLOTS, f"{name}.slot is {slot!r}, not one of {', '.join(registry.SLOTS)}")
        require(type(version) is int and version >= 1, f"{name}.version is {version!r}, not a whole number from 1")
        require(isinstance(self.component.stand_in, str), f"{name}.stand_in is not a string")
        require(bool(inspect.cleandoc(self.component.__doc__ or "")), f"{name} has no docstring")

    def test_config_is_strict(self) -> None:
        """Unknown keys are refused and values never change: a typing error must not train the default."""
        config = self.component.Config
        require(issubclass(config, ComponentConfig), f"{config.__qualname__} does not derive from ComponentConfig")
        try:
            config(**{**self.options, "no_such_option": 1})
        except ValidationError as error:
            found = [problem["type"] for problem in error.errors()]
            require("extra_forbidden" in found, f"an unknown key was met with {found}")
        else:
            fail(f"{config.__qualname__} takes the unknown option no_such_option")
        require(bool(config.model_config.get("frozen")), f"{config.__qualname__} is not frozen")

    def test_every_option_is_described(self) -> None:
        """A string below each option says what it means."""
        fields = self.component.Config.model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        require(not bare, f"options without a docstring below them: {', '.join(bare)}")
        unknown = self.component.places - fields.keys()
        require(not unknown, f"places names no option: {', '.join(sorted(unknown))}")

    def test_options_can_be_recorded(self) -> None:
        """Options survive JSON: they are part of a run's identity."""
        recorded = json.loads(json.dumps(self.config.model_dump(mode="json")))
        again = self.component.Config.model_validate_json(json.dumps(recorded))
        require(again == self.config, f"options became {again!r} on the way through JSON, not {self.config!r}")


# --------------------------------------------------------------------------------------------------- every module


class ModuleContract(ComponentContract):
    """What holds for everything with tensors in it. A kit says how to make, feed and run its kind of module."""

    def make(self) -> nn.Module:
        """A new module with initial weights from torch's global generator."""
        raise NotImplementedError

    def example(self) -> Any:
        """Float64 inputs for a batch of `BATCH` images: tensors, tuples and dataclasses of them, images first."""
        raise NotImplementedError

    def run(self, module: nn.Module, example: Any) -> Any:
        """What the module makes of an example."""
        return module(example)

    def built(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A module in eval mode. Its parameters are stirred, so that an initial zero hides nothing behind it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.make()
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.05 * torch.randn_like(parameter))
        return module.to(dtype).eval()

    @torch.no_grad()
    def outputs(self, module: nn.Module, example: Any) -> dict[str, Tensor]:
        """Every tensor that the module gives, by name."""
        return dict(_tensors(self.run(module, example)))

    def test_runs_on_the_meta_device(self) -> None:
        """Shapes without arithmetic: every composition is checked so before training."""
        real = self.outputs(self.built(), self.example())
        module = copy.deepcopy(self.built()).to("meta").train()
        on_meta = self.outputs(module, _map(self.example(), lambda x: x.to("meta")))
        shapes, expected = ({name: tuple(x.shape) for name, x in of.items()} for of in (on_meta, real))
        require(shapes == expected, f"shapes on the meta device are {shapes}, with values they are {expected}")
        stray = [name for name, x in on_meta.items() if not x.is_meta]
        require(not stray, f"not on the meta device: {', '.join(stray)}")

    def test_runs_in_float32_and_float64(self) -> None:
        """The module follows `.to(dtype)`: parity is tested in float64, training runs in float32."""
        wide = self.outputs(self.built(), self.example())
        narrow = self.outputs(self.built(dtype=torch.float32), _cast(self.example(), torch.float32))
        for dtype, found in ((torch.float64, wide), (torch.float32, narrow)):
            other = {name: x.dtype for name, x in found.items() if x.is_floating_point() and x.dtype != dtype}
            require(not other, f"outputs of a {dtype} module are {other}")

    def test_outputs_are_finite(self) -> None:
        """No NaN and no infinity, on borders and corners too."""
        for name, x in self.outputs(self.built(), self.example()).items():
            bad = int((~x.isfinite()).sum())
            require(bad == 0, f"{bad} of {x.numel()} values of {name or 'the output'} are not finite")

    def test_is_deterministic_in_eval(self) -> None:
        """The same inputs give the same outputs, whatever the global random state and however often."""
        module, example = self.built(), self.example()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = self.outputs(module, example)
            torch.manual_seed(2)
            second = self.outputs(module, example)
        equal(second, first, "called again", exact=True)

    def test_eval_mode_is_one_state(self) -> None:
        """`.eval()` twice, or after `.train()`, is the same as once."""
        module, example = self.built(), self.example()
        once = self.outputs(module, example)
        equal(self.outputs(module.eval().eval(), example), once, "after .eval() twice", exact=True)
        equal(self.outputs(module.train().eval(), example), once, "after .train().eval()", exact=True)

    def test_images_do_not_see_each_other(self) -> None:
        """A batch of two images is two batches of one."""
        module, example = self.built(), self.example()
        both = self.outputs(module, example)
        for image in range(BATCH):
            alone = self.outputs(module, _only(example, 0, image))
            equal(alone, _only(both, 0, image), f"image {image} alone")

    def test_can_be_copied(self) -> None:
        """A deep copy computes the same: the check before training works on one."""
        module, example = self.built(), self.example()
        before = self.outputs(module, example)
        equal(self.outputs(copy.deepcopy(module), example), before, "a deep copy", exact=True)

    def test_inputs_are_not_changed(self) -> None:
        """Other blocks and models read the same tensors."""
        example = self.example()
        before = _map(example, Tensor.clone)
        self.outputs(self.built(), example)
        equal(dict(_tensors(example)), dict(_tensors(before)), "an input", exact=True)


class TrainedContract(ModuleContract):
    """What training and its checkpoints rely on."""

    def test_initial_weights_follow_the_seed(self) -> None:
        """Weights are drawn from torch's global generator alone, which the harness seeds by slot and component."""
        first, second = self.built(seed=3).state_dict(), self.built(seed=3).state_dict()
        equal(second, first, "initial weights of the same seed", exact=True)

    def test_state_dict_holds_everything(self) -> None:
        """Weights loaded into a fresh module make it compute the same."""
        source, target = self.built(seed=0), self.built(seed=1)
        saved = io.BytesIO()
        torch.save(source.state_dict(), saved)
        saved.seek(0)
        target.load_state_dict(torch.load(saved, weights_only=True))
        restored = self.outputs(target, self.example())
        equal(restored, self.outputs(source, self.example()), "after a state_dict round trip", exact=True)

    def test_can_be_pickled(self) -> None:
        """An unpickled copy computes the same: that is how models reach other processes."""
        module, example = self.built(), self.example()
        before = self.outputs(module, example)
        equal(self.outputs(pickle.loads(pickle.dumps(module)), example), before, "an unpickled copy", exact=True)  # noqa: S301

    def test_gradients_reach_every_parameter(self) -> None:
        """No dead parameters, but for those that `no_gradient` names; and those have none indeed."""
        module = self.built().train()
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        patterns: tuple[str, ...] = getattr(self.component, "no_gradient", ())
        stale = [pattern for pattern in patterns if not fnmatch.filter(trained, pattern)]
        require(not stale, f"no_gradient matches no parameter: {', '.join(stale)}")
        if not trained:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = dict(_tensors(self.run(module, self.example())))
            scalar = _random_projection(outputs)
        require(scalar.requires_grad, "it has parameters, but nothing that it gives carries a gradient")
        scalar.backward()
        size = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in trained.items()}
        exempt = {name for pattern in patterns for name in fnmatch.filter(trained, pattern)}
        dead = [name for name in size if name not in exempt and size[name] == 0]
        require(not dead, f"no gradient reaches {', '.join(dead)}")
        alive = [name for name in exempt if size[name] > 1e-9 * max(size.values())]
        require(not alive, f"named in no_gradient, but has a gradient: {', '.join(sorted(alive))}")

    def test_runs_under_bfloat16_autocast(self) -> None:
        """Forward and backward are finite: suites train so by default (`train.precision`)."""
        module, example = self.built(dtype=torch.float32).train(), _cast(self.example(), torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = dict(_tensors(self.run(module, example)))
            scalar = _random_projection(outputs)
        if scalar.requires_grad:
            scalar.backward()
        outputs |= {f"gradient of {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
        bad = [name for name, x in outputs.items() if not x.isfinite().all()]
        require(not bad, f"not finite under bfloat16 autocast: {', '.join(bad)}")


# --------------------------------------------------------------------------------------------------------- blocks


class BlockExample(NamedTuple):
    """The input of a block in its contract tests."""

    pyramid: Pyramid
    """A pyramid."""
    state: QueryState
    """A state in which every field is set."""


class BlockContract(TrainedContract):
    """For slots b1 to b5, routing and depth_head."""

    dims: ClassVar[Dims] = DIMS

    def make(self) -> nn.Module:
        """The block, with `dims` instead of the paper's sizes."""
        module: nn.Module = self.component(self.config, self.dims)
        return module

    def example(self) -> BlockExample:
        """A pyramid as from 13×15 cells of features, and 17 queries per image."""
        return BlockExample(example_pyramid(self.dims), example_state(self.dims))

    def run(self, module: nn.Module, example: BlockExample) -> QueryState:
        """The next state of every query."""
        state: QueryState = module(example.state, self.scene(module, example.pyramid))
        return state

    def scene(self, module: Any, pyramid: Pyramid) -> Scene:
        """The pyramid and what the block computes once per image."""
        return Scene(pyramid, {self.component.slot: module.prepare(pyramid)})

    def test_fits_the_chain(self) -> None:
        """Its slot, its fields and what stands in for it have names that the chain knows."""
        slots = CHAIN[1:]
        require(self.component.slot in slots, f"slot {self.component.slot!r} is not one of {', '.join(slots)}")
        for what in ("reads", "writes"):
            unknown = getattr(self.component, what) - FIELDS.keys()
            require(not unknown, f"{what} names {', '.join(sorted(unknown))}; known: {', '.join(FIELDS)}")
        for slot, name in self.component.left_out.items():
            require(slot in slots, f"left_out names the slot {slot!r}")
            require(name in registry.names(slot), f"left_out names {slot}: {name}, which is not registered")

    def test_gives_the_right_shapes(self) -> None:
        """h [B, K, D], tokens [B, K, T, D], attention [B, K, S], anchors [B, K, R] below S, depth [B, K]."""
        example = self.example()
        state = self.run(self.built(), example)
        sites = example.pyramid.l4.height * example.pyramid.l4.width
        core = (BATCH, QUERIES, self.dims.core)
        for name in self.component.writes:
            require(getattr(state, FIELDS[name]) is not None, f"{name} is declared as written, but is None")
        _require_shape("h", state.h_BKD, core)
        for part in state.tokens or ():
            _require_shape("tokens", part.tokens_BKTD, (*core[:2], part.tokens_BKTD.shape[2], core[2]))
        _require_shape("attention", state.attention_BKS, (*core[:2], sites))
        _require_shape("depth", state.depth_m_BK, core[:2])
        if state.anchors is not None:
            _require_anchors(state.anchors, sites)

    def test_reads_only_what_it_declares(self) -> None:
        """With the declared fields alone it writes the same."""
        module, example = self.built(), self.example()
        scene = self.scene(module, example.pyramid)
        kept = {FIELDS[name]: getattr(example.state, FIELDS[name]) for name in self.component.reads}
        with torch.no_grad():
            whole, lean = (module(state, scene) for state in (example.state, QueryState(example.state.xy_BK2, **kept)))
        written = [FIELDS[name] for name in self.component.writes]
        found, expected = ({f: dict(_tensors(getattr(of, f))) for f in written} for of in (lean, whole))
        for field in written:
            equal(found[field], expected[field], f"{field} from the declared reads alone", exact=True)

    def test_writes_exactly_what_it_declares(self) -> None:
        """Declared fields are new, every other field is the very object that came in."""
        example = self.example()
        with torch.no_grad():
            after = self.run(self.built(), example)
        changed = {name for name, f in FIELDS.items() if getattr(after, f) is not getattr(example.state, f)}
        undeclared, idle = changed - self.component.writes, self.component.writes - changed
        require(not undeclared, f"writes {', '.join(sorted(undeclared))} without declaring it")
        require(not idle, f"declares to write {', '.join(sorted(idle))}, but hands on what came in")
        require(after.xy_BK2 is example.state.xy_BK2, "changes xy, which belongs to the caller")

    def test_queries_do_not_see_each_other(self) -> None:
        """A query alone gives what it gives among 17 and among 1,024, in any order, from one scene prepared once."""
        module, example = self.built(), self.example()
        with torch.no_grad():
            scene = self.scene(module, example.pyramid)
            for state in (example.state, example_state(self.dims, MANY)):
                among = dict(_tensors(module(state, scene)))
                equal(dict(_tensors(module(state, scene))), among, "a scene used again")
                count = state.xy_BK2.shape[1]
                others = dict(_tensors(module(_shuffled(state), scene)))
                equal(others, _shuffled(among), f"{count} queries in another order")
                for k in (0, 4, count - 1):
                    alone = dict(_tensors(module(_only(state, 1, k), scene)))
                    equal(alone, _only(among, 1, k), f"query {k} of {count} alone")


class NeckContract(TrainedContract):
    """For the slot neck."""

    dims: ClassVar[Dims] = DIMS

    def make(self) -> nn.Module:
        """The neck, with `dims` instead of the paper's sizes."""
        module: nn.Module = self.component(self.config, self.dims)
        return module

    def example(self) -> Features:
        """Four maps of 13×15 cells, an odd number of each."""
        return example_features(self.dims.features)

    def test_gives_the_pyramid(self) -> None:
        """Four levels, fine to coarse, as wide as `dims.pyramid`; extents are fractions of the image."""
        with torch.no_grad():
            pyramid: Pyramid = self.run(self.built(), self.example())
        levels = [pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4]
        for name, level, width in zip(("L1", "L2", "L3", "L4"), levels, self.dims.pyramid, strict=True):
            _require_shape(name, level.map_BHWC, (BATCH, level.height, level.width, width))
            require(all(0 < part <= 1 for part in level.extent), f"{name} covers {level.extent} of the image")
        for side in ("height", "width"):
            sizes = [getattr(level, side) for level in levels]
            require(sizes == sorted(sizes, reverse=True), f"{side}s of L1 to L4 are {sizes}, not fine to coarse")


# ------------------------------------------------------------------------------------- encoders, models, data sets


class EncoderContract(ModuleContract):
    """For the slot encoder. Skipped, with the encoder's own reason, where its weights are missing."""

    image_size: ClassVar[tuple[int, int]] = (70, 98)
    """Height and width of the test image: multiples of 14."""

    def make(self) -> nn.Module:
        """The encoder, frozen as the harness freezes it."""
        if reason := self.component.missing(self.config):
            skip(reason)
        module: nn.Module = self.component(self.config)
        return module.requires_grad_(False)

    def example(self) -> Tensor:
        """Two RGB images in [0, 1]."""
        return _random("image", BATCH, 3, *self.image_size, uniform=True)

    def test_gives_four_maps_on_the_grid(self) -> None:
        """Channels last, one cell per 14 pixels, `channels` wide (§3)."""
        encoder: Any = self.built()
        maps = self.run(encoder, self.example()).maps_BHWC
        require(len(maps) == 4, f"gives {len(maps)} maps, not 4")
        rows, columns = (side // PATCH for side in self.image_size)
        for index, map_BHWC in enumerate(maps):
            _require_shape(f"map {index}", map_BHWC, (BATCH, rows, columns, encoder.channels))

    def test_is_frozen(self) -> None:
        """No gradient flows, and training mode changes nothing."""
        encoder, image_B3HW = self.built(), self.example()
        before = self.outputs(encoder, image_B3HW)
        with torch.enable_grad():
            traced = dict(_tensors(self.run(encoder, image_B3HW)))
        require(not any(x.requires_grad for x in traced.values()), "features carry a gradient")
        equal(self.outputs(encoder.train(), image_B3HW), before, "in training mode", exact=True)

    def test_digest_is_stable(self) -> None:
        """64 hexadecimal digits, equal for equal encoders and not changed by use."""
        encoder: Any = self.built()
        other: Any = self.built()
        before = encoder.digest()
        self.outputs(encoder, self.example())
        _require_one_digest(before, encoder.digest(), other.digest())

    def test_refuses_an_image_off_the_grid(self) -> None:
        """Sides that are no multiples of 14 are a ConfigError, never a silent crop."""
        encoder = self.built()
        height, width = self.image_size
        try:
            self.outputs(encoder, _random("image", 1, 3, height, width - 1, uniform=True))
        except ConfigError:
            return
        fail(f"takes an image of {height}×{width - 1}")


class PatchEncoder(Encoder):
    """A tiny frozen encoder for tests: four fixed linear maps of 14×14 patches."""

    def __init__(self, channels: int = 384) -> None:
        super().__init__()
        self.channels = channels
        random = torch.Generator().manual_seed(0)
        self.register_buffer("filters", 0.1 * torch.randn(4, channels, 3, 14, 14, generator=random))

    def forward(self, image_B3HW: Tensor) -> Features:
        """The four maps."""
        maps = [F.conv2d(image_B3HW, filters, stride=14).permute(0, 2, 3, 1) for filters in self.get_buffer("filters")]
        return Features((maps[0], maps[1], maps[2], maps[3]))

    def digest(self) -> str:
        """A constant."""
        return "0" * 64


class BaselineExample(NamedTuple):
    """The input of a model in its contract tests."""

    image_B3HW: Tensor
    """Images in [0, 1]."""
    xy_BK2: Tensor
    """Query points in the unit square."""


class BaselineContract(TrainedContract):
    """For the slot baseline: everything that implements `PointDepthModel`."""

    grid: ClassVar[tuple[int, int]] = (7, 9)
    """Rows and columns of cells of the test image."""

    def encoder(self) -> Encoder:
        """The frozen encoder below the model."""
        return PatchEncoder()

    def make(self) -> nn.Module:
        """The model, which knows the training depths."""
        module: Any = self.component(self.config, self.encoder().requires_grad_(False))
        module.fit_prior(torch.tensor([1.0, 2.0, 4.0]))
        return module  # type: ignore[no-any-return]

    def example(self) -> BaselineExample:
        """Two images of noise and 17 points."""
        height, width = (cells * PATCH for cells in self.grid)
        return BaselineExample(_random("image", BATCH, 3, height, width, uniform=True), example_points())

    def run(self, module: Any, example: BaselineExample) -> Tensor:
        """Depth in metres at every point."""
        return self.decode(module, self.scene(module, example), example.xy_BK2)

    def scene(self, module: Any, example: BaselineExample) -> Any:
        """What the model computes once per image; a GT-aligned one is aligned to made-up truth."""
        scene = module.prepare(module.encode(example.image_B3HW))
        if module.gt_aligned and not example.xy_BK2.is_meta:
            xy_BK2 = example_points()[:1].to(example.xy_BK2).expand(len(example.xy_BK2), -1, -1)
            module.fit_alignment(scene, xy_BK2, 1 + 3 * xy_BK2.mean(-1))
        return scene

    def decode(self, module: Any, scene: Any, xy_BK2: Tensor) -> Tensor:
        """The model's answer to points of the unit square."""
        depth_m_BK: Tensor = module.decode(scene, xy_BK2)
        return depth_m_BK

    def test_gives_positive_depth_in_metres(self) -> None:
        """[B, K], above zero and finite everywhere."""
        depth_m_BK = self.outputs(self.built(), self.example())[""]
        _require_shape("depth", depth_m_BK, (BATCH, QUERIES))
        require(bool((depth_m_BK > 0).all() and depth_m_BK.isfinite().all()), f"depths are {depth_m_BK.tolist()}")

    def test_points_do_not_see_each_other(self) -> None:
        """A point has one depth, alone and among 17 or 1,024 in any order, unless the model makes no such promise."""
        if not self.component.points_are_independent:
            skip("points_are_independent is False")
        model, example = self.built(), self.example()
        with torch.no_grad():
            require_independent_points(model, self.scene(model, example), example.xy_BK2)
            require_independent_points(model, self.scene(model, example), example_points(MANY))

    def test_trains_what_it_says(self) -> None:
        """`trained` and the trainable parameters agree; the encoder's are never among them."""
        model: Any = self.built()
        names = [name for name, _ in model.trainable()]
        require(bool(names) == self.component.trained, f"trained is {self.component.trained}, trainable: {names[:3]}")
        require(not any(name.startswith("encoder.") for name in names), "trains the encoder")


class DatasetContract(ComponentContract):
    """For the slot dataset. Skipped, with the data set's own reason, where its files are missing."""

    def made(self) -> DepthDataset:
        """The data set."""
        if reason := self.component.missing(self.config):
            skip(reason)
        dataset: DepthDataset = self.component(self.config)
        return dataset

    def test_splits_are_disjoint(self) -> None:
        """Every frame has one name and is in one split; none is empty but train and val together."""
        dataset = self.made()
        test_alone = not dataset.frames("train") and not dataset.frames("val")
        owner: dict[str, str] = {}
        for split in SPLITS:
            frames = dataset.frames(split)
            require(len(frames) > 0 or (test_alone and split != "test"), f"split {split} is empty")
            for frame in frames:
                require(isinstance(frame, FrameId), f"frames({split!r}) holds {frame!r}, not a FrameId")
                other = owner.setdefault(frame.frame, split)
                require(other == split, f"frame {frame.frame} is in {other} and in {split}")
            require(len({frame.frame for frame in frames}) == len(frames), f"{split} holds a frame twice")

    def test_order_is_fixed(self) -> None:
        """The same frames in the same order, from the same object and from another."""
        dataset, other = self.made(), self.made()
        for split in SPLITS:
            first = list(dataset.frames(split))
            require(list(dataset.frames(split)) == first, f"frames({split!r}) gave another order the second time")
            require(list(other.frames(split)) == first, f"frames({split!r}) of an equal data set has another order")

    def test_reads_images_and_metres(self) -> None:
        """uint8 [H, W, 3] and float32 metres [H, W], finite, 0 where unknown, at a distance that a camera sees."""
        dataset = self.made()
        for split in SPLITS:
            for frame_id in (*dataset.frames(split)[:1], *dataset.frames(split)[-1:]):
                _require_frame(frame_id.frame, dataset.read(frame_id))

    def test_reading_twice_gives_the_same(self) -> None:
        """From the same object, from an equal one and from a pickled one, which another process would read."""
        dataset = self.made()
        frame_id = dataset.frames("test")[0]
        first = dataset.read(frame_id)
        for other in (dataset, self.made(), pickle.loads(pickle.dumps(dataset))):  # noqa: S301
            again = other.read(frame_id)
            same = np.array_equal(again.image_HW3, first.image_HW3) and np.array_equal(
                again.depth_m_HW, first.depth_m_HW
            )
            require(same, f"reading {frame_id.frame} again gave another frame")

    def test_digest_is_stable(self) -> None:
        """64 hexadecimal digits, equal for equal data and not changed by use."""
        dataset = self.made()
        before = dataset.digest()
        dataset.read(dataset.frames("test")[0])
        _require_one_digest(before, dataset.digest(), self.made().digest())

    def test_describes_itself_in_one_line(self) -> None:
        """For tables and logs."""
        text = self.made().describe()
        require(bool(text.strip()) and "\n" not in text, f"describe() gave {text!r}")

    def test_refuses_an_unknown_split(self) -> None:
        """A ConfigError, never an empty split."""
        try:
            found = self.made().frames("no_such_split")
        except ConfigError:
            return
        except KeyError as error:
            fail(f'frames("no_such_split") raised KeyError({error}), which tells a user nothing; raise ConfigError')
        fail(f'frames("no_such_split") gave {len(found)} frames')

    def test_recognises_only_its_own(self) -> None:
        """`recognise` answers yes or no, also for what is not there."""
        answer = self.component.recognise("/no/such/folder")
        require(answer is False, f"recognise of a folder that does not exist gave {answer!r}")


# --------------------------------------------------------------------------------------------------------- examples


def example_points(count: int = QUERIES) -> Tensor:
    """Points of the unit square for each image, float64: corners, borders, the centre, the rest by chance."""
    special = [(0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.3), (0.5, 0.5)]
    xy_BK2 = _random("xy", BATCH, count, 2, uniform=True)
    xy_BK2[:, : len(special)] = torch.tensor(special, dtype=torch.float64)
    return xy_BK2


def example_features(channels: int) -> Features:
    """Four random maps of 13×15 cells, float64."""
    maps = [_random(f"map {index}", BATCH, 13, 15, channels) for index in range(4)]
    return Features((maps[0], maps[1], maps[2], maps[3]))


def example_pyramid(dims: Dims) -> Pyramid:
    """What a neck makes of 13×15 cells, as random numbers: L4 leaves out the odd row and column (R-05)."""
    sizes = ((52, 60), (26, 30), (13, 15), (6, 7))
    maps = [_random(f"L{i}", BATCH, *size, dims.pyramid[i]) for i, size in enumerate(sizes)]
    return Pyramid(Level(maps[0]), Level(maps[1]), Level(maps[2]), Level(maps[3], extent=(14 / 15, 12 / 13)))


def example_state(dims: Dims, count: int = QUERIES) -> QueryState:
    """A state with every field set, float64: two token parts, attention and five anchors over the 42 sites of L4."""
    each = (BATCH, count)
    attention_BKS = _random("attention", *each, 42).softmax(-1)
    weight_BKR, site_BKR = attention_BKS.topk(5, dim=-1)
    return QueryState(
        xy_BK2=example_points(count),
        h_BKD=_random("h", *each, dims.core),
        tokens=(
            TokenPart(_random("local", *each, 6, dims.core)),
            TokenPart(_random("evidence", *each, 3, dims.core)),
        ),
        attention_BKS=attention_BKS,
        anchors=Anchors(site_BKR, torch.ones_like(weight_BKR)),
        depth_m_BK=1 + _random("depth", *each, uniform=True),
    )


def _random(name: str, *shape: int, uniform: bool = False) -> Tensor:
    """Random float64 numbers that depend on the name alone, normal or in [0, 1)."""
    generator = torch.Generator().manual_seed(torch_seed("contract", name))
    draw = torch.rand if uniform else torch.randn
    return draw(*shape, generator=generator, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- checks


def require_independent_points(model: Any, scene: Any, xy_BK2: Tensor) -> None:
    """Fails unless a model gives each of these points the depth that it gives it alone, and in any order of them."""
    __tracebackhide__ = True
    count = xy_BK2.shape[1]
    among = {"depth": model.decode(scene, xy_BK2)}
    equal({"depth": model.decode(scene, xy_BK2)}, among, "a scene used again")
    others = {"depth": model.decode(scene, _shuffled(xy_BK2))}
    equal(others, _shuffled(among), f"{count} points in another order")
    for k in (0, 4, count // 2, count - 1):
        alone = {"depth": model.decode(scene, xy_BK2[:, k : k + 1])}
        equal(alone, _only(among, 1, k), f"point {k} of {count} alone")


def require(holds: bool, problem: str) -> None:
    """Fails the test with `problem` unless it holds."""
    __tracebackhide__ = True
    if not holds:
        fail(problem)


def fail(problem: str) -> NoReturn:
    """Fails the test."""
    __tracebackhide__ = True
    raise AssertionError(problem)


def skip(reason: str) -> NoReturn:
    """Skips the test, saying why."""
    import pytest

    pytest.skip(reason)


def equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, *, exact: bool = False) -> None:
    """Fails unless both hold the same tensors, to 1e-5 or exactly."""
    __tracebackhide__ = True
    require(found.keys() == expected.keys(), f"{what}: gives {sorted(found)}, expected {sorted(expected)}")
    tolerance = 0.0 if exact else TOLERANCE
    for name, value in found.items():
        label = f"{what}: {name or 'the output'} differs"
        try:
            torch.testing.assert_close(value, expected[name], rtol=tolerance, atol=tolerance)
        except AssertionError as error:
            fail(f"{label}\n{error}")


def _require_shape(name: str, value: Tensor | None, shape: tuple[int, ...]) -> None:
    if value is not None:
        require(tuple(value.shape) == shape, f"{name} has shape {tuple(value.shape)}, expected {shape}")


def _require_anchors(anchors: Anchors, sites: int) -> None:
    site_BKR, gate_BKR = anchors.site_BKR, anchors.gate_BKR
    _require_shape("anchors.site", site_BKR, (BATCH, QUERIES, site_BKR.shape[-1]))
    require(not site_BKR.is_floating_point(), f"anchors are {site_BKR.dtype}, not integers")
    low, high = int(site_BKR.min()), int(site_BKR.max())
    require(low >= 0 and high < sites, f"anchors lie in [{low}, {high}], sites are 0 to {sites - 1}")
    if gate_BKR is not None:
        _require_shape("anchors.gate", gate_BKR, tuple(site_BKR.shape))
        require(bool(((gate_BKR - 1).abs() < TOLERANCE).all()), "the gate is not 1 in value (R-12)")


def _require_frame(name: str, frame: Any) -> None:
    image, depth_m = frame.image_HW3, frame.depth_m_HW
    require(image.dtype == np.uint8 and image.ndim == 3, f"{name}: the image is {image.dtype} {image.shape}")
    require(depth_m.dtype == np.float32, f"{name}: depth is {depth_m.dtype}, not float32")
    require(image.shape == (*depth_m.shape, 3), f"{name}: image {image.shape} and depth {depth_m.shape} differ in size")
    require(bool(np.isfinite(depth_m).all()), f"{name}: depth holds NaN or infinity; unknown is 0")
    require(bool((depth_m >= 0).all()), f"{name}: depth holds negative values; unknown is 0")
    require(bool((depth_m > 0).any()), f"{name}: no depth is known")
    median_m = float(np.median(depth_m[depth_m > 0]))
    low, high = PLAUSIBLE_M
    require(low <= median_m <= high, f"{name}: the median depth is {median_m:g} m: is the unit right?")


def _require_one_digest(*digests: str) -> None:
    """They come from one object before and after use, and from an equal object."""
    digest = digests[0]
    require(bool(re.fullmatch("[0-9a-f]{64}", digest)), f"digest is {digest!r}, not 64 hexadecimal digits")
    require(set(digests) == {digest}, f"the digest is not stable: {', '.join(digests)}")


def _random_projection(outputs: Mapping[str, Tensor]) -> Tensor:
    """A scalar that depends on every output, with weights by chance: plain sums of softmaxes are constant."""
    parts = [(x * torch.randn_like(x)).sum() for x in outputs.values() if x.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _map(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same structure with every tensor changed."""
    result: Any = value
    if isinstance(value, Tensor):
        result = change(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _map(getattr(value, field.name), change) for field in dataclasses.fields(value)}
        result = dataclasses.replace(value, **fields)
    elif isinstance(value, dict):
        result = {name: _map(part, change) for name, part in value.items()}
    elif isinstance(value, tuple):
        parts = [_map(part, change) for part in value]
        result = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return result  # type: ignore[no-any-return]


def _only(value: T, dim: int, index: int) -> T:
    """The same structure with one image (dim 0) or one query (dim 1) of every tensor."""
    return _map(value, lambda x: x.narrow(dim, index, 1))


def _shuffled(value: T) -> T:
    """The same structure with the queries of every tensor in another order, always the same one."""

    def shuffle(x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(torch_seed("order", x.shape[1])))
        return x[:, order.to(x.device)]

    return _map(value, shuffle)


def _cast(value: T, dtype: torch.dtype) -> T:
    """The same structure with every real number in `dtype`."""
    return _map(value, lambda x: x.to(dtype) if x.is_floating_point() else x)


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a structure with the path that leads to it."""
    if isinstance(value, Tensor):
        yield name, value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _tensors(part, f"{name}[{index}]")
