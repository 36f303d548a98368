"""Unit, disparity, orientation, order and crops are told from the truth; `--as-is` scores them all the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spd_bench.errors import DataError
from spd_bench.external.plausible import rank_correlation
from spd_bench.external.result import Scored
from spd_bench.external.table import table

Maps = NDArray[np.float32]


def in_folder(folder: Path, names: list[str], maps: Maps) -> Path:
    folder.mkdir()
    for name, map_HW in zip(names, maps, strict=True):
        np.save(folder / f"{name}.npy", map_HW)
    return folder


def refused(score: Callable[..., Scored], source: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        score(source, **options)
    return str(caught.value)


def test_ranks_by_hand() -> None:
    # ranks 1 2 3 4 against 1 3 2 4: 1 − 6·(0 + 1 + 1 + 0) / (4·15) = 0.8
    assert rank_correlation(np.array([1.0, 2, 3, 4]), np.array([10.0, 30, 20, 90])) == pytest.approx(0.8)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def test_a_unit_is_told_by_the_ratio_of_medians(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    """Files of 256 per metre taken for millimetres: 256 / 1000 of the truth, well within a room."""
    folder = tmp_path / "z"
    folder.mkdir()
    for name, map_HW in zip(names, depth, strict=True):
        Image.fromarray(np.round(1.1 * map_HW * 256).astype(np.uint16)).save(folder / f"{name}.png")
    said = refused(score_room, folder, unit="mm")
    assert "the median of prediction / truth is 0.281" in said  # 1.1 · 256 / 1000 = 0.2816
    assert "with --unit 256 it would be 1.1;" in said
    right = score_room(folder, unit="256")
    assert right.all_pixels is not None
    assert right.all_pixels["absrel"] == pytest.approx(0.1, abs=2e-3)  # steps of 1/256 m
    assert "median of prediction / truth 1.1, rank correlation 1.00" in right.difference
    as_is = score_room(folder, unit="mm", as_is=True)
    assert "AS IS, though the median of prediction / truth is 0.281" in as_is.difference
    assert "AS IS, though the median" in table(as_is)
    assert not right.doubts


def test_one_frame_in_another_unit_is_named(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    mixed = depth.copy()
    mixed[1] *= 1000
    said = refused(score_room, in_folder(tmp_path / "a", names, mixed))
    assert (
        f"in 1 of 3 frames the median of prediction / truth is far from 1, that of the others: {names[1]} (1e+03)"
        in said
    )
    assert "write all predictions in one unit" in said


def test_disparity_taken_for_depth_is_told_by_its_rank(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    """Inverse depth times 4: its median lies near the depth's own, so no ratio could tell."""
    said = refused(score_room, in_folder(tmp_path / "a", names, 4 / depth))
    assert "predictions fall where the truth rises (rank correlation -1.00)" in said
    assert "--quantity disparity --align lsq_disparity" in said
    right = score_room(tmp_path / "a", quantity="disparity", align="lsq_disparity")
    assert right.values["absrel", 8] < 1e-5


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda maps: maps[:, :, ::-1], "mirrored left to right"),
        (lambda maps: maps[:, ::-1], "upside down"),
        (lambda maps: maps[:, ::-1, ::-1], "turned by 180°"),
    ],
)
def test_orientation_is_told_by_the_rank_of_the_map_turned_back(
    score_room: Callable[..., Scored],
    names: list[str],
    depth: Maps,
    tmp_path: Path,
    turn: Callable[[Maps], Maps],
    said: str,
) -> None:
    text = refused(score_room, in_folder(tmp_path / "a", names, turn(depth)))
    assert f"predictions fit the truth better {said} (rank correlation 1.00" in text
    assert "save the maps as the frames lie" in text
    assert "disparity" not in text


def test_square_maps_with_rows_and_columns_exchanged(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    """Depth that rises to the right alone, as 64×64 maps: transposed they rise downwards."""
    square = depth[:, ::7, ::10][:, :64, :64]
    assert square.shape[1:] == (64, 64)
    assert score_room(in_folder(tmp_path / "a", names, square)).values["absrel", 8] < 0.05
    said = refused(score_room, in_folder(tmp_path / "b", names, square.transpose(0, 2, 1)))
    assert "with rows and columns exchanged" in said


def test_a_map_of_the_protocols_own_crop_is_placed_there(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    """Rows 45:471 and columns 41:601 of a perfect map: exact there; stretched over the frame it is not."""
    cropped = in_folder(tmp_path / "a", names, depth[:, 45:471, 41:601])
    placed = score_room(cropped)
    assert placed.all_pixels is not None
    assert placed.all_pixels["absrel"] == 0
    assert "426×560 placed at 45:471,41:601" in placed.difference
    stretched = score_room(cropped, crop="none")
    assert stretched.all_pixels is not None
    assert stretched.all_pixels["absrel"] > 0.01


def test_a_map_of_another_known_crop_is_asked_for(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    cropped = in_folder(tmp_path / "a", names, depth[:, 20:460, 24:616])  # 440×592, ends above row 471
    said = refused(score_room, cropped)
    assert "the map is 440×592, the size of DenseDepth's crop (20:460,24:616)" in said
    assert "say --crop 20:460,24:616 if it shows that part" in said
    assert "the map covers 20:460,24:616" in refused(score_room, cropped, crop="20:460,24:616")
    larger = in_folder(tmp_path / "b", names, depth[:, 7:474, 7:632])
    placed = score_room(larger, crop="7:474,7:632")
    assert placed.all_pixels is not None
    assert placed.all_pixels["absrel"] == 0
    assert "does not hold the crop" in refused(score_room, larger, crop="7:474,7:700")
