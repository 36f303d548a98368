"""Where a map that covers part of the frame lies: the crops that are in use, and placing a map at its box."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError
from spd_bench.protocol import Protocol

Values = NDArray[np.floating[Any]]
WHOLE = "none"
"""The value of `--crop` for maps that show the whole frame, whatever their size."""


@dataclass(frozen=True)
class CropBox:
    """Half-open rows and columns of the frame."""

    rows: tuple[int, int]
    """First row, and the row behind the last."""
    columns: tuple[int, int]
    """First column, and the column behind the last."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns that it holds."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def __str__(self) -> str:
        """As `--crop` takes it."""
        return f"{self.rows[0]}:{self.rows[1]},{self.columns[0]}:{self.columns[1]}"


KNOWN: dict[tuple[int, int], dict[str, CropBox]] = {
    (480, 640): {
        "the Eigen crop of the BTS lineage": CropBox((45, 471), (41, 601)),
        "BTS's training crop": CropBox((45, 472), (43, 608)),
        "DenseDepth's crop": CropBox((20, 460), (24, 616)),
        "DenseDepth's crop without its last row and column": CropBox((20, 459), (24, 615)),
        "InfiniDepth's crop": CropBox((45, 435), (60, 580)),
        "the frame without its white border": CropBox((7, 474), (7, 632)),
    }
}
"""Frame size → crops of it that code for NYU Depth V2 uses."""
HALF_SIZE = (228, 304), CropBox((12, 468), (16, 624))
"""sparse-to-dense and FastDepth halve a 480×640 frame and take the centre: map size, and its box in the frame."""


def box_of(text: str | None) -> CropBox | str | None:
    """The value of `--crop`: a box, "none", or None where the option is not given."""
    if text is None or text == WHOLE:
        return text
    found = re.fullmatch(r"(\d+):(\d+),(\d+):(\d+)", text)
    numbers = [int(number) for number in found.groups()] if found else []
    if not found or numbers[0] >= numbers[1] or numbers[2] >= numbers[3]:
        raise ConfigError(
            f'expected rows and columns such as 45:471,41:601, or none, found "{text}"',
            where="--crop",
            hint="half-open, in pixels of the frame: first row, row behind the last, and the same for columns",
        )
    return CropBox((numbers[0], numbers[1]), (numbers[2], numbers[3]))


def placed(
    map_HW: Values, frame: tuple[int, int], protocol: Protocol, crop: CropBox | str | None
) -> tuple[Values, CropBox | None]:
    """A map at the centres of the frame's pixels, NaN outside its box; and that box, None for the whole frame.

    A map of exactly the size of the protocol's own crop lies there. Raises DataError for a map of the size of another
    known crop, unless `crop` says where it lies, and for a box that the frame does not hold.
    """
    if isinstance(crop, CropBox):
        return _in_box(map_HW, frame, protocol, crop), crop
    if map_HW.shape != frame and crop is None:
        own = CropBox(protocol.rows, protocol.columns) if protocol.rows and protocol.columns else None
        if own is not None and map_HW.shape == own.size:
            return _in_box(map_HW, frame, protocol, own), own
        for name, box in _known(frame, (map_HW.shape[0], map_HW.shape[1])):
            raise DataError(
                f"the map is {map_HW.shape[0]}×{map_HW.shape[1]}, the size of {name} ({box})",
                hint=f"say --crop {box} if it shows that part of the frame, --crop none if it shows the whole frame",
            )
    return protocol.at_frame_size(map_HW, height=frame[0], width=frame[1]), None


def _known(frame: tuple[int, int], size: tuple[int, int]) -> list[tuple[str, CropBox]]:
    found = [(name, box) for name, box in KNOWN.get(frame, {}).items() if box.size == size]
    if frame == (480, 640) and size == HALF_SIZE[0]:
        found.append(("the centre of a frame of half the size", HALF_SIZE[1]))
    return found


def _in_box(map_HW: Values, frame: tuple[int, int], protocol: Protocol, box: CropBox) -> Values:
    if box.rows[1] > frame[0] or box.columns[1] > frame[1]:
        raise DataError(
            f"the frame is {frame[0]}×{frame[1]} and does not hold the crop {box}", hint="check --crop, rows first"
        )
    whole_HW = np.full(frame, np.nan)
    height, width = box.size
    whole_HW[slice(*box.rows), slice(*box.columns)] = protocol.at_frame_size(map_HW, height=height, width=width)
    return whole_HW
