"""What an evaluation measures of a model: arithmetic by hand, every K timed on spread images, peak memory."""

from typing import Any

import pytest
import torch
from tiny import Clock
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import Encoder, Features, PointDepthModel
from spd_bench.cost import meter as costs
from spd_bench.cost import timing
from spd_bench.cost.flops import macs
from spd_bench.cost.meter import Costs, Meter
from spd_bench.fused import forms
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.run.planning.plan import build_model
from spd_bench.suite.axes import compositions
from spd_bench.suite.load import load_suite

CPU = torch.device("cpu")
KS = (1, 4, 16)


class Planes(PointDepthModel):
    """Prepares a 5×7 map by one product, decodes a point by another, and takes a given time for each."""

    class Config(PointDepthModel.Config):
        """No options."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Linear(3, 10)
        self.head = nn.Linear(2, 6)
        self.asked: list[int] = []
        self.seconds_per_point = 0.0
        self.clock = Clock()

    def prepare(self, features: Features) -> Any:
        return {"map": self.neck(features.maps_BHWC[0]), "fitted": not self.gt_aligned}

    def decode(self, scene: Any, xy_BK2: Tensor) -> Tensor:
        assert scene["fitted"]
        self.asked.append(xy_BK2.shape[1])
        self.clock.sleep(self.seconds_per_point * xy_BK2.shape[1])
        depth_BK: Tensor = self.head(xy_BK2).exp().sum(-1)
        return depth_BK


def features() -> Features:
    map_BHWC = torch.ones(1, 5, 7, 3)
    return Features((map_BHWC, map_BHWC, map_BHWC, map_BHWC))


@torch.no_grad()
def measured(model: Planes, images: int = 3) -> Costs:
    """A meter that saw every image of an evaluation."""
    meter = Meter(model, ks=KS, images=images, device=CPU)
    for index in range(images):
        scene = model.prepare(features())
        scene["fitted"] = True
        meter(index, features(), scene, torch.full((1, 20, 2), 0.5))
    return meter.costs


def test_multiply_adds_by_hand() -> None:
    found = measured(Planes())
    assert found.prepare_macs == 5 * 7 * 3 * 10  # sites × inputs × outputs
    assert found.decode_macs_at_k == {k: k * 2 * 6 for k in KS}  # points × inputs × outputs


def test_multiply_adds_of_a_call() -> None:
    assert macs(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 2 * 3 * 5
    assert macs(lambda: torch.ones(2, 3) + 1) == 0


def test_every_k_is_timed_and_costs_what_its_points_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Planes()
    monkeypatch.setattr(timing, "time", model.clock)
    model.seconds_per_point = 2**-9  # 1.953125 ms, without rounding
    assert measured(model).decode_ms_at_k == {k: 1.953125 * k for k in KS}


def test_timed_images_are_spread_over_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "TIMED_IMAGES", 3)
    model = Planes()
    meter = Meter(model, ks=KS, images=101, device=CPU)
    timed = []
    with torch.no_grad():
        for index in range(101):
            before = len(model.asked)
            meter(index, features(), model.prepare(features()), torch.full((1, 20, 2), 0.5))
            if len(model.asked) > before:
                timed.append(index)
    assert timed == [0, 50, 100]
    # two calls of each K on every one, the first not counted, and on the first image one for the peak and one of
    # each K for the arithmetic
    assert sorted(model.asked) == sorted([*KS, *KS] * 3 + [max(KS)] + [*KS])


def test_peak_memory_holds_what_prepare_and_the_largest_decode_make() -> None:
    found = measured(Planes())
    # prepare leaves 5·7·10 numbers of 4 bytes; a decode of 16 points adds at least the head's 16·6 and their exponents
    assert found.peak_k == 16
    assert found.peak_bytes >= 4 * (350 + 2 * 96)
    assert found.peak_bytes < 4 * 4 * (350 + 2 * 96)


def test_a_gt_aligned_model_is_measured_on_the_scene_that_it_was_fitted_to() -> None:
    model = Planes()
    model.gt_aligned = True
    assert measured(model).decode_macs_at_k[4] == 48


def test_the_encoder_is_not_in_the_costs() -> None:
    class Heavy(Encoder):
        def forward(self, image_B3HW: Tensor) -> Features:
            raise AssertionError("costs begin behind the encoder")

        def digest(self) -> str:
            return "0" * 64

    model = Planes()
    model.encoder = Heavy()
    assert measured(model).prepare_macs == 1050


def test_fused_forms_count_as_their_stock_operators() -> None:
    encoder = compose.build_encoder(
        ChosenPart("patch_descriptors", registry.load("encoder", "patch_descriptors").Config())
    )
    base = compositions(load_suite("smoke"))[0]
    model = build_model(base, encoder, seed=0).eval()

    def count() -> float:
        with torch.no_grad():
            scene = model.prepare(model.encode(torch.ones(1, 3, 224, 224)))
        return macs(lambda: model.decode(scene, torch.full((1, 16, 2), 0.5)))

    as_it_runs = count()
    with forms.stock():
        assert as_it_runs == count() > 1e6
