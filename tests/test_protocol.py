"""The evaluation protocol of §8 (R-24): which pixels count, what is clamped, what a caption has to say."""

import math
import re

import numpy as np
import pytest

from spd_bench.errors import ConfigError, DataError
from spd_bench.protocol import PROTOCOLS, Protocol, protocol

NYU = protocol("nyu_bts")
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


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_the_depth_range_is_strict(name: str) -> None:
    scored = PROTOCOLS[name]
    above, below = np.nextafter(1e-3, 1), np.nextafter(10, 0)
    depths_m = [1e-3, above, 5.0, below, 10.0, 0.0, -1.0, math.nan, math.inf]
    depth_m_HW = np.full(scored.frame or (60, 60), 0.0)
    depth_m_HW[50, 45 : 45 + len(depths_m)] = depths_m
    valid_HW = scored.valid(depth_m_HW, where="frame")
    assert valid_HW[50, 45 : 45 + len(depths_m)].tolist() == [False, True, True, True] + [False] * 5


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


def test_the_caption_says_every_number() -> None:
    caption = NYU.caption()
    assert "\n" not in caption
    numbers = re.findall(r"\d+(?:\.\d+)?", caption.replace("nyu_bts", ""))
    assert numbers == ["45", "471", "41", "601", "0.001", "10"]
    for words in ("nyu_bts", "clamped", "no alignment", "no flip", "per image then mean", " m,"):
        assert words in caption
    assert "no crop" in FULL.caption()
    other = Protocol(name="half", rows=(1, 2), columns=(3, 4), frame=None, min_m=0.5, max_m=80.0)
    assert re.findall(r"\d+(?:\.\d+)?", other.caption()) == ["1", "2", "3", "4", "0.5", "80"]


def test_identity_holds_every_field() -> None:
    assert NYU.identity() == {
        "name": "nyu_bts",
        "rows": (45, 471),
        "columns": (41, 601),
        "frame": (480, 640),
        "min_m": 1e-3,
        "max_m": 10.0,
    }


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        protocol("nyu_bst", where="suite.yaml:3:5")
    assert str(caught.value) == 'suite.yaml:3:5: unknown protocol "nyu_bst"\n  hint: did you mean "nyu_bts"?'
    with pytest.raises(ConfigError, match="known: full_frame, nyu_bts"):
        protocol("zzz")
