"""Depths of every image of a command: one encoding each, then its points, its map and its picture."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from spd_bench.ask.model import OnPoints, RunModel
from spd_bench.ask.pictures import as_rgb
from spd_bench.errors import ConfigError, SpdError
from spd_bench.predict.answers import Answer
from spd_bench.predict.maps import write_npy, write_png
from spd_bench.predict.overlay import write_overlay
from spd_bench.predict.questions import Questions
from spd_bench.predict.sources import IMAGES, SourceFrame, Sources

MapForm = Literal["npy", "png"]
NAMES_A_FILE = frozenset({*IMAGES, ".npy", ".npz", ".csv", ".json", ".svg", ".pdf", ".txt"})
"""Suffixes with which people name a file, not a folder."""
WRITERS = {"npy": write_npy, "png": write_png}


@dataclass(frozen=True)
class Saving:
    """What is written of each image."""

    folder: Path
    """Where it is written."""
    map_form: MapForm
    """Form of depth maps."""
    picture: Path | None = None
    """Where the picture of the only image goes; None for a picture of each image in the folder."""


def saving_at(save: Path, map_form: MapForm, sources: Sources, *, dense: bool) -> Saving:
    """What `--save` means: a folder, or a .png for the picture of one image.

    Raises ConfigError for the name of another file, and for one that several pictures or a map would need.
    """
    if save.is_dir() or not (save.is_file() or save.suffix.lower() in NAMES_A_FILE):
        return Saving(save, map_form)
    hint = "name a folder; NAME.png is for the picture of one image, without --dense"
    if save.suffix.lower() != ".png" or dense or len(sources.files) != 1 or sources.total != 1:
        raise ConfigError("expected a folder, found the name of a file", where=f"--save {save}", hint=hint)
    if save.exists() and save.samefile(sources.files[0]):
        raise ConfigError("would replace the image itself", where=f"--save {save}", hint="name another file")
    return Saving(save.parent, map_form, save)


def predict_all(
    model: RunModel,
    sources: Sources,
    questions: Questions,
    *,
    saving: Saving | None,
    on_points: OnPoints = lambda done, total: None,
) -> Iterator[Answer]:
    """The answer of each image in turn. Raises as `RunModel.encode` and `depth`, placed at the image."""
    for frame in sources:
        try:
            yield _answer(model, frame, questions, saving, on_points)
        except SpdError as error:
            raise error.at(frame.name) from None


def _answer(
    model: RunModel, frame: SourceFrame, questions: Questions, saving: Saving | None, on_points: OnPoints
) -> Answer:
    image_HW3 = as_rgb(frame.image)
    scene = model.encode(image_HW3)
    uv_N2 = questions.of_image(width=scene.width, height=scene.height)
    depth_m_N = model.depth(scene, uv_N2, on_points=on_points)
    answer = Answer(
        image=frame.name,
        stem=frame.stem,
        width=scene.width,
        height=scene.height,
        uv_N2=uv_N2,
        depth_m_N=depth_m_N,
        outside_N=model.unfamiliar(depth_m_N),
        notes=scene.unfamiliar,
    )
    dense_m_HW = model.dense(scene, on_points=on_points) if questions.dense else None
    return answer if saving is None else replace(answer, files=_saved(answer, image_HW3, dense_m_HW, saving, model))


def _saved(
    answer: Answer,
    image_HW3: npt.NDArray[np.uint8],
    dense_m_HW: npt.NDArray[np.float32] | None,
    saving: Saving,
    model: RunModel,
) -> tuple[str, ...]:
    """Writes the map and the picture of one image; their paths."""
    written = []
    if dense_m_HW is not None:
        written.append(saving.folder / f"{answer.stem}.depth.{saving.map_form}")
        WRITERS[saving.map_form](written[-1], dense_m_HW)
    written.append(saving.picture or saving.folder / f"{answer.stem}.overlay.png")
    title = f"{model.run.label}, trained on {model.run.data}"
    if model.run.stand_ins:
        title += "\nSTAND-INS: " + "; ".join(model.run.stand_ins)
    write_overlay(written[-1], image_HW3, answer.uv_N2, answer.depth_m_N, dense_m_HW=dense_m_HW, title=title)
    return tuple(map(str, written))
