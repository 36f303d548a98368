"""Training frames of one data set and test frames of another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from spd_bench.api import DepthDataset, Frame, FrameId
from spd_bench.data.elsewhere import TestElsewhere
from spd_bench.errors import ConfigError, DataError


class Named(DepthDataset):
    """Frames that carry their data set's number in every pixel."""

    def __init__(self, number: int, truth: str = "raw", stand_in: str = "", **splits: Sequence[str]) -> None:
        self.number, self.truth, self.stand_in = number, truth, stand_in
        self.splits = splits

    def frames(self, split: str) -> Sequence[FrameId]:
        if split not in ("train", "val", "test"):
            raise ConfigError(f'no split "{split}"')
        return [FrameId(name, name.split("/")[0]) for name in self.splits.get(split, ())]

    def read(self, frame: FrameId) -> Frame:
        image: Any = np.full((2, 2, 3), self.number, np.uint8)
        return Frame(image, np.full((2, 2), float(self.number), np.float32))

    def digest(self) -> str:
        return f"{self.number}{self.splits}"

    def describe(self) -> str:
        return f"data {self.number}"


TRAIN = Named(1, train=("kitchen/1", "hall/1"), val=("den/1",), test=("attic/1",), stand_in="made up")
TEST = Named(2, truth="filled", test=("00001", "00002"))


def test_each_split_comes_from_its_own_data_set() -> None:
    both = TestElsewhere(TRAIN, TEST)
    assert [frame.frame for frame in both.frames("train")] == ["kitchen/1", "hall/1"]
    assert [frame.frame for frame in both.frames("val")] == ["den/1"]
    assert [frame.frame for frame in both.frames("test")] == ["00001", "00002"]
    assert both.read(both.frames("train")[0]).depth_m_HW[0, 0] == 1
    assert both.read(both.frames("test")[1]).depth_m_HW[0, 0] == 2
    with pytest.raises(ConfigError):
        both.frames("tets")


def test_truth_is_that_of_the_scored_frames_and_stand_ins_are_told() -> None:
    both = TestElsewhere(TRAIN, TEST)
    assert (both.truth, both.stand_in) == ("filled", "made up")
    assert "data 1" in both.describe()
    assert "test 2 frames of data 2" in both.describe()


def test_digest_follows_both() -> None:
    digests = {
        TestElsewhere(TRAIN, TEST).digest(),
        TestElsewhere(TRAIN, Named(3, test=("00001", "00002"))).digest(),
        TestElsewhere(Named(3, train=("kitchen/1",)), TEST).digest(),
    }
    assert len(digests) == 3


def test_scenes_in_common_are_counted() -> None:
    # "kitchen" trains and is tested, "attic" is tested alone
    both = TestElsewhere(TRAIN, Named(2, test=("kitchen/9", "attic/9")))
    assert "1 test scenes carry the name of a training scene" in both.describe()


def test_a_frame_of_both_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 test frames have the name of a training frame \(first: hall/1\)"):
        TestElsewhere(TRAIN, Named(2, test=("hall/1", "hall/2")))


def test_a_data_set_without_test_frames_is_refused() -> None:
    with pytest.raises(DataError, match="has no test frames"):
        TestElsewhere(TRAIN, Named(2, train=("a/1",)))
