"""NYU Depth V2 as the BTS lineage keeps it: folders of JPEG and 16-bit PNG (millimetres) with list files (§7.1, R-20).

A line of a list names the colour image, the depth image and, in some versions, the focal length:

    train   /kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png 518.8579
    test    bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579

A test folder is a scene type, not a scene; the number in a test file's name is the frame's 0-based index in the
labelled .mat, which gives its scene. A train folder is one recording of a scene. Lists differ within the lineage: with
or without the leading slash, the focal length, or a filled depth image as third field, which is not read. The second
field is raw depth.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.frames import file_bytes
from spd_bench.data.sets.nyu_layouts import check_truth, counts, labelled_frame, millimetre_frame, split_frames
from spd_bench.data.sets.nyu_scenes import scene_of_folder
from spd_bench.errors import DataError

HINT = "depth of this layout is 16-bit PNG in millimetres; re-create the file with the BTS extraction tools"


@dataclass(frozen=True)
class ListedPair:
    """One line of a list: the frame that it names and where its two files lie."""

    id: FrameId
    """Frame and scene that the line names."""
    color: Path
    """Colour image."""
    depth: Path
    """16-bit PNG of depth in millimetres."""


class NYUBTS(DepthDataset):
    """The 24,231 synced training pairs and the 654 test images of the Eigen split, as BTS-lineage folders and lists.

    `val` is a fixed, scene-disjoint tenth of the training scenes (`nyu_scenes.is_validation_scene`). A test frame's
    name is its 0-based index with five digits, as in `NYUEigen`, so both loaders draw the same test queries.
    """

    truth = "raw"
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
        test_only: bool = False
        """Leave the training pairs out, whether they are there or not: a data set to test on (`data.test`)."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if gap := self.missing(config):
            mend = "set root, train_root, test_root, train_list and test_list, or test_only: true for test pairs alone"
            raise DataError(gap, where=config.root, hint=mend)
        root = Path(config.root)
        test, skipped = _read_list(root / config.test_list, root / config.test_root, _test_frame)
        train: list[ListedPair] = []
        if not config.test_only:
            train, more = _read_list(root / config.train_list, root / config.train_root, _train_frame)
            skipped += more
        self._skipped = skipped
        self._pairs = {pair.id.frame: pair for pair in train + test}
        listed = ([pair.id for pair in pairs] for pairs in (train, test))
        self._frames = split_frames(*listed, where=str(root / config.train_list))
        for frames in self._frames.values():
            for frame in frames[:1]:
                self.read(frame)
        hint = "name the raw depth images in the second field of the test list"
        check_truth(self.read(test[0].id).depth_m_HW, self.truth, str(test[0].depth), hint=hint)

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Which of the folders and lists is not there, and where they come from."""
        names = [config.test_root, config.test_list]
        names += [] if config.test_only else [config.train_root, config.train_list]
        absent = [str(path) for path in (Path(config.root) / name for name in names) if not path.exists()]
        if not absent:
            return None
        return (
            f"{', '.join(absent)} not there: the sync folders, the extracted test images and the lists come from the "
            "repository of BTS (From Big to Small), section NYU Depth V2"
        )

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder with the lineage's own names for the test images, official_splits/test/, and for their list."""
        return cls.missing(cls.Config(root=str(path), test_only=True)) is None

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, in the order of the lists."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read or fails the unit gate."""
        pair = self._pairs[frame.frame]
        return millimetre_frame(pair.color, pair.depth, hint=HINT)

    def digest(self) -> str:
        """SHA-256 over names, scenes, splits and file sizes; where the folders lie does not enter."""
        rows = (f"{split} {f.frame} {f.scene} {self._sizes(f)}" for split, fs in self._frames.items() for f in fs)
        return key_digest("nyu_bts", self.version, *rows).hex()

    def describe(self) -> str:
        """Counts per split, skipped lines, and training pairs whose scene name is also a test scene's."""
        test_scenes = {frame.scene for frame in self._frames["test"]}
        shared = sum(frame.scene in test_scenes for frame in self._frames["train"] + self._frames["val"])
        return (
            f"NYU Depth V2 synced pairs (BTS lineage), Eigen test split: {counts(self._frames)}; "
            f"raw depth, rounded down to millimetres; {self._skipped} list lines without depth skipped; "
            f"{shared} training pairs carry the name of a test scene"
        )

    def _sizes(self, frame: FrameId) -> str:
        """Bytes of a frame's two files."""
        pair = self._pairs[frame.frame]
        return f"{file_bytes(pair.color)} {file_bytes(pair.depth)}"


def _read_list(path: Path, root: Path, identify: Callable[[str, int], FrameId]) -> tuple[list[ListedPair], int]:
    """Pairs of a list in its order, and how many lines were skipped because they name no depth ("None").

    Raises:
        DataError: a line that names no pair, a frame that appears twice, files that are not there, or an empty list.
    """
    pairs: dict[str, ListedPair] = {}
    skipped = 0
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        fields = line.split()
        if fields[1:2] == ["None"]:
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


def _parse(fields: list[str], root: Path, identify: Callable[[str, int], FrameId], where: str) -> ListedPair:
    """A pair from the fields of a line: colour, depth and, in some versions, something that is not read."""
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
    return ListedPair(frame, root / names[0], root / names[1])


def _train_frame(folder: str, number: int) -> FrameId:
    return FrameId(f"{folder}/{number:05d}", scene_of_folder(folder))


def _test_frame(_folder: str, number: int) -> FrameId:
    return labelled_frame(number, "test")
