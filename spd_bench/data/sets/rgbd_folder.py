"""Any folder of RGB-D frames: 7-Scenes, TUM, rgb/ + depth/, or patterns of one's own (`rgbd_layouts`).

Splits go by position in each sequence, never at random, because neighbouring frames show the same view.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.frames import Resize, file_bytes, read_frame
from spd_bench.data.sets.rgbd_advice import advice, ignored_text, unpaired
from spd_bench.data.sets.rgbd_layouts import FOLDERS, Layout, Pair, Recording, files_below, known_layout, recordings
from spd_bench.errors import DataError

SPLITS = ("train", "val", "test")
PAIRING = "paired by a list of associations, equal ids or nearest time stamps"

Share = Annotated[float, Field(ge=0, le=1)]
Pattern = Annotated[str, Field(pattern=r"^[^{}]*\{id\}[^{}]*$")]


OWN_SPLITS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "eval"},
}
"""Names of folders that people give to splits."""


class RGBDFolder(DepthDataset):
    """RGB-D frames below one folder. Depth must be registered to colour, pixel by pixel.

    Scenes, by which statistics cluster, are the sequences; if there is only one, blocks of consecutive frames.
    """

    places = frozenset({"root"})
    generic = True

    class Config(ComponentConfig):
        """Where the frames lie, how files are named and scaled, and how sequences are split."""

        root: str
        """Folder that holds one or more sequences, at any depth."""
        layout: Literal["auto", "seven_scenes", "tum", "icl_nuim", "folders"] = "auto"
        """Naming scheme; auto takes the one that the files show."""
        color: Pattern | None = None
        """Own pattern of colour files, such as "frame-{id}.color.jpg"; needs `depth` too."""
        depth: Pattern | None = None
        """Own pattern of depth files, such as "frame-{id}.depth.png"."""
        depth_scale: Annotated[float, Field(gt=0)] | None = None
        """File units in one metre; if it is not given it is assumed: 5000 for tum and icl_nuim, else 1000."""
        invalid: tuple[float, ...] = Field(default=(0, 65535), strict=False)
        """File values that mean unknown, beside all that are not positive and finite."""
        truth: Literal["raw", "filled", "rendered"] | None = None
        """What depth is: raw, as a sensor saw it; filled, without holes; rendered, exact. Default: the layout's."""
        shares: tuple[Share, Share, Share] = Field(default=(0.7, 0.1, 0.2), strict=False)
        """Shares of train, val and test: first, next and last part of every sequence."""
        gap: int = Field(default=0, ge=0)
        """Frames left out between two splits of a sequence, so that they do not show the same view."""
        resize: Resize = "none"
        """What is brought to the other's size where colour and depth differ in nothing else: color or depth."""
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
        self.units_per_metre = self._scale = float(config.depth_scale or self._layout.scale)
        if config.depth_scale is None and config.layout == "auto":
            self.assumed = f"the unit, {self._scale:g} file units per metre; another: --option depth_scale=N"
        self.truth = config.truth or self._layout.truth
        self._recordings, self._ignored = recordings(self._root, files, self._layout)
        self._pairs: dict[str, Pair] = {}
        self._frames: dict[str, list[FrameId]] = {split: [] for split in SPLITS}
        usable = [recording for recording in self._recordings if recording.pairs]
        self._refuse_own_splits([recording.folder for recording in usable])
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
        try:
            return Path(path).is_dir() and known_layout(files_below(Path(path)), "auto") is not None
        except DataError:
            return True  # of several layouts, which opening it explains

    @classmethod
    def advise(cls, path: Any) -> str:
        """The patterns found in a folder, counted, and the options that read it."""
        return advice(files_below(Path(path))) if Path(path).is_dir() else ""

    def complaints(self) -> Sequence[DataError]:
        """Sequences in which nothing pairs."""
        return [
            DataError(unpaired(recording), where=recording.folder or ".", hint=f"{PAIRING}; or move the folder away")
            for recording in self._recordings
            if not recording.pairs
        ]

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
        unit += "" if self.truth == "raw" else f" {self.truth}"
        unit += "" if self.config.resize == "none" else f" {self.config.resize}"
        rows = (f"{split} {f.frame} {f.scene} {self._files(f)}" for split in SPLITS for f in self._frames[split])
        return key_digest("rgbd_folder", self.version, unit, *rows).hex()

    def describe(self) -> str:
        """Layout, unit, counts per split, how files were paired, and what was left aside."""
        config = self.config
        counts = ", ".join(f"{split} {len(self._frames[split])}" for split in SPLITS)
        color, depth = (sum(len(getattr(r, kind)) for r in self._recordings) for kind in ("lone_color", "lone_depth"))
        said = " ASSUMED, another: --option depth_scale=N" if self.assumed else ""
        patterns = self._layout.name if config.color is None else f"{config.color} and {config.depth}"
        pairing = " or ".join(sorted({r.pairing for r in self._recordings if r.pairs}))
        shares = "/".join(f"{share:g}" for share in config.shares)
        resized = "" if config.resize == "none" else f", {config.resize} resized"
        return (
            f"RGB-D folder {self._root.name} ({patterns}, {self._scale:g} units per metre{said}, unknown are "
            f"{', '.join(f'{value:g}' for value in config.invalid) or 'values below 0'}{resized}): {counts}, "
            f"{self.truth} depth, by position in {len(self._recordings)} sequence(s), shares {shares} with gap "
            f"{config.gap}, scenes of {config.block} frames if there is one sequence; paired by {pairing}, "
            f"{color} colour and {depth} depth files without partner{ignored_text(self._ignored)}{self._layout.remark}"
        )

    def _choose_layout(self, files: list[str]) -> Layout:
        config = self.config
        if config.color is not None and config.depth is not None:
            return Layout("own patterns", config.color, config.depth, scale=1000)
        try:
            layout = known_layout(files, config.layout)
        except DataError as error:
            if config.depth_scale is None:
                raise error.at(str(self._root)) from None
            layout = FOLDERS
        if layout is not None:
            return layout
        raise DataError(
            f"expected colour and depth files of layout {config.layout}, found {len(files)} files of other names",
            where=str(self._root),
            hint=advice(files) or "point at a folder with colour and depth files",
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

    def _refuse_own_splits(self, folders: Sequence[str]) -> None:
        """Raises DataError for folders named like splits, unless shares are given: training would see test frames."""
        parts = {part for folder in folders for part in folder.split("/")}
        named = {part: kind for part in parts for kind, names in OWN_SPLITS.items() if part.lower() in names}
        if len(set(named.values())) > 1 and "shares" not in self.config.model_fields_set:
            raise DataError(
                f"folders {', '.join(sorted(named))} look like splits of their own; this data set cuts every sequence "
                "by position, so training would see frames of the test folder",
                where=str(self._root),
                hint="to keep them, point --data at the training folder and set data.test to the test folder, as in "
                '--set "data.test={use: rgbd_folder, root: TEST}"; to cut by position all the same, '
                "give --option shares=[0.7,0.1,0.2]",
            )

    def _refuse_empty_splits(self) -> None:
        if not self._pairs:
            files = files_below(self._root)
            raise DataError(
                f"no colour file has a depth file: {'; '.join(map(unpaired, self._recordings[:1])) or 'there are none'}"
                f"{ignored_text(self._ignored)}",
                where=str(self._root),
                hint=advice(files) if self.config.color is None else f"{PAIRING}: {advice(files)}",
            )
        for split, share in zip(SPLITS, self.config.shares, strict=True):
            if share > 0 and not self._frames[split]:
                raise DataError(
                    f"expected frames in every split, found 0 of {len(self._pairs)} in {split}: {self.describe()}",
                    where=str(self._root),
                    hint="more frames, a smaller gap (--option gap=0) or other shares (--option shares=[0.6,0.2,0.2])",
                )

    def _read(self, pair: Pair) -> Frame:
        color, depth = self._root / pair.color, self._root / pair.depth
        config = self.config
        return read_frame(color, depth, scale=self._scale, invalid=config.invalid, resize=config.resize)

    def _files(self, frame: FrameId) -> str:
        """Names and sizes of a frame's two files."""
        pair = self._pairs[frame.frame]
        return " ".join(f"{name} {file_bytes(self._root / name)}" for name in (pair.color, pair.depth))


def split_ranges(count: int, shares: Sequence[float], gap: int) -> list[range]:
    """Consecutive parts of `count` frames by share; a part that has frames before it leaves out its first `gap`."""
    ends = [round(count * sum(shares[: k + 1])) for k in range(len(shares))]
    starts = [0, *ends[:-1]]
    return [range(start + gap * (start > 0), end) for start, end in zip(starts, ends, strict=True)]
