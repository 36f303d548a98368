"""benchmarks/bench.py: what counts as worse, and that every part of it runs (times themselves are no tests)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[1] / "benchmarks" / "bench.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module
    spec.loader.exec_module(module)
    return module


def test_worse_is_beyond_the_tolerance_on_the_wrong_side(bench: ModuleType) -> None:
    # tolerance 10 %: a speed-up of 4 may fall to 3.6, a peak of 50 MB may rise to 55
    reference = {"speed-up": 4.0, "peak": 50.0}

    def lines(speed_up: float, peak: float) -> list[str]:
        found = {"speed-up": bench.Figure(speed_up, True), "peak": bench.Figure(peak, False)}
        return [line.split(":")[0] for line in bench.worse(found, reference, 0.1)]

    assert lines(3.61, 54.9) == []
    assert lines(9.0, 1.0) == []
    assert lines(3.59, 54.9) == ["speed-up"]
    assert lines(3.59, 55.1) == ["speed-up", "peak"]


def test_a_figure_without_reference_is_new_not_worse(bench: ModuleType) -> None:
    assert bench.worse({"new": bench.Figure(0.1, True)}, {}, 0.1) == []


def test_a_reference_of_another_machine_is_named(bench: ModuleType) -> None:
    reference = {"settings": ["Machine: cpu (AMD EPYC), 2 cores, load 0.4 before"]}
    assert bench.of_another_machine(["Machine: cpu (AMD EPYC), 2 cores, load 1.9 before"], reference) == ""
    told = bench.of_another_machine(["Machine: cpu (Other), 2 cores, load 0.4 before"], reference)
    assert told.endswith("may be others. Machine: cpu (AMD EPYC), 2 cores")


def test_reading_a_cached_view_is_measured(bench: ModuleType) -> None:
    assert bench.cache_read_s((56, 56)) > 0
