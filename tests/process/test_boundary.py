"""What crosses to a worker process arrives as it was sent; anything else is refused."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from spd_bench.process.boundary import from_json, to_json
from spd_bench.run.request import Finished, Request
from spd_bench.suite.axes import Selection
from spd_bench.sweep.request import SweepEnd, SweepRequest

SENT = [
    Request(suite="smoke"),
    Request(
        suite="mine.yaml",
        profile="cpu",
        sets=("train.lr=1e-3", "--seeds 0,1"),
        data="/data/kitchen",
        root=Path("/mnt/runs"),
        device="cuda:1",
        selection=Selection(("no-*",), ("no-b3",)),
    ),
    SweepRequest(sweep="lambda_si_r", trials=3, timeout=60.0, began=12.5, storage="sqlite:///a.db"),
    Finished("a table", Path("runs/reports/a.html"), "sqlite:///runs/mlflow.db", 2, starved=True),
    SweepEnd(table="t", study="a-1", database="d", report=Path("a.html"), tracking="m", finished=True, failed=False),
]


@pytest.mark.parametrize("value", SENT, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_it_was_sent(value: object) -> None:
    assert from_json(type(value), json.loads(json.dumps(to_json(value)))) == value


@pytest.mark.parametrize("change", [{"suite": None}, {"root": 3}, {"sets": "train.lr=1"}, {"selection": [["a"], 1]}])
def test_a_field_of_another_kind_is_refused(change: dict[str, object]) -> None:
    """The control: without the change, the same object is read."""
    plain = to_json(Request(suite="smoke"))
    assert from_json(Request, plain) == Request(suite="smoke")
    with pytest.raises(ValidationError):
        from_json(Request, plain | change)
