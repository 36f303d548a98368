"""What the tests of sweeps share: small frames, and a suite whose trainings take a few steps on them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_frames

TINY = """
suite: tiny
base:
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing: {{use: topk_attention, r: 2}}
  b4: deformable_read
  b5: {{use: fused_cross_attention, layers: 1}}
  depth_head: calibrated_inverse
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: {steps}, batch_size: 2, queries: 4, precision: fp32, validations: 2}}
eval: {{protocol: full_frame, k: [8], k1_draws: 1}}
seeds: [0]
report: {{primary: {{k: 8}}}}
"""


@pytest.fixture(scope="session")
def tiny_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB-D frames of 48×64: brightness falls with depth, which rises to the right."""
    return write_frames(tmp_path_factory.mktemp("frames"), height=48, width=64)


@pytest.fixture
def tiny_suite(tiny_frames: Path, tmp_path: Path) -> Callable[[int], Path]:
    """Writes tiny.yaml, a suite of so many steps, and gives its folder."""

    def write(steps: int) -> Path:
        (tmp_path / "tiny.yaml").write_text(TINY.format(root=tiny_frames, steps=steps), encoding="utf-8")
        return tmp_path

    return write
