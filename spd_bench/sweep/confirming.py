"""A trial of a sweep → the suite that confirms it: the swept base against the trial's values, over fresh seeds."""

import json
import re
from collections.abc import Mapping
from typing import Any

from spd_bench.errors import ConfigError, printable
from spd_bench.sweep.tables import SweepSummary, TrialRow, shown

FRESH_SEEDS = 3
"""Number of seeds of the confirmation. The sweep's own is not among them, since part of a trial's number, for which it
was chosen, is due to that seed."""
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_NOT_TEXT = {"null", "true", "false", "Null", "True", "False", "NULL", "TRUE", "FALSE"}


def chosen_trial(summary: SweepSummary, number: int | None) -> TrialRow:
    """The trial of that number, or the best one. Raises ConfigError if there is none or if several are best."""
    if number is not None:
        found = [trial for trial in summary.ranked() if trial.number == number]
        if not found:
            raise ConfigError(f"trial {number} is not complete", where="--trial", hint="see `spd-bench sweep show`")
        return found[0]
    if len(summary.best) != 1:
        front = ", ".join(str(trial.number) for trial in summary.best)
        hint = f"choose one with --trial: {front}" if front else "run the sweep first"
        raise ConfigError(f"{len(summary.best)} trials are best, one is needed", where="--write-suite", hint=hint)
    return summary.best[0]


def confirming_suite(summary: SweepSummary, trial: TrialRow) -> str:
    """The text of the suite; it writes every value out, so that later changes of the swept suite do not matter.

    Raises ConfigError for a trial that differs from the base in something that no axis of a suite can vary, and for
    one that does not differ.
    """
    about, suite = summary.about, summary.about["suite"]
    values = {path: _meant(about["sweep"]["space"][path], value) for path, value in trial.values.items()}
    changed = {path: value for path, value in values.items() if _before(suite, path) != value}
    stuck = [path for path in changed if path.startswith("data.")]
    if stuck:
        hint = "write two suites that differ in it"
        raise ConfigError(f"{', '.join(stuck)} cannot be varied within a suite", where="--write-suite", hint=hint)
    if not changed:
        raise ConfigError(f"trial {trial.number} is the base itself: nothing to confirm", where="--write-suite")
    seed = suite["seeds"][0]
    report = {"primary": suite["report"]["primary"], "family": ["cross"]}
    parts = [
        *_heading(summary, trial),
        f"suite: {about['sweep']['sweep'][:59]}-best",
        f"description: {json.dumps(f'Does trial {trial.number} of {summary.study} hold over seeds?')}",
        *_block("base", {key: value for key, value in suite["base"].items() if value is not None}),
        *_block("data", {key: value for key, value in suite["data"].items() if value is not None}),
        *_block("train", {key: value for key, value in suite["train"].items() if value is not None}),
        *_block("eval", suite["eval"]),
        "",
        f"# not the sweep's own, {seed}, under which this trial was chosen",
        f"seeds: {_flow([seed + 1 + i for i in range(FRESH_SEEDS)])}",
        *_block("axes", {"cross": [{path: [value] for path, value in changed.items()}]}),
        *_block("report", report),
    ]
    return "\n".join(parts) + "\n"


def _heading(summary: SweepSummary, trial: TrialRow) -> list[str]:
    found = ", ".join(f"{name} {shown(value)}" for name, value in trial.objectives.items())
    lines = [f"# Trial {trial.number} of study {summary.study}: {found} on the validation split, one seed."]
    if summary.about["stand_ins"]:
        lines.append(f"# STAND-INS: {'; '.join(summary.about['stand_ins'])}")
    return list(map(printable, lines))


def _meant(dimension: Mapping[str, Any], value: Any) -> Any:
    """A value as the sweep's file has it; samplers store a choice with options as JSON."""
    structured = [choice for choice in dimension.get("choice", ()) if isinstance(choice, dict | list)]
    return next((choice for choice in structured if json.dumps(choice, sort_keys=True) == value), value)


def _before(suite: Mapping[str, Any], path: str) -> Any:
    """The base's value at a path; a component without options is its name."""
    keys = path.split(".")
    value: Any = suite["base"] if keys[0] in suite["base"] else suite
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value["use"] if isinstance(value, Mapping) and set(value) == {"use"} else value


def _block(name: str, members: Mapping[str, Any]) -> list[str]:
    return ["", f"{name}:", *(f"  {key}: {_flow(value)}" for key, value in members.items())]


def _flow(value: Any) -> str:
    """A value in YAML's flow style; text is quoted if it could be read as another kind of value."""
    if isinstance(value, Mapping):
        if set(value) == {"use"}:
            return _flow(value["use"])
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
