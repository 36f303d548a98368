"""Data set `synthetic_rooms`: procedural RGB-D frames of furnished rooms, for machines without a real data set.

The frames have NYU's camera, size, range of depth and kinds of holes, and colour alone does not tell depth. They are
rendered once, a few hundred a minute, into a cache: the folder in SPD_BENCH_CACHE, or else ~/.cache/spd-bench.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.errors import ConfigError
from spd_rooms import cache
from spd_rooms.render import SPLITS, Options


class SyntheticRooms(DepthDataset):
    """Frames `split-SSSS-FF` of scene `split-SSSS`. No scene is in two splits.

    A frame is a pure function of its name, the seed and the image options, and does not depend on the number of scenes.
    It is bit-equal on one machine; another processor or numpy may change the last bit of a value.

    `frames(split)` renders that split unless it is in the cache; `read` then works in any process.
    """

    version = 1
    stand_in = "synthetic rooms instead of real RGB-D"
    truth = "rendered"

    class Config(ComponentConfig):
        """Number and size of the frames, and which faults of a depth camera they have."""

        train_scenes: Annotated[int, Field(ge=1, le=9999)] = 96
        """Rooms to train on."""
        val_scenes: Annotated[int, Field(ge=1, le=9999)] = 16
        """Rooms to choose models on."""
        test_scenes: Annotated[int, Field(ge=1, le=9999)] = 32
        """Rooms that are scored; statistics cluster by room."""
        frames_per_scene: Annotated[int, Field(ge=1, le=99)] = 4
        """Camera poses in each room."""
        height: Annotated[int, Field(ge=32, le=1024)] = 480
        """Rows of a frame. The field of view stays that of NYU: intrinsics scale with the size."""
        width: Annotated[int, Field(ge=32, le=1024)] = 640
        """Columns of a frame."""
        seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
        """Seed of all rooms."""
        holes: bool = True
        """Whether depth is unknown where a structured-light camera measures none: 10 to 30 % of a frame."""
        depth_noise: bool = True
        """Whether depth has noise of 1.5 mm · (depth / 1 m)². Depth is in whole millimetres either way."""

    def __init__(self, config: Config) -> None:
        self.config = config
        root = os.environ.get("SPD_BENCH_CACHE") or Path.home() / ".cache" / "spd-bench"
        self.folder = Path(root).expanduser() / f"rooms-{self.digest()[:16]}"
        self._scenes = dict(zip(SPLITS, (config.train_scenes, config.val_scenes, config.test_scenes), strict=True))
        self._ready: set[str] = set()
        self._open: dict[tuple[int, str], Any] = {}

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of a split, scene by scene; renders the split first if it is not in the cache.

        Raises ConfigError for an unknown split, DataError if the cache cannot be written.
        """
        check_split(split)
        self._make_ready(split)
        names = (
            (f"{split}-{s:04d}", f) for s in range(self._scenes[split]) for f in range(self.config.frames_per_scene)
        )
        return [FrameId(frame=f"{scene}-{f:02d}", scene=scene) for scene, f in names]

    def read(self, frame: FrameId) -> Frame:
        """One frame. Raises ConfigError for a frame that this data set does not have, DataError if reading fails."""
        split, row = self._locate(frame)
        self._make_ready(split)
        file = self._file(split)
        try:
            return Frame(image_HW3=file["rgb"][row], depth_m_HW=file["depth_mm"][row] / np.float32(1000))
        except OSError as error:
            raise cache.unreadable(self._path(split), error) from error

    def digest(self) -> str:
        """SHA-256 of the options and of the renderer's version."""
        identity = {"dataset": "synthetic_rooms", "version": self.version, "config": self.config.model_dump()}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """One line: that the data are synthetic, how many rooms and frames, how large, and every unusual option."""
        counts = ", ".join(f"{n}x{self.config.frames_per_scene} {split}" for split, n in self._scenes.items())
        size = f"{self.config.height}x{self.config.width}"
        shown = ("train_scenes", "val_scenes", "test_scenes", "frames_per_scene", "height", "width")
        options = self.config.unusual(without=shown)
        said = f"; {options}" if options else ""
        return f"synthetic rooms (procedural, stand-in for real data): {counts} frames (rooms x poses), {size}{said}"

    def __getstate__(self) -> dict[str, Any]:
        """State without open files: another process opens its own."""
        return {**self.__dict__, "_open": {}}

    def _make_ready(self, split: str) -> None:
        if split not in self._ready:
            c = self.config
            options = Options(c.seed, c.height, c.width, c.holes, c.depth_noise)
            cache.ensure(self._path(split), options, split, self._scenes[split], c.frames_per_scene)
            self._ready.add(split)

    def _path(self, split: str) -> Path:
        return self.folder / f"{split}.h5"

    def _file(self, split: str) -> Any:
        """The split's file, opened once per process: HDF5 handles must not be used across a fork."""
        key = (os.getpid(), split)
        if key not in self._open:
            self._open[key] = cache.open_file(self._path(split))
        return self._open[key]

    def _locate(self, frame: FrameId) -> tuple[str, int]:
        """Split and row of a frame."""
        split, *numbers = frame.frame.split("-")
        if split in SPLITS and len(numbers) == 2 and all(n.isdecimal() for n in numbers):
            scene, pose = map(int, numbers)
            if scene < self._scenes[split] and pose < self.config.frames_per_scene:
                return split, scene * self.config.frames_per_scene + pose
        raise ConfigError(
            f'no frame "{frame.frame}"',
            where="synthetic_rooms",
            hint=f"frames are named like train-0000-00; this data set is {self.describe()}",
        )
