"""What a suite of eight compositions costs, against literal training that encodes every image it sees.

    python benchmarks/suite_cost.py

The suite is scaled down (few frames and epochs) and run through the real command, features in the cache on disk, from
nothing to its report. The other side is arithmetic on medians measured in the same pinned setting: as many steps of the
literal transcription, each with its batch encoded. DAv2-S has random weights, rooms are synthetic.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from spd_bench.cost import timing
from spd_bench.profile.measure import profile_suite
from spd_bench.profile.results import LITERAL, TrainingShape
from spd_bench.run.display import counting
from spd_bench.suite.load import load_suite

FRAMES, BATCH, QUERIES, COMPOSITIONS = 8, 2, 256, 8
MAIN = "from spd_bench.cli import main; main()"
SUITE = """
suite: scaled
extends: v13_ablation
base: {{encoder: {{use: dav2_small, random_weights: true}}}}
data:
  dataset: {{use: synthetic_rooms, train_scenes: 2, val_scenes: 1, test_scenes: 1, frames_per_scene: 4}}
  augment: {{enabled: false}}
  cache: disk
train: {{epochs: {epochs}, steps: null, batch_size: {batch}, queries: {queries}, precision: fp32, validations: 1}}
eval: {{k: [1, 256], k1_draws: 1}}
seeds: [0]
axes: {{leave_one_out: [b2, b3, b4, b5], swap: {{neck: [last_layer], routing: [uniform_grid, random]}}, grid: null}}
baselines: []
report: {{primary: {{k: 256}}}}
profiles: null
fallback: null
"""


def suite_s(epochs: int) -> float:
    """Returns the seconds of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        suite = Path(folder) / "scaled.yaml"
        suite.write_text(SUITE.format(epochs=epochs, batch=BATCH, queries=QUERIES), encoding="utf-8")
        command = [sys.executable, "-c", MAIN, "run", str(suite), "--runs", str(Path(folder) / "runs")]
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=sys.stderr)  # noqa: S603
        return time.monotonic() - started


def main(
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Times that each frame is seen.")] = 6,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
) -> None:
    """Measures both and prints them as JSON."""
    if not timing.is_pinned(threads):
        raise typer.Exit(timing.run_pinned(sys.orig_argv, threads))
    with counting("profile") as on_call:
        profile = profile_suite(
            load_suite("v13_ablation"),
            ks=(QUERIES,),
            rounds=3,
            threads=threads,
            device=torch.device("cpu"),
            training=TrainingShape(BATCH, QUERIES),
            on_call=on_call,
        )
    literal = profile.model(LITERAL)
    assert literal is not None
    assert literal.step is not None
    encode_s, step_s = profile.encode.spread.median, literal.step.spread.median
    steps = COMPOSITIONS * epochs * FRAMES // BATCH
    literal_s, found_s = steps * (BATCH * encode_s + step_s), suite_s(epochs)
    record = {
        "settings": profile.settings.lines(),
        "stand_ins": [*profile.stand_ins, "synthetic rooms"],
        "compositions": COMPOSITIONS,
        "epochs": epochs,
        "steps": steps,
        "s, the command": found_s,
        "s, literal steps with encoding": literal_s,
        "literal / command": literal_s / found_s,
    }
    typer.echo(json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
