"""How a frame becomes a network's input (R-23).

Letters: H W rows and columns of the frame or of the input, 3 red, green, blue.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spd_bench.api import Resampling

WORDS: dict[Resampling, str] = {"antialiased": "bicubic, antialiased", "opencv": "OpenCV's bicubic on floats"}
"""For captions, and in the key of cached features."""


def unit_range(image: Tensor) -> Tensor:
    """An 8-bit image as float32 in [0, 1]; an image of floating point as it is."""
    return image if image.is_floating_point() else image.float() / 255


def resized(image_HW3: npt.NDArray[np.uint8], size: tuple[int, int], resampling: Resampling) -> Tensor:
    """The image at this size (rows, columns): [3, H, W], uint8 if antialiased, else float32, 1 being full intensity.

    PyTorch's bicubic interpolation without antialiasing has OpenCV's coefficients (a = -0.75), pixel centres and
    repeated border. It stays floating point: rounding to 8 bits would cut off what overshoots beside edges.
    """
    if resampling == "antialiased":
        shown = Image.fromarray(image_HW3).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    image_13HW = torch.from_numpy(np.array(image_HW3)).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image_13HW, size=size, mode="bicubic", align_corners=False)[0]
