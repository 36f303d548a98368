"""A comparison as one self-contained page: no link, no network reference, one script that sorts tables.

Names, formulas and exception texts are untrusted here: everything is escaped, and a content security policy
allows that script by its hash and nothing else. Figures are embedded as images, in which scripts never run.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from spd_bench.report.comparison import Comparison, definitions, headline, notes
from spd_bench.report.figures import by_k_svg, curves_svg, primary_svg
from spd_bench.report.sortable import script, script_hash, sortable
from spd_bench.report.tables import html_tables
from spd_bench.report.verdict_tables import html_block

if TYPE_CHECKING:
    from spd_bench.pictures.album import Album
    from spd_bench.report.verdicts import Verdicts


def html_report(
    comparison: Comparison,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    configuration: str,
    verdicts: "Verdicts | None" = None,
    watched: Sequence[Mapping[str, str]] = (),
    album: "Album | None" = None,
) -> str:
    """The page: stand-ins, caption, tables, figures, every metric at every K, provenance, resolved configuration.

    curves: validation curves as name → [(step, value)]; may be empty. watched: what blocks report at the end of
    training, a row per run (`collect.watched`). album: pictures of test images. The same input gives the same text.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files(__package__) / "report.html.j2").read_text(encoding="utf-8"))
    code = script()
    return template.render(
        comparison=comparison,
        headline=headline(comparison),
        notes=notes(comparison),
        script=Markup(code),  # noqa: S704  a file of this package
        script_hash=script_hash(code),
        main_tables=Markup(sortable(html_tables(comparison))),  # noqa: S704  html_tables escapes every cell
        verdicts=Markup(sortable(html_block(verdicts))) if verdicts else "",  # noqa: S704  html_block escapes every cell
        watched=watched,
        album=album,
        figures=_figures(comparison, curves),
        metrics=[
            {
                "name": info.name,
                "definition": definitions([info])[0],
                "tables": Markup(sortable(html_tables(comparison, metric=info.name))),  # noqa: S704
            }
            for info in comparison.metrics
        ],
        configuration=configuration,
    )


def _figures(comparison: Comparison, curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict[str, str]]:
    metric, k = comparison.primary
    drawn = []
    if comparison.own:
        drawn = [
            (primary_svg(comparison), f"{metric} at K={k}: each seed, the mean over seeds, and the base as a line"),
            (by_k_svg(comparison), f"{metric} against the number of query points per image, mean over seeds"),
        ]
    if curves:
        drawn.append((curves_svg(curves, ylabel=f"validation {metric}"), "Validation during training"))
    return [{"source": _data_uri(svg), "caption": caption} for svg, caption in drawn]


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
