"""A shard: the frozen features of some views in one immutable file.

A sealed file (`spd_bench.store.sealed`) whose HDF5 part holds

    map_0 … map_3   float16 [N, H, W, C], the encoder's four maps, contiguous and uncompressed (they do not compress)
    frame           strings [N], the frames that the views show
    crc32           uint32 [N], over a view's four maps one after the other

Once opened, a view is one read at a known place of each map, and its checksum is compared on every read. No file stays
open, so that processes may fork and shards may be as many as a data set needs.

Letters: N views of the shard, H W C rows, columns, channels of a map.
"""

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.data.reading.hdf5 import holds_own_bytes
from spd_bench.data.sets.packed import LIBVER, create_table
from spd_bench.store import sealed

Half = npt.NDArray[np.float16]
Shapes = tuple[tuple[int, int, int], ...]
"""Rows, columns and channels of the four maps."""
MAPS = ("map_0", "map_1", "map_2", "map_3")


class Damaged(Exception):
    """A shard is not what was written."""


def view_bytes(shapes: Shapes) -> int:
    """What one view takes."""
    return 2 * sum(height * width * channels for height, width, channels in shapes)


def write(path: Path, mark: str, frames: Sequence[str], maps_NHWC: Sequence[Half]) -> None:
    """Publishes a shard under its name, whole or not at all."""
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=LIBVER, userblock_size=sealed.SEAL_BYTES) as file:
        for name, map_NHWC in zip(MAPS, maps_NHWC, strict=True):
            file.create_dataset(name, data=map_NHWC)
        create_table(file, "frame", frames)
        rows = [[map_NHWC[row] for map_NHWC in maps_NHWC] for row in range(len(frames))]
        file.create_dataset("crc32", data=np.array([_checksum(row) for row in rows], np.uint32))
    sealed.write_hdf5(path, mark, buffer.getvalue())


@dataclass(frozen=True)
class Shard:
    """Where a shard's views lie."""

    path: Path
    """Path of the file."""
    shapes: Shapes
    """Rows, columns and channels of each of the four maps of a view."""
    offsets: tuple[int, ...]
    """First byte of each map's array in the file."""
    crc32_N: tuple[int, ...]
    """CRC-32 of each view, over its four maps one after the other."""

    @classmethod
    def open(cls, path: Path, mark: str, frames: Sequence[str], shapes: Shapes) -> "Shard":
        """Looks at a file's mark, names and arrays; Damaged unless they are those of this very shard."""
        import h5py

        try:
            if not sealed.seal_of(path).startswith(f"{mark},"):
                raise Damaged("another mark")
            with h5py.File(path, "r") as file:
                offsets = [_offset(file[name], (len(frames), *shape)) for name, shape in zip(MAPS, shapes, strict=True)]
                if [raw.decode() for raw in file["frame"][()].tolist()] != list(frames):
                    raise Damaged("other frames")
                crc32_N = tuple(file["crc32"][()].tolist())
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(str(error)) from error
        if len(crc32_N) != len(frames):
            raise Damaged("checksums are missing")
        return cls(path, shapes, tuple(offsets), crc32_N)

    def read(self, row: int) -> list[Half]:
        """The four maps [H, W, C] of one view; Damaged unless they have the checksum that they were written with."""
        maps_HWC = []
        try:
            with self.path.open("rb", buffering=0) as raw:
                for shape, offset in zip(self.shapes, self.offsets, strict=True):
                    map_HWC: Half = np.empty(shape, np.float16)
                    raw.seek(offset + row * map_HWC.nbytes)
                    if raw.readinto(map_HWC.data.cast("B")) != map_HWC.nbytes:
                        raise Damaged("it ends too soon")
                    maps_HWC.append(map_HWC)
        except OSError as error:
            raise Damaged(str(error)) from error
        if _checksum(maps_HWC) != self.crc32_N[row]:
            raise Damaged(f"view {row} has another checksum")
        return maps_HWC

    def check(self) -> None:
        """Damaged unless every view reads as it was written."""
        for row in range(len(self.crc32_N)):
            self.read(row)


def _checksum(maps_HWC: Sequence[Half]) -> int:
    crc = 0
    for map_HWC in maps_HWC:
        crc = zlib.crc32(map_HWC.data, crc)
    return crc


def _offset(array: Any, shape: tuple[int, ...]) -> int:
    """First byte of an array of this shape that lies in one piece in its own file; ValueError for any other."""
    if not holds_own_bytes(array) or array.shape != shape or array.dtype != np.float16 or array.chunks is not None:
        raise ValueError(f"expected float16 {list(shape)} in one piece, found {array!r}")
    offset = array.id.get_offset()
    if offset is None:
        raise ValueError("nothing is stored")
    return int(offset)
