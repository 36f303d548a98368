"""`spd-bench score` and `data points` by the entry point of the console script."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spd_bench import cli


def test_points_are_written_answered_and_scored(
    room_file: Path,
    depth: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spd-bench", *args])
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        return (code, *capsys.readouterr())

    monkeypatch.chdir(tmp_path)
    assert run("data", "points", str(room_file), "--out", "points.jsonl")[0] == 0
    lines = [json.loads(line) for line in Path("points.jsonl").read_text().splitlines()]
    for line in lines:
        line["depth"] = [1.1 * value for value in line["depth"]]
    Path("answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    code, out, _ = run("score", "answers.jsonl", "--name", "a", "--suite", str(room_file))
    assert code == 0
    assert "absrel       0.1000  0.1000" in out
    np.save("mm.npy", 1000 * depth)
    code, out, err = run("score", "mm.npy", "--name", "b", "--suite", str(room_file))
    assert (code, out) == (3, "")
    assert "with --unit mm it would be 1" in err
    code, out, _ = run("score", "mm.npy", "--name", "b", "--suite", str(room_file), "--unit", "mm", "--explain")
    assert code == 0
    assert "All pixels, by the defaults of other toolboxes:" in out
    code, out, _ = run("score", "mm.npy", "--name", "b", "--suite", str(room_file), "--as-is")
    assert code == 0
    assert out.splitlines()[0].startswith("AS IS, though the median of prediction / truth is 1000")
    code, out, _ = run(
        "score", "mm.npy", "--name", "b", "--suite", str(room_file), "--unit", "mm", "--points", "answers.jsonl"
    )
    assert code == 0
    assert re.search(r"absrel +0\.0909", out)  # 1 / 1.1 of the file's depth
