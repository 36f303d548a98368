"""Images to predict, one after the other: files, the images of folders, and the frames of videos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spd_bench.ask.pictures import ImageLike
from spd_bench.errors import DataError
from spd_bench.predict.videos import FORMATS, count_frames, read_frames

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"})
"""Suffixes of the images of a folder."""


@dataclass(frozen=True)
class SourceFrame:
    """One image that is asked."""

    name: str
    """What rows of results call it: its path, of a video with `#` and the number of the frame from 0."""
    stem: str
    """What files made of it are called, without suffix; different for each frame of a command."""
    image: ImageLike
    """The image itself, or where it lies."""


class Sources:
    """The images of a command."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises DataError for a path that is not there, a folder without images, and a video that cannot be read."""
        self.files = [file for path in paths for file in _files(path)]
        self.total = sum(count_frames(file) if _is_video(file) else 1 for file in self.files)
        """Number of images; videos whose header does not say their frames count as empty."""

    def __iter__(self) -> Iterator[SourceFrame]:
        """Each image in turn."""
        stems: dict[str, int] = {}
        for file in self.files:
            stems[file.stem] = stems.get(file.stem, 0) + 1
            stem = file.stem if stems[file.stem] == 1 else f"{file.stem}-{stems[file.stem]}"
            if _is_video(file):
                for number, image_HW3 in enumerate(read_frames(file)):
                    yield SourceFrame(f"{file}#{number}", f"{stem}-{number:06d}", image_HW3)
            else:
                yield SourceFrame(str(file), stem, file)


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in FORMATS


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            what = "expected an image, a video or a folder, found no such file"
            raise DataError(what, where=str(path), hint="check the path")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.is_file())
    if not found:
        raise DataError("holds no image", where=str(path), hint=f"looked for {', '.join(sorted(IMAGES))}")
    return found
