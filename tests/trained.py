"""What tests of `ask`, `predict`, `inspect` and `export` share: a tiny suite, trained once in a second."""

from pathlib import Path

import pytest
from tiny import write_frames

from spd_bench.run import session
from spd_bench.run.request import Request

SUITE = """\
suite: tiny
base:
  name: v13
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: {{use: local_cross_attention, layers: 1}}
  b3: {{use: global_cross_attention, layers: 1}}
  routing: {{use: topk_attention, r: 3}}
  b4: deformable_read
  b5: {{use: fused_cross_attention, layers: 1}}
  depth_head: calibrated_inverse
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 4, batch_size: 2, queries: 8, lr: 1e-4, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [1, 100], k1_draws: 2}}
seeds: [0, 1]
baselines: [constant]
report: {{primary: {{metric: absrel, k: 100}}}}
"""
HEIGHT, WIDTH = 48, 64
"""Size of the frames."""


def train_tiny(folder: Path) -> Path:
    """Trains the suite on frames in `folder`/frames; the folder of all runs, `folder`/runs.

    The command that a run proposes is left in `folder`/example.txt.
    """
    root = write_frames(folder / "frames", height=HEIGHT, width=WIDTH)
    (folder / "tiny.yaml").write_text(SUITE.format(root=root), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Tracker, "start", lambda self, beat=None: None)
        finished = session.run_suite(Request(suite=str(folder / "tiny.yaml"), root=folder / "runs", device="cpu"))
    (folder / "example.txt").write_text(finished.example, encoding="utf-8")
    return folder / "runs"
