"""Parts that routing rules share: options, the sites of L4, and the choice of the best R."""

import torch
from pydantic import Field
from torch import Tensor

from spd_bench.api import ComponentConfig, Level
from spd_bench.errors import ConfigError
from spd_bench.fused import forms, products
from spd_bench.geometry import cell_centres


class AnchorConfig(ComponentConfig):
    """Options of every routing rule."""

    r: int = Field(default=32, ge=1)
    """Number of anchors R."""


def site_centres(l4: Level, *, like: Tensor) -> Tensor:
    """Centres of L4's cells in the unit square, row-major: [S, 2] (R-05)."""
    return cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=like)


def check_anchor_count(r: int, l4: Level) -> None:
    """Raises ConfigError if L4 has fewer than r sites."""
    sites = l4.height * l4.width
    if r > sites:
        raise ConfigError(
            f"routing.r: {r} anchors asked of {sites} sites of L4 ({l4.height}×{l4.width})",
            hint="lower routing.r or raise data.image_size",
        )


def top_sites(weight_BKS: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The R largest weights of each query and their sites, largest first, ties to the lower index (R-11)."""
    if forms.fits(weight_BKS):
        site_BKR = products.largest(weight_BKS, r)
        return weight_BKS.gather(-1, site_BKR), site_BKR
    if torch.compiler.is_exporting():  # runtimes lack a stable sort; ONNX's TopK breaks ties to the lower index itself
        weight_BKR, site_BKR = weight_BKS.topk(r, dim=-1)
        return weight_BKR, site_BKR
    # a stable descending sort keeps equal weights in the order of their sites
    weight_BKS, site_BKS = torch.sort(weight_BKS, dim=-1, descending=True, stable=True)
    return weight_BKS[..., :r], site_BKS[..., :r]


def straight_through(weight_BKR: Tensor) -> Tensor:
    """The gate of R-12: 1 + w − stopgrad(w), one in value, with the gradient of w."""
    return 1 + (weight_BKR - weight_BKR.detach())
