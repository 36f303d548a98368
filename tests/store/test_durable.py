"""The module that writes: whole or not at all, on disk in the right order, and nothing else writes below a run root."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from tiny import SMALL

from spd_bench.errors import ResourceError, StateError
from spd_bench.run.request import Request
from spd_bench.store import files, records, sealed
from spd_bench.store.removal import clear_debris


class Recorder:
    """`os` as the module sees it; notes what is asked of it, and refuses one operation."""

    def __init__(self, refused: str = "", number: int = errno.ENOSPC) -> None:
        self.asked: list[str] = []
        self.refused = refused
        self.number = number

    def __getattr__(self, name: str) -> Any:
        act = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "mkdir", "close", "unlink"):
            return act

        def asked(*args: Any) -> Any:
            self.asked.append(name)
            if name == self.refused:
                raise OSError(self.number, os.strerror(self.number))
            return act(*args)

        return asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    recorder = Recorder()
    monkeypatch.setattr(files, "os", recorder)
    return recorder.asked


def test_a_file_is_on_disk_before_its_name_and_its_name_before_the_next(tmp_path: Path, asked: list[str]) -> None:
    files.write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    written = ["open", "write", "fsync", "close"]
    folder = ["open", "fsync", "close"] if os.name == "posix" else []
    assert asked == [*written, "replace", *folder]


def test_a_folder_that_is_made_is_on_disk_in_the_one_above(tmp_path: Path, asked: list[str]) -> None:
    files.make_folder(tmp_path / "a" / "b")
    folder = ["open", "fsync", "close"] if os.name == "posix" else []
    assert asked == ["mkdir", *folder, "mkdir", *folder]
    asked.clear()
    files.make_folder(tmp_path / "a" / "b")
    assert asked == []


def test_a_write_that_takes_part_of_the_bytes_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", lambda handle, content, write=os.write: write(handle, content[:3]))
    files.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("refused", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_what_the_disk_refuses_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, number: int
) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, b"old")
    monkeypatch.setattr(files, "os", Recorder(refused, number))
    with pytest.raises(ResourceError) as caught:
        files.write_bytes(path, b"new")
    assert caught.value.exit_code == 5
    assert os.strerror(number) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2  # what, and the hint
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_a_files_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(StateError, match="a folder lies in its place"):
        files.write_bytes(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_debris_of_processes_that_ended_is_cleared_and_no_others(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive, foreign = (
        tmp_path / f".a.{name}-0123abcd.tmp"
        for name in (f"{files.node()}-{ended.pid}", f"{files.node()}-{os.getpid()}", f"elsewhere-{ended.pid}")
    )
    for path in (dead, alive, foreign, tmp_path / ".notes.tmp"):
        path.write_bytes(b"half")
    clear_debris(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, foreign.name, ".notes.tmp"}


# records


def test_a_record_reads_as_it_was_written(tmp_path: Path) -> None:
    content = {"scores": {"absrel@8": 0.1}, "ks": (1, 8), "at": {1: 2.5}, "word": "δ₁"}
    records.write_record(tmp_path / "a.json", content)
    assert records.read_record(tmp_path / "a.json") == json.loads(json.dumps(content))


def test_a_record_of_an_earlier_version_is_taken(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"scores": {"absrel@8": 0.1}})
    assert records.read_record(tmp_path / "a.json") == {"scores": {"absrel@8": 0.1}}


def test_no_flipped_bit_of_a_record_changes_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    records.write_record(path, {"scores": {"absrel@8": 0.125}})
    whole = path.read_bytes()
    silent = 0
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                said = records.read_record(path)
            except StateError:
                continue
            # white space, or the seal's own name: what it says is the same
            assert said["scores"] == {"absrel@8": 0.125}
            silent += 1
    assert silent < len(whole)


def test_a_record_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1, records.SEAL: {"version": records.RECORD_VERSION + 1, "what": "else"}})
    for read in (records.read_record, records.found_record):
        with pytest.raises(StateError, match="was written by a newer spd-bench"):
            read(path)


def test_a_record_vouches_for_the_files_beside_it(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "data", b"data")
    record = {records.VOUCHED: {"data": records.digest_of(tmp_path / "data")}}
    assert records.vouched(tmp_path, record)
    files.write_bytes(tmp_path / "data", b"Data")
    assert not records.vouched(tmp_path, record)
    files.remove(tmp_path / "data")
    assert not records.vouched(tmp_path, record)
    assert records.vouched(tmp_path, {})  # of a version that did not


def test_an_archive_is_read_by_others_and_refused_when_changed(tmp_path: Path) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save({"weights": torch.arange(100)}, buffer)
    digest = sealed.write_archive(tmp_path / "a.pt", "mark", buffer.getvalue())
    assert digest == records.digest_of(tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True)["weights"][7] == 7
    whole = (tmp_path / "a.pt").read_bytes()
    sealed.check_archive(whole, "mark")
    sealed.check_archive(buffer.getvalue(), "mark")  # of an earlier version
    refused = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        try:
            sealed.check_archive(bytes(damaged), "mark")
        except Exception:  # zipfile raises of all kinds
            refused += 1
    assert refused >= len(range(0, len(whole), 7)) - 1  # the length of the comment, without which there is none


# nothing else writes

TINY = (
    "\nsuite: tiny\n"
    + SMALL
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [28, 28]
  augment: {{enabled: false}}
  cache: disk
train: {{steps: 1, batch_size: 2, queries: 4, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [1, 8], k1_draws: 1}}
baselines: [constant]
report: {{primary: {{metric: absrel, k: 8}}}}
"""
)
OTHERS = ("filelock", "mlflow", "optuna", "sqlalchemy", "alembic")
"""Packages that keep files of their own below a root: locks and data bases."""


def _writer() -> str:
    """The innermost module of ours on the stack; "" if one of the others stands before it, or none of ours."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.split(".", maxsplit=1)[0] in OTHERS:
            return ""
        if module.split(".", maxsplit=1)[0] in ("spd_bench", "spd_components", "spd_baselines"):
            return module
        frame = frame.f_back
    return ""


class Watch:
    """Every file below a root that a module of ours opens for writing, as Python's audit events tell; by module."""

    def __init__(self) -> None:
        self.root = ""
        self.writers: dict[str, set[str]] = {}
        sys.addaudithook(self._hear)  # stays until the process ends

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event != "open" or not self.root or not isinstance(args[0], str | os.PathLike):
            return
        path, _, flags = args
        if os.fspath(path).startswith(self.root) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.note(str(path))

    def note(self, path: str) -> None:
        if writer := _writer():
            self.writers.setdefault(writer, set()).add(path)


WATCH = Watch()


@pytest.mark.slow
def test_one_module_writes_below_a_run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, evaluation, features, report and comparison; h5py opens files by itself, so it is asked here."""
    from spd_bench.cost import meter
    from spd_bench.model import compose
    from spd_bench.run import session

    root = tmp_path / "runs"
    for i in range(15):
        for kind, value in (
            ("rgb", np.full((24, 32, 3), 9 * i, np.uint8)),
            ("depth", np.full((24, 32), 2000, np.uint16)),
        ):
            (tmp_path / "frames" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(value).save(tmp_path / "frames" / kind / f"{i:03d}.png")
    open_h5 = h5py.File.__init__

    def opened(file: Any, name: Any, mode: str = "r", *args: Any, **more: Any) -> None:
        if mode != "r" and isinstance(name, str | bytes | os.PathLike) and str(name).startswith(str(root)):
            WATCH.note(str(name))
        open_h5(file, name, mode, *args, **more)

    monkeypatch.setattr(h5py.File, "__init__", opened)
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    # what takes long and writes nothing
    monkeypatch.setattr(compose, "check", lambda model, **more: None)
    monkeypatch.setattr(meter, "TIMED_IMAGES", 1)
    suite = tmp_path / "tiny.yaml"
    suite.write_text(TINY.format(root=tmp_path / "frames"), encoding="utf-8")
    monkeypatch.setattr(WATCH, "root", str(root))
    monkeypatch.setattr(WATCH, "writers", {})
    finished = session.run_suite(Request(suite=str(suite), root=root, device="cpu"))
    assert not finished.failed, finished.table
    assert set(WATCH.writers) == {"spd_bench.store.files"}
    kinds = {path.rpartition("/")[2].rsplit(".", 2)[0].lstrip(".") for path in WATCH.writers["spd_bench.store.files"]}
    assert {"checkpoint.pt", "done.json", "predictions.h5", "scores.json", "tiny.html", "about.json"} <= kinds


def test_the_watch_sees_others_that_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WATCH, "root", str(tmp_path))
    monkeypatch.setattr(WATCH, "writers", {})
    planted: dict[str, Any] = {"__name__": "spd_components.planted"}
    exec("def write(path): path.write_text('x'); open(path, 'ab').close()", planted)  # noqa: S102
    planted["write"](tmp_path / "a")
    assert WATCH.writers == {"spd_components.planted": {str(tmp_path / "a")}}
