"""Draws docs/method.svg, the boxes of SPD v13: `python docs/method.py`, the same bytes for the same matplotlib."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from spd_bench.report.figures import draw

FROZEN, PER_IMAGE, PER_QUERY = "#DDDDDD", "#CFE3F3", "#FBE3C8"


class Drawn(NamedTuple):
    """One box: its left lower corner, its text and its colour."""

    x: float
    y: float
    text: str
    colour: str


WIDTH, HEIGHT = 1.5, 0.9
UPPER, LOWER = 2.0, 0.0
IMAGE = Drawn(0.0, UPPER, "image", "white")
QUERIES = Drawn(0.0, LOWER, "K query\npoints", "white")
ENCODER = Drawn(1.9, UPPER, "encoder §3\nDAv2-S, frozen", FROZEN)
NECK = Drawn(3.8, UPPER, "neck §4\npyramid L1–L4", PER_IMAGE)
DEPTH = Drawn(15.2, LOWER, "depth [m]\nat K points", "white")
BLOCKS = [
    Drawn(1.9 * (1 + number), LOWER, text, PER_QUERY)
    for number, text in enumerate(
        (
            "B1 §6.1\n91 local tokens",
            "B2 §6.2\nattends to them",
            "B3 §6.3\nattends to L4",
            "routing §6.3\n32 anchors",
            "B4 §6.4\nreads around",
            "B5 §6.5\nfuses both",
            "depth head\n§5.4, §6.5",
        )
    )
]
READS = {0: "L1–L4", 2: "L4", 4: "L2–L4", 6: "mean of L4"}
"""Block by its number → levels that it reads."""


def boxes(figure: Any) -> None:
    """All boxes, and an arrow for everything that one reads of another."""
    figure.set_size_inches(11.2, 2.5)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(-0.1, DEPTH.x + WIDTH + 0.1)
    axes.set_ylim(LOWER - 0.45, UPPER + HEIGHT + 0.4)
    for box in (IMAGE, ENCODER, NECK, QUERIES, *BLOCKS, DEPTH):
        edge = "white" if box.colour == "white" else "black"
        axes.add_patch(_rectangle(box, edge))
        axes.text(box.x + WIDTH / 2, box.y + HEIGHT / 2, box.text, ha="center", va="center", fontsize=7)
    for left, right in (*_neighbours(IMAGE, ENCODER, NECK), *_neighbours(QUERIES, *BLOCKS, DEPTH)):
        _arrow(axes, (left.x + WIDTH, left.y + HEIGHT / 2), (right.x, right.y + HEIGHT / 2))
    bus, bottom = UPPER - 0.45, LOWER + HEIGHT
    axes.plot([NECK.x + WIDTH / 2] * 2, [UPPER, bus], color="black", linewidth=0.8)
    ends = [BLOCKS[number].x + WIDTH / 2 for number in READS]
    axes.plot([min(ends), max(ends)], [bus, bus], color="black", linewidth=0.8)
    for number, levels in READS.items():
        x = BLOCKS[number].x + WIDTH / 2
        _arrow(axes, (x, bus), (x, bottom))
        axes.text(x + 0.08, (bus + bottom) / 2, levels, ha="left", va="center", fontsize=6.5)
    axes.text(ENCODER.x, UPPER + HEIGHT + 0.12, "once per image: T_encode, T_prepare", fontsize=7.5, style="italic")
    axes.text(BLOCKS[0].x, LOWER - 0.35, "once per query point: T_decode(K)", fontsize=7.5, style="italic")


def _rectangle(box: Drawn, edge: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.08"
    return FancyBboxPatch((box.x, box.y), WIDTH, HEIGHT, boxstyle=shape, facecolor=box.colour, edgecolor=edge, lw=0.8)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": "black"})


def _neighbours(*row: Drawn) -> list[tuple[Drawn, Drawn]]:
    return list(pairwise(row))


if __name__ == "__main__":
    Path(__file__).with_name("method.svg").write_text(f"{draw(boxes)}\n", encoding="utf-8")
