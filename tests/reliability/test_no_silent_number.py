"""A number does not depend on how it was computed, and accounts for every image: refused by name, or scored."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId, PointDepthModel
from spd_bench.data.batches import ScoredImages
from spd_bench.data.preflight import check_frames
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures, Views
from spd_bench.errors import DataError
from spd_bench.protocol import protocol
from spd_bench.score.metrics import RMSE, AbsRel, Delta1, Log10, Metric, RMSEPooled, SILog, SqRel
from spd_bench.score.predict import NotFinite, Predictions, predict
from spd_bench.score.score import per_image, reported, summarise
from spd_bench.suite.schema import Augment

METRICS: list[Metric] = [AbsRel(), RMSE(), RMSEPooled(), Log10(), SqRel(), SILog(), Delta1()]
KS = (1, 4, 16)
COUNT = 12
CPU = torch.device("cpu")
SAME = 1e-5
"""Relative; sums in another order differ in the last bits only."""


class Noise(DepthDataset):
    """Frames whose valid pixels are `valid` of 32×40, by position."""

    def __init__(self, valid: Sequence[int] = ()) -> None:
        self.valid = valid or [300] * COUNT

    def frames(self, split: str) -> Sequence[FrameId]:
        return [FrameId(f"{split}-{i}", f"scene-{i // 3}") for i in range(COUNT)]

    def read(self, frame: FrameId) -> Frame:
        number = int(frame.frame.rpartition("-")[2])
        rng = np.random.default_rng(number)
        depth_m_HW = np.zeros((32, 40), np.float32)
        places = rng.choice(depth_m_HW.size, self.valid[number], replace=False)
        depth_m_HW.flat[places] = rng.uniform(0.5, 9, len(places))
        return Frame(rng.integers(0, 256, (32, 40, 3), np.uint8), depth_m_HW)

    def digest(self) -> str:
        return "noise"

    def describe(self) -> str:
        return "noise"


class Means(Encoder):
    channels = 3

    def forward(self, image_B3HW: Tensor) -> Features:
        mean_BHW3 = torch.nn.functional.avg_pool2d(image_B3HW, 14).permute(0, 2, 3, 1)
        return Features((mean_BHW3, mean_BHW3, mean_BHW3, mean_BHW3))

    def digest(self) -> str:
        return "means"


class Bright(PointDepthModel):
    """Depth from the image's mean brightness and the point's place, through a layer, so that batches can differ."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        torch.manual_seed(0)
        self.layer = torch.nn.Sequential(torch.nn.Linear(5, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))

    def prepare(self, features: Features) -> Tensor:
        return features.maps_BHWC[0].mean((1, 2))

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        seen = scene[:, None].expand(-1, xy_BK2.shape[1], -1)
        return torch.nn.functional.softplus(self.layer(torch.cat([seen, xy_BK2], -1)))[..., 0] + 1


def images(data: DepthDataset | None = None, order: Sequence[int] = range(COUNT), *, max_k: int = 16) -> ScoredImages:
    data = data or Noise()
    views = Views(data, image_size=(28, 42), augmentation=Augment(enabled=False))
    frames = [data.frames("test")[i] for i in order]
    return ScoredImages(views=views, frames=frames, protocol=protocol("full_frame"), max_k=max_k, k1_draws=3, seed=0)


def predicted(some: ScoredImages) -> Predictions:
    model = Bright(Means())
    return predict(model, some, FrozenFeatures(model.encoder), device=CPU)[0]


def numbers(found: Predictions) -> dict[tuple[str, int], float]:
    return reported(found, METRICS, KS, protocol("full_frame"))


@pytest.fixture(scope="module")
def whole() -> Predictions:
    return predicted(images())


def close(found: dict[tuple[str, int], float], expected: dict[tuple[str, int], float]) -> bool:
    return found.keys() == expected.keys() and all(
        value == pytest.approx(expected[key], rel=SAME, abs=SAME) for key, value in found.items()
    )


def test_the_order_of_images_changes_no_number(whole: Predictions) -> None:
    order = np.random.default_rng(1).permutation(COUNT).tolist()
    shuffled = predicted(images(order=order))
    assert shuffled.frames == tuple(whole.frames[i] for i in order)
    assert close(numbers(shuffled), numbers(whole))
    mixed = replace(whole, predicted_m_IP=whole.predicted_m_IP[order])  # predictions under other images' names
    assert not close(numbers(mixed), numbers(whole))


@pytest.mark.parametrize("cuts", [[0, 6, 12], [0, 1, 5, 12], list(range(13))])
def test_a_test_set_in_pieces_gives_the_numbers_of_the_whole(whole: Predictions, cuts: list[int]) -> None:
    pieces = [
        per_image(predicted(images(order=range(*cut))), METRICS, KS, protocol("full_frame")) for cut in pairwise(cuts)
    ]
    joined = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    assert close(summarise(joined, METRICS), numbers(whole))
    lost = {key: values[1:] for key, values in joined.items()}
    assert not close(summarise(lost, METRICS), numbers(whole))


@pytest.mark.parametrize("together", [2, 5, 12])
def test_images_in_one_batch_get_the_numbers_that_each_gets_alone(whole: Predictions, together: int) -> None:
    model, some = Bright(Means()).eval(), images()
    features = FrozenFeatures(model.encoder)
    rows: list[Any] = []
    with torch.no_grad():
        for first in range(0, COUNT, together):
            batch = [some[i] for i in range(first, min(COUNT, first + together))]
            maps = features.of([one.view for one in batch], unit_range(torch.stack([one.image_3HW for one in batch])))
            rows.append(model.decode(model.prepare(maps), torch.stack([one.xy_P2 for one in batch])).numpy())
    assert close(numbers(replace(whole, predicted_m_IP=np.concatenate(rows))), numbers(whole))


def test_every_image_is_scored_or_refused_by_name() -> None:
    valid = [300] * COUNT
    valid[3], valid[7], valid[8] = 15, 0, 16  # 16 are asked for
    data = Noise(valid)
    scored, refused = [], {}
    for i in range(COUNT):
        try:
            scored += predicted(images(data, [i])).frames
        except DataError as error:
            refused[f"test-{i}"] = str(error)
    assert len(scored) + len(refused) == COUNT
    assert refused.keys() == {"test-3", "test-7"}
    assert all(name in why for name, why in refused.items())
    with pytest.raises(DataError, match="frame test-3"):  # and no number comes from the others
        predicted(images(data))
    told: list[tuple[int, int]] = []
    with pytest.raises(DataError, match=r"(?s)frames cannot be used:.*test-3.*15 valid pixels.*test-7.*0 valid pixels"):
        check_frames(
            data, protocol("full_frame"), queries=0, max_k=16, on_frame=lambda done, total: told.append((done, total))
        )
    assert told[-1] == (3 * COUNT, 3 * COUNT)  # every frame of every split was looked at


def test_k_beyond_the_valid_pixels_is_refused_and_all_of_them_are_not(whole: Predictions) -> None:
    exact = predicted(images(max_k=300))
    assert len(set(map(tuple, exact.uv_img_IP2[0][:300].tolist()))) == 300  # each pixel once
    with pytest.raises(DataError, match="frame test-0") as caught:
        predicted(images(max_k=301))
    assert caught.value.exit_code == 3
    # the first of 300 points are those of 16: what is scored at K does not depend on the largest K
    assert np.array_equal(exact.uv_img_IP2[:, :16], whole.uv_img_IP2[:, :16])


def test_a_prediction_that_is_no_number_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Bright.decode

    def broken(self: Bright, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        depth_m_BK = decode(self, scene, xy_BK2)
        depth_m_BK[0, 5] = torch.nan
        return depth_m_BK

    monkeypatch.setattr(Bright, "decode", broken)
    with pytest.raises(NotFinite, match=r"frame test-0: 1 of 18 predictions are not finite"):
        predicted(images())
