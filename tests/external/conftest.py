"""Frames of 480×640 whose depth is known, a suite on them, and scoring of predictions by it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spd_bench.external.at_points import PointScores
from spd_bench.external.result import Scored
from spd_bench.external.score import score_predictions
from spd_bench.score.judge import Judge
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Suite

ROOM = """
suite: room
base:
  name: v13
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing: {{use: topk_attention, r: 2}}
  b4: deformable_read
  b5: fused_cross_attention
  depth_head: calibrated_inverse
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 1, batch_size: 2, queries: 8, precision: fp32, validations: 1}}
eval: {{protocol: nyu_bts, k: [1, 8], k1_draws: 3}}
seeds: [0]
report: {{primary: {{metric: absrel, k: 8}}}}
"""


@pytest.fixture(scope="session")
def room(room_file: Path) -> Suite:
    """The suite, loaded."""
    return load_suite(room_file)


@pytest.fixture(scope="session")
def room_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen frames, three of them for the test; depth rises to the right and downwards, in waves of its own."""
    root = tmp_path_factory.mktemp("room")
    for folder in ("rgb", "depth"):
        (root / folder).mkdir()
    v, u = np.mgrid[:480, :640]
    for i in range(15):
        depth_mm = 1000 + 3 * u + 1.5 * v + 400 * np.sin(u / (20 + 9 * i))
        depth_mm[:60, :60] = 0
        Image.fromarray(np.full((480, 640, 3), 10 * i, np.uint8)).save(root / "rgb" / f"{i:05d}.png")
        Image.fromarray(depth_mm.astype(np.uint16)).save(root / "depth" / f"{i:05d}.png")
    path = root / "room.yaml"
    path.write_text(ROOM.format(root=root), encoding="utf-8")
    return path


@pytest.fixture
def names(room: Suite) -> list[str]:
    """Test frames."""
    return [frame.frame for frame in Judge.of(room).data.frames("test")]


@pytest.fixture(scope="session")
def depth(room: Suite) -> NDArray[np.float32]:
    """True depth of the test frames in metres, 1.5 m where it is unknown: what a perfect method predicts."""
    data = Judge.of(room).data
    maps = np.stack([data.read(frame).depth_m_HW for frame in data.frames("test")])
    return np.where(maps > 0, maps, 1.5).astype(np.float32)


@pytest.fixture
def score_room(room: Suite, tmp_path: Path) -> Callable[..., Scored]:
    """Scores predictions by the suite."""

    def call(source: Path, **options: Any) -> Scored:
        found = score_predictions(source, **{"suite": room, "name": "theirs", "root": tmp_path / "runs"} | options)
        assert isinstance(found, Scored)
        return found

    return call


@pytest.fixture
def score_points(room: Suite, tmp_path: Path) -> Callable[..., PointScores]:
    """Scores predictions at points of a file."""

    def call(source: Path, **options: Any) -> PointScores:
        found = score_predictions(source, **{"suite": room, "name": "theirs", "root": tmp_path / "runs"} | options)
        assert isinstance(found, PointScores)
        return found

    return call
