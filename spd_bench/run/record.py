"""suites/<suite>.json: the run folders that a suite's table is made of."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from spd_bench.run.outcome import Outcome
from spd_bench.run.planning.plan import Experiment
from spd_bench.run.runner import Runner
from spd_bench.store import records
from spd_bench.store.records import UNFINISHED
from spd_bench.store.run_root import SUITES, SuiteRecord, SuiteRow


def suite_record(
    runner: Runner, outcomes: Sequence[Outcome], *, why: str, provenance: Mapping[str, str]
) -> SuiteRecord:
    """The record of a suite: the run folders that its latest table is made of.

    outcomes: one for each job; a job that is still to be done has UNFINISHED as its failure. why: what this machine
    lacks for the suite as it is, if its fallback was taken.
    """
    root, experiment = runner.root, runner.experiment
    suite = experiment.suite
    return SuiteRecord(
        suite=suite.dump(),
        profile=suite.profile,
        why_fallback=why,
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        dataset=runner.inputs.about_data,
        protocol=experiment.judge.caption,
        averaging=experiment.protocol.averaging,
        judge=experiment.judge.id,
        stand_ins=experiment.stand_ins(experiment.compositions[0]),
        provenance=dict(provenance),
        unfinished=sum(outcome.failure == UNFINISHED for outcome in outcomes),
        rows=[_row(root, experiment, outcome) for outcome in outcomes],
    )


def write_suite_record(root: Path, stored: SuiteRecord) -> None:
    """Replaces the record of a suite's latest run."""
    records.write_record(root / SUITES / f"{stored['suite']['suite']}.json", stored)


def _row(root: Path, experiment: Experiment, outcome: Outcome) -> SuiteRow:
    composition = outcome.job.composition
    return SuiteRow(
        composition=composition.name,
        kind=composition.kind,
        axis=composition.axis,
        difference=composition.difference,
        aliases=[list(alias) for alias in composition.aliases],
        gt_aligned=experiment.is_gt_aligned(composition),
        stand_ins=experiment.stand_ins(composition),
        own_input=str(experiment.own_input(composition) or ""),
        seed=outcome.job.seed,
        folder=str(outcome.folder.relative_to(root)),
        evaluation=f"eval-{outcome.job.eval_id[:10]}",
        failure=outcome.failure,
    )
