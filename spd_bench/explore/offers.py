"""The runs that a page offers: those that are named, or every row of the suite that ran last."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spd_bench.ask.record import read_run
from spd_bench.errors import ConfigError
from spd_bench.predict.names import find_run
from spd_bench.report.collect import recorded
from spd_bench.store.run_root import SuiteRow


@dataclass(frozen=True)
class Offer:
    """A run that can be picked on the page."""

    label: str
    """What the page calls it; no two are alike."""
    folder: Path
    """The folder of its training."""
    difference: str
    """What sets it apart from the base of its suite; "" for the base."""
    stand_ins: tuple[str, ...]
    """What stood in for the real thing in its training."""


def offers(names: Sequence[str], *, root: Path, seed: int | None) -> list[Offer]:
    """The runs that `names` mean, as `predict --run` reads them; without names, every row of the suite that ran last.

    Raises ConfigError for a name that means no run and where there is none, StateError for a damaged record.
    """
    folders = _named(names, root, seed) if names else _latest(root, seed)
    return list(_offered(folders).values())


def _named(names: Sequence[str], root: Path, seed: int | None) -> dict[Path, str]:
    return {find_run(name, root=root, seed=seed).resolve(): name for name in names}


def _latest(root: Path, seed: int | None) -> dict[Path, str]:
    """Folder → name of every row that can answer for an image of one's own: neither external nor GT-aligned (R-27)."""
    stored = recorded(root)
    best: dict[str, SuiteRow] = {}
    for row in stored["rows"]:
        if row["failure"] or row["kind"] == "external" or row["gt_aligned"]:
            continue
        number, other = row["seed"] or 0, best.get(row["composition"])
        if (number == seed) if seed is not None else (other is None or number < (other["seed"] or 0)):
            best[row["composition"]] = row
    if not best:
        of_seed = "" if seed is None else f" of seed {seed}"
        raise ConfigError(
            f"suite {stored['suite']['suite']} has no trained run{of_seed} that answers for an image",
            where=str(root),
            hint="name runs: spd-bench explore SUITE/COMPOSITION …",
        )
    return {Path(row["folder"]): f"{stored['suite']['suite']}/{name}" for name, row in best.items()}


def _offered(folders: dict[Path, str]) -> dict[str, Offer]:
    """By label: the name of the composition, or as it was given where two share one."""
    runs = {folder: read_run(folder) for folder in folders}
    names = [run.composition for run in runs.values()]
    found: dict[str, Offer] = {}
    for folder, run in runs.items():
        label = run.composition if names.count(run.composition) == 1 else folders[folder]
        found[label] = Offer(label, folder, run.difference, run.stand_ins)
    return found
