"""Removal takes what spd-bench wrote: no link is followed, and files of others and look-alikes stay."""

import ast
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spd_bench.cli import app
from spd_bench.data import pack
from spd_bench.data.features.cache import FeatureCache
from spd_bench.data.features.shelf import FeaturesRecord
from spd_bench.errors import ConfigError
from spd_bench.process.supervise import made
from spd_bench.store import files, records
from spd_bench.store.removal import clear_debris, remove_own
from spd_bench.tracking.tracker import QUEUE, _drop_queue, queued

HEAVY = Path(__file__).parents[2] / "spd_bench"


def outside(folder: Path) -> Path:
    """A folder of somebody else, with a file that has a name of ours."""
    folder.mkdir()
    for name in ("val-00000.h5", "about.json", "part-00000.h5", "source.json"):
        (folder / name).write_text("{}")
    return folder


def untouched(folder: Path) -> bool:
    return len(list(folder.iterdir())) == 4


def entry(root: Path, note: str) -> Path:
    """A folder of features with its record and one shard, whose content nobody reads here."""
    identity = {
        "encoder": {"encoder": {"use": "means"}},
        "data": {"image_size": [28, 42]},
        "views": "as they are",
        "note": note,
    }
    folder = root / records.sha256(identity)[:16]
    folder.mkdir(parents=True)
    about = FeaturesRecord(
        identity=identity, data="x", suites=["s"], maps=((2, 3, 6),) * 4, bytes_per_view=1, versions={}
    )
    records.write_record(folder / "about.json", asdict(about))
    (folder / "val-00000.h5").write_bytes(b"x" * 100)
    return folder


def rm(runs: Path, *arguments: str) -> tuple[int, str]:
    code = "import sys; from spd_bench.cli import main; sys.argv[0] = 'spd-bench'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "cache", "rm", *arguments, "--runs", str(runs)],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_cache_rm_takes_entries_alone(tmp_path: Path) -> None:
    """Of a link to a folder, a folder with `{}`, one with another's key, and two entries, the two entries go."""
    root = tmp_path / "runs" / "features"
    one, two = entry(root, "one"), entry(root, "two")
    foreign = outside(tmp_path / "foreign")
    (root / "0123456789abcdef").symlink_to(foreign)
    alike = outside(root / "fedcba9876543210")
    copied = root / "aaaaaaaaaaaaaaaa"  # the record of another folder
    copied.mkdir()
    (copied / "about.json").write_bytes((one / "about.json").read_bytes())
    (one / "notes.txt").write_text("mine")
    (two / "val-00001.h5").symlink_to(foreign / "val-00000.h5")
    (two / "sub").mkdir()
    code, said = rm(tmp_path / "runs", "--all")
    assert code == 0, said
    assert f"removing {one.name} (means, 28×42, frames as they are, 0 views, 0.0 MB)" in said
    assert "removed 2" in said
    assert [path.name for path in one.iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in two.iterdir()) == ["sub", "val-00001.h5"]
    assert untouched(foreign)
    assert untouched(alike)
    assert copied.exists()
    assert FeatureCache(root).entries() == []


def test_an_empty_or_ambiguous_key_removes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs" / "features"
    one = entry(root, "one")
    for key in ("", " "):
        code, said = rm(tmp_path / "runs", key)
        assert code == 2
        assert "the key is empty" in said
    notes = (str(number) for number in range(40))  # 40 keys, 16 first digits: two begin alike
    keys = [entry(root, note).name for note in notes]
    first = next(digit for digit in "0123456789abcdef" if sum(key.startswith(digit) for key in keys) > 1)
    with pytest.raises(ConfigError, match=f'keys begin with "{first}"'):
        FeatureCache(root).remove(first)
    assert one.exists()
    assert len(FeatureCache(root).entries()) == 41


def test_a_cache_that_is_a_link_is_refused(tmp_path: Path) -> None:
    real = entry(tmp_path / "elsewhere", "one")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "features").symlink_to(tmp_path / "elsewhere")
    found = CliRunner().invoke(app, ["cache", "rm", "--all", "--runs", str(tmp_path / "runs")])
    assert isinstance(found.exception, ConfigError)
    assert "this is a link to" in str(found.exception)
    assert real.exists()


def test_debris_is_a_regular_file_with_the_name_of_debris(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = f".a.{files.node()}-{ended.pid}-0123abcd.tmp"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / name).write_text("x")
    root = tmp_path / "runs"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / name).write_text("x")
    (root / "linked").symlink_to(foreign)
    (root / name).mkdir()
    (root / name.replace(".a.", ".link.")).symlink_to(foreign / name)
    clear_debris(root)
    assert not (root / "deep" / name).exists()  # the control: what is debris goes
    assert (root / name).is_dir()
    assert (root / name.replace(".a.", ".link.")).is_symlink()
    assert (foreign / name).exists()


def test_a_queue_of_calls_keeps_files_of_others(tmp_path: Path) -> None:
    queue = tmp_path / QUEUE
    queue.mkdir()
    (queue / "00001764523012345678-77-000001.json").write_text("{}")
    (queue / "package.json").write_text("{}")
    assert queued(tmp_path) == 1
    assert _drop_queue(tmp_path) == 1
    assert [path.name for path in queue.iterdir()] == ["package.json"]
    other = tmp_path / "other"
    other.mkdir()
    (other / QUEUE).symlink_to(queue)
    (queue / "00001764523012345678-77-000002.json").write_text("{}")
    assert _drop_queue(other) == 0
    assert len(list(queue.iterdir())) == 2


def test_a_folder_that_was_made_for_nothing_goes_only_if_it_is_ours_alone(tmp_path: Path) -> None:
    with made(tmp_path / "gone"):
        (tmp_path / "gone").mkdir()
        (tmp_path / "gone" / ".suite.lock").touch()
    assert not (tmp_path / "gone").exists()
    foreign = outside(tmp_path / "foreign")

    def linked(root: Path) -> None:
        root.symlink_to(foreign)

    def alike(root: Path) -> None:
        (root / "work.lock").mkdir(parents=True)
        (root / "work.lock" / "file").touch()

    for number, make in enumerate((linked, alike)):
        root = tmp_path / f"kept-{number}"
        with made(root):
            make(root)
        assert root.exists()
    assert untouched(foreign)
    assert (tmp_path / "kept-1" / "work.lock" / "file").exists()


def test_parts_of_a_pack_leave_what_lies_beside_them(tmp_path: Path) -> None:
    parts = tmp_path / "rooms.h5.parts"
    outside(parts)
    (parts / "part-mine.h5").touch()
    (parts / "part-00001.h5").symlink_to(parts / "about.json")
    pack._delete(parts)
    assert sorted(path.name for path in parts.iterdir()) == [
        "about.json",
        "part-00001.h5",
        "part-mine.h5",
        "val-00000.h5",
    ]
    foreign = outside(tmp_path / "foreign")
    (tmp_path / "linked.parts").symlink_to(foreign)
    pack._delete(tmp_path / "linked.parts")
    assert untouched(foreign)


def test_what_is_left_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tmp").touch()
    (tmp_path / "a" / "y").touch()
    done = remove_own(tmp_path / "a", [r".*\.tmp"])
    assert (done.files, done.left) == (1, (tmp_path / "a" / "y",))
    assert remove_own(tmp_path / "a", ["y"]).left == ()
    assert not os.path.lexists(tmp_path / "a")


def test_no_other_module_removes() -> None:
    """Calls that remove are in store/; the export's own temporary folder outside a run root is the one exception."""
    removing = {"unlink", "rmtree", "rmdir", "removedirs"}
    found = {
        (str(path.relative_to(HEAVY)), node.attr)
        for path in HEAVY.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in removing
    }
    assert found == {
        ("store/files.py", "unlink"),
        ("store/files.py", "rmdir"),
        ("store/removal.py", "rmtree"),
        ("export/folder.py", "rmtree"),
    }
