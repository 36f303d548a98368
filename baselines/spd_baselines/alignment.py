"""Rules that turn a relative prediction into metres with the ground truth of the scored image (R-27b).

The released model predicts a relative disparity x ≥ 0, inverse depth up to scale and shift. With d the true depth at
the valid pixels of one image and z = 1/max(x, floor) the relative depth,

    lsq_disparity   (a, c) = argmin Σ (a·x + c − 1/d)²      depth = 1/(a·x + c)
    lsq_depth       (a, c) = argmin Σ (a·z + c − d)²        depth = a·z + c
    median          a = median(d) / median(z)               depth = a·z

All are fitted in float64 on the whole valid mask and never on the scored points: at one point the fit would always be
exact. Predictions that use the image's ground truth are listed in a separate table.

Letters: B images, N valid pixels, K points.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from spd_baselines.output import EPSILON, depth_of
from spd_bench.errors import DataError

DISPARITY_FLOOR = 1e-3
"""Smallest relative disparity, in the model's unit. Rooms have about 1 to 10; without a floor one pixel of sky or
mirror, x = 0, would be infinitely far and dominate every fit in depth."""
DEPTH_FLOOR_M = 1e-6
"""Smallest depth of an affine alignment, which may cross zero (the protocol clamps at 1e-3 m, R-24)."""


class Alignment(ABC):
    """A mapping from relative disparity to metres for a batch of images."""

    @abstractmethod
    def depth_m(self, disparity_BK: Tensor) -> Tensor:
        """Metres of relative disparities, [B, K], positive and finite."""


@dataclass(frozen=True)
class AffineDisparity(Alignment):
    """Inverse depth in 1/m = a·x + c for each image."""

    scale_B: Tensor
    """Scale a."""
    shift_B: Tensor
    """Shift c."""

    def depth_m(self, disparity_BK: Tensor) -> Tensor:
        """Metres, [B, K]; a·x + c is at least ε, which is farther than any room."""
        rho_BK = self.scale_B[:, None] * disparity_BK + self.shift_B[:, None]
        return depth_of(rho_BK.clamp_min(EPSILON))


@dataclass(frozen=True)
class AffineDepth(Alignment):
    """Depth in metres = a·z + c for each image."""

    scale_B: Tensor
    """Scale a."""
    shift_B: Tensor
    """Shift c."""

    def depth_m(self, disparity_BK: Tensor) -> Tensor:
        """Metres, [B, K], at least `DEPTH_FLOOR_M`."""
        depth_BK = self.scale_B[:, None] * relative_depth(disparity_BK) + self.shift_B[:, None]
        return depth_BK.clamp_min(DEPTH_FLOOR_M)


class Unaligned(Alignment):
    """The relative depth taken as metres, without ground truth."""

    def depth_m(self, disparity_BK: Tensor) -> Tensor:
        """z = 1/max(x, floor), [B, K]."""
        return relative_depth(disparity_BK)


def relative_depth(disparity: Tensor) -> Tensor:
    """z = 1/max(x, floor) of a relative disparity x: depth up to scale."""
    return depth_of(disparity.clamp_min(DISPARITY_FLOOR))


def lsq_disparity(disparity_BN: Tensor, depth_m_BN: Tensor) -> AffineDisparity:
    """Least squares of 1/d on x over the valid pixels of each image; raises DataError if it cannot be fitted."""
    _refuse_bad_pixels(disparity_BN, depth_m_BN, least=2)
    return AffineDisparity(*_least_squares(disparity_BN.double(), 1 / depth_m_BN.double(), like=disparity_BN))


def lsq_depth(disparity_BN: Tensor, depth_m_BN: Tensor) -> AffineDepth:
    """Least squares of d on z over the valid pixels of each image; raises DataError if it cannot be fitted."""
    _refuse_bad_pixels(disparity_BN, depth_m_BN, least=2)
    return AffineDepth(*_least_squares(relative_depth(disparity_BN.double()), depth_m_BN.double(), like=disparity_BN))


def median(disparity_BN: Tensor, depth_m_BN: Tensor) -> AffineDepth:
    """Ratio of the medians of d and z over the valid pixels of each image; raises DataError without valid pixels."""
    _refuse_bad_pixels(disparity_BN, depth_m_BN, least=1)
    z_BN = relative_depth(disparity_BN.double())
    scale_B = (depth_m_BN.double().quantile(0.5, dim=1) / z_BN.quantile(0.5, dim=1)).to(disparity_BN.dtype)
    return AffineDepth(scale_B, scale_B.new_zeros(scale_B.shape))


Fit = Callable[[Tensor, Tensor], Alignment]
FITS: Mapping[str, Fit] = {"lsq_disparity": lsq_disparity, "lsq_depth": lsq_depth, "median": median}
"""Name in a suite → rule that needs ground truth."""


def _least_squares(x_BN: Tensor, target_BN: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [B] of the least-squares fit of x to the target, in the precision of `like`."""
    if not x_BN.is_meta and bool((x_BN.amax(dim=1) == x_BN.amin(dim=1)).any()):
        raise DataError("the prediction for an image is the same at every valid pixel: no scale fits")
    mean_x_B1, mean_t_B1 = x_BN.mean(dim=1, keepdim=True), target_BN.mean(dim=1, keepdim=True)
    x_BN, target_BN = x_BN - mean_x_B1, target_BN - mean_t_B1
    scale_B1 = (x_BN * target_BN).sum(dim=1, keepdim=True) / (x_BN * x_BN).sum(dim=1, keepdim=True)
    shift_B1 = mean_t_B1 - scale_B1 * mean_x_B1
    return scale_B1[:, 0].to(like.dtype), shift_B1[:, 0].to(like.dtype)


def _refuse_bad_pixels(x_BN: Tensor, depth_m_BN: Tensor, *, least: int) -> None:
    if x_BN.shape[1] < least:
        raise DataError(
            f"an alignment needs at least {least} valid pixels, found {x_BN.shape[1]}",
            hint="leave out images without valid depth",
        )
    if x_BN.is_meta:
        return
    if not bool(x_BN.isfinite().all()):
        raise DataError("the disparity is not finite at a valid pixel")
    if not bool((depth_m_BN.isfinite() & (depth_m_BN > 0)).all()):
        raise DataError("a depth to align to is not a positive, finite number of metres", hint="pass valid pixels only")
