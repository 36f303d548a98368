"""What the frames of a training split look like: depths at random pixels, and the sizes of frames."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from spd_bench.api import DepthDataset
from spd_bench.data.randomness import generator

FRAMES, POINTS = 500, 256
"""How many training frames are read, at the most, and how many valid pixels of each."""


class TrainingSample(NamedTuple):
    """Evenly spaced training frames at random valid pixels; the same for every model on this data set."""

    depth_m_N: npt.NDArray[np.float32]
    """Depths in metres."""
    sizes: tuple[tuple[int, int], ...]
    """Every size (height, width) among these frames, in ascending order."""

    def extent(self) -> dict[str, Any]:
        """Sizes of frames and range of depths, in the form in which the record of a run has them."""
        low, median, high = np.quantile(self.depth_m_N, [0, 0.5, 1]).tolist()
        return {"sizes": [list(size) for size in self.sizes], "depth_m": {"min": low, "median": median, "max": high}}


def sample_training(data: DepthDataset) -> TrainingSample:
    """Reads a sample of the training split. Raises DataError for a frame that cannot be read."""
    frames = data.frames("train")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), FRAMES)).round().astype(int))
    points, sizes = [], set()
    for index in chosen:
        depth_m_HW = data.read(frames[index]).depth_m_HW
        valid_m_N = depth_m_HW[depth_m_HW > 0]
        rng = generator("prior", frames[index].frame)
        points.append(rng.choice(valid_m_N, size=min(POINTS, len(valid_m_N)), replace=False))
        sizes.add((int(depth_m_HW.shape[0]), int(depth_m_HW.shape[1])))
    return TrainingSample(np.concatenate(points).astype(np.float32), tuple(sorted(sizes)))
