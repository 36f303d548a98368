"""Writes the record of a suite: the run folders that its table is made of."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from spd_bench.run.outcome import Outcome
from spd_bench.run.plan import Experiment
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED


def record_suite(
    root: Path,
    experiment: Experiment,
    outcomes: Sequence[Outcome],
    *,
    why: str,
    provenance: Mapping[str, str],
    tracked: Mapping[str, str | None],
) -> Path:
    """Writes which folders the suite's latest table is made of, and under which MLflow run it is tracked.

    A job that is still to be done is an outcome whose failure is UNFINISHED.
    """
    suite = experiment.suite
    rows = [
        {
            "composition": outcome.job.composition.name,
            "kind": outcome.job.composition.kind,
            "axis": outcome.job.composition.axis,
            "difference": outcome.job.composition.difference,
            "aliases": [list(alias) for alias in outcome.job.composition.aliases],
            "gt_aligned": experiment.is_gt_aligned(outcome.job.composition),
            "stand_ins": experiment.stand_ins(outcome.job.composition),
            "seed": outcome.job.seed,
            "folder": str(outcome.folder.relative_to(root)),
            "evaluation": f"eval-{outcome.job.eval_id[:10]}",
            "failure": outcome.failure,
        }
        for outcome in outcomes
    ]
    path = root / "suites" / f"{suite.suite}.json"
    records.write_record(
        path,
        {
            "suite": suite.dump(),
            "profile": suite.profile,
            "why_fallback": why,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "dataset": experiment.data.describe(),
            "protocol": experiment.judge.caption,
            "averaging": experiment.protocol.averaging,
            "judge": experiment.judge.id,
            "stand_ins": experiment.stand_ins(experiment.compositions[0]),
            "provenance": provenance,
            "tracked": tracked,
            "unfinished": sum(outcome.failure == UNFINISHED for outcome in outcomes),
            "rows": rows,
        },
    )
    return path
