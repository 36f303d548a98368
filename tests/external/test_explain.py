"""What other toolboxes would print, worked out by hand for each, and which rule makes the difference.

One frame of 480×640 in which four pixels have a truth g and all others none:

    pixel        where               g       p
    (100, 100)   in every crop       2.0     2.5     |g − p|/g = 1/4, exactly 1.25 apart
    (200, 300)   in every crop       4.0     4.0     0
    (10, 10)     outside the crop    5.0     10.0    1
    (300, 500)   in every crop       12.0    9.0     1/4, beyond 10 m

Ten more pixels in every crop, where toolboxes that skip sparse images look: g = p = 1.0 (0, ratio 1).
"""

from collections.abc import Callable
from math import log, sqrt
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spd_bench.external.explain import Explainer, Numbers, enlarged, lower_median, sums_of
from spd_bench.external.reading import ReadMap
from spd_bench.external.result import Scored
from spd_bench.external.table import table
from spd_bench.external.toolboxes import TOOLBOXES
from spd_bench.protocol import protocol

E1, E3, E4 = log(2.5 / 2), log(10 / 5), log(9 / 12)
"""ln p − ln g of the pixels that are not exact."""
FAR = 12 - 9


def frame() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    truth_m, predicted_m = np.zeros((480, 640), np.float32), np.ones((480, 640), np.float32)
    for (v, u), g, p in [((100, 100), 2, 2.5), ((200, 300), 4, 4), ((10, 10), 5, 10), ((300, 500), 12, 9)]:
        truth_m[v, u], predicted_m[v, u] = g, p
    truth_m[150, 100:110] = 1
    return truth_m, predicted_m


def silog(n: int, *errors: float) -> float:
    return 100 * sqrt(sum(e * e for e in errors) / n - (sum(errors) / n) ** 2)


def half(n: int, *errors: float) -> float:
    return sqrt(sum(e * e for e in errors) / n - 0.5 * (sum(errors) / n) ** 2)


INSIDE = Numbers(1 / 48, sqrt(0.25 / 12), 11 / 12, silog(12, E1))
"""The crop's twelve pixels below 10 m: (1/4 + 11 · 0)/12, √(0.5²/12), 2.5 / 2 is 1.25 and not below it."""
BY_HAND = {
    "BTS": INSIDE,
    "AdaBins, ZoeDepth": INSIDE,
    # no crop, up to 20 m: 14 pixels, (1/4 + 1 + 1/4)/14; ratios 1.25, 2 and 4/3 are outside
    "Depth Anything V2": Numbers(1.5 / 14, sqrt((0.25 + 25 + FAR**2) / 14), 11 / 14, half(14, E1, E3, E4)),
    "mmsegmentation": INSIDE._replace(log_error=half(12, E1)),
    # no crop, up to 100 m; medians over 14 pixels: g 1×10, 2, 4, 5, 12 → the seventh is 1; p likewise 1: factor 1
    "ultralytics": Numbers(1.5 / 14, sqrt((0.25 + 25 + FAR**2) / 14), 11 / 14, silog(14, E1, E3, E4)),
    # no crop, below 10 m, pooled: 13 pixels, (1/4 + 1)/13; √ mean e²
    "depth-estimation": Numbers(1.25 / 13, sqrt((0.25 + 25) / 13), 11 / 13, sqrt((E1**2 + E3**2) / 13)),
}


def explainer(*factors: float) -> Explainer:
    made = Explainer(protocol("nyu_bts"))
    truth_m, predicted_m = frame()
    for factor in factors:
        scaled_m = (factor * predicted_m).astype(np.float32)
        made.add(truth_m, ReadMap(scaled_m, scaled_m, 1.0, None), scaled_m)
    return made


@pytest.mark.parametrize("name", BY_HAND)
def test_one_image_by_hand(name: str) -> None:
    found = explainer(1.0).explanation()
    assert list(found.ours) == pytest.approx(list(INSIDE), abs=1e-9)
    theirs = next(theirs for theirs in found.theirs if theirs.toolbox.name == name)
    assert list(theirs.numbers) == pytest.approx(list(BY_HAND[name]), abs=1e-6)


def test_every_toolbox_is_worked_out_and_has_a_source() -> None:
    assert [toolbox.name for toolbox in TOOLBOXES] == list(BY_HAND)
    assert all("/" in toolbox.source and ".py" in toolbox.source for toolbox in TOOLBOXES)


def test_alignment_undoes_a_factor_and_its_share_says_so() -> None:
    """All predictions doubled: median alignment halves them again, and alone makes ours what it was."""
    found = explainer(2.0).explanation()
    ultralytics = next(theirs for theirs in found.theirs if theirs.toolbox.name == "ultralytics")
    assert list(ultralytics.numbers) == pytest.approx(list(BY_HAND["ultralytics"]), abs=1e-6)
    shares = {share.rule.split()[0]: share.numbers for share in ultralytics.shares}
    assert set(shares) == {"mask", "crop", "clamping", "alignment", "resizing"}
    assert list(shares["alignment"]) == pytest.approx(list(INSIDE), abs=1e-6)
    # doubled: 2·2.5 of 2 is 3/2 off, ten exact ones and the 4 (8) are 1 off: (1.5 + 11)/12
    assert found.ours.absrel == pytest.approx(12.5 / 12)
    assert lower_median(np.array([4.0, 1.0, 3.0, 2.0])) == 2


def test_averaging_is_per_image_or_over_all_pixels() -> None:
    """Image 2 is image 1 with predictions doubled, so that squared errors differ between images."""
    found = explainer(1.0, 2.0).explanation()
    # per image: √(0.25/12) and √((3² + 4² + 10·1²)/12); pooled with one more pixel each: outside the crop 5, 10 and 20
    assert found.ours.rmse == pytest.approx((sqrt(0.25 / 12) + sqrt(35 / 12)) / 2)
    pooled = next(theirs for theirs in found.theirs if theirs.toolbox.name == "depth-estimation").numbers
    assert pooled.rmse == pytest.approx(sqrt((0.25 + 25 + 35 + 15**2) / 26))


def test_predictions_are_clamped_or_not() -> None:
    """A prediction of 20 m at 4 m: clamped to 10 m by BTS, taken as it is by mmsegmentation."""
    truth_m, predicted_m = frame()
    predicted_m[200, 300] = 20
    bts, mmseg = (next(t.rules for t in TOOLBOXES if t.name == name) for name in ("BTS", "mmsegmentation"))
    assert sums_of(truth_m, predicted_m.astype(np.float64), bts).relative == pytest.approx(0.25 + 6 / 4)
    assert sums_of(truth_m, predicted_m.astype(np.float64), mmseg).relative == pytest.approx(0.25 + 16 / 4)


def test_a_smaller_map_is_enlarged_with_aligned_corners() -> None:
    # columns 0, 1 at four places: 0, 1/3, 2/3, 1
    assert enlarged(np.array([[0.0, 1.0]]), (1, 4)).tolist() == [pytest.approx([0, 1 / 3, 2 / 3, 1])]


def test_the_command_prints_them_beside_its_own(
    score_room: Callable[..., Scored], depth: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", 1.1 * depth)
    scored = score_room(tmp_path / "a.npy", explain=True)
    assert scored.explanation is not None
    assert scored.all_pixels is not None
    for name, value in zip(("absrel", "rmse", "delta1", "silog"), scored.explanation.ours, strict=True):
        assert value == pytest.approx(scored.all_pixels[name], abs=1e-9)  # two programs for one protocol
    text = table(scored)
    for toolbox in TOOLBOXES:
        assert f"\n{toolbox.name} ({toolbox.source}):" in text
    assert "  crop none: alone AbsRel +0.0000" in text  # a tenth everywhere
