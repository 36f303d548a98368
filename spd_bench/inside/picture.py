"""A picture of one point's inside: where it looked, and how much each group of tokens counted."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.errors import ConfigError
from spd_bench.inside.trace import Inside
from spd_bench.store import files

FORMS = (".png", ".svg")
COLOURS = ("#e6550d", "#3182bd", "#31a354", "#756bb1", "#636363")
"""Of the places that were read, one colour per kind."""


def check_form(path: Path) -> None:
    """Raises ConfigError for a file that is neither PNG nor SVG."""
    if path.suffix.lower() not in FORMS:
        raise ConfigError(f"expected a name that ends in {' or '.join(FORMS)}", where=str(path))


def write_picture(path: Path, image_HW3: npt.NDArray[np.uint8], inside: Inside, *, title: str) -> None:
    """Writes PNG or SVG, by the suffix of `path`: places read, attention over sites, shares of tokens."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    height, width = image_HW3.shape[:2]
    tall = 5.2 * min(2.0, max(0.5, height / width))
    figure = Figure(figsize=(15, tall + 1.2), dpi=100, layout="constrained")
    where, sites, bars = figure.subplots(1, 3, width_ratios=(1, 1, 0.75))
    _draw_places(where, image_HW3, inside)
    _draw_sites(sites, image_HW3, inside)
    _draw_shares(bars, inside)
    values = "".join(f"   {name} {value:.3g}" for name, value in inside.values.items())
    u, v = inside.point
    figure.suptitle(f"({u:g}, {v:g}): {inside.depth_m:.3f} m{values}\n{title}", size=10)
    buffer, form = io.BytesIO(), path.suffix.lower().removeprefix(".")
    with mpl.rc_context({"svg.hashsalt": "spd-bench"}):
        figure.savefig(buffer, format=form, metadata={"Software": None} if form == "png" else {"Date": None})
    files.write_bytes(path, buffer.getvalue())


def _draw_places(axis: Any, image_HW3: npt.NDArray[np.uint8], inside: Inside) -> None:
    """The image with everything that was read, larger where it weighs more, and the anchors as squares."""
    _show(axis, image_HW3, inside)
    for colour, (name, points) in zip(COLOURS * 4, inside.places.items(), strict=False):
        size_N, label = 1 + 14 * points[:, 2] / points[:, 2].max(), f"{name} ({len(points)})"
        axis.scatter(*points[:, :2].T, s=size_N, c=colour, alpha=0.6, linewidths=0, label=label)
    if len(inside.anchors):
        axis.scatter(
            *inside.anchors[:, :2].T,
            s=60,
            marker="s",
            facecolors="none",
            edgecolors="gold",
            linewidths=1.4,
            label=f"anchors ({len(inside.anchors)})",
        )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=2, fontsize=8, frameon=False)
    axis.set_title("read", size=10)


def _draw_sites(axis: Any, image_HW3: npt.NDArray[np.uint8], inside: Inside) -> None:
    """Attention over the sites of L4, on the image."""
    _show(axis, image_HW3, inside)
    if inside.attention is None:
        axis.set_title("no attention over sites", size=10)
        return
    height, width = image_HW3.shape[:2]
    share_x, share_y = inside.attention.covers
    extent = (-0.5, share_x * width - 0.5, share_y * height - 0.5, -0.5)
    weights = inside.attention.weights
    drawn = axis.imshow(weights, extent=extent, cmap="inferno", alpha=0.75, interpolation="nearest", zorder=1)
    axis.set_title(f"attention over {weights.shape[0]}×{weights.shape[1]} sites", size=10)
    axis.figure.colorbar(drawn, ax=axis, shrink=0.7)


def _draw_shares(axis: Any, inside: Inside) -> None:
    """A bar per layer, divided by group of tokens."""
    from matplotlib import colormaps

    layers = [(f"{slot}.{i + 1}", share) for slot, found in inside.shares.items() for i, share in enumerate(found)]
    groups = list(dict.fromkeys(name for _, share in layers for name in share))
    left = np.zeros(len(layers))
    for index, group in enumerate(groups):
        share = np.array([of_layer.get(group, 0.0) for _, of_layer in layers])
        axis.barh([name for name, _ in layers], share, left=left, label=group, color=colormaps["tab10"](index % 10))
        left += share
    axis.set(xlim=(0, 1))
    axis.set_title("share of attention by tokens" if layers else "no attention over tokens", size=10)
    if layers:
        axis.invert_yaxis()
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=8, frameon=False)


def _show(axis: Any, image_HW3: npt.NDArray[np.uint8], inside: Inside) -> None:
    height, width = image_HW3.shape[:2]
    axis.imshow(image_HW3, zorder=0)
    axis.plot(*inside.point, marker="+", color="cyan", markersize=14, markeredgewidth=2, zorder=3)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axis.set_axis_off()
