"""Asked to stop, by a signal or the clock, a suite stops within a step, and ends as if it had never stopped."""

import contextlib
import json
import os
import random
import re
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
from tiny import ON_DISK, PATIENCE_S, STANDING, Countdown, leave_out_costs, wait_until, write_frames, write_suite

from spd_bench.errors import ConfigError, Stopped
from spd_bench.process.watch import Watch, read_crumb
from spd_bench.report.collect import collect, record
from spd_bench.report.comparison import caption
from spd_bench.run import session
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request
from spd_bench.run.runner import Runner
from spd_bench.score.predict import load
from spd_bench.train.callback import Callback


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB-D frames of 24×32 whose depth rises to the right."""
    return write_frames(tmp_path_factory.mktemp("frames"))


def planned(suite: Path) -> plan.Experiment:
    return plan.Experiment(choose.choose(Request(suite=str(suite))).suite)


def finish(experiment: plan.Experiment, root: Path, watch: Watch) -> Path:
    """Runs the suite's first job and returns its folder."""
    outcome = Runner(experiment, root, torch.device("cpu"), watch=watch).run(experiment.jobs[0], Callback())
    assert not outcome.failure
    return outcome.folder


def results(folder: Path) -> dict[str, Any]:
    """Returns everything of a run but times: the log's rows, the weights, the predictions and the scores."""
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


def test_a_run_that_is_stopped_anywhere_ends_as_an_undisturbed_one(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_costs(monkeypatch)
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


def test_models_side_by_side_are_stopped_together(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_out_costs(monkeypatch)
    suite = write_suite(tmp_path / "tiny.yaml", frames, baselines="[bilinear_mlp]", augment="{enabled: true}")
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
    leave_out_costs(monkeypatch)
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
import os
import sys
import time
from types import SimpleNamespace
from spd_bench import cli
from spd_bench.process import supervise
from spd_bench.process.supervise import Limits, supervised

passed_s = lambda: time.monotonic() + 550 * os.path.exists("time-has-passed")
supervise.time = SimpleNamespace(monotonic=passed_s, sleep=time.sleep)
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
        cwd=tmp_path,
        start_new_session=True,
    )
    assert process.stderr is not None
    return process, int(process.stderr.readline())  # what a worker prints goes there


def assert_stopped(process: "subprocess.Popen[str]", worker: int, code: int, reason: str) -> None:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, err
    assert "did not stop within" not in out
    assert err.startswith(f"stopped by {reason}; the same command goes on from here:\n  spd-bench ")
    assert "Traceback" not in out + err
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 75)])
def test_signals_stop_the_work_with_their_exit_codes(tmp_path: Path, name: str, code: int, to_group: bool) -> None:
    process, worker = start(tmp_path, "forever")
    (os.killpg if to_group else os.kill)(process.pid, getattr(signal, name))
    assert_stopped(process, worker, code, name)


def test_time_limit_stops_the_work_and_is_resumable(tmp_path: Path) -> None:
    process, worker = start(tmp_path, "forever", total_s=500)
    (tmp_path / "time-has-passed").touch()
    assert_stopped(process, worker, 75, "the time limit")


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """The work is stuck in C, so that it cannot stop in good order."""
    process, worker = start(tmp_path, "in_c")
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None  # still waiting for it

    def interrupted_again() -> bool:
        os.kill(process.pid, signal.SIGINT)  # one that comes before the first was handled counts as the same
        return process.poll() is not None

    wait_until(interrupted_again, "for the command to end", every_s=0.3)
    assert_stopped(process, worker, 130, "SIGINT")


# the command

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
STEPS = 12
PHASES = ("encoding view", "training at step", "scoring image", "writing the report")
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 75, "twice": 130, "SIGKILL": -9}
"""Exit code of each; "twice" is a second SIGINT on the heels of the first."""
ROUNDS = [(("SIGINT", "SIGTERM", "SIGUSR1", "SIGKILL"), "process", 2)]
"""What happens in each phase, to a process or to its group, with this many processes that read data."""
if EVERYTHING:
    _names = tuple(SIGNALS)
    ROUNDS = [
        ((_names * 2)[first : first + len(PHASES)], target, workers)
        for first in range(len(_names))
        for target, workers in (("group", 2), ("process", 0))
    ]


def await_stage(command: "Command", process: "subprocess.Popen[str]", stage: str) -> None:
    """Returns once the worker stands in a stage, or has ended before."""
    wait_until(lambda: process.poll() is not None or f"{command.stage()} ".startswith(f"{stage} "), stage)


class Command:
    """`spd-bench run` in a folder and a process group of its own, whose processes can be found."""

    def __init__(self, folder: Path, suite: Path, **environment: str) -> None:
        self.folder, self.suite = folder, suite
        site = folder / "site"
        site.mkdir(exist_ok=True)
        self._temporary = tempfile.TemporaryDirectory(prefix="s-")  # sockets need a short path
        self.temporary = Path(self._temporary.name)
        (site / "mlflow.py").write_text("raise ImportError('left out of this test')")
        (site / "sitecustomize.py").write_text(STANDING)
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
        """Runs the command to its end, undisturbed; returns the folder of the training."""
        process = self.start()
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        (checkpoint,) = (self.folder / "runs/trained").glob("v13-*/checkpoint.pt")
        return checkpoint.parent

    def stage(self) -> str:
        """Returns the stage that the worker reports."""
        crumbs = map(read_crumb, self.temporary.glob("spd-bench-*/crumb"))
        return next((crumb.stage for crumb in crumbs if crumb is not None), "")

    def processes(self) -> list[int]:
        """Returns the ids of the processes whose folder for temporary files is this one, or lies in it."""
        mark, found = re.compile(re.escape(f"TMPDIR={self.temporary}".encode()) + b"[/\0]"), []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark.search((path / "environ").read_bytes()) and "\nState:\tZ" not in (path / "status").read_text():
                    found.append(int(path.name))
        return found


@pytest.fixture(scope="module")
def whole(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of an undisturbed command."""
    folder = tmp_path_factory.mktemp("whole")
    suite = write_suite(folder / "tiny.yaml", frames, steps=STEPS, more=ON_DISK)
    return results(Command(folder, suite).finish())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.parametrize(("signals", "target", "workers"), ROUNDS)
def test_a_command_that_is_stopped_in_every_phase_ends_as_if_it_had_not_been(
    frames: Path, tmp_path: Path, whole: dict[str, Any], signals: tuple[str, ...], target: str, workers: int
) -> None:
    suite = write_suite(tmp_path / "tiny.yaml", frames, steps=STEPS, more=ON_DISK)
    suite.write_text(suite.read_text().replace("train: {", f"train: {{workers: {workers}, "))
    command = Command(tmp_path, suite)
    for phase, name in zip(PHASES, signals, strict=True):
        at = f"{phase} {random.randint(2, STEPS - 3) if EVERYTHING else 5}" if phase.startswith("training") else phase
        process = command.start(STAND_AT=at)
        await_stage(command, process, at)
        stage = command.stage()
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
        wait_until(lambda: not command.processes(), told)
        if phase == "training at step" and name not in ("twice", "SIGKILL"):
            (checkpoint,) = (tmp_path / "runs/trained").glob("v13-*/checkpoint.pt")
            at = torch.load(checkpoint, weights_only=True)["step"]
            assert int(stage.rpartition(" ")[2]) - 1 <= at < STEPS, told
    assert results(command.finish()) == whole
    assert (tmp_path / "runs/reports/tiny.html").exists()
    assert not list((tmp_path / "runs").rglob(".*.tmp"))
