"""Augmentation moves image and depth together, exactly, and scales depth as a pinhole camera would."""

import numpy as np
import pytest
from pydantic import ValidationError

from spd_bench.api import Frame
from spd_bench.data.augment import augment, flip, jitter, zoom
from spd_bench.data.randomness import generator
from spd_bench.suite.schema import Augment

HEIGHT, WIDTH = 48, 64


def index_image() -> np.ndarray:
    """Red 3u and green 3v: every colour says from which pixel it comes."""
    v_HW, u_HW = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([3 * u_HW, 3 * v_HW, 0 * u_HW], axis=-1).astype(np.uint8)


def noise() -> Frame:
    rng = generator("noise")
    depth_m_HW = rng.uniform(0.5, 5, (HEIGHT, WIDTH)).astype(np.float32)
    depth_m_HW[rng.random((HEIGHT, WIDTH)) < 0.2] = 0
    return Frame(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), depth_m_HW)


def same(first: Frame, second: Frame) -> bool:
    return np.array_equal(first.image_HW3, second.image_HW3) and np.array_equal(first.depth_m_HW, second.depth_m_HW)


def test_flip_sends_u_to_w_minus_1_minus_u() -> None:
    frame = noise()
    flipped = flip(frame)
    np.testing.assert_array_equal(flipped.depth_m_HW[7, WIDTH - 1 - 5], frame.depth_m_HW[7, 5])
    np.testing.assert_array_equal(flipped.image_HW3[7, WIDTH - 1 - 5], frame.image_HW3[7, 5])
    assert not same(flipped, frame)
    assert same(flip(flipped), frame)


def test_zoom_by_one_changes_nothing() -> None:
    assert same(zoom(noise(), 1.0, at=(0.3, 0.9)), noise())


def test_zoom_by_two_by_hand() -> None:
    # factor 2 at the top-left: new pixel u shows x = (u + ½)/2, old pixel ⌊x⌋ = 0, 0, 1, 1; depth halves.
    frame = Frame(np.zeros((2, 4, 3), np.uint8), np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32))
    np.testing.assert_array_equal(zoom(frame, 2.0, at=(0, 0)).depth_m_HW, [[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1]])
    # at the bottom-right the window begins at x0 = 4 − 4/2 = 2, y0 = 1
    np.testing.assert_array_equal(zoom(frame, 2.0, at=(1, 1)).depth_m_HW, [[3.5, 3.5, 4, 4], [3.5, 3.5, 4, 4]])


def test_zoom_out_by_hand() -> None:
    # factor ½: window of 8 × 4 around 4 × 2. At (½, ½) it begins at x0 = ½·(4 − 8) = −2, y0 = −1: new pixel u shows
    # x = −2 + 2(u + ½) = −1, 1, 3, 5 and v shows y = 0, 2 (outside): depth doubles, the rest is unknown and black.
    frame = Frame(np.full((2, 4, 3), 200, np.uint8), np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32))
    out = zoom(frame, 0.5, at=(0.5, 0.5))
    np.testing.assert_array_equal(out.depth_m_HW, [[0, 4, 8, 0], [0, 0, 0, 0]])
    large = zoom(Frame(np.full((60, 80, 3), 200, np.uint8), np.ones((60, 80), np.float32)), 0.5, at=(0, 0))
    # at (0, 0) x0 = 0: the frame shrinks into the top-left quarter
    assert (large.image_HW3[1:29, 1:39] == 200).all()  # its rim mixes with the black around it
    assert not large.image_HW3[31:].any()
    assert not large.image_HW3[:, 41:].any()
    np.testing.assert_array_equal(large.depth_m_HW > 0, (np.mgrid[:60, :80] < [[[30]], [[40]]]).all(axis=0))


@pytest.mark.parametrize("factor", [0.8, 0.93, 1.07, 1.2])
@pytest.mark.parametrize("at", [(0.0, 0.0), (0.31, 0.77), (1.0, 1.0)])
def test_index_map_goes_where_it_should(factor: float, at: tuple[float, float]) -> None:
    v_HW, u_HW = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x_HW = at[0] * WIDTH * (1 - 1 / factor) + (u_HW + 0.5) / factor
    y_HW = at[1] * HEIGHT * (1 - 1 / factor) + (v_HW + 0.5) / factor
    inside_HW = (x_HW > 0) & (x_HW < WIDTH) & (y_HW > 0) & (y_HW < HEIGHT)
    core_HW = (x_HW > 2) & (x_HW < WIDTH - 2) & (y_HW > 2) & (y_HW < HEIGHT - 2)

    by_column, by_row = (zoom(Frame(index_image(), 1 + place_HW), factor, at=at) for place_HW in (u_HW, v_HW))
    np.testing.assert_array_equal(by_column.depth_m_HW > 0, inside_HW)
    # depth: centre of the pixel read (metres · factor − 1 + ½) within half a pixel of x and of y
    assert np.abs(by_column.depth_m_HW * factor - 0.5 - x_HW)[inside_HW].max() <= 0.5 + 1e-4
    assert np.abs(by_row.depth_m_HW * factor - 0.5 - y_HW)[inside_HW].max() <= 0.5 + 1e-4
    # image: 3 levels per pixel, rounded to one level: within a sixth of a pixel plus the resampling's rounding
    assert np.abs(by_column.image_HW3[..., 0] / 3 + 0.5 - x_HW)[core_HW].max() < 0.4
    assert np.abs(by_column.image_HW3[..., 1] / 3 + 0.5 - y_HW)[core_HW].max() < 0.4


def test_half_a_pixel_would_be_noticed() -> None:
    # Negative control of the test above: the same bound fails for a map read half a pixel aside.
    width_u = np.mgrid[:HEIGHT, :WIDTH][1].astype(float)
    out = zoom(Frame(index_image(), np.ones((HEIGHT, WIDTH), np.float32)), 1.2, at=(0.31, 0.77))
    x_HW = 0.31 * WIDTH * (1 - 1 / 1.2) + (width_u + 0.5) / 1.2
    assert np.abs(out.image_HW3[..., 0] / 3 + 0.5 - (x_HW + 0.5)).max() > 0.4


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_zoom_is_a_nearer_pinhole_camera(factor: float) -> None:
    # A square of side 0.5 m on a wall at z = 2 m, camera f = 64 px: it spans 64·0.5/2 = 16 px. Zoomed by s it spans
    # 16·s px, as the same square would at 2/s m: 64·0.5/(2/s). So the wall must read 2/s.
    focal_px, z_m, side_m = 64.0, 2.0, 0.5
    frame = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((HEIGHT, WIDTH), z_m, np.float32))
    half_px = int(focal_px * side_m / z_m / 2)
    u_centre, v_centre = WIDTH // 2, HEIGHT // 2
    frame.image_HW3[v_centre - half_px : v_centre + half_px, u_centre - half_px : u_centre + half_px] = 255
    out = zoom(frame, factor, at=(0.5, 0.5))
    known_HW = out.depth_m_HW > 0
    np.testing.assert_allclose(out.depth_m_HW[known_HW], z_m / factor, rtol=1e-6)
    seen_px = out.image_HW3[v_centre, :, 0].sum() / 255  # sum of coverage along the middle row
    np.testing.assert_allclose(seen_px, focal_px * side_m / (z_m / factor), atol=0.1)


def test_jitter_by_hand() -> None:
    image_HW3 = np.array([[[100, 50, 0], [200, 200, 200]]], np.uint8)
    unchanged = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    np.testing.assert_array_equal(jitter(image_HW3, **unchanged), image_HW3)
    np.testing.assert_array_equal(
        jitter(image_HW3, **unchanged | {"brightness": 1.2}), [[[120, 60, 0], [240, 240, 240]]]
    )
    # without saturation all is luma: 0.299·100 + 0.587·50 = 59.25
    np.testing.assert_allclose(jitter(image_HW3, **unchanged | {"saturation": 0.0})[0, 0], [59, 59, 59], atol=1)
    # a third of the hue circle: red becomes green
    red_HW3 = np.array([[[255, 0, 0]]], np.uint8)
    np.testing.assert_allclose(jitter(red_HW3, **unchanged | {"hue": 1 / 3})[0, 0], [0, 255, 0], atol=6)


def test_augment_is_a_function_of_its_key() -> None:
    options = Augment()
    first = augment(noise(), generator("augmentation", 0, "a"), options)
    assert same(first, augment(noise(), generator("augmentation", 0, "a"), options))
    assert not same(first, augment(noise(), generator("augmentation", 1, "a"), options))
    assert first.image_HW3.shape == (HEIGHT, WIDTH, 3)
    assert first.image_HW3.dtype == np.uint8
    assert first.depth_m_HW.dtype == np.float32


def test_augment_leaves_its_input_alone() -> None:
    frame = noise()
    augment(frame, generator("t"), Augment(allow_padding=True, zoom=(0.5, 0.6)))
    assert same(frame, noise())


def test_augment_can_be_turned_off() -> None:
    frame = noise()
    assert augment(frame, generator("t"), Augment(enabled=False)) is frame


def test_zoom_stays_above_one_without_padding() -> None:
    # depth 1 m everywhere: the new depth is 1 / factor
    wall = Frame(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32))
    for padding, low in [(False, 1.0), (True, 0.8)]:
        options = Augment(allow_padding=padding)
        frames = [augment(wall, generator("z", i), options) for i in range(300)]
        factors = np.array([1 / frame.depth_m_HW.max() for frame in frames])
        assert low - 1e-6 <= factors.min() < low + 0.02
        assert 1.18 < factors.max() <= 1.2 + 1e-6
        assert all((frame.depth_m_HW > 0).all() for frame in frames) != padding


def test_flip_probability() -> None:
    # 400 draws at ½: 200, sd 10
    plain = {"zoom": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    frame = noise()
    flips = sum(same(augment(frame, generator("f", i), Augment(**plain)), flip(frame)) for i in range(400))
    assert abs(flips - 200) < 50
    assert same(augment(frame, generator("f", 0), Augment(flip=0.0, **plain)), frame)
    assert same(augment(frame, generator("f", 0), Augment(flip=1.0, **plain)), flip(frame))


@pytest.mark.parametrize("zoom_range", [(1.2, 0.8), (0.0, 1.2), (0.5, 0.9)])
def test_impossible_zoom_is_refused(zoom_range: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match=r"zoom|low, high|greater than 0"):
        Augment(zoom=zoom_range)


def test_options_take_yaml_lists_and_refuse_unknown_keys() -> None:
    assert Augment.model_validate_json('{"zoom": [0.9, 1.1]}').zoom == (0.9, 1.1)
    with pytest.raises(ValidationError, match="rotation"):
        Augment.model_validate({"rotation": 5})
