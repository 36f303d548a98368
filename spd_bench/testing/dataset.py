"""The kit for the slot dataset."""

from typing import Any

import numpy as np

from spd_bench.api import DepthDataset, FrameId
from spd_bench.errors import ConfigError
from spd_bench.testing.checks import fail, require, require_one_digest, skip
from spd_bench.testing.component import ComponentContract
from spd_bench.testing.trees import sent

SPLITS = ("train", "val", "test")
PLAUSIBLE_M = (0.1, 100.0)
"""Where the median depth of a frame may lie: millimetres and disparities do not."""


class DatasetContract(ComponentContract):
    """For the slot dataset. Skipped, with the data set's own reason, where its files are missing."""

    def made(self) -> DepthDataset:
        """Returns the data set."""
        if reason := self.component.missing(self.config):
            skip(reason)
        dataset: DepthDataset = self.component(self.config)
        return dataset

    def test_splits_are_disjoint(self) -> None:
        """Every frame has one name and is in one split; none is empty but train and val together."""
        dataset = self.made()
        test_alone = not dataset.frames("train") and not dataset.frames("val")
        owner: dict[str, str] = {}
        for split in SPLITS:
            frames = dataset.frames(split)
            require(len(frames) > 0 or (test_alone and split != "test"), f"split {split} is empty")
            for frame in frames:
                require(isinstance(frame, FrameId), f"frames({split!r}) holds {frame!r}, not a FrameId")
                other = owner.setdefault(frame.frame, split)
                require(other == split, f"frame {frame.frame} is in {other} and in {split}")
            require(len({frame.frame for frame in frames}) == len(frames), f"{split} holds a frame twice")

    def test_order_is_fixed(self) -> None:
        """The same frames in the same order, from the same object and from another."""
        dataset, other = self.made(), self.made()
        for split in SPLITS:
            first = list(dataset.frames(split))
            require(list(dataset.frames(split)) == first, f"frames({split!r}) gave another order the second time")
            require(list(other.frames(split)) == first, f"frames({split!r}) of an equal data set has another order")

    def test_reads_images_and_metres(self) -> None:
        """uint8 [H, W, 3] and float32 metres [H, W], finite, 0 where unknown, at a distance that a camera sees."""
        dataset = self.made()
        for split in SPLITS:
            for frame_id in (*dataset.frames(split)[:1], *dataset.frames(split)[-1:]):
                _require_frame(frame_id.frame, dataset.read(frame_id))

    def test_reading_twice_gives_the_same(self) -> None:
        """From the same object, from an equal one and from a pickled one, which another process would read."""
        dataset = self.made()
        frame_id = dataset.frames("test")[0]
        first = dataset.read(frame_id)
        for other in (dataset, self.made(), sent(dataset)):
            again = other.read(frame_id)
            same = np.array_equal(again.image_HW3, first.image_HW3) and np.array_equal(
                again.depth_m_HW, first.depth_m_HW
            )
            require(same, f"reading {frame_id.frame} again gave another frame")

    def test_digest_is_stable(self) -> None:
        """64 hexadecimal digits, equal for equal data and not changed by use."""
        dataset = self.made()
        before = dataset.digest()
        dataset.read(dataset.frames("test")[0])
        require_one_digest(before, dataset.digest(), self.made().digest())

    def test_describes_itself_in_one_line(self) -> None:
        """`describe` returns one line, for tables and logs."""
        text = self.made().describe()
        require(bool(text.strip()) and "\n" not in text, f"describe() gave {text!r}")

    def test_refuses_an_unknown_split(self) -> None:
        """A ConfigError, never an empty split."""
        try:
            found = self.made().frames("no_such_split")
        except ConfigError:
            return
        except KeyError as error:
            fail(f'frames("no_such_split") raised KeyError({error}), which does not help a user; raise ConfigError')
        fail(f'frames("no_such_split") gave {len(found)} frames')

    def test_recognises_only_its_own(self) -> None:
        """`recognise` returns False for a folder that does not exist."""
        answer = self.component.recognise("/no/such/folder")
        require(answer is False, f"recognise of a folder that does not exist gave {answer!r}")


def _require_frame(name: str, frame: Any) -> None:
    image, depth_m = frame.image_HW3, frame.depth_m_HW
    require(image.dtype == np.uint8 and image.ndim == 3, f"{name}: the image is {image.dtype} {image.shape}")
    require(depth_m.dtype == np.float32, f"{name}: depth is {depth_m.dtype}, not float32")
    require(image.shape == (*depth_m.shape, 3), f"{name}: image {image.shape} and depth {depth_m.shape} differ in size")
    require(bool(np.isfinite(depth_m).all()), f"{name}: depth holds NaN or infinity; unknown is 0")
    require(bool((depth_m >= 0).all()), f"{name}: depth holds negative values; unknown is 0")
    require(bool((depth_m > 0).any()), f"{name}: no depth is known")
    median_m = float(np.median(depth_m[depth_m > 0]))
    low, high = PLAUSIBLE_M
    require(low <= median_m <= high, f"{name}: the median depth is {median_m:g} m: is the unit right?")
