"""Files with a seal: a mark that says what the file is, and the SHA-256 of its content.

An HDF5 file carries its seal in its first 512 bytes, HDF5's smallest user block; a zip archive, such as a checkpoint,
in its comment. Either is written whole under its name or not at all (`store.files.write_bytes`).
"""

import hashlib
import io
import shutil
import zipfile
from pathlib import Path

from spd_bench.errors import ResourceError
from spd_bench.store import files

SEAL_BYTES = 512
BROKEN = "its SHA-256 is not the one it was written with"
SPARE_BYTES = 16 * 2**20
"""Disk that stays free beyond what is expected to be written."""


def write_hdf5(path: Path, mark: str, content: bytes) -> str:
    """Replaces `path` by an HDF5 file whose user block holds its seal; returns the SHA-256 of the file.

    mark: what the file is. content: the file with a user block of SEAL_BYTES, whatever that holds.
    """
    data = memoryview(content)[SEAL_BYTES:]
    whole = _block(mark, hashlib.sha256(data).hexdigest()) + data
    files.write_bytes(path, whole)
    return hashlib.sha256(whole).hexdigest()


def read_hdf5(path: Path, mark: str) -> bytes:
    """The content of a sealed HDF5 file; OSError if it has another mark or is not what was written.

    HDF5 may loop for ever in a damaged file, so this comes before it is opened.
    """
    content = path.read_bytes()
    if content[:SEAL_BYTES] != _block(mark, hashlib.sha256(memoryview(content)[SEAL_BYTES:]).hexdigest()):
        raise OSError(BROKEN)
    return content


def is_whole(path: Path, mark: str) -> bool:
    """Whether an HDF5 file is there with this mark and the content that it was written with. Reads all of it."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES) == _block(mark, hashlib.file_digest(file, "sha256").hexdigest())
    except FileNotFoundError:
        return False


def seal_of(path: Path) -> str:
    """The text of an HDF5 file's seal, which begins with its mark and a comma; reads nothing else."""
    with path.open("rb") as file:
        return file.read(SEAL_BYTES).rstrip(b"\0").decode(errors="replace")


def write_archive(path: Path, mark: str, archive: bytes) -> str:
    """Replaces `path` by a zip archive whose comment, which its readers skip, is its seal; returns its SHA-256."""
    comment = _comment(mark, archive)
    whole = archive[:-2] + len(comment).to_bytes(2, "little") + comment
    files.write_bytes(path, whole)
    return hashlib.sha256(whole).hexdigest()


def check_archive(content: bytes, mark: str) -> None:
    """Raises BadZipFile unless an archive is what was written; archives of earlier versions have no seal."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        comment, damaged = archive.comment, archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
    if comment and comment != _comment(mark, content[: -2 - len(comment)] + b"\0\0"):
        raise zipfile.BadZipFile(BROKEN)


def _block(mark: str, digest: str) -> bytes:
    return f"{mark}, SHA-256 of the HDF5 data: {digest}\n".encode().ljust(SEAL_BYTES, b"\0")


def _comment(mark: str, archive: bytes) -> bytes:
    return f"{mark}, SHA-256 {hashlib.sha256(archive).hexdigest()}".encode()


def require_space(folder: Path, needed: int, *, what: str, hint: str) -> None:
    """Raises ResourceError unless `needed` bytes and SPARE_BYTES are free. what: what needs them, in the message."""
    # Where the disk is full, HDF5 reports it late and may take the process with it.
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise ResourceError(
            f"{what} needs {(needed + SPARE_BYTES) / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            where=str(folder),
            hint=hint,
        )
