"""A sweep may be stopped, and any of its trials may end the process: nothing finished is lost, nothing counts twice.

The default run stops one sweep and crashes one component; SPD_BENCH_RELIABILITY=1 tries every signal, the time limit, a
sampler that learns, and every way in which a component can end a process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PATIENCE_S, Countdown, leave_out_costs, wait_until

from spd_bench.errors import Stopped
from spd_bench.process.watch import Watch, read_crumb
from spd_bench.run.planning.plan import Experiment
from spd_bench.run.runner import Runner
from spd_bench.sweep.file import Pruner, Sweep, load_sweep
from spd_bench.sweep.pruner_report import PrunerReport
from spd_bench.sweep.request import SweepRequest
from spd_bench.sweep.show import show_sweep
from spd_bench.sweep.study import Database, Study, default_url
from spd_bench.sweep.tables import SweepSummary
from spd_bench.sweep.trial import Trial
from spd_bench.sweep.worker import _key, run_sweep
from spd_bench.train.training import Training

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
STEPS = 8
STANDS_AT = 5
"""The step of a training at which a worker stands still until it is stopped."""
SWEEP = """
sweep: tiny
suite: tiny.yaml
space:
  train.lambda_si: {float: [0.1, 1.0], log: true}
  train.weight_decay: {float: [0.0, 0.1]}
objective: {metric: absrel, k: 256}
pruner: median
"""
RANDOM = SWEEP + "sampler: random\ntrials: 2\n"
LEARNING = SWEEP + "sampler: {use: tpe, startup: 2}\ntrials: 5\n"


@pytest.fixture
def no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_costs(monkeypatch)


def written(folder: Path, text: str) -> Path:
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    return folder / "sweep.yaml"


def run_here(folder: Path, runs: str, watch: Watch | None = None) -> SweepSummary:
    """The sweep in this process."""
    ended = run_sweep(SweepRequest(sweep=str(folder / "sweep.yaml"), root=folder / runs, device="cpu"), watch)
    return show_sweep(ended.study, root=folder / runs)


def results(root: Path) -> dict[str, Any]:
    """Returns every result of a sweep but times: trials, weights, logs and the scores of the test split."""
    summary = show_sweep("tiny", root=root)
    trials = [(trial.state, trial.values, trial.objectives, trial.notes["difference"]) for trial in summary.trials]
    weights, rows = {}, {}
    for folder in (root / "trained").iterdir():
        identity = folder.name.rpartition("-")[2]  # its name holds the trial's number, which a repetition changes
        state = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        weights[identity] = {name: value.numpy().tobytes() for name, value in state.items()}
        rows[identity] = json.loads((folder / "done.json").read_text())["rows"]
    best = [trial.values for trial in summary.best]
    return {"trials": trials, "weights": weights, "rows": rows, "best": best, "test": summary.about["test"]}


# the command

STARTED: list["subprocess.Popen[str]"] = []


@pytest.fixture(autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def start(folder: Path, *options: str, stand_after: int | None = None) -> "subprocess.Popen[str]":
    """`spd-bench sweep`, in a process group of its own as a terminal has it, without MLflow, which takes long."""
    for name in ("tmp", "site"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "site" / "mlflow.py").write_text("raise ImportError('left out of this test')")
    (folder / "site" / "sitecustomize.py").write_text(SITE)
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(folder / "site"), "TERM": "dumb"}
    environment |= {"STAND_AFTER": str(stand_after)}
    code = "from spd_bench.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "sweep", "sweep.yaml", "--device", "cpu", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


SITE = """
import glob, os, time
from spd_bench.process.watch import Watch

def at(self, stage, before=Watch.at):
    before(self, stage)
    trained = len(glob.glob("runs/trained/*/done.json"))
    if stage == "training at step STANDS_AT" and str(trained) == os.environ.get("STAND_AFTER"):
        while not self.stopping:
            time.sleep(0.02)
        self.check()

Watch.at = at
""".replace("STANDS_AT", str(STANDS_AT))
"""With STAND_AFTER finished trainings, the work stands still in the middle of the next one."""


def await_training(folder: Path, process: "subprocess.Popen[str]", trained: int) -> None:
    """Returns once the worker stands in the training after this many finished ones."""

    def stands() -> bool:
        assert process.poll() is None, process.communicate()
        crumbs = map(read_crumb, (folder / "tmp").glob("spd-bench-*/crumb"))
        there = any(crumb is not None and crumb.stage == f"training at step {STANDS_AT}" for crumb in crumbs)
        return there and len(list((folder / "runs" / "trained").glob("*/done.json"))) == trained

    wait_until(stands, "for a training")


def interrupt(folder: Path, process: "subprocess.Popen[str]") -> None:
    """As a terminal's Ctrl-C, which goes to all processes of the group."""
    os.killpg(process.pid, signal.SIGINT)


def outlast(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Nothing: the time limit passes while the worker stands still."""


def signalled(name: str) -> Callable[[Path, "subprocess.Popen[str]"], None]:
    return lambda folder, process: process.send_signal(getattr(signal, name))


TIME_LIMIT_S = 120
"""Longer than a start takes on a busy machine."""
STOPS = {
    "SIGTERM": (signalled("SIGTERM"), 143),
    "SIGINT": (interrupt, 130),
    "SIGUSR1": (signalled("SIGUSR1"), 75),
    "the time limit": (outlast, 75),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("text", "steps", "stops"),
    [
        (RANDOM, STEPS, ["SIGTERM", "SIGINT"] if EVERYTHING else ["SIGTERM"]),
        pytest.param(
            LEARNING,
            3 * STEPS,
            ["SIGINT", "SIGUSR1", "the time limit", "SIGTERM"],
            marks=pytest.mark.skipif(not EVERYTHING, reason="for nox -s reliability"),
        ),
    ],
    ids=["random", "tpe"],
)
@pytest.mark.usefixtures("no_costs")
def test_a_sweep_that_is_stopped_ends_as_an_undisturbed_one(
    tiny_suite: Callable[[int], Path], text: str, steps: int, stops: list[str]
) -> None:
    folder = tiny_suite(steps)
    written(folder, text)
    run_here(folder, "undisturbed")
    for trained, reason in enumerate(stops):
        stop, code = STOPS[reason]
        limit = ("--time-limit", f"{TIME_LIMIT_S}s") if stop is outlast else ()
        process = start(folder, *limit, stand_after=trained)
        await_training(folder, process, trained)
        stop(folder, process)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, err
        assert f"stopped by {reason}; the same command goes on from here:\n  spd-bench sweep" in err
        assert not list((folder / "tmp").iterdir())
        # the trial at hand has left its checkpoint and is queued again at once
        half = [path for path in (folder / "runs/trained").iterdir() if not (path / "done.json").exists()]
        (at,) = (torch.load(path / "checkpoint.pt", weights_only=True)["step"] for path in half)
        assert 2 <= at < steps
        summary = show_sweep("tiny", root=folder / "runs")
        assert summary.count("complete") + summary.count("pruned") == trained
        assert (summary.count("waiting"), summary.count("running"), summary.count("failed")) == (1, 0, 0)

    process = start(folder)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    total = len(results(folder / "undisturbed")["trials"])
    assert f"{total} of {total} trials: {total} complete" in out
    assert results(folder / "runs") == results(folder / "undisturbed")


PLUGIN = """
import ctypes, os, time
from typing import Literal
from spd_components.depth_heads.calibrated_inverse import CalibratedInverse


class Bad(CalibratedInverse):
    class Config(CalibratedInverse.Config):
        how: Literal["ok", "segv", "exits", "hangs", "raises"] = "ok"

    def forward(self, state, scene):
        if not state.xy_BK2.is_meta:  # planning meets nothing
            if self.config.how == "segv":
                ctypes.string_at(0)
            if self.config.how == "exits":
                os._exit(0)
            if self.config.how == "hangs":
                time.sleep(10000)
            if self.config.how == "raises":
                raise KeyError("the plugin's own")
        return super().forward(state, scene)
"""
STALL_S = 60 if EVERYTHING else 600
ENDINGS = {
    "segv": "worker was killed by SIGSEGV while training at step 1 (bad_plugin.py:",
    "raises": 'KeyError: "the plugin\'s own"',
    "exits": "worker ended with exit code 0 without a word while training at step 1",
    "hangs": f"worker made no progress for {STALL_S} s while training at step 1 (bad_plugin.py:",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_component_that_ends_the_process_costs_its_trial_alone(tiny_suite: Callable[[int], Path]) -> None:
    folder = tiny_suite(2)
    info = folder / "site" / "bad_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spd_bench.depth_head]\nbad = bad_plugin:Bad\n")
    (folder / "site" / "bad_plugin.py").write_text(PLUGIN)
    endings = list(ENDINGS)[: None if EVERYTHING else 2]
    written(
        folder,
        "sweep: tiny\nsuite: tiny.yaml\nset: {base: {depth_head: bad}}\n"
        f"space: {{depth_head.how: {{choice: [{', '.join(endings)}, ok]}}}}\n"
        "objective: {metric: absrel, k: 256}\nsampler: grid\n",
    )
    process = start(folder, "--stall", str(STALL_S))
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    summary = show_sweep("tiny", root=folder / "runs")
    found = {trial.values["depth_head.how"]: trial for trial in summary.trials}
    assert len(summary.trials) == len(found) == len(endings) + 1
    assert found["ok"].state == "complete"
    for how in endings:
        assert found[how].state == "failed"
        assert ENDINGS[how] in found[how].notes["failure"]
        assert f"failed: trial {found[how].number}: {found[how].notes['failure']}" in out
    assert "trial 0: worker was killed by SIGSEGV while training at step 1" in err
    assert err.count("FAILED: ") == len(endings)
    assert err.count("going on with the others") == len(endings) - 1  # one only raises


# in this process


def test_a_pruner_hears_of_every_validation_once_wherever_a_training_is_stopped(
    tiny_suite: Callable[[int], Path],
) -> None:
    """Validations after steps 1, 3 and 4, of 2 images each; a stop may come between those images."""
    folder = tiny_suite(4)
    written(folder, RANDOM + "set: {train: {validations: 3}}\n")
    found = load_sweep(SweepRequest(sweep=str(folder / "sweep.yaml")))
    experiment = Experiment(found.suite({"train.lambda_si": 0.5, "train.weight_decay": 0.0}))
    told: list[tuple[int, float]] = []

    class Heard:
        """A claim that writes down what the pruner is told."""

        def report(self, number: int, value: float) -> None:
            told.append((number, value))

        def should_prune(self) -> bool:
            return False

    def trained(name: str, watch: Watch) -> None:
        trial = Trial(Runner(experiment, folder / name, torch.device("cpu"), watch=watch))
        report = PrunerReport(Heard(), Pruner(use="median"), "absrel", trial.marks)  # type: ignore[arg-type]
        trial.train(report)

    trained("undisturbed", watch := Countdown())
    undisturbed, stages = list(told), watch.stages
    assert [number for number, _ in undisturbed] == [1, 2, 3]
    said = [index + 1 for index, stage in enumerate(stages) if stage == "validating at image 2 of 2"]
    halves = said[::2]  # each is said before that image and, as nothing follows, after it
    assert len(halves) == 3
    for n in halves[::2]:
        told.clear()
        with pytest.raises(Stopped):
            trained(f"stopped{n}", Countdown(n))
        trained(f"stopped{n}", Watch())
        assert told == undisturbed, stages[n - 1]


@pytest.mark.slow
@pytest.mark.usefixtures("no_costs")
def test_what_has_ended_a_process_fails_at_once_where_it_comes_again(
    tiny_suite: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_suite(2)
    written(
        folder,
        "sweep: tiny\nsuite: tiny.yaml\nspace: {train.lambda_si: {choice: [0.25, 0.5]}}\n"
        "objective: {metric: absrel, k: 256}\nsampler: grid\n",
    )
    steps: list[int] = []
    advance = Training.advance
    monkeypatch.setattr(
        Training, "advance", lambda self, *args, **more: steps.append(1) or advance(self, *args, **more)
    )
    summary = run_here(folder, "runs", Watch(given_up={_key({"train.lambda_si": 0.25}): "it crashed"}))
    assert [(trial.state, trial.notes.get("failure")) for trial in summary.trials] == [
        ("failed", "it crashed"),
        ("complete", None),
    ]
    assert len(steps) == 2  # of the other alone


def test_the_trial_of_a_dead_process_is_found_by_its_supervisor_alone(tmp_path: Path) -> None:
    study = study_of(tmp_path, "random", 2)
    dead = study.claim(validations=2, session="mine")
    other = study.claim(validations=2, session="another's")
    assert not study.abandoned("")
    (found,) = study.abandoned("mine")
    assert (found.number, found.values) == (dead.number, dead.values)
    found.fail("it crashed")
    assert not study.abandoned("mine")
    assert study.claim(validations=2).running == 1  # no third trial takes its place
    assert [trial.state for trial in study.summary().trials] == ["failed", "running"]
    assert other.number == 1


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_stops_do_not_change_what_a_sampler_proposes_next(tmp_path: Path, sampler: str) -> None:
    """One worker; every second trial is stopped once."""
    proposed = []
    for name in ("undisturbed", "stopped"):
        (tmp_path / name).mkdir()
        study = study_of(tmp_path / name, sampler, 8)
        for number in range(8):
            if name == "stopped" and number % 2:
                with pytest.raises(Stopped), study.claim(validations=2):
                    raise Stopped("SIGTERM")
            with study.claim(validations=2) as claim:
                claim.finish([abs(claim.values["train.lambda_si"] - 0.3)])
        assert study.claim(validations=2) is None
        proposed.append([trial.values for trial in study.summary().trials])
    assert len(proposed[0]) == 8
    assert proposed[1] == proposed[0]


def study_of(root: Path, sampler: str, trials: int) -> Study:
    """A study of no suite."""
    plain = {
        "sweep": "tiny",
        "suite": "smoke",
        "space": {"train.lambda_si": {"float": [0.1, 1.0]}, "routing.r": {"int": [1, 64]}},
        "objective": [{"metric": "absrel", "k": 256}],
        "sampler": {"use": sampler, "startup": 3},
        "trials": trials,
    }
    sweep = Sweep.model_validate_json(json.dumps(plain))
    return Study(Database(default_url(root), root), "tiny-0", sweep, {"sweep": plain})
