"""The numbers of external predictions as text."""

from typing import Any

from spd_bench.external.at_points import PointScores
from spd_bench.external.result import Scored
from spd_bench.report.collect import metric_info
from spd_bench.report.comparison import definitions, one_line
from spd_bench.report.tables import decimals


def table(scored: Scored | PointScores) -> str:
    """The numbers as text: caption, metric × K with all valid pixels beside them, and the metrics' definitions."""
    from tabulate import tabulate

    if isinstance(scored, PointScores):
        return _at_points(scored)
    judge = scored.judge
    infos = [metric_info(metric, judge.protocol.averaging) for metric in judge.metrics]
    ks = list(judge.suite.eval.k)
    everywhere = scored.all_pixels or {}
    rows = [
        [
            info.name,
            *(_shown(scored.values.get((info.name, k)), info) for k in ks),
            _shown(everywhere.get(info.name), info),
        ]
        for info in infos
    ]
    headers = ["metric", *(f"K={k}" for k in ks), "all pixels"]
    lines = [f"STAND-IN: {judge.data.stand_in}"] if judge.data.stand_in else []
    lines += ["GT-ALIGNED: fitted to the scored images' own ground truth, not comparable"] if scored.gt_aligned else []
    lines += [f"AS IS, though {doubt}" for doubt in scored.doubts]
    lines += [scored.difference, f"Data: {judge.data.describe()}", f"Protocol: {judge.caption}"]
    lines += [f"Images scored: {scored.images}"]
    numbers = tabulate(
        rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=("left", *["right"] * (len(ks) + 1))
    )
    record = f"record: {scored.folder} (delete it to take the row out of comparisons)"
    explained = ["", *scored.explanation.lines()] if scored.explanation else []
    return "\n".join([*map(one_line, lines), "", numbers, "", *definitions(infos), record, *explained])


def _at_points(scored: PointScores) -> str:
    """The numbers over the points of a file."""
    from tabulate import tabulate

    judge = scored.judge
    infos = [metric_info(metric, judge.protocol.averaging) for metric in judge.metrics if metric.name in scored.values]
    rows = [[info.name, _shown(scored.values[info.name], info)] for info in infos]
    lines = [f"STAND-IN: {judge.data.stand_in}"] if judge.data.stand_in else []
    lines += ["GT-ALIGNED: fitted to the scored images' own ground truth, not comparable"] if scored.gt_aligned else []
    lines += [
        f"{scored.name}: {scored.what}",
        f"Data: {judge.data.describe()}",
        f"Protocol: {judge.protocol.caption()}",
    ]
    lines += [f"Images scored: {scored.images}, points: {scored.points}; not kept: no row of a suite has these points"]
    numbers = tabulate(rows, headers=["metric", "points of the file"], tablefmt="simple", disable_numparse=True)
    return "\n".join([*map(one_line, lines), "", numbers, "", *definitions(infos)])


def _shown(value: float | None, info: Any) -> str:
    return "–" if value is None else f"{value:.{decimals(info)}f}"
