"""Compositions that differ in no shape are checked once; what has run is not checked again."""

from pathlib import Path
from typing import Any

import pytest
from tiny import write_frames, write_suite

from spd_bench.model import compose
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the compositions that were checked."""
    names: list[str] = []
    check = compose.check

    def counted(model: Any, *, name: str, **more: Any) -> Any:
        names.append(name)
        return check(model, name=name, **more)

    monkeypatch.setattr(compose, "check", counted)
    return names


def experiment(tmp_path: Path, axes: str, **more: Any) -> plan.Experiment:
    write_frames(tmp_path / "frames", count=15)
    suite = tmp_path / "tiny.yaml"
    write_suite(suite, tmp_path / "frames", baselines="[]")
    request = Request(suite=str(suite), root=tmp_path, device="cpu", sets=(f"axes={axes}",))
    return plan.Experiment(choose.choose(request).suite, **more)


def test_one_check_for_all_that_differ_in_no_shape(tmp_path: Path, checked: list[str]) -> None:
    """The base has a rate of 1e-3 and r = 2: two other rates and three weights of the loss are the same model."""
    planned = experiment(
        tmp_path, "{grid: {train.lr: [1.0e-3, 2.0e-3, 3.0e-3], train.lambda_si: [0.1, 0.2, 0.3], routing.r: [1, 2, 3]}}"
    )
    assert len(planned.compositions) == 1 + 2 + 3 + 2
    assert checked == ["v13", "routing.r-1", "routing.r-3"]


def test_what_has_run_is_not_checked(tmp_path: Path, checked: list[str]) -> None:
    asked: list[str] = []
    experiment(tmp_path, "{grid: {routing.r: [1, 2]}}", has_run=lambda job: not asked.append(job.name))
    assert asked
    assert checked == []
