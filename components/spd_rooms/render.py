"""Renders one frame from its name: a pure function of options, split, scene and frame."""

from dataclasses import dataclass
from math import atan2
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from spd_rooms.camera import CameraView, Vector
from spd_rooms.layout import Room, furnish
from spd_rooms.raycast import SHELL, cast
from spd_rooms.sensor import answered, measure, photograph
from spd_rooms.shading import shade
from spd_rooms.solids import Solid, Triple

SPLITS = ("train", "val", "test")

LAYOUT, POSE, PICTURE, NOISE, HOLES = range(5)
"""Purposes of random streams: each is keyed by (seed, split, scene, frame, purpose)."""

TRIES = 24
"""Random poses that are tried; the best one is used."""
PREVIEW_HEIGHT, PREVIEW_WIDTH = 24, 32
"""Size of the preview for choosing a pose. It does not depend on the frame's size, so neither does the pose."""


@dataclass(frozen=True)
class Options:
    """Everything except the name that a frame depends on."""

    seed: int
    """Seed of all rooms."""
    height: int
    """Rows of a frame."""
    width: int
    """Columns of a frame."""
    holes: bool
    """Whether depth has a structured-light camera's holes."""
    depth_noise: bool
    """Whether depth has noise."""


class Rendered(NamedTuple):
    """A rendered frame."""

    rgb_HW3: NDArray[np.uint8]
    """Colour."""
    depth_mm_HW: NDArray[np.uint16]
    """Metric z-depth in millimetres, 0 where unknown."""


def render(options: Options, split: str, scene: int, frame: int) -> Rendered:
    """Renders frame `frame` of scene `scene` of a split."""

    def stream(purpose: int) -> Generator:
        return np.random.default_rng([options.seed, SPLITS.index(split), scene, frame, purpose])

    room = furnish(np.random.default_rng([options.seed, SPLITS.index(split), scene, 0, LAYOUT]))
    view = choose_view(room, stream(POSE), options.height, options.width)
    hits = cast(room, view)
    shaded = shade(room, view, hits)
    depth_m_HW = measure(hits.depth_m_HW, stream(NOISE), noise=options.depth_noise)
    depth_mm_HW = np.rint(np.clip(depth_m_HW * 1000, 1, 65535)).astype(np.uint16)
    if options.holes:
        depth_mm_HW[~answered(hits.depth_m_HW, shaded, 1 / view.pixel_rad, stream(HOLES))] = 0
    return Rendered(photograph(shaded.radiance_3HW, stream(PICTURE)), depth_mm_HW)


def choose_view(room: Room, rng: Generator, height: int, width: int) -> CameraView:
    """A camera pose with a good view of the room: the first random one with full merit, else the best."""
    poses = [_random_pose(room, rng) for _ in range(TRIES)]
    merits = []
    for pose in poses:
        merits.append(_merit(room, pose.view(PREVIEW_HEIGHT, PREVIEW_WIDTH)))
        if merits[-1] >= 1:
            break
    return poses[int(np.argmax(merits))].view(height, width)


class Pose(NamedTuple):
    """Position and direction of the camera."""

    position: Triple
    """In metres."""
    yaw: float
    """In radians; 0 looks along +y."""
    pitch: float
    """In radians; positive looks up."""
    roll: float
    """In radians."""

    def view(self, height: int, width: int) -> CameraView:
        """The view from this pose with this size."""
        return CameraView.posed(
            self.position, yaw=self.yaw, pitch=self.pitch, roll=self.roll, height=height, width=width
        )


def _random_pose(room: Room, rng: Generator) -> Pose:
    """A random pose at eye level, looking towards the inner part of the room and a little down."""
    x, y = (float(rng.uniform(0.3, side - 0.3)) for side in room.size[:2])
    to_x, to_y = (float(rng.uniform(0.2, 0.8) * side) for side in room.size[:2])
    yaw = atan2(x - to_x, to_y - y) + rng.normal(0, 0.2)
    return Pose((x, y, rng.uniform(0.8, 1.7)), yaw, rng.normal(-0.17, 0.12), rng.normal(0, 0.03))


def _merit(room: Room, preview: CameraView) -> float:
    """Quality of a view: 1 with the depths of an indoor data set, free space around the camera and furniture."""
    clearance_m = min(_distance_m(solid, preview.position_3) for solid in room.solids)
    if clearance_m < 0.3:
        return clearance_m - 0.3
    hits = cast(room, preview)
    near_m, median_m = np.percentile(hits.depth_m_HW, [2, 50])
    furnished = float((hits.solid_HW != SHELL).mean())
    return min(1.0, float(near_m) / 0.6, float(median_m) / 1.6, 4.2 / float(median_m), furnished / 0.35)


def _distance_m(solid: Solid, point_3: Vector) -> float:
    """Distance from a point to a solid's bounding box; 0 inside it."""
    outside_3 = np.abs(solid.axes_33 @ (point_3 - solid.centre_3)) - solid.half
    return float(np.linalg.norm(np.maximum(outside_3, 0)))
