"""Random weights of a released model's form, and the image and points of `baselines/authors_reference.json`."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spd_components.encoders.dav2_layouts import head_entries, vit_entries
from spd_components.encoders.dav2_sizes import DAv2Size

HEIGHT, WIDTH = 480, 640
RELEASES = {"relative": 0, "metric_indoor": 1}
"""Release → seed of its random weights."""
POINTS = [
    (0, 0),
    (639, 0),
    (0, 479),
    (639, 479),
    (320, 0),
    (0, 240),
    *((int(u), int(v)) for u, v in np.random.default_rng(7).integers(0, (WIDTH, HEIGHT), (122, 2))),
]
"""Pixels (u, v): the corners, two of the rim, and others."""


def random_release(size: DAv2Size, *, seed: int = 0) -> dict[str, Tensor]:
    """All tensors of a released file, under their upstream names, from random numbers of a trained model's order."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if name.endswith(("gamma", "norm.weight", "norm1.weight", "norm2.weight")):
            return 1 + 0.2 * noise
        if len(shape) == 1:
            return 0.1 * noise
        return noise / math.sqrt(math.prod(shape[1:])) if len(shape) in {2, 4} else 0.5 * noise

    state = {f"pretrained.{entry.name}": drawn(entry.name, entry.shape) for entry in vit_entries(size)}
    state |= {f"depth_head.{entry.name}": drawn(entry.name, entry.shape) for entry in head_entries(size)}
    state["depth_head.scratch.output_conv2.2.bias"] += 1.0  # so that the ReLU at the end keeps most pixels
    return state


def write_picture(folder: Path) -> Path:
    """A PNG of 480×640 with smooth shades, sharp edges and noise."""
    rng = np.random.default_rng(3)
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    shades = [127 + 60 * np.sin(u / (23 + 9 * c)) + 50 * np.cos(v / (31 - 5 * c)) for c in range(3)]
    image = np.stack(shades, axis=-1)
    image[120:260, 200:420] = (250, 10, 128)
    image[::37] = 0
    image += rng.normal(0, 12, image.shape)
    path = folder / "picture.png"
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    return path
