"""7-Scenes with its published splits, and with depth registered to colour.

The published depth is that of the depth camera. It is moved by the calibration that re-localisation works use for this
data set: focal lengths 585 (depth) and 525 (colour) pixels, and the transformation below.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder

DEPTH_FOCAL, COLOR_FOCAL = 585.0, 525.0
ROTATION_33 = np.array(
    [
        [0.99996518012567637, 0.0026765126468950343, -0.0079041012313000904],
        [-0.0027409311281316700, 0.99996302803027592, -0.0081504520778013286],
        [0.0078819942130445332, 0.0081718328771890631, 0.99993554558014031],
    ]
)
SHIFT_M = np.array([-0.025558943178152542, 0.00010109636268061706, 0.0020318321729487039])


class SevenScenes(PublishedFolder):
    """SCENE/seq-NN/frame-NNNNNN.{color.png,depth.png}, with TrainSplit.txt and TestSplit.txt in SCENE.

    Asked for by name: a folder of frames alone is read by rgbd_folder, depth as it is.
    """

    about = "7-Scenes"
    invalid = (0, 65535)

    class Config(PublishedFolder.Config):
        """Where the data set lies, and whether depth is registered."""

        register_depth: bool = True
        """Move depth to the view of the colour camera."""

    @property
    def facts(self) -> str:  # type: ignore[override]
        """What was done to depth."""
        how = "registered to colour by a calibration" if self.config.register_depth else "not registered to colour"
        return f"depth along the axis, {how}; sequences are scenes; splits of the authors where they lie there"

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Sequence by sequence, those of TestSplit.txt to score."""
        found = []
        for color in sorted(root.rglob("frame-*.color.*")):
            depth = next(iter(color.parent.glob(color.name.split(".")[0] + ".depth.png")), None)
            if depth is not None:
                sequence = color.parent.relative_to(root).as_posix()
                name = f"{sequence}/{color.name.split('.')[0]}".removeprefix("./")
                found.append(FrameFiles(name, sequence, color, depth, _split(color.parent)))
        return found

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """Depth of the colour camera's pixels, or the file's."""
        depth_m_HW = super().depth_m(row)
        return registered(depth_m_HW) if self.config.register_depth else depth_m_HW


def _split(sequence: Path) -> str | None:
    number = re.fullmatch(r"seq-0*(\d+)", sequence.name)
    for file, split in (("TrainSplit.txt", "train"), ("TestSplit.txt", "test")):
        listing = sequence.parent / file
        if number is not None and listing.is_file():
            listed = re.findall(r"\d+", listing.read_text("utf-8", errors="replace"))
            if number[1] in {each.lstrip("0") for each in listed}:
                return split
    return None


def registered(depth_m_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Depth as the colour camera sees it: every known pixel moved, the nearest one kept where several meet."""
    height, width = depth_m_HW.shape
    v, u = np.nonzero(depth_m_HW)
    z_N = depth_m_HW[v, u].astype(np.float64)
    centre = np.array([width / 2, height / 2])
    points_N3 = np.stack([(u - centre[0]) * z_N / DEPTH_FOCAL, (v - centre[1]) * z_N / DEPTH_FOCAL, z_N], axis=1)
    moved_N3 = points_N3 @ ROTATION_33.T + SHIFT_M
    x = np.rint(moved_N3[:, 0] * COLOR_FOCAL / moved_N3[:, 2] + centre[0]).astype(int)
    y = np.rint(moved_N3[:, 1] * COLOR_FOCAL / moved_N3[:, 2] + centre[1]).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = np.argsort(-moved_N3[inside, 2], kind="stable")  # the nearest is written last
    found_HW = np.zeros_like(depth_m_HW)
    found_HW[y[inside][order], x[inside][order]] = moved_N3[inside, 2][order]
    return found_HW
