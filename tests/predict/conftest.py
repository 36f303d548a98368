"""Runs that are trained once for all tests of this folder."""

from pathlib import Path

import pytest
from trained import train_tiny


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs; not to be changed. The frames lie beside it."""
    return train_tiny(tmp_path_factory.mktemp("trained"))
