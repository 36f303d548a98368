"""What a kill, a full disk or a disk error costs, at every operation by which a suite changes the disk: nothing.

A trial runs a small suite on a disk that fails at one operation, runs it again on a sound one, and compares every
result with the undisturbed run's. Trials are forked from a process that has everything imported: this very file, run as
a script. `SPD_BENCH_RELIABILITY=1` (nox -s reliability) tries every operation; without it, a fair share.
"""

import errno
import gc
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import ON_DISK, PATIENCE_S, SMALL, STANDING, wait_until, write_frames, write_suite

from spd_bench.process.watch import read_crumb
from spd_bench.run.request import Request
from spd_bench.store import records

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
STRIDE = 1 if EVERYTHING else 29
"""Every STRIDE-th point is tried; the number is odd, so that all kinds of faults are among them."""
KILLS = 200
STEPS, INTERVAL = 6, 2
"""Training steps of a model, and after how many it is validated and saved."""
TRIAL_S = PATIENCE_S
SUITE: dict[str, Any] = {
    "base": SMALL,
    "side": 28,
    "more": ON_DISK,
    "steps": STEPS,
    "queries": 4,
    "marks": STEPS // INTERVAL,
    "baselines": "[bilinear_mlp]",
    "report": "{primary: {metric: absrel, k: 8}}",
}

Point = tuple[str, int]
"""What fails, and at which operation, counted from 1."""


# ------------------------------------------------------------------------------ in the process that runs a suite


class Disk:
    """`os` as the module that writes sees it, on a disk that fails once `at` operations have been asked of it.

    kill: the process dies first. torn: it dies with half of the write done. full: no room from there on. error: an
    input/output error, once. `names` are the operations that were asked.
    """

    MUTATING = ("open", "write", "fsync", "replace", "mkdir", "unlink")

    def __init__(self, kind: str, at: int) -> None:
        self.kind = kind
        self.at = at
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return partial(self._act, name) if name in self.MUTATING else getattr(os, name)

    def _act(self, name: str, *args: Any) -> Any:
        act = getattr(os, name)
        if name == "open" and not args[1] & os.O_CREAT:  # a folder, to be flushed
            return act(*args)
        self.names.append(name)
        here = len(self.names) == self.at
        if here and self.kind in ("kill", "torn"):
            if self.kind == "torn" and name == "write":
                act(args[0], bytes(args[1][: len(args[1]) // 2]))
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full" and len(self.names) >= self.at and name != "unlink":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.kind == "error" and here:
            raise OSError(errno.EIO, "Input/output error")
        return act(*args)


def work(order: dict[str, Any]) -> None:
    """Runs the suite in this fork, and ends it with the exit code of the command."""
    import torch

    from spd_bench.errors import SpdError
    from spd_bench.run import session
    from spd_bench.store import files
    from spd_bench.train.training import Training

    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    disk = Disk(order["kind"], order["at"])
    files.os = disk  # type: ignore[attr-defined]
    taken = os.open(order["steps"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    advance = Training.advance

    def counted(training: Any, *args: Any, **more: Any) -> float:
        os.write(taken, f"{training.checkpoint.parent.name} {training.step}\n".encode())
        return advance(training, *args, **more)

    Training.advance = counted  # type: ignore[method-assign]
    if order["defect"]:
        DEFECTS[order["defect"]]()
    code, told = 1, ""
    try:
        root = Path(order["root"])
        done = session.run_suite(Request(suite=order["suite"], root=root, device="cpu"))
        code, told = (4, done.table) if done.failed else (0, "")
    except SpdError as error:
        code, told = error.exit_code, str(error)
    except BaseException:
        told = traceback.format_exc()
    Path(order["said"]).write_text(json.dumps({"told": told, "names": disk.names}), encoding="utf-8")
    os._exit(code)


def serve() -> None:
    """Forks a process for each order, one JSON object per line, and prints how each ended.

    The suite is run here first, so that the forks have everything imported and warm.
    """
    import torch

    from spd_bench.cost import meter
    from spd_bench.model import compose
    from spd_bench.report import figures
    from spd_bench.run import session

    torch.set_num_threads(1)
    # MLflow has tests of its own; what is to be recorded there counts as recorded
    session.Tracker.start = lambda self, beat=None: None  # type: ignore[method-assign,assignment,misc]
    # what takes long and decides no result
    compose.check = lambda model, **more: None
    meter.TIMED_IMAGES, meter.macs, meter.peak_memory = 1, lambda call: 0.0, lambda call, device: 0
    figures.draw = lambda fill: "<svg></svg>"
    suite, root = sys.argv[1:]
    session.run_suite(Request(suite=str(suite), root=Path(root), device="cpu"))
    gc.freeze()  # forks neither look through nor copy what is there by now
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            work(order)
        print(_awaited(child), flush=True)


def _awaited(child: int) -> int:
    """The exit code of a process, −N for one that signal N killed, or 124 where it had to be killed for its time."""
    end = time.monotonic() + TRIAL_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 124


# ------------------------------------------------------------------------------------------------ planted defects


def _in_place(chosen: Callable[[Path], bool]) -> None:
    """Some files are overwritten where they lie."""
    from spd_bench.store import files

    sound = files.write_bytes

    def write(path: Path, content: bytes) -> None:
        if not chosen(path):
            return sound(path, content)
        files.make_folder(path.parent)
        handle = files.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        files.os.write(handle, content)
        os.close(handle)

    files.write_bytes = write


def checkpoint_in_place() -> None:
    """A checkpoint is overwritten where it lies, and its digest is not looked at."""
    from spd_bench.store import sealed

    _in_place(lambda path: path.name == "checkpoint.pt")
    sealed.check_archive = lambda content, mark: None


def flag_before_data() -> None:
    """done.json is there before the checkpoint that it vouches for, and its digest is not looked at."""
    from spd_bench.train import checkpoint

    sound, load = checkpoint.save, checkpoint.load_weights

    def save(path: Path, model: Any, optimiser: Any, step: int, log: Any) -> str:
        if optimiser is None:
            records.write_record(path.with_name("done.json"), {"rows": log.rows, "seconds": log.seconds})
        return sound(path, model, optimiser, step, log)

    checkpoint.save = save
    checkpoint.load_weights = lambda path, model, digest=None: load(path, model)


def generator_not_restored() -> None:
    """Dropout draws from a generator that is seeded when training starts or goes on."""
    from spd_bench.train import training

    seeded: list[int] = []
    sound = training.torch_seed

    def seed(*key: Any) -> int:
        import torch

        if not seeded:
            seeded.append(sound("begin", key[1]))
            return seeded[0]
        return int(torch.randint(2**31, ()))  # goes on from where the generator stands

    training.torch_seed = seed


def torn_record_trusted() -> None:
    """Records are overwritten where they lie, and one that is there counts, whatever it says."""

    _in_place(lambda path: path.suffix == ".json")
    sound = records.read_record

    def read(path: Path) -> dict[str, Any]:
        try:
            return sound(path)
        except records.Unsound:
            if path.exists():
                return {"rows": [], "seconds": 0.0, "scores": {}, "images": 0, "cost": {}}
            raise

    records.read_record = read


def stale_temporary_reused() -> None:
    """What an earlier try left beside a file is taken for what is to be written."""
    from spd_bench.store import files

    sound = files.write_bytes

    def write(path: Path, content: bytes) -> None:
        left = path.with_name(f".{path.name}.tmp")
        if left.exists():
            return files.publish(left, path)
        files._temporary = lambda name: f".{name}.tmp"
        sound(path, content)

    files.write_bytes = write


def batches_from_the_first() -> None:
    """A training that goes on draws its batches from the first again."""
    from spd_bench.data.batches import BatchPlan

    sound = BatchPlan.loader
    BatchPlan.loader = lambda self, first=0, **more: itertools.islice(  # type: ignore[method-assign,assignment]
        sound(self, first=0, **more), self.steps - first
    )


DEFECTS: dict[str, Callable[[], None]] = {
    defect.__name__: defect
    for defect in (
        checkpoint_in_place,
        flag_before_data,
        generator_not_restored,
        torn_record_trusted,
        stale_temporary_reused,
        batches_from_the_first,
    )
}
FOUND_IN_CI = ("flag_before_data", "stale_temporary_reused")


# ------------------------------------------------------------------------------------------------------- campaign


class Campaign:
    """A suite, its undisturbed results, and trials of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suite = folder / "tiny.yaml"
        self._number = 0
        write_frames(folder / "frames", count=15)
        write_suite(self.suite, folder / "frames", **SUITE)
        self._server = subprocess.Popen(
            [sys.executable, __file__, str(self.suite), str(folder / "runs-warm")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "server.log").open("w"),
            text=True,
            env=environment(),
        )
        self._expected: dict[str, dict[str, Any]] = {}
        self.names: list[str] = []
        self.names = self.undisturbed("")

    def undisturbed(self, defect: str) -> list[str]:
        """Runs the suite on a sound disk, keeps its results, and returns its operations."""
        root = self.root()
        code, said = self.run(root, defect=defect)
        assert code == 0, said
        self._expected[defect] = results(root)
        names: list[str] = said["names"]
        return names

    def expected(self, defect: str = "") -> dict[str, Any]:
        """Results of the undisturbed run of code with that defect."""
        if defect not in self._expected:
            self.undisturbed(defect)
        return self._expected[defect]

    def close(self) -> None:
        self._server.kill()
        self._server.wait()

    def root(self) -> Path:
        self._number += 1
        return self.folder / f"runs-{self._number:04d}"

    def run(self, root: Path, point: Point = ("none", 0), defect: str = "") -> tuple[int, dict[str, Any]]:
        """Exit code, and what the process said if it could: its error and its operations."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        said = root.with_suffix(".said")
        said.unlink(missing_ok=True)
        order = {
            "root": str(root),
            "suite": str(self.suite),
            "kind": point[0],
            "at": point[1],
            "defect": defect,
            "steps": str(root.with_suffix(".steps")),
            "said": str(said),
        }
        print(json.dumps(order), file=self._server.stdin, flush=True)
        code = int(self._server.stdout.readline())
        return code, json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}

    @property
    def points(self) -> list[Point]:
        """Every operation with every fault that can meet it; only a write can be torn."""
        return [
            (kind, at)
            for at, name in enumerate(self.names, start=1)
            for kind in ("kill", "torn", "full", "error")
            if (kind != "torn" or name == "write") and (kind != "full" or name != "unlink")
        ]

    def trial(self, point: Point, defect: str = "") -> str:
        """Returns what is wrong after a fault and another run, "" if nothing is."""
        root = self.root()
        code, said = self.run(root, point, defect)
        if defect and code == 0:  # it asks the disk for less, and the fault was not met
            return ""
        if point[0] in ("kill", "torn") and code != -signal.SIGKILL:
            return f"the fault was not met: exit code {code}"
        if point[0] in ("full", "error") and (code != 5 or len(said["told"].splitlines()) != 2):
            return f"exit code {code}, told: {said.get('told')}"
        return self._second(root, defect)

    def _second(self, root: Path, defect: str) -> str:
        finished, taken = units(root), steps(root)
        code, said = self.run(root, defect=defect)
        if code != 0:
            return f"the second run ended with exit code {code}: {said.get('told')}"
        try:
            found = results(root)
        except Exception as error:
            return f"results that cannot be read: {error!r}"
        expected = self.expected(defect)
        if found != expected:
            return f"other results: {[key for key in expected if found.get(key) != expected[key]]}"
        if again := [path for path, state in finished.items() if units(root).get(path) != state]:
            return f"finished, and made again: {again}"
        if left := [str(path) for path in root.rglob("*.tmp")]:
            return f"left behind: {left}"
        repeated = len(steps(root)) - 2 * STEPS  # two models train
        return f"{repeated} steps were taken twice" if repeated > (INTERVAL if taken else 0) else ""


def environment() -> dict[str, str]:
    """One thread: bits depend on how many there are."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }


def results(root: Path) -> dict[str, Any]:
    """Returns every result below a root, without times and versions."""
    import torch

    found: dict[str, Any] = {}
    for run in sorted((root / "trained").glob("*-s0-*")):
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        weights = {name: hashlib.sha256(value.numpy()).hexdigest() for name, value in state["model"].items()}
        scores = records.read_record(next(run.glob("eval-*/scores.json")))
        record = records.read_record(run / "run.json")
        found |= {
            f"{run.name} weights": [state["step"], state["optimiser"], weights],
            f"{run.name} log": records.read_record(run / "done.json")["rows"],
            f"{run.name} scores": [scores["scores"], scores["images"], scores["identity"]],
            f"{run.name} predictions": records.digest_of(next(run.glob("eval-*/predictions.h5"))),
            f"{run.name} record": [record["identity"], record["parameters_by_slot"]],
        }
    found |= {shard.name: records.digest_of(shard) for shard in sorted((root / "features").glob("*/*.h5"))}
    found["rows"] = records.read_record(root / "suites" / "tiny.json")["rows"]
    found["reports"] = sorted(path.name for path in (root / "reports").iterdir() if path.stat().st_size)
    return found


def units(root: Path) -> dict[Path, tuple[int, int]]:
    """Returns inode and time of each file of finished shards, trainings and evaluations."""
    done = [*root.glob("features/*/*.h5")]
    for flag in [*root.glob("trained/*/done.json"), *root.glob("trained/*/*/scores.json")]:
        done += [flag, *flag.parent.glob("*.pt"), *flag.parent.glob("*.h5")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in done}


def steps(root: Path) -> list[tuple[str, int]]:
    """Returns every training step that was taken: model and number."""
    lines = root.with_suffix(".steps").read_text(encoding="utf-8").splitlines()
    return [(name, int(step)) for name, step in (line.split() for line in lines)]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    made = Campaign(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials are forks")


def report(what: str, tried: int, started: float) -> None:
    print(f"{what}: {tried} trials in {time.monotonic() - started:.0f} s", file=sys.__stderr__)


@unix
@pytest.mark.slow
@pytest.mark.timeout(9000 if EVERYTHING else 600)
def test_no_fault_at_any_operation_costs_a_result(campaign: Campaign) -> None:
    points = campaign.points[STRIDE // 2 :: STRIDE]
    started = time.monotonic()
    problems = {point: problem for point in points if (problem := campaign.trial(point))}
    report(f"{len(campaign.names)} operations, {len(campaign.points)} points", len(points), started)
    assert problems == {}


@unix
@pytest.mark.slow
@pytest.mark.timeout(9000 if EVERYTHING else 600)
@pytest.mark.parametrize("defect", DEFECTS if EVERYTHING else FOUND_IN_CI)
def test_the_campaign_finds_a_planted_defect(campaign: Campaign, defect: str) -> None:
    points = [point for point in campaign.points if point[0] in ("kill", "torn")]
    random.Random(0).shuffle(points)
    started = time.monotonic()
    for tried, point in enumerate(points, start=1):
        if problem := campaign.trial(point, defect):
            report(f"{defect} found at {point} ({problem[:100]})", tried, started)
            return
    pytest.fail(f"{defect} was not found in {len(points)} trials")


@unix
@pytest.mark.slow
def test_a_kill_of_the_command_costs_no_result(campaign: Campaign) -> None:
    """Of its whole process group, in the middle of a training, with MLflow."""
    root, site, temporary = campaign.root(), campaign.folder / "site", campaign.folder / "tmp"
    for folder in (site, temporary):
        folder.mkdir()
    (site / "sitecustomize.py").write_text(STANDING)
    given = {"PYTHONPATH": str(site), "TMPDIR": str(temporary), "STAND_AT": f"training at step {INTERVAL + 1}"}
    process = started(campaign.suite, root, **given)

    def stands() -> bool:
        assert process.poll() is None, log_of(root)
        crumbs = map(read_crumb, temporary.glob("spd-bench-*/crumb"))
        return any(crumb is not None and crumb.stage == given["STAND_AT"] for crumb in crumbs)

    wait_until(stands, "for a training")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    code, told = command(campaign.suite, root, PATIENCE_S, group=True)
    assert code == 0, told
    assert results(root) == campaign.expected()


@unix
@pytest.mark.slow
@pytest.mark.timeout(9000)
@pytest.mark.skipif(not EVERYTHING, reason="for nox -s reliability")
def test_random_kills_of_the_command_cost_no_result(campaign: Campaign) -> None:
    """Of the command alone or of its whole process group, with MLflow. All kills but a suite's first meet a resume."""
    seed = random.SystemRandom().randrange(10**6)
    rng = random.Random(seed)
    began, root = time.monotonic(), campaign.root()
    code, told = command(campaign.suite, root, PATIENCE_S, group=True)
    assert code == 0, told
    assert results(root) == campaign.expected()
    whole_s = time.monotonic() - began
    started, killed, suites = time.monotonic(), 0, 0
    while killed < KILLS:
        root, code, tries = campaign.root(), None, 0
        while code is None:
            delay_s = rng.uniform(0.3, 1.0) * whole_s if killed < KILLS else PATIENCE_S
            began, tries = time.monotonic(), tries + 1
            code, told = command(campaign.suite, root, delay_s, group=rng.random() < 0.5)
            killed += code is None
            if code == 6:  # what the kill of the parent alone left behind is about to end
                time.sleep(0.5)
                code = None
        suites += 1
        if tries == 1:  # it was not killed: the machine is less busy than it was
            whole_s = time.monotonic() - began
        assert code == 0, f"seed {seed}: {told}"
        assert results(root) == campaign.expected(), f"seed {seed}"
    report(f"seed {seed}: {killed} kills of {suites} suites", killed, started)


def started(suite: Path, root: Path, **given: str) -> "subprocess.Popen[bytes]":
    """The command that runs a suite, in a process group of its own."""
    call = "from spd_bench.cli import main; main()"
    arguments: Sequence[str] = [sys.executable, "-c", call, "run", str(suite), "--runs", str(root), "--device", "cpu"]
    with root.with_suffix(".log").open("w") as out:
        return subprocess.Popen(arguments, stdout=out, stderr=out, start_new_session=True, env=environment() | given)


def log_of(root: Path) -> str:
    """The end of what the command printed."""
    return root.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-2000:]


def command(suite: Path, root: Path, limit_s: float, *, group: bool) -> tuple[int | None, str]:
    """Runs the suite from the command line; None where it was killed after its time, else its exit code."""
    process = started(suite, root)
    try:
        return process.wait(limit_s), log_of(root)
    except subprocess.TimeoutExpired:
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        return None, ""


if __name__ == "__main__":
    serve()
