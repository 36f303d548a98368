"""What comes from outside is nobody's fault at first: it is tried once more, alone, in a new process."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from spd_bench.data.processes import items
from spd_bench.errors import ResourceError
from spd_bench.process import at_hand
from spd_bench.process.at_hand import AtHand
from spd_bench.process.scratch import HELD, scratch
from spd_bench.process.supervise import supervised
from spd_bench.process.verdict import End, Verdict
from spd_bench.process.watch import Crumb, Watch, read_crumb
from spd_bench.store import files

KILLED = End("was killed by SIGKILL", outside=True)
CRASHED = End("was killed by SIGSEGV", outside=False)
ONE = Crumb(3, "training at step 2", {"a": "a seed 0"})
TWO = Crumb(3, "training at step 2", {"a": "a seed 0", "b": "b seed 0"})

WORK = """
import os, signal, time
from pathlib import Path


def work(arguments, watch):
    log = Path(arguments["log"])
    with log.open("a") as file:
        print("begins", sorted(watch.alone), sorted(watch.given_up), file=file)
    for key in sorted(watch.alone) + [key for key in "abc" if key not in watch.alone]:
        if key in watch.given_up:
            continue
        with watch.blaming({key: f"{key} seed 0"}):
            watch.at("training at step 1")
            act(arguments.get(key, ""), watch, Path(arguments["log"]))
    watch.at("writing the report")
    act(arguments.get("report", ""), watch, log)
    return {"given_up": watch.given_up, "outside": sorted(watch.outside)}


def act(what, watch, log):
    if what == "closes":
        os.closerange(3, 200)
    if what == "memory":
        watch.ran_out_of_memory("out of memory: 3 GB")
    if what == "raises memory":
        raise MemoryError
    if what == "kills its watcher":
        os.kill(os.getppid(), 9)
        time.sleep(100)
    if what == "once" and log.read_text().count("begins") == 1:
        os.kill(os.getpid(), 9)
    if what == "moves":
        root = log.parent / "root"
        root.rename(log.parent / "moved")
        time.sleep(100)
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for the sockets of processes that read data."""
    with tempfile.TemporaryDirectory(prefix="blame-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_work.py").write_text(WORK, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))


def do(tmp_path: Path, hand: AtHand | None = None, **what: str) -> tuple[Any, list[str]]:
    told: list[str] = []
    arguments = {"log": str(tmp_path / "log")} | what
    return supervised("some_work:work", arguments, at_hand=hand, tell=told.append), told


def begun(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


# the verdict


def test_a_kill_is_laid_to_a_job_the_second_time() -> None:
    verdict = Verdict()
    line = verdict.after(ONE, KILLED)
    assert line == (
        "a seed 0: worker was killed by SIGKILL while training at step 2; trying once more, alone, in a new process"
    )
    assert (verdict.alone, verdict.given_up) == ({"a"}, {})
    assert verdict.after(ONE, KILLED).endswith("going on with the others")
    assert verdict.given_up == {"a": "worker was killed by SIGKILL while training at step 2"}
    assert verdict.outside == {"a"}


def test_a_crash_of_one_job_is_laid_to_it_at_once_and_one_of_a_group_to_none() -> None:
    verdict = Verdict()
    verdict.after(TWO, CRASHED)
    assert (verdict.alone, verdict.given_up) == ({"a", "b"}, {})
    verdict.after(ONE, CRASHED, " (x.py:1 in f)")
    assert verdict.given_up == {"a": "worker was killed by SIGSEGV while training at step 2 (x.py:1 in f)"}
    assert verdict.outside == set()


def test_without_a_job_each_stage_is_tried_twice() -> None:
    verdict = Verdict()
    assert verdict.after(Crumb(1, "checking frame 3 of 9"), KILLED).endswith("trying once more in a new process")
    assert verdict.after(Crumb(1, "writing the report"), KILLED)
    with pytest.raises(ResourceError, match="the worker was killed by SIGKILL while checking frame 5 of 9"):
        verdict.after(Crumb(1, "checking frame 5 of 9"), KILLED)


# whole processes


def test_a_kill_that_does_not_come_again_costs_nothing(tmp_path: Path) -> None:
    for what in ("b", "report"):
        (tmp_path / "log").unlink(missing_ok=True)
        found, told = do(tmp_path, **{what: "once"})
        assert found == {"given_up": {}, "outside": []}
        assert len(told) == 1
        assert begun(tmp_path) == ["begins [] []", f"begins {['b'] if what == 'b' else []} []"]


def test_out_of_memory_ends_the_process_and_a_new_one_goes_on(tmp_path: Path) -> None:
    found, _ = do(tmp_path, b="memory")
    assert found["given_up"] == {"b": "out of memory: 3 GB, while training at step 1"}
    assert len(begun(tmp_path)) == 3
    with pytest.raises(ResourceError, match="out of memory") as caught:
        do(tmp_path, report="raises memory")
    assert caught.value.exit_code == 5


def test_who_closes_descriptors_is_given_up(tmp_path: Path) -> None:
    found, told = do(tmp_path, b="closes")
    assert found["given_up"] == {"b": "the files of the process were closed, while training at step 1"}
    assert len(told) == 1


def test_who_kills_the_watcher_is_given_up_by_a_later_start(tmp_path: Path, temporary: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    code = (
        "import sys; from pathlib import Path; from spd_bench.process.at_hand import AtHand\n"
        "from spd_bench.process.supervise import supervised\n"
        "hand = AtHand(Path(sys.argv[2]), 's')\n"
        "print(supervised('some_work:work', {'log': sys.argv[1], 'b': 'kills its watcher'}, at_hand=hand, tell=print))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log"), str(root)]
    for _ in range(at_hand.TIMES):
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        assert (root / ".s.at-hand").exists()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "b seed 0: the watching process was killed 3 times while training at step 1" in done.stdout
    assert begun(tmp_path)[-1] == "begins [] ['b']"
    assert list(root.iterdir()) == []
    assert list(temporary.iterdir()) == []  # of the killed ones as well


def test_ordinary_kills_of_the_watcher_give_up_nothing(tmp_path: Path) -> None:
    """A job that stands at another step at each kill goes on; the control stands at the same one."""
    for steps, given_up in (
        (range(1, 9), {}),
        ([4] * 3, {"a": "the watching process was killed 3 times while step 4"}),
    ):
        for step in steps:
            verdict = Verdict()
            hand = AtHand(tmp_path, "s")
            hand.begin(verdict, lambda line: None)
            hand.path.write_text(json.dumps([1, f"step {step}", {"a": "a seed 0"}]))
        verdict = Verdict()
        AtHand(tmp_path, "s").begin(verdict, lambda line: None)
        assert verdict.given_up == given_up


def test_a_run_root_that_goes_away_ends_the_work_and_is_not_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(ResourceError, match="the folder of all runs is gone") as caught:
        do(tmp_path, AtHand(tmp_path / "root", "s"), a="moves")
    assert caught.value.where == str(tmp_path / "root")
    assert not (tmp_path / "root").exists()
    monkeypatch.setattr(files, "_kept", set())
    (tmp_path / "other").mkdir()
    files.keep(tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "gone")
    with pytest.raises(ResourceError, match="the folder of all runs is gone"):
        files.write_text(tmp_path / "other" / "trained" / "x", "x")


# the folder for temporary files


def test_the_next_start_sweeps_what_a_killed_one_left_and_nothing_else(temporary: Path) -> None:
    above = temporary
    with scratch() as mine:
        (above / "spd-bench-of-others").mkdir()
        (above / "spd-bench-link").symlink_to(mine)
        left = above / "spd-bench-left"
        (left / "pymp-x").mkdir(parents=True)
        (left / HELD).touch()
        with scratch() as second:
            assert mine.exists()
            assert second != mine
            assert not left.exists()
    assert {path.name for path in above.iterdir()} == {"spd-bench-of-others", "spd-bench-link"}


# processes that read data


class Deadly(Dataset[Any]):
    """Squares; the process that reads number 5 is killed, as often as the file has room."""

    def __init__(self, log: Path, times: int) -> None:
        self.log = log
        self.times = times

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            with self.log.open("a") as log:
                log.write("x")
            if len(self.log.read_text()) <= self.times:
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index**2)


@pytest.mark.skipif(sys.platform != "linux", reason="processes that read data are forked")
def test_a_reading_process_that_is_killed_costs_one_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    found = [int(item) for item in items(Deadly(tmp_path / "reads", 1), workers=2)]
    assert found == [index**2 for index in range(12)]
    assert [record.message for record in caplog.records] == [
        "a process that reads data was killed, perhaps for want of memory: others go on"
    ]
    with pytest.raises(ResourceError, match="a process that reads data was killed, twice"):
        list(items(Deadly(tmp_path / "again", 9), workers=2))


class Wrong(Deadly):
    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("exited unexpectedly")


def test_what_a_reading_process_raises_is_no_loss(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        list(items(Wrong(tmp_path, 0), workers=1))


def test_a_descriptor_of_another_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of the closed file is given to another one: nothing is written into that."""
    watch = Watch(tmp_path / "crumb")
    watch.at("training at step 1")
    ended: list[int] = []
    monkeypatch.setattr("os._exit", lambda code: ended.append(code) or (_ for _ in ()).throw(SystemExit))
    ((number, _),) = watch._files
    os.close(number)
    other = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)
    with pytest.raises(SystemExit), watch.blaming({"a": "a seed 0"}):
        watch.at("training at step 2")
    assert (tmp_path / "theirs").read_bytes() == b""
    crumb = read_crumb(tmp_path / "crumb")
    assert crumb is not None
    assert crumb.cause == "the files of the process were closed"
    assert set(ended) == {70}
