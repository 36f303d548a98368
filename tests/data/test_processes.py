"""Processes that read data pass it over sockets, whose paths are short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch.utils.data import Dataset
from spd_bench.data.processes import items
from spd_bench.errors import ResourceError

class Squares(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor(index**2)

for workers in (0, 2):
    try:
        print([int(item) for item in items(Squares(), order=[3, 1], workers=workers)])
    except ResourceError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the longest path of a socket is another one elsewhere")
@pytest.mark.parametrize("length", [75, 76])  # 107 − len("/pymp-12345678/listener-12345678") = 107 − 32
def test_a_folder_for_sockets_that_is_too_long_is_refused(length: int) -> None:
    """One character less and they pass what they read: were the limit too large, this would hang."""
    folder = Path("/tmp") / f"spd-{os.getpid()}".ljust(length - len("/tmp/"), "x")  # noqa: S108
    folder.mkdir()
    try:
        environment = os.environ | {"TMPDIR": str(folder)}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        folder.rmdir()
    alone, two = done.stdout.split("\n", 1)
    assert alone == "[9, 1]"
    if length == 75:
        assert two.strip() == "[9, 1]"
    else:
        assert "the folder for temporary files has 76 characters" in two
        assert "at most 75" in two
        assert "set TMPDIR to a shorter one, or train.workers to 0" in two
