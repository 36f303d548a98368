"""A sweep as one self-contained page: no script, no link, everything escaped; figures are embedded as images."""

import base64
import json
from importlib import resources

from spd_bench.sweep.figures import figures
from spd_bench.sweep.tables import SweepSummary, terminal


def sweep_page(summary: SweepSummary) -> str:
    """Stand-ins, caption, every complete trial, importances, figures and configuration."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((resources.files(__package__) / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        title=summary.study,
        stand_ins="; ".join(summary.about["stand_ins"]),
        text=terminal(summary, top=max(1, len(summary.trials))),
        figures=[{"source": _embedded(svg), "caption": caption} for svg, caption in figures(summary)],
        configuration=json.dumps({key: summary.about[key] for key in ("sweep", "suite")}, indent=1, ensure_ascii=False),
    )


def _embedded(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
