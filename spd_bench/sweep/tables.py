"""The results of a sweep as plain values and as text: best trials, importances, front."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spd_bench.errors import printable

State = str
"""complete, pruned, refused (by a constraint), failed, running or waiting."""
REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial."""

    number: int
    """Its number in the study."""
    state: State
    """How it stands."""
    values: Mapping[str, Any]
    """Path → value."""
    objectives: Mapping[str, float] = field(default_factory=dict)
    """Objective → value; empty unless it is complete."""
    constraints: Mapping[str, float] = field(default_factory=dict)
    """Constraint → cost."""
    seconds: float | None = None
    """How long it took; None while it runs."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Worker, identity, folder, difference, failure, and whether it was trained before."""


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A study and its trials."""

    study: str
    """Its name."""
    about: Mapping[str, Any]
    """What was stored when it began: sweep, suite, profile, data, stand-ins; and the chosen trial's test scores."""
    directions: Mapping[str, bool]
    """Objective → whether less is better."""
    total: int
    """Number of trials that it is to have."""
    trials: Sequence[TrialRow]
    """Its trials so far."""
    best: Sequence[TrialRow]
    """The best trial, or the front where there are several objectives; empty before the first is complete."""
    importances: Mapping[str, float]
    """Path → share of the objective's variance; empty where it cannot be estimated."""
    others: Sequence[str] = ()
    """Studies of this sweep on another space."""

    def count(self, state: State) -> int:
        """The number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    def ranked(self) -> list[TrialRow]:
        """The complete trials in order of the first objective, best first."""
        name, less = next(iter(self.directions.items()))
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(complete, key=lambda trial: trial.objectives[name] * (1 if less else -1))

    def plain(self) -> dict[str, Any]:
        """The summary as plain values, for JSON."""
        return asdict(self)


def terminal(summary: SweepSummary, *, top: int = 10) -> str:
    """The text that `spd-bench sweep` and `sweep show` print."""
    from tabulate import tabulate

    several = len(summary.directions) > 1
    shown = list(summary.best) if several else summary.ranked()[:top]
    heading = f"front of {len(shown)} trials that no other trial beats in every objective" if several else "best trials"
    parts = [caption(summary)]
    if shown:
        table = tabulate([cells(summary, trial) for trial in shown], headers="keys", disable_numparse=True)
        parts.append(f"{heading}\n{table}")
    else:
        parts.append("no trial is complete")
    if summary.importances:
        ranked = sorted(summary.importances.items(), key=lambda item: -item[1])
        parts.append("importance (PED-ANOVA)  " + ", ".join(f"{printable(path)} {share:.0%}" for path, share in ranked))
    if not several and summary.best:
        parts.append(chosen(summary))
    failed = [trial for trial in summary.trials if trial.state == "failed"]
    parts += [printable(f"failed: trial {trial.number}: {trial.notes.get('failure')}") for trial in failed]
    return "\n\n".join(parts)


def caption(summary: SweepSummary) -> str:
    """Lines above the table: study, suite, data, stand-ins, and the number of trials in each state."""
    about = summary.about
    lines = [f"sweep {about['sweep']['sweep']}, study {summary.study}"]
    if about["why"]:
        lines.append(f"FALL-BACK to profile {about['profile']}, because this machine lacks:")
        lines += [f"  - {lack}" for lack in about["why"].split("; ")]
    if about["stand_ins"]:
        lines.append(f"STAND-INS: {'; '.join(about['stand_ins'])}")
    lines.append(f"suite {about['sweep']['suite']}, profile {about['profile'] or '(none)'}: {about['dataset']}")
    lines.append(f"objectives on the validation split ({about['images']} images), protocol {about['protocol']}")
    states = ("complete", "pruned", REFUSED, "failed", "running", "waiting")
    counts = [f"{summary.count(state)} {state}" for state in states if summary.count(state)]
    lines.append(f"{len(summary.trials)} of {summary.total} trials: {', '.join(counts) or 'none yet'}")
    return "\n".join(map(printable, lines))


def cells(summary: SweepSummary, trial: TrialRow) -> dict[str, str]:
    """A row of the table of trials."""
    row = {"trial": str(trial.number)}
    row |= {printable(path): shown(value) for path, value in trial.values.items()}
    found = {name: f"{trial.objectives[name]:.4g}" if name in trial.objectives else "–" for name in summary.directions}
    found |= {name: f"{value:.3g}" for name, value in trial.constraints.items()}
    row |= {printable(name): value for name, value in found.items()}
    trained = "before" if trial.notes.get("reused") else "–" if trial.seconds is None else f"{trial.seconds:.0f} s"
    return row | {"trained": trained}


def chosen(summary: SweepSummary) -> str:
    """The chosen trial in words, with its scores on the test split once there are any."""
    best = summary.best[0]
    lines = [f"chosen: trial {best.number}, {best.notes.get('difference') or 'the base itself'}"]
    for name, value in dict(summary.about.get("test") or {}).items():
        lines.append(f"  on the test split, scored once: {name} {value:.4f}")
    lines.append(
        "one seed, chosen for its number: confirm it with --write-suite, over seeds and with paired statistics"
    )
    return "\n".join(map(printable, lines))


def shown(value: Any) -> str:
    """A value as tables show it."""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
