"""What writing much to disk needs: room for it, its refusals as errors of ours, and files that prove their content.

A sealed file begins with 512 bytes, HDF5's smallest user block, that say what it is and the SHA-256 of all that
follows. It is written whole under its name or not at all (`store.files.write_bytes`).
"""

import hashlib
import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spd_bench.errors import ResourceError, SpdError
from spd_bench.store import files

SEAL_BYTES = 512
SPARE_BYTES = 16 * 2**20
"""Disk that stays free beside what is expected to be written."""


def seal(mark: str, digest: str) -> bytes:
    """What a sealed file begins with. mark: what the file is; digest: SHA-256 of the rest, in hexadecimal."""
    return f"{mark}, SHA-256 of the HDF5 data: {digest}\n".encode().ljust(SEAL_BYTES, b"\0")


def write_sealed(path: Path, mark: str, content: bytes) -> str:
    """Replaces `path` by `content` behind its seal, at once or not at all; returns the SHA-256 of the file."""
    whole = seal(mark, hashlib.sha256(content).hexdigest()) + content
    files.write_bytes(path, whole)
    return hashlib.sha256(whole).hexdigest()


def write_archive(path: Path, mark: str, archive: bytes) -> str:
    """Replaces `path` by a zip archive whose comment, which its readers skip, is its seal; returns its SHA-256."""
    comment = _comment(mark, archive)
    whole = archive[:-2] + len(comment).to_bytes(2, "little") + comment
    files.write_bytes(path, whole)
    return hashlib.sha256(whole).hexdigest()


def check_archive(content: bytes, mark: str) -> None:
    """BadZipFile unless an archive is what was written; those of earlier versions have only their own checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        comment, damaged = archive.comment, archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged} is wrong")
    if comment and comment != _comment(mark, content[: -2 - len(comment)] + b"\0\0"):
        raise zipfile.BadZipFile("its SHA-256 is not the one it was written with")


def _comment(mark: str, archive: bytes) -> bytes:
    return f"{mark}, SHA-256 {hashlib.sha256(archive).hexdigest()}".encode()


def is_whole(path: Path, mark: str) -> bool:
    """Whether a file is there with this mark and the content that it was written with. Reads all of it."""
    try:
        with path.open("rb") as file:
            return file.read(SEAL_BYTES) == seal(mark, hashlib.file_digest(file, "sha256").hexdigest())
    except FileNotFoundError:
        return False


def clear_debris(folder: Path) -> None:
    """Removes what killed processes left half-written; only for who holds the folder's lock."""
    for left in folder.glob(".*.tmp"):
        files.remove(left)


def require_space(folder: Path, needed: int, *, what: str, hint: str) -> None:
    """ResourceError unless `needed` bytes and some to spare are free. what: what needs them."""
    # Where the disk is full, HDF5 reports it late and may take the process with it.
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise ResourceError(
            f"{what} needs {(needed + SPARE_BYTES) / 1e6:.0f} MB, {free / 1e6:.0f} MB are free",
            where=str(folder),
            hint=hint,
        )


@contextmanager
def translate_os_errors(where: Path, *, hint: str) -> Iterator[None]:
    """What the disk refuses, as a ResourceError."""
    try:
        yield
    except SpdError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: HDF5's word for a disk that filled up while it wrote
        raise ResourceError(f"cannot be written ({error})", where=str(where), hint=hint) from error
