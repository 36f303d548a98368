"""Folders of all predictions, other tools' names, `.npz`, one HDF5 per frame and stacks with names."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from spd_bench.api import FrameId
from spd_bench.errors import DataError
from spd_bench.external.names import match, scene_type, stripped
from spd_bench.external.result import Scored

Maps = NDArray[np.float32]
NYU = [FrameId("00045", "bathroom_0013"), FrameId("01201", "living_room_0020")]


def exact(scored: Scored) -> None:
    assert scored.all_pixels is not None
    assert scored.all_pixels["absrel"] < 1e-7


def test_names_of_other_tools() -> None:
    for keys in (
        ["bathroom_00045", "living_room_01201"],  # mmsegmentation
        ["bathroom/rgb_00045", "living_room/rgb_01201"],  # BTS
        ["bathroom_rgb_00045", "living_room_rgb_01201"],
        ["pred_00045", "pred_01201"],
        ["out/00045_depth", "out/01201_depth"],
        ["rgb_00045_pred", "rgb_01201_pred"],
        ["bathroom_0001/rgb_00045", "bathroom/rgb_00045", "x/living_room/rgb_01201"],  # a training recording as well
    ):
        order = match(keys, NYU, where="x").order
        assert [keys[place][-9:] for place in order] == [key[-9:] for key in keys[-2:]]
    assert match(["bathroom_0001/rgb_00045", "bathroom/rgb_00045", "rgb_01201"], NYU, where="x").order == (1, 2)
    assert (scene_type("living_room_0013b"), stripped("a/pred_7_raw")) == ("living_room", "7")
    # negative control: another type's frame of the same number
    with pytest.raises(DataError, match="1 of 2 test frames have no prediction: 00045"):
        match(["kitchen_00045", "living_room_01201"], NYU, where="x")


def test_numbers_that_count_from_one_are_explained() -> None:
    with pytest.raises(DataError, match="seem to count from 1"):
        match(["test/0046", "test/1202"], NYU, where="x")


def test_a_folder_of_other_extensions_says_what_it_holds(
    score_room: Callable[..., Scored], names: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / f"{name}.dpt").write_bytes(b"PIEH")
    (tmp_path / "about.txt").write_text("x")
    with pytest.raises(DataError, match=r"4 files with other extensions were not read \(\.dpt 3, \.txt 1\)"):
        score_room(tmp_path)


def test_npz_in_every_form(score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path) -> None:
    back = [*reversed(names)]
    np.savez(tmp_path / "a.npz", pred=depth)
    np.savez_compressed(tmp_path / "b.npz", pred=depth[::-1], frames=np.array(back))
    np.savez(tmp_path / "c.npz", **dict(zip(back, depth[::-1], strict=True)), other=depth[0])
    np.savez(tmp_path / "d.npz", pred=depth, other=depth + 1)
    for name in ("a", "b", "c"):
        exact(score_room(tmp_path / f"{name}.npz"))
    exact(score_room(tmp_path / "d.npz", dataset_key="pred"))
    with pytest.raises(DataError, match="choose one with --dataset-key"):
        score_room(tmp_path / "d.npz")
    (tmp_path / "f").mkdir()
    for name, map_HW in zip(names, depth, strict=True):
        np.savez(tmp_path / "f" / f"{name}.npz", depth=map_HW[None], valid=np.ones(3))
    exact(score_room(tmp_path / "f"))
    np.savez(tmp_path / "g.npz", pred=np.array([depth, None], dtype=object))
    with pytest.raises(DataError, match="pickled objects"):
        score_room(tmp_path / "g.npz")
    (tmp_path / "h.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:3000])
    with pytest.raises(DataError, match="damaged or foreign file"):
        score_room(tmp_path / "h.npz")


def test_one_hdf5_per_frame(score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path) -> None:
    for name, map_HW in zip(names, depth, strict=True):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as store:
            store["dataset"] = map_HW
            store["camera"] = np.eye(4)[None]
    exact(score_room(tmp_path, dataset_key="dataset"))
    with pytest.raises(DataError, match="expected one array of predictions, found camera, dataset"):
        score_room(tmp_path)


def test_a_stack_with_names_may_hold_more_than_the_test_frames(
    score_room: Callable[..., Scored], names: list[str], depth: Maps, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", np.stack([depth[0] + 1, *depth])[:, None])
    (tmp_path / "names.txt").write_text("\n".join(["00003.jpg", *names]))
    scored = score_room(tmp_path / "a.npy", names=tmp_path / "names.txt")
    exact(scored)
    assert "1 maps of other frames left out" in scored.difference
