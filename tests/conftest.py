"""Fixtures of every test, and what tests of sweeps share: small frames, and a suite that trains on them."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import LIGHT, write_frames, write_suite


@pytest.fixture(scope="module", autouse=True)
def _imports_are_not_collected_again() -> None:
    """Takes what is imported by now out of garbage collection.

    That is a million objects: each full collection, of which every measurement makes several, would take 0.3 s longer.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of twenty RGB-D frames of 48×64: brightness falls with depth, which rises to the right."""
    return write_frames(tmp_path_factory.mktemp("frames"), height=48, width=64)


@pytest.fixture
def tiny_suite(tiny_frames: Path, tmp_path: Path) -> Callable[[int], Path]:
    """A function that writes tiny.yaml, a suite that trains this many steps, and returns its folder."""

    def write(steps: int) -> Path:
        write_suite(tmp_path / "tiny.yaml", tiny_frames, base=LIGHT, steps=steps, queries=4, ks="[8]", draws=1)
        return tmp_path

    return write
