"""External predictions of all test frames: their values at the judge's points, and the metrics over all pixels."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import FrameId
from spd_bench.data.batches import ScoredImage, ScoredImages
from spd_bench.data.views import Views
from spd_bench.errors import DataError
from spd_bench.external.explain import Explainer
from spd_bench.external.files import Maps
from spd_bench.external.names import SHOWN, shortlist
from spd_bench.external.plausible import AgainstTruth
from spd_bench.external.reading import Reading, read_map, size_of
from spd_bench.score import score
from spd_bench.score.judge import Judge
from spd_bench.score.predict import Predictions

HELD_BYTES = 64 * 2**20
"""One frame is looked at twice, one after the other; none comes again."""


class Tally:
    """Predictions of all test frames at the judge's points, and the metrics over every valid pixel."""

    def __init__(self, judge: Judge, on_image: Callable[[int, int], None], explainer: Explainer | None = None) -> None:
        self.judge = judge
        self.on_image = on_image
        self.explainer = explainer
        about = judge.suite
        self.views = Views(
            judge.data, image_size=about.data.image_size, augmentation=about.data.augment, limit_bytes=HELD_BYTES
        )
        self.images = ScoredImages(
            views=self.views,
            frames=judge.data.frames("test"),
            protocol=judge.protocol,
            max_k=max(about.eval.k),
            k1_draws=about.eval.k1_draws,
            seed=about.eval.seed,
        )
        self.all_pixels: Mapping[str, float] | None = None
        self.doubts: tuple[str, ...] = ()
        self.digest = hashlib.sha256()
        self._frames: list[FrameId] = []
        self._points: list[tuple[Any, Any, NDArray[np.float32]]] = []
        self._draw_P: Any = None

    def take_maps(self, maps: Maps, reading: Reading, where: str) -> str:
        """Takes dense maps; returns what they were. DataError listing every frame that cannot be scored.

        Raises DataError too for predictions that the truth speaks against (`plausible`), unless read as they are.
        """
        everywhere = score.AllPixels(self.judge.metrics, self.judge.protocol)
        per_metre = None if reading.align else reading.per_metre
        seen = AgainstTruth(1 if reading.quantity == "depth" else -1, per_metre, maps.by_place)
        sizes: dict[str, None] = {}
        problems: list[DataError] = []
        backwards = 0
        for index in range(len(self.images)):
            image = self.images[index]
            truth_m_HW = self.views.see(image.frame, image.view).depth_m_HW
            valid_HW = self.judge.protocol.valid(truth_m_HW, where=f"frame {image.frame.frame}")
            try:
                map_HW = maps.read(index)
                size = size_of(map_HW, truth_m_HW)
                found = read_map(map_HW, truth_m_HW, valid_HW, reading, self.judge.protocol)
            except DataError as error:
                error.message = f"frame {image.frame.frame}: {error.message}"
                problems.append(error)
                continue
            said = (
                f"{size} placed at {found.box}" if found.box else f"{size} read bilinearly at the frame's pixel centres"
            )
            sizes[said if size else ""] = None
            backwards += found.scale < 0
            predicted_m_V = found.depth_m_HW[valid_HW]
            self.digest.update(predicted_m_V.tobytes())
            everywhere.add(truth_m_HW[valid_HW], predicted_m_V)
            seen.add(image.frame.frame, found.file_HW, truth_m_HW, valid_HW)
            if self.explainer is not None:
                self.explainer.add(truth_m_HW, found, map_HW / reading.per_metre)
            self._add(image, found.depth_m_HW[image.uv_img_P2[:, 1], image.uv_img_P2[:, 0]])
        if problems:
            raise _all_of(problems, len(self.images), where)
        if 2 * backwards > len(self.images):
            raise DataError(
                f"the fitted scale is negative in {backwards} of {len(self.images)} frames: depth and disparity are "
                "probably confused",
                where=where,
                hint="say what the files hold: --quantity depth or --quantity disparity",
            )
        self._weigh(seen, reading, where)
        self.all_pixels = everywhere.reported()
        return _describe(maps, reading, list(sizes), seen)

    def _weigh(self, seen: AgainstTruth, reading: Reading, where: str) -> None:
        """Raises DataError for what the truth speaks against; with `as_is` it is only kept."""
        doubts = seen.doubts()
        if doubts and not reading.as_is:
            raise DataError(
                "; ".join(said for said, _ in doubts),
                where=where,
                hint="; ".join(dict.fromkeys(mend for _, mend in doubts))
                + "; --as-is scores them all the same, marked",
            )
        self.doubts = tuple(said for said, _ in doubts)

    def take_record(self, record: Predictions, where: str) -> str:
        """Takes the record of a run, if it holds the judge's frames and points; returns what it was."""
        place = {frame: index for index, frame in enumerate(record.frames)}
        for index in range(len(self.images)):
            image = self.images[index]
            at = place.pop(image.frame.frame, None)
            same = at is not None and np.array_equal(record.draw_P, image.draw_P)
            if at is None or not same or not np.array_equal(record.uv_img_IP2[at], image.uv_img_P2):
                raise DataError(
                    f"frame {image.frame.frame} was not predicted at the query points of this suite",
                    where=where,
                    hint="score dense maps, or a record of the same data set, protocol, K, draws and seed",
                )
            self._add(image, record.predicted_m_IP[at])
        if place:
            raise DataError(f"{len(place)} frames belong to no test frame: {shortlist(list(place))}", where=where)
        return "query points of a run's record"

    def take_points(self, predicted_m_IP: Sequence[NDArray[np.float32]]) -> str:
        """Takes predictions at the judge's own points, frame by frame; returns what they were."""
        for index, predicted_m_P in enumerate(predicted_m_IP):
            self._add(self.images[index], predicted_m_P)
        return "predictions at this suite's query points"

    def _add(self, image: ScoredImage, predicted_m_P: NDArray[np.float32]) -> None:
        """Keeps an image's points, and nothing else of it: images and valid pixels of a split would fill the memory."""
        self._frames.append(image.frame)
        self._points.append((image.uv_img_P2, image.truth_m_P, predicted_m_P))
        self._draw_P = image.draw_P
        self.digest.update(predicted_m_P.tobytes())
        self.on_image(len(self._frames), len(self.images))

    def predictions(self) -> Predictions:
        """What was taken, in the form of a run's record."""
        uv_img_IP2, truth_m_IP, predicted_m_IP = (np.stack(arrays) for arrays in zip(*self._points, strict=True))
        return Predictions(
            frames=tuple(frame.frame for frame in self._frames),
            scenes=tuple(frame.scene for frame in self._frames),
            uv_img_IP2=uv_img_IP2.astype(np.int32),
            truth_m_IP=truth_m_IP,
            predicted_m_IP=predicted_m_IP,
            draw_P=self._draw_P.astype(np.int32),
        )


def _all_of(problems: Sequence[DataError], frames: int, where: str) -> DataError:
    """One error that lists the frames of several."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    listed = "\n  ".join(["", *(problem.message for problem in problems[:SHOWN]), *more])
    return DataError(
        f"{len(problems)} of {frames} frames cannot be scored:{listed}",
        where=where,
        hint=problems[0].hint or "every valid pixel of every test frame needs a prediction; no frame is left out",
    )


def _describe(maps: Maps, reading: Reading, sizes: Sequence[str], seen: AgainstTruth) -> str:
    """The form of the files and everything that was done to their numbers."""
    said = [maps.what]
    if reading.per_metre != 1:
        said.append(f"{reading.per_metre:g} units per metre")
    said += [size for size in sizes if size]
    if reading.align is not None:
        said.append(f"{reading.quantity} aligned to the ground truth of each image by {reading.align}")
    elif reading.gt_aligned:
        said.append("aligned to ground truth before")
    if reading.align is None:
        said.append(f"median of prediction / truth {seen.ratio:.3g}")
    said.append(f"rank correlation {seen.rank * seen.expected:.2f}")
    return ", ".join(said)
