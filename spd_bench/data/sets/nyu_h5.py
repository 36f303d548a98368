"""NYU Depth V2 as the sparse-to-dense and FastDepth family keeps it: one small HDF5 file per frame (§7.1, R-20, R-24).

    train/<recording>/NNNNN.h5      47,584 frames, depth as the sensor saw it
    val/official/NNNNN.h5           the 654 Eigen test frames by their 1-based labelled index, depth filled

Each holds `rgb` (3, H, W) uint8 and `depth` (H, W) float32 metres. The same files come as tar shards, train-NNNNNN.tar
and val-NNNNNN.tar; these are read in place. What this family calls "val" is everybody's test split.

Letters: H W rows and columns of a frame, 3 red, green, blue.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.archives import Span, first_tar_members
from spd_bench.data.reading.hdf5 import DAMAGED, open_hdf5, own_array, own_dataset, reading
from spd_bench.data.sets.nyu_layouts import SIZE, check_truth, counts, files_in, labelled_frame, nyu_frame, split_frames
from spd_bench.data.sets.nyu_scenes import scene_of_folder
from spd_bench.errors import DataError

FOLDERS = ("train", "val")
MEMBER = re.compile(r"(?:.*/)?(?:train/(?P<recording>[^/]+)|val/official)/(?P<number>\d{5})\.h5")
FLOAT16_STEPS = "float16 depth has steps of 4 mm from 4 m on and of 8 mm from 8 m on"


class NYUH5(DepthDataset):
    """The training recordings and the 654 test frames of the Eigen split, from a folder tree or from tar shards.

    `val` is a fixed, scene-disjoint tenth of the training scenes (`nyu_scenes.is_validation_scene`). Test depth is
    filled, training depth is not. Without training files it is a data set of test frames alone.
    """

    truth = "filled"
    places = frozenset({"root"})

    class Config(ComponentConfig):
        """Where the files lie, and whether depth of half precision will do."""

        root: str = Field(default_factory=lambda: os.environ.get("NYU_H5_ROOT", "./data/nyudepthv2"))
        """Folder with train/ and val/official/, or with the tar shards, or one tar; default: environment variable
        NYU_H5_ROOT, else ./data/nyudepthv2."""
        allow_float16: bool = False
        """Take copies whose depth was stored in float16, with steps of 4 to 8 mm beyond 4 m."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root or NYU_H5_ROOT")
        self._files: dict[str, Span] = {}
        found: dict[str, list[FrameId]] = {"train": [], "test": []}
        for span in files_in(Path(config.root), _tars(Path(config.root)), FOLDERS):
            if match := MEMBER.fullmatch(span.name):
                frame = _identify(match, span)
                found["train" if match["recording"] else "test"].append(frame)
                self._keep(frame, span)
        by_name = (sorted(frames, key=lambda frame: frame.frame) for frames in found.values())
        self._frames = split_frames(*by_name, where=config.root)
        self._half = [split for split, frames in self._frames.items() if frames and self._read(frames[0])[1]]
        first = self._frames["test"][0]
        hint = "val/official holds filled depth as published; for raw depth use nyu_eigen or nyu_bts"
        check_truth(self.read(first).depth_m_HW, self.truth, str(self._files[first.frame]), hint=hint)

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Whether neither the test folder nor a shard of it is there, and where they come from."""
        root = Path(config.root)
        if root.is_file() or (root / "val" / "official").is_dir() or any(root.glob("val-*.tar")):
            return None
        return (
            f"{root} has neither val/official/ nor val-*.tar: the HDF5 frames come from the sparse-to-dense and "
            "FastDepth projects (nyudepthv2.tar.gz, to be unpacked), the shards from copies of them on data hubs"
        )

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder with val/official/*.h5 or with a shard of such files, or a tar of them."""
        place = Path(path)
        tars = [place] if place.is_file() else sorted(place.glob("val-*.tar"))[:1]
        packed = [name for tar in tars for name in first_tar_members(tar, 8)]
        return any(map(MEMBER.fullmatch, packed)) or any((place / "val" / "official").glob("*.h5"))

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, by name."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read, has another form or fails the unit gate."""
        return self._read(frame)[0]

    def digest(self) -> str:
        """SHA-256 over names, scenes, splits and file sizes; where the files lie and tars around them do not enter."""
        rows = (
            f"{split} {frame.frame} {frame.scene} {self._files[frame.frame].size}"
            for split, frames in self._frames.items()
            for frame in frames
        )
        return key_digest("nyu_h5", self.version, *rows).hex()

    def describe(self) -> str:
        """Counts per split, the kinds of depth, and where its precision was lost or may be."""
        trained = ", training depth raw" if self._frames["train"] else ""
        allowed = "; allow_float16, which no split needs" if self.config.allow_float16 else ""
        lost = f"; {FLOAT16_STEPS} (found in {', '.join(self._half)})" if self._half else allowed
        return (
            f"NYU Depth V2 HDF5 frames (sparse-to-dense family), Eigen test split: {counts(self._frames)}; "
            f"test depth filled{trained}{lost}"
        )

    def _keep(self, frame: FrameId, span: Span) -> None:
        kept = self._files.setdefault(frame.frame, span)
        if kept is not span:
            raise DataError(
                f"frame {frame.frame} is there twice, as {kept} too",
                where=str(span),
                hint="keep either the shards or the unpacked folders",
            )

    def _read(self, frame: FrameId) -> tuple[Frame, bool]:
        """One frame, and whether its depth was stored in float16."""
        span = self._files[frame.frame]
        where = str(span)
        with open_hdf5(span) as file, reading("the frame", where):
            half = own_dataset(file, "depth", where).dtype == np.float16
            if half and not self.config.allow_float16:
                raise DataError(
                    f"expected depth of type float32, found float16: {FLOAT16_STEPS}",
                    where=where,
                    hint="get the original float32 files, or set allow_float16: true and live with the rounding",
                )
            rgb_3HW = own_array(file, "rgb", (3, *SIZE), "uint8", where)[()]
            depth_m_HW = own_array(file, "depth", SIZE, "float16" if half else "float32", where)[()]
        depth_m_HW = depth_m_HW.astype(np.float32)
        depth_m_HW[~(depth_m_HW > 0) | ~np.isfinite(depth_m_HW)] = 0
        image_HW3 = np.ascontiguousarray(rgb_3HW.transpose(1, 2, 0))
        return nyu_frame(image_HW3, depth_m_HW, where, hint=DAMAGED), half


def _tars(root: Path) -> list[Path]:
    """The tar at `root`, or the shards in it."""
    if root.is_file():
        return [root]
    return [path for folder in FOLDERS for path in sorted(root.glob(f"{folder}-*.tar"))]


def _identify(match: re.Match[str], span: Span) -> FrameId:
    """A training frame is named by its recording and number, a test frame by its labelled index."""
    recording, number = match["recording"], match["number"]
    if recording:
        return FrameId(f"{recording}/{number}", scene_of_folder(recording))
    try:
        return labelled_frame(int(number), "test", first=1)
    except ValueError as error:
        raise DataError(
            str(error), where=str(span), hint="val/official counts frames from 1, as splits.mat does"
        ) from None
