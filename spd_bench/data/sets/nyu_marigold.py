"""NYU Depth V2's labelled frames as Marigold packs them: `nyu_labeled_extracted.tar`, or what is in it (R-20, R-24).

    test/<scene>/rgb_NNNN.png   depth_NNNN.png   filled_NNNN.png        train/<scene>/... alike

NNNN is the 1-based labelled index. Depth is 16-bit, in millimetres. As published, `filled` equals the raw depth.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.archives import Span, first_tar_members
from spd_bench.data.sets.nyu_layouts import (
    check_truth,
    counts,
    files_in,
    labelled_frame,
    millimetre_frame,
    split_frames,
)
from spd_bench.errors import DataError

TAR = "nyu_labeled_extracted.tar"
FOLDERS = ("train", "test")
MEMBER = re.compile(r"(?:.*/)?(?P<split>train|test)/(?P<scene>[^/]+)/(?P<kind>rgb|depth|filled)_(?P<number>\d{4})\.png")
KIND = {"raw": "depth", "filled": "filled"}
HINT = "depth of this layout is 16-bit PNG in millimetres; use the archive as it was published"


class NYUMarigold(DepthDataset):
    """The 654 test frames of the Eigen split, and the 795 labelled training frames where the archive has them.

    Frames are named as in `NYUEigen`. `val` is a fixed, scene-disjoint tenth of the training scenes.
    """

    places = frozenset({"root"})

    class Config(ComponentConfig):
        """Where the archive or its folders lie and which of its depth maps is the truth."""

        root: str = Field(default_factory=lambda: os.environ.get("NYU_MARIGOLD_ROOT", "./data/nyu_marigold"))
        """The tar, the folder that holds it, or the folder with test/; default: environment variable
        NYU_MARIGOLD_ROOT, else ./data/nyu_marigold."""
        depth: Literal["raw", "filled"] = "raw"
        """raw: depth_NNNN.png (R-24). filled: filled_NNNN.png, refused where it has holes, as the published one has."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.truth = config.depth
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root or NYU_MARIGOLD_ROOT")
        root = Path(config.root)
        self._files: dict[tuple[str, str], Span] = {}
        frames: dict[str, set[FrameId]] = {"train": set(), "test": set()}
        for span in files_in(root, _tars(root), FOLDERS):
            if match := MEMBER.fullmatch(span.name):
                frame = _identify(match, span)
                frames[match["split"]].add(frame)
                self._keep(frame, match["kind"], span)
        by_index = (sorted(found, key=lambda frame: frame.frame) for found in frames.values())
        self._frames = split_frames(*by_index, where=config.root)
        self._refuse_incomplete()
        first = self._frames["test"][0]
        check_truth(
            self.read(first).depth_m_HW,
            self.truth,
            str(self._depth(first)),
            hint="the filled depth that was published equals the raw depth: use depth: raw, or take filled depth from "
            "nyu_eigen",
        )

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Whether neither the archive nor its test folder is there, and where it comes from."""
        root = Path(config.root)
        if root.is_file() or (root / TAR).is_file() or (root / "test").is_dir():
            return None
        return f"{root} has neither {TAR} nor test/: the archive is among the evaluation data sets of Marigold"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """The tar, a folder that holds it under its own name, or a folder with test/<scene>/rgb_NNNN.png."""
        place = Path(path)
        if place.is_file():
            return any(map(MEMBER.fullmatch, first_tar_members(place, 8)))
        return (place / TAR).is_file() or any((place / "test").glob("*/rgb_[0-9][0-9][0-9][0-9].png"))

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, by rising index."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read, differs in size or fails the unit gate."""
        return millimetre_frame(self._files[frame.frame, "rgb"], self._depth(frame), hint=HINT)

    def digest(self) -> str:
        """SHA-256 over names, scenes, splits, file sizes and the kind of depth; a tar around them does not enter."""
        rows = (
            f"{split} {frame.frame} {frame.scene} {self._files[frame.frame, 'rgb'].size} {self._depth(frame).size}"
            for split, frames in self._frames.items()
            for frame in frames
        )
        return key_digest("nyu_marigold", self.version, self.truth, *rows).hex()

    def describe(self) -> str:
        """Counts per split and the kind of depth."""
        frames = counts(self._frames)
        return f"NYU Depth V2 labelled frames (Marigold's archive), Eigen split: {frames}; {self.truth} depth"

    def _depth(self, frame: FrameId) -> Span:
        return self._files[frame.frame, KIND[self.truth]]

    def _keep(self, frame: FrameId, kind: str, span: Span) -> None:
        kept = self._files.setdefault((frame.frame, kind), span)
        if kept is not span:
            raise DataError(
                f"{kind} of frame {frame.frame} is there twice, as {kept} too",
                where=str(span),
                hint="keep either the archive or the unpacked folders",
            )

    def _refuse_incomplete(self) -> None:
        names = [frame.frame for frames in self._frames.values() for frame in frames]
        for name in names:
            for kind in ("rgb", KIND[self.truth]):
                if (name, kind) not in self._files:
                    raise DataError(
                        f"expected {kind}_{int(name) + 1:04d}.png beside the other files of frame {name}, found none",
                        where=self.config.root,
                        hint="use the archive as it was published",
                    )


def _tars(root: Path) -> list[Path]:
    """The tar at `root`, or the one in it."""
    return [tar for tar in (root, root / TAR) if tar.is_file()]


def _identify(match: re.Match[str], span: Span) -> FrameId:
    try:
        return labelled_frame(int(match["number"]), match["split"], match["scene"], first=1)
    except ValueError as error:
        raise DataError(
            str(error), where=str(span), hint="use the archive as it was published; it counts frames from 1"
        ) from None
