"""A comparison as a table: terminal, Markdown, LaTeX, CSV, JSON or an HTML fragment.

Every format carries the caption, keeps GT-aligned rows (R-27) in a section of their own and shows failed rows as
failed. The formats for people show rounded means ± standard deviation over seeds; CSV and JSON hold full precision.
"""

import csv
import html
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from spd_bench.errors import ConfigError, did_you_mean
from spd_bench.report.comparison import (
    Comparison,
    MetricInfo,
    Row,
    comparable,
    definitions,
    difference,
    headline,
    markdown_escape,
    notes,
    one_line,
    ranked,
    summary,
)
from spd_bench.report.verdict_tables import banner, with_verdicts

if TYPE_CHECKING:
    from spd_bench.report.verdicts import Verdicts

WIDTH = 160
"""Columns of a terminal that tables and captions keep to: accuracy at four K and cost stand side by side."""
GAP = 2
NAME_WIDTH = 40
DIFFERENCE_WIDTH = 16
"""The difference is never shortened below this."""
TITLE_PADDING = 2
"""What tabulate adds to a title when it sets a column's least width."""

ALIGNED_HEADING = "Ground-truth-aligned: fitted to the scored image's own ground truth, not comparable with other rows"
LEGEND = "best mean among rows that are neither failed nor GT-aligned"
TIMES = (
    "Times of one image as the runs took them, without the encoder: T_prepare, median over the evaluation; T_decode(K) "
    "in one call for K points, median over images spread over the evaluation; train in all. They hold for their "
    "machine and its load: compare speed with spd-bench profile"
)
WORK = (
    "GMACs: 10⁹ multiply-adds (a FLOP count is twice that) of prepare and decode(K) for one image; peak: tensors that "
    "these hold at most, beside the model and its features"
)
NONE = "–"


@dataclass(frozen=True)
class _View:
    """What a table shows: measured (metric, K) cells, the reference of the difference, and whether costs are shown.

    alarm: what stands first on every table because the numbers below are not to be trusted.
    """

    comparison: Comparison
    cells: tuple[tuple[MetricInfo, int], ...]
    delta: tuple[MetricInfo, int]
    reference: Row | None
    costs: bool
    alarm: str = ""

    @property
    def headline(self) -> list[str]:
        """The alarm, if there is one, and the comparison's headline."""
        return [self.alarm] * bool(self.alarm) + headline(self.comparison)


@dataclass(frozen=True)
class _Column:
    """One column as plain text: a title of up to two lines and a cell per row.

    text: aligned to the left. leads: belongs beside the composition's name. best: cells that hold the best value.
    """

    title: tuple[str, ...]
    cells: list[str]
    text: bool = False
    leads: bool = False
    best: frozenset[int] = frozenset()


def render(
    comparison: Comparison,
    *,
    format: str,
    metric: str | None = None,
    ks: Sequence[int] | None = None,
    baseline: str | None = None,
    verdicts: "Verdicts | None" = None,
) -> str:
    """The comparison in one of FORMATS, with what `verdicts` say of the differences.

    By default: the primary metric at every K (or those in `ks`), its relative difference from the base at the
    primary K (or the first of `ks`), trainable parameters, times, arithmetic and memory, the other metrics at that K.
    With `metric`: that one alone.
    `baseline` names another row to take differences from. Raises ConfigError for a name, K or format it does not know.
    """
    if format not in _WRITERS:
        raise ConfigError(f'unknown table format "{format}"', hint=did_you_mean(format, FORMATS))
    view = _view(comparison, metric, ks, baseline)
    if verdicts is None:
        return _WRITERS[format](view)
    return with_verdicts(_WRITERS[format](replace(view, alarm=banner(verdicts))), verdicts, format)


def html_tables(comparison: Comparison, *, metric: str | None = None) -> str:
    """The tables of `render(format="html")` without caption and notes, for a page that has them already."""
    return "\n".join(_html_sections(_view(comparison, metric, None, None)))


def compared_at(comparison: Comparison, ks: Sequence[int] | None) -> int:
    """The K of the difference: the primary one, or the first of `ks` if it is not among them.

    Raises ConfigError for a K at which nothing was scored.
    """
    for k in ks or ():
        if k not in comparison.ks:
            known = ", ".join(map(str, comparison.ks))
            raise ConfigError(f"nothing was scored at K={k}", where=comparison.suite, hint=f"known K: {known}")
    primary_k = comparison.primary[1]
    return ks[0] if ks and primary_k not in ks else primary_k


def _view(comparison: Comparison, metric: str | None, ks: Sequence[int] | None, baseline: str | None) -> _View:
    main, _ = comparison.primary
    chosen = comparison.metric(metric or main)
    at = compared_at(comparison, ks)
    cells = [(chosen, k) for k in dict.fromkeys(ks or comparison.ks)]
    if metric is None:
        cells += [(info, at) for info in comparison.metrics if info != chosen]
    reference = comparison.base if baseline is None else comparison.row(baseline)
    if reference is not None and reference.gt_aligned:
        raise ConfigError(
            f'"{reference.name}" is GT-aligned: differences from it mean nothing',
            where=comparison.suite,
            hint="choose a row that is not",
        )
    return _View(comparison, tuple(cells), (chosen, at), reference, costs=metric is None)


# Cells for people


def _columns(view: _View, rows: Sequence[Row]) -> list[_Column]:
    """The columns of one section, most important first."""
    several = any(len(row.seeds) > 1 for row in view.comparison.rows)
    first, k = view.delta
    main = [_measured(view, rows, info, at) for info, at in view.cells if info == first]
    others = [_measured(view, rows, info, at) for info, at in view.cells if info != first]
    columns = [
        _Column(("composition",), [_name(row) for row in rows], text=True),
        _Column(("difference",), [one_line(row.difference) or NONE for row in rows], text=True),
    ]
    columns += [_Column(("n",), [_seeds(row) for row in rows], leads=True)] if several else []
    columns += main
    if view.reference is not None and not rows[0].gt_aligned:
        title = (f"Δ {first.name}", f"K={k}")
        columns.append(_Column(title, [_percent(row, view.reference, first, k) for row in rows], leads=True))
    if not view.costs:
        return columns + others
    times = [_timed(rows, key, leads=key not in _minor(view.comparison)) for key in _timings(view.comparison)]
    leading = [_parameters(rows), *(column for column in times if column.leads), *_work(view, rows)]
    return [*columns, *leading, *others, *(column for column in times if not column.leads)]


def _parameters(rows: Sequence[Row]) -> _Column:
    counts = [NONE if row.trainable_parameters is None else f"{row.trainable_parameters:,}" for row in rows]
    return _Column(("trainable", "parameters"), counts, leads=True)


def _work(view: _View, rows: Sequence[Row]) -> Iterator[_Column]:
    """Arithmetic at the primary K and peak memory, where a row of the comparison has them."""
    every, k = view.comparison.rows, view.delta[1]
    if any(k in row.macs for row in every):
        yield _Column(("decoder", f"GMACs K={k}"), [_figure(row.macs.get(k), 1e9) for row in rows], leads=True)
    for largest in sorted({k for row in every for k in row.peak_bytes}):
        cells = [_figure(row.peak_bytes.get(largest), 1e6) for row in rows]
        yield _Column(("peak MB", f"K={largest}"), cells, leads=True)


def _figure(value: float | None, unit: float = 1.0) -> str:
    """A measured value with three digits."""
    if value is None:
        return NONE
    return f"{value / unit:.0f}" if value / unit >= 100 else f"{value / unit:.3g}"


def _seeds(row: Row) -> str:
    return NONE if row.kind == "external" else str(len(row.seeds))


def _name(row: Row) -> str:
    """The name, with a mark where some seeds failed and the numbers are those of the others."""
    return one_line(row.name) + (" (incomplete)" if row.failure is not None and row.seeds else "")


def _measured(view: _View, rows: Sequence[Row], info: MetricInfo, k: int) -> _Column:
    """One metric at one K; the best of the comparison's own rows is marked, ties as they are printed."""
    leader = ranked(view.comparison.own, info, k)[:1]
    top = [_rounded(row, info, k) for row in leader if comparable(row, info.name, k)]
    best = [
        i
        for i, row in enumerate(rows)
        if not row.gt_aligned and comparable(row, info.name, k) and _rounded(row, info, k) in top
    ]
    cells = [_number(row, info, k) for row in rows]
    return _Column((info.name, f"K={k}"), cells, leads=info == view.delta[0], best=frozenset(best))


def _rounded(row: Row, info: MetricInfo, k: int) -> str:
    cell = summary(row, info.name, k)
    return f"{cell.mean:.{decimals(info)}f}" if cell else NONE


def _number(row: Row, info: MetricInfo, k: int) -> str:
    """Mean ± standard deviation over seeds, "failed", "nan", or a dash where nothing was measured."""
    cell = summary(row, info.name, k)
    if cell is None:
        return NONE if row.failure is None else "failed"
    mean = _rounded(row, info, k)
    return mean if math.isnan(cell.std) else f"{mean} ± {cell.std:.{decimals(info)}f}"


def decimals(info: MetricInfo) -> int:
    """Digits after the point: millimetres for what is in metres, 4 for fractions."""
    return 3 if info.unit == "m" else 4


def _percent(row: Row, reference: Row, info: MetricInfo, k: int) -> str:
    if row is reference:
        return row.kind if row.kind == "base" else "reference"
    found = difference(row, reference, info.name, k)
    if found is None or not math.isfinite(found.percent):
        return NONE
    return f"{round(found.percent, 1) + 0.0:+.1f} %"  # + 0.0 turns -0.0 into 0.0


def _timings(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(key for row in comparison.rows for key in row.seconds))


def _minor(comparison: Comparison) -> set[str]:
    """Times that are not shown beside the primary metric: training, and decoding at another K."""
    return {"train"} | {f"T_decode({k})_ms" for k in comparison.ks if k != comparison.primary[1]}


def _timed(rows: Sequence[Row], key: str, *, leads: bool) -> _Column:
    unit = "ms" if key.endswith("_ms") else "s"
    cells = [_figure(row.seconds.get(key)) for row in rows]
    return _Column((one_line(key.removesuffix("_ms")), unit), cells, leads=leads)


def _sections(view: _View) -> Iterator[tuple[str, list[_Column]]]:
    """Heading and columns of the comparison's own rows, then of the GT-aligned ones, where there are any."""
    if view.comparison.own:
        yield "", _columns(view, view.comparison.own)
    if view.comparison.aligned:
        yield ALIGNED_HEADING, _columns(view, view.comparison.aligned)


def _has_best(view: _View) -> bool:
    return any(column.best for _, columns in _sections(view) for column in columns)


def _tabulate(
    columns: Sequence[_Column],
    tablefmt: str,
    *,
    escape: Callable[[str], str] = str,
    mark: Callable[[str], str],
    newline: str = " ",
) -> str:
    from tabulate import tabulate

    cells = [[mark(escape(c)) if i in col.best else escape(c) for i, c in enumerate(col.cells)] for col in columns]
    text: str = tabulate(
        list(zip(*cells, strict=True)),
        headers=[newline.join(escape(line) for line in column.title) for column in columns],
        tablefmt=tablefmt,
        disable_numparse=True,
        colalign=["left" if column.text else "right" for column in columns],
    )
    return text


# Terminal


def _terminal(view: _View) -> str:
    wrap = textwrap.TextWrapper(WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    parts = ["\n".join(wrap.fill(line) for line in view.headline)]
    for heading, columns in _sections(view):
        tight = [replace(column, cells=[cell.replace(" ± ", "±") for cell in column.cells]) for column in columns]
        blocks = [_tabulate(block, "simple", mark=lambda c: f"*{c}", newline="\n") for block in _fold(_fit(tight))]
        parts += [heading, *blocks] if heading else blocks
    remarks = ([f"* {LEGEND}"] if _has_best(view) else []) + _remarks(view)
    return "\n\n".join([*parts, "\n".join(wrap.fill(line) for line in remarks)]) + "\n"


def _remarks(view: _View) -> list[str]:
    """The remarks below the tables: on single rows, on times, and the definitions of the metrics shown."""
    timed = [TIMES] if view.costs and _timings(view.comparison) else []
    counted = [WORK] if view.costs and any(row.macs for row in view.comparison.rows) else []
    return notes(view.comparison) + timed + counted + definitions(dict.fromkeys(info for info, _ in view.cells))


def _width(column: _Column) -> int:
    """Width of a column as tabulate prints it."""
    cells = max(len(cell) + (i in column.best) for i, cell in enumerate(column.cells))
    return max(cells, TITLE_PADDING + max(map(len, column.title)))


def _shortened(column: _Column, width: int) -> _Column:
    return replace(column, cells=[cell if len(cell) <= width else cell[: width - 1] + "…" for cell in column.cells])


def _fit(columns: Sequence[_Column]) -> list[_Column]:
    """Shorten names, then differences, so that the leading columns stand beside them if they can."""
    name = _shortened(columns[0], NAME_WIDTH)
    room = WIDTH - _width(name) - GAP - sum(GAP + _width(column) for column in columns if column.leads)
    return [name, _shortened(columns[1], max(room, DIFFERENCE_WIDTH)), *columns[2:]]


def _fold(columns: Sequence[_Column]) -> list[list[_Column]]:
    """Break columns into blocks no wider than a terminal; each begins with the composition's name."""
    blocks = [[columns[0]]]
    for column in columns[1:]:
        if sum(GAP + _width(c) for c in (*blocks[-1], column)) - GAP > WIDTH:
            blocks.append([columns[0]])
        blocks[-1].append(column)
    return blocks


# Markdown


def _markdown(view: _View) -> str:
    first, *rest = (markdown_escape(line) for line in view.headline)
    parts = [f"**{first}**", "\n".join(f"- {line}" for line in rest)]
    for heading, columns in _sections(view):
        parts += [f"### {markdown_escape(heading)}"] if heading else []
        parts.append(_tabulate(columns, "pipe", escape=markdown_escape, mark=lambda cell: f"**{cell}**"))
    remarks = [f"**Bold**: {LEGEND}"] if _has_best(view) else []
    remarks += [markdown_escape(line) for line in _remarks(view)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in remarks)]) + "\n"


# LaTeX

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
    "→": r"$\rightarrow$",
    "×": r"$\times$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
}


def _latex(view: _View) -> str:
    """One `table` float per section (packages: booktabs, graphicx). The stand-ins are part of the typeset caption."""
    comments = [f"% {line}" for line in view.headline + _remarks(view)]
    floats = [_latex_float(view, heading, columns) for heading, columns in _sections(view)]
    return "\n".join([*comments, *floats]) + "\n"


def _latex_float(view: _View, heading: str, columns: Sequence[_Column]) -> str:
    table = _tabulate(columns, "latex_raw", escape=_latex_escape, mark=lambda cell: f"\\textbf{{{cell}}}")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        table = table.replace(r"\hline", rule, 1)
    best = [f"Bold: {LEGEND}."] if any(column.best for column in columns) else []
    said = [f"{heading}."] if heading else []
    typeset = " ".join(_latex_escape(line) for line in [*said, *view.headline, *best])
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{typeset}}}",
            r"\resizebox{\linewidth}{!}{%",
            table,
            "}",
            r"\end{table}",
        ]
    )


def _latex_escape(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


# HTML


def _html(view: _View) -> str:
    first, *rest = view.headline
    loud = f"<p><strong>{html.escape(first)}</strong></p>"
    return "\n".join([loud, _html_list(rest), *_html_sections(view), _html_list(_remarks(view))]) + "\n"


def _html_list(lines: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{html.escape(line)}</li>\n" for line in lines) + "</ul>"


def _html_sections(view: _View) -> list[str]:
    parts = []
    for heading, columns in _sections(view):
        parts += [f"<h4>{html.escape(heading)}</h4>"] if heading else []
        table = _tabulate(
            columns, "unsafehtml", escape=html.escape, mark=lambda c: f"<strong>{c}</strong>", newline="<br>"
        )
        parts.append(f'<div class="table">{table}</div>')
    return [*parts, f"<p><strong>Bold</strong>: {LEGEND}</p>"] if _has_best(view) else parts


# CSV


def _csv(view: _View) -> str:
    """Comment lines, one header, one line per composition; GT-aligned ones last, below a comment."""
    out = io.StringIO()
    out.writelines(f"# {_csv_comment(line)}\n" for line in view.headline + _remarks(view))
    records = {row.name: _record(view, row) for row in view.comparison.rows}
    table = csv.DictWriter(out, list(next(iter(records.values()))), lineterminator="\n")
    table.writeheader()
    table.writerows(records[row.name] for row in view.comparison.own)
    if view.comparison.aligned:
        out.write(f"# {ALIGNED_HEADING}\n")
        table.writerows(records[row.name] for row in view.comparison.aligned)
    return out.getvalue()


def _record(view: _View, row: Row) -> dict[str, str]:
    """One line: text cannot act as a formula, numbers are exact, "nan" is NaN, an empty cell was not measured."""
    text = {"composition": row.name, "kind": row.kind, "axis": row.axis, "difference": row.difference}
    record = {key: _csv_text(value) for key, value in text.items()}
    record |= {"gt_aligned": str(row.gt_aligned).lower(), "seeds": str(len(row.seeds))}
    for info, k in view.cells:
        cell = summary(row, info.name, k)
        record |= {f"{info.name}@{k} mean": repr(cell.mean) if cell else ""}
        record |= {f"{info.name}@{k} std": repr(cell.std) if cell and cell.n > 1 else ""}
    info, k = view.delta
    percent = _plain_percent(view, row)
    record |= {f"{info.name}@{k} difference percent": "" if percent is None else repr(percent)}
    record |= {"trainable_parameters": "" if row.trainable_parameters is None else str(row.trainable_parameters)}
    record |= {_unit(key): repr(row.seconds[key]) if key in row.seconds else "" for key in _timings(view.comparison)}
    for name, of in (("decoder_macs", "macs"), ("peak_bytes", "peak_bytes")):
        ks = dict.fromkeys(k for other in view.comparison.rows for k in getattr(other, of))
        record |= {f"{name}@{k}": repr(getattr(row, of)[k]) if k in getattr(row, of) else "" for k in ks}
    record |= {"stand_ins": _csv_text("; ".join(row.stand_ins)), "failure": _csv_text(row.failure or "")}
    return record | {"aliases": _csv_text("; ".join(row.aliases))}


def _unit(key: str) -> str:
    return one_line(key) if key.endswith("_ms") else f"{one_line(key)}_s"


def _csv_text(text: str) -> str:
    """The cell, escaped if it begins with = + - or @: a spreadsheet would take it for a formula."""
    line = one_line(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


def _csv_comment(line: str) -> str:
    """The comment, escaped likewise: a spreadsheet cuts it into cells at commas, semicolons and tabs."""
    return re.sub(r"([,;\t]\s*\"?)(?=[=+@-])", r"\1'", line)


def _plain_percent(view: _View, row: Row) -> float | None:
    """Difference from the reference in per cent; None for GT-aligned rows and where it cannot be computed."""
    if view.reference is None or row.gt_aligned:
        return None
    found = difference(row, view.reference, view.delta[0].name, view.delta[1])
    return found.percent if found is not None and math.isfinite(found.percent) else None


# JSON


def _json(view: _View) -> str:
    """Everything the other formats say, unrounded, with the value of every seed; NaN is null."""
    c = view.comparison
    order = [row.name for row in ranked(c.own, *view.delta) if comparable(row, view.delta[0].name, view.delta[1])]
    document: dict[str, Any] = {
        "suite": c.suite,
        "profile": c.profile,
        "dataset": c.dataset,
        "protocol": c.protocol,
        "images": c.images,
        "stand_ins": list(c.stand_ins),
        "caption": [*view.headline, *definitions(c.metrics)],
        "notes": notes(c),
        "metrics": [asdict(info) for info in dict.fromkeys(info for info, _ in view.cells)],
        "compared_at": {"metric": view.delta[0].name, "k": view.delta[1]},
        "reference": view.reference.name if view.reference else None,
        "rows": [_json_row(view, row) | {"rank": _rank(order, row)} for row in c.own],
        "gt_aligned_rows": [_json_row(view, row) for row in c.aligned],
        "provenance": dict(c.provenance),
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rank(order: Sequence[str], row: Row) -> int | None:
    return order.index(row.name) + 1 if row.name in order else None


def _json_row(view: _View, row: Row) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {}
    for info, k in view.cells:
        cell = summary(row, info.name, k)
        if cell is not None:
            per_seed = [_finite(value) for value in row.values[(info.name, k)]]
            statistics = {"mean": _finite(cell.mean), "std": _finite(cell.std), "per_seed": per_seed}
            values.setdefault(info.name, {})[str(k)] = statistics
    return {
        "composition": row.name,
        "kind": row.kind,
        "axis": row.axis,
        "difference": row.difference,
        "trainable_parameters": row.trainable_parameters,
        "seeds": list(row.seeds),
        "values": values,
        "difference_percent": _plain_percent(view, row),
        "times": {_unit(key): _finite(value) for key, value in row.seconds.items()},
        "decoder_macs": {str(k): value for k, value in row.macs.items()},
        "peak_bytes": {str(k): value for k, value in row.peak_bytes.items()},
        "stand_ins": list(row.stand_ins),
        "failure": row.failure,
        "aliases": list(row.aliases),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


_WRITERS: Mapping[str, Callable[[_View], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
FORMATS: tuple[str, ...] = tuple(_WRITERS)
"""What `render` can write."""
