"""DIODE: a colour image, an array of depth and an array of valid pixels for each frame."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder
from spd_bench.errors import DataError


class DIODE(PublishedFolder):
    """{train,val}/{indoors,outdoor}/scene_N/scan_N/NAME.png with NAME_depth.npy (metres) and NAME_depth_mask.npy.

    The folder `val` is scored; a tenth of the training scenes serves for model choice.
    """

    about = "DIODE"
    facts = "laser depth as published, registered to colour; pixels whose mask is 0 are unknown; splits by folder"
    scale = 1

    class Config(PublishedFolder.Config):
        """Where the data set lies, and which part of it."""

        outdoor: bool = False
        """Take the outdoor scenes too, up to 300 m away."""

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A file val/indoors/scene_N/scan_N/NAME_depth.npy, or of train."""
        return any(next(Path(path).glob(f"{s}/*/scene_*/scan_*/*_depth.npy"), None) for s in ("val", "train"))

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """By folder; a scene is a place, with several scans."""
        found = []
        for folder, split in (("train", "train"), ("val", "test")):
            for part in ("indoors", "outdoor") if config.outdoor else ("indoors",):
                for depth in sorted((root / folder / part).glob("scene_*/scan_*/*_depth.npy")):
                    color = depth.with_name(depth.name.replace("_depth.npy", ".png"))
                    mask = depth.with_name(depth.name.replace("_depth.npy", "_depth_mask.npy"))
                    if color.is_file() and mask.is_file():
                        name = color.relative_to(root).with_suffix("").as_posix()
                        found.append(FrameFiles(name, depth.parents[1].name, color, depth, split, (mask,)))
        return found

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """The array without its third axis of length one."""
        try:
            stored = np.load(row.depth, allow_pickle=False)
        except Exception as error:
            raise DataError(f"expected an array, found a damaged file ({error})", where=str(row.depth)) from error
        if stored.dtype != np.float32 or stored.ndim not in (2, 3) or (stored.ndim == 3 and stored.shape[2] != 1):
            raise DataError(f"expected float32 [H, W, 1], found {stored.dtype} {stored.shape}", where=str(row.depth))
        depth_m_HW: npt.NDArray[np.float32] = stored.reshape(stored.shape[:2])
        return np.where(np.isfinite(depth_m_HW) & (depth_m_HW > 0), depth_m_HW, np.float32(0))
