"""What a power cut costs, at every operation by which a suite changes the disk: nothing that was on it.

A run notes what it asks of the disk. A model of the disk then says what may lie there if the power goes after any of
these operations: names in a folder that was not flushed are there or not, each by itself, and bytes of a file that was
not flushed are lost, cut, or zeros. Each such state is laid out in a folder of its own and the suite run again.
`SPD_BENCH_RELIABILITY=1` (nox -s reliability) tries them all, and cuts the second run short too; without it, a share.
"""

import hashlib
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ON_DISK, SMALL, write_frames, write_suite

from spd_bench.cost import meter
from spd_bench.data import pack as packing
from spd_bench.model import compose
from spd_bench.report import figures
from spd_bench.run import session
from spd_bench.run.request import Request
from spd_bench.store import files, records, sealed
from spd_bench.train import checkpoint as checkpoints
from spd_bench.train.training import Training

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
TRIALS = 16
"""States that the default run tries (half as many of a pack), chosen by seed 0; the reliability session tries all."""
AGAIN = 400
"""Trials that cut the run after a power cut short too."""
MOST = 150
"""Trials until a planted defect has to be found."""
FEW = 4
"""Changes of folders that are in doubt at once, up to which every choice among them is made."""
STEPS, INTERVAL = 6, 2
"""Training steps of a model, and after how many it is validated and saved."""
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

Tree = dict[str, bytes | None]
"""What lies below a root: a file's bytes, None for a folder, each by its path."""
GONE, FOLDER = -1, 0
"""What a name stands for, beside the numbers of files, which count from 1."""


# ------------------------------------------------------------------------------------------------ what was asked


@dataclass(frozen=True)
class Operation:
    """One of: create, write, flush, rename, remove, folder, flush folder; "told" marks that the writer has returned."""

    kind: str
    path: str = ""
    onto: str = ""
    number: int = 0
    content: bytes = b""


class Recorder:
    """`os` as a module that writes sees it; notes what changes the disk below a root.

    lax: files are not flushed, as if the writer did not ask for it.
    """

    def __init__(self, root: Path, *, lax: bool = False) -> None:
        self.root = root
        self.lax = lax
        self.log: list[Operation] = []
        self._numbers = itertools.count(1)
        self._open: dict[int, int | str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def note(self, kind: str, path: Any = "", **more: Any) -> None:
        self.log.append(Operation(kind, self.inside(path) if path else "", **more))

    def inside(self, path: Any) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        handle = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._open[handle] = next(self._numbers)
            self.note("create", path, number=self._open[handle])
        else:
            self._open[handle] = self.inside(path)
        return handle

    def write(self, handle: int, content: Any) -> int:
        taken = os.write(handle, content)
        self.note("write", number=self._open[handle], content=bytes(content[:taken]))
        return taken

    def fsync(self, handle: int) -> None:
        what = self._open.get(handle)
        if what is None:  # HDF5 opens files by itself; what it wrote is seen when it is flushed
            path = Path(f"/proc/self/fd/{handle}").readlink()
            number = next(self._numbers)
            self.note("create", path, number=number)
            self.note("write", number=number, content=path.read_bytes())
            self.note("flush", number=number)
        elif isinstance(what, str):
            self.note("flush folder", self.root / what)
        elif not self.lax:
            self.note("flush", number=what)

    def close(self, handle: int) -> None:
        os.close(handle)
        self._open.pop(handle, None)

    def replace(self, path: Any, onto: Any) -> None:
        os.replace(path, onto)
        self.note("rename", path, onto=self.inside(onto))

    def mkdir(self, path: Any) -> None:
        os.mkdir(path)
        self.note("folder", path)

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self.note("remove", path)


@contextmanager
def recorded(root: Path, *, lax: bool = False) -> Iterator[list[Operation]]:
    """What is asked of the disk below a root meanwhile."""
    root.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(root, lax=lax)
    sound = files.write_bytes

    def write(path: Path, content: bytes) -> None:
        sound(path, content)
        recorder.note("told", path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", recorder)
        patch.setattr(packing, "os", recorder)
        patch.setattr(files, "write_bytes", write)
        yield recorder.log


# ---------------------------------------------------------------------------------------- what may then lie there

Loss = Callable[[bytes, bytes], bytes]
"""What is left of a file of which some bytes were flushed, and these in all written."""
LOSSES: dict[str, Loss] = {
    "all": lambda flushed, written: written,
    "lost": lambda flushed, written: flushed,
    "cut": lambda flushed, written: written[: (len(flushed) + len(written)) // 2],
    "zeros": lambda flushed, written: flushed + bytes(len(written) - len(flushed)),
    "zeros first": lambda flushed, written: (
        flushed
        + bytes((len(written) - len(flushed)) // 2)
        + written[len(flushed) + (len(written) - len(flushed)) // 2 :]
    ),
}


@dataclass
class Disk:
    """What is on the disk for certain, and what is in doubt, after some operations.

    names, doubtful: what was flushed of the folders, and the changes since, in order. seen: names as processes see
    them. promised: what may lie under a name that a writer has returned for.
    """

    names: dict[str, int] = field(default_factory=dict)
    doubtful: list[tuple[str, dict[str, int]]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)
    flushed: dict[int, bytes] = field(default_factory=dict)
    promised: dict[str, set[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: Tree) -> "Disk":
        """All of it for certain. Files have numbers below FOLDER and GONE, unlike those to come."""
        made = cls()
        for number, (path, content) in enumerate(tree.items(), start=2):
            made.names[path] = FOLDER if content is None else -number
            if content is not None:
                made.written[-number] = made.flushed[-number] = content
        made.seen = dict(made.names)
        return made

    def ask(self, asked: Operation) -> None:
        if asked.kind == "create":
            self.written[asked.number] = self.flushed[asked.number] = b""
            self._change({asked.path: asked.number})
        elif asked.kind == "write":
            self.written[asked.number] += asked.content
        elif asked.kind == "flush":
            self.flushed[asked.number] = self.written[asked.number]
        elif asked.kind == "rename":
            number = self.seen[asked.path]
            self._change({asked.path: GONE, asked.onto: number})
        elif asked.kind == "remove":
            self._change({asked.path: GONE})
        elif asked.kind == "folder":
            self._change({asked.path: FOLDER})
        elif asked.kind == "told":
            self.promised[asked.path] = {self.seen[asked.path]}
        else:
            for folder, change in self.doubtful:
                if folder == asked.path:
                    _apply(change, self.names)
            self.doubtful = [(folder, change) for folder, change in self.doubtful if folder != asked.path]

    def _change(self, change: dict[str, int]) -> None:
        _apply(change, self.seen)
        for path, number in change.items():
            if path in self.promised:
                self.promised[path].add(number)
        self.doubtful.append((Path(next(iter(change))).parent.as_posix(), change))

    def choices(self, rng: random.Random) -> Iterator[tuple[bool, ...]]:
        """Which changes in doubt have come to the disk: every choice among a few, some among many."""
        count = len(self.doubtful)
        if count <= FEW:
            yield from itertools.product((False, True), repeat=count)
            return
        yield from ((False,) * count, (True,) * count)
        for _ in range(2**FEW):
            yield tuple(rng.random() < 0.5 for _ in range(count))

    def there(self, choice: Sequence[bool]) -> dict[str, int]:
        """The names that lie in folders which are there themselves."""
        names = dict(self.names)
        for (_, change), kept in zip(self.doubtful, choice, strict=True):
            if kept:
                _apply(change, names)
        return {
            path: number
            for path, number in names.items()
            if all(names.get(above.as_posix()) == FOLDER for above in list(Path(path).parents)[:-1])
        }

    def tree(self, names: Mapping[str, int], loss: Loss) -> Tree:
        return {path: None if number == FOLDER else self._left(number, loss) for path, number in sorted(names.items())}

    def _left(self, number: int, loss: Loss) -> bytes:
        flushed, written = self.flushed[number], self.written[number]
        return written if flushed == written else loss(flushed, written)

    def broken_promises(self, names: Mapping[str, int]) -> list[str]:
        """Paths that a writer has returned for, and that are not there as it wrote them."""
        return [
            path
            for path, numbers in self.promised.items()
            if (number := names.get(path, GONE)) not in numbers or self.flushed.get(number) != self.written.get(number)
        ]


def _apply(change: Mapping[str, int], names: dict[str, int]) -> None:
    for path, number in change.items():
        if number == GONE:
            names.pop(path, None)
        else:
            names[path] = number


def states(log: Sequence[Operation], rng: random.Random, start: Tree) -> list[Tree]:
    """Every state, once, that a power cut after any of these operations may leave."""
    found: dict[str, Tree] = {}
    now = Disk.of(start)
    for asked in log:
        now.ask(asked)
        for choice in now.choices(rng):
            names = now.there(choice)
            whole = all(now.written[number] == now.flushed[number] for number in names.values() if number != FOLDER)
            for loss in [LOSSES["all"]] if whole else LOSSES.values():
                tree = now.tree(names, loss)
                digests = {path: hashlib.sha256(content or b"").hexdigest() for path, content in tree.items()}
                found.setdefault(repr(sorted(digests.items())), tree)
    return list(found.values())


def drawn(log: Sequence[Operation], rng: random.Random, start: Tree) -> Tree:
    """One of these states at random."""
    now = Disk.of(start)
    for asked in log[: rng.randrange(len(log)) + 1]:
        now.ask(asked)
    choice = [rng.random() < 0.5 for _ in now.doubtful]
    return now.tree(now.there(choice), rng.choice(list(LOSSES.values())))


def lay_out(tree: Tree, root: Path) -> None:
    root.mkdir(parents=True)
    for path, content in tree.items():  # sorted, so that folders come before what they hold
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)


def test_the_model_of_a_disk_by_hand(tmp_path: Path) -> None:
    """One file is written twice. What may be there, if the power goes after each operation of the second time."""
    with recorded(tmp_path / "root") as log:
        files.write_bytes(tmp_path / "root" / "a", b"old.")
        first = len(log)
        files.write_bytes(tmp_path / "root" / "a", b"new.")
    assert [asked.kind for asked in log[first:]] == ["create", "write", "flush", "rename", "flush folder", "told"]
    now = Disk()
    for asked in log[:first]:
        now.ask(asked)
    seen = []
    for asked in log[first:-1]:
        now.ask(asked)
        lying = set()
        for choice in now.choices(random.Random(0)):
            for loss in LOSSES.values():
                tree = now.tree(now.there(choice), loss)
                lying.add((tree.pop("a"), *tree.values()))
        seen.append(lying)
    bare, beside = (b"old.",), [(b"old.", left) for left in (b"new.", b"", b"ne", b"\0\0\0\0", b"\0\0w.")]
    assert seen[0] == {bare, (b"old.", b"")}
    assert seen[1] == {bare, *beside}
    assert seen[2] == {bare, beside[0]}
    assert seen[3] == {bare, beside[0], (b"new.",)}
    assert seen[4] == {(b"new.",)}


# ---------------------------------------------------------------------------------------------- what is run again

TAKEN: list[Path] = []
"""The folder of the model of every training step."""


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """MLflow and costs have tests of their own; after a power cut no process of before lives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.Tracker, "start", lambda self, beat=None: None)
        patch.setattr(compose, "check", lambda model, **more: None)
        patch.setattr(meter, "TIMED_IMAGES", 1)
        patch.setattr(meter, "macs", lambda call: 0.0)
        patch.setattr(meter, "peak_memory", lambda call, device: 0)
        patch.setattr(figures, "draw", lambda fill: "<svg></svg>")
        patch.setattr(files, "is_alive", lambda process: False)
        advance = Training.advance

        def counted(training: Any, *args: Any, **more: Any) -> float:
            TAKEN.append(training.checkpoint.parent)
            return advance(training, *args, **more)

        patch.setattr(Training, "advance", counted)
        yield


class Campaign:
    """A suite, its undisturbed results, and trials of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.suite = folder / "tiny.yaml"
        self._number = 0
        write_frames(folder / "frames", count=15)
        write_suite(self.suite, folder / "frames", **SUITE)
        self.root = folder / "undisturbed"
        with recorded(self.root) as self.log:
            self.run(self.root)
        self.expected = results(self.root)

    def run(self, root: Path) -> None:
        done = session.run_suite(Request(suite=str(self.suite), root=root, device="cpu"))
        if done.failed:
            rows = records.read_record(root / "suites" / "tiny.json")["rows"]
            raise AssertionError("; ".join(row["failure"] for row in rows if row["failure"]))

    def trial(self, tree: Tree) -> tuple[str, list[Operation]]:
        """Runs the suite on such a disk; returns what is wrong ("" if nothing is) and the operations asked of it."""
        self._number += 1
        root = self.folder / f"runs-{self._number:04d}"
        lay_out(tree, root)
        finished, left = units(root), {run: STEPS - steps_of(run) for run in root.glob("trained/*-s0-*")}
        TAKEN.clear()
        try:
            with recorded(root) as log:
                self.run(root)
            found = results(root)
        except Exception as error:
            return f"{type(error).__name__}: {error}", []
        if found != self.expected:
            return f"other results: {[key for key in self.expected if found.get(key) != self.expected[key]]}", log
        if again := [path for path, state in finished.items() if units(root).get(path) != state]:
            return f"finished and on disk, and made again: {again}", log
        if debris := [str(path) for path in root.rglob("*.tmp")]:
            return f"left behind: {debris}", log
        for run in root.glob("trained/*-s0-*"):
            if TAKEN.count(run) != left.get(run, STEPS):
                return f"{TAKEN.count(run)} steps of {run.name} were taken, {left.get(run, STEPS)} were left", log
        return "", log


def steps_of(run: Path) -> int:
    """Returns the step at which a training on disk can resume, STEPS if it is finished."""
    if records.found_record(run / "done.json"):
        return STEPS
    checkpoint = run / "checkpoint.pt"
    try:
        content = checkpoint.read_bytes()
        sealed.check_archive(content, checkpoints.CHECKPOINT)
        return int(torch.load(checkpoint, weights_only=True)["step"])
    except Exception:
        return 0


def results(root: Path) -> dict[str, Any]:
    """Returns every result below a root, without times and versions."""
    found: dict[str, Any] = {}
    for run in sorted((root / "trained").glob("*-s0-*")):
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        weights = {name: hashlib.sha256(value.numpy()).hexdigest() for name, value in state["model"].items()}
        scores = records.read_record(next(run.glob("eval-*/scores.json")))
        found |= {
            f"{run.name} weights": [state["step"], state["optimiser"], weights],
            f"{run.name} log": records.read_record(run / "done.json")["rows"],
            f"{run.name} scores": [scores["scores"], scores["images"], scores["identity"]],
            f"{run.name} predictions": records.digest_of(next(run.glob("eval-*/predictions.h5"))),
            f"{run.name} record": records.read_record(run / "run.json")["identity"],
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


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("power"))


unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="names in folders are flushed by themselves")


def report(what: str, tried: int, started: float) -> None:
    print(f"{what}: {tried} trials in {time.monotonic() - started:.0f} s", file=sys.__stderr__)


@unix
@pytest.mark.slow
@pytest.mark.timeout(9000 if EVERYTHING else 600)
def test_no_power_cut_costs_a_result(campaign: Campaign) -> None:
    """A cut of a run, and, with EVERYTHING, a second one of the run that goes on from there."""
    seed = random.SystemRandom().randrange(10**6) if EVERYTHING else 0
    rng = random.Random(seed)
    every = states(campaign.log, rng, {})
    chosen = every if EVERYTHING else rng.sample(every, TRIALS)
    again: list[Tree] = []
    started, problems = time.monotonic(), []
    for tree in chosen:
        problem, log = campaign.trial(tree)
        problems += [problem] if problem else []
        if EVERYTHING and log:
            again += [drawn(log, rng, tree) for _ in range(2)]
    for tree in rng.sample(again, min(AGAIN, len(again))):
        problem, _ = campaign.trial(tree)
        problems += [f"second cut: {problem}"] if problem else []
    tried = len(chosen) + min(AGAIN, len(again))
    report(f"seed {seed}: {len(campaign.log)} operations, {len(every)} states", tried, started)
    assert len(every) > 150
    assert problems == [], f"seed {seed}"


@unix
def test_what_a_writer_returned_for_is_there_in_every_state(campaign: Campaign) -> None:
    assert broken_promises(campaign.log) == set()
    assert sum(asked.kind == "told" for asked in campaign.log) > 30


@unix
def test_no_power_cut_costs_a_pack(campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, of `data prepare`: 15 frames in 4 parts."""
    monkeypatch.setattr(packing, "PART_FRAMES", 4)

    def pack(root: Path) -> str | None:
        frames, output = campaign.folder / "frames", root / "new" / "a.h5"
        packing.pack(frames, output, dataset=None, options={}, workers=1, on_frame=lambda done, total: None)
        assert [path.name for path in output.parent.iterdir() if not path.name.endswith(".lock")] == ["a.h5"]
        return records.digest_of(output)

    with recorded(tmp_path / "undisturbed") as log:
        expected = pack(tmp_path / "undisturbed")
    seed = random.SystemRandom().randrange(10**6) if EVERYTHING else 0
    every = states(log, random.Random(seed), {})
    chosen = every if EVERYTHING else random.Random(seed).sample(every, TRIALS // 2)
    started = time.monotonic()
    for number, tree in enumerate(chosen):
        lay_out(tree, tmp_path / str(number))
        assert pack(tmp_path / str(number)) == expected, f"seed {seed}: {sorted(tree)}"
    report(f"seed {seed}: {len(log)} operations of a pack, {len(every)} states", len(chosen), started)


def broken_promises(log: Sequence[Operation]) -> set[str]:
    """Returns paths whose writer had returned, but which a power cut after some operation can lose."""
    now, broken = Disk(), set()
    rng = random.Random(0)
    for asked in log:
        now.ask(asked)
        for choice in now.choices(rng):
            broken |= set(now.broken_promises(now.there(choice)))
    return broken


# ------------------------------------------------------------------------------------------------ planted defects


def file_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """A file gets its name before its bytes are on disk."""


def folder_not_flushed(patch: pytest.MonkeyPatch) -> None:
    """A name is not on disk before the record that vouches for it."""
    patch.setattr(files, "sync_folder", lambda folder: None)


def flag_before_data(patch: pytest.MonkeyPatch) -> None:
    """done.json is there before the checkpoint that it vouches for."""
    sound = checkpoints.save

    def save(path: Path, model: Any, optimiser: Any, step: int, log: Any) -> str:
        if optimiser is None:
            records.write_record(path.with_name("done.json"), {"rows": log.rows, "seconds": log.seconds})
        return sound(path, model, optimiser, step, log)

    patch.setattr(checkpoints, "save", save)


DEFECTS = (file_not_flushed, folder_not_flushed, flag_before_data)
FOUND_IN_CI = DEFECTS[:1]


@unix
@pytest.mark.slow
@pytest.mark.timeout(9000 if EVERYTHING else 600)
@pytest.mark.parametrize("defect", DEFECTS if EVERYTHING else FOUND_IN_CI)
def test_a_planted_defect_is_found(campaign: Campaign, defect: Callable[[pytest.MonkeyPatch], None]) -> None:
    rng = random.Random(0)
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        defect(patch)
        root = campaign.folder / defect.__name__
        with recorded(root, lax=defect is file_not_flushed) as log:
            campaign.run(root)
        assert bool(broken_promises(log)) is (defect is not flag_before_data)
        for tried in range(1, MOST + 1):
            problem, _ = campaign.trial(drawn(log, rng, {}))
            if problem:
                report(f"{defect.__name__} found ({problem[:200]})", tried, started)
                return
    pytest.fail(f"{defect.__name__} was not found in {MOST} states")
