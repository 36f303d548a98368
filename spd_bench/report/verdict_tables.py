"""`Verdicts` as text: one row per compared composition, what the columns mean, and the A/A control as a banner."""

import html
import json
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spd_bench.report.comparison import markdown_escape, one_line

if TYPE_CHECKING:
    from spd_bench.report.stats import Finding, Interval, PairedDifference
    from spd_bench.report.verdicts import Verdicts

HEADERS = (
    "composition",
    "verdict",
    "Δ",
    "95 % interval",
    "Δ %",
    "p (Holm)",
    "p (Wilcoxon)",
    "better on",
    "dz",
    "found from",
    "note",
)
NONE = "–"
WIDTH = 160
"""Columns of a terminal that remarks keep to."""
_STYLES = {"terminal": "simple", "markdown": "pipe"}


def banner(verdicts: "Verdicts") -> str:
    """A line in capitals where the reference differs from itself; "" where it does not, or was not tried."""
    if verdicts.control.passed is False:
        return one_line(f"A/A CONTROL FAILED, do not trust the verdicts: {verdicts.control.reason}")
    return ""


def heading(verdicts: "Verdicts") -> str:
    """What is compared with what."""
    return f"Paired differences from {verdicts.reference}: {verdicts.metric} at K={verdicts.k}"


def rows(verdicts: "Verdicts") -> list[tuple[str, ...]]:
    """One row per composition, the declared family first."""
    judged = [_row(name, found.difference, found, verdicts) for name, found in verdicts.findings.items()]
    return judged + [_row(name, found, None, verdicts) for name, found in verdicts.others.items()]


def _filled(verdicts: "Verdicts") -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows without the columns that say nothing in any row."""
    found = rows(verdicts)
    kept = [i for i in range(len(HEADERS)) if any(row[i] not in ("", NONE) for row in found)]
    return tuple(HEADERS[i] for i in kept), [tuple(row[i] for i in kept) for row in found]


def remarks(verdicts: "Verdicts") -> Iterator[str]:
    """What must stand below the table."""
    first = next(iter([*(f.difference for f in verdicts.findings.values()), *verdicts.others.values()]), None)
    if first is not None:
        yield (
            f"Unit: image; {first.images} images of {first.scenes} scenes, {first.seeds} seed(s), paired by image and "
            "seed; interval: hierarchical bootstrap over seeds and scenes; p: the larger of a two-way clustered t-test "
            "and a sign-flip test on scenes; p (Wilcoxon): signed ranks of scene means, unadjusted, to see whether few "
            "scenes carry the result."
        )
    count = "1 comparison" if verdicts.declared == 1 else f"{verdicts.declared} comparisons"
    yield (
        f"Family, {verdicts.origin}: {', '.join(verdicts.family)} ({count}, Holm); equivalence "
        f"margin: {verdicts.margin}. Rows outside the family get no verdict and an unadjusted p."
    )
    yield (
        "better on: share of images; dz: mean over standard deviation of scene means; found from: true difference that "
        "a comparison as noisy as this one finds with a chance of about 80 %."
    )
    control = verdicts.control
    state = "not run" if control.passed is None else "passed" if control.passed else "FAILED"
    yield f"A/A control {state}: {control.reason.removeprefix('not run: ')}."


def with_verdicts(text: str, verdicts: "Verdicts", form: str) -> str:
    """A comparison rendered in a format of `tables`, with the verdicts behind it; in HTML before it.

    CSV stays as it is, one row per composition; LaTeX gets them as comments. `tables` puts the banner on the table.
    """
    if form == "json":
        return json.dumps(json.loads(text) | {"verdicts": plain(verdicts)}, indent=2, ensure_ascii=False) + "\n"
    if form in ("terminal", "markdown"):
        return "\n\n".join([text.rstrip("\n"), block(verdicts, form)]) + "\n"
    if form == "html":
        return f"{html_block(verdicts)}\n{text}"
    if form == "latex":
        lines = [heading(verdicts), *(" | ".join(row) for row in rows(verdicts)), *remarks(verdicts)]
        return "".join(f"% {line}\n" for line in lines) + text
    return text


def block(verdicts: "Verdicts", form: str) -> str:
    """Heading, table and remarks as text."""
    from tabulate import tabulate

    escape = markdown_escape if form == "markdown" else str
    headers, filled = _filled(verdicts)
    cells = [[escape(cell) for cell in row] for row in filled]
    body = tabulate(cells, headers=headers, tablefmt=_STYLES[form], disable_numparse=True)
    mark = "### " if form == "markdown" else ""
    bullet = "- " if form == "markdown" else ""
    wrap = textwrap.TextWrapper(
        WIDTH if form == "terminal" else 10**6, subsequent_indent="    ", break_on_hyphens=False
    )
    said = "\n".join(wrap.fill(bullet + escape(line)) for line in remarks(verdicts))
    return "\n\n".join([f"{mark}{escape(heading(verdicts))}", str(body), said])


def html_block(verdicts: "Verdicts") -> str:
    """The same as a fragment of HTML, everything escaped."""

    def line(tag: str, cells: Iterable[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    headers, cells = _filled(verdicts)
    rows = "\n".join(line("td", row) for row in cells)
    table = f"<thead>\n{line('th', headers)}\n</thead>\n<tbody>\n{rows}\n</tbody>"
    alarm = f'<p class="failed" role="alert">{html.escape(banner(verdicts))}</p>\n' if banner(verdicts) else ""
    said = "\n".join(f"<li>{html.escape(text)}</li>" for text in remarks(verdicts))
    body = f'<div class="table"><table>\n{table}\n</table></div>'
    return f"{alarm}<h4>{html.escape(heading(verdicts))}</h4>\n{body}\n<ul>\n{said}\n</ul>"


def plain(verdicts: "Verdicts") -> dict[str, Any]:
    """Everything in full precision, for JSON."""
    return {
        "reference": verdicts.reference,
        "metric": verdicts.metric,
        "k": verdicts.k,
        "family": list(verdicts.family),
        "origin": verdicts.origin,
        "declared": verdicts.declared,
        "margin": verdicts.margin,
        "control": asdict(verdicts.control),
        "findings": {
            name: asdict(found.difference)
            | {"p": found.difference.p, "p_holm": found.p_adjusted, "verdict": found.verdict, "note": found.note}
            for name, found in verdicts.findings.items()
        },
        "pairing": dict(verdicts.pairing),
        "others": {name: asdict(found) | {"p": found.p} for name, found in verdicts.others.items()},
    }


def _row(name: str, difference: "PairedDifference", finding: "Finding | None", verdicts: "Verdicts") -> tuple[str, ...]:
    digits = 3 if verdicts.unit == "m" else 4
    p = finding.p_adjusted if finding else difference.p
    notes = [finding.note if finding else "outside the family", verdicts.pairing.get(name, "")]
    return (
        one_line(name),
        finding.verdict if finding else NONE,
        f"{difference.mean:+.{digits}f}",
        _interval(difference.interval, digits),
        f"{100 * difference.mean / abs(difference.base):+.1f}" if difference.base else NONE,
        _p(p),
        # without a spread over seeds and scenes no p says anything
        NONE if p is None else _p(difference.p_wilcoxon),
        f"{difference.improved:.0%}",
        NONE if difference.dz is None else f"{difference.dz:+.2f}",
        NONE if difference.detectable is None else f"{difference.detectable:.{digits}f}",
        "; ".join(one_line(note) for note in notes if note),
    )


def _p(p: float | None) -> str:
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _interval(interval: "Interval | None", digits: int) -> str:
    return NONE if interval is None else f"{interval.low:+.{digits}f} … {interval.high:+.{digits}f}"
