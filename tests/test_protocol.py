"""The evaluation protocol of §8 (R-24): which pixels count, what is clamped, what a caption has to say."""

import math
import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spd_bench.errors import ConfigError, DataError
from spd_bench.protocol import POOLED, PROTOCOLS, Protocol, protocol
from spd_bench.score.judge import Judge
from spd_bench.suite.load import load_suite

NYU = protocol("nyu_bts")
FILLED = protocol("nyu_bts_filled")
DENSEDEPTH = protocol("nyu_densedepth")
FULL = protocol("full_frame")


def test_the_crop_of_nyu_holds_426_by_560_pixels() -> None:
    # rows 45 … 470: 426; columns 41 … 600: 560; 426 · 560 = 238,560
    valid_HW = NYU.valid(np.full((480, 640), 2.0, np.float32), where="frame")
    assert valid_HW.dtype == bool
    assert valid_HW.sum() == 238_560
    rows, columns = np.flatnonzero(valid_HW.any(1)), np.flatnonzero(valid_HW.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (45, 470, 41, 600)
    assert valid_HW[45:471, 41:601].all()


def test_holes_inside_the_crop_do_not_count() -> None:
    depth_m_HW = np.full((480, 640), 2.0, np.float32)
    depth_m_HW[100, 100] = 0
    depth_m_HW[0, 0] = 0  # outside the crop: changes nothing
    valid_HW = NYU.valid(depth_m_HW, where="frame")
    assert valid_HW.sum() == 238_559
    assert not valid_HW[100, 100]


def test_the_crop_of_densedepth_holds_440_by_592_pixels() -> None:
    # rows 20 … 459: 440; columns 24 … 615: 592
    valid_HW = DENSEDEPTH.valid(np.full((480, 640), 2.0, np.float32), where="frame")
    assert valid_HW[20:460, 24:616].all()
    assert valid_HW.sum() == 440 * 592


@pytest.mark.parametrize("name", ["full_frame", "nyu_bts", "nyu_bts_filled"])
def test_the_depth_range_is_strict(name: str) -> None:
    scored = PROTOCOLS[name]
    above, below = np.nextafter(1e-3, 1), np.nextafter(10, 0)
    depths_m = [1e-3, above, 5.0, below, 10.0, 0.0, -1.0, math.nan, math.inf]
    depth_m_HW = np.full(scored.frame or (60, 60), 0.0)
    depth_m_HW[50, 45 : 45 + len(depths_m)] = depths_m
    valid_HW = scored.valid(depth_m_HW, where="frame")
    assert valid_HW[50, 45 : 45 + len(depths_m)].tolist() == [False, True, True, True] + [False] * 5


def test_a_bound_that_is_not_strict_counts() -> None:
    depths_m = np.array([[0.0, np.nextafter(0.1, 0), 0.1, 10.0, np.nextafter(10, 11), math.nan]])
    closed = replace(FULL, min_m=0.1, min_strict=False, max_strict=False)
    assert closed.valid(depths_m, where="frame").tolist() == [[False, False, True, True, False, False]]
    assert replace(closed, min_strict=True).valid(depths_m, where="frame").sum() == 1
    assert replace(closed, max_strict=True).valid(depths_m, where="frame").sum() == 1


@pytest.mark.parametrize("bounds", [(0.0, 10.0), (-1.0, 10.0), (2.0, 2.0), (3.0, 1.0), (math.nan, 1.0)])
def test_bounds_that_unknown_depth_would_pass_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="expected 0 < min_m < max_m"):
        replace(FULL, min_m=bounds[0], max_m=bounds[1])


def test_a_saturated_sensor_does_not_count() -> None:
    """Raw NYU depth saturates at 10 m exactly: float32 frames of it must not pass."""
    assert FULL.valid(np.full((3, 4), 10.0, np.float32), where="frame").sum() == 0


@pytest.mark.parametrize("size", [(640, 480), (480, 639), (426, 560)])
def test_nyu_refuses_frames_of_another_size(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(DataError) as caught:
        NYU.valid(np.full(size, 2.0), where="kitchen/00001.png")
    text = str(caught.value)
    assert text.startswith("kitchen/00001.png: protocol nyu_bts")
    assert "480×640" in text
    assert f"found {height}×{width}" in text
    assert "hint: use eval.protocol: full_frame" in text


def test_the_full_frame_takes_any_size() -> None:
    assert FULL.valid(np.full((5, 7), 2.0), where="frame").sum() == 35


def test_predictions_are_clamped_and_nan_stays_nan() -> None:
    clamped = NYU.clamp(np.array([-3.0, 0.0, 5e-4, 4.2, 11.0, math.inf, math.nan]))
    assert clamped[:-1].tolist() == [1e-3, 1e-3, 1e-3, 4.2, 10.0, 10.0]
    assert math.isnan(clamped[-1])
    assert DENSEDEPTH.clamp(np.array([0.05, 0.1, 12.0])).tolist() == [0.1, 0.1, 10.0]
    assert replace(NYU, clamped=False).clamp(np.array([-3.0, 11.0])).tolist() == [-3.0, 11.0]


# truth

REFUSED = [("nyu_bts", "filled", "nyu_bts_filled"), ("nyu_bts_filled", "raw", "nyu_bts")]
REFUSED += [("nyu_densedepth", "raw", "full_frame")]


@pytest.mark.parametrize(("name", "truth", "variant"), REFUSED)
def test_truth_of_another_kind_is_refused_and_the_variant_named(name: str, truth: str, variant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        protocol(name).check_truth(truth, where="suite.yaml:9:3")
    text = str(caught.value)
    assert text.startswith(f"suite.yaml:9:3: protocol {name} is for {protocol(name).truth} depth, ")
    assert f"the data set has {truth} depth" in text
    assert (
        f"hint: use eval.protocol: {variant}, a variant whose numbers are not comparable with those of {name}" in text
    )


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_truth_that_fits(name: str) -> None:
    PROTOCOLS[name].check_truth("rendered")
    for truth in ("raw", "filled") if PROTOCOLS[name].truth == "any" else (PROTOCOLS[name].truth,):
        PROTOCOLS[name].check_truth(truth)


def test_an_opened_data_set_is_held_against_the_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    from spd_rooms.synthetic_rooms import SyntheticRooms

    suite = load_suite("smoke", sets=["eval.protocol=nyu_bts"])
    assert Judge.of(suite).data.truth == "rendered"
    monkeypatch.setattr(SyntheticRooms, "truth", "filled")
    with pytest.raises(ConfigError, match=r"protocol nyu_bts is for raw depth(.|\n)*nyu_bts_filled"):
        Judge.of(suite)


# maps of another size


def test_a_map_is_read_at_pixel_centres_by_hand() -> None:
    # two columns a, b at 1/4 and 3/4 of the width; four pixels at 1/8, 3/8, 5/8, 7/8: a, ¾a + ¼b, ¼a + ¾b, b
    read_HW = FULL.at_frame_size(np.array([[4.0, 8.0]]), height=1, width=4)
    assert read_HW.tolist() == [[4.0, 5.0, 7.0, 8.0]]
    same_HW = np.ones((3, 5))
    assert FULL.at_frame_size(same_HW, height=3, width=5) is same_HW


@pytest.mark.parametrize("size", [(7, 9), (24, 32), (61, 83), (1, 1)])
def test_a_map_is_read_as_torch_reads_it(size: tuple[int, int]) -> None:
    map_HW = np.random.default_rng(0).uniform(1, 9, size)
    expected = F.interpolate(torch.from_numpy(map_HW)[None, None], size=(24, 32), mode="bilinear", align_corners=False)
    found = FULL.at_frame_size(map_HW, height=24, width=32)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=0, atol=1e-12)
    # negative control: corners aligned is another reading
    if size not in ((24, 32), (1, 1)):
        other = F.interpolate(torch.from_numpy(map_HW)[None, None], size=(24, 32), mode="bilinear", align_corners=True)
        assert np.abs(found - other[0, 0].numpy()).max() > 0.1


def test_what_is_not_finite_spreads_to_its_shares_alone() -> None:
    # three columns to nine: pixel centres 1, 4 and 7 (from 0) lie on those of the map and read one column alone
    found = FULL.at_frame_size(np.array([[1.0, math.nan, 3.0]]), height=1, width=9)
    assert np.isnan(found[0]).tolist() == [False, False, True, True, True, True, True, False, False]
    assert (found[0, 1], found[0, 7]) == (1.0, 3.0)


# caption and identity

OTHERS: dict[str, Any] = {
    "name": "other",
    "truth": "filled",
    "rows": (45, 470),
    "columns": (41, 600),
    "frame": (480, 641),
    "min_m": 1.0000001e-3,
    "max_m": 10.0000001,
    "min_strict": False,
    "max_strict": False,
    "clamped": False,
    "reading": "nearest",
    "averaging": "pooled",
    "alignment": "median",
}


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_each_field_is_in_caption_and_identity(field: str) -> None:
    changed = replace(NYU, **{field: OTHERS[field]})
    assert changed.caption() != NYU.caption()
    assert changed.identity() != NYU.identity()
    assert replace(changed, **{field: getattr(NYU, field)}).caption() == NYU.caption()  # and nothing else changed


@pytest.mark.parametrize("change", ["eval.seed=7", "eval.k1_draws=5"])
def test_where_query_points_come_from_is_in_caption_and_identity(change: str) -> None:
    one, other = (Judge.of(load_suite("smoke", sets=sets)) for sets in ([], [change]))
    assert one.caption.startswith(one.protocol.caption())
    assert one.caption != other.caption
    assert one.identity != other.identity
    assert one.id != other.id


def test_other_data_are_another_test() -> None:
    one, same, other = (Judge.of(load_suite("smoke", sets=sets)) for sets in ([], [], ["data.dataset.seed=99"]))
    assert one.identity == other.identity
    assert one.id == same.id != other.id


def test_the_caption_says_every_number() -> None:
    caption = NYU.caption()
    assert "\n" not in caption
    numbers = re.findall(r"\d+(?:\.\d+)?", caption.replace("nyu_bts", ""))
    assert numbers == ["480", "640", "45", "471", "41", "601", "0.001", "10"]
    assert caption.endswith(
        "raw ground truth, frames of 480×640, rows 45:471, columns 41:601, 0.001 < depth < 10 m, predictions clamped "
        "to that range, those of another size read at pixel centres (bilinear), alignment none, no flip averaging, "
        "per image, then mean over images"
    )
    assert "0.1 ≤ depth ≤ 10 m" in DENSEDEPTH.caption()
    assert DENSEDEPTH.caption().endswith(POOLED)
    assert "frames of any size, all rows, all columns" in FULL.caption()


def test_the_filled_variant_differs_in_name_and_truth_alone() -> None:
    differing = {key for key, value in NYU.identity().items() if FILLED.identity()[key] != value}
    assert differing == {"name", "truth"}
    assert NYU.identity().keys() == {field.name for field in fields(Protocol)}


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        protocol("nyu_bst", where="suite.yaml:3:5")
    assert str(caught.value) == 'suite.yaml:3:5: unknown protocol "nyu_bst"\n  hint: did you mean "nyu_bts"?'
    with pytest.raises(ConfigError, match="known: full_frame, nyu_bts, nyu_bts_filled, nyu_densedepth"):
        protocol("zzz")
