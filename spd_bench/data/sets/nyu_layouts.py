"""What the layouts of NYU Depth V2 share: names of frames, their size, what their depth must look like, the splits.

A test frame is named by its 0-based labelled index with five digits and belongs to its labelled scene, whatever the
layout calls it. So all loaders draw the same test queries, and statistics cluster alike (§7.1, §8, R-20, R-24).

Letters: H W rows and columns of a frame, 3 red, green, blue.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spd_bench.api import Frame, FrameId
from spd_bench.data.reading.archives import Span, file_span, tar_members
from spd_bench.data.reading.frames import check_indoor_depth, read_depth_m
from spd_bench.data.reading.images import read_rgb
from spd_bench.data.sets.nyu_scenes import is_validation_scene, labelled_frames
from spd_bench.data.sets.rgbd_layouts import files_below
from spd_bench.errors import DataError

SIZE = (480, 640)
"""Rows and columns of every frame: the protocols' crops mean nothing on others."""
TEST_FRAMES = 654


def labelled_frame(number: int, split: str, scene: str | None = None, *, first: int = 0) -> FrameId:
    """Name and scene of a labelled frame that a layout counts as `number`, starting from `first`.

    Raises:
        ValueError: the table has no such frame in this split (and scene, where the layout says it).
    """
    row = labelled_frames().get(number - first)
    if row is None or row.split != split or scene not in (None, row.scene):
        expected = f"the {first}-based index of a labelled {split} frame" + (f" of scene {scene}" if scene else "")
        raise ValueError(f"expected {expected}, found {number}")
    return FrameId(f"{row.index0:05d}", row.scene)


def split_frames(train: Sequence[FrameId], test: Sequence[FrameId], *, where: str) -> dict[str, list[FrameId]]:
    """The three splits; `val` is a fixed, scene-disjoint tenth of the training scenes.

    No training frame at all makes a data set of test frames alone.

    Raises:
        DataError: there is no test frame, or no frame is left in one of train and val.
    """
    splits = {
        "train": [frame for frame in train if not is_validation_scene(frame.scene)],
        "val": [frame for frame in train if is_validation_scene(frame.scene)],
        "test": list(test),
    }
    empty = [split for split, frames in splits.items() if not frames and (train or split == "test")]
    if empty:
        raise DataError(
            f"expected frames in every split, found none in {' and '.join(empty)}",
            where=where,
            hint="test frames are a must; about one training scene in ten serves for validation: give more scenes",
        )
    return splits


def counts(splits: Mapping[str, Sequence[FrameId]]) -> str:
    """Frames per split, for `describe`."""
    test = len(splits["test"])
    tested = f"test {test}" + ("" if test == TEST_FRAMES else f" of {TEST_FRAMES}")
    if not splits["train"]:
        return f"{tested} frames alone"
    return f"train {len(splits['train'])}, val {len(splits['val'])} (held-out training scenes), {tested}"


def nyu_frame(image_HW3: npt.NDArray[np.uint8], depth_m_HW: npt.NDArray[np.float32], where: str, *, hint: str) -> Frame:
    """The frame, after the gates on size and unit.

    Raises:
        DataError: image or depth has not the size of NYU's frames, or the unit gate fails (`check_indoor_depth`).
    """
    for what, size in (("image", image_HW3.shape[:2]), ("depth", depth_m_HW.shape)):
        if size != SIZE:
            raise DataError(
                f"expected {what} of {SIZE[0]} rows × {SIZE[1]} columns, found {size[0]} × {size[1]}",
                where=where,
                hint="use the original frames: results on resized, cropped or transposed copies are no NYU results",
            )
    check_indoor_depth(depth_m_HW, where, hint=hint)
    return Frame(image_HW3, depth_m_HW)


def millimetre_frame(color: Path | Span, depth: Path | Span, *, hint: str) -> Frame:
    """A colour image and a 16-bit depth image in millimetres, 0 where unknown. Raises DataError as `nyu_frame`."""
    return nyu_frame(read_rgb(color), read_depth_m(depth, scale=1000, invalid=(0,)), str(depth), hint=hint)


def check_truth(depth_m_HW: npt.NDArray[np.float32], truth: str, where: str, *, hint: str) -> None:
    """Raw Kinect depth never covers a whole frame, filled depth always does.

    Raises:
        DataError: a map promised as raw has no hole, or one promised as filled has some.
    """
    holes = int(np.count_nonzero(depth_m_HW == 0))
    if truth == "raw" and not holes:
        raise DataError(
            "expected raw depth, found no unknown pixel in the first test frame: the map has been filled",
            where=where,
            hint=hint,
        )
    if truth == "filled" and holes:
        raise DataError(
            f"expected filled depth, found {holes} unknown pixels in the first test frame: the map is raw",
            where=where,
            hint=hint,
        )


def files_in(root: Path, tars: Iterable[Path], folders: Iterable[str]) -> list[Span]:
    """The files in these tar archives and in these folders of `root`, named by their path there."""
    packed = [span for tar in tars for span in tar_members(tar)]
    loose = [
        file_span(root / folder / name, f"{folder}/{name}") for folder in folders for name in files_below(root / folder)
    ]
    return packed + loose
