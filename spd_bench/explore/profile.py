"""Depth along a line that is drawn: the points, the true depth under them, and the chart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.explore.overlays import Point
from spd_bench.explore.pictures import Picture

MOST_POINTS = 256
"""Points along a line, at the most."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colours, which differ for everybody; one for each run."""
GREY = "#888888"
"""Seen on light and on dark pages."""


@dataclass(frozen=True)
class DepthProfile:
    """Depths along a line."""

    along_px_N: npt.NDArray[np.float64]
    """Distance from the line's start in pixels."""
    truth_m_N: tuple[float | None, ...] | None
    """True depth in metres, None where unknown; None without any truth."""
    depth_m_N: Mapping[str, npt.NDArray[np.float32]]
    """Run → depth in metres."""


def points_along(start: Point, end: Point) -> npt.NDArray[np.float64]:
    """Points (u, v) from start to end, evenly spaced: one per pixel of the line's length, between 2 and MOST_POINTS."""
    length_px = math.dist(start, end)
    count = min(max(2, math.ceil(length_px) + 1), MOST_POINTS)
    uv_N2: npt.NDArray[np.float64] = np.linspace(start, end, count)
    return uv_N2


def distances(uv_N2: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance of each point from the first in pixels."""
    along_px_N: npt.NDArray[np.float64] = np.hypot(*(uv_N2 - uv_N2[0]).T)
    return along_px_N


def truth_along(picture: Picture, uv_N2: npt.NDArray[np.float64]) -> tuple[float | None, ...] | None:
    """True depth in metres at the points; None for a picture without any."""
    return None if picture.truth_m_HW is None else tuple(picture.truth_m(u, v) for u, v in uv_N2.tolist())


def chart(profile: DepthProfile, colours: Mapping[str, str]) -> dict[str, Any]:
    """Options of the chart (ECharts): one line per run, and the truth as a dashed one; the page's CSS colours texts."""
    series = [
        _line(name, profile.along_px_N, depth_m_N, colours[name]) for name, depth_m_N in profile.depth_m_N.items()
    ]
    if profile.truth_m_N is not None:
        truth = _line("truth", profile.along_px_N, profile.truth_m_N, GREY)
        series.append(truth | {"lineStyle": {"type": "dashed", "width": 2, "color": GREY}})
    return {
        "animation": False,
        "tooltip": {"trigger": "axis", "confine": True},
        "legend": {"type": "scroll", "top": 0},
        "grid": {"left": 46, "right": 16, "top": 34, "bottom": 40},
        "xAxis": _axis("pixels along the line", gap=24)
        | {"max": round(float(profile.along_px_N[-1]), 1), "axisLabel": {"showMaxLabel": False}},
        "yAxis": _axis("depth (m)", gap=32) | {"scale": True},
        "series": series,
    }


def _line(
    name: str, along_px_N: npt.NDArray[np.float64], depth_m_N: Sequence[float | None] | npt.NDArray[Any], colour: str
) -> dict[str, Any]:
    data = [
        [round(along_px, 1), None if depth_m is None else round(float(depth_m), 4)]
        for along_px, depth_m in zip(along_px_N.tolist(), depth_m_N, strict=True)
    ]
    drawn = {"color": colour, "itemStyle": {"color": colour}, "lineStyle": {"color": colour, "width": 2}}
    return {"type": "line", "name": name, "showSymbol": False, "connectNulls": False, "data": data} | drawn


def _axis(name: str, *, gap: int) -> dict[str, Any]:
    line = {"lineStyle": {"color": GREY}}
    faint = {"lineStyle": {"color": GREY, "opacity": 0.3}}
    return {
        "type": "value",
        "name": name,
        "nameLocation": "middle",
        "nameGap": gap,
        "axisLine": line,
        "splitLine": faint,
    }
