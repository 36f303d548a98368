"""Scenes of any classes are taken apart and put together again."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spd_bench.export import scene as scenes


class Pair(NamedTuple):
    left: Tensor
    right: Any


@dataclass(frozen=True)
class Inner:
    rows: Tensor
    size: int

    @cached_property
    def doubled(self) -> Tensor:
        return self.rows * 2


def a_scene() -> dict[str, Any]:
    linear = nn.Linear(2, 2)
    return {
        "pair": Pair(torch.ones(2), Inner(torch.full((2,), 3.0), 7)),
        "list": [torch.zeros(2), "text", linear, linear.weight],
        "none": None,
    }


def test_every_tensor_has_a_path_but_parameters() -> None:
    scene = a_scene()
    paths = [path for path, _ in scenes.tensors(scene)]
    assert paths == [("pair", "left"), ("pair", "right", "rows"), ("list", 0)]
    assert [float(scenes.at(scene, path)[0]) for path in paths] == [1, 3, 0]


def test_a_scene_is_rebuilt_with_other_tensors() -> None:
    scene, other = a_scene(), torch.full((2,), 9.0)
    made = scenes.rebuilt(scene, {("pair", "right", "rows"): other})
    assert made["pair"].right.rows is other
    assert made["pair"].right.size == 7
    assert made["pair"].left is scene["pair"].left
    assert made["list"][2] is scene["list"][2]
    assert float(scene["pair"].right.rows[0]) == 3  # the given one stays


def test_only_tensors_that_are_computed_with_are_used() -> None:
    """`left` is read for its shape alone; `rows` through a value that is computed once and kept."""
    scene = a_scene()
    found = scenes.used(scene, lambda: scene["pair"].right.doubled + scene["list"][0] + len(scene["pair"].left))
    assert found == [("pair", "right", "doubled"), ("list", 0)]
    assert float(scenes.at(a_scene(), found[0])[0]) == 6  # a scene that nobody has asked yet
