"""Depth sets as Ultralytics trains on: images/{train,val,test} beside depth/{train,val,test}."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.data.reading.frames import read_depth_m
from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder, pairs_in


class UltralyticsDepth(PublishedFolder):
    """images/SPLIT/NAME.jpg with depth/SPLIT/NAME.png (16 bits) or NAME.npy (float32 metres).

    The folder `val` is scored; where there is no folder `test`, a tenth of `train` serves for model choice.
    """

    about = "Ultralytics depth set"
    facts = "0 and what is not finite is unknown; depth registered to colour; splits by folder"

    class Config(PublishedFolder.Config):
        """Where the data set lies, and its unit."""

        depth_scale: Annotated[float, Field(gt=0)] | None = None
        """PNG units in one metre, `depth_scale` of its YAML file; assumed to be 1000 if it is not given."""

    def __init__(self, config: Config) -> None:
        self.units_per_metre = config.depth_scale or 1000.0
        super().__init__(config)
        if config.depth_scale is None and any(row.depth.suffix == ".png" for row in self._rows.values()):
            self.assumed = "the unit of PNG depth, 1000 per metre; another: --option depth_scale=N"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """images/train and depth/train, or val."""
        return any((Path(path) / kind / split).is_dir() and (Path(path) / "depth" / split).is_dir()
                   for kind in ("images",) for split in ("train", "val"))  # fmt: skip

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """By folder; PNG before .npy of the same name."""
        has_test = (root / "images" / "test").is_dir()
        found = {}
        for folder in ("train", "val", "test"):
            split = "test" if folder == "val" and not has_test else folder
            for suffix in (".npy", ".png"):
                for color, depth in pairs_in(root / "images" / folder, root / "depth" / folder, suffix):
                    found[f"{folder}/{color.stem}"] = FrameFiles(
                        f"{folder}/{color.stem}", color.stem, color, depth, split
                    )
        return list(found.values())

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """Metres from either kind of file."""
        scale = 1.0 if row.depth.suffix == ".npy" else float(self.units_per_metre or 1000)
        return read_depth_m(row.depth, scale=scale, invalid=self.invalid)

    def describe(self) -> str:
        """As for every layout, and whether the unit is assumed."""
        said = f"; PNG {self.units_per_metre:g} units per metre"
        return super().describe() + said + (" ASSUMED, another: --option depth_scale=N" if self.assumed else "")
