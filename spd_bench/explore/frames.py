"""The test images of the data sets that the offered runs were scored on, where those are on this machine."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from spd_bench import registry
from spd_bench.api import DepthDataset, FrameId
from spd_bench.data.elsewhere import TestElsewhere
from spd_bench.errors import SpdError, StateError
from spd_bench.explore.offers import Offer
from spd_bench.explore.pictures import Picture
from spd_bench.store import records
from spd_bench.suite.checks import check_options
from spd_bench.suite.schema import Choice


@dataclass(frozen=True)
class KnownImage:
    """One frame of a test split, whose true depth is known."""

    name: str
    """What the page calls it."""
    frame: FrameId
    """Its name in the data set."""
    data: DepthDataset
    """Where it is read from."""

    def open(self) -> Picture:
        """Reads the frame. DataError where it cannot be read."""
        frame = self.data.read(self.frame)
        return Picture(self.name, frame.image_HW3, frame.depth_m_HW)


def known_images(offered: Iterable[Offer]) -> tuple[list[KnownImage], list[str]]:
    """The test images of every suite that the runs are rows of, and why some are not here, one line each."""
    images: dict[tuple[str, str], KnownImage] = {}
    problems: list[str] = []
    for digest, suite in _suites(offered).items():
        try:
            data = _opened(suite["data"])
            if data.digest() != digest:
                problems.append(f"suite {suite['suite']}: its data set has changed since the runs were trained")
                continue
            frames = data.frames("test")
        except SpdError as error:
            problems.append(f"no test images of suite {suite['suite']}: {error.message}")
            continue
        for frame in frames:
            images.setdefault((digest, frame.frame), KnownImage(frame.frame, frame, data))
    return list(images.values()), problems


def _suites(offered: Iterable[Offer]) -> dict[str, Mapping[str, Any]]:
    """Digest of a data set → a suite on it, of which one of the runs is a row."""
    found: dict[str, Mapping[str, Any]] = {}
    for offer in offered:
        digest = records.read_record(offer.folder / "run.json")["identity"]["data"]["digest"]
        root = offer.folder.parent.parent
        for path in sorted((root / "suites").glob("*.json")) if digest not in found else []:
            with suppress(StateError):  # a damaged record of some suite
                stored = records.read_record(path)
                if any((root / row["folder"]).resolve() == offer.folder.resolve() for row in stored["rows"]):
                    found[digest] = stored["suite"]
                    break
    return found


def _opened(about: Mapping[str, Any]) -> DepthDataset:
    """The data set of a suite, with another one's test split where the suite says so."""
    data = _component(about["dataset"])
    return data if about.get("test") is None else TestElsewhere(data, _component(about["test"]))


def _component(about: Any) -> DepthDataset:
    choice = Choice.read(about)
    data: DepthDataset = registry.load("dataset", choice.use)(check_options(choice, "dataset"))
    return data
