"""Several workers at one sweep: killed ones lose nothing, and nothing is done twice; on SQLite and on PostgreSQL."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from tiny import PATIENCE_S, wait_until

from spd_bench.errors import ConfigError, ResourceError, SpdError
from spd_bench.sweep.show import show_sweep
from spd_bench.sweep.study import Database

SWEEP = """
sweep: tiny
suite: tiny.yaml
space:
  train.lambda_si: {float: [0.1, 1.0], log: true}
  train.weight_decay: {float: [0.0, 0.1]}
objective: {metric: absrel, k: 256}
sampler: random
trials: 5
"""
SLOW = """
import os, time
from spd_bench.model import compose
from spd_bench.sweep import study, worker
from spd_bench.train.training import Training
study.HEARTBEAT_S, study.GRACE_S, worker.POLL_S = 0.5, 15, 0.3
compose.check = lambda *args, **more: None  # slow, and tested elsewhere
advance = Training.advance
def told(training, *args, **more):
    with open("steps.txt", "a") as log:
        log.write(f"{training.checkpoint.parent.name} {training.step}\\n")
    time.sleep(0.3)
    return advance(training, *args, **more)
Training.advance = told
work = worker.work_on_sweep
with open("workers.txt", "a") as log:
    log.write(f"{os.getppid()} {os.getpid()}\\n")
"""
"""The work with signs of life often enough for a test, slow enough to be killed, and every step written down."""
COMMAND = """
from spd_bench import cli
from spd_bench.sweep import launch
supervised = launch.supervised
launch.supervised = lambda call, *args, **more: supervised("slow:work", *args, **more)
cli.main()
"""


@pytest.fixture
def sweep(tiny_suite: Callable[[int], Path]) -> Path:
    path = tiny_suite(4) / "sweep.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_worker_stays() -> Iterator[None]:
    yield
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def worker(sweep: Path, *options: str) -> subprocess.Popen[str]:
    """Starts a worker under its supervisor, without MLflow."""
    folder = sweep.parent
    (folder / "slow.py").write_text(SLOW, encoding="utf-8")
    (folder / "mlflow.py").write_text("raise ImportError('left out of this test')", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "sweep", str(sweep), "--runs", "runs", *options],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    STARTED.append(process)
    return process


def steps(sweep: Path) -> list[str]:
    path = sweep.parent / "steps.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def worker_of(sweep: Path, supervisor: "subprocess.Popen[str]") -> int:
    """Returns the id of the process that works for a supervisor."""
    lines = (sweep.parent / "workers.txt").read_text(encoding="utf-8").splitlines()
    workers = dict(map(int, line.split()) for line in lines)
    return workers[supervisor.pid]


def is_gone(process: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


def kill_two_of_four(sweep: Path, *options: str) -> list[str]:
    """Kills two workers in the middle of their first trials; returns what the two others print to their end."""
    doomed = [worker(sweep, *options) for _ in range(2)]
    wait_until(lambda: len(steps(sweep)) >= 3 or any(process.poll() is not None for process in doomed))
    assert [process.poll() for process in doomed] == [None, None], [process.communicate() for process in doomed]
    others = [worker(sweep, *options) for _ in range(2)]
    for process in doomed:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if sys.platform == "linux":  # elsewhere a worker that is stuck in C outlives its supervisor
            wait_until(partial(is_gone, worker_of(sweep, process)))
    done = [process.communicate(timeout=PATIENCE_S) for process in others]
    assert [process.returncode for process in others] == [0, 0], done
    return [out for out, _ in done]


def check_nothing_lost_nothing_twice(sweep: Path, storage: str | None = None) -> None:
    summary = show_sweep("tiny", root=sweep.parent / "runs", storage=storage)
    assert [trial.state for trial in summary.trials] == ["complete"] * 5
    repeated = Database(storage or f"sqlite:///{sweep.parent}/runs/sweeps.db", sweep.parent / "runs")
    assert len(repeated.names()) == 1
    folders = {trial.notes["folder"] for trial in summary.trials}
    assert len(folders) == 5
    taken = Counter(steps(sweep))
    again = {step: count for step, count in taken.items() if count > 1}
    # five trainings of four steps; each of two killed workers costs what it did since its last checkpoint: with one
    # every other step, at most two steps
    assert len(taken) == 5 * 4
    assert sum(count - 1 for count in again.values()) <= 2 * 2
    tested = list((sweep.parent / "runs" / "trained").glob("*/eval-*/scores.json"))
    assert len(tested) == 1  # the chosen trial's, once


EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not EVERYTHING, reason="for nox -s reliability; test_sweep.py loses workers in one process")
def test_two_of_four_workers_are_killed_and_nothing_is_lost_or_done_twice(sweep: Path) -> None:
    printed = kill_two_of_four(sweep)
    assert all("5 of 5 trials: 5 complete" in out for out in printed)
    check_nothing_lost_nothing_twice(sweep)


def server_programs() -> Path | None:
    """Returns the folder of PostgreSQL's server programs, None without a server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@pytest.fixture
def postgres() -> Iterator[str]:
    """Starts a real server for one test and yields its address."""
    psycopg = pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    programs = server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed here")
    user = postgres_user()
    # not tmp_path: the server's user may not enter that, and a socket's path must be short
    with tempfile.TemporaryDirectory(prefix="spd-pg-") as name:
        folder = Path(name)
        if user:
            os.chown(folder, user["user"], user["group"])
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        command = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "spd", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **user)
        server = [programs / "postgres", "-D", folder / "data", *options]
        with subprocess.Popen(server, stderr=subprocess.DEVNULL, cwd=folder, **user) as process:
            try:
                wait_until(lambda: answers(psycopg, folder))
                yield f"postgresql://spd@/postgres?host={folder}"
            finally:
                process.send_signal(signal.SIGINT)


def answers(psycopg: Any, folder: Path) -> bool:
    try:
        psycopg.connect(f"host={folder} user=spd dbname=postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def postgres_user() -> dict[str, Any]:
    """Returns the user and group of the server process, as it refuses to run as root."""
    if os.getuid() != 0:
        return {}
    import pwd

    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("a PostgreSQL server does not run as root, and there is no user postgres")
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.timeout(600)
def test_workers_share_a_sweep_on_postgresql(sweep: Path, postgres: str) -> None:
    kill_two_of_four(sweep, "--storage", postgres)
    check_nothing_lost_nothing_twice(sweep, postgres)
    assert not (sweep.parent / "runs" / "sweeps.db").exists()


@pytest.mark.extra
def test_a_database_that_cannot_be_reached_is_one_clear_error_soon(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra `postgres` is not installed")
    with pytest.raises(ResourceError, match="does not answer") as caught:
        Database("postgresql://me:secret@127.0.0.1:1/none", tmp_path)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('connection to server at "h", port 5432 failed: Connection refused', 5),
        ("FATAL: the database system is starting up", 5),
        ('FATAL: password authentication failed for user "me"', 2),
        ('FATAL: database "none" does not exist', 2),
    ],
)
def test_a_server_that_does_not_answer_is_no_mistake_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    def refused(database: Database) -> None:
        raise sqlalchemy.exc.OperationalError("connect", {}, Exception(said))

    monkeypatch.setattr(Database, "_connected", refused)
    with pytest.raises(SpdError, match=said[:20]) as caught:
        Database("postgresql://me:secret@h/none", tmp_path)
    assert caught.value.exit_code == code
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "sweeps.db").write_text("not a database at all, but long enough to be read as one " * 10)
    with pytest.raises(ConfigError, match="not a database"):
        Database(f"sqlite:///{tmp_path}/sweeps.db", tmp_path)


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SQLite or PostgreSQL"):
        Database("mysql://somewhere/x", tmp_path)
    assert json.dumps(sorted(tmp_path.iterdir())) == "[]"
