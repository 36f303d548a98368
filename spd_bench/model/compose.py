"""Builds one model from names and options, and checks it on the meta device before training.

A composition chains the blocks of one suite entry (§2). `build` raises ConfigError for a block that reads a field which
no earlier block writes. `check` runs the model without data at two values of K and checks shapes and gradients.
"""

import fnmatch
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import CHAIN, FIELDS, Block, Dims, Encoder, Features, Neck, PointDepthModel, QueryState, Scene
from spd_bench.data.randomness import torch_seed
from spd_bench.errors import ConfigError
from spd_bench.registry import PluginError

QUERY_CHUNK = 256
"""Largest number of queries of a batch that are decoded together outside training: keeps memory flat in K."""


@dataclass(frozen=True)
class ChosenPart:
    """One component to build."""

    name: str
    """Its registered name."""
    config: Any
    """Its validated `Config`."""
    where: str | None = None
    """Place in the suite that asks for it."""


class ComposedModel(PointDepthModel):
    """encoder → neck → b1 → b2 → b3 → routing → b4 → b5 → depth_head as one `PointDepthModel`."""

    def __init__(self, encoder: Encoder, neck: Neck, blocks: Mapping[str, Block]) -> None:
        super().__init__()
        self.encoder = encoder
        self.neck = neck
        self.block_slots = tuple(blocks)
        for slot, block in blocks.items():
            self.add_module(slot, block)
        self._read_last = _read_last(blocks)

    def block(self, slot: str) -> Block:
        """The block in a slot."""
        return cast(Block, self.get_submodule(slot))

    def prepare(self, features: Features) -> Scene:
        """The pyramid and what every block computes once per image (§4, §5)."""
        pyramid = self.neck(features)
        return Scene(pyramid, {slot: self.block(slot).prepare(pyramid) for slot in self.block_slots})

    def decode(self, scene: Scene, xy_BK2: Tensor) -> Tensor:
        """Depth in metres at every query (§6); outside training in chunks of queries."""
        if self.training or torch.compiler.is_exporting():  # a graph serves any number of queries
            return self._decode_chunk(scene, xy_BK2)
        batch, count, _ = xy_BK2.shape
        chunks = math.ceil(count / max(1, QUERY_CHUNK // batch))
        return torch.cat([self._decode_chunk(scene, chunk) for chunk in xy_BK2.tensor_split(chunks, dim=1)], dim=1)

    def _decode_chunk(self, scene: Scene, xy_BK2: Tensor) -> Tensor:
        state = QueryState(xy_BK2)
        for slot in self.block_slots:
            state = replace(self.block(slot)(state, scene), **self._read_last[slot])
        assert state.depth_m_BK is not None
        return state.depth_m_BK

    def trace(self, scene: Scene, xy_BK2: Tensor) -> QueryState:
        """The last query state, with the fields that the blocks wrote."""
        return [after for _, _, after in self.states(scene, xy_BK2)][-1]

    def states(self, scene: Scene, xy_BK2: Tensor) -> Iterator[tuple[str, QueryState, QueryState]]:
        """(Slot, query state before its block, query state after it), in the order of the chain."""
        state = QueryState(xy_BK2)
        for slot in self.block_slots:
            after = self.block(slot)(state, scene)
            yield slot, state, after
            state = after


def _read_last(blocks: Mapping[str, Block]) -> dict[str, dict[str, None]]:
    """Slot → fields of the state to drop after its block, because no later block reads them."""
    found, later = {}, {"depth"}
    for slot, block in reversed(list(blocks.items())):
        found[slot] = {FIELDS[name]: None for name in sorted(FIELDS.keys() - later)}
        later |= block.reads
    return found


def build_encoder(part: ChosenPart) -> Encoder:
    """The frozen encoder of a composition."""
    encoder = cast(Encoder, registry.load("encoder", part.name)(part.config))
    return encoder.requires_grad_(False).eval()


def build(parts: Mapping[str, ChosenPart], encoder: Encoder, *, seed: int, ffn: int | None = None) -> ComposedModel:
    """A composition whose initial weights depend on (seed, slot, component) only.

    ffn: hidden width of feed-forward layers; None: the paper's. Raises ConfigError for a block that reads a field which
    no earlier block writes.
    """
    classes = {slot: registry.load(slot, parts[slot].name) for slot in CHAIN}
    _check_chain(classes, parts)
    dims = Dims(features=encoder.channels, widths=encoder.widths, ffn=ffn or Dims.ffn)
    built: dict[str, nn.Module] = {}
    for slot in CHAIN:
        with _initial_weights(seed, slot, parts[slot].name):
            built[slot] = classes[slot](parts[slot].config, dims)
    return ComposedModel(encoder, cast(Neck, built.pop("neck")), cast(dict[str, Block], built))


def build_baseline(part: ChosenPart, encoder: Encoder, *, seed: int) -> PointDepthModel:
    """A baseline on the same encoder, initialised from (seed, name); the name is `trained_as` if it has one."""
    cls = registry.load("baseline", part.name)
    with _initial_weights(seed, "baseline", cls.trained_as or part.name):
        return cast(PointDepthModel, cls(part.config, encoder))


@contextmanager
def _initial_weights(seed: int, slot: str, name: str) -> Iterator[None]:
    """Makes draws inside the block depend on (seed, slot, name) alone; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the GPUs too
        torch.default_generator.manual_seed(torch_seed(seed, "init", slot, name))
        yield


def _check_chain(classes: Mapping[str, Any], parts: Mapping[str, ChosenPart]) -> None:
    """Raises ConfigError for a block that reads a field which no earlier block writes."""
    writers: dict[str, str] = {"features": "encoder"}
    for slot in CHAIN:
        for field in sorted(classes[slot].reads - writers.keys()):
            able = [f"{other}: {name}" for other in CHAIN[: CHAIN.index(slot)] for name in _writers(other, field)]
            raise ConfigError(
                f'{slot}: {parts[slot].name} reads "{field}", which nothing before it writes'
                f" ({', '.join(f'{s}: {parts[s].name}' for s in CHAIN[: CHAIN.index(slot)])})",
                where=parts[slot].where,
                hint=f"choose a component that writes it ({', '.join(able)}), or another {slot}",
            )
        writers.update(dict.fromkeys(classes[slot].writes, slot))


def _writers(slot: str, field: str) -> list[str]:
    """Components of a slot that write a field; ignores components that cannot be imported."""
    statuses = [registry.status(slot, entry.qualified) for entry in registry.entries(slot)]
    names = [status.entry.name for status in statuses if status.ok]
    return [name for name in names if field in getattr(registry.load(slot, name), "writes", ())]


def check(
    model: PointDepthModel, *, name: str, image_size: tuple[int, int], features: Features | None = None
) -> Features:
    """Checks the model on the meta device at K = 1 and K = 3: shapes, and a gradient for every trainable parameter.

    Returns the encoder's features (shapes without values), to be passed to the check of other models on that encoder.
    Raises ConfigError with the composition and the problem, PluginError if one component alone causes it.
    """
    _check_size(model.encoder, image_size, name)
    on_meta = _on_meta(model)
    on_meta.train()
    with torch.random.fork_rng(devices=[]):
        features = features or _encoded(on_meta, image_size)
        scene = on_meta.prepare(features)
        for count in (1, 3):
            depth_m_BK = on_meta.decode(scene, torch.empty(2, count, 2, device="meta"))
            check_depth(depth_m_BK, 2, count, name=name)
    if model.trained:
        depth_m_BK.sum().backward()
        _check_gradients(on_meta, name)
    return features


def _check_size(encoder: Encoder, image_size: tuple[int, int], name: str) -> None:
    """Raises ConfigError for an input that is not a whole number of the encoder's patches, two at least, on a side."""
    patch = encoder.patch
    if all(side % patch == 0 and side >= 2 * patch for side in image_size):
        return
    height, width = image_size
    fits = "×".join(str(max(round(side / patch), 2) * patch) for side in image_size)
    raise ConfigError(
        f"{name}: {type(encoder).__name__} needs sides that are multiples of {patch}, at least {2 * patch}, "
        f"found data.image_size {height}×{width}",
        hint=f"set data.image_size to {fits}",
    )


def _encoded(on_meta: PointDepthModel, image_size: tuple[int, int]) -> Features:
    """The shapes of the encoder's maps; raises PluginError where they are not those that it declares."""
    encoder = on_meta.encoder
    features = on_meta.encode(torch.empty(2, 3, *image_size, device="meta"))
    grid = tuple(side // encoder.patch for side in image_size)
    expected = [(2, *grid, channels) for channels in encoder.maps]
    found = [tuple(map_BHWC.shape) for map_BHWC in features.maps_BHWC]
    if found != expected:
        raise PluginError(
            f"{type(encoder).__name__} gave maps of {found}, expected {expected} from its patch and widths"
        )
    return features


def _on_meta(model: PointDepthModel) -> PointDepthModel:
    """A copy of the model whose parameters have shapes but no values."""
    import copy

    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        ghost = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(ghost, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else ghost
    return copy.deepcopy(model, memo)


def check_depth(depth_m_BK: Tensor, images: int, queries: int, *, name: str) -> None:
    """Raises PluginError unless a model's depths have the expected shape and a floating-point dtype."""
    if depth_m_BK.shape != (images, queries):
        asked = f"{images} image{'s' * (images > 1)} and {queries} queries"
        raise PluginError(f"{name}: decode gave shape {tuple(depth_m_BK.shape)} for {asked}")
    if not depth_m_BK.is_floating_point():
        raise PluginError(f"{name}: decode gave {depth_m_BK.dtype}, expected floating-point metres")


def _check_gradients(model: PointDepthModel, name: str) -> None:
    """Raises ConfigError for a trained parameter without a gradient: it could not change the depth."""
    exempt = _exempt_patterns(model)
    dead = [n for n, p in model.trainable() if p.grad is None and not any(fnmatch.fnmatch(n, e) for e in exempt)]
    if dead:
        slots = sorted({n.split(".")[0] for n in dead})
        raise ConfigError(
            f"{name}: {len(dead)} parameters of {', '.join(slots)} cannot change the depth (first: {dead[0]})",
            hint="add a block that reads what they write, or leave them out too",
        )


def _exempt_patterns(model: PointDepthModel) -> list[str]:
    if not isinstance(model, ComposedModel):
        return []
    return [f"{slot}.{pattern}" for slot in model.block_slots for pattern in model.block(slot).no_gradient]
