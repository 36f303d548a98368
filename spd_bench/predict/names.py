"""Names of runs, as tables have them → the folder of one trained run."""

from contextlib import suppress
from pathlib import Path

from spd_bench.ask.record import CHECKPOINT
from spd_bench.errors import ConfigError
from spd_bench.report.sources import rows_of
from spd_bench.store.run_root import RUN, SuiteRow

FORMS = "a folder of a run, SUITE/COMPOSITION, SUITE for its base, or SWEEP for its best trial"


def find_run(name: str | Path, *, root: Path, seed: int | None = None) -> Path:
    """The folder of the run that `name` means.

    name: a folder of a run (or the `run.json` in it), `[ROOT:]SUITE/COMPOSITION` as in `compare`, a suite alone for
    its base, or a sweep for its best trial. root: the folder of all runs. seed: which of a row's runs; by default
    the one with the lowest seed. Raises ConfigError for a name that means no run, naming what there is.
    """
    path = Path(name).expanduser()
    if path.name in (RUN, CHECKPOINT) and path.is_file():
        path = path.parent
    if (path / RUN).is_file():
        if seed is not None:
            raise ConfigError("a folder holds one run", where=str(name), hint="leave the seed away")
        return path
    try:
        rows = rows_of(str(name), root)
    except ConfigError as unknown:
        best = _best_of_sweep(str(name), root)
        if best is None:
            hint = "; ".join(filter(None, [unknown.hint, f"name {FORMS}"]))
            raise ConfigError(unknown.message, where=unknown.where, hint=hint) from None
        return best
    return Path(_with_seed(rows, str(name), seed)["folder"])


def _with_seed(rows: list[SuiteRow], name: str, seed: int | None) -> SuiteRow:
    done = {int(row["seed"] or 0): row for row in rows if not row["failure"] and row["kind"] != "external"}
    if not done:
        what = "; ".join(dict.fromkeys(row["failure"] or "only its predictions are known" for row in rows))
        raise ConfigError(f"has no trained run ({what})", where=name, hint="choose another row")
    if seed is not None and seed not in done:
        raise ConfigError(f"has no run of seed {seed}", where=name, hint=f"seeds: {', '.join(map(str, sorted(done)))}")
    return done[min(done) if seed is None else seed]


def _best_of_sweep(name: str, root: Path) -> Path | None:
    """The folder of a sweep's best trial; None where no sweep has this name."""
    from spd_bench.sweep.confirming import chosen_trial
    from spd_bench.sweep.show import show_sweep

    summary = None
    with suppress(ConfigError):
        summary = show_sweep(name, root=root)
    if summary is None:
        return None
    return root / str(chosen_trial(summary, None).notes["folder"])
