"""A sweep as figures: trials over each value that was swept, trials as lines across all of them, and the front."""

from collections.abc import Callable, Sequence
from typing import Any

from spd_bench.report.comparison import one_line
from spd_bench.report.figures import BLACK, COLOURS, GREY, draw
from spd_bench.sweep.tables import SweepSummary, TrialRow, shown

COLUMNS = 3
"""Panels side by side."""
PANEL_IN = (3.2, 2.6)
LOG_RATIO = 20.0
"""Swept numbers that span more than this factor get a logarithmic axis."""
BEST = {"color": BLACK, "marker": "D", "markersize": 7, "linestyle": "none", "zorder": 5}
EACH = {"color": COLOURS[0], "marker": "o", "markersize": 4, "linestyle": "none"}


def figures(summary: SweepSummary) -> list[tuple[str, str]]:
    """(SVG, caption) of each figure for which the sweep has enough complete trials."""
    trials = summary.ranked()
    if len(trials) < 2:
        return []
    objective = next(iter(summary.directions))
    drawn = [(slice_svg(summary), f"{objective} of every complete trial over each swept value; the best is a diamond")]
    if len(trials[0].values) > 1:
        caption = f"Every complete trial as a line across its values; black: the best by {objective}, light: the worst"
        drawn.append((parallel_svg(summary), caption))
    if len(summary.directions) > 1:
        drawn.append(
            (front_svg(summary), "The first two objectives; diamonds: trials that no other beats in everything")
        )
    return drawn


def slice_svg(summary: SweepSummary) -> str:
    """A panel for every swept value: the first objective against it."""
    return draw(lambda figure: _slices(figure, summary))


def parallel_svg(summary: SweepSummary) -> str:
    """Parallel coordinates: an axis for every swept value and one for the first objective."""
    return draw(lambda figure: _parallel(figure, summary))


def front_svg(summary: SweepSummary) -> str:
    """The first two objectives against each other."""
    return draw(lambda figure: _front(figure, summary))


def _slices(figure: Any, summary: SweepSummary) -> None:
    trials, objective = summary.ranked(), next(iter(summary.directions))
    paths = list(trials[0].values)
    columns = min(COLUMNS, len(paths))
    rows = -(-len(paths) // columns)
    figure.set_size_inches(PANEL_IN[0] * columns, PANEL_IN[1] * rows)
    best = {trial.number for trial in summary.best}
    for number, path in enumerate(paths):
        axes = figure.add_subplot(rows, columns, number + 1)
        place, ticks = _scale([trial.values[path] for trial in trials])
        for trial in trials:
            look = BEST if trial.number in best else EACH
            axes.plot([place(trial.values[path])], [trial.objectives[objective]], **look)
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
        axes.set_xlabel(one_line(path))
        axes.set_ylabel(one_line(objective))
    _say_stand_ins(figure, summary)


def _parallel(figure: Any, summary: SweepSummary) -> None:
    trials, objective = summary.ranked(), next(iter(summary.directions))
    paths = list(trials[0].values)
    columns: list[tuple[str, list[Any]]] = [(path, [trial.values[path] for trial in trials]) for path in paths]
    columns.append((objective, [trial.objectives[objective] for trial in trials]))
    figure.set_size_inches(max(5.0, 1.7 * len(columns)), 3.6)
    axes = figure.add_subplot()
    heights = []
    for number, (_, values) in enumerate(columns):
        place, ticks = _scale(values)
        low, high = ticks[0][0], ticks[-1][0]
        span = (high - low) or 1.0
        heights.append([(place(value) - low) / span for value in values])
        axes.axvline(number, color=GREY, linewidth=0.8)
        for at, text in ticks:
            ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            axes.text(number + 0.03, (at - low) / span, text, fontsize=7, va="center", bbox=ground, zorder=6)
    # the worst first, so that better ones lie above
    for rank in reversed(range(len(trials))):
        shade = rank / max(1, len(trials) - 1)
        look = {"color": BLACK, "linewidth": 2.2} if rank == 0 else {"color": COLOURS[0], "linewidth": 1.0}
        axes.plot(range(len(columns)), [column[rank] for column in heights], alpha=1 - 0.85 * shade, **look)
    axes.set_xticks(range(len(columns)), [one_line(name) for name, _ in columns])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_xlim(-0.2, len(columns) - 0.5)
    axes.spines["left"].set_visible(False)
    _say_stand_ins(figure, summary)


def _front(figure: Any, summary: SweepSummary) -> None:
    first, second = list(summary.directions)[:2]
    figure.set_size_inches(5.4, 4.0)
    axes = figure.add_subplot()
    best = {trial.number for trial in summary.best}

    def at(trial: TrialRow) -> tuple[float, float]:
        return trial.objectives[second], trial.objectives[first]

    for trial in summary.ranked():
        axes.plot(*([value] for value in at(trial)), **(BEST if trial.number in best else EACH))
    for trial in summary.best:
        axes.annotate(f" {trial.number}", at(trial), fontsize=7)
    axes.set_xlabel(one_line(second))
    axes.set_ylabel(one_line(first))
    _say_stand_ins(figure, summary)


def _scale(values: Sequence[Any]) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """A function from values to places on a linear axis, and (place, text) of its ticks in ascending order."""
    from math import log10

    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        low, high = min(values), max(values)
        ratio = low > 0 and high / low > LOG_RATIO
        middle = (low * high) ** 0.5 if ratio else (low + high) / 2

        def number(value: Any) -> float:
            return log10(value) if ratio else float(value)

        return number, [(number(tick), shown(float(tick))) for tick in sorted({low, middle, high})]
    names = sorted({shown(value) for value in values})

    def name(value: Any) -> float:
        return float(names.index(shown(value)))

    return name, [(float(i), one_line(text)) for i, text in enumerate(names)]


def _say_stand_ins(figure: Any, summary: SweepSummary) -> None:
    if summary.about["stand_ins"]:
        figure.supxlabel(one_line(f"STAND-INS: {'; '.join(summary.about['stand_ins'])}"), fontsize=7, color=COLOURS[1])
