"""Files read where they lie: on disk, or uncompressed inside a tar or zip archive, which is never unpacked.

An archive is listed once; what is kept of a member is a `Span`, its place and length. Reading opens the file, takes
those bytes and closes it, so spans may cross forks and be pickled. Nothing is ever written to a member's name;
names, links and sizes are checked all the same, because an archive that tries is not the one it claims to be.
"""

import os
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spd_bench.errors import DataError

LARGEST_BYTES = 64 * 2**20
"""Of a file that is read as a whole: one frame. Those of NYU have at most 3.4 MB."""
DAMAGED = "the archive is damaged or was not downloaded completely; download it again"
TAR_BLOCK = 512
ZIP_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True)
class Span:
    """Consecutive bytes of a file."""

    path: Path
    """File that holds the bytes."""
    name: str
    """What the bytes are: a relative path, or the name of an archive's member."""
    offset: int
    """First byte, counted from the start of the file."""
    size: int
    """Number of bytes."""

    def __str__(self) -> str:
        return str(self.path) if self.path.as_posix().endswith(self.name) else f"{self.path}: {self.name}"

    def read(self) -> bytes:
        """The bytes.

        Raises:
            DataError: the file is gone, shorter than it was, or the span is too large for one frame.
        """
        if self.size > LARGEST_BYTES:
            raise DataError(
                f"expected at most {LARGEST_BYTES} bytes, found {self.size}",
                where=str(self),
                hint="no frame is so large",
            )
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=str(self), hint="check the file") from error
        if len(content) != self.size:
            raise DataError(f"expected {self.size} bytes, found {len(content)}", where=str(self), hint=DAMAGED)
        return content

    def part(self, offset: int, size: int) -> "Span":
        """Some bytes of this span, counted from its start."""
        return Span(self.path, self.name, self.offset + offset, size)


def file_span(path: Path, name: str = "") -> Span:
    """A whole file. Raises DataError if it is not there."""
    try:
        return Span(path, name or path.name, 0, path.stat().st_size)
    except OSError as error:
        raise DataError(f"cannot be read ({error})", where=str(path), hint="check the file") from error


def tar_members(path: Path) -> list[Span]:
    """The files in an uncompressed tar archive, in its order.

    Raises:
        DataError: the archive is compressed, damaged or cut short, holds a link, a device or a sparse file, or a
            member whose name leaves the archive's folder.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = list(tar)
            end = tar.offset
        with path.open("rb") as file:
            file.seek(end)
            closed = file.read(TAR_BLOCK) == bytes(TAR_BLOCK)
    except Exception as error:  # damaged headers raise TarError, OSError, ValueError, OverflowError, ...
        raise DataError(
            f"expected an uncompressed tar archive, found a damaged or foreign file ({error})",
            where=str(path),
            hint=DAMAGED + "; a .tar.gz has to be unpacked first",
        ) from error
    if not closed:  # tarfile takes a header that it cannot read for the end, and a missing end for a full archive
        raise DataError(f"expected an end mark after {len(members)} members, found none", where=str(path), hint=DAMAGED)
    for member in members:
        _check_name(member.name, path)
        if member.issparse() or not (member.isreg() or member.isdir()):
            raise DataError(
                f"expected plain files, found {member.name!r}, a link, a device or a sparse file",
                where=str(path),
                hint="use the archive as it was published",
            )
    return [Span(path, _plain(member.name), member.offset_data, member.size) for member in members if member.isreg()]


def first_tar_members(path: Path, count: int) -> list[str]:
    """Names of the first files in an uncompressed tar archive; none if the file is not one."""
    names: list[str] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                names += [_plain(member.name)] if member.isreg() else []
                if len(names) >= count:
                    break
    except Exception:
        return []
    return names


def zip_members(path: Path) -> list[Span]:
    """The files in a zip archive that stores them as they are.

    Raises:
        DataError: the archive is damaged, or a member is compressed or encrypted, or its name leaves the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            offsets = [_zip_data(file.fileno(), info) for info in infos]
    except Exception as error:  # damaged directories raise BadZipFile, OSError, struct.error, UnicodeError, ...
        raise DataError(
            f"expected a zip archive, found a damaged or foreign file ({error})", where=str(path), hint=DAMAGED
        ) from error
    size = path.stat().st_size
    for info, offset in zip(infos, offsets, strict=True):
        _check_name(info.filename, path)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise DataError(
                f"expected members stored as they are, found {info.filename} compressed or encrypted",
                where=str(path),
                hint=f"unpack it once, `unzip {path.name} -d {path.stem}`, and set root to the folder {path.stem}",
            )
        if offset + info.file_size > size:
            raise DataError(f"{info.filename} ends beyond the archive", where=str(path), hint=DAMAGED)
    return [
        Span(path, _plain(info.filename), offset, info.file_size) for info, offset in zip(infos, offsets, strict=True)
    ]


def _zip_data(file: int, info: zipfile.ZipInfo) -> int:
    """Where a member's bytes start: its local header has a name and an extra field of lengths of its own."""
    header = os.pread(file, ZIP_LOCAL_HEADER.size, info.header_offset)
    magic, name, extra = ZIP_LOCAL_HEADER.unpack(header)
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no local header of {info.filename}")
    return info.header_offset + ZIP_LOCAL_HEADER.size + int(name) + int(extra)


def _check_name(name: str, path: Path) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        raise DataError(
            f"expected names below the archive's own folder, found {name!r}",
            where=str(path),
            hint="use the archive as it was published",
        )


def _plain(name: str) -> str:
    """A member's name without a leading `./`."""
    return PurePosixPath(name).as_posix()
