"""Diagnostics of a composition's blocks as a few numbers: attention, anchors, and those of `Block.diagnose`.

Attention and anchors are fields of the query state, so they are measured for any component that writes them. Internals
of a block (learned offsets, calibration) come from its own `diagnose`. Diagnostics change neither model nor training.

Letters: B images, K queries, S sites of L4, R anchors.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spd_bench.api import Features, QueryState, Scene
from spd_bench.geometry import cell_centres
from spd_bench.model.compose import ComposedModel


@torch.no_grad()
def diagnose(model: ComposedModel, features: Features, xy_BK2: Tensor) -> dict[str, float]:
    """{"<slot>/<name>": value} of every block for these queries of a few images; sets the model to evaluation mode."""
    model.eval()
    scene = model.prepare(features)
    found: dict[str, float] = {}
    for slot, before, after in model.states(scene, xy_BK2):
        own = model.block(slot).diagnose(before, scene)
        values = dict(own) | _of_attention(before, after) | _of_anchors(before, after, scene)
        found |= {f"{slot}/{name}": float(value) for name, value in values.items()}
    return found


def _of_attention(before: QueryState, after: QueryState) -> dict[str, float]:
    """If the block wrote ᾱ: its entropy as a share of ln S (1: uniform), and its largest weight."""
    if after.attention_BKS is None or after.attention_BKS is before.attention_BKS:
        return {}
    alpha_BKS = after.attention_BKS.double()
    entropy_BK = -torch.special.xlogy(alpha_BKS, alpha_BKS).sum(-1)
    return {
        "attention_entropy": float(entropy_BK.mean()) / math.log(max(2, alpha_BKS.shape[-1])),
        "attention_peak": float(alpha_BKS.amax(-1).mean()),
    }


def _of_anchors(before: QueryState, after: QueryState, scene: Scene) -> dict[str, float]:
    """If the block wrote anchors: their coverage, overlap and distance.

    coverage: share of L4's sites that some query of the image chose. overlap: anchors that two queries of an image
    have in common, as a share of R, mean over pairs (1: all queries have the same anchors). distance: mean distance of
    a query to its anchors, in the unit square.
    """
    if after.anchors is None or after.anchors is before.anchors:
        return {}
    site_BKR = after.anchors.site_BKR
    batch, count, anchors = site_BKR.shape
    l4 = scene.pyramid.l4
    chosen_BKS = torch.zeros(batch, count, l4.height * l4.width, device=site_BKR.device, dtype=torch.float64)
    chosen_BKS.scatter_(2, site_BKR, 1.0)
    centre_S2 = cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=after.xy_BK2)
    apart_BKR2 = centre_S2[site_BKR] - after.xy_BK2[:, :, None]
    found = {
        "anchor_coverage": float(chosen_BKS.amax(1).mean()),
        "anchor_distance": float(apart_BKR2.norm(dim=-1).mean()),
    }
    if count > 1:
        common_BKK = chosen_BKS @ chosen_BKS.transpose(1, 2)
        pairs = common_BKK.sum() - common_BKK.diagonal(dim1=1, dim2=2).sum()
        found["anchor_overlap"] = float(pairs) / (batch * count * (count - 1) * anchors)
    return found


def label(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the names under which training logs them."""
    return {f"diagnose/{name}": value for name, value in values.items()}
