"""A run that is trained and exported once for all tests of this folder."""

import logging
import sys
from pathlib import Path

import pytest
from trained import train_tiny

import spd_bench
from spd_bench import RunModel, cli


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs; not to be changed. The frames lie beside it."""
    return train_tiny(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def model(trained: Path) -> RunModel:
    """v13 of the tiny suite."""
    return spd_bench.load("tiny/v13", runs=trained, device="cpu")


@pytest.fixture(scope="session")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `spd-bench export tiny/v13 OUT` writes; not to be changed."""
    # pytest would format every trace record of the export
    logging.getLogger("torch.__trace").propagate = False
    out = tmp_path_factory.mktemp("exported") / "v13"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spd-bench", "export", "tiny/v13", str(out), "--runs", str(trained)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    return out
