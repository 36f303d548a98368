"""Long runs: neither memory nor open files nor what is written grows with the steps or images that are done.

`SPD_BENCH_RELIABILITY=1` (nox -s reliability) takes 100,000 steps and scores 10,000 images; without it, a few.
"""

import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId, PointDepthModel
from spd_bench.data.batches import BatchPlan, ScoredImages
from spd_bench.data.queries import Uniform
from spd_bench.data.views import FrozenFeatures, Views
from spd_bench.process.watch import Watch
from spd_bench.protocol import protocol
from spd_bench.run.display import Display
from spd_bench.run.heartbeat import Heartbeat
from spd_bench.score.predict import predict
from spd_bench.suite.schema import Augment
from spd_bench.train import loop
from spd_bench.train.callback import Callback, Callbacks
from spd_bench.train.losses import HuberSilog
from spd_bench.train.training import Optimisation, Training

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
STEPS = 100_000 if EVERYTHING else 300
IMAGES = 10_000 if EVERYTHING else 60
SAMPLES = 20
"""How often memory is looked at; the first half is left out, in which caches fill."""
MOST_GROWTH = 2**20
"""Bytes per thousand steps or images."""
CPU = torch.device("cpu")


class Rooms(DepthDataset):
    """Frames of 14×14 made when they are read, more than the features that can be held."""

    def frames(self, split: str) -> Sequence[FrameId]:
        return [FrameId(f"{split}-{i}", f"scene-{i}") for i in range(64 if split == "train" else IMAGES)]

    def read(self, frame: FrameId) -> Frame:
        rng = np.random.default_rng(int(frame.frame.rpartition("-")[2]))
        depth_m_HW = rng.uniform(1, 4, (14, 14)).astype(np.float32)
        return Frame(rng.integers(0, 256, (14, 14, 3), np.uint8), depth_m_HW)

    def digest(self) -> str:
        return "rooms"

    def describe(self) -> str:
        return "rooms"


class Mean(Encoder):
    def forward(self, image_B3HW: Tensor) -> Features:
        mean_B113 = image_B3HW.mean((2, 3))[:, None, None]
        return Features((mean_B113, mean_B113, mean_B113, mean_B113))

    def digest(self) -> str:
        return "mean"


class Tiny(PointDepthModel):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Mean()
        self.layer = nn.Linear(5, 1)

    def prepare(self, features: Features) -> Tensor:
        return features.maps_BHWC[0].flatten(1)

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        both = torch.cat([scene[:, None].expand(-1, xy_BK2.shape[1], -1), xy_BK2], dim=-1)
        return nn.functional.softplus(self.layer(both))[..., 0] + 0.5


class Meter:
    """Looks at this process at even distances of what is done."""

    def __init__(self, total: int) -> None:
        self.every = max(1, total // SAMPLES)
        self.done: list[int] = []
        self.resident: list[int] = []
        self.open_files: list[int] = []

    def look(self, done: int) -> None:
        if done % self.every == 0:
            self.done.append(done)
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
            self.open_files.append(len(os.listdir("/proc/self/fd")))

    def growth(self) -> float:
        """Bytes per thousand, as a straight line through the second half."""
        half = len(self.done) // 2
        return 1000 * float(np.polyfit(self.done[half:], self.resident[half:], 1)[0])


def views(*, again: bool) -> Views:
    augmentation = Augment(views=2) if again else Augment(enabled=False)
    return Views(Rooms(), image_size=(14, 14), augmentation=augmentation, limit_bytes=2**20)


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


def told(what: str, meter: Meter, started: float) -> None:
    growth_kb = meter.growth() / 1024
    print(f"{what}: {growth_kb:.1f} kB per thousand, in {time.monotonic() - started:.0f} s", flush=True)


class Looks(Callback):
    """Measures the process after each step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_step(self, step: int, loss: float) -> None:
        self.meter.look(step)


@linux
@pytest.mark.timeout(9000 if EVERYTHING else 300)
def test_a_long_training(tmp_path: Path) -> None:
    """As a suite trains it: with a display, its watch, validations, and rows at the ends of a few epochs."""
    about = views(again=True)
    plan = BatchPlan(
        views=about,
        frames=about.data.frames("train"),
        sampler=Uniform(Uniform.Config()),
        batch_size=1,
        queries=4,
        seed=0,
        steps=STEPS,
    )
    marks = tuple(range(STEPS // 10, STEPS + 1, STEPS // 10))
    how = Optimisation(
        steps=STEPS,
        lr=1e-3,
        min_lr=1e-5,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        clip=1.0,
        lambda_si=0.5,
        precision="fp32",
        validate_at=marks,
    )
    model, meter, started = Tiny(), Meter(STEPS), time.monotonic()
    watch, crumb, log, checkpoint = (
        Watch(tmp_path / "crumb"),
        tmp_path / "crumb",
        tmp_path / "log",
        tmp_path / "checkpoint.pt",
    )
    sizes: list[int] = []

    def validate(model: PointDepthModel) -> dict[str, float]:
        sizes.append(checkpoint.stat().st_size if checkpoint.exists() else 0)
        return {"val/absrel": 0.5}

    loss = HuberSilog(HuberSilog.Config())
    training = Training(model, loss, how, seed=0, checkpoint=checkpoint, validate=validate, device=CPU)
    with log.open("w") as stream, Display(Console(file=stream), 1) as display:
        heard = Callbacks(display, Heartbeat(watch), Looks(meter))
        heard.on_training(0, STEPS)
        loop.train([training], plan, FrozenFeatures(model.encoder, limit_bytes=2**16), callback=heard)
    told(f"{STEPS} steps", meter, started)
    assert training.step == STEPS
    assert len(training.log.rows) == 10
    assert len(set(meter.open_files)) == 1
    assert crumb.stat().st_size < 200
    assert log.stat().st_size < 200
    assert checkpoint.stat().st_size - sizes[1] < 10 * 1024  # nine rows more
    assert not EVERYTHING or meter.growth() < MOST_GROWTH


@linux
@pytest.mark.timeout(9000 if EVERYTHING else 300)
def test_a_long_evaluation() -> None:
    """Beside the predictions themselves, 16 bytes for each of the 9 points of an image."""
    about = views(again=False)
    images = ScoredImages(
        views=about, frames=about.data.frames("test"), protocol=protocol("full_frame"), max_k=8, k1_draws=2, seed=0
    )
    model, meter, started = Tiny(), Meter(IMAGES), time.monotonic()
    features = FrozenFeatures(model.encoder, limit_bytes=2**16)
    predictions, _ = predict(model, images, features, device=CPU, on_image=meter.look)
    told(f"{IMAGES} images", meter, started)
    assert len(predictions.frames) == IMAGES
    assert len(set(meter.open_files)) == 1
    assert not EVERYTHING or meter.growth() < MOST_GROWTH


@linux
def test_the_meter_sees_what_grows() -> None:
    """Negative control: 4 kB that are kept at every step are 4 MB per thousand."""
    meter, kept = Meter(4000), list[Any]()
    for step in range(1, 4001):
        kept.append(mmap.mmap(-1, 4096))  # a page of its own: a heap may have room left
        kept[-1][0] = 1
        meter.look(step)
    assert meter.growth() > MOST_GROWTH
