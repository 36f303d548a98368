"""Bad input: suites and command lines that people, editors and attackers write, one in each row of bad_input.toml.

Each gets one message that begins with its place, or a line per problem, and the exit code 2, or 3 for data and weights;
no traceback, nothing on stdout, nothing written. `benchmarks/refusals.py` measures how long they take.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny import PATIENCE_S

from spd_bench import cli
from spd_bench.cost import timing

SCRIPT = Path(sys.executable).with_name("spd-bench")
FILE = "mine.yaml"
HEAD = "suite: mine\nextends: smoke\n"
Row = Mapping[str, Any]
ROWS: Mapping[str, list[Row]] = tomllib.loads(Path(__file__).with_name("bad_input.toml").read_text(encoding="utf-8"))


def content(row: Row) -> str:
    """The text of a row's file or command line."""
    if "parts" in row:
        return "".join(text * times for text, times in row["parts"])
    return str(row["line"] if "line" in row else row["text"])


def named(row: Row) -> str:
    """A row's name in pytest."""
    return str(row["id"]) if "id" in row else ascii(content(row))[1:51]


class Done(NamedTuple):
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with everything that is no suite; no colours; `profile` stays in this process."""
    monkeypatch.chdir(tmp_path)
    for name in ("DAV2_WEIGHTS", "SPD_BENCH_RUNS", "SPD_BENCH_PLUGINS", "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(timing, "is_pinned", lambda threads: True)
    Path("empty").mkdir()
    Path("two\nlines").mkdir()
    Path("junk.bin").write_bytes(b"\xff" * 50)
    Path("wild/rgb").mkdir(parents=True)
    Path("wild/depth").mkdir()
    Path("wild/rgb/0.png").write_bytes(b"\x89PNG")
    Path("wild/depth/0.png").write_bytes(b"\x89PNG")
    os.mkfifo("pipe.yaml")
    os.symlink("loop.yaml", "loop.yaml")
    os.symlink("nowhere.yaml", "dangling.yaml")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A function that runs the console script's entry point in this process."""

    def run(*args: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["spd-bench", *args])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def lie_here() -> list[str]:
    """Lists everything in the working folder, with sizes."""
    found = (path for path in Path().rglob("*"))
    return sorted(f"{path} {path.lstat().st_size if path.is_file() else ''}" for path in found)


def assert_refused(done: Done, code: int, message: str, before: list[str]) -> None:
    """One message of one line, with a hint perhaps, or a line per problem; nothing else anywhere.

    Typer's own messages stand below the command's usage or in a frame.
    """
    assert (done.code, done.out) == (code, ""), done
    assert message in done.err
    assert lie_here() == before
    for never in ("Traceback", "bug in spd-bench", "\x1b"):
        assert never not in done.err
    if "Usage: " in done.err or "╭─ Error" in done.err:
        return
    first, *others = done.err.splitlines()
    assert first.startswith("error: ")
    assert all(re.match(rf"  hint: |{FILE}:\d|  \S|\S*suites/\w+\.yaml:\d", line) for line in others), done.err
    assert max(map(len, done.err.splitlines())) < 1000


def assert_text_refused(command: Command, name: str, row: Row, head: str = "") -> None:
    Path(FILE).write_bytes(row["latin1"].encode("latin-1") if "latin1" in row else (head + content(row)).encode())
    before = lie_here()
    done = command(name, FILE)
    assert_refused(done, 2, row["says"], before)
    assert (row["at"] if "yaml" in row["at"] else f"{FILE}:{row['at']}: ") in done.err


@pytest.mark.parametrize("row", ROWS["check_file"], ids=named)
def test_file(command: Command, row: Row) -> None:
    assert_text_refused(command, "check", row)


@pytest.mark.parametrize("row", ROWS["check_suite"], ids=named)
def test_suite(command: Command, row: Row) -> None:
    assert_text_refused(command, "check", row, HEAD)


@pytest.mark.parametrize("row", ROWS["plan_suite"], ids=named)
def test_plan(command: Command, row: Row) -> None:
    assert_text_refused(command, "plan", row, HEAD)


def argv(row: Row) -> list[str]:
    return ["" if part == "…" else part for part in content(row).split(" ") if part]


@pytest.mark.parametrize("row", ROWS["command"], ids=named)
def test_command(command: Command, row: Row) -> None:
    before = lie_here()
    assert_refused(command(*argv(row)), row["exit"], row["says"], before)


@pytest.mark.parametrize("row", [row for row in ROWS["command"] if "script" in row], ids=named)
def test_script(row: Row) -> None:
    before = lie_here()
    call = [SCRIPT, *argv(row)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, encoding="utf-8", timeout=PATIENCE_S)
    assert_refused(Done(done.returncode, done.stdout, done.stderr), row["exit"], row["says"], before)


def test_the_corpus_is_large_and_every_row_is_another() -> None:
    for rows in ROWS.values():
        assert len({str({**row, "id": ""}) for row in rows}) == len(rows)
    assert sum(map(len, ROWS.values())) >= 400
    assert sum("script" in row for row in ROWS["command"]) >= 15


CHECKED = """
import sys
from spd_bench import cli
sys.argv = ["spd-bench", "check", "v13_ablation"]
try:
    cli.main()
finally:
    heavy = {"torch", "scipy", "h5py", "mlflow", "PIL", "optuna", "transformers", "pandas", "matplotlib", "safetensors"}
    print(sorted(heavy & set(sys.modules)))
"""


def test_check_imports_no_component_and_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
