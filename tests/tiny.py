"""What tests that run whole suites share: small frames, and bases that train on them in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

SMALL = """\
base:
  name: small
  encoder: patch_descriptors
  neck: last_layer
  b1: local_tokens
  b2:
    use: local_cross_attention
    layers: 1
  b3: skip
  routing: none
  b4: skip
  b5: mean_tokens
  depth_head: calibrated_inverse
"""
V13 = """\
base:
  name: v13
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing:
    use: topk_attention
    r: 2
  b4: deformable_read
  b5: fused_cross_attention
  depth_head: calibrated_inverse
"""


def write_frames(root: Path, *, count: int = 20, height: int = 24, width: int = 32) -> Path:
    """RGB-D frames whose brightness falls with depth, which rises to the right; the folder."""
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        depth_mm = np.tile(np.linspace(1000, 4000, width), (height, 1)) * rng.uniform(0.7, 1.3)
        bright = (255 * 1000 / depth_mm).clip(0, 255).astype(np.uint8)
        Image.fromarray(np.repeat(bright[..., None], 3, axis=2)).save(root / "rgb" / f"{i:03d}.png")
        Image.fromarray(depth_mm.astype(np.uint16)).save(root / "depth" / f"{i:03d}.png")
    return root
