"""Asked to stop, by a signal or the clock, a suite stops within a step, and ends as if it had never stopped."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import V13, write_frames

from spd_bench.errors import ConfigError, Stopped
from spd_bench.process.watch import Watch, read_crumb
from spd_bench.report.collect import collect, record
from spd_bench.report.comparison import caption
from spd_bench.run import choose, plan, session
from spd_bench.run.request import Request
from spd_bench.run.runner import Runner
from spd_bench.score.predict import load
from spd_bench.train.callback import Callback

SUITE = (
    "\nsuite: tiny\n"
    + V13
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: {augmented}}}
train: {{steps: {steps}, batch_size: 2, queries: 8, lr: 1e-3, precision: fp32, validations: 2}}
eval: {{protocol: full_frame, k: [1, 8], k1_draws: 2}}
seeds: [0]
axes: {{}}
baselines: {baselines}
report: {{primary: {{metric: absrel, k: 8}}, family: []}}
"""
)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB-D frames of 24×32 whose depth rises to the right."""
    return write_frames(tmp_path_factory.mktemp("frames"))


def write_suite(path: Path, frames: Path, *, steps: int = 4, baselines: str = "[]", augmented: str = "false") -> Path:
    path.write_text(SUITE.format(root=frames, steps=steps, baselines=baselines, augmented=augmented), encoding="utf-8")
    return path


class Countdown(Watch):
    """Stops the work the n-th time that it says where it is; `stages` is what it said."""

    def __init__(self, n: int = 10**9) -> None:
        super().__init__()
        self.left, self.stages = n, list[str]()

    def at(self, stage: str) -> None:
        self.stages.append(stage)
        self.left -= 1
        if self.left == 0:
            self.stop("SIGTERM")
        super().at(stage)


def planned(suite: Path) -> plan.Experiment:
    return plan.Experiment(choose.choose(Request(suite=str(suite))).suite)


def finish(experiment: plan.Experiment, root: Path, watch: Watch) -> Path:
    """Runs the suite's first job; its folder."""
    outcome = Runner(experiment, root, torch.device("cpu"), watch=watch).run(experiment.jobs[0], Callback())
    assert not outcome.failure
    return outcome.folder


def results(folder: Path) -> dict[str, Any]:
    """Everything of a run that is not a time: the log's rows, the weights, the predictions and the numbers."""
    predictions = load(next(folder.glob("eval-*/predictions.h5")))
    weights = torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
    return {
        "rows": json.loads((folder / "done.json").read_text())["rows"],
        "weights": {name: value.numpy().tobytes() for name, value in weights.items()},
        "frames": predictions.frames,
        "predicted": predictions.predicted_m_IP.tobytes(),
        "points": predictions.uv_img_IP2.tobytes(),
        "scores": json.loads(next(folder.glob("eval-*/scores.json")).read_text())["scores"],
    }


def test_a_run_that_is_stopped_anywhere_ends_as_an_undisturbed_one(frames: Path, tmp_path: Path) -> None:
    experiment = planned(write_suite(tmp_path / "tiny.yaml", frames))
    undisturbed = results(finish(experiment, tmp_path / "a", watch := Countdown()))
    stages = watch.stages
    # building, 4 steps, two validations of 2 images, 4 test images
    assert {stage.split(" at ")[0].split(" of ")[0] for stage in stages} >= {"building the model", "training"}
    assert sum(stage.startswith("training at step") for stage in stages) == 5
    assert sum(stage.startswith("validating at image") for stage in stages) == 4
    assert sum(stage.startswith("scoring image") for stage in stages) == 5
    for n in (3, stages.index("validating at image 2 of 2") + 1, len(stages) - 2):
        with pytest.raises(Stopped):
            finish(experiment, tmp_path / f"b{n}", watch := Countdown(n))
        assert len(watch.stages) == n  # it went no further
        folder = finish(experiment, tmp_path / f"b{n}", again := Countdown())
        assert results(folder) == undisturbed, stages[n - 1]
        if stages[n - 1].startswith("training at step"):  # nothing that was trained is trained again
            assert again.stages[1] == stages[n - 1] == "training at step 2"


def test_models_side_by_side_are_stopped_together(frames: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "tiny.yaml", frames, baselines="[bilinear_mlp]", augmented="true")
    experiment, found = planned(suite), {}
    for name, stops in (("undisturbed", []), ("stopped", [5])):
        for n in [*stops, 10**9]:
            runner = Runner(experiment, tmp_path / name, torch.device("cpu"), watch=Countdown(n))
            try:
                runner.train_in_step(experiment.jobs, Callback())
                found[name] = [results(runner.run(job, Callback()).folder) for job in experiment.jobs]
            except Stopped:
                assert n < 10**9
    assert found["stopped"] == found["undisturbed"]
    assert len(found["stopped"]) == 2


def test_a_stopped_suite_keeps_the_table_of_what_is_done(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    suite = write_suite(tmp_path / "tiny.yaml", frames, baselines="[constant, bilinear_mlp]")
    request = Request(suite=str(suite), root=tmp_path / "runs", device="cpu")

    class Jobs(Watch):
        """Stops the work when it has chosen so many jobs and looks for another."""

        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count

        def at(self, stage: str) -> None:
            self.count -= stage == "choosing a job"
            if self.count < 0:
                self.stop("SIGTERM")
            super().at(stage)

    with pytest.raises(Stopped):
        session.run_suite(request, Jobs(0))
    assert record(tmp_path / "runs", "tiny")["unfinished"] == 3
    with pytest.raises(ConfigError, match='no run of suite "tiny" is finished yet'):
        collect(tmp_path / "runs")

    with pytest.raises(Stopped):
        session.run_suite(request, Jobs(2))
    comparison = collect(tmp_path / "runs")
    assert [row.name for row in comparison.rows] == ["v13", "constant"]
    assert comparison.unfinished == 1
    assert "UNFINISHED: 1 jobs are still to be done." in caption(comparison)

    finished = session.run_suite(request)
    assert finished.failed == 0
    assert [row.name for row in collect(tmp_path / "runs").rows] == ["v13", "constant", "bilinear_mlp"]
    assert "UNFINISHED" not in finished.table


# the processes

WORK = """
import os, re, time


def forever(arguments, watch):
    print(os.getpid(), flush=True)
    while True:
        watch.at("training at step 1")
        time.sleep(0.05)


def in_c(arguments, watch):
    watch.at("reading a file")
    print(os.getpid(), flush=True)
    re.match("(a+)+$", "a" * 64 + "b")  # tries 2**64 ways
"""
COMMAND = """
import sys
import tempfile
from spd_bench import cli
from spd_bench.process.supervise import Limits, supervised

cli.app = lambda: supervised(f"fake_work:{sys.argv[1]}", {}, limits=Limits(total_s=TOTAL), tell=print)
cli.main()
"""


def start(tmp_path: Path, work: str, total_s: float | None = None) -> tuple["subprocess.Popen[str]", int]:
    """A supervisor in a process group of its own, as a terminal has it, and the id of its worker."""
    (tmp_path / "fake_work.py").write_text(WORK, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.replace("TOTAL", str(total_s)), work],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    assert process.stderr is not None
    return process, int(process.stderr.readline())  # what a worker prints goes there


def assert_stopped(process: "subprocess.Popen[str]", worker: int, code: int, reason: str) -> None:
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert err.startswith(f"stopped by {reason}; the same command goes on from here:\n  spd-bench ")
    assert "Traceback" not in out + err
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_signals_stop_the_work_with_their_exit_codes(tmp_path: Path, name: str, code: int, to_group: bool) -> None:
    process, worker = start(tmp_path, "forever")
    started = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, getattr(signal, name))
    assert_stopped(process, worker, code, name)
    assert time.monotonic() - started < 5


def test_time_limit_stops_the_work_and_is_resumable(tmp_path: Path) -> None:
    process, worker = start(tmp_path, "forever", total_s=1)
    assert_stopped(process, worker, 75, "the time limit")


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """The work is stuck in C, so that it cannot stop in good order."""
    process, worker = start(tmp_path, "in_c")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # still waiting for it
    os.kill(process.pid, signal.SIGINT)
    assert_stopped(process, worker, 130, "SIGINT")


# the command

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
PATIENCE_S = 600
ORPHANED_S = 15
STEPS = 12
PHASES = ("encoding view", "training at step", "scoring image", "writing the report")
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "twice": 130, "SIGKILL": -9}
"""Exit code of each; "twice" is a second SIGINT on the heels of the first."""
ROUNDS = [  # what happens in each phase, to a process or to its group, with so many processes that read data
    (("SIGTERM", "SIGUSR1", "SIGINT", "twice"), "group", 2),
    (("SIGINT", "SIGTERM", "SIGUSR1", "SIGKILL"), "process", 0),
]
if EVERYTHING:
    _names = tuple(SIGNALS)
    ROUNDS = [
        ((_names * 2)[first : first + len(PHASES)], target, workers)
        for first in range(len(_names))
        for target, workers in (("group", 2), ("process", 0))
    ]
SITE = """
import os, time
from spd_bench.process.watch import Watch

def at(self, stage, before=Watch.at):
    self._stage = stage
    self._write()
    if stage.startswith(os.environ.get("SLOWLY", "-")):
        time.sleep(0.2)
    before(self, stage)

Watch.at = at
"""
"""A signal finds every process of the command in a phase that lasts."""


class Command:
    """`spd-bench run` in a folder, in a process group of its own, with every process that it starts to be found."""

    def __init__(self, folder: Path, suite: Path, **environment: str) -> None:
        self.folder, self.suite = folder, suite
        site = folder / "site"
        site.mkdir(exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(prefix="s-")  # sockets need a short path
        self.temporary = Path(self._temporary.name)
        (site / "mlflow.py").write_text("raise ImportError('left out of this test')")
        (site / "sitecustomize.py").write_text(SITE)
        self.environment = {"TMPDIR": str(self.temporary), "PYTHONPATH": str(site)} | environment

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        for left in self.temporary.iterdir():  # by a supervisor that was killed
            shutil.rmtree(left)
        command = [sys.executable, "-c", "from spd_bench.cli import main; main()", "run", str(self.suite)]
        return subprocess.Popen(
            [*command, "--device", "cpu"],
            cwd=self.folder,
            env=os.environ | self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> Path:
        """Run to its end, undisturbed; the folder of the training."""
        process = self.start()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        (checkpoint,) = (self.folder / "runs/trained").glob("v13-*/checkpoint.pt")
        return checkpoint.parent

    def stage(self) -> str:
        """What the worker says that it is at."""
        crumbs = map(read_crumb, self.temporary.glob("spd-bench-*/crumb"))
        return next((crumb.stage for crumb in crumbs if crumb is not None), "")

    def processes(self) -> list[int]:
        """Every process that runs with this folder for its temporary files."""
        mark, found = f"TMPDIR={self.temporary}\0".encode(), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes() and "\nState:\tZ" not in (path / "status").read_text():
                    found.append(int(path.name))
        return found


@pytest.fixture(scope="module")
def whole(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of the command that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    suite = write_suite(folder / "tiny.yaml", frames, steps=STEPS)
    suite.write_text(suite.read_text().replace("data:\n", "data:\n  cache: disk\n"))
    return results(Command(folder, suite).finish())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("signals", "target", "workers"), ROUNDS)
def test_a_command_that_is_stopped_in_every_phase_ends_as_if_it_had_not_been(
    frames: Path, tmp_path: Path, whole: dict[str, Any], signals: tuple[str, ...], target: str, workers: int
) -> None:
    suite = write_suite(tmp_path / "tiny.yaml", frames, steps=STEPS)
    text = suite.read_text().replace("data:\n", "data:\n  cache: disk\n")
    suite.write_text(text.replace("train: {", f"train: {{workers: {workers}, "))
    command = Command(tmp_path, suite)
    for phase, name in zip(PHASES, signals, strict=True):
        process = command.start(SLOWLY=phase)
        step = random.SystemRandom().randint(2, STEPS - 3)
        while process.poll() is None and not reached(stage := command.stage(), phase, step):
            time.sleep(0.002)
        before = command.processes()
        send = os.kill if target == "process" or name == "SIGKILL" else os.killpg
        for number in (signal.SIGINT, signal.SIGINT) if name == "twice" else (getattr(signal, name),):
            with contextlib.suppress(ProcessLookupError):
                send(process.pid, number)
            time.sleep(0.05)
        _, err = process.communicate(timeout=PATIENCE_S)
        told = f"{name} to the {target} {stage}: {err}"
        assert process.returncode == SIGNALS[name], told
        assert "Traceback" not in err, told
        assert len(before) >= 2, told
        if name != "SIGKILL":
            assert f"stopped by {name.replace('twice', 'SIGINT')}; the same command goes on from here" in err, told
        until = time.monotonic() + ORPHANED_S
        while (left := command.processes()) and time.monotonic() < until:
            time.sleep(0.1)
        assert not left, told
        if phase == "training at step" and name not in ("twice", "SIGKILL"):
            (checkpoint,) = (tmp_path / "runs/trained").glob("v13-*/checkpoint.pt")
            at = torch.load(checkpoint, weights_only=True)["step"]
            assert int(stage.rpartition(" ")[2]) - 1 <= at < STEPS, told
    assert results(command.finish()) == whole
    assert (tmp_path / "runs/reports/tiny.html").exists()
    assert not list((tmp_path / "runs").rglob(".*.tmp"))


def reached(stage: str, phase: str, step: int) -> bool:
    """Whether the worker is in a phase; of training, at a step or beyond it."""
    return stage.startswith(phase) and (not phase.startswith("training") or int(stage.rpartition(" ")[2]) >= step)
