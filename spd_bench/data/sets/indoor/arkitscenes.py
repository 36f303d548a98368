"""ARKitScenes, raw: colour and lidar depth of an iPad, in small frames of one size."""

from pathlib import Path
from typing import Any, Literal

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder
from spd_bench.data.sets.rgbd_layouts import nearest_stamps


class ARKitScenes(PublishedFolder):
    """{Training,Validation}/VIDEO/{lowres_wide,lowres_depth}/VIDEO_STAMP.png, millimetres; Validation is scored.

    lowres_wide and lowres_depth are 256×192; for others say color, depth and, where sizes differ, resize.
    """

    about = "ARKitScenes"
    facts = "depth along the axis, registered to colour; paired by time stamps; a video is a scene; splits by folder"

    class Config(PublishedFolder.Config):
        """Where the data set lies, and which of its sizes."""

        color: Literal["lowres_wide", "vga_wide", "wide"] = "lowres_wide"
        """Folder of colour."""
        depth: Literal["lowres_depth", "highres_depth"] = "lowres_depth"
        """Folder of depth: lidar, or the laser scanner's."""

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder Training/VIDEO/lowres_depth, or of Validation."""
        return any(next(Path(path).glob(f"{f}/*/lowres_depth"), None) for f in ("Training", "Validation"))

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Video by video."""
        found = []
        for folder, split in (("Training", "train"), ("Validation", "test")):
            for video in sorted((root / folder).glob("*")):
                color = {path.stem.rpartition("_")[2]: path for path in (video / config.color).glob("*.png")}
                depth = {path.stem.rpartition("_")[2]: path for path in (video / config.depth).glob("*.png")}
                for stamp, partner in nearest_stamps(list(color), list(depth)).items():
                    found.append(FrameFiles(f"{video.name}/{stamp}", video.name, color[stamp], depth[partner], split))
        return found
