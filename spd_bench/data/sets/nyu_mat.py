"""NYU Depth V2 from its official labelled file (§7.1, §8, R-20, R-24).

The .mat is MATLAB v7.3, which is HDF5 with every axis reversed: images (N, 3, W, H), depths (N, W, H). It is read
one frame at a time through one handle per process. `splits.mat` is MATLAB 5 and counts frames from 1.

Letters: N frames in the file, H W rows and columns of a frame, 3 red, green, blue.
"""

import json
import operator
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.hdf5 import DAMAGED, holds_own_bytes, open_hdf5, own_array, own_dataset, reading
from spd_bench.data.sets.nyu_layouts import check_truth, counts, nyu_frame, split_frames
from spd_bench.data.sets.nyu_scenes import labelled_frames
from spd_bench.errors import DataError

MAT = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
SOURCE = {
    MAT: 'the "Labeled dataset" (2.8 GB) of NYU Depth Dataset V2 from its project page',
    SPLITS: "the train/test split (2.6 kB) at horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat",
}
LARGEST_SPLITS_BYTES = 64 * 1024
LARGEST_AXIS = 4096
DEPTH_FIELD = {"raw": "rawDepths", "filled": "depths"}


class NYUEigen(DepthDataset):
    """The 795 labelled training images and the 654 test images of the Eigen split, from the official .mat.

    `val` is a fixed, scene-disjoint tenth of the training scenes (`nyu_scenes.is_validation_scene`). A frame's name
    is its 0-based index with five digits, as in BTS-lineage file names, so both loaders draw the same test queries.
    """

    places = frozenset({"root", "mat", "splits"})

    class Config(ComponentConfig):
        """Where the two official files lie and which of their depth maps is the truth."""

        root: str = Field(default_factory=lambda: os.environ.get("NYU_ROOT", "./data/nyu"))
        """Folder that holds both files, or the labelled file itself beside the split file; default: the environment
        variable NYU_ROOT, else ./data/nyu."""
        mat: str = MAT
        """Name of the labelled file inside root."""
        splits: str = SPLITS
        """Name of the split file inside root."""
        depth: Literal["raw", "filled"] = "raw"
        """raw: what the sensor saw, holes unknown (R-24). filled: in-painted by colorisation; another benchmark."""
        black_border: bool = False
        """Blacken test images outside rows 7:474 and columns 7:632, as the inputs of BTS-lineage results were."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.truth = config.depth
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="put both files there, or set root or NYU_ROOT")
        self._mat, splits = _places(config)
        scenes = _read_scenes(self._mat)
        ids = read_splits(splits)
        _check_splits(ids, scenes, str(splits))
        train, test = (
            [FrameId(f"{number - 1:05d}", scenes[number - 1]) for number in sorted(ids[split])]
            for split in ("train", "test")
        )
        self._frames = split_frames(train, test, where=str(splits))
        check_truth(
            self.read(test[0]).depth_m_HW,
            self.truth,
            f"{self._mat}: {DEPTH_FIELD[config.depth]}",
            hint="use the official file, or say `depth: filled` if filled depth is what you want to score",
        )

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Which of the two files is not there and which official page has it."""
        places = dict(zip((MAT, SPLITS), _places(config), strict=True))
        absent = [f"{path.name} ({SOURCE[name]})" for name, path in places.items() if not path.is_file()]
        if not absent:
            return None
        folder = places[SPLITS].parent
        return f"{folder} lacks {' and '.join(absent)}: put both files into one folder and set NYU_ROOT to it"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """The labelled .mat under its official name, or a folder that holds it."""
        place = Path(path)
        return (place / MAT).is_file() or (place.name == MAT and place.is_file())

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, by rising index."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read or fails the unit gate."""
        index = int(frame.frame)
        image_HW3 = np.ascontiguousarray(self._read("images", index).transpose(2, 1, 0))
        depth_m_HW = np.ascontiguousarray(self._read(DEPTH_FIELD[self.config.depth], index).T, dtype=np.float32)
        depth_m_HW[~(depth_m_HW > 0) | ~np.isfinite(depth_m_HW)] = 0
        if self.config.black_border and labelled_frames()[index].split == "test":
            image_HW3 = blacken_border(image_HW3)
        return nyu_frame(image_HW3, depth_m_HW, f"{self._mat}, frame {index}", hint=DAMAGED)

    def digest(self) -> str:
        """SHA-256 over the splits, scenes, file size and options; where the files lie does not enter."""
        options = self.config.model_dump_json(exclude={"root", "mat", "splits"})
        rows = (f"{split} {f.frame} {f.scene}" for split, frames in self._frames.items() for f in frames)
        return key_digest("nyu_eigen", self.version, options, self._mat.stat().st_size, *rows).hex()

    def describe(self) -> str:
        """Counts per split, the kind of depth, and the border."""
        border = ", test images with a black border" if self.config.black_border else ""
        return (
            f"NYU Depth V2 labelled frames, Eigen split: {counts(self._frames)}; "
            f"{self.config.depth} depth, not rounded{border}"
        )

    def _read(self, field: str, index: int) -> npt.NDArray[Any]:
        with reading(f"{field}[{index}]", str(self._mat)):
            return np.asarray(_open(str(self._mat), os.getpid())[field][index])


def _places(config: NYUEigen.Config) -> tuple[Path, Path]:
    """Where the labelled file and the split file lie."""
    root = Path(config.root)
    return (root, root.with_name(config.splits)) if root.is_file() else (root / config.mat, root / config.splits)


def blacken_border(image_HW3: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image with zeros outside rows 7:474 and columns 7:632."""
    out_HW3 = np.zeros_like(image_HW3)
    out_HW3[7:474, 7:632] = image_HW3[7:474, 7:632]
    return out_HW3


@lru_cache(maxsize=4)
def _open(path: str, _pid: int) -> Any:
    """The HDF5 file, checked, opened once per process: a handle must not cross a fork."""
    file = open_hdf5(Path(path), kind="a MATLAB v7.3 (HDF5) file")
    try:
        with reading("an array", path):
            _check_arrays(file, path)
    except DataError:
        file.close()
        raise
    return file


def _check_arrays(file: Any, path: str) -> None:
    """Shape, type and axis order of every array that is read."""
    images = own_dataset(file, "images", path)
    frames, colours, width, height = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if colours != 3 or not (0 < height <= width <= LARGEST_AXIS and 0 < frames <= LARGEST_AXIS):
        raise DataError(
            f"expected images of shape (N, 3, W, H) with W ≥ H, MATLAB's axes reversed as v7.3 stores them, "
            f"found {images.shape}",
            where=path,
            hint=DAMAGED,
        )
    own_array(file, "images", images.shape, "uint8", path)
    own_array(file, "scenes", (1, frames), "object", path)
    for field in DEPTH_FIELD.values():
        own_array(file, field, (frames, width, height), "float32", path)


def _read_scenes(mat: Path) -> list[str]:
    """Scene of every frame: a MATLAB cell, stored as references to columns of UTF-16 characters."""
    file = _open(str(mat), os.getpid())
    with reading("scenes", str(mat)):
        return [_text(file, reference, str(mat)) for reference in file["scenes"][0]]


def _text(file: Any, reference: Any, path: str) -> str:
    column: Any = file[reference] if reference else None
    if not holds_own_bytes(column) or column.dtype != np.uint16 or column.size > 256:
        raise DataError("expected scene names as columns of characters, found something else", where=path, hint=DAMAGED)
    return "".join(map(chr, column[()].ravel()))


_LOAD_SPLITS = """
import json, sys
from scipy.io import loadmat
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except (ImportError, ValueError, OSError):  # not every system has this limit
    pass
names = ("trainNdxs", "testNdxs")
found = loadmat(sys.argv[1], variable_names=names)
print(json.dumps([found[name].ravel().tolist() for name in names]))
"""


def read_splits(path: Path) -> dict[str, list[int]]:
    """1-based frame numbers of "train" and "test".

    SciPy's MATLAB 5 reader can crash the interpreter on a damaged file, so it runs in a process of its own.

    Raises:
        DataError: the file is too large, damaged, or lacks one of the two vectors.
    """
    if path.stat().st_size > LARGEST_SPLITS_BYTES:
        raise DataError(f"expected about 2.6 kB, found {path.stat().st_size} bytes", where=str(path), hint=DAMAGED)
    command = [sys.executable, "-P", "-c", _LOAD_SPLITS, str(path)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603 our own
        train, test = json.loads(child.stdout)
        return {"train": [operator.index(i) for i in train], "test": [operator.index(i) for i in test]}
    except subprocess.CalledProcessError as error:
        found = (error.stderr.strip().splitlines() or [f"a reader killed with status {error.returncode}"])[-1]
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        found = str(error)
    raise DataError(f"expected MATLAB 5 vectors trainNdxs and testNdxs, found {found}", where=str(path), hint=DAMAGED)


def _check_splits(ids: dict[str, list[int]], scenes: list[str], path: str) -> None:
    """Train and test must part the file's frames, as in the table of the official release."""
    if sorted(ids["train"] + ids["test"]) != list(range(1, len(scenes) + 1)):
        raise DataError(
            f"expected each frame 1..{len(scenes)} of the .mat in exactly one split, "
            f"found {len(ids['train'])} train and {len(ids['test'])} test numbers",
            where=path,
            hint="splits.mat and the .mat must both be the official files; splits.mat counts from 1",
        )
    official = labelled_frames()
    for split, numbers in ids.items():
        for index in (number - 1 for number in numbers):
            if (row := official.get(index)) is None or (row.split, row.scene) != (split, scenes[index]):
                raise DataError(
                    f"expected frame {index} (0-based) as {row and (row.split, row.scene)}, "
                    f"found {(split, scenes[index])}",
                    where=path,
                    hint="the frames are not in the official order; use the official .mat and splits.mat",
                )
