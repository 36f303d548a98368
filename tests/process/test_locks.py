"""One process leads a suite, others are told who it is or help; every job is done by one of them, once."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import SMALL, V13, write_frames

from spd_bench.errors import BusyError
from spd_bench.process.locks import holder, suite_lock, training_lock
from spd_bench.process.watch import Watch, read_crumb
from spd_bench.run import session
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Request
from spd_bench.store import records
from spd_bench.train import loop

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
PATIENCE_S = 600
SUITE = (
    "\nsuite: shared\n"
    + V13
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 2, batch_size: 2, queries: 8, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [8], k1_draws: 1}}
seeds: [0]
axes: {{}}
baselines: [constant, bilinear_mlp]
report: {{primary: {{metric: absrel, k: 8}}, family: []}}
"""
)


@contextmanager
def elsewhere(code: str, *args: str) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds what `code` takes, until its input closes."""
    imports = "import sys; from pathlib import Path; from spd_bench.process.locks import *"
    whole = f"{imports}\nwith {code}:\n print('held', flush=True)\n input()"
    process = subprocess.Popen(
        [sys.executable, "-c", whole, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()


LEADS = "suite_lock(Path(sys.argv[1]), 'smoke', command='spd-bench run smoke')"
TRAINS = "training_lock(Path(sys.argv[1]))"


def test_a_training_is_held_by_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "trained" / "v13-s0-abc"
    same = tmp_path / "trained" / "another-name-s0-abc"  # known by its identity
    other = tmp_path / "trained" / "v13-s1-def"
    with elsewhere(TRAINS, str(folder)) as process:
        for busy in (folder, same):
            with pytest.raises(BusyError), training_lock(busy, wait=False):
                pass
        with training_lock(other, wait=False):
            pass
        process.kill()
        with training_lock(folder), training_lock(folder, wait=False):  # free at once; and one may take it again
            pass


def test_who_leads_a_suite_is_named(tmp_path: Path) -> None:
    with elsewhere(LEADS, str(tmp_path)) as process:
        leader = holder(tmp_path, "smoke")
        assert leader is not None
        assert leader.pid == process.pid
        said = f"process {process.pid} on .*: spd-bench run smoke"
        with pytest.raises(BusyError, match=said) as caught, suite_lock(tmp_path, "smoke", command="x"):
            pass
        assert caught.value.exit_code == 6
        assert "--join" in str(caught.value)
    with suite_lock(tmp_path, "smoke", command="x") as me:  # it was killed, and left its name
        assert me.session != leader.session
    assert sorted(path.name for path in tmp_path.iterdir()) == [".smoke.lock"]


def test_the_second_starter_is_refused_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from spd_bench.cli import main; main()", "run", "smoke", "--runs", str(tmp_path)]
    with elsewhere(LEADS, str(tmp_path)) as process:
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert time.monotonic() - started < 10  # 0.5 s where nothing else runs: it imports nothing heavy
    assert done.returncode == 6
    assert done.stderr.startswith(f'error: {tmp_path}: suite "smoke" is being run by another process (process ')
    assert f"process {process.pid} on " in done.stderr


def test_a_refused_suite_leaves_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from spd_bench.cli import main; main()", "run", "smoke", "--device", "abacus"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    write_frames(tmp_path / "frames")
    path = tmp_path / "shared.yaml"
    path.write_text(SUITE.format(root=tmp_path / "frames"), encoding="utf-8")
    return path


def test_every_job_is_done_once_by_whoever_is_free(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One helper while another process has a job; then the leader, which waits for that and does it when it is free."""
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    trainings: list[str] = []
    original = loop.train
    monkeypatch.setattr(loop, "train", lambda *args, **more: (trainings.append(""), original(*args, **more)))
    root = suite.parent / "runs"
    request = Request(suite=str(suite), root=root, device="cpu")
    rows, _ = plan_suite(Request(suite=str(suite), root=root))
    taken = next(row for row in rows if row["composition"] == "v13")
    with elsewhere(TRAINS, str(root / "trained" / f"x-{taken['identity']}")) as process:
        helper = Watch(session="one", joined=True, leads=False)
        helped = session.run_suite(request, helper)
        assert (helped.left, helped.failed, helped.table) == (1, 0, "")
        assert not (root / "suites").exists()  # who leads writes what the table is made of
        assert len(trainings) == 1  # bilinear_mlp; a constant has no steps
        threading.Timer(1.0, process.kill).start()
        led = session.run_suite(request, Watch(session="one"))
    assert led.failed == 0
    assert len(trainings) == 2  # and v13
    assert records.read_record(root / "suites" / "shared.json")["unfinished"] == 0


def test_what_failed_for_a_helper_is_not_tried_again_in_its_session(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spd_baselines.constant import Constant

    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    suite.write_text(suite.read_text().replace("constant, bilinear_mlp", "constant"), encoding="utf-8")
    request = Request(suite=str(suite), root=suite.parent / "runs", device="cpu")
    tries: list[int] = []
    prepare = Constant.prepare

    def broken(self: Constant, features: object) -> None:
        if not self.median_m.is_meta:
            tries.append(1)
            raise RuntimeError("broken")

    monkeypatch.setattr(Constant, "prepare", broken)
    helper = Watch(session="one", joined=True, leads=False)
    assert session.run_suite(request, helper).failed == 1
    assert session.run_suite(request, Watch(session="one")).failed == 1
    assert len(tries) == 1
    monkeypatch.setattr(Constant, "prepare", prepare)
    assert session.run_suite(request, Watch(session="two")).failed == 0


# four real processes

JOBS = 24 if EVERYTHING else 8


@pytest.fixture
def shared(suite: Path) -> Path:
    """A suite of many small jobs, half of them baselines, whose features are kept on disk."""
    seeds = ", ".join(map(str, range(JOBS // 2)))
    text = (
        suite.read_text().replace("seeds: [0]", f"seeds: [{seeds}]").replace("constant, bilinear_mlp", "bilinear_mlp")
    )
    text = text.replace("data:\n", "data:\n  cache: disk\n").replace("steps: 2", "steps: 6").replace(V13, SMALL)
    suite.write_text(text, encoding="utf-8")
    (suite.parent / "site").mkdir()
    (suite.parent / "site/sitecustomize.py").write_text(SITE)
    if not EVERYTHING:  # its start-up costs more than the trainings
        (suite.parent / "site/mlflow.py").write_text("raise ImportError('left out of this test')")
    return suite


SITE = """
import os, time
from spd_bench.process.watch import Watch

def at(self, stage, before=Watch.at):
    before(self, stage)
    if stage.startswith("training at step"):
        time.sleep(float(os.environ.get("STEP_S", "0")))

Watch.at = at
"""


def joining(suite: Path, number: int, *, step_s: float = 0) -> "subprocess.Popen[str]":
    """`spd-bench run --join`, with a folder for its temporary files of its own."""
    mine = suite.parent / f"tmp-{number}"
    mine.mkdir()
    given = {"TMPDIR": str(mine), "PYTHONPATH": str(suite.parent / "site"), "OMP_NUM_THREADS": "1"}
    given["STEP_S"] = str(step_s)
    command = [sys.executable, "-c", "from spd_bench.cli import main; main()", "run", suite.name, "--join"]
    return subprocess.Popen(
        [*command, "--device", "cpu"],
        cwd=suite.parent,
        env=os.environ | given,
        stdout=(suite.parent / f"{number}.out").open("w"),
        stderr=(suite.parent / f"{number}.err").open("w"),
        text=True,
        start_new_session=True,
    )


def told(suite: Path, number: int, stream: str = "err") -> str:
    return (suite.parent / f"{number}.{stream}").read_text()


def assert_complete(suite: Path) -> None:
    """The suite's record, its folders and its report are those of a suite that ran to its end."""
    record = records.read_record(suite.parent / "runs/suites/shared.json")
    assert (record["unfinished"], [row["failure"] for row in record["rows"]]) == (0, [""] * JOBS)
    assert len(list((suite.parent / "runs/trained").iterdir())) == JOBS
    assert (suite.parent / "runs/reports/shared.html").exists()
    assert not (suite.parent / "runs/.shared.holder.json").exists()


@pytest.mark.slow
def test_four_processes_train_every_job_once(shared: Path) -> None:
    processes = [joining(shared, number) for number in range(4)]
    codes = [process.wait(timeout=PATIENCE_S) for process in processes]
    said = "\n".join(told(shared, number) for number in range(4))
    assert codes == [0, 0, 0, 0], said
    assert_complete(shared)
    # a process says of a job that it found done that it was
    done = re.findall(r"^\[\d+/\d+\] (\S+ seed \d+): absrel@8 [\d.]+  ", said, re.MULTILINE)
    assert sorted(done) == sorted(f"{name} seed {i}" for name in ("small", "bilinear_mlp") for i in range(JOBS // 2)), (
        said
    )
    assert said.count("helping process") == 3
    assert sum("small" in told(shared, number, "out") for number in range(4)) == 1  # the leader's table


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker may outlive its supervisor for a moment")
def test_who_helps_takes_over_when_the_leader_is_killed(shared: Path) -> None:
    leader = joining(shared, 0, step_s=PATIENCE_S)  # it never gets to its second step
    await_stage(shared, 0, leader)
    helper = joining(shared, 1)
    await_stage(shared, 1, helper)
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    code = helper.wait(timeout=PATIENCE_S)
    said = told(shared, 1)
    assert code == 0, said
    assert f"helping process {leader.pid} on" in said
    assert_complete(shared)
    assert "report:" in told(shared, 1, "out")
    assert told(shared, 0, "out") == ""


def await_stage(suite: Path, number: int, process: "subprocess.Popen[str]") -> None:
    """Returns once a process is training."""
    while process.poll() is None:
        crumbs = map(read_crumb, (suite.parent / f"tmp-{number}").glob("spd-bench-*/crumb"))
        if any(crumb is not None and crumb.stage.startswith("training at step") for crumb in crumbs):
            return
        time.sleep(0.01)
    pytest.fail(told(suite, number))
