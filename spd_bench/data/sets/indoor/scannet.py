"""ScanNet as its exporter writes it: color, depth, pose and intrinsic in each scan's folder."""

import re
from pathlib import Path
from typing import Any

from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder, pairs_in


class ScanNetExport(PublishedFolder):
    """sceneNNNN_NN/{color/N.jpg, depth/N.png, pose, intrinsic}, at any depth; colour 1296×968, depth 640×480.

    Colour and depth show nearly the same view in two sizes: --option resize=color brings colour to the size of depth.
    """

    about = "ScanNet export"
    facts = "depth along the axis, registered to colour but for its size; scans of one room are one scene"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """Folders color, depth, pose and intrinsic side by side."""
        return any(_is_scan(scan) for scan in _scans(Path(path)))

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Scan by scan; sceneNNNN_01 and sceneNNNN_00 are of one room."""
        found = []
        for scan in filter(_is_scan, _scans(root)):
            name = scan.relative_to(root).as_posix() if scan != root else scan.name
            scene = re.sub(r"_\d\d$", "", scan.name)
            pairs = pairs_in(scan / "color", scan / "depth")
            found += [FrameFiles(f"{name}/{color.stem}", scene, color, depth) for color, depth in pairs]
        return found


def _scans(root: Path) -> list[Path]:
    return [root, *(path for path in root.glob("*") if path.is_dir()), *(p.parent for p in root.glob("*/*/color"))]


def _is_scan(path: Path) -> bool:
    return all((path / name).is_dir() for name in ("color", "depth", "pose", "intrinsic"))
