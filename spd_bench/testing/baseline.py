"""The kit for the slot baseline."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from spd_bench.api import Encoder
from spd_bench.testing.checks import equal, require, require_shape, skip
from spd_bench.testing.encoder import PatchEncoder
from spd_bench.testing.examples import BATCH, MANY, QUERIES, example_points, random_numbers
from spd_bench.testing.module import TrainedContract
from spd_bench.testing.trees import only, shuffled


class BaselineExample(NamedTuple):
    """Inputs of a model: images and query points."""

    image_B3HW: Tensor
    """RGB in [0, 1]."""
    xy_BK2: Tensor
    """Points of the unit square."""


class BaselineContract(TrainedContract):
    """For the slot baseline: everything that implements `PointDepthModel`."""

    grid: ClassVar[tuple[int, int]] = (7, 9)
    """Rows and columns of cells of the test image."""
    many: int = MANY
    """The larger number of points among which a point is decoded."""

    def encoder(self) -> Encoder:
        """Returns the frozen encoder below the model."""
        return PatchEncoder()

    def make(self) -> nn.Module:
        """Returns the model, fitted to the training depths 1, 2 and 4 m."""
        module: Any = self.component(self.config, self.encoder().requires_grad_(False))
        module.fit_prior(torch.tensor([1.0, 2.0, 4.0]))
        return module  # type: ignore[no-any-return]

    def example(self) -> BaselineExample:
        """Returns two images of noise and 17 points."""
        height, width = (cells * self.encoder().patch for cells in self.grid)
        return BaselineExample(random_numbers("image", BATCH, 3, height, width, uniform=True), example_points())

    def run(self, module: Any, example: BaselineExample) -> Tensor:
        """Returns the depth in metres at every point."""
        return self.decode(module, self.scene(module, example), example.xy_BK2)

    def scene(self, module: Any, example: BaselineExample) -> Any:
        """Returns what the model computes once per image; a GT-aligned model is aligned to invented ground truth."""
        scene = module.prepare(module.encode(example.image_B3HW))
        if module.gt_aligned and not example.xy_BK2.is_meta:
            xy_BK2 = example_points()[:1].to(example.xy_BK2).expand(len(example.xy_BK2), -1, -1)
            module.fit_alignment(scene, xy_BK2, 1 + 3 * xy_BK2.mean(-1))
        return scene

    def decode(self, module: Any, scene: Any, xy_BK2: Tensor) -> Tensor:
        """Returns the model's depth in metres at points of the unit square."""
        depth_m_BK: Tensor = module.decode(scene, xy_BK2)
        return depth_m_BK

    def test_gives_positive_depth_in_metres(self) -> None:
        """[B, K], above zero and finite everywhere."""
        depth_m_BK = self.outputs(self.built(), self.example())[""]
        require_shape("depth", depth_m_BK, (BATCH, QUERIES))
        require(bool((depth_m_BK > 0).all() and depth_m_BK.isfinite().all()), f"depths are {depth_m_BK.tolist()}")

    def test_points_do_not_see_each_other(self) -> None:
        """A point has one depth, alone and among 17 or 1,024 in any order, unless the model makes no such promise."""
        if not self.component.points_are_independent:
            skip("points_are_independent is False")
        model, example = self.built(), self.example()
        with torch.no_grad():
            require_independent_points(model, self.scene(model, example), example.xy_BK2)
            require_independent_points(model, self.scene(model, example), example_points(self.many))

    def test_trains_what_it_says(self) -> None:
        """`trained` and the trainable parameters agree; the encoder's are never among them."""
        model: Any = self.built()
        names = [name for name, _ in model.trainable()]
        require(bool(names) == self.component.trained, f"trained is {self.component.trained}, trainable: {names[:3]}")
        require(not any(name.startswith("encoder.") for name in names), "trains the encoder")


def require_independent_points(model: Any, scene: Any, xy_BK2: Tensor) -> None:
    """Fails unless a model gives each of these points the depth that it gives it alone, and in any order of them."""
    __tracebackhide__ = True
    count = xy_BK2.shape[1]
    among = {"depth": model.decode(scene, xy_BK2)}
    equal({"depth": model.decode(scene, xy_BK2)}, among, "a scene used again")
    others = {"depth": model.decode(scene, shuffled(xy_BK2))}
    equal(others, shuffled(among), f"{count} points in another order")
    for k in (0, 4, count // 2, count - 1):
        alone = {"depth": model.decode(scene, xy_BK2[:, k : k + 1])}
        equal(alone, only(among, 1, k), f"point {k} of {count} alone")
