"""All pictures of a report: figures of contrasts, the base's four levels, and where the error of each row is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spd_bench.pictures.breakdown import EDGE_BAND_PX, Share, table
from spd_bench.pictures.choose import Contrast
from spd_bench.pictures.panels import Figure, Panel, figures, level_panels
from spd_bench.pictures.scene import PictureScene

EDGES = (
    "Depth edges are the steepest tenth of the pixels where log-depth has a gradient; near means at most "
    f"{EDGE_BAND_PX} pixels away along rows and columns. Holes have no edges."
)


@dataclass(frozen=True)
class Album:
    """What a page shows of a suite's test images."""

    base: str
    """Name of the base."""
    rule: str
    """How rows and images were chosen."""
    figures: Sequence[Figure]
    """One figure for each shown image."""
    levels: Sequence[Panel]
    """The base's levels for one image; empty for a base without a pyramid."""
    levels_of: str
    """The frame that `levels` is of."""
    breakdown: Sequence[Mapping[str, str]]
    """A line for each shown row: its error by range and near edges."""
    edges: str = EDGES
    """What counts as a depth edge."""


def album(
    base: str,
    contrasts: Sequence[Contrast],
    scenes: Mapping[int, PictureScene],
    shares: Mapping[str, Sequence[Share]],
    *,
    metric: str,
    k: int,
) -> Album:
    """The album of rendered scenes. shares: row → the error of its parts."""
    first = next((scene for scene in scenes.values() if level_panels(scene, base)), None)
    shown = ", ".join(contrast.row for contrast in contrasts)
    return Album(
        base=base,
        rule=(
            f"{base} beside {shown}. Of each contrast the images with the best, the median and the worst difference "
            f"in {metric} at K={k}, first seed; chosen by this rule, not by hand. Depth is rendered by querying a grid "
            "of pixels."
        ),
        figures=figures(scenes, contrasts, base),
        levels=level_panels(first, base) if first else (),
        levels_of=first.frame if first else "",
        breakdown=table(shares),
    )
