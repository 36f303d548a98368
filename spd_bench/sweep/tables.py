"""What a sweep has found, as plain values and as a text: its best trials, what mattered, and the front."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spd_bench.errors import printable

State = str
"""complete, pruned, refused (by a constraint), failed, running or waiting."""
REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial: its values by path, what it came to by objective, and the costs of its constraints."""

    number: int
    state: State
    values: Mapping[str, Any]
    objectives: Mapping[str, float] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the trial says of itself: worker, identity, folder, difference, failure, whether it was trained before."""


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A study and what is known of it."""

    study: str
    about: Mapping[str, Any]
    """What was noted when it began: sweep, suite, profile, data, stand-ins."""
    directions: Mapping[str, bool]
    """Objective → whether less is better."""
    total: int
    trials: Sequence[TrialRow]
    best: Sequence[TrialRow]
    """The best trial, or the front where there are several objectives; empty before the first is complete."""
    importances: Mapping[str, float]
    others: Sequence[str] = ()
    """Studies of this sweep on another space."""

    def count(self, state: State) -> int:
        """How many trials stand so."""
        return sum(trial.state == state for trial in self.trials)

    def ranked(self) -> list[TrialRow]:
        """Complete trials, the best by the first objective first."""
        name, less = next(iter(self.directions.items()))
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return sorted(complete, key=lambda trial: trial.objectives[name] * (1 if less else -1))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def terminal(summary: SweepSummary, *, top: int = 10) -> str:
    """The text that `spd-bench sweep` and `sweep show` print."""
    from tabulate import tabulate

    several = len(summary.directions) > 1
    shown = list(summary.best) if several else summary.ranked()[:top]
    heading = f"front of {len(shown)} trials, none of which another beats in everything" if several else "best trials"
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
    """What the numbers are: study, suite, data, stand-ins, and how many trials there are of each kind."""
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
    """The chosen trial in words, with its number on the test split once there is one."""
    best = summary.best[0]
    lines = [f"chosen: trial {best.number}, {best.notes.get('difference') or 'the base itself'}"]
    for name, value in dict(summary.about.get("test") or {}).items():
        lines.append(f"  on the test split, scored once: {name} {value:.4f}")
    lines.append(
        "one seed, chosen for its number: confirm it with --write-suite, over seeds and with paired statistics"
    )
    return "\n".join(map(printable, lines))


def shown(value: Any) -> str:
    """A value for people."""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
