"""Depth at points of an image, from this folder alone: needs PyTorch and NumPy, and Pillow to read and resize images.

python ask.py photo.jpg 320,240 100,200

import ask
model = ask.load(".")
scene = model.encode(image)                       # uint8 RGB [H, W, 3]
depth_m = model.depth(scene, [(320, 240)])        # pixels of the image as given; whole numbers mean pixel centres
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

TYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}
BLOCK = 256
"""Points that are decoded together, at the most."""


class ExportedScene(NamedTuple):
    """An image that has been encoded."""

    tensors: tuple[Any, ...]
    """What decoding needs of it."""
    width: int
    """Columns of the image as given."""
    height: int
    """Rows of the image as given."""


class ExportedModel:
    """The two graphs and their weights."""

    def __init__(self, config: dict[str, Any], weights: list[torch.Tensor], prepare: Any, decode: Any) -> None:
        self.config = config
        self.weights = weights
        self.prepare, self.decode = prepare, decode

    def encode(self, image_HW3: Any) -> ExportedScene:
        """The scene of a uint8 RGB image [H, W, 3] of any size."""
        shown_13hw = network_input(image_HW3, self.config["image_size"])
        with torch.no_grad():
            tensors = self.prepare(self.weights, torch.from_numpy(shown_13hw))
        return ExportedScene(tuple(tensors), image_HW3.shape[1], image_HW3.shape[0])

    def depth(self, scene: ExportedScene, points: Any) -> Any:
        """Depth in metres at points (u, v), [N]. ValueError for a point outside the image."""
        xy_N2 = unit_points(points, scene.width, scene.height)
        depths = [np.empty(0, np.float32)]
        for first in range(0, len(xy_N2), BLOCK):
            block_N2 = xy_N2[first : first + BLOCK]
            filled_N2 = np.concatenate([block_N2, block_N2[-1:]])  # the graph takes two points or more
            with torch.no_grad():
                depth_m_1K = self.decode(self.weights, torch.from_numpy(filled_N2)[None], *scene.tensors)
            depths.append(depth_m_1K[0, :-1].float().numpy())
        return np.concatenate(depths)


def load(folder: Any) -> ExportedModel:
    """The model of an exported folder. ValueError for a file that is not the one that was exported."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name, digest in config["files"].items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{folder / name} is not the file that was exported")
    tensors = read_safetensors(folder / "weights.safetensors")
    graphs = [torch.export.load(folder / name).module() for name in ("prepare.pt2", "decode.pt2")]
    return ExportedModel(config, [tensors[name] for name in config["weights"]], *graphs)


def network_input(image_HW3: Any, image_size: Any) -> Any:
    """A uint8 RGB image [H, W, 3] at the network's size, uint8 [1, 3, h, w]: Pillow's bicubic filter, antialiased."""
    from PIL import Image

    height, width = image_size
    resized = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))[None]


def unit_points(points: Any, width: int, height: int) -> Any:
    """Pixels (u, v) as points of the unit square, float32 [N, 2]: x = (u + ½) / width. ValueError for one outside."""
    xy_N2 = (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) / [width, height]
    if not ((xy_N2 >= 0) & (xy_N2 <= 1)).all():
        raise ValueError(f"a point lies outside the image of {width}×{height} pixels")
    return xy_N2.astype(np.float32)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file in the format of safetensors: a header in JSON behind its length, then the values."""
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    about = json.loads(content[8:start])
    found = {}
    for name, entry in about.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = torch.frombuffer(content[start + first : start + last], dtype=TYPES[entry["dtype"]])
            found[name] = values.reshape(entry["shape"])
    return found


def main(path: str, *points: str) -> None:
    """Prints u, v and depth in metres of each point."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    model = load(Path(__file__).parent)
    asked = [tuple(map(float, text.split(","))) for text in points]
    scene = model.encode(np.array(image))
    for (u, v), depth_m in zip(asked, model.depth(scene, asked), strict=True):
        print(f"{u:g},{v:g},{depth_m:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
