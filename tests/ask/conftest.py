"""Runs that are trained once for all tests of this folder."""

import shutil
from collections.abc import Callable
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


@pytest.fixture
def copied_run(trained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies the folder of a composition's run with seed 0, so that it may be changed."""

    def copy(composition: str) -> Path:
        (found,) = (trained / "trained").glob(f"{composition}-s0-*")
        return Path(shutil.copytree(found, tmp_path / found.name))

    return copy
