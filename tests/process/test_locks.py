"""One process leads a suite, others help or are refused with its name; each job is done once, by one of them."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny import ON_DISK, PATIENCE_S, SMALL, STANDING, V13, leave_out_costs, wait_until, write_frames, write_suite

from spd_bench.errors import BusyError
from spd_bench.process.locks import holder, suite_lock, training_lock
from spd_bench.process.watch import Watch, read_crumb
from spd_bench.run import session
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Request
from spd_bench.store import records
from spd_bench.train import loop

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"


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
    """Before it imports anything that takes long."""
    code = (
        "import sys\nfrom spd_bench.cli import main\ntry:\n    main()\nfinally:\n"
        "    print(*{'torch', 'mlflow', 'scipy', 'h5py'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "run", "smoke", "--runs", str(tmp_path)]
    with elsewhere(LEADS, str(tmp_path)) as process:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert done.stdout == "\n"
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
    small = {"steps": 2, "marks": 1, "ks": "[8]", "draws": 1, "baselines": "[constant, bilinear_mlp]"}
    return write_suite(tmp_path / "shared.yaml", tmp_path / "frames", name="shared", **small)


def test_every_job_is_done_once_by_whoever_is_free(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One helper while another process has a job; then the leader, which waits for that and does it when it is free."""
    leave_out_costs(monkeypatch)
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

    leave_out_costs(monkeypatch)
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


# real processes

JOBS, PROCESSES = (24, 4) if EVERYTHING else (4, 2)


@pytest.fixture
def shared(suite: Path) -> Path:
    """A suite of many small jobs, half of them baselines, whose features are kept on disk."""
    seeds = ", ".join(map(str, range(JOBS // 2)))
    text = (
        suite.read_text().replace("seeds: [0]", f"seeds: [{seeds}]").replace("constant, bilinear_mlp", "bilinear_mlp")
    )
    text = text.replace("data:\n", "data:\n" + ON_DISK).replace("steps: 2", "steps: 6").replace(V13, SMALL)
    suite.write_text(text, encoding="utf-8")
    (suite.parent / "site").mkdir()
    (suite.parent / "site/sitecustomize.py").write_text(STANDING)
    if not EVERYTHING:  # its start-up costs more than the trainings
        (suite.parent / "site/mlflow.py").write_text("raise ImportError('left out of this test')")
    return suite


def joining(suite: Path, number: int) -> "subprocess.Popen[str]":
    """Starts `spd-bench run --join`; its first training stands still until the file go-`number` is there."""
    mine = suite.parent / f"tmp-{number}"
    mine.mkdir()
    given = {"TMPDIR": str(mine), "PYTHONPATH": str(suite.parent / "site"), "OMP_NUM_THREADS": "1"}
    given |= {"STAND_AT": "training at step", "STAND_UNTIL": str(suite.parent / f"go-{number}")}
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
def test_processes_at_one_suite_train_every_job_once(shared: Path) -> None:
    processes = [joining(shared, number) for number in range(PROCESSES)]

    def everything_said() -> str:
        return "\n".join(told(shared, number) for number in range(PROCESSES))

    def all_have_begun() -> bool:
        ended = any(process.poll() is not None for process in processes)
        return ended or everything_said().count("helping process") == PROCESSES - 1

    wait_until(all_have_begun, "for one process to lead and the others to help")
    for number in range(PROCESSES):
        (shared.parent / f"go-{number}").touch()
    codes = [process.wait(timeout=PATIENCE_S) for process in processes]
    said = everything_said()
    assert codes == [0] * PROCESSES, said
    assert_complete(shared)
    # a process says of a job that it found done that it was
    done = re.findall(r"^\[\d+/\d+\] (\S+ seed \d+): absrel@8 [\d.]+  ", said, re.MULTILINE)
    assert sorted(done) == sorted(f"{name} seed {i}" for name in ("small", "bilinear_mlp") for i in range(JOBS // 2)), (
        said
    )
    assert said.count("helping process") == PROCESSES - 1
    assert sum("small" in told(shared, number, "out") for number in range(PROCESSES)) == 1  # the leader's table


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker may outlive its supervisor for a moment")
def test_who_helps_takes_over_when_the_leader_is_killed(shared: Path) -> None:
    leader = joining(shared, 0)  # it never gets to its second step
    await_training(shared, 0, leader)
    helper = joining(shared, 1)
    await_training(shared, 1, helper)
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
    (shared.parent / "go-1").touch()
    code = helper.wait(timeout=PATIENCE_S)
    said = told(shared, 1)
    assert code == 0, said
    assert f"helping process {leader.pid} on" in said
    assert_complete(shared)
    assert "report:" in told(shared, 1, "out")
    assert told(shared, 0, "out") == ""


def await_training(suite: Path, number: int, process: "subprocess.Popen[str]") -> None:
    """Returns once a process stands in its first training."""

    def there() -> bool:
        assert process.poll() is None, told(suite, number)
        crumbs = map(read_crumb, (suite.parent / f"tmp-{number}").glob("spd-bench-*/crumb"))
        return any(crumb is not None and crumb.stage.startswith("training at step") for crumb in crumbs)

    wait_until(there, "for a training")
