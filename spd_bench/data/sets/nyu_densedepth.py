"""NYU Depth V2's test frames as DenseDepth packs them: `nyu_test.zip`, or its three arrays unpacked (§8, R-24).

    eigen_test_rgb.npy      (654, H, W, 3) uint8
    eigen_test_depth.npy    (654, H, W) metres, filled
    eigen_test_crop.npy     [20, 459, 24, 615], first and last row and column of the box that is scored

Frames lie in the order of the labelled indices. Each is read alone, from its place in the file or in the zip.

Letters: N frames, H W rows and columns of a frame, 3 red, green, blue.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from spd_bench.api import ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.archives import Span, file_span, zip_members
from spd_bench.data.sets.nyu_layouts import (
    SIZE,
    TEST_FRAMES,
    check_truth,
    counts,
    labelled_frame,
    nyu_frame,
    split_frames,
)
from spd_bench.data.sets.nyu_scenes import labelled_frames
from spd_bench.errors import DataError

ZIP = "nyu_test.zip"
RGB, DEPTH, CROP = "eigen_test_rgb.npy", "eigen_test_depth.npy", "eigen_test_crop.npy"
BOX = [20, 459, 24, 615]
SOURCE = "use the file as DenseDepth published it"
UNIT = "depth of this layout is in metres; " + SOURCE
LARGEST_HEADER = 16 * 1024


class NYUDenseDepth(DepthDataset):
    """The 654 test frames of the Eigen split with filled depth; test frames alone.

    DenseDepth scores them inside rows 20:460 and columns 24:616: protocol `nyu_densedepth`.
    """

    truth = "filled"
    places = frozenset({"root"})

    class Config(ComponentConfig):
        """Where the arrays lie."""

        root: str = Field(default_factory=lambda: os.environ.get("NYU_DENSEDEPTH_ROOT", "./data/nyu_densedepth"))
        """The zip, the folder that holds it, or the folder with the arrays; default: environment variable
        NYU_DENSEDEPTH_ROOT, else ./data/nyu_densedepth."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="set root or NYU_DENSEDEPTH_ROOT")
        files = _files(Path(config.root))
        self._rgb_NHW3 = ArrayStack.of(files[RGB], (TEST_FRAMES, *SIZE, 3), ("uint8",))
        self._depth_m_NHW = ArrayStack.of(files[DEPTH], (TEST_FRAMES, *SIZE), ("float32", "float64"))
        if CROP in files:
            _check_crop(files[CROP])
        indices = sorted(row.index0 for row in labelled_frames().values() if row.split == "test")
        self._place = {f"{index:05d}": place for place, index in enumerate(indices)}
        self._frames = split_frames([], [labelled_frame(index, "test") for index in indices], where=config.root)
        first = self.read(self._frames["test"][0])
        check_truth(first.depth_m_HW, self.truth, str(files[DEPTH]), hint=SOURCE)

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Which of the arrays is not there, and where they come from."""
        root = Path(config.root)
        if root.is_file() or cls.recognise(root):
            return None
        return f"{root} has neither {ZIP} nor {RGB} and {DEPTH}: they come from the repository of DenseDepth"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """The zip under its own name, or a folder that holds it or the arrays."""
        place = Path(path)
        if place.is_file():
            return place.name == ZIP
        return (place / ZIP).is_file() or all((place / name).is_file() for name in (RGB, DEPTH))

    def frames(self, split: str) -> Sequence[FrameId]:
        """The test frames, by rising index; nothing in the other splits."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame; raises DataError for a file that fails to read or fails the unit gate."""
        place = self._place[frame.frame]
        depth_m_HW = self._depth_m_NHW.read(place).astype(np.float32)
        depth_m_HW[~(depth_m_HW > 0) | ~np.isfinite(depth_m_HW)] = 0
        return nyu_frame(self._rgb_NHW3.read(place), depth_m_HW, f"{self._depth_m_NHW.span}, frame {place}", hint=UNIT)

    def digest(self) -> str:
        """SHA-256 over names, scenes and the arrays' sizes; where they lie and a zip around them do not enter."""
        sizes = (self._rgb_NHW3.span.size, self._depth_m_NHW.span.size)
        rows = (f"{frame.frame} {frame.scene}" for frame in self._frames["test"])
        return key_digest("nyu_densedepth", self.version, *sizes, *rows).hex()

    def describe(self) -> str:
        """How many frames, the kind of depth and the protocol that these arrays were made for."""
        return (
            f"NYU Depth V2 test frames (DenseDepth's arrays), Eigen split: {counts(self._frames)}; filled depth; "
            "made for protocol nyu_densedepth (rows 20:460, columns 24:616)"
        )


class ArrayStack(NamedTuple):
    """An array file whose first axis counts frames, read frame by frame: never more than one is in memory."""

    span: Span
    """Bytes of the .npy file, its header included."""
    start: int
    """First byte of the values, counted from the start of the span."""
    dtype: str
    """NumPy's name of the type of one value."""
    shape: tuple[int, ...]
    """Shape of the whole array; the first axis counts frames."""

    @classmethod
    def of(cls, span: Span, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> "ArrayStack":
        """The array in `span`, if it has this shape and one of these types.

        Raises:
            DataError: it has another, holds pickled objects, lies in Fortran order, or the file has another length.
        """
        found, fortran, dtype, start = _header(span)
        if found != shape or fortran or dtype.name not in dtypes or not dtype.isnative:
            order = " in Fortran order" if fortran else ""
            raise DataError(
                f"expected an array of shape {shape} and type {' or '.join(dtypes)}, found {found} and {dtype}{order}",
                where=str(span),
                hint=SOURCE + "; float16 and 8-bit copies have lost precision (4 mm to 4 cm)",
            )
        expected = start + int(np.prod(shape)) * dtype.itemsize
        if span.size != expected:
            raise DataError(
                f"expected {expected} bytes, found {span.size}: the file is cut short or padded",
                where=str(span),
                hint="download it again",
            )
        return cls(span, start, dtype.name, shape)

    def read(self, place: int) -> npt.NDArray[Any]:
        """Frame number `place`, from 0, as an array of its own."""
        size = int(np.prod(self.shape[1:])) * np.dtype(self.dtype).itemsize
        content = self.span.part(self.start + place * size, size).read()
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:]).copy()


def _files(root: Path) -> dict[str, Span]:
    """The arrays by name, out of the zip if there is one.

    Raises DataError for a zip without the arrays, or with compressed ones.
    """
    archive = root if root.is_file() else root / ZIP
    if all((root / name).is_file() for name in (RGB, DEPTH)):
        return {name: file_span(root / name) for name in (RGB, DEPTH, CROP) if (root / name).is_file()}
    files = {Path(span.name).name: span for span in zip_members(archive)}
    if absent := [name for name in (RGB, DEPTH) if name not in files]:
        raise DataError(
            f"expected {' and '.join(absent)} in it, found {sorted(files)}", where=str(archive), hint=SOURCE
        )
    return files


def _header(span: Span) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order and type that a .npy file claims, and where its data start. DataError for any other file."""
    head = BytesIO(span.part(0, min(span.size, LARGEST_HEADER)).read())
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(head)
    except Exception as error:  # damaged headers raise ValueError, KeyError, EOFError, tokenize.TokenError, ...
        raise DataError(
            f"expected a NumPy array, found a damaged or foreign file ({error})", where=str(span), hint=SOURCE
        ) from error
    if dtype.hasobject:
        raise DataError("expected numbers, found pickled objects, which are never loaded", where=str(span), hint=SOURCE)
    return shape, fortran, dtype, head.tell()


def _check_crop(span: Span) -> None:
    """The box must be the one that protocol nyu_densedepth is made of."""
    shape, _, dtype, start = _header(span)
    data = span.read()[start:]
    found = np.frombuffer(data, dtype).tolist() if len(data) == 4 * dtype.itemsize else f"an array of shape {shape}"
    if found != BOX:
        raise DataError(f"expected {BOX}, first and last row and column, found {found}", where=str(span), hint=SOURCE)
