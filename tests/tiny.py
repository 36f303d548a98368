"""Shared by tests that run whole suites: small frames, base compositions, the text of a small suite, and patience."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spd_bench.process.watch import Watch

PATIENCE_S = 250.0
"""How long a test waits for another process before it fails; only a hang takes this long, on any machine."""

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
"""The cheapest composition that trains."""
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
"""The paper's composition with two anchors, as small images have few sites."""
LIGHT = V13.replace("b2: local_cross_attention", "b2: {use: local_cross_attention, layers: 1}").replace(
    "b5: fused_cross_attention", "b5: {use: fused_cross_attention, layers: 1}"
)
"""All blocks of the paper with one layer each."""

SUITE = """\
suite: {name}
{base}data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [{side}, {side}]
  augment: {augment}
{more}train: {{steps: {steps}, batch_size: 2, queries: {queries}, lr: {lr}, precision: fp32, validations: {marks}}}
eval: {{protocol: full_frame, k: {ks}, k1_draws: {draws}}}
seeds: {seeds}
axes: {axes}
baselines: {baselines}
report: {report}
"""
DEFAULTS: dict[str, Any] = {
    "name": "tiny",
    "base": V13,
    "side": 56,
    "augment": "{enabled: false}",
    "more": "",
    "steps": 4,
    "queries": 8,
    "lr": "1e-3",
    "marks": 2,
    "ks": "[1, 8]",
    "draws": 2,
    "seeds": "[0]",
    "axes": "{}",
    "baselines": "[]",
    "report": "{primary: {metric: absrel, k: 8}, family: []}",
}
ON_DISK = "  cache: disk\n"
"""For `more`: frozen features lie in a cache on disk."""


def suite_text(root: Path | str, **changes: Any) -> str:
    """Returns the YAML of a small suite on the frames below `root`; changes: other values than those of DEFAULTS."""
    unknown = changes.keys() - DEFAULTS.keys()
    assert not unknown, unknown
    return SUITE.format(root=root, **DEFAULTS | changes)


def write_suite(path: Path, root: Path | str, **changes: Any) -> Path:
    """Writes `suite_text` to a file and returns its path."""
    path.write_text(suite_text(root, **changes), encoding="utf-8")
    return path


def write_frames(root: Path, *, count: int = 20, height: int = 24, width: int = 32) -> Path:
    """Writes RGB-D frames whose brightness falls with depth, which rises to the right; returns their folder."""
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        depth_mm = np.tile(np.linspace(1000, 4000, width), (height, 1)) * rng.uniform(0.7, 1.3)
        bright = (255 * 1000 / depth_mm).clip(0, 255).astype(np.uint8)
        Image.fromarray(np.repeat(bright[..., None], 3, axis=2)).save(root / "rgb" / f"{i:03d}.png")
        Image.fromarray(depth_mm.astype(np.uint16)).save(root / "depth" / f"{i:03d}.png")
    return root


def brightness(image_HW3: Any) -> Any:
    """Returns a map of depth in metres: what the baseline `callable` may be given."""
    return 1 + image_HW3.mean(axis=2) / 255


def wait_until(holds: Callable[[], object], what: str = "", *, every_s: float = 0.02) -> None:
    """Returns once `holds()` is true; fails the test after PATIENCE_S."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, f"waited {PATIENCE_S:g} s in vain {what}"
        time.sleep(every_s)


def leave_out_costs(patch: pytest.MonkeyPatch) -> None:
    """Leaves out of every run what takes most of its time and decides no result, and has tests of its own.

    That is MLflow, the check of each composition before training, what a model costs, and the report's figures.
    """
    from spd_bench.cost import meter
    from spd_bench.model import compose
    from spd_bench.report import figures
    from spd_bench.run import session

    patch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    patch.setattr(compose, "check", lambda model, **more: None)
    patch.setattr(meter, "TIMED_IMAGES", 1)
    patch.setattr(meter, "macs", lambda call: 0.0)
    patch.setattr(meter, "peak_memory", lambda call, device: 0)
    patch.setattr(figures, "draw", lambda fill: "<svg></svg>")


STANDING = """
import os, time
from spd_bench.process.watch import Watch

def at(self, stage, before=Watch.at):
    before(self, stage)
    if f"{stage} ".startswith(os.environ.get("STAND_AT", "nowhere") + " "):
        while not (self.stopping or os.path.exists(os.environ.get("STAND_UNTIL", ""))):
            time.sleep(0.02)
        self.check()

Watch.at = at
"""
"""A `sitecustomize` with which the work stands still in the stage STAND_AT, such as "training at step 3", until it is
asked to stop or the file STAND_UNTIL is there: whatever a test does to it then, it does in that stage."""


class Clock:
    """A clock that only moves when a test moves it: in place of a module's `time`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def perf_counter(self) -> float:
        return self.seconds

    monotonic = perf_counter


class Countdown(Watch):
    """Stops the work the n-th time that it reports a stage; `stages` lists what was reported."""

    def __init__(self, n: int = 10**9) -> None:
        super().__init__()
        self.left, self.stages = n, list[str]()

    def at(self, stage: str) -> None:
        self.stages.append(stage)
        self.left -= 1
        if self.left == 0:
            self.stop("SIGTERM")
        super().at(stage)
