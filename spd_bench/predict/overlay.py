"""A picture of depths: the image with the asked points, and beside it the dense map where there is one."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.store import files

LABELLED = 30
"""Points that get their depth written beside them, at the most."""
DPI, WIDTH_PX = 100, 900
COLOURS = "turbo_r"
"""Near is red, far is blue."""


def write_overlay(
    path: Path,
    image_HW3: npt.NDArray[np.uint8],
    uv_N2: npt.NDArray[np.float64],
    depth_m_N: npt.NDArray[np.float32],
    *,
    dense_m_HW: npt.NDArray[np.float32] | None,
    title: str,
) -> None:
    """Writes a PNG: points coloured by depth on the image, and the dense map in the same colours."""
    from matplotlib.figure import Figure

    height, width = image_HW3.shape[:2]
    panels = 1 if dense_m_HW is None else 2
    shown_in = WIDTH_PX / DPI
    figure = Figure(figsize=(shown_in * panels + 1, shown_in * height / width + 0.6), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    depths = np.concatenate([depth_m_N, *([] if dense_m_HW is None else [dense_m_HW.ravel()])])
    limits = {"vmin": float(depths.min()), "vmax": float(depths.max()), "cmap": COLOURS}
    axes[0].imshow(image_HW3)
    drawn: Any = None
    if len(uv_N2):
        size = 60 if len(uv_N2) <= LABELLED else max(4, 4000 / len(uv_N2))
        drawn = axes[0].scatter(*uv_N2.T, c=depth_m_N, s=size, edgecolors="white", linewidths=0.6, **limits)
    if len(uv_N2) <= LABELLED:
        box = {"boxstyle": "round,pad=0.2", "fc": "black", "ec": "none", "alpha": 0.6}
        for (u, v), depth_m in zip(uv_N2, depth_m_N, strict=True):
            axes[0].annotate(
                f"{depth_m:.2f} m", (u, v), xytext=(7, 7), textcoords="offset points", color="white", size=9, bbox=box
            )
    if dense_m_HW is not None:
        drawn = axes[1].imshow(dense_m_HW, **limits)
    for axis in axes:
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.set_axis_off()
    figure.colorbar(drawn, ax=list(axes), label="depth (m)", shrink=0.9)
    figure.suptitle(title, size=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    files.write_bytes(path, buffer.getvalue())
