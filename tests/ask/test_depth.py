"""Depth at asked points: equal to the recorded predictions, and the same whatever else is asked."""

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trained import HEIGHT, WIDTH

import spd_bench
from spd_bench import RunModel
from spd_bench.errors import ConfigError
from spd_bench.score.predict import Predictions
from spd_bench.score.predict import load as load_predictions


def frame_file(trained: Path, frame: str) -> Path:
    return trained.parent / "frames" / "rgb" / f"{Path(frame).stem}.png"


@pytest.fixture(scope="module")
def recorded(model: RunModel) -> Predictions:
    (path,) = model.run.folder.glob("eval-*/predictions.h5")
    return load_predictions(path)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """An image of another size and aspect than the training frames: 37 rows, 90 columns."""
    return np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)


# equal to the record


def test_depths_are_those_that_the_run_recorded(model: RunModel, trained: Path, recorded: Predictions) -> None:
    for frame, uv_P2, predicted_m_P in zip(recorded.frames, recorded.uv_img_IP2, recorded.predicted_m_IP, strict=True):
        depth_m_P = model.depth(model.encode(frame_file(trained, frame)), uv_P2)
        # the same network on the same input; only the numbers of points per matrix product differ
        np.testing.assert_allclose(depth_m_P, predicted_m_P, rtol=3e-6)


def test_half_a_pixel_elsewhere_is_another_depth(model: RunModel, trained: Path, recorded: Predictions) -> None:
    scene = model.encode(frame_file(trained, recorded.frames[0]))
    inside_N = (recorded.uv_img_IP2[0] < [WIDTH - 1, HEIGHT - 1]).all(axis=1)
    shifted_m = model.depth(scene, recorded.uv_img_IP2[0][inside_N] + 0.5)
    off = np.abs(shifted_m / recorded.predicted_m_IP[0][inside_N] - 1)
    assert np.median(off) > 1e-4  # thirty times the tolerance above


def test_a_baseline_without_training_answers(trained: Path, noise: np.ndarray) -> None:
    constant = spd_bench.load("tiny/constant", runs=trained, device="cpu")
    depth_m = constant.depth(constant.encode(noise), [(0, 0), (89, 36)])
    assert depth_m[0] == depth_m[1]
    assert 0.7 < depth_m[0] < 5.2  # depths of the frames: 1 to 4 m, times 0.7 to 1.3


# the same whatever else is asked


def test_dense_has_the_bits_of_single_points(model: RunModel, noise: np.ndarray) -> None:
    scene = model.encode(noise)
    dense_m_HW = model.dense(scene)
    assert dense_m_HW.shape == (37, 90)
    assert dense_m_HW.dtype == np.float32
    assert dense_m_HW.std() > 0.001
    for u, v in [(0, 0), (89, 0), (0, 36), (89, 36), (44, 18), (7, 30)]:
        assert model.depth(scene, [(u, v)])[0] == dense_m_HW[v, u]


def test_order_and_number_of_points_change_no_bit(model: RunModel, noise: np.ndarray) -> None:
    scene, rng = model.encode(noise), np.random.default_rng(1)
    uv_N2 = rng.uniform([-0.5, -0.5], [89.5, 36.5], (700, 2))
    depth_m_N = model.depth(scene, uv_N2)
    order_N = rng.permutation(700)
    assert (model.depth(scene, uv_N2[order_N]) == depth_m_N[order_N]).all()
    for some in (slice(0, 1), slice(5, 8), slice(300, 333), slice(0, 257)):
        assert (model.depth(scene, uv_N2[some]) == depth_m_N[some]).all()


def test_a_thousand_points_cost_one_encoding(
    model: RunModel, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    encode = model.network.encode
    monkeypatch.setattr(model.network, "encode", lambda image: calls.append(len(image)) or encode(image))
    scene = model.encode(noise)
    model.depth(scene, np.random.default_rng(0).uniform(0, 36, (1000, 2)))
    model.depth(scene, [(1, 1)])
    assert calls == [1]


def test_threads_get_what_one_gets(model: RunModel) -> None:
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, (20 + i, 30, 3), np.uint8) for i in range(6)]
    uv_N2 = rng.uniform(0, 19, (50, 2))
    one_by_one = [model.depth(model.encode(image), uv_N2) for image in images]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda image: model.depth(model.encode(image), uv_N2), images * 3))
    for index, depth_m_N in enumerate(together):
        assert (depth_m_N == one_by_one[index % 6]).all()


def test_threads_may_share_a_scene(model: RunModel, noise: np.ndarray) -> None:
    uv_N2 = np.random.default_rng(3).uniform(0, 36, (80, 2))
    alone = model.depth(model.encode(noise), uv_N2)
    scene = model.encode(noise)  # no point has been asked for yet
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: model.depth(scene, uv_N2[i::8]), range(8)))
    for i, depth_m_N in enumerate(answers):
        assert (depth_m_N == alone[i::8]).all()


def test_images_may_be_encoded_in_batches(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (30, 40 + i, 3), np.uint8) for i in range(5)]
    alone = [model.depth(model.encode(image), [(3, 4), (20, 20)]) for image in images]
    calls = []
    encode = model.network.encode
    monkeypatch.setattr(model.network, "encode", lambda image: calls.append(len(image)) or encode(image))
    scenes = list(model.encode_many(iter(images), batch_size=2))
    assert calls == [2, 2, 1]
    assert [scene.width for scene in scenes] == [40, 41, 42, 43, 44]
    for scene, depth_m in zip(scenes, alone, strict=True):
        np.testing.assert_allclose(model.depth(scene, [(3, 4), (20, 20)]), depth_m, rtol=1e-5)


def test_a_scene_belongs_to_its_model(model: RunModel, trained: Path, noise: np.ndarray) -> None:
    other = spd_bench.load("tiny/v13", runs=trained, seed=1, device="cpu")
    with pytest.raises(ConfigError, match="another model"):
        other.depth(model.encode(noise), [(1, 1)])


def test_progress_counts_points(model: RunModel, noise: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    model.dense(model.encode(noise), on_points=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (37 * 90, 37 * 90)
    assert len(seen) > 1


# images in every form


def forms(image_HW3: np.ndarray, folder: Path) -> Iterator[object]:
    path, picture, content = folder / "image.png", Image.fromarray(image_HW3), io.BytesIO()
    picture.save(path)
    picture.save(content, format="PNG")
    yield from (path, str(path), picture, content.getvalue(), np.asfortranarray(image_HW3))
    yield Image.merge("RGBA", (*picture.split(), Image.new("L", picture.size, 7)))


def test_an_image_may_come_in_any_form(model: RunModel, noise: np.ndarray, tmp_path: Path) -> None:
    uv_N2 = [(0, 0), (60.25, 20.5), (89.5, 36.5)]
    depth_m_N = model.depth(model.encode(noise), uv_N2)
    for image in forms(noise, tmp_path):
        scene = model.encode(image)  # type: ignore[arg-type]
        assert (scene.width, scene.height) == (90, 37)
        assert (model.depth(scene, uv_N2) == depth_m_N).all()


def test_a_grey_image_is_one_with_three_equal_channels(model: RunModel, noise: np.ndarray) -> None:
    grey_HW = noise[..., 0]
    coloured = model.encode(np.repeat(grey_HW[..., None], 3, axis=2))
    assert (model.dense(model.encode(Image.fromarray(grey_HW))) == model.dense(coloured)).all()


def test_a_photo_is_asked_as_viewers_show_it(model: RunModel, noise: np.ndarray, tmp_path: Path) -> None:
    """EXIF orientation 6: the camera's upper left corner is shown at the upper right."""
    upright = np.ascontiguousarray(np.rot90(noise, -1))
    about = Image.Exif()
    about[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=about)
    scene = model.encode(tmp_path / "turned.png")
    assert (scene.width, scene.height) == (37, 90)
    assert (model.dense(scene) == model.dense(model.encode(upright))).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (211, 3), (56, 56)])
def test_any_size_is_answered(model: RunModel, shape: tuple[int, int]) -> None:
    image_HW3 = np.full((*shape, 3), 99, np.uint8)
    assert model.dense(model.encode(image_HW3)).shape == shape


# what is familiar


def test_what_is_unfamiliar_is_said(model: RunModel) -> None:
    """Training frames: 64×48, depths 0.7 to 5.2 m at the most."""
    assert model.encode(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).unfamiliar == ()
    wide = model.encode(np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8)).unfamiliar
    assert len(wide) == 1
    assert wide[0].startswith("aspect 2.67: training saw 1.33")
    large = model.encode(np.zeros((3 * HEIGHT, 3 * WIDTH, 3), np.uint8)).unfamiliar
    assert large == ("resolution 192×144: training saw 64×48",)
    seen = model.run.seen
    assert seen is not None
    assert seen.sizes == ((HEIGHT, WIDTH),)
    assert 0.7 <= seen.near_m < 1.3
    assert 2.8 < seen.far_m <= 5.2
    depth_m_N = np.array([seen.near_m - 0.01, seen.near_m + 0.01, seen.far_m + 0.01], np.float32)
    assert model.unfamiliar(depth_m_N).tolist() == [True, False, True]


def test_the_record_says_what_was_trained(model: RunModel) -> None:
    assert model.run.label == "v13 seed 0"
    assert model.run.stand_ins == ("patch descriptors instead of DAv2-S",)
    assert "train" in model.run.data


# start


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, spd_bench; assert callable(spd_bench.load); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_loading_imports_nothing_heavy_but_torch(trained: Path) -> None:
    """The encoder of this run needs no transformers; everything else that is slow is not needed for an answer."""
    code = f"""
import sys, spd_bench
model = spd_bench.load("tiny/v13", runs={str(trained)!r})
heavy = {{"mlflow", "optuna", "scipy", "matplotlib", "h5py", "pandas", "transformers"}} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
