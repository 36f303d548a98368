"""What a model says of a test image, as arrays: dense depth by querying a grid of pixels, errors, the four levels."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from spd_bench.api import Features, PointDepthModel, Scene
from spd_bench.data.batches import ScoredImage, unit_points
from spd_bench.data.resizing import unit_range
from spd_bench.pictures.colour import component_colours
from spd_bench.pictures.scene import PictureScene, Rendering

PHOTO_COLUMNS = 320
"""Most pixels in a row of the photograph that scored points are drawn on."""


class Grid(NamedTuple):
    """The pixels of a frame that a dense rendering queries: every `step`-th, in the middle of its square."""

    step: int
    """Pixels from one column or row of the grid to the next."""
    u_w: NDArray[np.intp]
    """Columns of the frame."""
    v_h: NDArray[np.intp]
    """Rows of the frame."""

    @classmethod
    def of(cls, height: int, width: int, *, columns: int) -> "Grid":
        """The grid over a frame with at most `columns` queries in a row."""
        step = max(1, -(-width // columns))
        first = step // 2
        return cls(step, np.arange(min(first, width - 1), width, step), np.arange(min(first, height - 1), height, step))

    def pixels(self) -> NDArray[np.intp]:
        """Its pixels (u, v), row by row: [h·w, 2]."""
        v_hw, u_hw = np.meshgrid(self.v_h, self.u_w, indexing="ij")
        return np.stack([u_hw.ravel(), v_hw.ravel()], axis=-1)


def picture_scene(image: ScoredImage, depth_m_HW: NDArray[np.floating], *, columns: int) -> PictureScene:
    """A test image without renderings: a small photograph, the scored points of draw 0, and the truth on the grid."""
    height, width = depth_m_HW.shape
    grid = Grid.of(height, width, columns=columns)
    size = min(width, PHOTO_COLUMNS), round(height * min(width, PHOTO_COLUMNS) / width)
    shown_3HW = (unit_range(image.image_3HW).clamp(0, 1) * 255).round().to(torch.uint8)
    small = Image.fromarray(shown_3HW.permute(1, 2, 0).numpy())
    small = small.resize(size, Image.Resampling.BICUBIC)
    return PictureScene(
        frame=image.frame.frame,
        image_rc3=np.array(small),
        truth_m_hw=depth_m_HW[np.ix_(grid.v_h, grid.u_w)].astype(np.float32),
        uv_P2=((image.uv_img_P2[image.draw_P == 0] + 0.5) * (size[0] / width)).astype(np.float32),
        renderings={},
    )


@torch.inference_mode()
def rendering(
    model: PointDepthModel,
    features: Features,
    image: ScoredImage,
    depth_m_HW: NDArray[np.floating],
    *,
    columns: int,
    levels: bool,
) -> Rendering:
    """The model's dense depth on the grid, its errors at the scored points of draw 0 and, if asked for, its levels.

    features: of this image alone. A GT-aligned model is fitted to the image first, as when it is scored.
    """
    device = features.maps_BHWC[0].device
    scene = model.prepare(features)
    if model.gt_aligned:
        model.fit_alignment(scene, image.valid_xy_V2[None].to(device), image.valid_depth_m_V[None].to(device))
    grid = Grid.of(*depth_m_HW.shape, columns=columns)
    grid_xy_Q2 = unit_points(grid.pixels(), depth_m_HW)
    dense_m_Q = model.decode(scene, grid_xy_Q2[None].to(device))[0].float().cpu().numpy()
    first = image.draw_P == 0
    scored_m_P = model.decode(scene, image.xy_P2[torch.from_numpy(first)][None].to(device))[0].float().cpu().numpy()
    truth_m_P = image.truth_m_P[first]
    return Rendering(
        depth_m_hw=dense_m_Q.reshape(len(grid.v_h), len(grid.u_w)),
        error_P=((scored_m_P - truth_m_P) / truth_m_P).astype(np.float32),
        levels=_levels(scene) if levels else (),
    )


def _levels(scene: Any) -> tuple[NDArray[np.uint8], ...]:
    """Principal components of L1 to L4; nothing for a model without a pyramid."""
    if not isinstance(scene, Scene):
        return ()
    pyramid = scene.pyramid
    maps = (pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4)
    return tuple(component_colours(level.map_BHWC[0].float().cpu().numpy()) for level in maps)
