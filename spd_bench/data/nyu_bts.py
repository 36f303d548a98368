"""NYU Depth V2 as the BTS lineage keeps it: folders of JPEG and 16-bit PNG (millimetres) with list files (§7.1, R-20).

A line of a list names the colour image, the depth image and, in some versions, the focal length:

    train   /kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579
    test    bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579

A test folder is a scene type, not a scene; the number in a test file's name is the frame's 0-based index in the
labelled .mat, which gives its scene. A train folder is one recording of a scene.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.images import read_frame
from spd_bench.data.nyu_scenes import is_validation_scene, labelled_frames, scene_of_folder
from spd_bench.data.randomness import key_digest
from spd_bench.errors import DataError

MILLIMETRES = 1000
HINT = "depth of this layout is 16-bit PNG in millimetres; re-create the file with the BTS extraction tools"


@dataclass(frozen=True)
class Pair:
    """One line of a list: the frame that it names and where its two files lie."""

    id: FrameId
    color: Path
    depth: Path


class NYUBTS(DepthDataset):
    """The 24,231 synced training pairs and the 654 test images of the Eigen split, as BTS-lineage folders and lists.

    `val` is a fixed, scene-disjoint tenth of the training scenes (`nyu_scenes.is_validation_scene`). A test frame's
    name is its 0-based index with five digits, as in `NYUEigen`, so both loaders draw the same test queries.
    """

    places = frozenset({"root", "train_root", "test_root", "train_list", "test_list"})

    class Config(ComponentConfig):
        """Where the folders and lists lie; relative paths start at root."""

        root: str = Field(default_factory=lambda: os.environ.get("NYU_BTS_ROOT", "./data/nyu_bts"))
        """Folder that the other paths start at; default: environment variable NYU_BTS_ROOT, else ./data/nyu_bts."""
        train_root: str = "sync"
        """Folder of the training recordings."""
        test_root: str = "official_splits/test"
        """Folder of the test scene types."""
        train_list: str = "nyudepthv2_train_files_with_gt.txt"
        """List of training pairs."""
        test_list: str = "nyudepthv2_test_files_with_gt.txt"
        """List of test pairs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root, train_root, test_root, train_list and test_list")
        root = Path(config.root)
        train, train_skipped = _read_list(root / config.train_list, root / config.train_root, _train_frame)
        test, test_skipped = _read_list(root / config.test_list, root / config.test_root, _test_frame)
        self._skipped = train_skipped + test_skipped
        self._pairs = {
            "train": [pair for pair in train if not is_validation_scene(pair.id.scene)],
            "val": [pair for pair in train if is_validation_scene(pair.id.scene)],
            "test": test,
        }
        self._by_name = {pair.id.frame: pair for pair in train + test}
        for split, pairs in self._pairs.items():
            if not pairs:
                raise DataError(
                    f"expected frames in every split, found none in {split}",
                    where=str(root / config.train_list),
                    hint="list more scenes: about one training scene in ten serves for validation",
                )
            self.read(pairs[0].id)

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Which of the folders and lists is not there, and where they come from."""
        names = (config.train_root, config.test_root, config.train_list, config.test_list)
        absent = [str(path) for path in (Path(config.root) / name for name in names) if not path.exists()]
        if not absent:
            return None
        return (
            f"{', '.join(absent)} not there: the sync folders, the extracted test images and the lists come from the "
            "repository of BTS (From Big to Small), section NYU Depth V2"
        )

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder with the lineage's own names: sync/, official_splits/test/ and both lists."""
        return cls.missing(cls.Config(root=str(path))) is None

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, in the order of the lists."""
        check_split(split)
        return [pair.id for pair in self._pairs[split]]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read or fails the unit gate."""
        pair = self._by_name[frame.frame]
        return read_frame(pair.color, pair.depth, scale=MILLIMETRES, invalid=(0,), hint=HINT)

    def digest(self) -> str:
        """SHA-256 over names, scenes, splits and file sizes; where the folders lie does not enter."""
        rows = (
            f"{split} {pair.id.frame} {pair.id.scene} {pair.color.stat().st_size} {pair.depth.stat().st_size}"
            for split, pairs in self._pairs.items()
            for pair in pairs
        )
        return key_digest("nyu_bts", self.version, *rows).hex()

    def describe(self) -> str:
        """Counts per split, skipped lines, and training pairs whose scene name is also a test scene's."""
        counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in self._pairs.items())
        test_scenes = {pair.id.scene for pair in self._pairs["test"]}
        shared = sum(pair.id.scene in test_scenes for pair in self._pairs["train"] + self._pairs["val"])
        return (
            f"NYU Depth V2 synced pairs (BTS lineage), Eigen test split: {counts} (val: held-out training scenes); "
            f"raw depth; {self._skipped} list lines without depth skipped; "
            f"{shared} training pairs carry the name of a test scene"
        )


def _read_list(path: Path, root: Path, identify: Callable[[str, int], FrameId]) -> tuple[list[Pair], int]:
    """Pairs of a list in its order, and how many lines were skipped because they name no depth ("None").

    Raises:
        DataError: a line that names no pair, a frame that appears twice, files that are not there, or an empty list.
    """
    pairs: dict[str, Pair] = {}
    skipped = 0
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if "None" in fields:
            skipped += 1
        elif fields:
            pair = _parse(fields, root, identify, where=f"{path}:{number}")
            if pairs.setdefault(pair.id.frame, pair) is not pair:
                raise DataError(
                    f"frame {pair.id.frame} is listed twice", where=f"{path}:{number}", hint="drop one line"
                )
    absent = [file for pair in pairs.values() for file in (pair.color, pair.depth) if not file.is_file()]
    if absent or not pairs:
        found = f"{len(absent)} of them missing, the first {absent[0]}" if absent else "an empty list"
        raise DataError(
            f"expected the files of {len(pairs)} pairs below {root}, found {found}",
            where=str(path),
            hint="list and folder must come from the same release; check train_root and test_root",
        )
    return list(pairs.values()), skipped


def _parse(fields: list[str], root: Path, identify: Callable[[str, int], FrameId], where: str) -> Pair:
    """A pair from the fields of a line: colour, depth and, in some versions, the focal length."""
    names = [PurePosixPath(field.lstrip("/")) for field in fields[:2]]
    shape = re.fullmatch(r"(?:.*/)?([^/]+)/rgb_(\d+)\.\w+", str(names[0]))
    if len(fields) not in (2, 3) or shape is None or any(".." in name.parts for name in names):
        raise DataError(
            f"expected `FOLDER/rgb_NNNNN.jpg FOLDER/sync_depth_NNNNN.png [focal length]`, found {' '.join(fields)!r}",
            where=where,
            hint="use the lists of the BTS repository",
        )
    try:
        frame = identify(shape[1], int(shape[2]))
    except ValueError as error:
        raise DataError(str(error), where=where, hint="check that train_list and test_list are not swapped") from None
    return Pair(frame, root / names[0], root / names[1])


def _train_frame(folder: str, number: int) -> FrameId:
    return FrameId(f"{folder}/{number:05d}", scene_of_folder(folder))


def _test_frame(folder: str, number: int) -> FrameId:
    row = labelled_frames().get(number)
    if row is None or row.split != "test":
        raise ValueError(f"expected the 0-based index of a labelled test frame, found {number} in folder {folder}")
    return FrameId(f"{number:05d}", row.scene)
