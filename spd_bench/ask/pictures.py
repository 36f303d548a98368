"""Whatever a caller has for an image → uint8 RGB [H, W, 3], refused as the images of data sets are."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from spd_bench.data.reading.images import DEPTH_MODES, decode_image, open_image
from spd_bench.errors import ConfigError, DataError

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"
"""A path, the content of an image file, a PIL image, or a uint8 array [H, W, 3] in RGB."""


def as_rgb(image: ImageLike) -> npt.NDArray[np.uint8]:
    """The image as uint8 RGB [H, W, 3], upright: an EXIF orientation is applied, as viewers do.

    Grey images become RGB, an alpha channel is dropped. Raises DataError for a file that is missing, damaged, too
    large or not an image, and for depth; ConfigError for an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _checked_array(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return _rgb(decode_image(BytesIO(image), where="the given bytes"), "the given bytes")
    if isinstance(image, Image.Image):
        return _rgb(image, "the given PIL image")
    if isinstance(image, str | os.PathLike):
        return _rgb(open_image(Path(image)), str(image))
    raise ConfigError(f"expected a path, bytes, a PIL image or a uint8 array [H, W, 3], found {type(image).__name__}")


def _rgb(image: Image.Image, where: str) -> npt.NDArray[np.uint8]:
    if image.mode in DEPTH_MODES:
        raise DataError(
            f"expected a colour image, found PIL mode {image.mode}, which is depth",
            where=where,
            hint="name the colour image",
        )
    try:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"cannot be read as RGB ({error})", where=where, hint="save it as PNG or JPEG") from error


def _checked_array(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(
            f"expected a uint8 array [H, W, 3], found {image.dtype} of shape {image.shape}",
            hint="RGB, rows first; a float image in [0, 1] is (255 * image).round().astype('uint8')",
        )
    return np.ascontiguousarray(image)
