"""A model as two graphs of operators: prepare (image → tensors of the scene) and decode (points, tensors → depth).

Both take the weights as inputs, so that they lie once, beside the graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spd_bench.api import PointDepthModel
from spd_bench.errors import ConfigError
from spd_bench.export import scene as scenes
from spd_bench.export.scene import Path
from spd_bench.fused import forms

MOST_POINTS = 4096
"""Points of one call of the decode graph, at the most."""
ANY_POINTS = 5
"""Points that a graph is traced with; it serves every number from 2 on."""


class PrepareGraph(nn.Module):
    """uint8 image [1, 3, h, w] at the network's size → the tensors of its scene that `decode` needs."""

    def __init__(self, network: PointDepthModel, paths: Sequence[Path]) -> None:
        super().__init__()
        self.network, self.paths = network, tuple(paths)

    def forward(self, image_13HW: Tensor) -> tuple[Tensor, ...]:
        """The tensors, in the order of `paths`."""
        scene = self.network.prepare(self.network.encode(image_13HW.float() / 255))
        return tuple(scenes.at(scene, path).clone() for path in self.paths)


class DecodeGraph(nn.Module):
    """Points of the unit square [1, K, 2] and the tensors of a scene → depth in metres [1, K]."""

    def __init__(self, network: PointDepthModel, template: Any, paths: Sequence[Path]) -> None:
        super().__init__()
        self.network, self.template, self.paths = network, template, tuple(paths)

    def forward(self, xy_1K2: Tensor, *tensors: Tensor) -> Tensor:
        """Depth in metres, unclamped."""
        scene = scenes.rebuilt(self.template, dict(zip(self.paths, tensors, strict=True)))
        return self.network.decode(scene, xy_1K2)


class Stateless(nn.Module):
    """A graph that takes its weights, in the order of `names`, before its own inputs."""

    def __init__(self, graph: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.names = [f"network.{name}" for name in names]
        self.hidden = (graph,)  # in a tuple: its weights must not become this module's

    def forward(self, weights: list[Tensor], *inputs: Tensor) -> Any:
        """What the graph returns with these weights."""
        return functional_call(self.hidden[0], dict(zip(self.names, weights, strict=True)), inputs)


@dataclass(frozen=True)
class TwoGraphs:
    """The two graphs of a model, with examples of their inputs."""

    prepare: PrepareGraph
    """Image → tensors of its scene."""
    decode: DecodeGraph
    """Points and tensors of a scene → depth."""
    image_13HW: Tensor
    """A uint8 image at the network's size."""
    xy_1K2: Tensor
    """Points of the unit square."""
    tensors: tuple[Tensor, ...]
    """The scene of the image, in the order of `names`."""
    names: tuple[str, ...]
    """A name for each tensor of the scene."""

    @property
    def network(self) -> PointDepthModel:
        """The model."""
        return self.prepare.network


@torch.no_grad()
def two_graphs(network: PointDepthModel, image_size: tuple[int, int]) -> TwoGraphs:
    """The graphs of a model in evaluation mode on the CPU. ConfigError for a model that keeps nothing of an image."""
    rng = torch.Generator().manual_seed(0)
    image_13HW = torch.randint(256, (1, 3, *image_size), generator=rng, dtype=torch.uint8)
    xy_1K2 = torch.rand(1, ANY_POINTS, 2, generator=rng)
    with forms.stock():  # the steps that are exported
        scene = network.prepare(network.encode(image_13HW.float() / 255))
        paths = scenes.used(scene, lambda: network.decode(scene, xy_1K2))
    if not paths:
        raise ConfigError("this model does not look at the image: there is nothing to export")
    found = tuple(scenes.at(scene, path).clone() for path in paths)
    names = tuple("_".join(str(key).strip("_") for key in path if key != "prepared") for path in paths)
    return TwoGraphs(PrepareGraph(network, paths), DecodeGraph(network, scene, paths), image_13HW, xy_1K2, found, names)


def state(network: PointDepthModel) -> dict[str, Tensor]:
    """Every parameter and buffer, by name, the frozen encoder's too."""
    return {name: value.detach() for name, value in (*network.named_parameters(), *network.named_buffers())}


@torch.no_grad()
def programs(graphs: TwoGraphs) -> tuple[torch.export.ExportedProgram, torch.export.ExportedProgram]:
    """Prepare and decode as programs of PyTorch that take the weights first; decode takes 2 to MOST_POINTS points."""
    weights = state(graphs.network)
    names, values = list(weights), list(weights.values())
    points = torch.export.Dim("points", min=2, max=MOST_POINTS)
    prepare = torch.export.export(Stateless(graphs.prepare, names), (values, graphs.image_13HW))
    decode = torch.export.export(
        Stateless(graphs.decode, names),
        (values, graphs.xy_1K2, *graphs.tensors),
        dynamic_shapes=([None] * len(values), ({1: points}, *(None for _ in graphs.tensors))),
    )
    return prepare, decode
