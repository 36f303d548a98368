"""Somebody else's predictions: read by name, scored at the suite's own points, compared where the test is the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spd_bench.api import FrameId
from spd_bench.errors import ConfigError, DataError, StateError
from spd_bench.external.alignment import FittedAlignment, inverse
from spd_bench.external.names import match
from spd_bench.external.result import Scored
from spd_bench.external.score import score_predictions
from spd_bench.external.table import table
from spd_bench.report.collect import collect
from spd_bench.report.comparison import notes
from spd_bench.report.html import html_report
from spd_bench.report.tables import ALIGNED_HEADING, FORMATS, render
from spd_bench.run.planning import plan
from spd_bench.run.planning.job import Job
from spd_bench.run.record import suite_record, write_suite_record
from spd_bench.run.runner import Runner
from spd_bench.score import judge
from spd_bench.score.predict import load
from spd_bench.store import records
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Suite
from spd_bench.train.callback import Callback

SUITE = """
suite: tiny
base:
  name: v13
  encoder: {encoder}
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
eval: {{protocol: {protocol}, k: [1, 8], k1_draws: 3}}
seeds: [0]
baselines: [constant]
report: {{primary: {{metric: absrel, k: 8}}}}
"""
HEIGHT, WIDTH = 24, 32
Maps = NDArray[np.float32]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB-D frames of 24×32 with depth of 1 to 4 m; one pixel of each is unknown."""
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (root / folder).mkdir()
    for i in range(20):
        depth_mm = rng.integers(1000, 4000, (HEIGHT, WIDTH)).astype(np.uint16)
        depth_mm[0, 0] = 0
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), i, np.uint8)).save(root / "rgb" / f"{i:05d}.png")
        Image.fromarray(depth_mm).save(root / "depth" / f"{i:05d}.png")
    return root


@pytest.fixture
def suite(tmp_path: Path, frames: Path) -> Suite:
    return suite_of(tmp_path, frames)


def suite_of(folder: Path, frames: Path, *sets: str, encoder: str = "patch_descriptors") -> Suite:
    path = folder / "tiny.yaml"
    path.write_text(SUITE.format(root=frames, protocol="full_frame", encoder=encoder), encoding="utf-8")
    return load_suite(path, sets=sets)


@pytest.fixture
def names(suite: Suite) -> list[str]:
    """The last fifth: 00016 to 00019."""
    return [frame.frame for frame in judge.Judge.of(suite).data.frames("test")]


@pytest.fixture
def truth(suite: Suite) -> Maps:
    """What a perfect method predicts; 1 m where the truth is unknown."""
    data = judge.Judge.of(suite).data
    maps = np.stack([data.read(frame).depth_m_HW for frame in data.frames("test")])
    return np.where(maps > 0, maps, 1).astype(np.float32)


@pytest.fixture
def score(suite: Suite, tmp_path: Path) -> Callable[..., Scored]:
    def call(source: Path, **options: Any) -> Scored:
        return score_predictions(source, **{"suite": suite, "name": "theirs", "root": tmp_path / "runs"} | options)

    return call


def stack(path: Path, maps: Any) -> Path:
    np.save(path, maps)
    return path


def folder(path: Path, names: list[str], maps: Maps, write: Callable[[Path, Any], None], suffix: str) -> Path:
    for name, map_HW in zip(names, maps, strict=True):
        file = path / f"{name}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, map_HW)
    return path


def millimetres(path: Path, map_HW: Any) -> None:
    Image.fromarray(np.round(1000 * map_HW).astype(np.uint16)).save(path)


def floats(path: Path, map_HW: Any) -> None:
    Image.fromarray(map_HW.astype(np.float32)).save(path)


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as store:
        for name, array in arrays.items():
            store[name] = array
    return path


def refused(score: Callable[..., Scored], source: Path, kind: type[Exception] = DataError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        score(source, **options)
    return str(caught.value)


# forms


def perfect(scored: Scored) -> None:
    for k in (1, 8):
        assert scored.values["absrel", k] == 0
        assert scored.values["delta1", k] == 1
    assert scored.all_pixels is not None
    assert (scored.all_pixels["absrel"], scored.all_pixels["rmse"], scored.all_pixels["delta1"]) == (0, 0, 1)
    assert scored.images == 4


def test_perfect_predictions_have_no_error_in_any_form(
    score: Callable[..., Scored], truth: Maps, names: list[str], tmp_path: Path
) -> None:
    perfect(score(stack(tmp_path / "a.npy", truth)))
    perfect(score(stack(tmp_path / "mm.npy", np.round(1000 * truth).astype(np.int32)), unit="mm"))
    perfect(score(folder(tmp_path / "b", names, truth, np.save, ".npy")))
    perfect(score(folder(tmp_path / "c", names, truth, millimetres, ".png"), unit="mm"))
    perfect(score(folder(tmp_path / "d", names, truth, floats, ".tiff")))
    perfect(score(folder(tmp_path / "e", [f"bathroom/rgb_{n}" for n in names], truth, np.save, ".npy")))
    perfect(
        score(folder(tmp_path / "f", [f"bathroom_rgb_{n}" for n in names], truth, millimetres, ".png"), unit="1000")
    )
    perfect(score(hdf5(tmp_path / "g.h5", depth=truth)))
    perfect(score(hdf5(tmp_path / "h.h5", depth=truth, other=truth + 1), dataset_key="depth"))


def test_ten_per_cent_too_far_is_an_absrel_of_a_tenth(
    score: Callable[..., Scored], truth: Maps, tmp_path: Path
) -> None:
    scored = score(stack(tmp_path / "a.npy", 1.1 * truth.astype(np.float64)))
    assert scored.all_pixels is not None
    for value in (scored.values["absrel", 1], scored.values["absrel", 8], scored.all_pixels["absrel"]):
        assert value == pytest.approx(0.1, rel=0, abs=1e-7)
    assert scored.values["log10", 8] == pytest.approx(np.log10(1.1), rel=0, abs=1e-7)
    assert scored.values["delta1", 8] == 1  # 1.1 < 1.25
    assert scored.values["silog", 8] == pytest.approx(0, abs=1e-4)  # a scale alone


def test_all_pixels_are_the_mean_over_images_of_every_valid_pixel(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path
) -> None:
    predicted = (truth * np.random.default_rng(1).lognormal(0, 0.2, truth.shape)).astype(np.float32)
    scored = score(stack(tmp_path / "a.npy", predicted))
    data = judge.Judge.of(suite).data
    per_image = []
    for frame, map_HW in zip(data.frames("test"), predicted.astype(np.float64), strict=True):
        g_HW = data.read(frame).depth_m_HW.astype(np.float64)
        known = g_HW > 0
        assert known.sum() == HEIGHT * WIDTH - 1
        per_image.append(np.mean(np.abs(g_HW - map_HW)[known] / g_HW[known]))
    assert scored.all_pixels is not None
    assert scored.all_pixels["absrel"] == pytest.approx(np.mean(per_image), rel=0, abs=1e-12)
    # negative control: 8 points of each image say something else
    assert abs(scored.values["absrel", 8] - scored.all_pixels["absrel"]) > 1e-4


def test_points_are_the_ones_of_the_suites_own_runs(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path
) -> None:
    scored = score(stack(tmp_path / "a.npy", truth))
    runner, job = constant_job(suite, tmp_path / "runs")
    assert not runner.run(job, Callback()).failure
    ours, theirs = (
        load(next((tmp_path / "runs").glob("trained/*/eval-*/predictions.h5"))),
        load(scored.folder / "predictions.h5"),
    )
    assert ours.frames == theirs.frames
    for array in ("uv_img_IP2", "truth_m_IP", "draw_P"):
        assert np.array_equal(getattr(ours, array), getattr(theirs, array))
    assert np.array_equal(theirs.predicted_m_IP, theirs.truth_m_IP)


# names

ORDER = [2, 0, 3, 1]


def test_names_and_not_places_say_which_frame_a_map_is_of(
    score: Callable[..., Scored], truth: Maps, names: list[str], tmp_path: Path
) -> None:
    shuffled, their_names = truth[ORDER], [names[i] for i in ORDER]
    perfect(score(hdf5(tmp_path / "a.h5", depth=shuffled, frames=their_names)))
    perfect(score(hdf5(tmp_path / "b.h5", depth=shuffled, frames=[f"hall/rgb_{n}.jpg" for n in their_names])))
    listed = tmp_path / "frames.txt"
    listed.write_text("\n".join(their_names) + "\n")
    perfect(score(stack(tmp_path / "c.npy", shuffled), names=listed))
    # negative control: without names the order of the split is believed
    believed = score(stack(tmp_path / "d.npy", shuffled), as_is=True)
    assert believed.values["absrel", 8] > 0.1
    assert (
        "AS IS, though 4 of 4 maps fit another frame's truth better: map 0 that of frame 00018" in believed.difference
    )


def test_missing_surplus_and_doubtful_names_are_listed(
    score: Callable[..., Scored], truth: Maps, names: list[str], tmp_path: Path
) -> None:
    assert names == ["00016", "00017", "00018", "00019"]
    said = refused(score, folder(tmp_path / "a", names[:2], truth[:2], np.save, ".npy"))
    assert "2 of 4 test frames have no prediction: 00018, 00019" in said
    assert "name predictions by frame, such as 00016" in said
    more = folder(tmp_path / "b", [*names, "00003", "rgb_00004"], [*truth, *truth[:2]], np.save, ".npy")
    perfect(score(more))  # a folder of all predictions: those of other frames are left out, and counted
    assert "one .npy per frame, 2 files of other frames left out" in score(more).difference
    twice = folder(tmp_path / "c", names, truth, np.save, ".npy")
    np.save(twice / "rgb_00016.npy", truth[0])
    assert "1 frames have more than one prediction: 00016 (00016, rgb_00016)" in refused(score, twice)
    (twice / "rgb_00016.npy").unlink()
    floats(twice / "00017.tif", truth[1])
    assert "1 frames have more than one prediction: 00017 (00017, 00017)" in refused(score, twice)
    assert "4 names for 3 maps" in refused(score, hdf5(tmp_path / "d.h5", depth=truth[:3], frames=names))
    said = refused(score, hdf5(tmp_path / "e.h5", depth=truth, frames=[names[0], *names[:3]]))
    assert "1 frames have more than one prediction: 00016 (00016, 00016)" in said
    assert "expected one map for each of 4 test frames, found 3" in refused(score, stack(tmp_path / "f.npy", truth[:3]))


def test_names_are_paired_one_to_one_or_not_at_all() -> None:
    frames = [FrameId("a/1", "a"), FrameId("b/1", "b")]
    assert match(["b_1", "a/1"], frames, where="x").order == (1, 0)
    assert match(["x_rgb_2", "rgb_1"], [FrameId("s/1", "s"), FrameId("s/2", "s")], where="x").order == (1, 0)
    for keys, said in (
        (["rgb_1"], "2 frames share a prediction with another frame: a/1, b/1"),
        (["rgb_1", "x/rgb_1"], r"2 frames have more than one prediction: a/1 \(rgb_1, x/rgb_1\)"),
        (["rgb_01", "b/1"], "1 of 2 test frames have no prediction: a/1"),  # Marigold counts from 1, in four digits
        (["argb_1", "b/1"], "1 of 2 test frames have no prediction: a/1"),
    ):
        with pytest.raises(DataError, match=said):
            match(keys, frames, where="x")


# values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_a_bad_value_at_a_valid_pixel_is_an_error_that_lists_the_frames(
    score: Callable[..., Scored], truth: Maps, tmp_path: Path, bad: float
) -> None:
    truth[:, 0, 0] = bad  # unknown depth: scored nowhere
    perfect(score(stack(tmp_path / "a.npy", truth)))
    truth[1, 5, 5:7] = truth[3, 6, 6] = bad
    said = refused(score, stack(tmp_path / "b.npy", truth))
    assert "2 of 4 frames cannot be scored:" in said
    assert "frame 00017: at 2 of 767 valid pixels the predictions are not positive, finite numbers" in said
    assert "frame 00019: at 1 of 767 valid pixels" in said
    assert "no frame is left out" in said


def test_zero_in_a_png_is_no_prediction(
    score: Callable[..., Scored], truth: Maps, names: list[str], tmp_path: Path
) -> None:
    truth[2, 7, 7] = 0
    source = folder(tmp_path / "a", names, truth, millimetres, ".png")
    assert "frame 00018: at 1 of 767 valid pixels" in refused(score, source, unit="mm")
    # as disparity too, where a zero would otherwise be far away
    options = {"quantity": "disparity", "align": "lsq_disparity"}
    assert "frame 00018: at 1 of 767 valid pixels" in refused(score, source, **options)
    # negative control: zero disparity in an array is a number, infinitely far
    inverse_HW = np.where(truth > 0, 1 / np.maximum(truth, 1), 0)
    assert score(stack(tmp_path / "b.npy", inverse_HW), **options).gt_aligned


@pytest.mark.parametrize("factor", [1000, 0.1, 1 / 20])
def test_other_units_and_normalised_depth_are_refused(
    score: Callable[..., Scored], truth: Maps, tmp_path: Path, factor: float
) -> None:
    source = stack(tmp_path / "a.npy", factor * truth)
    said = refused(score, source)
    assert f"the median of prediction / truth is {factor:.4g}" in said
    assert f"with --unit {'mm' if factor == 1000 else f'{factor:.4g}'} it would be 1;" in said
    assert "--align" in said
    scored = score(source, unit=f"{factor:g}")  # the same files with their unit
    assert scored.values["absrel", 8] < 1e-6
    assert f"{factor:g} units per metre" in scored.difference


def test_eight_bits_are_refused(score: Callable[..., Scored], truth: Maps, names: list[str], tmp_path: Path) -> None:
    byte = (25 * truth).astype(np.uint8)
    said = refused(score, folder(tmp_path / "a", names, byte, lambda p, m: Image.fromarray(m).save(p), ".png"))
    assert "found PIL mode L" in said
    assert "8-bit depth is scaled and rounded for display" in said
    assert "found uint8" in refused(score, stack(tmp_path / "b.npy", byte))
    assert "found uint8" in refused(score, hdf5(tmp_path / "c.h5", depth=byte))


# size


def test_a_map_of_another_size_is_read_at_pixel_centres(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    small = rng.uniform(1, 4, (4, 12, 16)).astype(np.float32)
    scored = score(stack(tmp_path / "a.npy", small))
    assert "12×16 read bilinearly at the frame's pixel centres" in scored.difference
    record = load(scored.folder / "predictions.h5")
    # pixel (u, v) has its centre at ((u + ½) / 32, (v + ½) / 24): torch's own half-pixel reading of that point
    uv = torch.from_numpy(record.uv_img_IP2).double() + 0.5
    grid = 2 * uv / torch.tensor([WIDTH, HEIGHT]) - 1
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(small)[:, None].double(), grid[:, None], padding_mode="border", align_corners=False
    )[:, 0, 0]
    np.testing.assert_allclose(record.predicted_m_IP, expected.numpy(), rtol=0, atol=1e-6)
    assert "bilinearly" not in score(stack(tmp_path / "b.npy", truth)).difference


def test_a_map_on_its_side_is_refused(score: Callable[..., Scored], truth: Maps, tmp_path: Path) -> None:
    said = refused(score, stack(tmp_path / "a.npy", truth.transpose(0, 2, 1)))
    assert "the map is 32×24, the frame 24×32: rows and columns are exchanged" in said
    perfect(score(stack(tmp_path / "b.npy", truth[..., None])))  # one channel is one map
    assert "expected shape [N, H, W], found [4, 24, 32, 2]" in refused(
        score, stack(tmp_path / "c.npy", np.stack([truth, truth], axis=-1))
    )


# alignment

TRUE_M = np.array([1.0, 2.0, 4.0, 5.0])


def test_alignments_by_hand() -> None:
    # 1/g = 1, 1/2, 1/4, 1/5; x = 4/g − 1: a = 1/4, c = 1/4
    fit = FittedAlignment.fit("lsq_disparity", "disparity", 4 / TRUE_M - 1, TRUE_M)
    assert (fit.scale, fit.shift) == pytest.approx((0.25, 0.25), abs=1e-14)
    assert fit.depth_m(np.array([1.0, -1.0, -5.0])).tolist() == pytest.approx([2, 1000, 1000])  # 1/0 and below: floor
    # r = (g − 3) / 2: a = 2, c = 3
    fit = FittedAlignment.fit("lsq_depth", "depth", (TRUE_M - 3) / 2, TRUE_M)
    assert (fit.scale, fit.shift) == pytest.approx((2, 3), abs=1e-14)
    # r = 10, 10, 20, 90: median 15; median of g is 3: a = 1/5
    fit = FittedAlignment.fit("median", "depth", np.array([10.0, 10.0, 20.0, 90.0]), TRUE_M)
    assert (fit.scale, fit.shift) == (0.2, 0.0)
    # disparity 1, 1/2, 1/4, 0: depth 1, 2, 4, 1000: median 3
    assert FittedAlignment.fit("median", "disparity", np.array([1, 0.5, 0.25, 0]), TRUE_M).scale == 1
    assert inverse(np.array([0.0, -1.0, 2.0])).tolist() == [1000, 1000, 0.5]


def test_least_squares_is_the_smallest_sum_of_squares() -> None:
    rng = np.random.default_rng(3)
    g, x = rng.uniform(1, 9, 200), rng.uniform(0, 5, 200)
    fit = FittedAlignment.fit("lsq_disparity", "disparity", x, g)
    (scale, shift), *_ = np.linalg.lstsq(np.stack([x, np.ones(200)], axis=1), 1 / g, rcond=None)
    assert (fit.scale, fit.shift) == pytest.approx((scale, shift), rel=1e-9)
    in_depth = FittedAlignment.fit("lsq_depth", "disparity", x, g)
    (scale, shift), *_ = np.linalg.lstsq(np.stack([1 / np.maximum(x, 1e-3), np.ones(200)], axis=1), g, rcond=None)
    assert (in_depth.scale, in_depth.shift) == pytest.approx((scale, shift), rel=1e-9)
    with pytest.raises(DataError, match="at least two different predictions, found 1"):
        FittedAlignment.fit("lsq_depth", "depth", np.ones(9), np.arange(1.0, 10))


@pytest.mark.parametrize(
    ("quantity", "align", "relative"),
    [
        ("disparity", "lsq_disparity", lambda g: 30 / g - 2),
        ("depth", "lsq_depth", lambda g: (g - 2.5) / 7),
        ("depth", "median", lambda g: g / 40),
        ("disparity", "median", lambda g: 9 / g),
        ("disparity", "lsq_depth", lambda g: 1 / (3 * g + 2)),
    ],
)
def test_relative_predictions_are_aligned_on_all_valid_pixels(
    score: Callable[..., Scored], truth: Maps, tmp_path: Path, quantity: str, align: str, relative: Any
) -> None:
    source = stack(tmp_path / "a.npy", relative(truth.astype(np.float64)))
    scored = score(source, quantity=quantity, align=align)
    assert scored.gt_aligned
    assert f"{quantity} aligned to the ground truth of each image by {align}" in scored.difference
    assert scored.values["absrel", 1] < 1e-6
    assert scored.values["absrel", 8] < 1e-6
    assert "GT-ALIGNED" in table(scored)
    if quantity == "depth":
        refused(score, source)  # as metres they are nothing


def test_depth_taken_for_disparity_is_noticed(score: Callable[..., Scored], truth: Maps, tmp_path: Path) -> None:
    source = stack(tmp_path / "a.npy", truth)
    said = refused(score, source, quantity="disparity", align="lsq_disparity")
    assert "the fitted scale is negative in 4 of 4 frames: depth and disparity are probably confused" in said
    assert score(source, align="lsq_disparity").values["absrel", 8] < 1e-6  # negative control


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unit": "cm"}, 'unknown unit "cm"'),
        ({"unit": "0"}, 'unknown unit "0"'),
        ({"unit": "nan"}, 'unknown unit "nan"'),
        ({"quantity": "disparty"}, 'did you mean "disparity"'),
        ({"align": "least_squares"}, "--align: unknown value"),
        ({"quantity": "disparity"}, "disparity has no metres before it is aligned"),
        ({"quantity": "disparity", "align": "median", "unit": "mm"}, "and no unit"),
        ({"name": "../up"}, '"../up" is no name for a row'),
        ({"dataset_key": "depth"}, "only .npz and HDF5 files have keys"),
        ({"crop": "45:471"}, "expected rows and columns such as 45:471,41:601, or none"),
        ({"crop": "9:5,0:3"}, "expected rows and columns"),
    ],
)
def test_options_that_do_not_go_together(
    score: Callable[..., Scored], truth: Maps, tmp_path: Path, options: dict[str, str], said: str
) -> None:
    assert said in refused(score, stack(tmp_path / "a.npy", truth), ConfigError, **options)
    assert not (tmp_path / "runs").exists()


# files


def test_files_that_are_none_are_refused(score: Callable[..., Scored], truth: Maps, tmp_path: Path) -> None:
    assert "there are no predictions here" in refused(score, tmp_path / "absent.npy")
    torn = stack(tmp_path / "a.npy", truth)
    torn.write_bytes(torn.read_bytes()[:200])
    assert "found a damaged or foreign file" in refused(score, torn)
    pickled = stack(tmp_path / "b.npy", np.array([truth, None], dtype=object))
    assert "without pickled objects" in refused(score, pickled)
    (tmp_path / "c.h5").write_bytes(b"no HDF5 at all")
    assert "expected HDF5" in refused(score, tmp_path / "c.h5")
    (tmp_path / "d.zip").write_bytes(b"")
    assert "expected .npy, .npz, .h5, .hdf5 or a folder, found .zip" in refused(score, tmp_path / "d.zip")


def test_hdf5_must_hold_its_one_array_itself(score: Callable[..., Scored], truth: Maps, tmp_path: Path) -> None:
    several = hdf5(tmp_path / "a.h5", one=truth, two=truth)
    assert "expected one array [N, H, W], found one, two" in refused(score, several)
    assert 'expected an array "three"' in refused(score, several, dataset_key="three")
    elsewhere = tmp_path / "b.h5"
    with h5py.File(elsewhere, "w") as store:
        store["depth"] = h5py.ExternalLink(str(several), "one")
    assert "expected HDF5, found none that can be read ('/depth' is a link" in refused(score, elsewhere)


# records of runs


def constant_job(suite: Suite, root: Path) -> tuple[Runner, Job]:
    experiment = plan.Experiment(suite)
    job = next(job for job in experiment.jobs if job.composition.name == "constant")
    return Runner(experiment, root, torch.device("cpu")), job


def run_suite(suite: Suite, root: Path) -> Path:
    """A suite of which the baseline alone was run, as its folders tell it; returns the baseline's record."""
    runner, job = constant_job(suite, root)
    outcome = runner.run(job, Callback())
    write_suite_record(root, suite_record(runner, [outcome], why="", provenance={}))
    return outcome.folder / f"eval-{job.eval_id[:10]}" / "predictions.h5"


def test_a_runs_own_record_scores_what_the_run_scored(
    score: Callable[..., Scored], suite: Suite, tmp_path: Path, frames: Path
) -> None:
    record = run_suite(suite, tmp_path / "runs")
    scored = score(record)
    ours = json.loads(record.with_name("scores.json").read_text())["scores"]
    assert {f"{metric}@{k}": value for (metric, k), value in scored.values.items()} == ours
    assert scored.all_pixels is None
    assert "query points of a run's record" in scored.difference
    said = refused(score, record, suite=suite_of(tmp_path, frames, "eval.seed=1"))
    assert "frame 00016 was not predicted at the query points of this suite" in said
    assert "leave those options out" in refused(score, record, ConfigError, unit="mm")
    record.write_bytes(record.read_bytes()[:-1])
    refused(score, record, StateError)


# comparisons


def rows_of(root: Path) -> dict[str, str]:
    return {row.name: row.kind for row in collect(root).rows}


def test_a_row_stands_beside_suites_of_the_same_test_and_no_others(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path, frames: Path
) -> None:
    root = tmp_path / "runs"
    source = stack(tmp_path / "a.npy", (1.1 * truth).astype(np.float32))
    score(source)
    run_suite(suite, root)
    assert rows_of(root) == {"constant": "baseline", "theirs": "external"}
    row = collect(root).row("theirs")
    assert row.values["absrel", 8] == pytest.approx((0.1,), abs=1e-6)
    assert (row.seeds, row.trainable_parameters, row.gt_aligned) == ((), None, False)
    assert row.difference.startswith("external: theirs (files of a.npy: NumPy array of 4×24×32")
    for change in ("eval.k=[1, 8, 16]", "eval.seed=1", "eval.k1_draws=4", "data.dataset.gap=1"):
        run_suite(suite_of(tmp_path, frames, change), root)
        assert rows_of(root) == {"constant": "baseline"}, change
    for change in ("train.lr=1e-3", "report.primary.metric=rmse"):  # another suite, the same test
        run_suite(suite_of(tmp_path, frames, change), root)
        assert rows_of(root) == {"constant": "baseline", "theirs": "external"}, change
    stored = root / "suites" / "tiny.json"
    old = records.read_record(stored)
    del old["judge"], old["averaging"]
    records.write_record(stored, old)
    assert rows_of(root) == {"constant": "baseline"}  # an older record does not say what its test was


def test_names_that_are_taken_and_records_that_are_damaged(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    run_suite(suite, root)
    source = stack(tmp_path / "a.npy", truth)
    first, again = score(source, name="constant"), score(source, name="constant")
    assert first.folder == again.folder  # the same predictions and options are one record
    assert rows_of(root) == {"constant": "baseline", first.folder.name: "external"}
    other = score(source, name="constant", gt_aligned=True)
    assert other.folder != first.folder
    assert len(rows_of(root)) == 3
    (other.folder / "run.json").write_text("{")
    with pytest.raises(StateError, match="delete its folder and score the predictions again"):
        collect(root)


def test_every_format_shows_external_rows_and_keeps_aligned_ones_apart(
    score: Callable[..., Scored], suite: Suite, truth: Maps, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    run_suite(suite, root)
    score(stack(tmp_path / "a.npy", 1.1 * truth))
    score(stack(tmp_path / "b.npy", truth / 9), name="relative", align="median")
    comparison = collect(root)
    assert [row.name for row in comparison.own] == ["constant", "theirs"]
    assert [row.name for row in comparison.aligned] == ["relative"]
    for form in FORMATS:
        text = render(comparison, format=form)
        assert "theirs" in text
        assert "relative" in text
    own, aligned = render(comparison, format="terminal", metric="absrel").split(ALIGNED_HEADING)
    assert "theirs" in own
    assert "relative" in aligned
    assert "failed: 0. External predictions: 2." in " ".join(own.split())
    assert any(
        note.startswith("EXTERNAL theirs, not trained or timed here: external: theirs (") for note in notes(comparison)
    )
    page = html_report(comparison, {}, configuration="")
    assert "theirs" in page


# without models


def test_scoring_needs_no_weights(
    truth: Maps, tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[..., Scored]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was built")

    for built in ("build", "build_baseline", "build_encoder"):
        monkeypatch.setattr(plan.compose, built, refuse)
    theirs = suite_of(tmp_path, frames, encoder="{use: dav2_small}")
    perfect(score(stack(tmp_path / "a.npy", truth), suite=theirs))


def test_what_is_printed(score: Callable[..., Scored], truth: Maps, tmp_path: Path) -> None:
    scored = score(stack(tmp_path / "a.npy", 1.1 * truth.astype(np.float64)))
    text = table(scored)
    numbers = [line.split() for line in text.split("\n\n")[1].splitlines()]
    assert numbers[0] == ["metric", "K=1", "K=8", "all", "pixels"]
    assert ["absrel", "0.1000", "0.1000", "0.1000"] in numbers
    assert ["delta1", "1.0000", "1.0000", "1.0000"] in numbers
    assert ["silog", "–", "0.0000", "0.0000"] in numbers  # nothing to measure at one point
    assert scored.judge.caption in text
    assert "external: theirs (files of a.npy: " in text
    assert str(scored.folder) in text


def test_a_protocol_that_pools_says_so_and_does(
    truth: Maps, tmp_path: Path, frames: Path, score: Callable[..., Scored], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from spd_bench.protocol import POOLED, PROTOCOLS

    pooling = replace(PROTOCOLS["full_frame"], name="full_pooled", averaging="pooled")
    monkeypatch.setitem(PROTOCOLS, "full_pooled", pooling)
    suite = suite_of(tmp_path, frames, "eval.protocol=full_pooled")
    predicted = truth.copy()
    predicted[0] *= 2  # relative error 1 in one of four images
    scored = score(stack(tmp_path / "a.npy", predicted), suite=suite)
    record = load(scored.folder / "predictions.h5")
    g, p = record.truth_m_IP[:, :8].astype(np.float64), record.predicted_m_IP[:, :8].astype(np.float64)
    assert scored.values["rmse", 8] == pytest.approx(np.sqrt(np.mean((g - p) ** 2)), rel=0, abs=1e-12)
    assert abs(scored.values["rmse", 8] - np.mean(np.sqrt(np.mean((g - p) ** 2, axis=1)))) > 0.1
    assert scored.all_pixels is not None
    assert scored.all_pixels["rmse"] == scored.all_pixels["rmse_pooled"]
    assert table(scored).count(POOLED) == 1 + len(scored.judge.metrics)
    run_suite(suite, tmp_path / "runs")
    comparison = collect(tmp_path / "runs")
    assert {info.aggregation for info in comparison.metrics} == {POOLED}
    assert comparison.protocol == scored.judge.caption
