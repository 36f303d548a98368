"""Data set `packed`: any data set's frames in one HDF5 file, as `spd-bench data prepare` writes them.

The file has a header of 512 bytes that names the format, then HDF5 with checksums on every block:

    rgb        uint8 [N, H, W, 3], one chunk a frame, uncompressed: reads nine times as fast as lzf, 1.2 times its size
    depth_mm   uint16 [N, H, W], shuffle and gzip; holds the frames whose every value is a whole millimetre
    depth_m    float32 [N, H, W], likewise; holds the other frames. A frame's chunk in one of the two is not stored
    whole_mm   uint8 [N], 1 for the frames in depth_mm
    frame, scene, split, sha256   strings [N]; SHA-256 is over the frame's RGB and float32 depth as they were read
    attributes about the source (`PackRecord`), and the digest of the whole

A frame that is read is the source's frame to the bit.

Letters: N frames, H W rows and columns of a frame, 3 red, green, blue.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.api import SPLITS, ComponentConfig, DepthDataset, Frame, FrameId, check_split
from spd_bench.data.randomness import key_digest
from spd_bench.data.reading.hdf5 import holds_own_bytes
from spd_bench.data.reading.untrusted import problem_of
from spd_bench.errors import ConfigError, DataError

FORMAT = 1
MAGIC = b"spd-bench packed frames, format "
HEADER = (MAGIC + b"%d\n" % FORMAT).ljust(512, b"\0")
"""What stands before the HDF5 data, in its user block; written last, so that a file that has it is whole."""
LIBVER = ("v110", "v110")
"""HDF5 1.10's format: the first whose metadata carry checksums. In older ones damage can hang the reader."""
TABLES = ("frame", "scene", "split", "sha256")
PIXELS = ("rgb", "depth_mm", "depth_m")
LARGEST_SIDE = 8192
DAMAGED = "the file is damaged or not one that spd-bench has packed: pack the source again"


@dataclass(frozen=True, kw_only=True)
class PackRecord:
    """What a pack says of its source."""

    source: str
    """Component name of the data set."""
    source_digest: str
    """Digest of the data set."""
    description: str
    """What the data set's `describe` returns."""
    truth: str
    """Kind of its depth, such as raw, filled or rendered."""
    stand_in: str
    """What the data set stands in for; empty for the real one."""
    versions: str
    """Versions of the tools that packed it."""


class PackedFrames(DepthDataset):
    """The frames of one packed file, with the splits, scenes, truth and stand-in of the data set it was made from."""

    places = frozenset({"root"})

    class Config(ComponentConfig):
        """Which file."""

        root: str
        """The packed file."""

    def __init__(self, config: Config) -> None:
        if gap := self.missing(config):
            raise DataError(gap, where=config.root, hint="make one with `spd-bench data prepare PATH OUTPUT`")
        self.config = config
        self._path = Path(config.root).resolve()
        self._open: dict[int, Any] = {}
        file = open_checked(self._path)
        with _told(self._path):
            self.about = read_about(file)
            tables = {name: [raw.decode() for raw in file[name][()].tolist()] for name in TABLES}
            self.shape: tuple[int, int] = file["rgb"].shape[1:3]
            self._whole_mm = file["whole_mm"][()].astype(bool)
            self._digest = _text(file, "digest")
        self.truth, self.stand_in = self.about.truth, self.about.stand_in
        self._sha256 = tables["sha256"]
        self._row = {name: row for row, name in enumerate(tables["frame"])}
        self._frames: dict[str, list[FrameId]] = {split: [] for split in SPLITS}
        with _told(self._path):
            for name, scene, split in zip(tables["frame"], tables["scene"], tables["split"], strict=True):
                self._frames[split].append(FrameId(name, scene))
            self._refuse_inconsistent()
        self._open[os.getpid()] = file

    @classmethod
    def missing(cls, config: Any) -> str | None:
        """Whether the file is absent."""
        return None if Path(config.root).is_file() else f"there is no packed file {config.root}"

    @classmethod
    def recognise(cls, path: Any) -> bool:
        """A file that begins with the mark of this format."""
        try:
            with Path(path).open("rb") as file:
                return file.read(len(MAGIC)) == MAGIC
        except OSError:
            return False

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split, in the order of the source."""
        check_split(split)
        return self._frames[split]

    def read(self, frame: FrameId) -> Frame:
        """One frame, as the source gave it. ConfigError for a frame of another data set, DataError for damage."""
        if frame.frame not in self._row:
            raise ConfigError(f'no frame "{frame.frame}"', where=str(self._path), hint=f"it is {self.describe()}")
        row = self._row[frame.frame]
        file = self._file()
        image_HW3 = np.empty((*self.shape, 3), np.uint8)
        depth_HW = np.empty(self.shape, np.uint16 if self._whole_mm[row] else np.float32)
        with _told(f"{self._path}, frame {frame.frame}"):
            file["rgb"].read_direct(image_HW3, np.s_[row])
            depth = file["depth_mm" if self._whole_mm[row] else "depth_m"]
            if depth.id.get_chunk_info_by_coord((row, 0, 0)).byte_offset is None:
                raise ValueError("its depth is not stored where whole_mm says")  # HDF5 would read zeros
            depth.read_direct(depth_HW, np.s_[row])
        return Frame(image_HW3, metres(depth_HW) if self._whole_mm[row] else depth_HW)

    def read_verified(self, frame: FrameId) -> Frame:
        """One frame, refused with a DataError unless it has the SHA-256 that it was packed with."""
        read = self.read(frame)
        if frame_digest(read) != self._sha256[self._row[frame.frame]]:
            raise DataError("not the frame that was packed", where=f"{self._path}, frame {frame.frame}", hint=DAMAGED)
        return read

    def digest(self) -> str:
        """SHA-256 over every frame's SHA-256, name, scene and split, the size, truth and stand-in."""
        return self._digest

    def describe(self) -> str:
        """What the source said of itself."""
        return f"packed: {self.about.description}"

    def __getstate__(self) -> dict[str, Any]:
        """Without the open file: another process opens its own."""
        return {**self.__dict__, "_open": {}}

    def _file(self) -> Any:
        """The file, checked, opened once per process: a handle must not cross a fork."""
        pid = os.getpid()
        if pid not in self._open:
            file = open_checked(self._path)
            with _told(self._path):
                if _text(file, "digest") != self._digest:
                    raise ValueError("another pack has been put in its place")
            self._open[pid] = file
        return self._open[pid]

    def _refuse_inconsistent(self) -> None:
        """ValueError unless the tables are those that the digest was taken of."""
        if len(self._row) < len(self._sha256):
            raise ValueError("it holds a frame twice")
        rows = [(split, f, self._sha256[self._row[f.frame]]) for split in SPLITS for f in self._frames[split]]
        if (found := content_digest(self.about, self.shape, rows)) != self._digest:
            raise ValueError(f"its content has digest {found}, it says {self._digest}")


@contextmanager
def _told(where: Path | str) -> Iterator[None]:
    """What HDF5 and Python raise for bytes that make no sense, as a DataError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(where), hint=DAMAGED) from error


def metres(depth_mm_HW: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Whole millimetres as float32 metres, rounded once."""
    depth_m_HW = depth_mm_HW.astype(np.float32)
    depth_m_HW /= np.float32(1000)
    return depth_m_HW


def as_millimetres(depth_m_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16] | None:
    """The uint16 millimetres from which `metres` gives this very map to the bit; None if there are none."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded_HW = np.rint(depth_m_HW * np.float32(1000))
    if not ((rounded_HW >= 0) & (rounded_HW <= np.iinfo(np.uint16).max)).all():
        return None
    depth_mm_HW: npt.NDArray[np.uint16] = rounded_HW.astype(np.uint16)
    return depth_mm_HW if metres(depth_mm_HW).tobytes() == depth_m_HW.tobytes() else None


def frame_digest(frame: Frame) -> str:
    """SHA-256 of a frame's RGB bytes followed by its float32 depth bytes, row by row."""
    sha256 = hashlib.sha256(np.ascontiguousarray(frame.image_HW3).data)
    sha256.update(np.ascontiguousarray(frame.depth_m_HW).data)
    return sha256.hexdigest()


def content_digest(about: PackRecord, shape: tuple[int, int], rows: Iterable[tuple[str, FrameId, str]]) -> str:
    """SHA-256 of a pack's content, from (split, frame, its SHA-256) in order. No name holds a NUL."""
    size = f"{shape[0]}x{shape[1]}"
    lines = ("\0".join((split, frame.frame, frame.scene, sha256)) for split, frame, sha256 in rows)
    return key_digest("packed", PackedFrames.version, about.truth, about.stand_in, size, *lines).hex()


def create_arrays(file: Any, count: int, shape: tuple[int, int]) -> None:
    """The three arrays of pixels in a new HDF5 file; a chunk that is never written takes no space."""
    gzip = {"compression": "gzip", "compression_opts": 4, "shuffle": True}  # reads as fast as level 1, a fifth smaller
    for name, dtype, axes, codec in (
        ("rgb", np.uint8, (*shape, 3), {}),
        ("depth_mm", np.uint16, shape, gzip),
        ("depth_m", np.float32, shape, gzip),
    ):
        file.create_dataset(name, (count, *axes), dtype, chunks=(1, *axes), fletcher32=True, **codec)


def create_table(file: Any, name: str, texts: Sequence[str]) -> None:
    """A column of strings. Of fixed length, because HDF5 keeps variable ones where no checksum covers them."""
    import h5py

    raw = [text.encode() for text in texts]
    dtype = h5py.string_dtype("utf-8", max(1, *map(len, raw)))
    file.create_dataset(name, data=np.array(raw, dtype), chunks=True, fletcher32=True)


def write_about(file: Any, about: PackRecord, digest: str) -> None:
    """The attributes of the file."""
    import h5py

    for name, value in (*asdict(about).items(), ("digest", digest)):
        file.attrs.create(name, value.encode(), dtype=h5py.string_dtype("utf-8", max(1, len(value.encode()))))


def read_about(file: Any) -> PackRecord:
    """The attributes of the file; TypeError if one is missing or no text."""
    return PackRecord(**{field.name: _text(file, field.name) for field in fields(PackRecord)})


def open_checked(path: Path) -> Any:
    """The HDF5 file, open for reading, its mark, arrays and tables checked; DataError for anything else."""
    import h5py

    with _told(path):
        with path.open("rb") as raw:
            header = raw.read(len(HEADER))
        if header != HEADER:
            found = _first_line(header) if header.startswith(MAGIC) else "another file"
            raise DataError(f"expected a {_first_line(HEADER)}, found {found}", where=str(path), hint=DAMAGED)
        if (problem := problem_of(path)) is not None:
            raise ValueError(problem)
        file = h5py.File(path, "r")
        try:
            _check_layout(file)
        except BaseException:
            file.close()
            raise
        return file


def _first_line(header: bytes) -> str:
    return header.split(b"\n")[0].decode(errors="replace")


def _check_layout(file: Any) -> None:
    """ValueError unless every array has its type and shape, its checksum, and its bytes in this very file.

    A file can claim any size: that as many chunks are stored as there are frames bounds what is read.
    """
    arrays = {name: _own(file, name) for name in (*PIXELS, *TABLES, "whole_mm")}
    count, height, width = arrays["rgb"].shape[:3]
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise ValueError(f"frames of {height}×{width}")
    shape = (count, height, width)
    for name, dtype, expected in (
        ("rgb", np.uint8, (*shape, 3)),
        ("depth_mm", np.uint16, shape),
        ("depth_m", np.float32, shape),
    ):
        array = arrays[name]
        if array.shape != expected or array.dtype != dtype or array.chunks != (1, *expected[1:]):
            raise ValueError(f"{name} of shape {array.shape}, {array.dtype}, in chunks of {array.chunks}")
    stored = {name: arrays[name].id.get_num_chunks() for name in PIXELS}
    if not stored["rgb"] == stored["depth_mm"] + stored["depth_m"] == count:
        raise ValueError(f"{count} frames, stored are {stored}")
    for name in (*TABLES, "whole_mm"):
        kind = "u" if name == "whole_mm" else "S"
        if arrays[name].shape != (count,) or arrays[name].dtype.kind != kind or arrays[name].dtype.itemsize > 4096:
            raise ValueError(f"{name} of shape {arrays[name].shape}, {arrays[name].dtype}")
    if int(np.count_nonzero(arrays["whole_mm"][()])) != stored["depth_mm"]:
        raise ValueError("whole_mm does not say where depth is stored")


def _own(file: Any, name: str) -> Any:
    """An array whose bytes lie in this very file, with checksums: HDF5 can point a name or its storage elsewhere."""
    import h5py

    item: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not holds_own_bytes(item) or not item.fletcher32:
        raise ValueError(f"{name} is no array with checksums in the file itself")
    return item


def _text(file: Any, name: str) -> str:
    value = file.attrs.get(name)
    if not isinstance(value, bytes):
        raise TypeError(f"attribute {name} is {value!r:.40}, no text of fixed length")
    return value.decode()
