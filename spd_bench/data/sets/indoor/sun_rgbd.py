"""SUN RGB-D: one folder for each frame; depth is stored with its bits rotated."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spd_bench.data.reading.depth_files import read_values
from spd_bench.data.reading.frames import metres
from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder
from spd_bench.errors import DataError


class SUNRGBD(PublishedFolder):
    """SENSOR/SET/.../FRAME/{image/*.jpg, depth/*.png, depth_bfx/*.png}; millimetres, bits rotated by three.

    Frames of NYU Depth V2 are part of it (kv1/NYUdata): a model trained here has seen NYU's test images.
    """

    about = "SUN RGB-D"
    facts = (
        "depth along the axis, registered to colour, bits rotated back by three; each frame its own scene; holds "
        "frames of NYU Depth V2's test split"
    )

    class Config(PublishedFolder.Config):
        """Where the data set lies, and which depth."""

        depth: Literal["raw", "filled"] = "raw"
        """raw: depth, as the sensor gave it; filled: depth_bfx, in-painted."""

    def __init__(self, config: Config) -> None:
        self.truth = config.depth
        super().__init__(config)

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Folders image, depth and depth_bfx side by side, up to five levels down."""
        found = (each for level in range(6) for each in Path(path).glob("*/" * level + "depth_bfx"))
        return any((each.parent / "image").is_dir() for each in found)

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """One row for each frame's folder."""
        found = []
        for image in sorted(root.rglob("image")):
            folder = image.parent
            colors = sorted(image.glob("*.jpg"))
            depths = sorted((folder / ("depth" if config.depth == "raw" else "depth_bfx")).glob("*.png"))
            if len(colors) == 1 and len(depths) == 1:
                name = folder.relative_to(root).as_posix()
                found.append(FrameFiles(name, name, colors[0], depths[0]))
        return found

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """Bits rotated back, millimetres to metres."""
        stored_HW = read_values(row.depth)
        if stored_HW.dtype != np.uint16:
            raise DataError(f"expected 16-bit depth, found {stored_HW.dtype}", where=str(row.depth))
        return metres((stored_HW >> 3) | (stored_HW << 13), scale=self.scale, invalid=self.invalid)
