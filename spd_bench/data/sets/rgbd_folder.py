"""Any folder of RGB-D frames: 7-Scenes, TUM, rgb/ + depth/, or patterns of one's own (`rgbd_layouts`).

Splits go by position in each sequence, never at random, because neighbouring frames show the same view.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.frames import read_frame
from spd_bench.data.sets.rgbd_layouts import Layout, Pair, Recording, files_below, known_layout, recordings
from spd_bench.errors import DataError

SPLITS = ("train", "val", "test")

Share = Annotated[float, Field(ge=0, le=1)]
Pattern = Annotated[str, Field(pattern=r"^[^{}]*\{id\}[^{}]*$")]


class RGBDFolder(DepthDataset):
    """RGB-D frames below one folder. Depth must be registered to colour, pixel by pixel.

    Scenes, by which statistics cluster, are the sequences; if there is only one, blocks of consecutive frames.
    """

    places = frozenset({"root"})

    class Config(ComponentConfig):
        """Where the frames lie, how files are named and scaled, and how sequences are split."""

        root: str
        """Folder that holds one or more sequences, at any depth."""
        layout: Literal["auto", "seven_scenes", "tum", "folders"] = "auto"
        """Naming scheme; auto takes the first that fits."""
        color: Pattern | None = None
        """Own pattern of colour files, such as "frame-{id}.color.jpg"; needs `depth` too."""
        depth: Pattern | None = None
        """Own pattern of depth files, such as "frame-{id}.depth.png"."""
        depth_scale: Annotated[float, Field(gt=0)] | None = None
        """File units in one metre; default: 5000 for tum, else 1000 (millimetres)."""
        invalid: tuple[float, ...] = Field(default=(0, 65535), strict=False)
        """File values that mean unknown, beside all that are not positive and finite."""
        shares: tuple[Share, Share, Share] = Field(default=(0.7, 0.1, 0.2), strict=False)
        """Shares of train, val and test: first, next and last part of every sequence."""
        gap: int = Field(default=0, ge=0)
        """Frames left out between two splits of a sequence, so that they do not show the same view."""
        block: int = Field(default=10, ge=1)
        """Frames in one block, where one sequence has to be cut into scenes."""

        @model_validator(mode="after")
        def _consistent(self) -> "RGBDFolder.Config":
            if (self.color is None) != (self.depth is None):
                raise ValueError("color and depth patterns go together: give both or neither")
            if self.color is not None and self.layout != "auto":
                raise ValueError("own patterns replace the layout: leave layout out")
            if abs(sum(self.shares) - 1) > 1e-6:
                raise ValueError(f"shares must sum to 1, but sum to {sum(self.shares):g}")
            return self

    def __init__(self, config: Config) -> None:
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root to the folder that holds the sequences")
        self.config = config
        self._root = Path(config.root).resolve()
        files = files_below(self._root)
        self._layout = self._choose_layout(files)
        self._scale = float(config.depth_scale or self._layout.scale)
        self._recordings = recordings(self._root, files, self._layout)
        self._pairs: dict[str, Pair] = {}
        self._frames: dict[str, list[FrameId]] = {split: [] for split in SPLITS}
        usable = [recording for recording in self._recordings if recording.pairs]
        for recording in usable:
            self._split(recording, alone=len(usable) == 1)
            self._read(recording.pairs[0])
        self._refuse_empty_splits()

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Whether the root folder is absent."""
        return None if Path(config.root).is_dir() else f"there is no folder {config.root} with RGB-D frames"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A folder below which one of the known layouts fits."""
        return Path(path).is_dir() and known_layout(files_below(Path(path)), "auto") is not None

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split: sequence by sequence, each in order."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read, differs in size or fails the unit gate."""
        return self._read(self._pairs[frame.frame])

    def digest(self) -> str:
        """SHA-256 over unit, names, scenes, splits and file sizes; where the folder lies does not enter."""
        unit = f"{self._scale} {sorted(map(float, self.config.invalid))}"
        rows = (f"{split} {f.frame} {f.scene} {self._files(f)}" for split in SPLITS for f in self._frames[split])
        return key_digest("rgbd_folder", self.version, unit, *rows).hex()

    def describe(self) -> str:
        """Layout, unit, counts per split, how files were paired, and how many found no partner."""
        counts = ", ".join(f"{split} {len(self._frames[split])}" for split in SPLITS)
        pairing = "associations.txt or nearest time stamps" if self._layout.name == "tum" else "equal ids"
        color, depth = (sum(getattr(r, kind) for r in self._recordings) for kind in ("lone_color", "lone_depth"))
        return (
            f"RGB-D folder {self._root.name} ({self._layout.name}, {self._scale:g} units per metre): {counts}, "
            f"by position in {len(self._recordings)} sequence(s) with gap {self.config.gap}; paired by {pairing}, "
            f"{color} colour and {depth} depth files without partner{self._layout.remark}"
        )

    def _choose_layout(self, files: list[str]) -> Layout:
        config = self.config
        if config.color is not None and config.depth is not None:
            return Layout("own patterns", config.color, config.depth, scale=1000)
        if layout := known_layout(files, config.layout):
            return layout
        raise DataError(
            f"expected colour and depth files of layout {config.layout}, found {len(files)} files of other names",
            where=str(self._root),
            hint='name the files with color and depth patterns, such as color: "left/{id}.png"',
        )

    def _split(self, recording: Recording, *, alone: bool) -> None:
        """Append a sequence's frames to the three splits."""
        parts = split_ranges(len(recording.pairs), self.config.shares, self.config.gap)
        for split, part in zip(SPLITS, parts, strict=True):
            for place, index in enumerate(part):
                pair = recording.pairs[index]
                name = f"{recording.folder}/{pair.id}".lstrip("/")
                scene = f"{split}-{place // self.config.block:03d}" if alone else recording.folder or "."
                self._pairs[name] = pair
                self._frames[split].append(FrameId(name, scene))

    def _refuse_empty_splits(self) -> None:
        for split, share in zip(SPLITS, self.config.shares, strict=True):
            if share > 0 and not self._frames[split]:
                raise DataError(
                    f"expected frames in every split, found none of {len(self._pairs)} in {split}: {self.describe()}",
                    where=str(self._root),
                    hint="correct the patterns, give more frames, a smaller gap or other shares",
                )

    def _read(self, pair: Pair) -> Frame:
        color, depth = self._root / pair.color, self._root / pair.depth
        return read_frame(color, depth, scale=self._scale, invalid=self.config.invalid)

    def _files(self, frame: FrameId) -> str:
        """Names and sizes of a frame's two files."""
        pair = self._pairs[frame.frame]
        return " ".join(f"{name} {(self._root / name).stat().st_size}" for name in (pair.color, pair.depth))


def split_ranges(count: int, shares: Sequence[float], gap: int) -> list[range]:
    """Consecutive parts of `count` frames by share; a part that has frames before it leaves out its first `gap`."""
    ends = [round(count * sum(shares[: k + 1])) for k in range(len(shares))]
    starts = [0, *ends[:-1]]
    return [range(start + gap * (start > 0), end) for start, end in zip(starts, ends, strict=True)]
