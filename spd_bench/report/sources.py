"""Several suites, or single rows of them, as one record, for `compare SUITE_A SUITE_B`.

Numbers may stand side by side exactly where the test was the same (`score.judge.Judge`), so other rows are
refused by the fields that differ. Everything else may differ, and is said: the suites, the training, the machine.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from spd_bench.errors import ConfigError, did_you_mean, quoted
from spd_bench.report.collect import recorded
from spd_bench.report.comparison import one_line
from spd_bench.store import records
from spd_bench.store.differences import Differing, differences
from spd_bench.store.run_root import RUN, SCORES, ComparedRecord, RunRecord, ScoresRecord, SuiteRow

FORM = "[ROOT:]SUITE[/COMPOSITION]"
_FORM = re.compile(
    # a colon before a slash belongs to a drive of Windows
    r"(?:(?P<root>.+):(?![\\/]))?(?P<suite>.*\.(?:ya?ml|html|md|csv|json)|[^/:]*)(?:/(?P<row>[^/:]+))?"
)
SHOWN = 6
"""Fields of a difference that a caption lists; the rest are counted."""
WIDEST = 24
"""Characters of a value that a caption shows: digests are long."""

Run = SuiteRow


class _Source(NamedTuple):
    """One argument of `compare`: a record below a root, with all of its rows or one."""

    text: str
    root: Path
    row: str | None
    stored: ComparedRecord

    @property
    def suite(self) -> str:
        return str(self.stored["suite"]["suite"])

    @property
    def head(self) -> str | None:
        """The row that stands for the whole: the base of a suite, or the one row asked for."""
        names = [run["composition"] for run in self.stored["rows"] if self.row or run["kind"] == "base"]
        return names[0] if names else None

    def runs(self, name: str) -> list[Run]:
        """The runs of a composition that did not fail."""
        return [run for run in self.stored["rows"] if run["composition"] == name and not run["failure"]]


def gather(texts: Sequence[str], runs: Path) -> ComparedRecord:
    """The record that the arguments of `compare` name, in the form of FORM; the suite that ran last, if there is none.

    ROOT: folder of runs, `runs` by default. SUITE: name, suite file or report of a suite that was run there, the last
    one if empty. Of several arguments rows are named "suite/composition" where their names collide, and the record has
    three more keys. reference: the row that others are compared with, the first argument's base (or its only row).
    asked: such rows of all arguments. sources: a line for each argument.

    Raises ConfigError for what was not run, for two arguments that mean the same, and for rows that were not scored on
    the same test, naming the fields that differ.
    """
    sources = [_source(text, runs) for text in texts or [""]]
    if len(sources) == 1:
        return sources[0].stored
    first, *others = sources
    for at, source in enumerate(sources):
        if any(_same(source, other) for other in sources[:at]):
            raise ConfigError("is named twice", where=source.text, hint="name another suite or composition")
    for other in others:
        _refuse_other_test(first, other)
    labels = _labels(sources)
    renamed = [_renamed(source, label, _collisions(sources)) for source, label in zip(sources, labels, strict=True)]
    asked = [source.head for source in renamed if source.head]
    lines = [_line(source, label) for source, label in zip(sources, labels, strict=True)]
    rows: list[Run] = []
    for source, plain in zip(renamed, sources, strict=True):
        said = _against(first, plain)
        rows += [run | {"difference": said} if said and _is_base(run) else run for run in source.stored["rows"]]
        lines += [f"{source.head} against {renamed[0].head}: {said}"] if said else []
    both: ComparedRecord = {
        **first.stored,
        "suite": first.stored["suite"] | {"suite": " against ".join(source.text or source.suite for source in sources)},
        "rows": rows,
        "provenance": _provenance(sources, labels),
        "finished": max(source.stored["finished"] for source in sources),
        "unfinished": sum(source.stored.get("unfinished", 0) for source in sources),
        "reference": renamed[0].head,
        "asked": asked,
        "sources": lines,
    }
    return both


def rows_of(text: str, runs: Path) -> list[SuiteRow]:
    """The rows that an argument in the form of FORM names, with folders by their full path; of a suite, its base's.

    Raises ConfigError for a suite that was not run and for a composition that it does not have.
    """
    source = _source(text, runs)
    return [row for row in source.stored["rows"] if source.row or _is_base(row)]


def _source(text: str, runs: Path) -> _Source:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ConfigError(f"cannot be read as {FORM}", where=text)
    root = Path(found["root"]) if found["root"] else runs
    stored = recorded(root, found["suite"] or None)
    row = found["row"]
    if row is None:
        return _Source(text, root, None, stored)
    rows = [run for run in stored["rows"] if row in _names(run)]
    if not rows:
        known = [name for run in stored["rows"] for name in _names(run)]
        raise ConfigError(f"unknown composition {quoted(row)}", where=text, hint=did_you_mean(row, known))
    return _Source(text, root, row, stored | {"rows": rows})


def _names(run: Run) -> list[str]:
    return [run["composition"], *(name for _, name in run["aliases"])]


def _is_base(run: Run) -> bool:
    return bool(run["kind"] == "base")


def _same(one: _Source, other: _Source) -> bool:
    place = (one.suite, one.root.resolve()) == (other.suite, other.root.resolve())
    return place and (one.row == other.row or one.row is None or other.row is None)


# Names


def _labels(sources: Sequence[_Source]) -> list[str]:
    """The suites' names; letters where arguments name the same suite, of other rows or below another root."""
    names = [source.suite for source in sources]
    return names if len(set(names)) == len(names) else list(ascii_uppercase[: len(names)])


def _collisions(sources: Sequence[_Source]) -> set[str]:
    counts = Counter(name for source in sources for name in {run["composition"] for run in source.stored["rows"]})
    return {name for name, times in counts.items() if times > 1}


def _renamed(source: _Source, label: str, collisions: set[str]) -> _Source:
    rows = [
        run | {"composition": f"{label}/{run['composition']}"} if run["composition"] in collisions else run
        for run in source.stored["rows"]
    ]
    return source._replace(stored={**source.stored, "rows": rows})


# What is the same, and what is not


def _refuse_other_test(first: _Source, other: _Source) -> None:
    """Raises ConfigError, with every field that differs, unless both were scored on the same test."""
    judges = [source.stored.get("judge") for source in (first, other)]
    if judges[0] == judges[1] and None not in judges:
        return
    found = differences(_test(first), _test(other))
    if not found and None in judges:
        return  # an older record does not name its test
    differing = [f"{field}: {there} there, {here} here" for field, there, here in found]
    raise ConfigError(
        f"was not scored on the same test as {first.text or first.suite}:\n  "
        + "\n  ".join(differing or ["data or registered metrics"]),
        where=other.text or other.suite,
        hint="score both on the same data under the same protocol, K, query points and metrics; `spd-bench run SUITE "
        "--set eval.…` scores a trained suite again and trains nothing",
    )


def _test(source: _Source) -> dict[str, Any]:
    """Everything that decides which points were scored and how, by the names that suites have for it."""
    done = [run for run in source.stored["rows"] if not run["failure"]]
    if not done:
        raise ConfigError("no run of it is finished", where=source.text or source.suite)
    folder = Path(done[0]["folder"])
    said = dict(records.read(folder / done[0]["evaluation"] / SCORES, ScoresRecord)["identity"])
    test = {"protocol": said.pop("protocol"), "metrics": said.pop("metrics"), "format": said.pop("format")}
    test["eval"] = {key: said[key] for key in ("k", "k1_draws", "seed")}
    about = records.read(folder / RUN, RunRecord)["identity"]
    return test | {"data": {"digest": about["data"]["digest"] if "data" in about else about["judge"]}}


def _against(first: _Source, other: _Source) -> str:
    """The fields in which the identities of two arguments' heads differ, in words; "" for one argument."""
    heads = [source.runs(source.head or "") for source in (first, other)]
    if other is first or not all(heads) or any(runs[0]["kind"] == "external" for runs in heads):
        return ""
    about = [dict(records.read(Path(runs[0]["folder"]) / RUN, RunRecord)["identity"]) for runs in heads]
    found = differences(*({key: value for key, value in one.items() if key != "seed"} for one in about))
    if not found:
        return "the same training"
    more = [f"and {len(found) - SHOWN} more fields"] if len(found) > SHOWN else []
    return "; ".join([*map(_change, found[:SHOWN]), *more])


def _change(found: Differing) -> str:
    before, after = (text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…" for text in found[1:])
    return one_line(f"{found.field}: {before} → {after}")


# Captions


def _line(source: _Source, label: str) -> str:
    stored = source.stored
    seeds = sorted({run["seed"] for run in stored["rows"] if run["seed"] is not None})
    return (
        f"{label}: suite {source.suite} below {source.root}, profile {stored['profile'] or '(none)'}, seeds "
        f"{', '.join(map(str, seeds)) or 'none'}, finished {stored['finished']}, "
        f"on {stored['provenance'].get('device', 'an unknown machine')}"
    )


def _provenance(sources: Sequence[_Source], labels: Sequence[str]) -> dict[str, str]:
    return {
        f"{label} {key}": value
        for source, label in zip(sources, labels, strict=True)
        for key, value in source.stored["provenance"].items()
    }
