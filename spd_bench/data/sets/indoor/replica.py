"""Replica as rendered for SLAM: frames and depth of a walk through each room."""

from pathlib import Path
from typing import Any

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder


class Replica(PublishedFolder):
    """ROOM/results/{frameNNNNNN.jpg, depthNNNNNN.png}, 6553.5 file units in one metre."""

    about = "Replica (rendered walks)"
    truth = "rendered"
    facts = "depth along the axis, registered to colour; 0 is outside of the mesh; a room is a scene"
    scale = 6553.5

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Files results/frameNNNNNN.jpg and results/depthNNNNNN.png."""
        return any(next(Path(path).glob(f"{above}results/depth*.png"), None) for above in ("", "*/"))

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Room by room."""
        found = []
        for above in ("", "*/"):
            for depth in sorted(root.glob(f"{above}results/depth*.png")):
                color = depth.with_name(depth.name.replace("depth", "frame").replace(".png", ".jpg"))
                room = depth.parents[1].name
                if color.is_file():
                    found.append(FrameFiles(f"{room}/{color.stem.removeprefix('frame')}", room, color, depth))
        return found
