"""What a run looked at for one point: ᾱ over L4's cells and the routed anchors (§6.3), for any components."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spd_bench.explore import overlays
from spd_bench.explore.overlays import Point
from spd_bench.explore.pictures import PictureSize

if TYPE_CHECKING:
    from spd_bench.ask.model import EncodedImage, RunModel

LAYERS = ("attention", "anchors")
"""What can be drawn, lowest first."""


@dataclass(frozen=True)
class LookedAt:
    """Attention and anchors of one point; None where the run has none."""

    attention_HW: npt.NDArray[np.float32] | None
    """Weight of each cell of L4."""
    anchors_xy_R2: npt.NDArray[np.float32] | None
    """Anchors in the unit square."""
    extent: tuple[float, float]
    """Part (x, y) of the image that L4 covers (R-05)."""


def look_inside(model: "RunModel", scene: "EncodedImage", point: Point) -> LookedAt:
    """Runs the decoder for one point (u, v) of an encoded image and keeps what lies between its blocks."""
    import torch

    from spd_bench.geometry import cell_centres, pixel_to_unit
    from spd_bench.model.compose import ComposedModel

    if not isinstance(model.network, ComposedModel):
        return LookedAt(None, None, (1.0, 1.0))
    with torch.inference_mode():
        xy_12 = pixel_to_unit(torch.tensor([point], dtype=torch.float64), width=scene.width, height=scene.height)
        state = model.network.trace(scene.prepared, xy_12.float()[None].to(model.device))
        l4 = scene.prepared.pyramid.l4
        attention_HW = anchors_xy_R2 = None
        if state.attention_BKS is not None:
            attention_HW = state.attention_BKS[0, 0].view(l4.height, l4.width).float().cpu().numpy()
        if state.anchors is not None:
            centre_S2 = cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=state.xy_BK2)
            anchors_xy_R2 = centre_S2[state.anchors.site_BKR[0, 0]].cpu().numpy()
        return LookedAt(attention_HW, anchors_xy_R2, l4.extent)


def drawn(seen: LookedAt, layers: tuple[str, ...], run: str, size: PictureSize) -> tuple[str, str]:
    """SVG of some of LAYERS, and a sentence about those that the run has not."""
    found = {"attention": seen.attention_HW, "anchors": seen.anchors_xy_R2}
    parts = []
    if "attention" in layers and seen.attention_HW is not None:
        parts.append(overlays.attention(seen.attention_HW, extent=seen.extent, **size))
    if "anchors" in layers and seen.anchors_xy_R2 is not None:
        parts.append(overlays.anchors(seen.anchors_xy_R2, **size))
    lacks = [name for name in layers if found[name] is None]
    return overlays.layers(parts), f"{run} has no {' and no '.join(lacks)}" if lacks else ""
