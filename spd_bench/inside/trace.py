"""One point through a composition, block by block: anchors, samples, attention, shares of tokens, calibration."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spd_bench.api import Level, Looked, QueryState
from spd_bench.ask.model import EncodedImage, RunModel
from spd_bench.ask.points import checked_points
from spd_bench.errors import ConfigError
from spd_bench.geometry import cell_centres, pixel_to_unit
from spd_bench.model.compose import ComposedModel
from spd_bench.registry import blamed

Points = npt.NDArray[np.float64]
"""Places in pixels of the image and their weights: [N, 3] of u, v, weight."""


@dataclass(frozen=True)
class SiteAttention:
    """Attention over the sites of L4."""

    weights: npt.NDArray[np.float64]
    """Mean over heads of the last layer, [rows, columns]; they sum to 1."""
    covers: tuple[float, float]
    """The share (x, y) of the image that the sites cover, from its upper left corner."""


@dataclass(frozen=True)
class Inside:
    """What a composition looked at for one point."""

    point: tuple[float, float]
    """The point (u, v) in pixels."""
    depth_m: float
    """Its depth in metres."""
    attention: SiteAttention | None
    """Attention over the sites of L4; None where no block attends to them."""
    anchors: Points
    """Centres of the routed sites, the first one first, with their attention (1 where there is none): [R, 3]."""
    places: dict[str, Points]
    """"slot name" → places that the block read."""
    shares: dict[str, list[dict[str, float]]]
    """Slot → of each layer, group of tokens → its share of the attention."""
    values: dict[str, float]
    """"slot name" → a number of the image."""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        attention = None
        if self.attention is not None:
            attention = {"covers": list(self.attention.covers), "weights": self.attention.weights.tolist()}
        return {
            "point": list(self.point),
            "depth_m": self.depth_m,
            "attention": attention,
            "anchors": self.anchors.tolist(),
            "places": {name: points.tolist() for name, points in self.places.items()},
            "shares": self.shares,
            "values": self.values,
        }

    def lines(self) -> list[str]:
        """For people."""
        u, v = self.point
        found = [f"depth at ({u:g}, {v:g}): {self.depth_m:.3f} m"]
        found += [f"{name}: {value:.4g}" for name, value in self.values.items()]
        if self.attention is not None:
            rows, columns = self.attention.weights.shape
            found.append(f"attention over {rows}×{columns} sites: largest {self.attention.weights.max():.3f}")
        if len(self.anchors):
            found.append(f"{len(self.anchors)} anchors, with {self.anchors[:, 2].sum():.3f} of the attention")
        found += [f"{name}: {len(points)} places" for name, points in self.places.items()]
        for slot, layers in self.shares.items():
            for number, share in enumerate(layers, start=1):
                parts = ", ".join(f"{name} {100 * part:.1f} %" for name, part in share.items())
                found.append(f"{slot} layer {number}: {parts}")
        return found


def look_inside(model: RunModel, scene: EncodedImage, point: tuple[float, float]) -> Inside:
    """What the composition looked at for one point (u, v) in pixels.

    Raises ConfigError for a baseline, which has no blocks, and for a point outside the image.
    """
    if not isinstance(model.network, ComposedModel):
        raise ConfigError(
            f"{model.run.label} is a baseline, which has no blocks to look into", hint="name a composition"
        )
    uv_12 = checked_points([point], width=scene.width, height=scene.height)
    (depth_m,) = model.depth(scene, uv_12)
    xy_112 = pixel_to_unit(torch.from_numpy(uv_12), width=scene.width, height=scene.height).float()[None]
    with torch.inference_mode(), blamed(model.run.label):
        steps = list(_steps(model.network, scene, xy_112.to(model.device)))
    last = steps[-1].after
    l4 = scene.prepared.pyramid.l4
    places = {
        f"{step.slot} {name}": _pixels(scene, xy_BKN2, weight_BKN)
        for step in steps
        for name, (xy_BKN2, weight_BKN) in step.looked.points.items()
    }
    return Inside(
        point=point,
        depth_m=float(depth_m),
        attention=_attention(last, l4),
        anchors=_anchors(last, l4, scene),
        places=places,
        shares={step.slot: step.shares for step in steps if step.shares},
        values={f"{step.slot} {name}": float(value[0]) for step in steps for name, value in step.looked.values.items()},
    )


@dataclass(frozen=True)
class _Step:
    """One block at work."""

    slot: str
    after: QueryState
    looked: Looked
    shares: list[dict[str, float]]


def _steps(network: ComposedModel, scene: EncodedImage, xy_112: Tensor) -> Iterator[_Step]:
    groups: list[tuple[str, int]] = []
    for slot, before, after in network.states(scene.prepared, xy_112):
        looked = network.block(slot).looked(before, scene.prepared)
        yield _Step(slot, after, looked, [_by_group(share_BKT[0, 0], groups) for share_BKT in looked.token_shares])
        new = (after.tokens or ())[len(before.tokens or ()) :]
        count = sum(part.standard_BKTD.shape[2] for part in new)
        named = looked.groups if sum(size for _, size in looked.groups) == count else ((slot, count),)
        groups += [group for group in named if group[1]]


def _by_group(share_T: Tensor, groups: list[tuple[str, int]]) -> dict[str, float]:
    """The sum of each group's shares."""
    parts = share_T.double().split([size for _, size in groups])
    return {name: float(part.sum()) for (name, _), part in zip(groups, parts, strict=True)}


def _attention(state: QueryState, l4: Level) -> SiteAttention | None:
    if state.attention_BKS is None:
        return None
    weights = state.attention_BKS[0, 0].double().view(l4.height, l4.width).cpu().numpy()
    return SiteAttention(weights, l4.extent)


def _anchors(state: QueryState, l4: Level, scene: EncodedImage) -> Points:
    if state.anchors is None:
        return np.empty((0, 3))
    site_R = state.anchors.site_BKR[0, 0]
    centre_S2 = cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=state.xy_BK2)
    weight_R = torch.ones_like(centre_S2[site_R, 0])
    if state.attention_BKS is not None:
        weight_R = state.attention_BKS[0, 0][site_R]
    return _pixels(scene, centre_S2[site_R][None, None], weight_R[None, None])


def _pixels(scene: EncodedImage, xy_BKN2: Tensor, weight_BKN: Tensor) -> Points:
    """Points of the unit square in pixels of the image, whose centres are whole numbers (R-03)."""
    size = torch.tensor([scene.width, scene.height], dtype=torch.float64)
    uv_N2 = xy_BKN2[0, 0].double().cpu() * size - 0.5
    joined = torch.cat([uv_N2, weight_BKN[0, 0].double().cpu()[:, None]], dim=1)
    return cast(Points, joined.numpy())
