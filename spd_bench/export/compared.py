"""Answers of an exported model beside those of its run, on images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.ask.model import RunModel
from spd_bench.ask.pictures import as_rgb
from spd_bench.errors import SpdError

COUNTS = (1, 2, 64, 300)
"""Numbers of points that are asked together."""
BOUND = 1e-4
"""Largest difference, as a share of the depth, that an export may have."""

Asked = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float64]], Any]
"""Depths of an image [H, W, 3] at points [N, 2] in pixels, by an exported model."""


class UnfaithfulExport(SpdError):
    """An exported model answers otherwise than its run."""

    exit_code = 4


@dataclass(frozen=True)
class Compared:
    """How far the answers of an exported model are from those of its run."""

    by: str
    """What computed them."""
    points: int
    """Points that were compared, over all images and numbers of points."""
    largest_m: float
    """Largest difference in metres."""
    median_m: float
    """Median difference in metres."""
    largest_share: float
    """Largest difference as a share of the run's depth."""

    def line(self) -> str:
        """For people."""
        return (
            f"{self.by}: {self.points} points, difference from the run at most {self.largest_m:.1e} m "
            f"({self.largest_share:.1e} of the depth), median {self.median_m:.1e} m"
        )


def compare(by: str, asked: Asked, model: RunModel, images: Sequence[Path]) -> Compared:
    """Asks both at the same random points of every image. Raises UnfaithfulExport for a difference beyond BOUND."""
    rng = np.random.default_rng(0)
    differences, shares = [], []
    for path in images:
        image_HW3 = as_rgb(path)
        scene = model.encode(image_HW3)
        for count in COUNTS:
            uv_N2 = rng.uniform(-0.5, np.array([scene.width, scene.height]) - 0.5, (count, 2))
            depth_m_N = model.depth(scene, uv_N2).astype(np.float64)
            differences.append(np.abs(np.asarray(asked(image_HW3, uv_N2), np.float64) - depth_m_N))
            shares.append(differences[-1] / np.abs(depth_m_N))
    off_N, share_N = np.concatenate(differences), np.concatenate(shares)
    found = Compared(by, len(off_N), float(off_N.max()), float(np.median(off_N)), float(share_N.max()))
    if not found.largest_share <= BOUND:
        raise UnfaithfulExport(
            f"{found.line()}; at most {BOUND:g} of the depth is accepted, nothing was exported",
            hint="please report it with the versions of torch and of the runtime",
        )
    return found
