"""Every kind of file that stays below a run root, damaged in every way: made again, or refused in one line; never used.

A finished suite is copied, one file damaged, and then a table is made of it and the suite run again. Either one
gives the numbers of the undamaged one, or an error with a place and a hint.
"""

import errno
import json
import logging
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ON_DISK, SMALL, leave_out_costs, write_frames, write_suite

from spd_bench.data import pack as packing
from spd_bench.data.sets.packed import PackedFrames
from spd_bench.errors import SpdError
from spd_bench.report.collect import collect, curves
from spd_bench.report.verdicts import judged
from spd_bench.run import session
from spd_bench.run.request import Request
from spd_bench.store import records, sealed

SUITE = {
    "base": SMALL,
    "side": 28,
    "more": ON_DISK,
    "steps": 1,
    "queries": 4,
    "marks": 1,
    "baselines": "[constant]",
    "report": "{primary: {metric: absrel, k: 8}}",
}
FILES = {
    "run.json": "trained/small-*/run.json",
    "checkpoint": "trained/small-*/checkpoint.pt",
    "done.json": "trained/small-*/done.json",
    "scores.json": "trained/small-*/eval-*/scores.json",
    "predictions": "trained/small-*/eval-*/predictions.h5",
    "shard": "features/*/test-00000.h5",
    "features' record": "features/*/about.json",
    "checked": "checked/*.json",
    "suite's record": "suites/tiny.json",
    "report": "reports/tiny.html",
    "holder": ".tiny.holder.json",
}
"""Each kind of file, and where one of them lies below a run root."""


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(share: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * share))

    return damage


def flipped(path: Path) -> None:
    """One bit, in the middle of what the file holds."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b100
    path.write_bytes(content)


def zeroed(path: Path) -> None:
    """A block of a disk."""
    content = path.read_bytes()
    start = max(0, len(content) // 2 - 2048)
    lost = min(4096, len(content) - start)
    path.write_bytes(content[:start] + bytes(lost) + content[start + lost :])


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def unreadable(path: Path) -> None:
    path.chmod(0)


HERE: list[bool] = []
"""Whether a test of this file runs."""


def deny(event: str, args: tuple[object, ...]) -> None:
    """A file without permissions cannot be opened, by root neither, who otherwise reads everything."""
    if event != "open" or not HERE or not isinstance(args[0], str | os.PathLike) or not os.path.isfile(args[0]):
        return
    if os.stat(args[0]).st_mode & 0o777 == 0:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(args[0]))


sys.addaudithook(deny)  # stays until the process ends


@pytest.fixture(autouse=True)
def as_if_not_root() -> Iterator[None]:
    HERE.append(True)
    yield
    HERE.clear()


def test_what_is_unreadable_is_so_for_everybody(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    unreadable(tmp_path / "a")
    with pytest.raises(PermissionError):
        (tmp_path / "a").read_bytes()
    assert records.digest_of(tmp_path / "a") is None
    HERE.clear()
    if os.geteuid() == 0:
        assert (tmp_path / "a").read_bytes() == b"a"


def newer(path: Path) -> None:
    """As a version to come might write it."""
    if path.suffix == ".json":
        content = json.loads(path.read_bytes())
        content[records.SEAL] = {"version": records.RECORD_VERSION + 1, "digest": "of another kind"}
        path.write_text(json.dumps(content), encoding="utf-8")
    elif path.suffix == ".pt":
        state = torch.load(path, weights_only=True)
        state["format"] = 99
        torch.save(state, path)
    else:
        content = bytearray(path.read_bytes())
        path.write_bytes(b"spd-bench of another time".ljust(sealed.SEAL_BYTES, b"\0") + content[sealed.SEAL_BYTES :])


EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
MUTANTS = 100 if EVERYTHING else 4
"""Of each kind of file."""
DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": missing,
    "empty": empty,
    "cut early": cut(0.05),
    "cut in the middle": cut(0.5),
    "cut late": cut(0.99),
    "one bit": flipped,
    "4 KiB zeroed": zeroed,
    "a folder": folder,
    "dangling link": dangling,
    "unreadable": unreadable,
    "newer": newer,
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """MLflow and costs have tests of their own; here they would only take their time."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_costs(patch)
        yield


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("frames"), count=15)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, frames: Path) -> Path:
    """A folder with a suite and its finished runs, among them the side file of a process that was killed."""
    home = tmp_path_factory.mktemp("finished")
    write_suite(home / "tiny.yaml", frames, **SUITE)
    run(home)
    holder = {"pid": 1, "host": "elsewhere", "boot": "", "started": "2026-01-01T00:00:00Z", "command": "spd-bench run"}
    records.write_record(home / "runs" / FILES["holder"], holder)
    return home


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "home"))


class Failed(Exception):
    """The suite went to its end, and runs of it failed: why."""


def run(home: Path) -> None:
    done = session.run_suite(Request(suite=str(home / "tiny.yaml"), root=home / "runs", device="cpu"))
    if done.failed:
        rows = records.read_record(home / "runs" / "suites" / "tiny.json")["rows"]
        raise Failed("; ".join(row["failure"] for row in rows if row["failure"]))


def numbers(root: Path) -> dict[str, Any]:
    """Returns the numbers of a table, its verdicts and its curves."""
    comparison = collect(root, "tiny")
    told = judged(root, "tiny")
    return {
        "rows": [(row.name, row.values, row.trainable_parameters, row.failure) for row in comparison.rows],
        "images": comparison.images,
        "verdicts": sorted(told.others) if told else [],
        "curves": curves(root, "tiny"),
    }


def refusal(act: Callable[[], object]) -> str:
    """Returns the message of an SpdError or of failed runs, "" where nothing fails; other exceptions pass through."""
    told: SpdError | Failed
    try:
        act()
    except (SpdError, Failed) as error:
        told = error
    else:
        return ""
    if isinstance(told, Failed):
        assert str(told).startswith("/")  # the file's path; an unforeseen exception begins with its name
    else:
        assert told.where or "/runs" in told.message
        assert told.hint
        assert "\n" not in told.message
    return str(told)


@pytest.mark.slow
@pytest.mark.timeout(method="thread")
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("what", FILES)
def test_damage_is_mended_or_refused(home: Path, finished: Path, what: str, how: str) -> None:
    told = told_of(home, finished, FILES[what], DAMAGES[how])
    if (what, how) in MENDED:
        assert told == ""


def told_of(home: Path, finished: Path, what: str, damage: Callable[[Path], None]) -> str:
    """Returns the error of a run after damage; without one, "", and the numbers are those of before."""
    root = home / "runs"
    (path,) = root.glob(what)
    expected = numbers(finished / "runs")
    damage(path)
    if not refusal(lambda: numbers(root)):
        assert numbers(root) == expected
    told = refusal(lambda: run(home))
    if not told:
        assert numbers(root) == expected
    return told


def at_random(number: int) -> Callable[[Path], None]:
    """Damage that is known by its number: some bits, a piece lost, zeroed, doubled, full of noise, or the end."""

    def damage(path: Path) -> None:
        rng = random.Random(number)
        content = bytearray(path.read_bytes())
        start = rng.randrange(len(content))
        piece = slice(start, start + rng.choice((1, 8, 64, 512, 4096)))
        lost = len(content[piece])
        how = rng.randrange(6)
        if how == 0:
            for place in rng.choices(range(len(content)), k=rng.choice((1, 1, 4))):
                content[place] ^= 1 << rng.randrange(8)
        else:
            content[piece] = (b"", bytes(lost), 2 * content[piece], rng.randbytes(lost), b"")[how - 1]
        path.write_bytes(content[:start] if how == 5 else content)

    return damage


@pytest.mark.slow
@pytest.mark.timeout(9000 if EVERYTHING else 300, method="thread")
@pytest.mark.parametrize("what", FILES if EVERYTHING else ["checkpoint"])
def test_damage_at_random_is_mended_or_refused(finished: Path, tmp_path: Path, what: str) -> None:
    mended = 0
    for number in range(MUTANTS):
        home = Path(shutil.copytree(finished, tmp_path / str(number)))
        try:
            mended += told_of(home, finished, FILES[what], at_random(number)) == ""
        except BaseException as error:
            error.add_note(f"{what}, damage number {number}")
            raise
        shutil.rmtree(home)
    print(f"{what}: {MUTANTS} mutants, {mended} mended", file=sys.__stderr__)


RECORDS = ("run.json", "done.json", "scores.json", "checked", "suite's record")
MENDED = {
    (what, how)
    for what in (*RECORDS, "predictions", "features' record", "report")
    for how in ("missing", "empty", "cut early", "cut in the middle", "cut late", "one bit", "4 KiB zeroed")
}
"""What is made again without a question: everything but a checkpoint, which hours of work may hang on."""


@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "missing"])
def test_a_checkpoint_that_training_would_go_on_from(home: Path, how: str) -> None:
    (path,) = (home / "runs").glob(FILES["checkpoint"])
    path.with_name("done.json").unlink()
    shutil.rmtree(next(path.parent.glob("eval-*")))
    DAMAGES[how](path)
    told = refusal(lambda: run(home))
    assert how == "dangling link" or "checkpoint.pt" in told


def test_a_training_that_is_to_be_evaluated_gets_its_record_back(home: Path, finished: Path) -> None:
    """As a file system that lost both, but not done.json, leaves it."""
    (path,) = (home / "runs").glob(FILES["run.json"])
    path.unlink()
    shutil.rmtree(next(path.parent.glob("eval-*")))
    run(home)
    assert numbers(home / "runs") == numbers(finished / "runs")


def test_a_shard_is_built_again_by_who_reads_it(home: Path, finished: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = home / "runs"
    for how in ("missing", "empty", "cut in the middle", "one bit", "4 KiB zeroed", "newer"):
        (path,) = (finished / "runs").glob(FILES["shard"])
        there = root / path.relative_to(finished / "runs")
        shutil.copy(path, there)
        DAMAGES[how](there)
        shutil.rmtree(next(root.glob("trained/small-*/eval-*")))
        with caplog.at_level(logging.WARNING):
            run(home)
        assert records.digest_of(there) == records.digest_of(path)
        assert numbers(root) == numbers(finished / "runs")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_pack_and_its_parts(frames: Path, tmp_path: Path, how: str) -> None:
    """The packed file, and the record of a pack that was stopped."""
    output = tmp_path / "a.h5"

    def pack() -> None:
        packing.pack(frames, output, dataset=None, options={}, workers=1, on_frame=lambda done, total: None)

    pack()
    whole = records.digest_of(output)
    DAMAGES[how](output)

    def read() -> None:
        data = PackedFrames(PackedFrames.Config(root=str(output)))
        for split in ("train", "val", "test"):
            for frame in data.frames(split):
                data.read_verified(frame)

    if not refusal(pack):
        assert refusal(read) == ""
        assert records.digest_of(output) == whole
    parts = tmp_path / "b.h5.parts"
    parts.mkdir()
    records.write_record(parts / packing.RECORD, {"identity": {}, "height": 24, "width": 32, "frame_bytes": 3000})
    DAMAGES[how](parts / packing.RECORD)
    output = tmp_path / "b.h5"
    if not refusal(pack):
        assert records.digest_of(output) == whole
