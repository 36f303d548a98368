"""A trained run as a model that answers for any image: encode once, then depth at any points.

One `RunModel` may be used by many threads at once: nothing in it changes after it is built, and an `EncodedImage`
never changes either.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spd_bench.api import Features, PointDepthModel
from spd_bench.ask.familiar import unfamiliar_depths, unfamiliar_image
from spd_bench.ask.pictures import ImageLike, as_rgb
from spd_bench.ask.points import checked_points, pixel_grid
from spd_bench.ask.record import TrainedRun
from spd_bench.data.resizing import resized, unit_range
from spd_bench.errors import ConfigError, SpdError
from spd_bench.fused.build import AT_LEAST
from spd_bench.geometry import pixel_to_unit
from spd_bench.model.compose import QUERY_CHUNK, check_depth
from spd_bench.registry import blamed

OnPoints = Callable[[int, int], None]
"""Called with (points that are done, all points)."""


class NoDepth(SpdError):
    """A model answered with a number that is not finite."""

    exit_code = 4


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image that a `RunModel` has encoded; only that model answers for it."""

    width: int
    """Columns of the image as given."""
    height: int
    """Rows of the image as given."""
    unfamiliar: tuple[str, ...]
    """How the image differs from every training frame in aspect and resolution, one line each."""
    features: Features = field(repr=False)
    """The encoder's four maps, a batch of one; not to be changed."""
    prepared: Any = field(repr=False)
    """What the model computed once for the image, `PointDepthModel.prepare`; not to be changed."""
    owner: "RunModel" = field(repr=False)
    """The model that encoded it."""


class RunModel:
    """A trained run: `scene = model.encode(image)`, then `model.depth(scene, points)`."""

    def __init__(self, run: TrainedRun, network: PointDepthModel, device: torch.device) -> None:
        self.run = run
        """What was trained, on which data, and what stood in for the real thing."""
        self.network = network
        """The model itself, in evaluation mode."""
        self.device = device
        """Where it computes."""
        # points that are decoded together: always as many, since matrix products of another size round differently; on
        # a CPU enough to keep its threads busy, so that one point takes as long as `AT_LEAST` on one thread
        threads = torch.get_num_threads() if device.type == "cpu" else QUERY_CHUNK
        self._block = min(QUERY_CHUNK, AT_LEAST * threads)
        self._halved = run.identity["data"].get("features") == "float16"

    def encode(self, image: ImageLike) -> EncodedImage:
        """The image, ready for any number of questions; costs one call of the encoder.

        image: a path, bytes of an image file, a PIL image, or a uint8 array [H, W, 3], of any size and aspect. It is
        brought to the network's size as training frames are (R-23). Raises DataError for what is no readable colour
        image, ConfigError for an array of another shape or type.
        """
        return self._encoded([as_rgb(image)])[0]

    def encode_many(self, images: Iterable[ImageLike], *, batch_size: int = 8) -> Iterator[EncodedImage]:
        """Each image as `encode` gives it, to rounding; `batch_size` of them share a call of the encoder."""
        waiting = iter(images)
        while batch := [as_rgb(image) for image in islice(waiting, batch_size)]:
            yield from self._encoded(batch)

    def depth(
        self, scene: EncodedImage, points: npt.ArrayLike, *, on_points: OnPoints = lambda done, total: None
    ) -> npt.NDArray[np.float32]:
        """Depth in metres at points (u, v), [N]; neither clamped nor rounded.

        points: [N, 2] in pixels of the image as given, u to the right, v down. Whole numbers mean centres of pixels
        (R-03), so the image spans −0.5 … width − 0.5. A point gets the same depth, to the bit, whichever other points
        are asked for, unless the model says otherwise (`points_are_independent`). on_points: called after each block.

        Raises ConfigError for a point outside the image and for a scene of another model, NoDepth for an answer that
        is not finite.
        """
        if scene.owner is not self:
            raise ConfigError("this scene was encoded by another model", hint="encode the image with this model")
        uv_N2 = checked_points(points, width=scene.width, height=scene.height)
        depth_m_N = np.empty(len(uv_N2), np.float32)
        with torch.inference_mode(), blamed(self.run.label):
            xy_N2 = pixel_to_unit(torch.from_numpy(uv_N2), width=scene.width, height=scene.height).float()
            for first, block_N2 in enumerate(xy_N2.split(self._block) if len(xy_N2) else ()):
                place = slice(first * self._block, first * self._block + len(block_N2))
                depth_m_N[place] = self._decoded(scene, block_N2)
                on_points(place.stop, len(uv_N2))
        if not np.isfinite(depth_m_N).all():
            raise NoDepth(f"{int((~np.isfinite(depth_m_N)).sum())} of {len(depth_m_N)} depths are not finite")
        return depth_m_N

    def dense(self, scene: EncodedImage, *, on_points: OnPoints = lambda done, total: None) -> npt.NDArray[np.float32]:
        """Depth in metres of every pixel, [height, width]: `depth` at every pixel's centre, in blocks."""
        grid_N2 = pixel_grid(width=scene.width, height=scene.height)
        return self.depth(scene, grid_N2, on_points=on_points).reshape(scene.height, scene.width)

    def unfamiliar(self, depth_m_N: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which depths lie outside the range that training saw; none where an earlier version made the record."""
        return unfamiliar_depths(self.run, depth_m_N)

    def _encoded(self, images: list[npt.NDArray[np.uint8]]) -> list[EncodedImage]:
        sizes = [self._input_size(image_HW3) for image_HW3 in images]
        if len(set(sizes)) > 1:  # a released model takes each image at a size of its own
            return [self._encoded([image_HW3])[0] for image_HW3 in images]
        how = self.network.encoder.resampling
        shown_B3HW = torch.stack([resized(image_HW3, sizes[0], how) for image_HW3 in images])
        with torch.no_grad(), blamed(self.run.label):
            maps = self.network.encode(unit_range(shown_B3HW.to(self.device))).maps_BHWC
        return [self._scene(image_HW3, [m[i : i + 1] for m in maps]) for i, image_HW3 in enumerate(images)]

    def _input_size(self, image_HW3: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Rows and columns at which the network takes an image."""
        own = self.network.own_input
        if own is not None:
            return own.size(*image_HW3.shape[:2])
        assert self.run.image_size is not None
        return self.run.image_size

    def _scene(self, image_HW3: npt.NDArray[np.uint8], maps: list[Tensor]) -> EncodedImage:
        if self._halved:  # as the cache on disk gave them to the training
            maps = [map_1HWC.half().float() for map_1HWC in maps]
        height, width, _ = image_HW3.shape
        features = Features((maps[0], maps[1], maps[2], maps[3]), (height, width))
        with torch.inference_mode(), blamed(self.run.label):
            prepared = self.network.prepare(features)
        notes = tuple(unfamiliar_image(self.run, width=width, height=height))
        return EncodedImage(width, height, notes, features, prepared, self)

    def _decoded(self, scene: EncodedImage, xy_N2: Tensor) -> npt.NDArray[np.float32]:
        """Depth at the points of one block, which is filled up with its last point."""
        rest = self._block - len(xy_N2)
        xy_1P2 = torch.cat([xy_N2, xy_N2[-1:].expand(rest, -1)])[None].to(self.device)
        depth_m_1P = self.network.decode(scene.prepared, xy_1P2)
        check_depth(depth_m_1P, 1, self._block, name=self.run.label)
        depth_m_P: npt.NDArray[np.float32] = depth_m_1P[0].float().cpu().numpy()
        return depth_m_P[: len(xy_N2)]
