"""Runs that are trained once for all tests of this folder."""

from pathlib import Path

import pytest
from trained import train_tiny

import spd_bench
from spd_bench import RunModel


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs; not to be changed. The frames lie beside it."""
    return train_tiny(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def model(trained: Path) -> RunModel:
    """v13 of the tiny suite."""
    return spd_bench.load("tiny/v13", runs=trained, device="cpu")
