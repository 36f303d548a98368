"""What a composition looked at for one point (`spd_bench.inside`), as layers over the picture and as text."""

import html

from spd_bench.explore import overlays
from spd_bench.explore.pictures import PictureSize
from spd_bench.inside.trace import Inside

LAYERS = ("attention", "samples", "anchors")
"""What can be drawn, lowest first."""
COLOURS = ("#ff4fd8", "#7cff4f", "#4fa3ff", "#ff9a4f")
"""Of the kinds of places that were read, in their order."""


def drawn(seen: Inside, layers: tuple[str, ...], size: PictureSize) -> str:
    """SVG of some of LAYERS."""
    parts = []
    if "attention" in layers and seen.attention is not None:
        parts.append(overlays.attention(seen.attention.weights, extent=seen.attention.covers, **size))
    if "samples" in layers:
        for colour, points_N3 in zip(COLOURS * len(seen.places), seen.places.values(), strict=False):
            parts.append(overlays.samples(points_N3[:, :2], points_N3[:, 2], colour=colour, **size))
    if "anchors" in layers and len(seen.anchors):
        parts.append(overlays.anchors(seen.anchors[:, :2], **size))
    return overlays.layers(parts)


def legend(seen: Inside, layers: tuple[str, ...]) -> str:
    """HTML: which colour is which kind of sample, and which of the layers the composition has not."""
    said = []
    if "samples" in layers:
        for colour, (name, points_N3) in zip(COLOURS * len(seen.places), seen.places.items(), strict=False):
            said.append(f'<i style="background:{colour}"></i>{html.escape(name)} ({len(points_N3)})')
    has = {"attention": seen.attention is not None, "samples": bool(seen.places), "anchors": len(seen.anchors) > 0}
    said += [f"no {name} here" for name in layers if not has[name]]
    return " ".join(said)


def numbers(seen: Inside) -> str:
    """HTML: everything as a list of sentences."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in seen.lines())}</ul>"
