"""The numbers that a depth file stores, by what its container is; every other file is refused by its name.

A library that decodes an image may scale, swap or turn what is stored. So the container is looked at first, by its
first bytes, and what changes the meaning of its pixels is applied or refused: a maximum value, byte order, sample
format, significant bits, orientation, a scale in the header.

Letters: H W rows and columns.
"""

import importlib
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd_bench.data.reading.archives import LARGEST_BYTES, Span, file_span
from spd_bench.data.reading.hdf5 import open_hdf5, own_dataset, reading
from spd_bench.data.reading.images import DEPTH_MODES, LARGEST_SIDE, decode_image, refuse_turned
from spd_bench.errors import DataError

Values = npt.NDArray[Any]

DEPTH_SUFFIXES = frozenset(
    {".png", ".tif", ".tiff", ".npy", ".npz", ".pgm", ".pfm", ".jp2", ".j2k", ".exr", ".h5", ".hdf5"}
)
"""Files that may hold metric depth and are read."""
PREVIEW_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm"})
"""Pictures of depth for the eye: 8 bits, often with losses."""
OTHER_DEPTH_SUFFIXES = frozenset(
    {".mat", ".bin", ".raw", ".dat", ".depth", ".zip", ".ply", ".dpt", ".flo", ".pcd", ".xz"}
)
"""Files in which others keep depth, which are not read."""
READ = "16-bit PNG, PGM and JPEG 2000, TIFF, PFM, .npy, .npz, EXR and HDF5"
SAVE = "numpy.save('NAME.npy', depth.astype('float32'))"
EIGHT_BITS = (
    "8-bit depth is scaled and rounded for display or for DenseDepth's training set (255 = 10 m, steps of 4 cm) and "
    "cannot be scored as metric depth; use the original 16-bit files"
)
LOSSLESS = {1, 5, 8, 32773, 32946, 50000}
"""TIFF's compressions that keep every value and are read: none, LZW, deflate, PackBits, old deflate, Zstandard."""
PREDICTED = {5, 8, 32946, 50000}
"""Those of them for which TIFF defines a predictor."""


def read_values(path: Path | Span) -> Values:
    """What the file stores, [H, W], integers of 16 bits or more or floats.

    Raises:
        DataError: the file is missing, damaged, of a format that is not read, or says something of its pixels that
            would have to be guessed.
    """
    where = str(path)
    head = _head(path)
    if isinstance(path, Path) and (head.startswith(b"\x93NUMPY") or path.suffix == ".npy"):
        return read_array(path)
    for magic, read in _READERS:
        if head.startswith(magic):
            return _checked(read(path, where), where)
    for magic, (name, mend) in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{name} is not read as depth; read are {READ}", where=where, hint=mend)
    return _checked(_grey(path, where), where)


def read_array(path: Path) -> Values:
    """The array of a `.npy` file, [H, W]. Raises DataError as `read_values`."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim more than the file has
    except FileNotFoundError:
        raise DataError("expected an array, found no such file", where=str(path), hint="check the path") from None
    except Exception as error:  # damaged headers raise OSError, ValueError, EOFError, tokenize.TokenError, ...
        raise DataError(
            f"expected a NumPy array without pickled objects, found a damaged or foreign file ({error})",
            where=str(path),
            hint="save it again with numpy.save",
        ) from error
    return np.array(_checked(array, str(path)))


def _checked(array: Values, where: str) -> Values:
    """The array, if it can hold depth."""
    if array.ndim != 2 or array.dtype.kind not in "iuf" or array.dtype.itemsize < 2 or array.dtype == np.float16:
        raise DataError(
            f"expected depth of shape (H, W) in float32, float64 or integers of 16 bits or more, "
            f"found {array.dtype} of shape {array.shape}",
            where=where,
            hint="float16 and 8-bit depth have lost precision (4 mm to 4 cm); save the original values",
        )
    if not all(0 < side <= LARGEST_SIDE for side in array.shape):
        raise DataError(f"expected 1 to {LARGEST_SIDE} pixels a side, found {array.shape}", where=where)
    return array


def _head(path: Path | Span) -> bytes:
    try:
        if isinstance(path, Span):
            return path.part(0, min(path.size, 16)).read()
        with path.open("rb") as file:
            return file.read(16)
    except OSError:
        return b""  # the reader that follows raises the error


def _content(path: Path | Span) -> bytes:
    return (path if isinstance(path, Span) else file_span(path)).read()


# ------------------------------------------------------------------------------------------ images by their format


def _grey(path: Path | Span, where: str) -> Values:
    """An image of one channel and 16 bits or more, as Pillow decodes it. The callers look at the container."""
    try:
        image = decode_image(BytesIO(path.read()) if isinstance(path, Span) else path, where=where)
    except FileNotFoundError:
        raise DataError("expected an image, found no such file", where=where, hint="check the path") from None
    if image.mode not in DEPTH_MODES:
        raise DataError(
            f"expected depth with 16 bits or more, found PIL mode {image.mode} (8 bits per channel)",
            where=where,
            hint=EIGHT_BITS,
        )
    if image.format not in ("PNG", "TIFF", "JPEG2000"):
        raise DataError(f"{image.format} is not read as depth; read are {READ}", where=where, hint=f"convert: {SAVE}")
    return np.asarray(image)


def _png(path: Path | Span, where: str) -> Values:
    content = _content(path)
    for kind, data in _png_chunks(content):
        if kind == b"sBIT" and data[:1] != b"\x10" and len(data) == 1:
            raise DataError(
                f"says that {data[0]} of its 16 bits are significant (sBIT): the values may have been stretched",
                where=where,
                hint="write the PNG again without that chunk, values as they are",
            )
    refuse_turned(content, where)
    return _grey(path, where)


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The chunks before the pixels; stops where the file does."""
    found: list[tuple[bytes, bytes]] = []
    place = 8
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        if kind in (b"IDAT", b"IEND"):
            break
        found.append((kind, content[place + 8 : place + 8 + min(size, 64)]))
        place += 12 + size
    return found


def _tiff(path: Path | Span, where: str) -> Values:
    content = _content(path)
    try:
        with Image.open(BytesIO(content)) as image:
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            big = tags.prefix == b"MM"
            asked = {258: (1,), 259: 1, 262: 1, 274: 1, 277: 1, 317: 1, 339: (1,), 42112: ""}
            said = {tag: tags.get(tag, default) for tag, default in asked.items()}
            pages = getattr(image, "n_frames", 1)
    except Exception as error:
        _name_tiff(content, where)
        raise DataError(
            f"expected an image, found a damaged or foreign file ({error})",
            where=where,
            hint="copy or download the file again",
        ) from error
    bits, form = _first(said[258]), _first(said[339])
    packed, unsigned_16 = said[259] != 1, (bits, form) == (16, 1)
    problem = ""
    if said[274] != 1:
        problem = f"orientation {said[274]}: its rows and columns are turned for display"
    elif said[262] == 0:
        problem = "white as zero (PhotometricInterpretation 0): its values are inverted"
    elif pages > 1:
        problem = f"{pages} pages"
    elif said[277] == 1 and bits > 8 and said[259] not in LOSSLESS:
        problem = f"compression {said[259]}, which is not known to keep every value"
    elif packed and big and not unsigned_16 and bits > 8:
        problem = f"big-endian compressed samples ({_sample(bits, form)}), which the decoder swaps"
    elif said[317] != 1 and said[259] not in PREDICTED:
        problem = "a predictor that its compression does not have"
    elif re.search(r'"(SCALE|OFFSET)"', str(said[42112]), re.IGNORECASE):
        problem = "a scale or offset of GDAL"
    if problem:
        raise DataError(f"TIFF with {problem}, is not read as depth", where=where, hint=_convert_tiff())
    return _grey(path, where)


def _name_tiff(content: bytes, where: str) -> None:
    """DataError that names the sample format of a sound TIFF which Pillow does not open; returns for other files."""
    order = ">" if content[:2] == b"MM" else "<"
    if content[2:4] not in (b"*\0", b"\0*") or len(content) < 8:
        return
    (place,) = struct.unpack_from(order + "I", content, 4)
    if place + 2 > len(content):
        return
    (count,) = struct.unpack_from(order + "H", content, place)
    found = {}
    for i in range(count):
        if place + 14 + 12 * i > len(content):
            return
        tag, kind, _ = struct.unpack_from(order + "HHI", content, place + 2 + 12 * i)
        found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), content, place + 10 + 12 * i)[0]
    bits, form = found.get(258, 1), found.get(339, 1)
    if (bits, form) not in ((8, 1), (16, 1), (16, 2), (32, 1), (32, 2), (32, 3)) or order == ">":
        raise DataError(
            f"TIFF of {_sample(bits, form)} is not read as depth; read are integers of 16 or 32 bits and 32-bit floats",
            where=where,
            hint=_convert_tiff(),
        )


def _convert_tiff() -> str:
    return "convert with tifffile: numpy.save('NAME.npy', tifffile.imread('NAME.tif').astype('float32'))"


def _sample(bits: int, form: int) -> str:
    return f"{bits}-bit " + {1: "unsigned integers", 2: "signed integers", 3: "floats"}.get(form, f"samples {form}")


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _jpeg_2000(path: Path | Span, where: str) -> Values:
    content = _content(path)
    size, coding = content.find(b"\xff\x4f\xff\x51"), content.find(b"\xff\x52")
    if size < 0 or coding < 0 or len(content) < max(size + 43, coding + 14):
        return _grey(path, where)  # which says what is wrong
    bits = (content[size + 42] & 0x7F) + 1
    signed = bool(content[size + 42] & 0x80)
    if bits != 16 or signed:
        raise DataError(
            f"JPEG 2000 of {bits} {'signed ' if signed else ''}bits is stretched to 16 by its decoder",
            where=where,
            hint=f"convert: {SAVE}",
        )
    if content[coding + 13] == 0:
        raise DataError("JPEG 2000 with losses has changed the depth", where=where, hint="use the original files")
    return _grey(path, where)


# ------------------------------------------------------------------------------------------------- other containers


def _pgm(path: Path | Span, where: str) -> Values:
    """A binary PGM; its maximum value says how many bytes a value has and scales nothing."""
    content = _content(path)
    header = re.match(rb"P5(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s", content)
    if header is None:
        raise DataError("expected a PGM header, found a damaged one", where=where, hint="write the file again")
    width, height, largest = (int(number) for number in header.groups())
    if not 255 < largest < 65536:
        raise DataError(
            f"expected depth with 16 bits or more, found PGM of {largest + 1} levels", where=where, hint=EIGHT_BITS
        )
    return _pixels(content[header.end() :], ">u2", height, width, where)


def _pfm(path: Path | Span, where: str) -> Values:
    content = _content(path)
    header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(\S+)\s", content)
    try:
        width, height, scale = (int(header[1]), int(header[2]), float(header[3])) if header else (0, 0, 0.0)
    except ValueError:
        header = None
    if header is None:
        raise DataError("expected a PFM header, found a damaged one", where=where, hint="write the file again")
    if abs(scale) != 1:
        raise DataError(
            f"PFM with a scale of {abs(scale):g}: programs disagree whether it multiplies the values",
            where=where,
            hint="write the values as they are meant, with a scale of -1",
        )
    values_HW = _pixels(content[header.end() :], "<f4" if scale < 0 else ">f4", height, width, where)
    return values_HW[::-1]


def _pixels(content: bytes, dtype: str, height: int, width: int, where: str) -> Values:
    """Rows of plain values in the machine's byte order."""
    expected = height * width * np.dtype(dtype).itemsize
    if len(content) < expected or max(height, width) > LARGEST_SIDE:
        raise DataError(
            f"expected {height}×{width} values in {expected} bytes, found {len(content)} bytes",
            where=where,
            hint="copy or download the file again",
        )
    values_HW = np.frombuffer(content[:expected], dtype).reshape(height, width)
    return values_HW.astype(values_HW.dtype.newbyteorder("="))


def _npz(path: Path | Span, where: str) -> Values:
    """The array `depth` of a `.npz` file, or its only one."""
    try:
        content = BytesIO(_content(path))
        with zipfile.ZipFile(content) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if sum(info.file_size for info in members) > LARGEST_BYTES:
                raise ValueError("its arrays are larger than any frame")
        with np.load(content, allow_pickle=False) as arrays:
            names = list(arrays)
            chosen = "depth" if "depth" in names else names[0] if len(names) == 1 else None
            if chosen is not None:
                return _checked(arrays[chosen], where)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"expected a .npz file, found a damaged or foreign archive ({error})", where=where, hint=f"convert: {SAVE}"
        ) from error
    raise DataError(
        f"expected one array, or one called depth, found {', '.join(names) or 'none'}",
        where=where,
        hint=f"convert: {SAVE}",
    )


def _hdf5(path: Path | Span, where: str) -> Values:
    """The data set `depth` of an HDF5 file."""
    file = open_hdf5(path)
    if "depth" not in file:
        raise DataError(
            f"HDF5 is read as a frame's depth if it has an array called depth, found {', '.join(map(str, file))}",
            where=where,
            hint=f"convert: {SAVE}; for a renderer's distance to the camera name its data set, with --dataset",
        )
    with reading("depth", where):
        return np.asarray(own_dataset(file, "depth", where)[()])


def _exr(path: Path | Span, where: str) -> Values:
    """The channel Z of an OpenEXR file, which by that name is depth along the axis."""
    try:
        openexr: Any = importlib.import_module("OpenEXR")
    except ImportError:
        raise DataError(
            "EXR is read with OpenEXR, which is not installed", where=where, hint="pip install 'spd-bench[exr]'"
        ) from None
    try:
        if not isinstance(path, Path):
            raise ValueError("it lies in an archive")
        with openexr.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except Exception as error:
        raise DataError(
            f"expected an EXR image, found a damaged or foreign file ({error})", where=where, hint=f"convert: {SAVE}"
        ) from error
    named = [name for name in channels if name.rpartition(".")[2] in ("Z", "depth")]
    if len(named) != 1:
        raise DataError(
            f"EXR without one channel called Z does not say what it is; it has {', '.join(channels)}",
            where=where,
            hint=f"convert: {SAVE}; depth along the camera's axis is meant, not the distance to the camera",
        )
    values_HW = np.asarray(channels[named[0]])
    return values_HW.astype(np.float32) if values_HW.dtype == np.float16 else values_HW


_READERS: tuple[tuple[bytes, Callable[[Any, str], Values]], ...] = (
    (b"\x89PNG", _png),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
    (b"\0\0\0\x0cjP  ", _jpeg_2000),
    (b"\xff\x4f\xff\x51", _jpeg_2000),
    (b"P5", _pgm),
    (b"Pf", _pfm),
    (b"PK\x03\x04", _npz),
    (b"\x89HDF", _hdf5),
    (b"\x76\x2f\x31\x01", _exr),
)
_FOREIGN = {
    b"\xff\xd8\xff": ("JPEG, 8 bits with losses,", EIGHT_BITS),
    b"BM": ("BMP, 8 bits,", EIGHT_BITS),
    b"GIF8": ("GIF, 8 bits,", EIGHT_BITS),
    b"RIFF": ("WebP, 8 bits,", EIGHT_BITS),
    b"P6": ("PPM, a colour image,", EIGHT_BITS),
    b"P2": ("PGM in decimal text", f"convert: {SAVE}"),
    b"PF": ("PFM with three channels", "write one channel, Pf"),
    b"MATLAB": ("a MATLAB file", f"convert with scipy.io.loadmat: {SAVE}"),
}
