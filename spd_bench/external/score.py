"""Scores predictions of another program like a suite's own: same frames, same query points, same protocol (§8, R-24).

<root>/external/<name>-<id>/
    predictions.h5      the predictions at the scored points: the record
    run.json            what they are and how they were read
    scores.json         the numbers; its presence says that scoring is finished

A comparison shows them beside every suite whose data set, protocol, query points and K are the same.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import FrameId
from spd_bench.data.batches import ScoredImage, ScoredImages
from spd_bench.data.reading.frames import MEDIAN_RANGE_M
from spd_bench.data.views import Views
from spd_bench.errors import ConfigError, DataError, did_you_mean
from spd_bench.external.alignment import FittedAlignment, How, Quantity, is_affine
from spd_bench.external.files import Maps, check_there, open_maps, shortlist
from spd_bench.report.collect import metric_info
from spd_bench.report.comparison import definitions, one_line
from spd_bench.report.tables import decimals
from spd_bench.score import predict, score
from spd_bench.score.judge import Judge
from spd_bench.score.predict import Predictions
from spd_bench.store import records
from spd_bench.store.run_root import RUN, SCORES, ExternalRecord, ScoresRecord
from spd_bench.suite.schema import SLUG, Suite

FORMAT = 1
"""Raise it when the same files and options are scored otherwise."""
HELD_BYTES = 64 * 2**20
"""One frame is looked at twice, one after the other; none comes again."""
RECORD_MARK = b"spd-bench predictions"
"""What `score.predict.save` writes first."""
SHOWN = 10
"""Frames that an error lists; the rest are counted."""
UNITS = {"m": 1.0, "mm": 1000.0}
NO_ALIGNMENT = "none"


@dataclass(frozen=True)
class Reading:
    """How the numbers in the files are taken.

    per_metre: file units in one metre. quantity: depth or disparity. align: how relative predictions are aligned to
    the ground truth of each image, None for predictions in metres. gt_aligned: ground truth entered them, here or
    before (R-27).
    """

    per_metre: float
    quantity: Quantity
    align: How | None
    gt_aligned: bool


@dataclass(frozen=True)
class Scored:
    """What scoring came to. values: number of each (metric, K); all_pixels: over every valid pixel, None if unknown."""

    name: str
    folder: Path
    judge: Judge
    difference: str
    gt_aligned: bool
    images: int
    values: Mapping[tuple[str, int], float]
    all_pixels: Mapping[str, float] | None


def score_predictions(
    source: Path,
    *,
    suite: Suite,
    name: str,
    root: Path,
    unit: str = "m",
    quantity: str = "depth",
    align: str = NO_ALIGNMENT,
    gt_aligned: bool = False,
    dataset_key: str | None = None,
    names: Path | None = None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Scored:
    """Scores the predictions at `source` as the suite's own, and keeps them below `root` for its comparisons.

    source: a stack or a folder of dense maps (`external.files`), or the `predictions.h5` of a run, which holds the
    query points alone. unit: "m", "mm", or the number of file units in one metre. quantity: "depth" or "disparity".
    align: "none" for predictions in metres, else lsq_disparity, lsq_depth or median (`alignment`).
    gt_aligned: whether ground truth entered the predictions before they came here. dataset_key, names: see `open_maps`.

    Raises ConfigError for options that do not go together. Raises DataError for anything but one usable prediction
    at every valid pixel of every test frame, and for predictions that cannot be metres.
    """
    if not re.fullmatch(SLUG, name):
        raise ConfigError(f'"{name}" is no name for a row', hint="small letters, digits, dot, dash and underscore")
    reading = _reading(unit, quantity, align, gt_aligned)
    check_there(source)  # before data are made or looked through
    judge = Judge.of(suite)
    frames = judge.data.frames("test")
    if not frames:
        raise DataError("has no test frames", where=judge.data.describe(), hint="score on a data set that has some")
    tally = _Tally(judge, on_image)
    if _is_record(source):
        if reading != Reading(1.0, "depth", None, gt_aligned) or dataset_key or names:
            raise ConfigError(
                "the record of a run holds metres at query points: no unit, quantity, alignment, key or names apply",
                where=str(source),
                hint="leave those options out",
            )
        what = tally.take_record(predict.load(source), str(source))
    else:
        opened = open_maps(source, [frame.frame for frame in frames], dataset_key=dataset_key, names=names)
        what = tally.take_maps(opened, reading, str(source))
    return _keep(tally, source, name=name, root=root, reading=reading, what=what)


def _reading(unit: str, quantity: str, align: str, gt_aligned: bool) -> Reading:
    """The options, checked."""
    for option, value, known in (
        ("--quantity", quantity, get_args(Quantity)),
        ("--align", align, (NO_ALIGNMENT, *get_args(How))),
    ):
        if value not in known:
            raise ConfigError(f'unknown value "{value}"', where=option, hint=did_you_mean(value, known))
    per_metre = UNITS.get(unit) or (float(unit) if re.fullmatch(r"\d+(\.\d+)?", unit) else 0.0)
    if not per_metre > 0:
        raise ConfigError(f'unknown unit "{unit}"', where="--unit", hint="m, mm, or the number of file units per metre")
    if quantity == "disparity" and (align == NO_ALIGNMENT or per_metre != 1):
        raise ConfigError(
            "disparity has no metres before it is aligned, and no unit",
            where="--quantity disparity",
            hint="choose --align and leave --unit out, or convert the predictions to depth in metres",
        )
    how: Any = None if align == NO_ALIGNMENT else align
    return Reading(per_metre, "depth" if quantity == "depth" else "disparity", how, gt_aligned or how is not None)


def _is_record(source: Path) -> bool:
    """Whether this is the `predictions.h5` of a run."""
    if not source.is_file():
        return False
    with source.open("rb") as stream:
        return stream.read(len(RECORD_MARK)) == RECORD_MARK


# ----------------------------------------------------------------------------------------------- reading


class _Tally:
    """Predictions of all test frames at the judge's points, and the metrics over every valid pixel."""

    def __init__(self, judge: Judge, on_image: Callable[[int, int], None]) -> None:
        self.judge = judge
        self.on_image = on_image
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
        self.digest = hashlib.sha256()
        self._frames: list[FrameId] = []
        self._points: list[tuple[Any, Any, NDArray[np.float32]]] = []
        self._draw_P: Any = None

    def take_maps(self, maps: Maps, reading: Reading, where: str) -> str:
        """Dense maps; returns what they were. DataError listing every frame that cannot be scored."""
        everywhere = score.AllPixels(self.judge.metrics, self.judge.protocol)
        sizes: dict[str, None] = {}
        problems: list[DataError] = []
        backwards = 0
        for index in range(len(self.images)):
            image = self.images[index]
            depth_m_HW = self.views.see(image.frame, image.view).depth_m_HW
            valid_HW = self.judge.protocol.valid(depth_m_HW, where=f"frame {image.frame.frame}")
            try:
                map_HW = maps.read(index)
                sizes[_size(map_HW, depth_m_HW)] = None
                predicted_m_HW, scale = _in_metres(map_HW, depth_m_HW, valid_HW, reading, self.judge)
            except DataError as error:
                error.message = f"frame {image.frame.frame}: {error.message}"
                problems.append(error)
                continue
            backwards += scale < 0
            predicted_m_V = predicted_m_HW[valid_HW]
            self.digest.update(predicted_m_V.tobytes())
            everywhere.add(depth_m_HW[valid_HW], predicted_m_V)
            self._add(image, predicted_m_HW[image.uv_img_P2[:, 1], image.uv_img_P2[:, 0]])
        if problems:
            raise _all_of(problems, len(self.images), where)
        if 2 * backwards > len(self.images):
            raise DataError(
                f"the fitted scale is negative in {backwards} of {len(self.images)} frames: depth and disparity are "
                "probably confused",
                where=where,
                hint="say what the files hold: --quantity depth or --quantity disparity",
            )
        if reading.align is None:
            self._refuse_other_units(where)
        self.all_pixels = everywhere.reported()
        return _describe(maps, reading, list(sizes))

    def take_record(self, record: Predictions, where: str) -> str:
        """The record of a run, if it holds the judge's frames and points; returns what it was."""
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

    def _refuse_other_units(self, where: str) -> None:
        """The median of all predictions must be a distance in a room."""
        low_m, high_m = MEDIAN_RANGE_M
        median_m = float(np.median(self.predictions().predicted_m_IP))
        if not low_m <= median_m <= high_m:
            raise DataError(
                f"expected metric depth with a median of {low_m:g} to {high_m:g} m, found {median_m:.4g}",
                where=where,
                hint="for millimetres say --unit mm, for other file units how many make a metre; relative or "
                "normalised predictions have no metres: say how to --align them",
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


def _in_metres(
    map_HW: NDArray[np.floating[Any]],
    depth_m_HW: NDArray[np.floating[Any]],
    valid_HW: NDArray[np.bool_],
    reading: Reading,
    judge: Judge,
) -> tuple[NDArray[np.float32], float]:
    """A map of file units as float32 metres at the frame's pixels, and the scale of its alignment (1 without).

    Raises DataError where a valid pixel has no usable prediction.
    """
    height, width = depth_m_HW.shape
    file_HW = judge.protocol.at_frame_size(map_HW / reading.per_metre, height=height, width=width)
    file_V = file_HW[valid_HW]
    if reading.align is not None and is_affine(reading.align, reading.quantity):
        usable_V, wanted = np.isfinite(file_V), "finite numbers"
    elif reading.quantity == "disparity":
        usable_V, wanted = np.isfinite(file_V) & (file_V >= 0), "finite numbers, zero or above"
    else:
        usable_V, wanted = np.isfinite(file_V) & (file_V > 0), "positive, finite numbers"
    if not usable_V.all():
        bad = int(usable_V.size - np.count_nonzero(usable_V))
        raise DataError(f"at {bad} of {usable_V.size} valid pixels the predictions are not {wanted}")
    if reading.align is None:
        return file_HW.astype(np.float32), 1.0
    fit = FittedAlignment.fit(reading.align, reading.quantity, file_V, depth_m_HW[valid_HW])
    return fit.depth_m(file_HW).astype(np.float32), fit.scale


def _size(map_HW: NDArray[np.floating[Any]], depth_m_HW: NDArray[np.floating[Any]]) -> str:
    """The map's size, or "" if it is the frame's; DataError for a map that lies on its side."""
    (height, width), (rows, columns) = map_HW.shape, depth_m_HW.shape
    if (height, width) == (rows, columns):
        return ""
    if (height > width) != (rows > columns) and height != width:
        raise DataError(f"the map is {height}×{width}, the frame {rows}×{columns}: rows and columns are exchanged")
    return f"{height}×{width}"


def _describe(maps: Maps, reading: Reading, sizes: Sequence[str]) -> str:
    """The form of the files and everything that was done to their numbers."""
    said = [maps.what]
    if reading.per_metre != 1:
        said.append(f"{reading.per_metre:g} units per metre")
    if others := [size for size in sizes if size]:
        said.append(f"{' and '.join(others)} read bilinearly at the frame's pixel centres")
    if reading.align is not None:
        said.append(f"{reading.quantity} aligned to the ground truth of each image by {reading.align}")
    elif reading.gt_aligned:
        said.append("aligned to ground truth before")
    return ", ".join(said)


# ----------------------------------------------------------------------------------------------- keeping


def _keep(tally: _Tally, source: Path, *, name: str, root: Path, reading: Reading, what: str) -> Scored:
    """Writes the record and scores it from there, so that it is known to hold the numbers."""
    judge = tally.judge
    identity = {
        "format": FORMAT,
        "predictions": tally.digest.hexdigest(),
        "unit": reading.per_metre,
        "quantity": reading.quantity,
        "align": reading.align,
        "gt_aligned": reading.gt_aligned,
        "judge": judge.id,
    }
    id = records.sha256(identity)
    folder = root / "external" / f"{name}-{id[:10]}"
    digest = predict.save(folder / "predictions.h5", tally.predictions(), {"identity": id, "protocol": judge.caption})
    recorded = predict.load(folder / "predictions.h5")
    values = score.reported(recorded, judge.metrics, judge.suite.eval.k, judge.protocol)
    difference = f"external: {name} (files of {source.name}: {what})"
    about = ExternalRecord(
        composition=name,
        difference=difference,
        gt_aligned=reading.gt_aligned,
        stand_ins=[judge.data.stand_in] if judge.data.stand_in else [],
        judge=judge.id,
        identity=identity,
        dataset=judge.data.describe(),
        protocol=judge.caption,
    )
    scores = ScoresRecord(
        identity=judge.identity,
        images=len(recorded.frames),
        scores={f"{metric}@{k}": value for (metric, k), value in values.items()},
        all_pixels=tally.all_pixels,
        files={"predictions.h5": digest},
    )
    records.write_record(folder / RUN, about)
    records.write_record(folder / SCORES, scores)
    return Scored(name, folder, judge, difference, reading.gt_aligned, len(recorded.frames), values, tally.all_pixels)


def table(scored: Scored) -> str:
    """The numbers as text: caption, metric × K with all valid pixels beside them, and the metrics' definitions."""
    from tabulate import tabulate

    judge = scored.judge
    infos = [metric_info(metric, judge.protocol.averaging) for metric in judge.metrics]
    ks = list(judge.suite.eval.k)
    everywhere = scored.all_pixels or {}
    rows = [
        [
            info.name,
            *(_shown(scored.values.get((info.name, k)), info) for k in ks),
            _shown(everywhere.get(info.name), info),
        ]
        for info in infos
    ]
    headers = ["metric", *(f"K={k}" for k in ks), "all pixels"]
    lines = [f"STAND-IN: {judge.data.stand_in}"] if judge.data.stand_in else []
    lines += ["GT-ALIGNED: fitted to the scored images' own ground truth, not comparable"] if scored.gt_aligned else []
    lines += [scored.difference, f"Data: {judge.data.describe()}", f"Protocol: {judge.caption}"]
    lines += [f"Images scored: {scored.images}"]
    numbers = tabulate(
        rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=("left", *["right"] * (len(ks) + 1))
    )
    record = f"record: {scored.folder} (delete it to take the row out of comparisons)"
    return "\n".join([*map(one_line, lines), "", numbers, "", *definitions(infos), record])


def _shown(value: float | None, info: Any) -> str:
    return "–" if value is None else f"{value:.{decimals(info)}f}"
