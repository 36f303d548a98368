"""`spd-bench sweep show`: a study as its database has it, its page, and the suite that confirms a trial."""

from pathlib import Path

from spd_bench.errors import ConfigError
from spd_bench.store import files
from spd_bench.suite.axes import compositions
from spd_bench.suite.load import load_suite
from spd_bench.sweep.confirming import chosen_trial, confirming_suite
from spd_bench.sweep.page import sweep_page
from spd_bench.sweep.study import DATABASE, Database, Study, default_url
from spd_bench.sweep.tables import SweepSummary


def show_sweep(name: str | None, *, root: Path, storage: str | None = None) -> SweepSummary:
    """What a study has found: by its full name, or the latest of a sweep, or (None) the latest of all."""
    database = _existing(root, storage)
    study = database.find(name)[0]
    return Study.load(database, study).summary()


def write_confirming(summary: SweepSummary, trial: int | None, path: Path) -> None:
    """Writes the suite that confirms a trial (the best one), and checks it as `run` would."""
    text = confirming_suite(summary, chosen_trial(summary, trial))
    if path.exists():
        raise ConfigError("there is a file already", where=str(path), hint="choose another name, or remove it")
    files.write_text(path, text)
    compositions(load_suite(path))


def write_page(summary: SweepSummary, root: Path) -> Path:
    """Writes the page of a study."""
    page = root / "reports" / f"{summary.study}.html"
    files.write_text(page, sweep_page(summary))
    return page


def _existing(root: Path, storage: str | None) -> Database:
    url = storage or default_url(root)
    if storage is None and not (root / DATABASE).exists():
        hint = "spd-bench sweep suites/sweep_lambda_si_r.yaml"
        raise ConfigError(f"no sweep has been run below {root}", hint=hint)
    return Database(url, root)
