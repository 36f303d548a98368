"""Predictions of one model on a split: `predictions.h5` is the record from which every number can be rebuilt."""

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from spd_bench import disk
from spd_bench.api import Features, FrameId, PointDepthModel
from spd_bench.data.batches import ScoredImages
from spd_bench.data.views import FrozenFeatures, unit_range
from spd_bench.errors import SpdError, StateError

MARK = "spd-bench predictions"


class NotFinite(SpdError):
    """A model predicted NaN or infinity: the run fails, nothing is turned into a legal depth."""

    exit_code = 4


@dataclass(frozen=True)
class Predictions:
    """Images × points. frames and scenes name the images; draw_P says which draw a point belongs to (R-26)."""

    frames: tuple[str, ...]
    scenes: tuple[str, ...]
    uv_img_IP2: NDArray[np.int32]
    truth_m_IP: NDArray[np.float32]
    predicted_m_IP: NDArray[np.float32]
    draw_P: NDArray[np.int32]


@dataclass(frozen=True)
class Cost:
    """Median milliseconds per image of the three calls, as they ran during the evaluation."""

    prepare_ms: float
    decode_ms: float
    points: int


class OnScene(Protocol):
    """Who looks at every image when it has been decoded (`costs.Meter`)."""

    def __call__(self, index: int, features: Features, scene: Any, xy_1P2: torch.Tensor) -> None:
        """The image of this index: its features, the scene that was decoded, and its query points."""


class _Points(NamedTuple):
    """What is kept of a scored image: all its valid pixels would be 3.5 MB."""

    frame: FrameId
    uv_img_P2: Any
    truth_m_P: Any
    draw_P: Any


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
    """Runs the model on every image, one at a time. Raises NotFinite for a prediction that is not finite."""
    model.eval()
    scored: list[_Points] = []
    predicted: list[Any] = []
    prepare_s, decode_s = [], []
    for index in range(len(images)):
        image = images[index]
        maps = features.of([image.view], unit_range(image.image_3HW[None].to(device)))
        started = now(device)
        scene = model.prepare(maps)
        prepared = now(device)
        if model.gt_aligned:
            model.fit_alignment(scene, image.valid_xy_V2[None].to(device), image.valid_depth_m_V[None].to(device))
        xy_1P2 = image.xy_P2[None].to(device)
        fitted = now(device)
        depth_m_P = model.decode(scene, xy_1P2)[0]
        decode_s.append(now(device) - fitted)
        prepare_s.append(prepared - started)
        if not torch.isfinite(depth_m_P).all():
            bad = int((~torch.isfinite(depth_m_P)).sum())
            raise NotFinite(
                f"{bad} of {depth_m_P.numel()} predictions are not finite", where=f"frame {image.frame.frame}"
            )
        if on_scene is not None:
            on_scene(index, maps, scene, xy_1P2)
        scored.append(_Points(image.frame, image.uv_img_P2, image.truth_m_P, image.draw_P))
        predicted.append(depth_m_P.float().cpu().numpy())
        on_image(index + 1)
    predictions = Predictions(
        frames=tuple(s.frame.frame for s in scored),
        scenes=tuple(s.frame.scene for s in scored),
        uv_img_IP2=np.stack([s.uv_img_P2 for s in scored]).astype(np.int32),
        truth_m_IP=np.stack([s.truth_m_P for s in scored]),
        predicted_m_IP=np.stack(predicted),
        draw_P=scored[0].draw_P.astype(np.int32),
    )
    cost = Cost(1e3 * float(np.median(prepare_s)), 1e3 * float(np.median(decode_s)), len(scored[0].draw_P))
    return predictions, cost


def now(device: torch.device) -> float:
    """Seconds of the monotonic clock, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def save(path: Path, predictions: Predictions, attributes: dict[str, str]) -> str:
    """Writes `predictions.h5`, built in memory and published whole, with its SHA-256 in front; the file's SHA-256."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="latest", userblock_size=disk.SEAL_BYTES) as store:
        for name, value in attributes.items():
            store.attrs[name] = value
        text = h5py.string_dtype("utf-8")
        store.create_dataset("frames", data=list(predictions.frames), dtype=text)
        store.create_dataset("scenes", data=list(predictions.scenes), dtype=text)
        for name in ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P"):
            store.create_dataset(name, data=getattr(predictions, name), fletcher32=True, chunks=True)
    return disk.write_sealed(path, MARK, buffer.getvalue()[disk.SEAL_BYTES :])


def load(path: Path) -> Predictions:
    """Reads `predictions.h5`; StateError if it is damaged."""
    try:
        content = path.read_bytes()
        digest = hashlib.sha256(content[disk.SEAL_BYTES :]).hexdigest()
        if content[: disk.SEAL_BYTES] != disk.seal(MARK, digest):  # HDF5 may loop for ever in a damaged file
            raise OSError("its SHA-256 is not the one it was written with")
        with h5py.File(io.BytesIO(content), "r") as store:
            arrays = {n: store[n][()] for n in ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P")}
            frames, scenes = (tuple(str(s) for s in store[n].asstr()[()]) for n in ("frames", "scenes"))
    except (OSError, KeyError) as error:
        raise StateError(
            f"cannot be read ({error})", where=str(path), hint="delete its folder and run again"
        ) from error
    return Predictions(frames=frames, scenes=scenes, **arrays)
