"""Training augmentation of one frame (§7.3, R-18): flip, zoom and crop, colour jitter.

Image and depth move together; queries are drawn from the augmented depth, so they move with it by construction.
The caller keys `rng` by (seed, epoch, frame): one frame's augmentation depends on nothing else.

Letters: H W rows and columns of the frame, 3 red, green, blue.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from spd_bench.api import Frame
from spd_bench.suite.schema import Augment

Depth = npt.NDArray[np.float32]
Image8 = npt.NDArray[np.uint8]


def augment(frame: Frame, rng: np.random.Generator, options: Augment) -> Frame:
    """The frame varied by one draw from `rng`: same size, same dtypes."""
    if not options.enabled:
        return frame
    strengths = (options.brightness, options.contrast, options.saturation, options.hue)
    brightness, contrast, saturation, hue = (rng.uniform(-strength, strength) for strength in strengths)
    # Colours first: contrast and brightness must not turn the black of padding into grey.
    image_HW3 = jitter(
        frame.image_HW3, brightness=1 + brightness, contrast=1 + contrast, saturation=1 + saturation, hue=hue
    )
    frame = Frame(image_HW3, frame.depth_m_HW)
    if rng.random() < options.flip:
        frame = flip(frame)
    low, high = options.zoom
    factor = rng.uniform(low if options.allow_padding else max(low, 1.0), high)
    return zoom(frame, factor, at=(rng.random(), rng.random()))


def flip(frame: Frame) -> Frame:
    """Left and right exchanged: pixel u goes to W − 1 − u."""
    return Frame(np.ascontiguousarray(frame.image_HW3[:, ::-1]), np.ascontiguousarray(frame.depth_m_HW[:, ::-1]))


def zoom(frame: Frame, factor: float, *, at: tuple[float, float]) -> Frame:
    """The view of a camera with `factor` times the focal length, cropped or padded to the same size (R-18).

    The pixel centred on (u + ½, v + ½) shows the point (x0 + (u + ½) / factor, y0 + (v + ½) / factor) of the given
    frame. `at` in [0, 1]² places the window between its extremes. The image is read bilinearly, depth at the nearest
    pixel. Where factor < 1 the window is larger than the frame: what lies outside is black and of unknown depth.

    Depth is divided by `factor`. A length l at depth z spans f·l / z pixels; enlarged, factor·f·l / z. To a network
    that knows one focal length f only, that is the same length at depth z / factor.
    """
    height, width = frame.depth_m_HW.shape
    x0, y0 = at[0] * (width - width / factor), at[1] * (height - height / factor)
    return Frame(
        _window(frame.image_HW3, x0, y0, factor), _nearest(frame.depth_m_HW, x0, y0, factor) / np.float32(factor)
    )


def jitter(image_HW3: Image8, *, brightness: float, contrast: float, saturation: float, hue: float) -> Image8:
    """Colours varied in this order: three factors (1 changes nothing), then a turn of hue (1 is the full circle)."""
    image = ImageEnhance.Brightness(Image.fromarray(image_HW3)).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    image = ImageEnhance.Color(image).enhance(saturation)
    if turn := round(hue * 255):
        h, s, v = image.convert("HSV").split()
        image = Image.merge("HSV", (h.point([(level + turn) % 256 for level in range(256)]), s, v)).convert("RGB")
    return np.array(image)


def _window(image_HW3: Image8, x0: float, y0: float, factor: float) -> Image8:
    """The window of W / factor by H / factor pixels at (x0, y0), resized to W by H; black outside the image."""
    height, width = image_HW3.shape[:2]
    margin = math.ceil(max(0, width / factor - width, height / factor - height))
    padded = Image.fromarray(np.pad(image_HW3, ((margin, margin), (margin, margin), (0, 0))))
    right, bottom = margin + x0 + width / factor, margin + y0 + height / factor
    box = (margin + x0, margin + y0, min(right, padded.width), min(bottom, padded.height))
    return np.array(padded.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _nearest(depth_m_HW: Depth, x0: float, y0: float, factor: float) -> Depth:
    """The depth pixel in which the centre of every new pixel falls; 0 outside."""
    height, width = depth_m_HW.shape
    column = np.floor(x0 + (np.arange(width) + 0.5) / factor).astype(int)
    row = np.floor(y0 + (np.arange(height) + 0.5) / factor).astype(int)
    out_HW: Depth = depth_m_HW[row.clip(0, height - 1)][:, column.clip(0, width - 1)]
    out_HW[(row < 0) | (row >= height)] = 0
    out_HW[:, (column < 0) | (column >= width)] = 0
    return out_HW
