"""What `spd-bench plan` prints: every job, what `run` would do with it, and for how long; trains and writes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from spd_bench.model.device import device_named
from spd_bench.run.display import planning, stderr_console
from spd_bench.run.forecast import UNKNOWN, Estimate, Forecast
from spd_bench.run.planning import choose, plan
from spd_bench.run.planning.job import Job
from spd_bench.run.request import EVERYTHING, Request
from spd_bench.run.runner import Runner


def plan_suite(request: Request) -> tuple[list[dict[str, Any]], str]:
    """A row per job (difference from the base, state, estimated minutes), and a title.

    The estimates are for runs on the request's device.
    """
    console = stderr_console()
    chosen = choose.choose(request)
    device = device_named(request.device)
    rows: list[dict[str, Any]] = []
    estimates: list[Estimate] = []
    begun: dict[str, set[str]] = {}
    for step, planned in chosen.steps.items() or [("", chosen.suite)]:
        selection = EVERYTHING if chosen.steps else chosen.selection
        with planning(console) as on_checked:
            experiment = plan.Experiment(planned, selection=selection, on_checked=on_checked)
        runner = Runner(experiment, request.root, device)
        forecast = Forecast(runner)
        for job in experiment.jobs:
            untrained = step and not chosen.suite.steps[step].train
            state = "shapes only" if untrained else _state(runner, job, begun)
            estimates.append(forecast.of(job, state))
            rows.append(_row(job, state, estimates[-1]))
    return rows, f"{title(chosen, experiment)}\n{_summary(rows, estimates)}"


def title(chosen: choose.Chosen, experiment: plan.Experiment) -> str:
    """Lines above a plan or a run: fallback, stand-ins, suite, data, protocol and the number of jobs."""
    suite = experiment.suite
    lines = []
    if chosen.why:
        lines.append(f"FALL-BACK to profile {suite.profile}, because this machine lacks:")
        lines += [f"  - {lack}" for lack in chosen.why.split("; ")]
    stand_ins = experiment.stand_ins(experiment.compositions[0])
    if stand_ins:
        lines.append(f"STAND-INS: {'; '.join(stand_ins)}")
    lines.append(f"suite {suite.suite}, profile {suite.profile or '(none)'}: {experiment.data.describe()}")
    lines.append(f"protocol {experiment.judge.caption}")
    count = len(experiment.compositions)
    if chosen.steps:
        lines.append(f"build order of {len(chosen.steps)} steps (§10.3): {', '.join(chosen.steps)}")
    else:
        which = f" ({chosen.selection})" if str(chosen.selection) else ""
        lines.append(f"{count} compositions{which} × {len(suite.seeds)} seed(s) = {len(experiment.jobs)} jobs")
    return "\n".join(lines)


def _state(runner: Runner, job: Job, begun: dict[str, set[str]]) -> str:
    """What is left of a job once the jobs before it are done.

    begun: identities of their trainings, each with those of its evaluations; this job's are added.
    """
    tests = begun.setdefault(job.train_id, set())
    state = runner.folder(job).state
    if job.eval_id in tests:
        state = "done"
    elif tests and state not in ("done", "to score"):
        state = "to evaluate"
    tests.add(job.eval_id)
    return state


def _row(job: Job, state: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "composition": job.composition.name,
        "seed": job.seed,
        "difference": job.composition.difference,
        "state": state,
        "estimated_minutes": None if estimate.seconds is None else round(estimate.seconds / 60, 2),
        "estimated_from": estimate.source,
        "identity": job.train_id[:10],
    }


def _summary(rows: Sequence[Mapping[str, Any]], estimates: Sequence[Estimate]) -> str:
    """The number of jobs in each state, and the minutes left in all."""
    states = [row["state"] for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    known = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    missing = len(estimates) - len(known)
    total = f"estimated {sum(known) / 60:.1f} min in all, from finished runs" if any(known) or not missing else ""
    rest = f"{missing} {UNKNOWN}" if missing else ""
    return f"{counted}: {'; and '.join(filter(None, (total, rest)))}"
