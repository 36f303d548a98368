"""Processor time of refusals and of small calls, as ratios to accepting a sound suite: no test measures time.

    python benchmarks/refusals.py --out found.json --check

Processor time in one process, the median of several rounds. The unit is `spd-bench check v13_ablation`, a sound suite
of ordinary size. `--check` exits with 1 if a ratio exceeds its limit in LIMITS, three to four times what was found.
"""

import contextlib
import csv
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from spd_bench import cli
from spd_bench.report.stats import Scores, compare

TABLE = Path(__file__).parents[1] / "tests/reliability/bad_input.toml"
HEAD = "suite: mine\nextends: smoke\n"
LIMITS = {"slowest refused suite": 40.0, "comparison of 5 × 654 images": 15.0, "check, started anew / python": 100.0}
ROUNDS = 5


def checked_s(name: str) -> float:
    """Processor seconds of `spd-bench check` in this process."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        sys.argv = ["spd-bench", "check", name]
        started = time.process_time()
        with contextlib.suppress(SystemExit):
            cli.main()
        return time.process_time() - started


def child_s(*arguments: str) -> float:
    """Processor seconds of a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median_s(call: Callable[[], float]) -> float:
    """The median of ROUNDS calls, after one that is not counted."""
    call()
    return statistics.median(call() for _ in range(ROUNDS))


def content(row: Mapping[str, Any]) -> bytes:
    """The bytes of a row's file, without its head."""
    if "latin1" in row:
        return bytes(row["latin1"], "latin-1")
    return "".join(text * times for text, times in row.get("parts", [[row.get("text", ""), 1]])).encode()


def slowest_refusal() -> tuple[float, str]:
    """Processor seconds of the refused suite that takes longest, and its name in the table."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    suite, found = Path("mine.yaml"), []
    for key, head in (("check_file", ""), ("check_suite", HEAD)):
        for row in table[key]:
            suite.write_bytes(head.encode() + content(row))
            found.append((min(checked_s(suite.name) for _ in range(2)), str(row["id"])))
    return max(found)


def comparison_s() -> float:
    """Processor seconds of the statistics of one comparison at the size of NYU's test split."""
    with (files("spd_bench.data.sets") / "nyu_scenes.csv").open(encoding="utf-8") as table:
        scenes = tuple(row["scene"] for row in csv.DictReader(table) if row["split"] == "test")
    rng = np.random.default_rng(0)
    images = tuple(str(i) for i in range(len(scenes)))
    values_SI = 1 + 0.1 * rng.normal(size=(2, 5, len(scenes)))
    base, variant = (
        Scores(name=name, values_SI=values, seeds=(0, 1, 2, 3, 4), images=images, scenes=scenes)
        for name, values in zip(("base", "variant"), values_SI, strict=True)
    )
    started = time.process_time()
    compare(base, variant, lower_is_better=True, rng=rng)
    return time.process_time() - started


def main(
    out: Annotated[Path | None, typer.Option("--out", help="Write everything there, as JSON.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a ratio exceeds its limit.")] = False,
) -> None:
    """Measures, records and compares."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        unit_s = median_s(lambda: checked_s("v13_ablation"))
        refusal_s, slowest = slowest_refusal()
    anew = (
        "-c",
        "import sys; from spd_bench.cli import main; sys.argv = ['spd-bench', 'check', 'v13_ablation']; main()",
    )
    found = {
        "slowest refused suite": refusal_s / unit_s,
        "comparison of 5 × 654 images": median_s(comparison_s) / unit_s,
        "check, started anew / python": median_s(lambda: child_s(*anew)) / median_s(lambda: child_s("-c", "pass")),
    }
    text = json.dumps(
        {"unit_s": unit_s, "slowest": slowest, "ratios": found, "limits": LIMITS}, indent=1, ensure_ascii=False
    )
    typer.echo(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    over = [f"{name}: {value:.2f}, limit {LIMITS[name]:g}" for name, value in found.items() if value > LIMITS[name]]
    if check and over:
        typer.echo("\n".join(["slower than allowed:", *over]))
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
