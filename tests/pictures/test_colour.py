"""Colours of depth, error and components: known values, and bytes that do not change."""

import io

import numpy as np
from PIL import Image

from spd_bench.pictures import colour


def test_ends_of_the_scale_have_the_ends_of_the_map() -> None:
    # 1, 2 and 4 m on a logarithmic scale from 1 to 4 m: 0, ½ and 1
    colours = colour.depth_colours(np.array([[1.0, 2.0, 4.0, 0.0, np.nan]]), 1.0, 4.0)
    from matplotlib import colormaps

    table = (colormaps[colour.DEPTH_MAP](np.linspace(0, 1, 256))[:, :3] * 255).round()
    assert (colours[0, 0] == table[0]).all()
    assert (colours[0, 1] == table[128]).all()  # round(0.5 · 255) = round(127.5) = 128
    assert (colours[0, 2] == table[255]).all()
    assert (colours[0, 3:] == colour.UNKNOWN).all()


def test_too_far_and_too_near_differ_and_zero_is_in_the_middle() -> None:
    far, near, none = colour.error_colours(np.array([0.5, -0.5, 0.0]), 0.5).astype(int)
    assert far[0] > far[2]  # orange
    assert near[2] > near[1]  # purple
    assert none.min() > 240  # the middle is almost white


def test_the_error_limit_is_a_multiple_of_five_percent() -> None:
    # of 0.00 … 1.00 the 95th percentile is 0.95
    assert colour.error_limit([np.linspace(-1, 1, 201)]) == 0.95
    assert colour.error_limit([np.array([0.001, np.nan])]) == 0.05
    assert colour.error_limit([np.array([np.nan])]) == 0.05


def test_the_depth_range_leaves_out_unknown_pixels() -> None:
    near_m, far_m = colour.depth_range([np.array([0.0, np.nan]), np.linspace(1, 3, 101)])
    assert (near_m, far_m) == (1.04, 2.96)


def test_components_keep_their_sign_when_the_map_is_negated_in_time() -> None:
    # a decomposition leaves signs free; ours follow the largest loading, so the order of cells changes nothing
    rng = np.random.default_rng(0)
    map_hwc = rng.normal(size=(6, 5, 8)) * np.arange(1, 9)
    first = colour.component_colours(map_hwc)
    again = colour.component_colours(map_hwc[::-1])[::-1]
    assert first.shape == (6, 5, 3)
    assert (first == again).all()


def test_png_is_exact_and_the_same_each_time() -> None:
    colours = colour.depth_colours(np.linspace(1, 4, 300).reshape(15, 20), 1.0, 4.0)
    content = colour.png(colours)
    assert content == colour.png(colours.copy())
    assert (np.array(Image.open(io.BytesIO(content)).convert("RGB")) == colours).all()
    photo = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)  # more colours than a palette holds
    assert (np.array(Image.open(io.BytesIO(colour.png(photo))).convert("RGB")) == photo).all()
