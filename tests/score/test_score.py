"""Predictions → numbers: nested K, draws at K = 1, order of images, and a record that is whole or refused (R-26)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId, PointDepthModel
from spd_bench.data.batches import ScoredImages
from spd_bench.data.views import FrozenFeatures, Views
from spd_bench.errors import ConfigError, ResourceError, StateError
from spd_bench.protocol import protocol
from spd_bench.score.metrics import RMSE, AbsRel, Delta1, Metric, RMSEPooled, SILog
from spd_bench.score.predict import NotFinite, Predictions, load, predict, save
from spd_bench.score.score import AllPixels, per_image, pooled, reported, summarise
from spd_bench.store import files
from spd_bench.suite.schema import Augment

FULL = protocol("full_frame")
METRICS: list[Metric] = [AbsRel(), RMSE(), RMSEPooled(), SILog(), Delta1()]


def predictions(truth_m: Any, predicted_m: Any, draw_P: Sequence[int]) -> Predictions:
    truth_m_IP = np.asarray(truth_m, np.float32)
    images, points = truth_m_IP.shape
    return Predictions(
        frames=tuple(f"frame-{i}" for i in range(images)),
        scenes=tuple(f"scene-{i // 2}" for i in range(images)),
        uv_img_IP2=np.arange(2 * images * points, dtype=np.int32).reshape(images, points, 2),
        truth_m_IP=truth_m_IP,
        predicted_m_IP=np.asarray(predicted_m, np.float32),
        draw_P=np.asarray(draw_P, np.int32),
    )


def random_predictions(images: int = 7, k: int = 16, draws: int = 5, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth_m_IP = rng.uniform(0.5, 9, (images, k + draws - 1))
    return predictions(truth_m_IP, truth_m_IP * rng.lognormal(0, 0.2, truth_m_IP.shape), [0] * k + [*range(1, draws)])


# scoring


def test_k_points_are_the_first_k_of_draw_0() -> None:
    # truth 1 throughout; |1 − p| by point: 1, 3, 5, 7 (draw 0), 100 → clamped to 10: 9 (draw 1)
    scored = predictions([[1] * 5], [[2, 4, 6, 8, 100]], [0, 0, 0, 0, 1])
    values = per_image(scored, [AbsRel()], [2, 3, 4], FULL)
    # means of 1, 3 | 1, 3, 5 | 1, 3, 5, 7
    assert {k: array.tolist() for (_, k), array in values.items()} == {2: [2.0], 3: [3.0], 4: [4.0]}


def test_k_1_is_a_mean_over_the_first_points_of_all_draws() -> None:
    # first points: draw 0: |1 − 2| = 1, draw 1: |1 − 6| = 5, draw 2: 9 after the clamp; the rest of draw 0 is not read
    scored = predictions([[1] * 5], [[2, 9, 9, 6, 100]], [0, 0, 0, 1, 2])
    values = per_image(scored, [AbsRel(), RMSE(), RMSEPooled()], [1], FULL)
    assert values["absrel", 1].tolist() == [5.0]  # (1 + 5 + 9) / 3
    assert values["rmse", 1].tolist() == [5.0]  # at one point it is the absolute error
    assert values["rmse_pooled", 1].tolist() == pytest.approx([107 / 3])  # (1 + 25 + 81) / 3, root after the images
    assert summarise(values, METRICS)["rmse_pooled", 1] == pytest.approx(math.sqrt(107 / 3), abs=1e-12)


def test_k_1_without_further_draws_is_the_first_point() -> None:
    values = per_image(predictions([[1, 1]], [[3, 9]], [0, 0]), [AbsRel()], [1, 2], FULL)
    assert (values["absrel", 1].item(), values["absrel", 2].item()) == (2.0, 5.0)


def test_predictions_are_clamped_before_they_are_scored() -> None:
    # −5 → 0.001, 400 → 10:  |2 − 0.001| / 2 and |5 − 10| / 5
    values = per_image(predictions([[2, 5]], [[-5, 400]], [0, 0]), [AbsRel()], [2], FULL)
    assert values["absrel", 2].item() == pytest.approx((1.999 / 2 + 1) / 2, abs=1e-7)


def test_scores_are_computed_in_double_precision() -> None:
    rng = np.random.default_rng(3)
    scored = predictions(g := rng.uniform(1, 9, (1, 4096)), g + 1e-3, [0] * 4096)
    exact = np.mean(
        np.abs(scored.truth_m_IP.astype(np.float64) - scored.predicted_m_IP) / scored.truth_m_IP.astype(np.float64)
    )
    assert per_image(scored, [AbsRel()], [4096], FULL)["absrel", 4096].item() == pytest.approx(exact, abs=1e-15)


def test_a_metric_that_needs_more_points_has_no_entry() -> None:
    values = per_image(random_predictions(), METRICS, [1, 2], FULL)
    assert ("silog", 1) not in values
    assert ("silog", 2) in values
    assert ("silog", 1) not in summarise(values, METRICS)
    assert len(values) == 2 * len(METRICS) - 1


def test_more_points_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="K = 17 asked, predictions hold 16 points per image"):
        per_image(random_predictions(k=16, draws=5), METRICS, [1, 17], FULL)


def test_order_of_images_changes_no_aggregate() -> None:
    scored = random_predictions(images=50)
    order = np.random.default_rng(1).permutation(50)
    shuffled = replace(scored, truth_m_IP=scored.truth_m_IP[order], predicted_m_IP=scored.predicted_m_IP[order])
    one, other = (summarise(per_image(p, METRICS, [1, 4, 16], FULL), METRICS) for p in (scored, shuffled))
    assert one.keys() == other.keys()
    assert all(one[key] == pytest.approx(other[key], rel=0, abs=1e-12) for key in one)
    # negative control: images paired with other images' predictions do change it
    torn = replace(scored, truth_m_IP=scored.truth_m_IP[order])
    assert abs(summarise(per_image(torn, METRICS, [16], FULL), METRICS)["absrel", 16] - one["absrel", 16]) > 0.1


def test_the_reported_number_is_the_mean_over_images() -> None:
    values = per_image(random_predictions(), METRICS, [4], FULL)
    summary = summarise(values, METRICS)
    for name in ("absrel", "rmse", "silog", "delta1"):
        assert summary[name, 4] == pytest.approx(math.fsum(values[name, 4]) / 7, rel=0, abs=1e-12)


# pooled averaging

POOL = replace(FULL, averaging="pooled")


def test_pooled_points_are_one_sample_by_hand() -> None:
    # image A: truth 1, 1, predicted 2, 2; image B: truth 4, 4, predicted 4, 8: errors 1, 1, 0, 4
    scored = predictions([[1, 1], [4, 4]], [[2, 2], [4, 8]], [0, 0])
    found = pooled(scored, METRICS, [2], POOL)
    assert found["absrel", 2] == pytest.approx((1 + 1 + 0 + 1) / 4, abs=1e-15)
    assert found["rmse", 2] == pytest.approx(math.sqrt(18 / 4), abs=1e-15)  # per image: (1 + √8) / 2 = 1.914
    assert found["rmse_pooled", 2] == found["rmse", 2]
    assert found["delta1", 2] == 1 / 4
    # e = ln 2, ln 2, 0, ln 2: mean ¾ ln 2, mean square ¾ ln²2, variance 3/16 ln²2
    assert found["silog", 2] == pytest.approx(100 * math.sqrt(3) / 4 * math.log(2), abs=1e-12)


def test_pooled_k_1_takes_the_first_points_of_all_draws() -> None:
    # |1 − p| of draws 0, 1, 2: 1, 5, 9 (100 is clamped to 10); the second point of draw 0 is not read
    scored = predictions([[1] * 4], [[2, 9, 6, 100]], [0, 0, 1, 2])
    found = pooled(scored, [AbsRel(), RMSE()], [1], POOL)
    assert found["absrel", 1] == 5
    assert found["rmse", 1] == pytest.approx(math.sqrt((1 + 25 + 81) / 3), abs=1e-12)


def test_the_protocol_says_how_images_are_averaged() -> None:
    scored = random_predictions()
    assert reported(scored, METRICS, [1, 16], FULL) == summarise(per_image(scored, METRICS, [1, 16], FULL), METRICS)
    found = reported(scored, METRICS, [1, 16], POOL)
    assert found == pooled(scored, METRICS, [1, 16], POOL)
    # equal numbers of points per image: a mean of means is the mean, a mean of roots is not the root
    assert found["absrel", 16] == pytest.approx(reported(scored, METRICS, [16], FULL)["absrel", 16], abs=1e-14)
    assert abs(found["rmse", 16] - reported(scored, METRICS, [16], FULL)["rmse", 16]) > 1e-3


# every valid pixel


def test_all_pixels_by_hand() -> None:
    images = [(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 2.0])), (np.array([4.0]), np.array([40.0]))]
    found = {}
    for scored in (FULL, POOL):
        everywhere = AllPixels([AbsRel(), RMSE(), RMSEPooled()], scored)
        for image in images:
            everywhere.add(*image)
        found[scored.averaging] = everywhere.reported()
    # 40 is clamped to 10: relative errors 1, 1, 1 | 6/4; squares 1, 1, 1 | 36
    assert found["per_image"] == pytest.approx(
        {"absrel": (1 + 1.5) / 2, "rmse": (1 + 6) / 2, "rmse_pooled": math.sqrt((1 + 36) / 2)}, abs=1e-15
    )
    assert found["pooled"] == pytest.approx(
        {"absrel": 4.5 / 4, "rmse": math.sqrt(39 / 4), "rmse_pooled": math.sqrt(39 / 4)}, abs=1e-15
    )


def test_all_pixels_of_equal_images_are_what_k_points_say() -> None:
    scored = random_predictions(k=16, draws=1)
    for how in (FULL, POOL):
        everywhere = AllPixels(METRICS, how)
        for image in zip(scored.truth_m_IP, scored.predicted_m_IP, strict=True):
            everywhere.add(*image)
        at_16 = {name: value for (name, _), value in reported(scored, METRICS, [16], how).items()}
        assert everywhere.reported() == pytest.approx(at_16, abs=1e-13)


def test_without_a_clamp_only_positive_predictions_are_scored() -> None:
    open_ = replace(FULL, clamped=False)
    found = reported(predictions([[1, 1]], [[3, 40]], [0, 0]), [AbsRel()], [2], open_)
    assert found["absrel", 2] == (2 + 39) / 2
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(NotFinite, match="1 of 2 predictions are not positive numbers under protocol full_frame"):
            reported(predictions([[1, 1]], [[3, bad]], [0, 0]), [AbsRel()], [2], open_)


# the record


def test_a_record_gives_back_what_it_was_given(tmp_path: Path) -> None:
    written = replace(random_predictions(), frames=tuple("küche/00001.png" if i == 0 else f"{i}" for i in range(7)))
    save(path := tmp_path / "predictions.h5", written, {"identity": "abc"})
    read = load(path)
    assert (read.frames, read.scenes) == (written.frames, written.scenes)
    for name in ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P"):
        given, found = getattr(written, name), getattr(read, name)
        assert found.dtype == given.dtype
        assert np.array_equal(found, given)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.h5"]  # nothing is left beside it


def test_a_record_is_plain_hdf5_to_other_tools(tmp_path: Path) -> None:
    save(path := tmp_path / "predictions.h5", random_predictions(), {"identity": "abc", "protocol": FULL.caption()})
    with h5py.File(path, "r") as store:
        assert store.attrs["identity"] == "abc"
        assert store.attrs["protocol"] == FULL.caption()
        assert store["truth_m_IP"].shape == (7, 20)


def damaged(path: Path) -> None:
    with pytest.raises(StateError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: cannot be read (")
    assert text.endswith("hint: delete its folder and run again")
    assert caught.value.exit_code == 7


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    """HDF5 itself reads some damaged files as other data, and loops for ever on others."""
    save(path := tmp_path / "predictions.h5", random_predictions(), {})
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 97), len(whole) - 1]:
        torn = bytearray(whole)
        torn[place] ^= 0x10
        path.write_bytes(torn)
        damaged(path)
    path.write_bytes(whole)
    load(path)  # negative control


@pytest.mark.parametrize("kept", [0, 1, 511, 512, 600, 4096, -1])
def test_a_cut_record_is_noticed(tmp_path: Path, kept: int) -> None:
    save(path := tmp_path / "predictions.h5", random_predictions(), {})
    path.write_bytes(path.read_bytes()[:kept])
    damaged(path)


def test_a_missing_or_foreign_record_is_told_alike(tmp_path: Path) -> None:
    damaged(tmp_path / "absent.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as store:
        store["truth_m_IP"] = np.ones(3)
    damaged(tmp_path / "foreign.h5")
    damaged(tmp_path)  # a folder


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path := tmp_path / "predictions.h5", old := random_predictions(seed=1), {})

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", disk_full)
    with pytest.raises(ResourceError, match="No space"):
        save(path, random_predictions(seed=2), {})
    assert np.array_equal(load(path).truth_m_IP, old.truth_m_IP)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.h5"]


# predicting


class Blank(Encoder):
    """One cell of zeros."""

    def forward(self, image_B3HW: Tensor) -> Features:
        cell = torch.zeros(len(image_B3HW), 1, 1, 384)
        return Features((cell, cell, cell, cell))

    def digest(self) -> str:
        return "blank"


class Slope(PointDepthModel):
    """Depth 1 + 8x metres, and something else at chosen calls."""

    def __init__(self, replies: Sequence[float] = ()) -> None:
        super().__init__()
        self.encoder = Blank()
        self.replies = list(replies)

    def prepare(self, features: Features) -> None:
        assert not self.training

    def decode(self, scene: None, xy_BK2: Tensor) -> Tensor:
        depth_m_BK = 1 + 8 * xy_BK2[..., 0]
        if self.replies:
            depth_m_BK[0, -1] = self.replies.pop(0)
        return depth_m_BK


@dataclass
class Ramps(DepthDataset):
    """Two 20×24 frames whose depth is 1 + 8 (u + ½) / W metres, what `Slope` predicts."""

    def frames(self, split: str) -> list[FrameId]:
        return [FrameId("a", "hall"), FrameId("b", "hall")]

    def read(self, frame: FrameId) -> Frame:
        depth_m_HW = np.tile((1 + 8 * (np.arange(24) + 0.5) / 24).astype(np.float32), (20, 1))
        return Frame(np.zeros((20, 24, 3), np.uint8), depth_m_HW)

    def digest(self) -> str:
        return "ramps"

    def describe(self) -> str:
        return "ramps"


def scored_images() -> ScoredImages:
    data = Ramps()
    return ScoredImages(
        views=Views(data, image_size=(14, 14), augmentation=Augment(enabled=False)),
        frames=data.frames("test"),
        protocol=FULL,
        max_k=9,
        k1_draws=4,
        seed=0,
    )


def run(model: PointDepthModel) -> Predictions:
    return predict(model, scored_images(), FrozenFeatures(model.encoder), device=torch.device("cpu"))[0]


def test_a_model_that_knows_the_depth_scores_no_error() -> None:
    """The whole way: pixels, their points of the unit square, the model's answer, the truth at the same pixels."""
    found = run(Slope())
    assert found.frames == ("a", "b")
    assert found.draw_P.tolist() == [0] * 9 + [1, 2, 3]
    assert np.allclose(found.truth_m_IP, 1 + 8 * (found.uv_img_IP2[..., 0] + 0.5) / 24, atol=1e-6)
    values = per_image(found, METRICS, [1, 4, 9], FULL)
    assert max(summarise(values, METRICS)["rmse_pooled", k] for k in (1, 4, 9)) < 1e-5
    assert len(np.unique(found.uv_img_IP2[0, :9], axis=0)) == 9  # without replacement
    assert not np.array_equal(found.uv_img_IP2[0], found.uv_img_IP2[1])  # each frame has points of its own


@pytest.mark.parametrize("reply", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_fails_the_run(reply: float) -> None:
    with pytest.raises(NotFinite, match="frame b: 1 of 12 predictions are not finite") as caught:
        run(Slope([2.0, reply]))
    assert caught.value.exit_code == 4
    run(Slope([2.0, -3.0]))  # negative control: a foolish depth is still a prediction
