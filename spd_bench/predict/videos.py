"""Videos frame by frame, through PyAV (extra `video`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.data.reading.images import LARGEST_SIDE
from spd_bench.errors import ConfigError, DataError

FORMATS = {
    ".mp4": "mov",
    ".m4v": "mov",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "matroska",
    ".avi": "avi",
    ".mpg": "mpeg",
    ".mpeg": "mpeg",
}
"""Suffix → FFmpeg's container format. It is fixed, since a playlist under a video's name could name other files."""


def count_frames(path: Path) -> int:
    """How many frames the header of a video promises; 0 where it does not say. Raises as `read_frames`."""
    with _opened(path) as container:
        return int(_stream(container, path).frames)


def read_frames(path: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Each frame of a video as uint8 RGB [H, W, 3], turned upright as players show it.

    Raises DataError for a file that is missing, damaged, without pictures or too large, ConfigError without PyAV.
    """
    import_av()
    import av

    with _opened(path) as container:
        stream = _stream(container, path)
        if max(stream.width, stream.height) > LARGEST_SIDE:
            what = f"{stream.width}×{stream.height} pixels, at most {LARGEST_SIDE} a side are read"
            raise DataError(what, where=str(path))
        try:
            for frame in container.decode(stream):
                # FFmpeg states by how much the picture is to be turned counter-clockwise
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
        except av.error.FFmpegError as error:
            raise DataError(f"cannot be decoded ({error})", where=str(path), hint="copy the file again") from error


def import_av() -> None:
    """Raises ConfigError where PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        hint = "pip install 'spd-bench[video]', or name a folder of frames"
        raise ConfigError(f"videos need PyAV, which cannot be imported ({error})", hint=hint) from error


def _opened(path: Path) -> Any:
    import_av()
    import av

    try:
        return av.open(
            str(path),
            format=FORMATS[path.suffix.lower()],
            options={"protocol_whitelist": "file"},
            metadata_errors="ignore",
        )
    except (OSError, ValueError, av.error.FFmpegError) as error:
        what = f"expected a video, found a damaged or foreign file ({error})"
        raise DataError(what, where=str(path), hint="copy or download the file again") from error


def _stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise DataError("holds no pictures", where=str(path), hint="name a video, an image or a folder of images")
    return container.streams.video[0]
