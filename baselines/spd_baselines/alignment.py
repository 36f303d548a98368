"""Per-image least squares in inverse depth: how a relative prediction is given metres from ground truth (R-27b).

A relative disparity x is known up to scale and shift. With t = 1/d at the valid pixels of one image,

    (a, c) = argmin Σ (a·x + c − t)²,

fitted on the whole valid mask and never on the scored points: at one point it would always be exact. What is
scored after it has seen the ground truth of the image, so it belongs in a table of its own.
"""

from dataclasses import dataclass

from torch import Tensor

from spd_baselines.output import EPSILON, depth_of
from spd_bench.errors import DataError


@dataclass(frozen=True)
class Alignment:
    """Scale a and shift c of each image, both [B]: inverse depth in 1/m = a·disparity + c."""

    scale_B: Tensor
    shift_B: Tensor

    def depth_m(self, disparity_BK: Tensor) -> Tensor:
        """Metres of aligned disparities, [B, K]. Where a·x + c is not positive it is ε: farther than any room."""
        rho_BK = self.scale_B[:, None] * disparity_BK + self.shift_B[:, None]
        return depth_of(rho_BK.clamp_min(EPSILON))


def align_disparity(disparity_BN: Tensor, depth_m_BN: Tensor) -> Alignment:
    """Least squares of 1/depth on disparity over the N valid pixels of each image, in float64.

    Raises DataError where an image has fewer than two pixels or the same disparity everywhere, and for a
    disparity that is not finite or a depth that is not a positive number of metres.
    """
    x_BN, depth_BN = disparity_BN.double(), depth_m_BN.double()
    if not disparity_BN.is_meta:
        _refuse_bad_pixels(x_BN, depth_BN)
    target_BN = 1 / depth_BN
    mean_x_B1, mean_t_B1 = x_BN.mean(dim=1, keepdim=True), target_BN.mean(dim=1, keepdim=True)
    x_BN, target_BN = x_BN - mean_x_B1, target_BN - mean_t_B1
    scale_B1 = (x_BN * target_BN).sum(dim=1, keepdim=True) / (x_BN * x_BN).sum(dim=1, keepdim=True)
    shift_B1 = mean_t_B1 - scale_B1 * mean_x_B1
    return Alignment(scale_B1[:, 0].to(disparity_BN.dtype), shift_B1[:, 0].to(disparity_BN.dtype))


def _refuse_bad_pixels(x_BN: Tensor, depth_m_BN: Tensor) -> None:
    if x_BN.shape[1] < 2:
        raise DataError(
            f"scale and shift need at least 2 valid pixels, found {x_BN.shape[1]}",
            hint="leave out images without valid depth",
        )
    if not bool(x_BN.isfinite().all()):
        raise DataError("the disparity is not finite at a valid pixel")
    if not bool((depth_m_BN.isfinite() & (depth_m_BN > 0)).all()):
        raise DataError("a depth to align to is not a positive, finite number of metres", hint="pass valid pixels only")
    if bool((x_BN.amax(dim=1) == x_BN.amin(dim=1)).any()):
        raise DataError("the disparity of an image is the same everywhere: no scale fits")
