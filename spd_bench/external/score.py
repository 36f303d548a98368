"""Scores predictions of another program like a suite's own: same frames, same query points, same protocol (§8, R-24).

<root>/external/<name>-<id>/
    predictions.h5      the predictions at the scored points: the record
    run.json            what they are and how they were read
    scores.json         the numbers; its presence says that scoring is finished

A comparison shows them beside every suite whose data set, protocol, query points and K are the same.
"""

import re
from collections.abc import Callable
from pathlib import Path

from spd_bench.errors import ConfigError, DataError
from spd_bench.external.at_points import PointScores, answers_at, are_the_suites, maps_at, own_answers
from spd_bench.external.explain import Explainer
from spd_bench.external.files import check_there, open_maps
from spd_bench.external.points import lines_of
from spd_bench.external.reading import NO_ALIGNMENT, Reading
from spd_bench.external.result import Scored
from spd_bench.external.tally import Tally
from spd_bench.score import predict, score
from spd_bench.score.judge import Judge
from spd_bench.store import records
from spd_bench.store.run_root import RUN, SCORES, ExternalRecord, ScoresRecord
from spd_bench.suite.schema import SLUG, Suite

FORMAT = 1
"""Raise it when the same files and options are scored otherwise."""
RECORD_MARK = b"spd-bench predictions"
"""What `score.predict.save` writes first."""


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
    crop: str | None = None,
    as_is: bool = False,
    dataset_key: str | None = None,
    names: Path | None = None,
    points: Path | None = None,
    explain: bool = False,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Scored | PointScores:
    """Scores the predictions at `source` as the suite's own, and keeps them below `root` for its comparisons.

    source: a stack or a folder of dense maps (`external.files`); the `predictions.h5` of a run, which holds the query
    points alone; or a `.jsonl` file with depth at points of its own (`external.points`). unit: "m", "mm", or the
    number of file units in one metre. quantity: "depth" or "disparity". align: "none" for predictions in metres, else
    lsq_disparity, lsq_depth or median (`alignment`). gt_aligned: whether ground truth entered the predictions before
    they came here. crop: where the maps lie in the frame, "rows,columns" or "none" (`crops`). as_is: score what the
    truth speaks against, too. dataset_key, names: see `open_maps`. points: a `.jsonl` file whose points and true depths
    are scored in place of the suite's. explain: also what other toolboxes would print.

    At other points than the suite's the numbers are `PointScores` and nothing is kept: no row of a suite compares.

    Raises ConfigError for options that do not go together. Raises DataError for anything but one usable prediction
    at every valid pixel of every test frame, and for predictions that the ground truth speaks against (`plausible`).
    """
    if not re.fullmatch(SLUG, name):
        raise ConfigError(f'"{name}" is no name for a row', hint="small letters, digits, dot, dash and underscore")
    reading = Reading.of(unit=unit, quantity=quantity, align=align, gt_aligned=gt_aligned, crop=crop, as_is=as_is)
    check_there(source)  # before data are made or looked through
    judge = Judge.of(suite)
    frames = judge.data.frames("test")
    if not frames:
        raise DataError("has no test frames", where=judge.data.describe(), hint="score on a data set that has some")
    explainer = Explainer(judge.protocol) if explain else None
    tally = Tally(judge, on_image, explainer)
    record, answers = _is_record(source), source.suffix.lower() == ".jsonl"
    if (record or answers) and (reading != Reading(gt_aligned=gt_aligned) or dataset_key or names or points or explain):
        raise ConfigError(
            f"{'the record of a run' if record else 'a file of points'} holds metres at query points: no unit, "
            "quantity, alignment, crop, key, names or points apply, and other toolboxes need dense maps",
            where=str(source),
            hint="leave those options out",
        )
    if record:
        what = tally.take_record(predict.load(source), str(source))
    elif answers:
        lines = lines_of(source, frames)
        if not are_the_suites(lines, tally.images):
            return own_answers(lines, tally.images, judge, name, str(source))
        what = tally.take_points(answers_at(lines, tally.images, str(source)))
    else:
        maps = open_maps(source, frames, dataset_key=dataset_key, names=names)
        if points is not None:
            return maps_at(maps, lines_of(points, frames), tally.images, judge, reading, name, str(points))
        what = tally.take_maps(maps, reading, str(source))
    return _keep(tally, source, name=name, root=root, reading=reading, what=what)


def _is_record(source: Path) -> bool:
    """Whether this is the `predictions.h5` of a run."""
    if not source.is_file():
        return False
    with source.open("rb") as stream:
        return stream.read(len(RECORD_MARK)) == RECORD_MARK


def _keep(tally: Tally, source: Path, *, name: str, root: Path, reading: Reading, what: str) -> Scored:
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
    doubted = f"; AS IS, though {'; '.join(tally.doubts)}" if tally.doubts else ""
    difference = f"external: {name} (files of {source.name}: {what}{doubted})"
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
    return Scored(
        name=name,
        folder=folder,
        judge=judge,
        difference=difference,
        gt_aligned=reading.gt_aligned,
        images=len(recorded.frames),
        values=values,
        all_pixels=tally.all_pixels,
        doubts=tally.doubts,
        explanation=tally.explainer.explanation() if tally.explainer else None,
    )
