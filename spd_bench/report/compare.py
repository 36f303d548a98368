"""The text of `spd-bench compare`: the table of one suite or several, with verdicts on its differences."""

from collections.abc import Sequence
from pathlib import Path

from spd_bench.errors import ConfigError
from spd_bench.report.collect import comparison
from spd_bench.report.sources import gather
from spd_bench.report.tables import compared_at, render
from spd_bench.report.verdicts import judge


def compared(
    sources: Sequence[str],
    runs: Path,
    *,
    format: str = "terminal",
    metric: str | None = None,
    ks: Sequence[int] = (),
    baseline: str | None = None,
    family: Sequence[str] = (),
) -> str:
    """The table of what `sources` name (`sources.gather`) with verdicts, in a format of `tables`.

    metric: one alone, at every K; by default the primary one of the first suite, and the others at one K. ks: only
    these. baseline: row that differences are taken from, the first suite's base by default. family: axes and patterns
    of names whose comparisons are judged together.

    Raises ConfigError for what cannot be compared: other tests, unknown names, no row to take differences from.
    """
    stored = gather(sources, runs)
    found = comparison(stored)
    chosen = found.metric(metric or found.primary[0]).name
    reference = found.row(baseline).name if baseline else stored.get("reference")
    if reference is None and len(sources) > 1:
        raise ConfigError(
            "it has no base, and no other row to take differences from was named",
            where=sources[0],
            hint="name a row with --baseline",
        )
    verdicts = judge(stored, metric=chosen, k=compared_at(found, ks), reference=reference, family=family)
    return render(found, format=format, metric=metric, ks=ks, baseline=reference, verdicts=verdicts)
