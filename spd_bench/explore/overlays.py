"""What is drawn over the picture, as SVG in pixels of the image: its viewBox is 0 0 width height.

A pixel's centre (u, v) lies at (u + ½, v + ½) there (R-03). Only numbers go into the text.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

SHADES = 4
"""Steps of opacity in which samples are drawn, one path each."""
STRONGEST = 0.6
"""Opacity of the cell with the largest weight: the picture stays visible below it."""
FAINTEST = 0.02
"""Cells with less than this share of the largest weight are not drawn."""

Point = tuple[float, float]


def marker(point: Point, *, width: int, height: int) -> str:
    """A ring with a dot at a point (u, v)."""
    x, y = _place(point)
    radius = _unit(width, height)
    return (
        f'<g class="point"><circle cx="{x}" cy="{y}" r="{_short(2.2 * radius)}" class="ring"/>'
        f'<circle cx="{x}" cy="{y}" r="{_short(0.5 * radius)}" class="dot"/></g>'
    )


def line(start: Point, end: Point, *, width: int, height: int) -> str:
    """A line between two points (u, v), with a disc at its start."""
    (x1, y1), (x2, y2) = _place(start), _place(end)
    radius = _short(_unit(width, height))
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return (
        f'<g class="line"><line {ends} class="under"/><line {ends} class="over"/>'
        f'<circle cx="{x1}" cy="{y1}" r="{radius}"/><circle cx="{x2}" cy="{y2}" r="{radius}" class="end"/></g>'
    )


def attention(weight_HW: npt.NDArray[np.floating], *, extent: tuple[float, float], width: int, height: int) -> str:
    """Cells of a map that covers `extent` (x, y) of the image (R-05), as opaque as their weight is large."""
    rows, columns = weight_HW.shape
    cell_x, cell_y = extent[0] * width / columns, extent[1] * height / rows
    share_HW = _share(weight_HW)
    cells = [
        f'<rect x="{_short(column * cell_x)}" y="{_short(row * cell_y)}" width="{_short(cell_x)}" '
        f'height="{_short(cell_y)}" opacity="{_short(STRONGEST * share_HW[row, column])}"/>'
        for row, column in zip(*np.nonzero(share_HW >= FAINTEST), strict=True)
    ]
    return f'<g class="attention">{"".join(cells)}</g>'


def samples(
    uv_N2: npt.NDArray[np.floating], weight_N: npt.NDArray[np.floating], *, colour: str, width: int, height: int
) -> str:
    """A dot at each point (u, v), in SHADES steps of opacity by its weight; none outside the image."""
    inside_N = ((uv_N2 >= -0.5) & (uv_N2 <= [width - 0.5, height - 0.5])).all(axis=1)
    shade_N = np.minimum((_share(weight_N) * SHADES).astype(int), SHADES - 1)
    paths = []
    for shade in range(SHADES):
        chosen_N2 = uv_N2[inside_N & (shade_N == shade)] + 0.5
        if len(chosen_N2):  # a line of no length with round ends is a dot
            dots = "".join(f"M{_short(x)} {_short(y)}h0" for x, y in chosen_N2.tolist())
            paths.append(f'<path d="{dots}" opacity="{_short((shade + 1) / SHADES)}"/>')
    return f'<g class="samples" stroke="{colour}">{"".join(paths)}</g>'


def anchors(uv_R2: npt.NDArray[np.floating], *, width: int, height: int) -> str:
    """A diamond at each point (u, v)."""
    size = 0.9 * _unit(width, height)
    shapes = [
        f"M{_short(u + 0.5)} {_short(v + 0.5 - size)}l{_short(size)} {_short(size)} "
        f"{_short(-size)} {_short(size)} {_short(-size)} {_short(-size)}z"
        for u, v in uv_R2.tolist()
    ]
    return f'<path class="anchors" d="{"".join(shapes)}"/>'


def layers(parts: Iterable[str]) -> str:
    """All that is drawn, the first part lowest."""
    return "".join(parts)


def _share(weight: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Weights as shares of the largest; all 0 where there is none."""
    largest = float(weight.max())
    return weight.astype(np.float64) / largest if largest > 0 else np.zeros(weight.shape)


def _unit(width: int, height: int) -> float:
    """A length that looks alike on images of all sizes."""
    return max(width, height) / 130


def _place(point: Point) -> Sequence[str]:
    return [_short(coordinate + 0.5) for coordinate in point]


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
