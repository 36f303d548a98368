"""Where the error of a row lies: by range, and near depth edges against the rest, over all scored points of draw 0."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANGES_M = ((0.0, 2.0), (2.0, 4.0), (4.0, float("inf")))
"""Near, mid and far in metres: [from, to)."""
EDGE_BAND_PX = 3
"""A point is near an edge if an edge pixel of the ground truth lies within this many pixels, along rows and columns."""


@dataclass(frozen=True)
class Share:
    """Error of a row over one part of the scored points."""

    part: str
    """What the points have in common."""
    points: int
    """Number of points."""
    absrel: float
    """Mean of |p − g| / g, NaN without points."""
    bias: float
    """Mean of (p − g) / g: positive is too far, NaN without points."""


def by_part(
    truth_m_N: NDArray[np.floating], predicted_m_N: NDArray[np.floating], near_edge_N: NDArray[np.bool_] | None
) -> list[Share]:
    """The error of points in each range and, where `near_edge_N` is known, near edges and elsewhere."""
    truth, signed = truth_m_N.astype(np.float64), (predicted_m_N.astype(np.float64) - truth_m_N) / truth_m_N
    found = [_share(_range_name(low, high), signed[(truth >= low) & (truth < high)]) for low, high in RANGES_M]
    if near_edge_N is not None:
        found.append(_share("near depth edges", signed[near_edge_N]))
        found.append(_share("elsewhere", signed[~near_edge_N]))
    return found


def _range_name(low: float, high: float) -> str:
    return f"{low:g} to {high:g} m" if np.isfinite(high) else f"beyond {low:g} m"


def _share(part: str, signed_N: NDArray[np.floating]) -> Share:
    if signed_N.size == 0:
        return Share(part, 0, float("nan"), float("nan"))
    return Share(part, int(signed_N.size), float(np.abs(signed_N).mean()), float(signed_N.mean()))


def near_edges(
    edges_HW: NDArray[np.bool_], uv_P2: NDArray[np.integer], *, band: int = EDGE_BAND_PX
) -> NDArray[np.bool_]:
    """Whether an edge pixel lies in the square of 2·band + 1 pixels around each point (u, v): [P]."""
    height, width = edges_HW.shape
    # sums over squares as differences of an integral image
    total_HW = np.zeros((height + 1, width + 1), np.int64)
    total_HW[1:, 1:] = edges_HW.cumsum(0).cumsum(1)
    u, v = uv_P2[:, 0].astype(np.intp), uv_P2[:, 1].astype(np.intp)
    left, right = np.clip(u - band, 0, width), np.clip(u + band + 1, 0, width)
    top, bottom = np.clip(v - band, 0, height), np.clip(v + band + 1, 0, height)
    inside = total_HW[bottom, right] - total_HW[top, right] - total_HW[bottom, left] + total_HW[top, left]
    found: NDArray[np.bool_] = inside > 0
    return found


def table(shares: Mapping[str, Sequence[Share]]) -> list[dict[str, str]]:
    """Row → shares as cells for people: one line for each row, AbsRel with its bias for each part."""
    return [
        {"row": row} | {f"{share.part} ({share.points} points)": _cell(share) for share in parts}
        for row, parts in shares.items()
    ]


def _cell(share: Share) -> str:
    return f"{share.absrel:.4f} (bias {share.bias:+.4f})" if share.points else "no points"
