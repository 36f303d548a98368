"""What the published layouts share: rows of files in, splits and frames out, with the facts of the format said.

A layout lists its frames (`rows`) and may read depth in a way of its own (`depth_m`). Frames without a split of their
own are split by whole scenes where there are ten or more, else by position in each scene.

Letters: H W rows and columns of a frame.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.api import SPLITS, ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.frames import Resize, check_indoor_depth, file_bytes, read_depth_m, sized
from spd_bench.data.reading.images import read_rgb
from spd_bench.data.sets.rgbd_folder import split_ranges
from spd_bench.data.sets.rgbd_layouts import natural
from spd_bench.errors import DataError

Share = Annotated[float, Field(ge=0, le=1)]
WHOLE_SCENES = 10
"""Number of scenes from which on every scene is in one split."""


@dataclass(frozen=True)
class FrameFiles:
    """One frame: its files, its scene, and its split where the data set has splits of its own."""

    name: str
    """Name of the frame, unique in the data set."""
    scene: str
    """Scene that the frame shows."""
    color: Path
    """Colour image."""
    depth: Path
    """File of depth."""
    split: str | None = None
    """"train", "val" or "test" as published; None where the data set has no splits."""
    masks: tuple[Path, ...] = ()
    """Images in which 0 marks pixels of unknown depth."""


class PublishedFolder(DepthDataset):
    """A published data set below one folder, as its authors lay it out."""

    places = frozenset({"root"})
    about: ClassVar[str]
    """Name of the data set, for tables."""
    facts: ClassVar[str]
    """What its depth is: along the axis or a distance, registered or not."""
    scale: ClassVar[float] = 1000
    """File units in one metre, as published."""
    invalid: ClassVar[tuple[float, ...]] = (0,)
    """File values that mean unknown, beside all that are not positive and finite."""

    class Config(ComponentConfig):
        """Where the data set lies."""

        root: str
        """Its folder."""
        resize: Resize = "none"
        """What is brought to the other's size where colour and depth differ in nothing else: color or depth."""
        shares: tuple[Share, Share, Share] = Field(default=(0.7, 0.1, 0.2), strict=False)
        """Shares of train, val and test, where the data set has no splits of its own."""

    def __init__(self, config: Any) -> None:
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root to the folder of the data set")
        self.config = config
        self._root = Path(config.root).resolve()
        rows = sorted(self.rows(self._root, config), key=lambda row: natural(row.name))
        if not rows:
            raise DataError(f"no frame of {self.about} found", where=config.root, hint=f"expected {type(self).__doc__}")
        self._rows = {row.name: row for row in rows}
        self._frames = self._split(rows)
        self.read(next(frames[0] for frames in self._frames.values() if frames))

    @classmethod
    @abstractmethod
    def rows(cls, root: Path, config: Any) -> Sequence[FrameFiles]:
        """Every frame below `root` that has both files."""

    def depth_m(self, row: FrameFiles) -> npt.NDArray[np.float32]:
        """Depth along the axis in metres, [H, W], 0 where unknown, before masks are applied."""
        return read_depth_m(row.depth, scale=self.scale, invalid=self.invalid)

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Whether the root folder is absent."""
        return None if Path(config.root).is_dir() else f"there is no folder {config.root} of {cls.about}"

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, in order."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for files that fail to read, differ in size or fail the unit gate."""
        row = self._rows[frame.frame]
        depth_m_HW = self.depth_m(row)
        for mask in row.masks:
            depth_m_HW = np.where(mask_of(mask, depth_m_HW.shape), depth_m_HW, np.float32(0))
        resize = self.config.resize
        read = sized(read_rgb(row.color), depth_m_HW, resize, color=str(row.color), depth=str(row.depth))
        check_indoor_depth(read.depth_m_HW, str(row.depth), hint=f"these are not the files of {self.about}")
        return read

    def digest(self) -> str:
        """SHA-256 over options, names, scenes, splits and file sizes; where the folder lies does not enter."""
        options = self.config.model_dump_json(exclude={"root"})
        rows = (
            f"{split} {f.frame} {f.scene} {file_bytes(self._rows[f.frame].color)} "
            f"{file_bytes(self._rows[f.frame].depth)}"
            for split in SPLITS
            for f in self._frames[split]
        )
        return key_digest(type(self).__name__, self.version, options, *rows).hex()

    def describe(self) -> str:
        """Counts per split, the facts of the format, and the options that differ from their defaults."""
        counts = ", ".join(f"{split} {len(self._frames[split])}" for split in SPLITS)
        options = self.config.unusual(without=self.places)
        said = f"; {options}" if options else ""
        return f"{self.about}: {counts}; {self.scale:g} units per metre, {self.truth} depth; {self.facts}{said}"

    def _split(self, rows: Sequence[FrameFiles]) -> dict[str, list[FrameId]]:
        found: dict[str, list[FrameId]] = {split: [] for split in SPLITS}
        shares = self.config.shares
        own = any(row.split for row in rows)
        if own and not any(row.split == "val" for row in rows):
            shares = (0.9, 0.1, 0.0)  # model choice takes a tenth of the training frames
        open_rows = [row for row in rows if row.split == "train"] if own else list(rows)
        if own and any(row.split == "val" for row in rows):
            open_rows = []
        for row in rows:
            if row.split is not None and row not in open_rows:
                found[row.split].append(FrameId(row.name, row.scene))
        scenes = list(dict.fromkeys(row.scene for row in open_rows))
        whole = len(scenes) >= WHOLE_SCENES
        groups = [open_rows] if whole or len(scenes) == len(open_rows) else [
            [row for row in open_rows if row.scene == scene] for scene in scenes
        ]  # fmt: skip
        for group in groups:
            units = scenes if whole else list(range(len(group)))
            for split, part in zip(SPLITS, split_ranges(len(units), shares, 0), strict=True):
                taken = {units[i] for i in part}
                chosen = (row for i, row in enumerate(group) if (row.scene if whole else i) in taken)
                found[split] += [FrameId(row.name, row.scene) for row in chosen]
        return found


def mask_of(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Where a mask, an image or a `.npy` array, is not 0. DataError for one of another size."""
    from spd_bench.data.reading.images import open_image

    try:
        stored = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.asarray(open_image(path))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"expected a mask, found a damaged file ({error})", where=str(path)) from error
    mask_HW = stored.reshape(stored.shape[:2]) > 0 if stored.ndim == 3 and stored.shape[2] == 1 else stored > 0
    if mask_HW.shape != shape:
        hint = "use the masks that were published with the frames"
        raise DataError(f"expected a mask of {shape}, found {mask_HW.shape}", where=str(path), hint=hint)
    return np.asarray(mask_HW, dtype=np.bool_)


def pairs_in(color: Path, depth: Path, suffix: str = ".png") -> list[tuple[Path, Path]]:
    """Colour and depth files of one stem in two folders."""
    if not color.is_dir() or not depth.is_dir():
        return []
    depths = {path.stem: path for path in depth.iterdir() if path.suffix == suffix}
    suffixes = (".jpg", ".jpeg", ".png")
    found = (path for path in color.iterdir() if path.suffix.lower() in suffixes and path.stem in depths)
    return [(path, depths[path.stem]) for path in found]
