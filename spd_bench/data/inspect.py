"""`spd-bench data inspect`: what lies at a path, and everything that is wrong with it, in one pass over its frames.

A problem is what makes frames unusable or numbers wrong; a note is what is worth knowing. Frames are read one by one,
so memory does not grow with them but for two numbers each. Depth quantiles are those of every 16th known pixel, to the
millimetre.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench import registry
from spd_bench.api import SPLITS, DepthDataset, Frame, FrameId
from spd_bench.data.plausible import Plausibility, Suspicion
from spd_bench.data.preflight import drawn_from, layout_of, open_dataset, refuse_malformed
from spd_bench.data.reading.frames import FARTHEST_M, check_indoor_depth
from spd_bench.data.sets.packed import PackedFrames, as_millimetres
from spd_bench.errors import DataError, SpdError
from spd_bench.protocol import Protocol
from spd_bench.protocol import protocol as protocol_named

LEAST_VALID = 1024
"""Valid pixels that a frame should have: the most query points at which the paper scores (§8)."""
PLACES = 5
"""Places that are listed of one kind of problem; the rest are counted."""
EVERY = 16
ROWS = 8
"""One row in this many is checked for whole millimetres."""
WHITE, BLACK = 220, 16
"""A border is white or black if no channel of it is darker or lighter; JPEG spreads both."""


@dataclass(frozen=True)
class DataProblem:
    """One kind of problem, with its cases counted."""

    message: str
    """Message of the first case."""
    count: int
    """Number of cases."""
    places: tuple[str, ...]
    """Places of the first cases, at most `PLACES`."""
    hint: str | None
    """How to mend the first case; None if it has no hint."""


@dataclass(frozen=True)
class DepthSpread:
    """Least, median and greatest of a number that each frame has."""

    least: float
    """Least value."""
    median: float
    """Median."""
    greatest: float
    """Greatest value."""


@dataclass(frozen=True)
class Split:
    """What a split holds."""

    frames: int
    """Number of frames."""
    scenes: int
    """Number of scenes."""
    read: int
    """Number of frames that were read without an error."""
    known: DepthSpread | None
    """Share (0 … 1) of a frame's pixels that have depth; None if no frame was read."""
    counted: DepthSpread | None
    """Share (0 … 1) of the protocol's crop that counts in scores; None if it was measured for no frame."""


@dataclass(frozen=True)
class Depth:
    """Range of the known depth, over all frames that were read."""

    least_m: float
    """Least known depth in metres."""
    percent_1_m: float
    """1 % quantile in metres, of every 16th known pixel and to the millimetre, as the other quantiles."""
    median_m: float
    """Median in metres."""
    percent_99_m: float
    """99 % quantile in metres."""
    greatest_m: float
    """Greatest known depth in metres."""
    whole_mm_frames: int
    """Number of frames in which every checked depth is a whole number of millimetres."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found. A data set that cannot be opened has its error as the only problem, and no splits."""

    path: str
    """Path of the data set."""
    dataset: str
    """Name of the data set component that reads it."""
    recognised: str
    """How the component was chosen: as asked for, or recognised by its layout."""
    protocol: str
    """Caption of the protocol whose crop and bounds are checked."""
    description: str = ""
    """The data set's description of itself, for people."""
    digest: str = ""
    """Digest of the data; empty if a file of it is missing or the data set cannot be opened."""
    assumed: str = ""
    """What is assumed of the files, and the option that says it."""
    truth: str = ""
    """Kind of the ground truth (`DepthDataset.truth`)."""
    stand_in: str = ""
    """What the data set replaces (`stand_in` of the component); empty for the real thing."""
    splits: dict[str, Split] = field(default_factory=dict)
    """What each split holds, by its name."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Number of frames of each size, by "rows×columns"."""
    depth: Depth | None = None
    """Range of the known depth; None if no pixel with depth was read."""
    notes: tuple[str, ...] = ()
    """Facts that are worth knowing and make nothing wrong."""
    problems: tuple[DataProblem, ...] = ()
    """Problems, by kind, in the order in which they were met."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a terminal."""
        facts = {
            "layout": f"{self.dataset} ({self.recognised})",
            "data": self.description,
            "ASSUMED": self.assumed,
            "stand-in": self.stand_in,
            "truth": self.truth,
            "digest": self.digest,
            "protocol": self.protocol,
            "size": ", ".join(f"{size} ({count} frames)" for size, count in self.sizes.items()),
            "depth": self._depth_line(),
        }
        lines = [self.path, *(f"{name:<9} {text}" for name, text in facts.items() if text)]
        if self.splits:
            lines += ["", *self._table().splitlines()]
        lines += ["", *(f"note: {note}" for note in self.notes)] if self.notes else []
        for problem in self.problems:
            more = problem.count - len(problem.places)
            lines += ["", f"problem, {problem.count} ×: {problem.message}"]
            lines += [f"  at: {place}" for place in problem.places]
            lines += [f"  and {more} more"] if more else []
            lines += [f"  hint: {problem.hint}"] if problem.hint else []
        count = len(self.problems)
        return [*lines, "", f"{count} kind{'s' * (count > 1)} of problem found" if count else "no problem found"]

    def _depth_line(self) -> str:
        if (depth := self.depth) is None:
            return ""
        read = sum(split.read for split in self.splits.values())
        return (
            f"{depth.least_m:.3f} to {depth.greatest_m:.3f} m; 1 % {depth.percent_1_m:.3f}, median "
            f"{depth.median_m:.3f}, 99 % {depth.percent_99_m:.3f}; whole millimetres in {depth.whole_mm_frames} of "
            f"{read} frames"
        )

    def _table(self) -> str:
        from tabulate import tabulate

        rows = [
            {
                "split": name,
                "frames": split.frames,
                "scenes": split.scenes,
                "read": split.read,
                "known depth": _percent(split.known),
                "counted in the crop": _percent(split.counted),
            }
            for name, split in self.splits.items()
        ]
        return str(tabulate(rows, headers="keys", tablefmt="simple"))


def _percent(spread: DepthSpread | None) -> str:
    """Least, median and greatest, as a reader of a table wants them."""
    values = (spread.least, spread.median, spread.greatest) if spread else ()
    return " / ".join(f"{100 * value:.1f} %" for value in values) or "–"


def inspect_data(
    path: Path,
    *,
    dataset: str | None,
    options: Mapping[str, Any] | None = None,
    protocol: str,
    on_frame: Callable[[int, int], None],
    limit: int | None = None,
) -> Inspection:
    """Reads every frame of the data set at `path` once, or `limit` of each split, spread over it.

    dataset: name of the data set component, recognised from the layout if it is not given. options: of the data set.
    protocol: the one whose crop and bounds are looked at. Nothing that is wrong with the data is raised: it is in
    `Inspection.problems`.

    Raises:
        ConfigError: an unknown data set or protocol.
        DataError: nothing lies there, or none or several data sets know the layout.
    """
    judged = protocol_named(protocol)
    name = layout_of(path, dataset)
    found = partial(
        Inspection,
        path=str(path),
        dataset=name,
        recognised="as asked for" if dataset else _how_recognised(name),
        protocol=judged.caption(),
    )
    problems = _Problems()
    try:
        data = open_dataset(name, path, options or {})
        frames = {split: list(data.frames(split)) for split in SPLITS}
    except DataError as error:
        problems.add(error, str(path))
        return found(problems=problems.found())
    seen = _Seen(judged, problems, Plausibility(data.units_per_metre, bool(data.assumed), judged.max_m))
    chosen = [(split, frame) for split in SPLITS for frame in _spread_over(frames[split], limit)]
    for done, (split, frame) in enumerate(chosen, start=1):
        seen.add(data, split, frame)
        on_frame(done, len(chosen))
    for complaint in data.complaints():
        problems.add(complaint, complaint.where or str(path))
    findings = seen.plausibility.findings()
    for finding in findings:
        if finding.is_problem:
            problems.add(finding.error, *(finding.places or (str(path),)), count=max(1, len(finding.places)))
    _check_sizes(seen.sizes, problems)
    _check_splits(frames, problems)
    return found(
        description=data.describe(),
        digest=_digest(data, str(path), problems),
        assumed=data.assumed,
        truth=data.truth,
        stand_in=data.stand_in,
        splits={split: seen.summary(split, frames[split]) for split in SPLITS},
        sizes={size: count for size, (count, _) in seen.sizes.items()},
        depth=seen.depth(),
        notes=(*_split_notes(frames), *_truth_notes(data, judged), *seen.border_notes(), *_noted(findings)),
        problems=problems.found(),
    )


def _digest(data: DepthDataset, path: str, problems: "_Problems") -> str:
    """The data's digest; "" where a file of it is missing, which is then among the problems."""
    try:
        return data.digest()
    except DataError as error:
        problems.add(error, path)
        return ""


def _noted(findings: Sequence[Suspicion]) -> list[str]:
    return [finding.note for finding in findings if not finding.is_problem]


def _how_recognised(name: str) -> str:
    """The words in which a data set says what it recognises."""
    text = (registry.load("dataset", name).recognise.__doc__ or "its layout").strip().splitlines()[0]
    return f"recognised: {text[0].lower()}{text[1:].rstrip('.')}"


def _spread_over(frames: Sequence[FrameId], limit: int | None) -> Sequence[FrameId]:
    """All frames, or `limit` of them at equal distances."""
    if limit is None or limit >= len(frames):
        return frames
    return [frames[i * len(frames) // limit] for i in range(limit)]


class _Problems:
    """Errors by kind: those whose messages differ in numbers, paths and what stands in brackets are of one kind."""

    VARIES = re.compile(r"\(.*\)|\S*[/\\]\S*|\d+(\.\d+)?", re.DOTALL)

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[SpdError, list[str], list[int]]] = {}

    def add(self, error: SpdError, *places: str, count: int = 1) -> None:
        """`count` more cases, of which `places` are the first; a place of the error's own is listed with them."""
        kind = self.VARIES.sub("…", error.message)
        _, known, counts = self._kinds.setdefault(kind, (error, [], []))
        counts.append(count)
        named = [f"{place}: {error.where}" if error.where not in (None, place) else place for place in places]
        known += named[: PLACES - len(known)]

    def found(self) -> tuple[DataProblem, ...]:
        """In the order in which the first of each kind was met."""
        return tuple(
            DataProblem(first.message, sum(counts), tuple(places), first.hint)
            for first, places, counts in self._kinds.values()
        )


class _Seen:
    """What one pass over the frames gathers."""

    def __init__(self, protocol: Protocol, problems: _Problems, plausibility: Plausibility) -> None:
        self.plausibility = plausibility
        self.sizes: dict[str, tuple[int, list[str]]] = {}
        self._protocol = protocol
        self._problems = problems
        self._known: dict[str, list[float]] = {split: [] for split in SPLITS}
        self._counted: dict[str, list[float]] = {split: [] for split in SPLITS}
        self._read = Counter[str]()
        self._millimetres_N = np.zeros(int(FARTHEST_M * 1000) + 1, np.int64)
        self._range_m = (math.inf, -math.inf)
        self._whole_mm = 0
        self._borders: dict[str, list[int]] = {"white": [], "black": []}

    def add(self, data: DepthDataset, split: str, name: FrameId) -> None:
        """Reads a frame, looks for everything that may be wrong with it, and takes its measures."""
        place = f"{split} frame {name.frame}"
        try:
            frame = data.read_verified(name) if isinstance(data, PackedFrames) else data.read(name)
            refuse_malformed(frame, place)
        except DataError as error:
            self._problems.add(error, place)
            return
        self._read[split] += 1
        self._measure(frame, split, place)
        self.plausibility.add(split, name.frame, name.scene, frame.image_HW3, frame.depth_m_HW)
        for check in (_check_unit, _check_holes, self._check_counted):
            try:
                check(frame, data, split, place)
            except DataError as error:
                self._problems.add(error, place)

    def summary(self, split: str, frames: Sequence[FrameId]) -> Split:
        """What a split holds."""
        scenes = {frame.scene for frame in frames}
        known, counted = _spread(self._known[split]), _spread(self._counted[split])
        return Split(len(frames), len(scenes), self._read[split], known, counted)

    def depth(self) -> Depth | None:
        """The range of all known pixels that were read; None if there are none."""
        total_N = self._millimetres_N.cumsum()
        if not total_N[-1]:
            return None
        low, middle, high = (float(np.searchsorted(total_N, q * total_N[-1]) / 1000) for q in (0.01, 0.5, 0.99))
        return Depth(self._range_m[0], low, middle, high, self._range_m[1], self._whole_mm)

    def border_notes(self) -> list[str]:
        """Uniform borders around the images, as NYU's synced frames and BTS-lineage test frames have them."""
        read = self._read.total()
        return [
            f"{len(widths)} of {read} images have a {colour} border of {min(widths)} to {max(widths)} pixels"
            for colour, widths in self._borders.items()
            if widths
        ]

    def _measure(self, frame: Frame, split: str, place: str) -> None:
        depth_m_HW: NDArray[np.float32] = frame.depth_m_HW
        height, width = depth_m_HW.shape
        count, places = self.sizes.get(f"{height}×{width}", (0, []))
        self.sizes[f"{height}×{width}"] = (count + 1, [*places, place][:PLACES])
        self._whole_mm += as_millimetres(np.ascontiguousarray(depth_m_HW[::ROWS])) is not None
        known_m_N = depth_m_HW[depth_m_HW > 0]
        self._known[split].append(known_m_N.size / depth_m_HW.size)
        if known_m_N.size:
            self._range_m = (
                min(self._range_m[0], float(known_m_N.min())),
                max(self._range_m[1], float(known_m_N.max())),
            )
            last = len(self._millimetres_N) - 1
            millimetres = np.rint(known_m_N[::EVERY].astype(np.float64) * 1000).clip(0, last).astype(np.int64)
            self._millimetres_N += np.bincount(millimetres, minlength=last + 1)
        self._measure_counted(frame, split, place)
        for colour, widths in self._borders.items():
            if border := _border(frame.image_HW3, colour):
                widths.append(border)

    def _check_counted(self, frame: Frame, data: DepthDataset, split: str, place: str) -> None:
        """Enough pixels to draw queries from: in train of the whole frame, elsewhere inside the crop."""
        crop = "" if split == "train" else f" inside the crop of protocol {self._protocol.name}"
        drawn = drawn_from(frame, split, self._protocol, where=place)
        if 0 < drawn < LEAST_VALID:
            raise DataError(
                f"has {drawn} valid pixels{crop}, fewer than {LEAST_VALID}",
                hint="drop the frame, or score fewer points",
            )
        if drawn == 0 and (frame.depth_m_HW > 0).any():
            raise DataError(f"has no valid pixel{crop}", hint="drop the frame; its depth lies outside crop or bounds")

    def _measure_counted(self, frame: Frame, split: str, place: str) -> None:
        """The share of the crop that counts; training frames may be of a size that the protocol does not know."""
        protocol = self._protocol
        height, width = frame.depth_m_HW.shape
        if protocol.frame in (None, (height, width)):
            area = math.prod(
                len(range(size)[slice(*(part or (0, size)))])
                for size, part in ((height, protocol.rows), (width, protocol.columns))
            )
            valid_HW = protocol.valid(frame.depth_m_HW, where=place)
            self._counted[split].append(float(valid_HW.sum()) / area)


def _check_unit(frame: Frame, data: DepthDataset, split: str, place: str) -> None:
    """Metres, as far as a median can tell, and at least one known pixel."""
    check_indoor_depth(frame.depth_m_HW[::ROWS] if (frame.depth_m_HW[::ROWS] > 0).any() else frame.depth_m_HW, place)


def _check_holes(frame: Frame, data: DepthDataset, split: str, place: str) -> None:
    """A sensor leaves holes: a map without one has been filled or rendered."""
    if data.truth == "raw" and (frame.depth_m_HW > 0).all():
        raise DataError(
            "expected raw depth, found no unknown pixel: the map is filled or rendered",
            hint="use the raw depth; of a folder of your own say --option truth=filled (or rendered, "
            "for exact depth); if a value means unknown, say --option 'invalid=[0, VALUE]'",
        )


def _check_sizes(sizes: dict[str, tuple[int, list[str]]], problems: _Problems) -> None:
    """Frames of another size than most."""
    most = max(sizes, key=lambda size: sizes[size][0], default="")
    for size, (count, places) in sizes.items():
        if size != most:
            error = DataError(f"is {size}, most frames are {most}", hint="keep frames of one size in one data set")
            problems.add(error, *places, count=count)


def _check_splits(frames: dict[str, list[FrameId]], problems: _Problems) -> None:
    """Every frame in one split, once; no split empty, unless there are test frames alone."""
    counts = Counter(frame.frame for each in frames.values() for frame in each)
    for name, count in counts.items():
        if count > 1:
            problems.add(DataError("is there more than once", hint="a frame belongs to one split"), f"frame {name}")
    if not _test_alone(frames):
        for split, each in frames.items():
            if not each:
                problems.add(DataError("has no frames", hint="use more frames or other splits"), f"split {split}")


def _test_alone(frames: dict[str, list[FrameId]]) -> bool:
    return bool(frames["test"]) and not frames["train"] and not frames["val"]


def _split_notes(frames: dict[str, list[FrameId]]) -> list[str]:
    """Which splits share scenes."""
    if _test_alone(frames):
        return ["test frames alone: use it as data.test"]
    scenes = {split: {frame.scene for frame in each} for split, each in frames.items()}
    shared = {(a, b): len(scenes[a] & scenes[b]) for a, b in combinations(SPLITS, 2)}
    if not any(shared.values()):
        return ["no scene is in two splits"]
    return [f"{count} scenes are in {a} and in {b}" for (a, b), count in shared.items() if count]


def _truth_notes(data: DepthDataset, protocol: Protocol) -> list[str]:
    """Whether the protocol is for this kind of depth."""
    try:
        protocol.check_truth(data.truth)
    except SpdError as error:
        return [f"{error.message}; {error.hint}"]
    return []


def _spread(values: Sequence[float]) -> DepthSpread | None:
    return DepthSpread(min(values), float(np.median(values)), max(values)) if values else None


def _border(image_HW3: NDArray[np.uint8], colour: str) -> int:
    """Width in pixels of a white or black frame around the image, that of its widest side; 0 unless on all sides."""
    sides = (image_HW3, image_HW3[::-1], image_HW3.swapaxes(0, 1), image_HW3.swapaxes(0, 1)[::-1])
    widths = [_uniform_rows(side, colour) for side in sides]
    return max(widths) if min(widths) > 0 and max(widths) < min(image_HW3.shape[:2]) // 2 else 0


def _uniform_rows(image_HW3: NDArray[np.uint8], colour: str) -> int:
    """How many rows from the first are white, or black, throughout."""
    for count, row_W3 in enumerate(image_HW3):
        if not ((row_W3 >= WHITE).all() if colour == "white" else (row_W3 <= BLACK).all()):
            return count
    return len(image_HW3)
