"""The checks of a build order: what §10.3 asks of each step before the next one may start.

Shapes are compared with the formulas of §4 to §6 for the suite's own input size, so that they hold for 518×518 and for
a small input alike. Every check reports what it expected and what it found, passed or not.

Letters: B images, K queries, T tokens, S sites of L4, R anchors, D core width, C channels.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd_bench.api import Features, QueryState, Scene
from spd_bench.geometry import Table
from spd_bench.model.compose import ComposedModel
from spd_bench.model.diagnose import diagnose
from spd_bench.score.metrics import Metric
from spd_bench.suite.schema import Checks

LOCAL_TOKENS = 91
"""T_unified of §6.1: 32 of L1, 25 of L2, 25 of L3, 9 of L4 (R-01)."""


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    check: str
    """What is checked."""
    expected: str
    """What the paper or the suite asks for."""
    found: str
    """What the step's model has."""
    passed: bool
    """Whether the two agree."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a step's checks look at."""

    model: ComposedModel
    """The step's model."""
    features: Features
    """Frozen features of a few validation images."""
    xy_BK2: Tensor
    """Queries of each of them."""
    image_size: tuple[int, int]
    """Height and width of the network's input."""
    primary: tuple[Metric, int]
    """The suite's primary metric and its K."""
    scores: Mapping[str, float]
    """Metric@K → value of the step's model."""
    baselines: Mapping[str, float]
    """Baseline → value of the primary metric."""


@torch.no_grad()
def examine(checks: Checks, evidence: Evidence) -> list[CheckResult]:
    """The results of a step's checks, in the order of the paper: shapes, picture, diagnostics of blocks, accuracy."""
    evidence.model.eval()
    scene = evidence.model.prepare(evidence.features)
    states = {slot: after for slot, _, after in evidence.model.states(scene, evidence.xy_BK2)}
    found = [finding for part in checks.shapes for finding in SHAPES[part](evidence, scene, states)]
    if checks.picture is not None:
        likeness = neighbour_correlation(principal_components(scene.pyramid.l3.map_BHWC))
        expected = f"neighbouring cells correlate ≥ {checks.picture:g}"
        found.append(CheckResult("L3, 3 principal components", expected, f"{likeness:.3f}", likeness >= checks.picture))
    found += _diagnosed(checks, evidence)
    found += _accuracy(checks, evidence)
    return found


# ------------------------------------------------------------------------------------------------- shapes


def _shape(what: str, tensor: Tensor | None, expected: tuple[int, ...]) -> CheckResult:
    """The result for the shape and finiteness of one tensor; None counts as nothing found."""
    if tensor is None:
        return CheckResult(what, str(list(expected)), "nothing", False)
    finite = bool(torch.isfinite(tensor).all())
    found = str(list(tensor.shape)) + ("" if finite else ", not finite")
    return CheckResult(what, str(list(expected)), found, tuple(tensor.shape) == expected and finite)


def _pyramid(evidence: Evidence, scene: Scene, states: Mapping[str, QueryState]) -> Iterator[CheckResult]:
    """L1 to L4 of §4: 4, 2, 1 and ½ times the patch grid."""
    batch, pyramid = evidence.xy_BK2.shape[0], scene.pyramid
    rows, columns = (side // evidence.model.encoder.patch for side in evidence.image_size)
    sizes = [(4 * rows, 4 * columns), (2 * rows, 2 * columns), (rows, columns), (rows // 2, columns // 2)]
    levels = (pyramid.l1, pyramid.l2, pyramid.l3, pyramid.l4)
    for number, (level, size, channels) in enumerate(
        zip(levels, sizes, evidence.model.neck.dims.pyramid, strict=True), start=1
    ):
        yield _shape(f"L{number} [B, H, W, C]", level.map_BHWC, (batch, *size, channels))


def _precompute(evidence: Evidence, scene: Scene, states: Mapping[str, QueryState]) -> Iterator[CheckResult]:
    """§5: B3's keys and values for every site, B4's projected levels, and the calibration of each image."""
    batch, core, pyramid = evidence.xy_BK2.shape[0], evidence.model.neck.dims.core, scene.pyramid
    sites = pyramid.l4.height * pyramid.l4.width
    keys = list(_found(scene.prepared.get("b3"), Tensor))
    each = [tuple(key.shape) for key in keys]
    right = bool(keys) and len(keys) % 2 == 0 and all(key.numel() == batch * sites * core for key in keys)
    yield CheckResult(
        "B3 keys and values (§5.1)", f"pairs of B·{sites}·{core} numbers", f"{len(keys)} of {set(each)}", right
    )
    tables = list(_found(scene.prepared.get("b4"), Table))
    wanted = [(level.height, level.width, core) for level in (pyramid.l2, pyramid.l3, pyramid.l4)]
    maps = [(table.height, table.width, table.rows_NC.shape[1]) for table in tables]
    yield CheckResult("B4 projected L2 to L4 (§5.3)", str(wanted), str(maps), maps == wanted)
    calibration = list(_found(scene.prepared.get("depth_head"), Tensor))
    right = len(calibration) == 2 and all(value.numel() == batch for value in calibration)
    scale = float(calibration[0].min()) if right else math.nan
    yield CheckResult("calibration s > 0 and b (§5.4)", "two numbers per image", f"smallest s {scale:.4g}", scale > 0)


def _tokens(evidence: Evidence, scene: Scene, states: Mapping[str, QueryState]) -> Iterator[CheckResult]:
    """B1 (§6.1): 91 tokens and the seed of every query."""
    batch, count = evidence.xy_BK2.shape[:2]
    core, state = evidence.model.neck.dims.core, states["b1"]
    tokens = torch.cat([part.tokens_BKTD for part in state.tokens], dim=2) if state.tokens else None
    yield _shape("B1 tokens [B, K, T, D]", tokens, (batch, count, LOCAL_TOKENS, core))
    yield _shape("B1 seed [B, K, D]", state.h_BKD, (batch, count, core))


def _evidence(evidence: Evidence, scene: Scene, states: Mapping[str, QueryState]) -> Iterator[CheckResult]:
    """B4 (§6.4): one token per routed anchor."""
    batch, count = evidence.xy_BK2.shape[:2]
    state = states["b4"]
    anchors = state.anchors.site_BKR.shape[-1] if state.anchors else 0
    read = state.tokens[-1].tokens_BKTD if state.tokens else None
    yield _shape("B4 evidence [B, K, R, D]", read, (batch, count, anchors, evidence.model.neck.dims.core))


SHAPES: Mapping[str, Callable[[Evidence, Scene, Mapping[str, QueryState]], Iterator[CheckResult]]] = {
    "pyramid": _pyramid,
    "precompute": _precompute,
    "tokens": _tokens,
    "evidence": _evidence,
}


def _found(value: Any, kind: type) -> Iterator[Any]:
    """Everything of a kind inside nested tuples, lists and dataclasses, in order."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _found(item, kind)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _found(getattr(value, field.name), kind)


# ------------------------------------------------------------------------------------------------- the picture


def principal_components(map_BHWC: Tensor) -> NDArray[np.float64]:
    """The first three principal components of all cells, each scaled to unit variance: [B, H, W, 3]."""
    cells_NC = map_BHWC.double().flatten(0, 2).cpu().numpy()
    cells_NC = cells_NC - cells_NC.mean(axis=0)
    _, _, directions_NC = np.linalg.svd(cells_NC, full_matrices=False)
    scores_N3 = cells_NC @ directions_NC[:3].T
    spread_3 = scores_N3.std(axis=0)
    scaled_N3: NDArray[np.float64] = scores_N3 / np.where(spread_3 > 0, spread_3, 1)
    return scaled_N3.reshape(*map_BHWC.shape[:3], -1)


def neighbour_correlation(components_BHW3: NDArray[np.float64]) -> float:
    """Correlation of a cell with the cells right of and below it, mean over components; 0 for noise, 1 for a ramp."""
    pairs = (
        (components_BHW3[:, :, :-1], components_BHW3[:, :, 1:]),
        (components_BHW3[:, :-1], components_BHW3[:, 1:]),
    )
    found = []
    for here, there in pairs:
        for component in range(components_BHW3.shape[-1]):
            a_N, b_N = here[..., component].ravel(), there[..., component].ravel()
            found.append(float(np.corrcoef(a_N, b_N)[0, 1]) if a_N.std() > 0 and b_N.std() > 0 else 0.0)
    return float(np.mean(found))


def picture(components_BHW3: NDArray[np.float64], images_B3HW: Tensor) -> bytes:
    """A PNG: each image (values in [0, 1]) above its three components as red, green and blue."""
    from PIL import Image

    columns = []
    shown_B3HW = (255 * images_B3HW.clamp(0, 1)).round().byte().cpu().numpy()
    for colours_HW3, image_3HW in zip(components_BHW3, shown_B3HW, strict=True):
        size = (image_3HW.shape[2], image_3HW.shape[1])
        shown_HW3 = (255 * np.clip(0.5 + colours_HW3 / 4, 0, 1)).astype(np.uint8)  # two standard deviations each way
        drawn = Image.fromarray(shown_HW3).resize(size, Image.Resampling.NEAREST)
        columns.append(np.concatenate([image_3HW.transpose(1, 2, 0), np.asarray(drawn)]))
    stream = io.BytesIO()
    Image.fromarray(np.concatenate(columns, axis=1)).save(stream, format="PNG")
    return stream.getvalue()


# ------------------------------------------------------------------------------------------------- numbers


def _diagnosed(checks: Checks, evidence: Evidence) -> Iterator[CheckResult]:
    if not checks.watched:
        return
    measured = diagnose(evidence.model, evidence.features, evidence.xy_BK2)
    for name, (low, high) in checks.watched.items():
        value = measured.get(name)
        expected = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        if value is None:
            yield CheckResult(name, expected, f"not measured; there are {', '.join(sorted(measured))}", False)
        else:
            yield CheckResult(name, expected, f"{value:.4g}", low <= value <= high)


def _accuracy(checks: Checks, evidence: Evidence) -> Iterator[CheckResult]:
    metric, k = evidence.primary
    own = evidence.scores.get(f"{metric.name}@{k}", math.nan)
    for name, bound in checks.below.items():
        value = evidence.scores.get(f"{name}@{k}", math.nan)
        yield CheckResult(f"{name} at K={k}", f"< {bound:g}", f"{value:.4f}", value < bound)
    for choice in checks.better_than:
        other = evidence.baselines.get(choice.use, math.nan)
        better = own < other if metric.lower_is_better else own > other
        found = f"{own:.4f} against {other:.4f}"
        yield CheckResult(f"{metric.name} at K={k}", f"better than {choice.use}", found, better)
    for name, ratio in checks.close_to.items():
        other = evidence.baselines.get(name, math.nan)
        close = own <= ratio * other if metric.lower_is_better else ratio * own >= other
        expected = f"within a factor {ratio:g} of {name}"
        yield CheckResult(f"{metric.name} at K={k}", expected, f"{own:.4f} against {other:.4f}", close)
