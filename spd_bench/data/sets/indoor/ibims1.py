"""iBims-1: a hundred laser-scanned rooms to test on, with masks of invalid and transparent pixels."""

from pathlib import Path
from typing import Any

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder, pairs_in


class IBims1(PublishedFolder):
    """{rgb,depth,mask_invalid,mask_transp}/NAME.png, as in ibims1_core_raw; 65535 file units are 50 m. To test on."""

    about = "iBims-1"
    facts = "laser depth, registered to colour; pixels whose mask_invalid or mask_transp is 0 are unknown"
    scale = 65535 / 50

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Folders rgb, depth and mask_invalid side by side."""
        return all((Path(path) / name).is_dir() for name in ("rgb", "depth", "mask_invalid"))

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Every frame is a scene of its own."""
        masks = [root / name for name in ("mask_invalid", "mask_transp") if (root / name).is_dir()]
        return [
            FrameFiles(color.stem, color.stem, color, depth, "test", tuple(mask / depth.name for mask in masks))
            for color, depth in pairs_in(root / "rgb", root / "depth")
        ]
