"""`docs/run_folder.md` against a real run: every file is on the page, and every record vouches for what it says."""

import re
import typing
from pathlib import Path
from typing import Any

import pytest
from tiny import ON_DISK, SMALL, write_frames, write_suite

from spd_bench.errors import EXIT_CODES
from spd_bench.run import session
from spd_bench.run.request import Request
from spd_bench.store import records, run_root
from spd_bench.tracking.tracker import Tracker

DOCS = Path(__file__).parents[2] / "docs"
SUITE: dict[str, Any] = {
    "base": SMALL,
    "side": 28,
    "more": ON_DISK,
    "steps": 2,
    "marks": 1,
    "baselines": "[constant]",
    "report": "{primary: {metric: absrel, k: 8}}",
}
ELSEWHERE = (
    *(
        "trained/*/val-*/predictions.h5",
        "trained/*/val-*/scores.json",
        "trained/*/failed.json",
        "trained/*/failure.txt",
    ),
    *("external/*/run.json", "external/*/predictions.h5", "external/*/scores.json", "sweeps.db"),
    *(
        "tracking.json",
        "mlflow.db",
        "mlflow-artifacts/**",
        ".*.holder.json",
        ".*.at-hand",
        ".*.at-hand.json",
        "**/.*.tmp",
    ),
)
"""What a finished suite without tracking does not leave."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    suite = write_suite(folder / "tiny.yaml", write_frames(folder / "frames"), **SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "start", lambda self, beat=None: None)
        session.run_suite(Request(suite=str(suite), root=folder / "runs", device="cpu"))
    return folder / "runs"


def documented() -> dict[str, str]:
    """Pattern → what the page says of it."""
    text = (DOCS / "run_folder.md").read_text(encoding="utf-8")
    listing = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert listing
    return {line.split()[0]: line for line in listing[1].splitlines()}


def test_every_file_is_on_the_page_and_the_other_way_round(root: Path) -> None:
    known = {pattern: {path for path in root.glob(pattern) if path.is_file()} for pattern in documented()}
    everything = {path for path in root.rglob("*") if path.is_file()}
    assert len(everything) > 20
    assert everything - set().union(*known.values()) == set()
    assert {pattern for pattern, found in known.items() if not found} == set(ELSEWHERE)


def test_every_record_vouches_for_what_the_page_says(root: Path) -> None:
    text = (DOCS / "run_folder.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, re.MULTILINE)
    assert len(rows) == 4
    checked = 0
    for pattern, name in rows:
        for path in root.glob(pattern):
            record = records.read_record(path)
            assert list(record["files"]) == [name]
            assert records.vouched(path.parent, record)
            checked += 1
    assert checked == 4  # two trainings, two evaluations
    vouching = {
        path for path in root.rglob("*.json") if "reports" not in path.parts and "files" in records.read_record(path)
    }
    assert len(vouching) == checked  # the page names them all


def test_every_record_is_read_by_the_form_that_the_page_names(root: Path) -> None:
    forms = {
        pattern: found[1] for pattern, line in documented().items() if (found := re.search(r"\((\w+Record)\)$", line))
    }
    assert {form for form in vars(run_root) if form.endswith("Record")} - set(forms.values()) == {
        "CostRecord",  # part of ScoresRecord
        "ComparedRecord",  # made by `compare`, never written
    }
    read = 0
    for pattern, name in forms.items():
        form = getattr(run_root, name)
        for path in root.glob(pattern):
            content = records.read(path, form)
            assert set(content) <= set(typing.get_type_hints(form)), path  # the form lists every key
            read += 1
    assert read == 2 * 3 + 2  # run, done, scores of each; a suite, checked data


def test_a_record_without_a_required_key_is_refused(root: Path, tmp_path: Path) -> None:
    records.write_record(tmp_path / "done.json", {"rows": []})
    with pytest.raises(records.Unsound, match="is not a TrainedRecord \\(seconds is missing\\)"):
        records.read(tmp_path / "done.json", run_root.TrainedRecord)


def test_the_page_of_promises_has_every_exit_code() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([\d, ]+) \| (.*) \|$", text, re.MULTILINE)
    listed = {int(code): meaning for codes, meaning in cells for code in codes.split(",")}
    assert set(listed) == set(EXIT_CODES)
    assert all(listed[code].startswith(EXIT_CODES[code].split(";")[0]) for code in EXIT_CODES if code < 75)
