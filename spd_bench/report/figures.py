"""A comparison as figures: SVG texts, the same bytes for the same input, readable without colour.

GT-aligned rows (R-27) are never drawn among the others. Colours are Okabe and Ito's; markers and dashes repeat what
they say. Names are drawn as they are: matplotlib's formula syntax is off.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from spd_bench.report.comparison import Comparison, MetricInfo, Row, one_line, stand_in_line, summary

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8A6D00", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")
BLACK = "#000000"
GREY = "#777777"
KIND = {
    "base": (BLACK, "D"),
    "ablation": (COLOURS[0], "o"),
    "baseline": (COLOURS[1], "s"),
    "external": (COLOURS[2], "^"),
}
"""Colour and marker of a row in `primary_svg`."""
BASE_LOOK = {"color": BLACK, "marker": "D", "linestyle": "-", "linewidth": 2.4, "zorder": 5}
MARKERS_PER_LINE = 12
LOG_RATIO = 3.0
"""Curves whose largest value exceeds this many times the smallest get a logarithmic axis."""

_STYLE = {
    "svg.hashsalt": "spd-bench",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def primary_svg(comparison: Comparison) -> str:
    """The primary metric of every composition: each seed a small point, the mean a marker, the base a line.

    The axis spans base and ablations; another row beyond it is an arrow with its value. Failed rows say so.
    """
    return draw(lambda figure: _primary(figure, comparison))


def by_k_svg(comparison: Comparison, metric: str | None = None) -> str:
    """A metric (the primary one by default) against K on a logarithmic axis, mean over seeds, one line per row.

    The axis of values spans base and ablations, as in `primary_svg`; the legend names what lies beyond it.
    """
    info = comparison.metric(metric or comparison.primary[0])
    return draw(lambda figure: _by_k(figure, comparison, info))


def curves_svg(curves: Mapping[str, Sequence[tuple[int, float]]], *, ylabel: str = "validation") -> str:
    """Validation curves: one line per name through its (step, value) points. Values that are not finite are gaps."""
    return draw(lambda figure: _curves(figure, curves, ylabel))


def draw(fill: Callable[[Any], None]) -> str:
    """Run `fill` on a new figure, away from the user's matplotlib settings, and return the SVG element."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        figure = Figure()
        fill(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=_NO_METADATA)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _axis_label(info: MetricInfo, at: str) -> str:
    unit = f" [{info.unit}]" if info.unit else ""
    return f"{info.name}{unit}{at}, {'lower' if info.lower_is_better else 'higher'} is better"


# Primary metric


def _primary(figure: Any, comparison: Comparison) -> None:
    name, k = comparison.primary
    rows = comparison.own
    figure.set_size_inches(8, 0.8 + 0.28 * max(len(rows), 3))
    axes = figure.add_subplot()
    axes.set_xlim(_span(rows, name, [k]))
    for y, row in enumerate(rows):
        _primary_row(axes, y, row, row.values.get((name, k), ()))
    if comparison.base is not None and (cell := summary(comparison.base, name, k)) and math.isfinite(cell.mean):
        axes.axvline(cell.mean, color=BLACK, linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(range(len(rows)), [one_line(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(_axis_label(comparison.metric(name), f" at K={k}"))
    _kind_legend(figure, rows)
    _stand_ins(figure, comparison)


def _stand_ins(figure: Any, comparison: Comparison) -> None:
    """Write the stand-ins into the figure itself: figures get cut out of their page."""
    if comparison.stand_ins:
        figure.supxlabel(textwrap.fill(stand_in_line(comparison), 120), fontsize=7, color=COLOURS[1])


def _span(rows: Sequence[Row], metric: str, ks: Sequence[int]) -> tuple[float, float]:
    """Limits of an axis: base and ablations decide, so that a far row does not squeeze them together."""

    def finite(some: Sequence[Row]) -> list[float]:
        return [v for row in some for k in ks for v in row.values.get((metric, k), ()) if math.isfinite(v)]

    values = finite([row for row in rows if row.kind in ("base", "ablation")]) or finite(rows) or [0.0, 1.0]
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _primary_row(axes: Any, y: int, row: Row, values: Sequence[float]) -> None:
    colour, marker = KIND[row.kind]
    finite = [value for value in values if math.isfinite(value)]
    low, high = axes.get_xlim()
    if not finite or len(finite) < len(values):
        said = "failed" if row.failure is not None else "not measured" if not values else "not a number"
        axes.text(low, y, f"  {said}", va="center", color=GREY, style="italic")
        return
    mean = sum(finite) / len(finite)
    if not low <= mean <= high:
        right = mean > high
        said = f"{mean:.4g} ▶" if right else f"◀ {mean:.4g}"
        axes.text(high if right else low, y, said, va="center", ha="right" if right else "left", color=colour)
        return
    if len(finite) > 1:
        jitter = [y + 0.14 * (2 * i / (len(finite) - 1) - 1) for i in range(len(finite))]
        axes.scatter(finite, jitter, s=14, facecolors="none", edgecolors=colour, linewidths=0.8, zorder=3)
    axes.scatter([mean], [y], s=34, color=colour, marker=marker, alpha=1 if row.failure is None else 0.35, zorder=4)


def _kind_legend(figure: Any, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, colour: str, marker: str, *, size: int, filled: bool) -> Any:
        face = colour if filled else "none"
        return Line2D(
            [], [], linestyle="none", label=label, color=colour, marker=marker, markersize=size, markerfacecolor=face
        )

    kinds = [kind for kind in KIND if any(row.kind == kind for row in rows)]
    entries = [entry(kind, *KIND[kind], size=6, filled=True) for kind in kinds]
    if any(len(row.seeds) > 1 for row in rows):
        entries.append(entry("one seed", GREY, "o", size=4, filled=False))
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))


# Lines


def _by_k(figure: Any, comparison: Comparison, info: MetricInfo) -> None:
    ks = sorted(comparison.ks)
    limits = _span(comparison.own, info.name, ks)
    axes = line_axes(figure, len(comparison.own))
    styles = looks(row.name for row in comparison.own if row.kind != "base")
    labels = []
    for row in comparison.own:
        cells = [summary(row, info.name, k) for k in ks]
        values = [cell.mean if cell else math.nan for cell in cells]
        beyond = all(not limits[0] <= value <= limits[1] for value in values if math.isfinite(value))
        remark = " (beyond the axis)" if beyond else ""
        _line(axes, list(zip(ks, values, strict=True)), styles.get(row.name, BASE_LOOK))
        labels.append(_label(row.name, values, remark))
    axes.set_ylim(limits)
    axes.set_xscale("log")
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.set_xlabel("query points per image, K")
    axes.set_ylabel(_axis_label(info, ""))
    name_lines(figure, axes, labels)
    _stand_ins(figure, comparison)


def _curves(figure: Any, curves: Mapping[str, Sequence[tuple[int, float]]], ylabel: str) -> None:
    axes = line_axes(figure, len(curves))
    styles = looks(curves)
    for name, points in curves.items():
        _line(axes, points, styles[name])
    finite = [value for points in curves.values() for _, value in points if math.isfinite(value)]
    if finite and min(finite) > 0 and max(finite) > LOG_RATIO * min(finite):
        _log_y(axes)
    axes.set_xlabel("step")
    axes.set_ylabel(one_line(ylabel))
    name_lines(figure, axes, [_label(name, [value for _, value in points]) for name, points in curves.items()])


def line_axes(figure: Any, lines: int) -> Any:
    """Axes of a figure high enough for a legend of that many lines beside them."""
    figure.set_size_inches(8, max(3.6, 0.6 + 0.19 * lines))
    return figure.add_subplot()


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash of each line: no two alike among the first 168."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": DASHES[i // len(COLOURS) % len(DASHES)],
        }
        for i, name in enumerate(names)
    }


def _line(axes: Any, points: Sequence[tuple[int, float]], look: Mapping[str, Any]) -> None:
    values = [value if math.isfinite(value) else math.nan for _, value in points]
    every = max(1, len(points) // MARKERS_PER_LINE)
    axes.plot([x for x, _ in points], values, markersize=4, markevery=every, **look)


def _label(name: str, values: Iterable[float], remark: str = "") -> str:
    return one_line(name) + (remark if any(map(math.isfinite, values)) else " (no value)")


def name_lines(figure: Any, axes: Any, labels: Sequence[str]) -> None:
    """A legend beside the axes. Matplotlib would leave out a line whose own label begins with an underscore."""
    legend = figure.legend(axes.lines, [str(i) for i in range(len(labels))], loc="outside right upper", fontsize=8)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)


def _log_y(axes: Any) -> None:
    """Logarithmic values with plain numbers at 1, 2, 3, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
