"""Images that the page shows: test frames with their true depth, and images that are dropped in."""

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd_bench.ask.pictures import as_rgb
from spd_bench.errors import DataError, printable

MOST_BYTES = 32 * 2**20
"""Largest file that can be dropped in."""
HELD_BYTES = 512 * 2**20
"""Pixels of pictures that the server keeps for all its pages together."""
LONGEST_NAME = 60


class PictureSize(TypedDict):
    """Size of a picture, as functions take it."""

    width: int
    """Columns."""
    height: int
    """Rows."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, with its true depth where that is known."""

    name: str
    """What people call it."""
    image_HW3: npt.NDArray[np.uint8]
    """RGB."""
    truth_m_HW: npt.NDArray[np.float32] | None = None
    """True depth in metres, 0 where unknown; None for an image without any."""

    @cached_property
    def key(self) -> str:
        """The same for equal pixels, and a part of the picture's URL."""
        shape = repr(self.image_HW3.shape).encode()
        return hashlib.sha256(shape + self.image_HW3.tobytes()).hexdigest()[:32]

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.image_HW3.shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.image_HW3.shape[0])

    @property
    def size(self) -> PictureSize:
        """Both."""
        return {"width": self.width, "height": self.height}

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its pixels take."""
        return self.image_HW3.nbytes + (0 if self.truth_m_HW is None else self.truth_m_HW.nbytes)

    @cached_property
    def jpeg(self) -> bytes:
        """What browsers show: as many pixels, slightly lossy."""
        buffer = io.BytesIO()
        Image.fromarray(self.image_HW3).save(buffer, format="JPEG", quality=92, subsampling=0)
        return buffer.getvalue()

    def truth_m(self, u: float, v: float) -> float | None:
        """True depth in metres of the pixel that holds the point (u, v); None where it is unknown."""
        if self.truth_m_HW is None:
            return None
        depth_m = float(self.truth_m_HW[pixel(v, self.height), pixel(u, self.width)])
        return depth_m if depth_m > 0 else None


def pixel(coordinate: float, size: int) -> int:
    """The pixel that holds a coordinate whose whole numbers are centres (R-03), kept inside the image."""
    return min(max(int(np.floor(coordinate + 0.5)), 0), size - 1)


def dropped(name: str, content: bytes) -> Picture:
    """The picture in a file that was dropped in. DataError, one line, for what is no readable image."""
    shown = printable(name)[:LONGEST_NAME]
    if len(content) > MOST_BYTES:
        raise DataError(f"{len(content) / 2**20:.0f} MB are too many, at most {MOST_BYTES >> 20} MB", where=shown)
    try:
        return Picture(shown, as_rgb(content))
    except DataError as error:
        raise DataError(error.message, where=shown) from error


class Pictures:
    """Pictures by their key; those that were not looked at for longest go when memory runs short."""

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        from cachetools import LRUCache

        self._held: Any = LRUCache(held_bytes, getsizeof=lambda picture: picture.nbytes)

    def keep(self, picture: Picture) -> None:
        """Keeps a picture, so that browsers can fetch it; one that alone is too large is not kept."""
        if picture.nbytes <= self._held.maxsize:
            self._held[picture.key] = picture

    def get(self, key: str) -> Picture | None:
        """The picture of this key, if it is still there."""
        found: Picture | None = self._held.get(key)
        return found
