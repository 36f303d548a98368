"""A job may end its process in any way: the others finish, its cause is recorded, and nothing is left behind.

What the supervisor does is tested with work of a few lines; what `spd-bench run` does with it, once, with a suite of
bad plugins.
"""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import Clock, suite_text, wait_until, write_frames

from spd_bench.errors import ConfigError, ResourceError, SpdError, WorkerBug, shortage
from spd_bench.process import supervise
from spd_bench.process.supervise import Limits, seconds, supervised
from spd_bench.process.watch import Watch, read_crumb

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
WORK = """
import ctypes, os, signal, sys, time
from spd_bench.errors import DataError


def work(arguments, watch):
    done = []
    for key, mode in arguments["jobs"].items():
        if key in watch.given_up:
            continue
        with watch.blaming({key: f"{key} seed 0"}):
            watch.at("training at step 12")
            ending(mode)
        done.append(key)
    watch.at(arguments.get("then", "writing the report"))
    ending(arguments.get("after", "ok"))
    return {"done": done, "given_up": watch.given_up, "pid": os.getpid(), "torch": "torch" in sys.modules}


def ending(mode):
    if mode == "segv":
        ctypes.string_at(0)
    if mode == "exit":
        os._exit(0)
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "hang":
        with open("hangs", "a") as hangs:
            hangs.write("x")
        time.sleep(1000)
    if mode == "data":
        raise DataError("depth is in the wrong unit", where="nyu.mat", hint="set depth_scale")
    if mode == "bug":
        raise KeyError("ours")
    if mode == "memory":
        raise MemoryError
    if mode == "full":
        raise OSError(28, "No space left on device", "runs/x.json")


def forever(arguments, watch):
    print(os.getpid(), flush=True)
    while True:
        watch.at("training at step 1")
        time.sleep(0.05)


def in_c(arguments, watch):
    watch.at("reading a file")
    print(os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock held
"""


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that workers import, and a place for what they leave."""
    (tmp_path / "fake_work.py").write_text(WORK, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def time_jumps_when_it_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's clock, which jumps by 700 s at three looks at it each time the work has written that it hangs.

    One look takes the last report as new, the next one finds it too old, and the last begins the next process.
    """
    monkeypatch.chdir(tmp_path)
    jumps: list[float] = []

    def monotonic() -> float:
        if Path("hangs").exists() and len(jumps) < 3 * len(Path("hangs").read_text()):
            jumps.append(700.0)
        return time.monotonic() + sum(jumps)

    monkeypatch.setattr(supervise, "time", SimpleNamespace(monotonic=monotonic, sleep=time.sleep))


def do(jobs: dict[str, str], **more: str) -> tuple[Any, list[str]]:
    told: list[str] = []
    found = supervised("fake_work:work", {"jobs": jobs} | more, limits=Limits(), tell=told.append)
    return found, told


def test_work_that_ends_well_is_one_light_process_and_leaves_nothing(tmp_path: Path) -> None:
    found, told = do({"a": "ok", "b": "ok"})
    assert found["done"] == ["a", "b"]
    assert found["pid"] != os.getpid()
    assert not found["torch"]
    assert told == []
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "cause"),
    [
        ("segv", "worker was killed by SIGSEGV while training at step 12"),
        ("exit", "worker ended with exit code 0 without a word while training at step 12"),
        ("kill", "worker was killed by SIGKILL, perhaps for want of memory, while training at step 12"),
        ("hang", "worker made no progress for 600 s while training at step 12"),
    ],
)
@pytest.mark.usefixtures("time_jumps_when_it_hangs")
def test_a_job_that_ends_the_process_is_given_up_and_the_others_go_on(mode: str, cause: str) -> None:
    found, told = do({"a": "ok", "b": mode, "c": "ok"})
    assert found["done"] == ["a", "c"]  # in the last process, which begins anew
    assert list(found["given_up"]) == ["b"]
    assert found["given_up"]["b"].startswith(cause)
    assert told[-1].endswith("going on with the others")
    assert all(line.startswith(f"b seed 0: {cause}") for line in told)
    outside = mode in ("kill", "hang")  # what may have come from outside is tried once more
    assert [line.endswith("trying once more, alone, in a new process") for line in told[:-1]] == [True] * outside
    if mode in ("segv", "hang"):  # the interpreter could still say where it was
        assert "fake_work.py:" in found["given_up"]["b"]
        assert "in ending)" in found["given_up"]["b"]


def test_several_jobs_may_end_it() -> None:
    found, told = do({"a": "exit", "b": "ok", "c": "segv"})
    assert found["done"] == ["b"]
    assert sorted(found["given_up"]) == ["a", "c"]
    assert len(told) == 2


class Scripted:
    """Stands for a worker process on a clock of its own: it reports progress at these seconds, and ends."""

    def __init__(self, clock: Clock, beats_s: Sequence[float], ends_s: float) -> None:
        self.clock, self.beats_s, self.ends_s = clock, beats_s, ends_s
        self.stdin = io.BytesIO()

    def wait(self, timeout_s: float) -> int:
        self.clock.sleep(timeout_s)
        if self.clock.seconds < self.ends_s:
            raise subprocess.TimeoutExpired("worker", timeout_s)
        return 0

    def kill(self) -> None:
        self.ends_s = self.clock.seconds

    def send_signal(self, number: int) -> None: ...


@pytest.mark.parametrize(
    ("beats_s", "ends"),
    [
        ([0.5 * n for n in range(1, 20)], "ended with exit code 0 without a word"),  # ten seconds of slow work
        ([0.5 * n for n in range(1, 10)], "made no progress for 1 s"),  # control: from 4.5 s on it reports nothing
        ([9.0], "ended with exit code 0 without a word"),  # a start may take longer than a step
    ],
)
def test_slow_is_not_hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats_s: list[float], ends: str) -> None:
    clock = Clock()
    monkeypatch.setattr(supervise, "time", clock)
    worker = supervise._Worker("no:work", {}, {}, tmp_path)
    worker.process = process = Scripted(clock, beats_s, 10.0)  # type: ignore[assignment]
    crumb = worker.crumb
    monkeypatch.setattr(worker, "crumb", lambda: replace(crumb(), beat=sum(t <= clock.seconds for t in beats_s)))
    assert worker.watched(1.0, supervise._Signals(None)).how == ends
    if "no progress" in ends:
        assert 5.5 < process.ends_s <= 5.5 + 2 * supervise.POLL_S + supervise.LAST_WORDS_S


def test_a_death_outside_of_jobs_is_an_error_of_its_own() -> None:
    with pytest.raises(ResourceError, match="killed by SIGKILL, perhaps for want of memory, while checking") as caught:
        do({"a": "ok"}, then="checking frame 3 of 9", after="kill")
    assert caught.value.exit_code == 5


def test_what_the_work_raises_arrives_whole() -> None:
    with pytest.raises(SpdError, match=r"nyu.mat: depth is in the wrong unit\n  hint: set depth_scale") as caught:
        do({"a": "data"})
    assert caught.value.exit_code == 3
    with pytest.raises(WorkerBug, match="KeyError: 'ours'") as bug:
        do({"a": "bug"})
    assert "in ending" in bug.value.traceback
    for mode, said in (("memory", "out of memory"), ("full", "runs/x.json: No space left on device")):
        with pytest.raises(SpdError, match=said) as caught:
            do({"a": mode})
        assert caught.value.exit_code == 5


def test_memory_and_disk_are_recognised_in_every_guise() -> None:
    cpu = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
    cuda = type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB")
    for error in (MemoryError(), cpu, cuda):
        found = shortage(error)
        assert found is not None
        assert found.message.startswith("out of memory")
    for other in (RuntimeError("shapes differ"), FileNotFoundError(2, "no such file"), KeyError("memory")):
        assert shortage(other) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a call that is stuck in C outlives its supervisor")
@pytest.mark.parametrize("work", ["forever", "in_c"])
def test_no_worker_outlives_its_supervisor(work: str) -> None:
    code = f"from spd_bench.process.supervise import supervised; supervised('fake_work:{work}', {{}}, tell=print)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    worker = int(process.stderr.readline())  # what a worker prints goes there
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(worker), "for the worker to end")
    process.stderr.close()


def is_running(process: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_crumbs_are_readable_whatever_was_written_before(tmp_path: Path) -> None:
    watch = Watch(path := tmp_path / "crumb")
    assert read_crumb(path) is None
    with watch.blaming({"x" * 64: "a long name " * 30}):
        watch.at("training at step 1")
        assert (crumb := read_crumb(path)) is not None
        assert list((crumb.jobs or {}).values()) == ["a long name " * 30]
        with watch.blaming({"y": "b"}):
            assert (crumb := read_crumb(path)) is not None
            assert crumb.jobs == {"y": "b"}
    assert (crumb := read_crumb(path)) is not None
    assert (crumb.stage, crumb.jobs) == ("training at step 1", {})


@pytest.mark.parametrize(
    ("text", "found"), [("3h30m", 12600), ("90m", 5400), ("45s", 45), ("1h", 3600), ("1h1m1s", 3661)]
)
def test_times_for_people(text: str, found: float) -> None:
    assert seconds(text, where="--time-limit") == found


@pytest.mark.parametrize("text", ["", "90", "m", "0s", "-5m", "1.5h", "5 m", "30m1h", "soon", "1d", "٣h"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a time such as 3h30m, 90m or 45s") as caught:
        seconds(text, where="--time-limit")
    assert caught.value.where == "--time-limit"


# the command

BAD = """
import ctypes, math, os, sys, time
import torch
from spd_bench.api import ComponentConfig, PointDepthModel


def bad(depth_m_BK=None):
    WHAT


if "WHEN" == "imported":
    bad()


class Bad(PointDepthModel):
    trained = False

    class Config(ComponentConfig):
        "No options."

    def __init__(self, config, encoder):
        super().__init__()
        self.config, self.encoder = config, encoder
        if "WHEN" == "built":
            bad()

    def prepare(self, features):
        return None

    def decode(self, scene, xy_BK2):
        depth_m_BK = torch.ones(xy_BK2.shape[:-1], device=xy_BK2.device)
        now = "checked" if depth_m_BK.is_meta else "scored"
        return bad(depth_m_BK) if now == "WHEN" else depth_m_BK
"""
WHATS = {
    "raises": "raise KeyError('its own')",
    "leaves": "sys.exit(0)",
    "ends": "os._exit(3)",
    "segv": "ctypes.string_at(0)",
    "hangs": "time.sleep(1000)",
    "hungry": "raise MemoryError",
    "shape": "return depth_m_BK[:, :-1]",
    "kind": "return depth_m_BK.long()",
    "nan": "return depth_m_BK * math.nan",
    "prints": "print('from a plugin'); return depth_m_BK",
    "slow": "time.sleep(0.2); return depth_m_BK",
    "leaks": "torch.set_default_dtype(torch.float64); torch.set_num_threads(3); torch.set_grad_enabled(False); "
    "torch.use_deterministic_algorithms(True); 'WHEN' == 'scored' or os.chdir('/'); return depth_m_BK",
}
"""What a bad plugin does."""
SOUND = ("prints", "slow", "leaks")
"""What does no harm to any result."""
ENDING = {"ends": "ended with exit code 3 without a word", "segv": "was killed by SIGSEGV", "hangs": "made no progress"}
CAUSES = {
    "raises": "KeyError: 'its own'",
    "leaves": "SystemExit: 0",
    "hungry": "out of memory",
    "shape": "decode gave shape (",
    "kind": "decode gave torch.int64, expected floating-point metres",
    "nan": "are not finite",
}
STAGES = {
    "imported": "importing baseline {0}",
    "built": "checking {0}",
    "checked": "checking {0}",
    "scored": "scoring ",
}
"""When it does so, and the stage that the supervisor then reports."""
OUTPUT = ("shape", "kind", "nan")
"""What only a running model can do; on the meta device there are no values, so no NaN."""
EVERY_BAD = [(what, when) for what in WHATS for when in STAGES if what not in OUTPUT or when in ("checked", "scored")]
EVERY_BAD.remove(("nan", "checked"))
SOME_BAD = [
    ("ends", "imported"),
    ("raises", "imported"),
    ("leaves", "built"),
    ("leaks", "built"),
    ("segv", "checked"),
    ("shape", "checked"),
    ("kind", "checked"),
    ("segv", "scored"),
    ("leaves", "scored"),
    ("hungry", "scored"),
    ("shape", "scored"),
    ("kind", "scored"),
    ("nan", "scored"),
    ("prints", "scored"),
    ("leaks", "scored"),
    ("slow", "scored"),
]
STALL_S = 30 if EVERYTHING else 600
"""In the default run no plugin hangs, so that no machine is too slow for the limit."""
QUICK = {"steps": 2, "marks": 1, "ks": "[8]", "draws": 1}


def write_plugins(site: Path, bad: list[tuple[str, str]]) -> None:
    """A distribution of bad baselines; and an MLflow that cannot be imported, which saves its start-up."""
    info = site / "bad_plugins-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-plugins\nVersion: 1.0\n")
    points = [f"{what}-{when} = bad_{what}_{when}:Bad" for what, when in bad]
    (info / "entry_points.txt").write_text("\n".join(["[spd_bench.baseline]", *points]))
    for what, when in bad:
        (site / f"bad_{what}_{when}.py").write_text(BAD.replace("WHAT", WHATS[what]).replace("WHEN", when))
    (site / "mlflow.py").write_text("raise ImportError('left out of this test')")


def run(folder: Path, suite: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from spd_bench.cli import main; main()", "run", suite, "--device", "cpu"]
    return subprocess.run(
        [*command, "--stall", str(STALL_S)], cwd=folder, capture_output=True, text=True, check=False, timeout=1200
    )


@pytest.mark.slow
def test_bad_plugins_fail_alone_each_with_its_cause(tmp_path: Path) -> None:
    bad = EVERY_BAD if EVERYTHING else SOME_BAD
    write_frames(tmp_path / "frames")
    write_plugins(tmp_path, bad)
    names = [f"{what}-{when}" for what, when in bad]
    frames = tmp_path / "frames"
    every = f"[{', '.join(names)}, constant, bilinear_mlp]"
    (tmp_path / "bad.yaml").write_text(suite_text(frames, name="bad", baselines=every, **QUICK))
    (tmp_path / "good.yaml").write_text(suite_text(frames, name="good", baselines="[bilinear_mlp]", **QUICK))
    done = run(tmp_path, "bad.yaml")
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((tmp_path / "runs/suites/bad.json").read_text())
    assert record["unfinished"] == 0
    failures = {row["composition"]: row["failure"] for row in record["rows"]}
    assert list(failures) == ["v13", *names, "constant", "bilinear_mlp"]  # in the order of the file
    for name in ("v13", "constant", "bilinear_mlp"):
        assert failures[name] == "", name
    for (what, when), name in zip(bad, names, strict=True):
        cause = failures[name]
        if what in SOUND:
            assert cause == "", name
        elif what in ENDING:
            assert f"worker {ENDING[what]}" in cause, name
            assert f" while {STAGES[when].format(name)}" in cause, name
            said = cause[cause.index("worker ") :].partition(" (")[0]
            assert f"{said}; going on with the others" in done.stderr, name
        else:
            assert ("MemoryError" if name == "hungry-imported" else CAUSES[what]) in cause, name
        if what == "segv" or (cause and when == "built" and what not in ("ends", "hangs", "hungry")):
            assert f"bad_{what}_{when}.py:" in cause, name
    assert f"which failed: {sum(map(bool, failures.values()))}" in done.stdout.replace("\n", " ")
    assert (tmp_path / "runs/reports/bad.html").exists()
    # what a plugin prints is not taken for the command's own output
    assert ("from a plugin" in done.stderr, "from a plugin" in done.stdout) == (True, False)
    # a process that takes over finds what is done
    assert done.stderr.count("v13 seed 0: absrel@8") == 1 + sum(
        when == "scored" for what, when in bad if what in ENDING or what == "hungry"
    )
    # and the others' numbers are those that they have without bad ones beside them
    trained = {path.name: path for path in (tmp_path / "runs/trained").iterdir() if (path / "done.json").exists()}
    (tmp_path / "runs").rename(tmp_path / "beside-bad-ones")
    assert run(tmp_path, "good.yaml").returncode == 0
    for path in (tmp_path / "runs/trained").iterdir():
        for name in ("done.json", "checkpoint.pt"):
            other = tmp_path / "beside-bad-ones/trained" / trained[path.name].name / name
            assert result(path / name) == result(other), f"{path.name}/{name}"


def result(path: Path) -> Any:
    """Returns the result of a training, without its seconds."""
    if path.suffix == ".json":
        return json.loads(path.read_text())["rows"]
    return {name: value.numpy().tobytes() for name, value in torch.load(path, weights_only=True)["model"].items()}


def test_two_plugins_of_one_name_are_told_apart_before_anything_is_trained(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames")
    write_plugins(tmp_path, [("slow", "scored")])
    other = tmp_path / "other_plugins-2.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-plugins\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text((tmp_path / "bad_plugins-1.0.dist-info/entry_points.txt").read_text())
    (tmp_path / "bad.yaml").write_text(suite_text(tmp_path / "frames", baselines="[slow-scored]", **QUICK))
    done = run(tmp_path, "bad.yaml")
    assert done.returncode == 2
    assert 'baseline "slow-scored" is registered by bad-plugins and other-plugins' in done.stderr
    assert 'hint: write "bad-plugins:slow-scored" or "other-plugins:slow-scored"' in done.stderr
    assert not (tmp_path / "runs").exists()


def test_stopping_is_listed_with_all_exit_codes() -> None:
    from spd_bench.errors import EXIT_CODES, STOP_CODES

    assert set(STOP_CODES.values()) <= set(EXIT_CODES)
    assert set(supervise.STOPPING) <= {name for name in STOP_CODES if hasattr(signal, name)}


def test_the_help_lists_the_exit_codes() -> None:
    code = "import sys; sys.argv = ['spd-bench', '--help']; from spd_bench.cli import main; main()"
    environment = os.environ | {"COLUMNS": "300", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    said = " ".join(textwrap.dedent(done.stdout).split())
    for words in ("Exit codes:", "75 stopped by SIGUSR1 or --time-limit", "143 stopped by SIGTERM"):
        assert words in said
