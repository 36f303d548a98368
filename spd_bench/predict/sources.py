"""Images to predict: files, and the images of folders, one after the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spd_bench.ask.pictures import ImageLike
from spd_bench.errors import DataError

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"})
"""Suffixes of the images of a folder."""


@dataclass(frozen=True)
class SourceFrame:
    """One image that is asked."""

    name: str
    """What rows of results call it: its path."""
    stem: str
    """What files made of it are called, without suffix; different for each frame of a command."""
    image: ImageLike
    """The image itself, or where it lies."""


class Sources:
    """The images of a command. len: how many there are."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises DataError for a path that is not there and for a folder without images."""
        self.files = [file for path in paths for file in _files(path)]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Each image in turn."""
        stems: dict[str, int] = {}
        for file in self.files:
            stems[file.stem] = stems.get(file.stem, 0) + 1
            stem = file.stem if stems[file.stem] == 1 else f"{file.stem}-{stems[file.stem]}"
            yield SourceFrame(str(file), stem, file)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise DataError("expected an image or a folder, found no such file", where=str(path), hint="check the path")
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGES and file.is_file())
    if not found:
        raise DataError("holds no image", where=str(path), hint=f"looked for {', '.join(sorted(IMAGES))}")
    return found
