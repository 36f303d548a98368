"""Draws the pictures of a suite's report with its trained models, and keeps them in an archive below the root."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import PointDepthModel
from spd_bench.data.batches import ScoredImages
from spd_bench.data.queries import depth_edges
from spd_bench.data.resizing import unit_range
from spd_bench.errors import SpdError, shortage
from spd_bench.pictures.album import Album, album
from spd_bench.pictures.breakdown import Share, by_part, near_edges
from spd_bench.pictures.choose import Candidate, Contrast, contrasts
from spd_bench.pictures.render import picture_scene, rendering
from spd_bench.pictures.scene import PictureScene, Rendering
from spd_bench.pictures.scene import load as load_scenes
from spd_bench.pictures.scene import save as save_scenes
from spd_bench.run.folder import TEST, SplitEvaluation
from spd_bench.run.outcome import Outcome
from spd_bench.run.runner import Runner
from spd_bench.score import score
from spd_bench.score.predict import Predictions
from spd_bench.score.predict import load as load_predictions
from spd_bench.store import records

log = logging.getLogger(__name__)

FORMAT = 1
"""Raise it when the same results give other pictures."""


def suite_album(runner: Runner, outcomes: Sequence[Outcome], stem: Path) -> Album | None:
    """The album of a suite, drawn unless the same one is below `stem`; None where the suite asks for none.

    Pictures are an addition: what keeps them from being drawn is logged, and the report goes without. Raises Stopped.
    """
    about = runner.experiment.suite.report.pictures
    scored = _first_seed(runner, outcomes)
    if not about.columns or not scored:
        return None
    try:
        return _album(runner, scored, stem)
    except SpdError as error:
        log.warning("the report has no pictures: %s", error)
    except Exception as error:  # a component may raise anything
        log.warning("the report has no pictures: %s", shortage(error) or f"{type(error).__name__}: {error}")
    return None


def _first_seed(runner: Runner, outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Row → its outcome for the first seed, for rows that were scored without ground truth."""
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        composition = outcome.job.composition
        if outcome.scores is not None and not runner.experiment.is_gt_aligned(composition):
            found.setdefault(composition.name, outcome)
    return found


def _album(runner: Runner, scored: Mapping[str, Outcome], stem: Path) -> Album | None:
    suite = runner.experiment.suite
    metric, k = suite.report.primary.metric, suite.report.primary.k
    predictions = {row: load_predictions(_evaluation(outcome)) for row, outcome in scored.items()}
    candidates = [_candidate(runner, scored[row], found) for row, found in predictions.items()]
    chosen = contrasts(candidates, suite.report.pictures.rows)
    if not chosen:
        return None
    base = next(candidate.name for candidate in candidates if candidate.kind == "base")
    rows = list(dict.fromkeys([base, *(contrast.row for contrast in chosen)]))
    identity = records.sha256(
        [FORMAT, suite.report.pictures.columns, metric, k, [[row, scored[row].job.eval_id] for row in rows]]
    )
    archive, record = stem.with_suffix(".pictures.npz"), stem.with_suffix(".pictures.json")
    kept = records.found_record(record)
    if kept is None or kept["identity"] != identity or not records.vouched(record.parent, kept):
        scenes, near_edge_IP = _draw(runner, scored, base, chosen)
        shares = {row: _shares(predictions[row], near_edge_IP) for row in rows}
        digest = save_scenes(archive, scenes)
        kept = {
            "identity": identity,
            "shares": {row: [asdict(share) for share in parts] for row, parts in shares.items()},
            records.VOUCHED: {archive.name: digest},
        }
        records.write_record(record, kept)
    shares = {row: [Share(**share) for share in parts] for row, parts in kept["shares"].items()}
    return album(base, chosen, load_scenes(archive), shares, metric=metric, k=k)


def _evaluation(outcome: Outcome) -> Path:
    return outcome.folder / SplitEvaluation.test(outcome.job).name / "predictions.h5"


def _candidate(runner: Runner, outcome: Outcome, predictions: Predictions) -> Candidate:
    """A row with the primary metric of each image, negated where higher is better."""
    suite, protocol = runner.experiment.suite, runner.experiment.protocol
    primary = suite.report.primary
    metric = next(metric for metric in runner.experiment.metrics if metric.name == primary.metric)
    value_I = score.per_image(predictions, [metric], [primary.k], protocol)[primary.metric, primary.k]
    composition = outcome.job.composition
    return Candidate(composition.name, composition.kind, value_I if metric.lower_is_better else -value_I)


def _draw(
    runner: Runner, scored: Mapping[str, Outcome], base: str, chosen: Sequence[Contrast]
) -> tuple[dict[int, PictureScene], NDArray[np.bool_]]:
    """The chosen images with a rendering by each row that shows them; which scored points are near edges, [I, P]."""
    columns = runner.experiment.suite.report.pictures.columns
    wanted: dict[str, set[int]] = {base: set()}
    for contrast in chosen:
        indices = set(contrast.images.values())
        wanted[base] |= indices
        wanted.setdefault(contrast.row, set()).update(indices)
    scenes: dict[int, PictureScene] = {}
    near_edge_IP = np.empty((0, 0), np.bool_)
    for row, indices in wanted.items():
        model = runner.model(scored[row].job, trained=True).eval()
        images = _test_images(runner, model)
        if row == base:
            near_edge_IP = _near_edges(runner, images)
            scenes = {
                index: picture_scene(images[index], _depth_m(images, index), columns=columns) for index in indices
            }
        for index in sorted(indices):
            runner.watch.at(f"drawing image {index + 1} by {row}")
            drawn = _rendering(runner, model, images, index, columns=columns, levels=row == base)
            scenes[index] = replace(scenes[index], renderings={**scenes[index].renderings, row: drawn})
    return {index: scenes[index] for index in sorted(scenes)}, near_edge_IP


def _test_images(runner: Runner, model: PointDepthModel) -> ScoredImages:
    about = runner.experiment.suite.eval
    return runner.inputs.images(model, TEST, max_k=max(about.k), k1_draws=about.k1_draws)


def _rendering(
    runner: Runner, model: PointDepthModel, images: ScoredImages, index: int, *, columns: int, levels: bool
) -> Rendering:
    image = images[index]
    maps = runner.inputs.frozen(model).of([image.view], unit_range(image.image_3HW[None].to(runner.device)))
    features = replace(maps, frame_size=image.frame_size)
    return rendering(model, features, image, _depth_m(images, index), columns=columns, levels=levels)


def _depth_m(images: ScoredImages, index: int) -> Any:
    frame = images.frames[index]
    return images.views.see(frame, images.views.plain(frame)).depth_m_HW


def _near_edges(runner: Runner, images: ScoredImages) -> NDArray[np.bool_]:
    """Whether each scored point of draw 0 is near a depth edge of the ground truth: [I, P]."""
    found = []
    for index in range(len(images)):
        runner.watch.at(f"looking for depth edges in image {index + 1} of {len(images)}")
        image = images[index]
        found.append(near_edges(depth_edges(_depth_m(images, index)), image.uv_img_P2[image.draw_P == 0]))
    return np.stack(found)


def _shares(predictions: Predictions, near_edge_IP: NDArray[np.bool_]) -> list[Share]:
    """The error of a row's scored points of draw 0, by part."""
    first = predictions.draw_P == 0
    truth_m_N, predicted_m_N = predictions.truth_m_IP[:, first].ravel(), predictions.predicted_m_IP[:, first].ravel()
    return by_part(truth_m_N, predicted_m_N, near_edge_IP.ravel())
