"""Runs a model on a split, and stores its predictions: every number can be recomputed from `predictions.h5`."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from spd_bench.api import Features, FrameId, PointDepthModel
from spd_bench.cost.timing import now
from spd_bench.data.batches import ScoredImages
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures
from spd_bench.errors import SpdError, StateError
from spd_bench.model.compose import check_depth
from spd_bench.store import sealed

MARK = "spd-bench predictions"


class NotFinite(SpdError):
    """A model predicted NaN or infinity. The run fails; such a value never becomes a legal depth."""

    exit_code = 4


@dataclass(frozen=True)
class Predictions:
    """Predictions at P points of each of I images."""

    frames: tuple[str, ...]
    """Frame name of each image."""
    scenes: tuple[str, ...]
    """Scene of each image."""
    uv_img_IP2: NDArray[np.int32]
    """Scored pixels (u, v) of the original images."""
    truth_m_IP: NDArray[np.float32]
    """True depth in metres."""
    predicted_m_IP: NDArray[np.float32]
    """Predicted depth in metres, not clamped."""
    draw_P: NDArray[np.int32]
    """The draw that each point belongs to (R-26)."""


@dataclass(frozen=True)
class Cost:
    """Median times per image during the evaluation."""

    prepare_ms: float
    """T_prepare in ms."""
    decode_ms: float
    """Time of decoding all points of an image, in ms."""
    points: int
    """Number of these points."""
    input_sizes: tuple[str, ...] = ()
    """Rows×columns of the encoder's inputs, each size once."""


class OnScene(Protocol):
    """Callback for every decoded image (`cost.meter.Meter`)."""

    def __call__(self, index: int, features: Features, scene: Any, xy_1P2: torch.Tensor) -> None:
        """Receives the image's index, features, prepared scene and query points."""


@torch.no_grad()
def predict(
    model: PointDepthModel,
    images: ScoredImages,
    features: FrozenFeatures,
    *,
    device: torch.device,
    on_image: Callable[[int], None] = lambda done: None,
    on_scene: OnScene | None = None,
) -> tuple[Predictions, Cost]:
    """Predictions of the model on every image, one at a time, and their cost.

    Raises NotFinite for a prediction that is not finite, PluginError for depths of a wrong shape or dtype.
    """
    model.eval()
    predictions: Predictions | None = None
    prepare_s, decode_s = [], []
    input_sizes: set[str] = set()
    for index in range(len(images)):
        image = images[index]
        maps = features.of([image.view], unit_range(image.image_3HW[None].to(device)))
        maps = replace(maps, frame_size=image.frame_size)
        input_sizes.add("×".join(map(str, image.image_3HW.shape[1:])))
        # features may be cached for training, so they are made outside of inference mode
        with torch.inference_mode():
            started = now(device)
            scene = model.prepare(maps)
            prepared = now(device)
            if model.gt_aligned:
                model.fit_alignment(scene, image.valid_xy_V2[None].to(device), image.valid_depth_m_V[None].to(device))
            xy_1P2 = image.xy_P2[None].to(device)
            fitted = now(device)
            depth_m_1P = model.decode(scene, xy_1P2)
            decode_s.append(now(device) - fitted)
            prepare_s.append(prepared - started)
            check_depth(depth_m_1P, 1, xy_1P2.shape[1], name=f"frame {image.frame.frame}")
            depth_m_P = depth_m_1P[0]
            if not torch.isfinite(depth_m_P).all():
                bad = int((~torch.isfinite(depth_m_P)).sum())
                raise NotFinite(
                    f"{bad} of {depth_m_P.numel()} predictions are not finite", where=f"frame {image.frame.frame}"
                )
            if on_scene is not None:
                on_scene(index, maps, scene, xy_1P2)
        if predictions is None:
            predictions = _to_fill(images.frames, image.draw_P)
        predictions.uv_img_IP2[index], predictions.truth_m_IP[index] = image.uv_img_P2, image.truth_m_P
        predictions.predicted_m_IP[index] = depth_m_P.float().cpu().numpy()
        on_image(index + 1)
    assert predictions is not None  # a scored split is not empty
    prepare_ms, decode_ms = (1e3 * float(np.median(seconds)) for seconds in (prepare_s, decode_s))
    cost = Cost(prepare_ms, decode_ms, len(predictions.draw_P), tuple(sorted(input_sizes)))
    return predictions, cost


def _to_fill(frames: Sequence[FrameId], draw_P: NDArray[np.integer[Any]]) -> Predictions:
    """Empty arrays for all images, to be filled: lists would take several times the memory."""
    shape = len(frames), len(draw_P)
    return Predictions(
        frames=tuple(frame.frame for frame in frames),
        scenes=tuple(frame.scene for frame in frames),
        uv_img_IP2=np.empty((*shape, 2), np.int32),
        truth_m_IP=np.empty(shape, np.float32),
        predicted_m_IP=np.empty(shape, np.float32),
        draw_P=draw_P.astype(np.int32),
    )


def save(path: Path, predictions: Predictions, attributes: dict[str, str]) -> str:
    """Writes `predictions.h5` atomically, with the SHA-256 of its content in front; returns the file's SHA-256."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest", userblock_size=sealed.SEAL_BYTES) as store:
        for name, value in attributes.items():
            store.attrs[name] = value
        text = h5py.string_dtype("utf-8")
        store.create_dataset("frames", data=list(predictions.frames), dtype=text)
        store.create_dataset("scenes", data=list(predictions.scenes), dtype=text)
        for name in ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P"):
            store.create_dataset(name, data=getattr(predictions, name), fletcher32=True, chunks=True)
    return sealed.write_hdf5(path, MARK, buffer.getvalue())


def load(path: Path) -> Predictions:
    """The predictions in `predictions.h5`; raises StateError if it is damaged."""
    try:
        with h5py.File(io.BytesIO(sealed.read_hdf5(path, MARK)), "r") as store:
            arrays = {n: store[n][()] for n in ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P")}
            frames, scenes = (tuple(str(s) for s in store[n].asstr()[()]) for n in ("frames", "scenes"))
    except (OSError, KeyError) as error:
        raise StateError(
            f"cannot be read ({error})", where=str(path), hint="delete its folder and run again"
        ) from error
    return Predictions(frames=frames, scenes=scenes, **arrays)
