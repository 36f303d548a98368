"""Training frames of one data set, test frames of another: such as synced pairs and the official labelled file."""

from collections.abc import Sequence

from spd_bench.api import DepthDataset, Frame, FrameId
from spd_bench.data.randomness import key_digest
from spd_bench.errors import DataError


class TestElsewhere(DepthDataset):
    """Splits train and val of `data`, split test of `other`.

    Raises DataError where a frame of `other` has the name of one of `data`'s, or where `other` has no test frames.
    """

    __test__ = False  # its name is not meant for pytest

    def __init__(self, data: DepthDataset, other: DepthDataset) -> None:
        self._of = {"train": data, "val": data, "test": other}
        self._test = {frame.frame for frame in other.frames("test")}
        if not self._test:
            raise DataError("has no test frames", where=other.describe(), hint="take data.test out of the suite")
        twice = [frame.frame for split in ("train", "val") for frame in data.frames(split) if frame.frame in self._test]
        if twice:
            raise DataError(
                f"{len(twice)} test frames have the name of a training frame (first: {twice[0]})",
                where=other.describe(),
                hint="the two data sets hold the same frames; use one of them",
            )
        self.truth = other.truth
        self.assumed = "; ".join(dict.fromkeys(part.assumed for part in (data, other) if part.assumed))
        self.stand_in = "; ".join(dict.fromkeys(part.stand_in for part in (data, other) if part.stand_in))

    def frames(self, split: str) -> Sequence[FrameId]:
        """Frames of one split."""
        return self._of.get(split, self._of["train"]).frames(split)

    def read(self, frame: FrameId) -> Frame:
        """One frame, from the data set that has it."""
        return self._of["test" if frame.frame in self._test else "train"].read(frame)

    def digest(self) -> str:
        """SHA-256 over both."""
        return key_digest("test elsewhere", self._of["train"].digest(), self._of["test"].digest()).hex()

    def describe(self) -> str:
        """Both, and how many scenes they share by name."""
        scenes = {split: {frame.scene for frame in self.frames(split)} for split in self._of}
        shared = len((scenes["train"] | scenes["val"]) & scenes["test"])
        return (
            f"trained on {self._of['train'].describe()}; test {len(self._test)} frames of "
            f"{self._of['test'].describe()}; {shared} test scenes carry the name of a training scene"
        )
