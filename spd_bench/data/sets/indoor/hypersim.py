"""Hypersim: rendered rooms. Its `depth_meters` is the distance to the camera and becomes depth along its axis."""

import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.data.reading.hdf5 import open_hdf5, own_dataset, reading
from spd_bench.data.sets.indoor.base import FrameFiles, PublishedFolder
from spd_bench.errors import DataError


class Hypersim(PublishedFolder):
    """ai_VVV_NNN/images/scene_cam_NN_{final_preview/frame.N.tonemap.jpg, geometry_hdf5/frame.N.depth_meters.hdf5}.

    z = d · f / √(f² + x² + y²) with the camera's focal length f and a pixel's place (x, y) from the image centre.
    """

    about = "Hypersim"
    truth = "rendered"
    facts = "distance to the camera's centre turned into depth along its axis; NaN is unknown; a volume is a scene"
    scale = 1

    class Config(PublishedFolder.Config):
        """Where the data set lies, and its camera."""

        field_of_view_deg: Annotated[float, Field(gt=0, lt=180)] = 60.0
        """Horizontal angle of view. 60° is 886.81 pixels at 1024; a few scenes have cameras of their own."""

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder ai_VVV_NNN/images/scene_cam_NN_geometry_hdf5."""
        return next(Path(path).glob("ai_*/images/scene_cam_*_geometry_hdf5"), None) is not None

    @classmethod
    def rows(cls, root: Path, config: Any) -> list[FrameFiles]:
        """Every frame with a tone-mapped preview."""
        found = []
        for depth in sorted(root.glob("ai_*/images/scene_cam_*_geometry_hdf5/frame.*.depth_meters.hdf5")):
            preview = depth.parent.with_name(depth.parent.name.replace("geometry_hdf5", "final_preview"))
            color = preview / depth.name.replace("depth_meters.hdf5", "tonemap.jpg")
            if color.is_file():
                scene, camera = depth.parents[2].name, depth.parent.name.removesuffix("_geometry_hdf5")
                volume = re.sub(r"_\d+$", "", scene)
                found.append(FrameFiles(f"{scene}/{camera}/{depth.name.split('.')[1]}", volume, color, depth))
        return found

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """Depth along the axis from the distances in the file."""
        where = str(row.depth)
        with reading("dataset", where):
            distance_HW = np.asarray(own_dataset(open_hdf5(row.depth), "dataset", where)[()], np.float32)
        if distance_HW.ndim != 2:
            raise DataError(f"expected distances [H, W], found {distance_HW.shape}", where=where)
        height, width = distance_HW.shape
        focal = width / 2 / np.tan(np.radians(self.config.field_of_view_deg) / 2)
        x = np.arange(width) + 0.5 - width / 2
        y = np.arange(height) + 0.5 - height / 2
        along = focal / np.sqrt(focal**2 + x[None] ** 2 + y[:, None] ** 2)
        depth_m_HW = (distance_HW * along).astype(np.float32)
        return np.where(np.isfinite(depth_m_HW) & (depth_m_HW > 0), depth_m_HW, np.float32(0))
