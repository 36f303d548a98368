"""Paired statistics of compositions: differences, intervals, verdicts and the A/A control.

`values` → `spread`, `resampling` → `paired` → `multiple`, `control`.
"""

from spd_bench.report.stats.control import AAControl, a_a_control
from spd_bench.report.stats.multiple import Finding, Verdict, family, holm
from spd_bench.report.stats.paired import VERDICT_SEEDS, PairedDifference, compare
from spd_bench.report.stats.resampling import Interval
from spd_bench.report.stats.values import Aggregation, Margin, Scores, as_averaged

__all__ = [
    "VERDICT_SEEDS",
    "AAControl",
    "Aggregation",
    "Finding",
    "Interval",
    "Margin",
    "PairedDifference",
    "Scores",
    "Verdict",
    "a_a_control",
    "as_averaged",
    "compare",
    "family",
    "holm",
]
