"""Scenes as figures of a page: the same test image by every shown row, side by side.

Each figure has the image with its scored points coloured by the base's signed error, the ground truth and, for each
row, its dense depth and its signed error. All maps of a figure share one scale.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_bench.pictures import colour
from spd_bench.pictures.choose import Contrast
from spd_bench.pictures.scene import PictureScene

POINT_RADIUS = 2
"""A scored point covers a square of 2·radius + 1 pixels."""


@dataclass(frozen=True)
class Panel:
    """One picture of a figure."""

    source: str
    """The picture as a data URI."""
    title: str
    """What it shows."""


@dataclass(frozen=True)
class Figure:
    """One test image: its panels and its caption."""

    caption: str
    """Which image this is, why it is shown and how colours read."""
    panels: Sequence[Panel]
    """The pictures, in the order in which they are read."""


def figures(scenes: Mapping[int, PictureScene], contrasts: Sequence[Contrast], base: str) -> list[Figure]:
    """A figure for each image of each contrast; an image that two contrasts share is drawn once, with both reasons."""
    reasons: dict[int, list[str]] = {}
    rows: dict[int, list[str]] = {}
    for contrast in contrasts:
        for which, index in contrast.images.items():
            reasons.setdefault(index, []).append(f"{which} image of {contrast.row} against {base}")
            rows.setdefault(index, [base])
            if contrast.row not in rows[index]:
                rows[index].append(contrast.row)
    return [_figure(scenes[index], rows[index], base, reasons[index]) for index in reasons if index in scenes]


def _figure(scene: PictureScene, rows: Sequence[str], base: str, reasons: Sequence[str]) -> Figure:
    drawn = {row: scene.renderings[row] for row in rows if row in scene.renderings}
    near_m, far_m = colour.depth_range([scene.truth_m_hw, *(rendering.depth_m_hw for rendering in drawn.values())])
    errors = {row: relative_error(rendering.depth_m_hw, scene.truth_m_hw) for row, rendering in drawn.items()}
    limit = colour.error_limit(errors.values())
    panels = []
    if base in drawn:
        shown = with_points(scene.image_rc3, scene.uv_P2, drawn[base].error_P, limit)
        panels.append(Panel(_uri(colour.jpeg(shown), "jpeg"), f"scored points by error of {base}"))
    panels.append(Panel(_uri(colour.png(colour.depth_colours(scene.truth_m_hw, near_m, far_m))), "ground truth"))
    for row, rendering in drawn.items():
        depth = colour.depth_colours(rendering.depth_m_hw, near_m, far_m)
        panels.append(Panel(_uri(colour.png(depth)), f"{row}: depth"))
        panels.append(Panel(_uri(colour.png(colour.error_colours(errors[row], limit))), f"{row}: error"))
    caption = (
        f"{scene.frame}: {'; '.join(reasons)}. Depth from {near_m:.2f} m (light) to {far_m:.2f} m (dark), logarithmic; "
        f"error (p − g) / g from −{limit:.0%} (purple, too near) to +{limit:.0%} (orange, too far); grey is unknown."
    )
    return Figure(caption, panels)


def level_panels(scene: PictureScene, row: str) -> list[Panel]:
    """The first three principal components of a row's four levels; empty for a row without a pyramid."""
    if row not in scene.renderings:
        return []
    levels = scene.renderings[row].levels
    return [
        Panel(_uri(colour.png(colours_hw3)), f"L{number}, {colours_hw3.shape[1]}×{colours_hw3.shape[0]} cells")
        for number, colours_hw3 in enumerate(levels, start=1)
    ]


def relative_error(depth_m_hw: NDArray[np.floating], truth_m_hw: NDArray[np.floating]) -> NDArray[np.float64]:
    """Signed relative error (p − g) / g, NaN where the truth is unknown: [h, w]."""
    known_hw = truth_m_hw > 0
    truth_hw = np.where(known_hw, truth_m_hw, np.nan).astype(np.float64)
    found: NDArray[np.float64] = (depth_m_hw - truth_hw) / truth_hw
    return found


def with_points(
    image_hw3: NDArray[np.uint8], uv_P2: NDArray[np.floating], error_P: NDArray[np.floating], limit: float
) -> NDArray[np.uint8]:
    """The image, dimmed, with a square at each point in the colour of its error: [h, w, 3]."""
    height, width = image_hw3.shape[:2]
    out_hw3 = (image_hw3 * 0.6).round().astype(np.uint8)
    colours_P3 = colour.error_colours(error_P, limit)
    centre_P2 = np.floor(uv_P2).astype(np.intp)
    for du in range(-POINT_RADIUS, POINT_RADIUS + 1):
        for dv in range(-POINT_RADIUS, POINT_RADIUS + 1):
            u, v = centre_P2[:, 0] + du, centre_P2[:, 1] + dv
            inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
            out_hw3[v[inside], u[inside]] = colours_P3[inside]
    return out_hw3


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
