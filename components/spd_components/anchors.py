"""What every routing rule shares: the sites of L4 and how many of them there are."""

from pydantic import Field
from torch import Tensor

from spd_bench.api import ComponentConfig, Level
from spd_bench.errors import ConfigError
from spd_bench.geometry import cell_centres


class AnchorConfig(ComponentConfig):
    """Options of every routing rule."""

    r: int = Field(default=32, ge=1)
    """Number of anchors R."""


def site_centres(l4: Level, *, like: Tensor) -> Tensor:
    """Centres of L4's cells in the unit square, row-major: [S, 2] (R-05)."""
    return cell_centres(width=l4.width, height=l4.height, extent=l4.extent, like=like)


def check_anchor_count(r: int, l4: Level) -> None:
    """ConfigError if L4 has fewer sites than anchors are asked for."""
    sites = l4.height * l4.width
    if r > sites:
        raise ConfigError(
            f"routing.r: {r} anchors asked of {sites} sites of L4 ({l4.height}×{l4.width})",
            hint="lower routing.r or raise data.image_size",
        )
