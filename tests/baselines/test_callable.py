"""Any function of an image as a row: maps and points by hand, refusals, and a suite from the command line."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SMALL, write_frames, write_suite
from typer.testing import CliRunner

from spd_baselines.callable_row import CallableRow
from spd_bench import registry
from spd_bench.api import Encoder
from spd_bench.cli import app
from spd_bench.errors import ConfigError
from spd_bench.testing import BaselineContract

MODULE = """
import numpy as np

def wall(image):
    assert image.dtype == np.uint8 and image.shape[2] == 3
    return 1 + image[:, :, 0] / 255

def ramp(image):
    return lambda points: 1 + 2 * points[:, 0]

def colours(image):
    return image

def short(image):
    return lambda points: points[1:, 0]

number = 5
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_depth.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield
    sys.modules.pop("my_depth", None)


def encoder(config: Any) -> Encoder:
    own = dict(CallableRow.own_encoder(config))
    cls = registry.load("encoder", own.pop("use"))
    return cls(cls.Config(**own))  # type: ignore[no-any-return]


def row(function: str) -> CallableRow:
    config = CallableRow.Config(function=f"my_depth:{function}")
    return CallableRow(config, encoder(config))


def answered(function: str) -> torch.Tensor:
    """At the centres of the 2×2 pixels of an image with red 0, 51, 102 and 255."""
    model = row(function)
    red = torch.tensor([[0.0, 51.0], [102.0, 255.0]]) / 255
    xy_1K2 = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75], [0.5, 0.25], [0.0, 0.0]]])
    return model.decode(model.prepare(model.encode(red.expand(1, 3, 2, 2))), xy_1K2)


def test_a_map_is_read_at_pixel_centres() -> None:
    # 1 + red / 255, its mean between the upper two pixels, and the border pixel beyond its centre
    expected = torch.tensor([[1.0, 1.2, 1.4, 2.0, 1.1, 1.0]])
    torch.testing.assert_close(answered("wall"), expected, check_dtype=False)


def test_points_are_handed_on() -> None:
    expected = torch.tensor([[1.5, 2.5, 1.5, 2.5, 2.0, 1.0]])  # 1 + 2 x
    torch.testing.assert_close(answered("ramp"), expected, check_dtype=False)


@pytest.mark.parametrize("function", ["wall", "ramp"])
def test_it_keeps_the_contract(function: str) -> None:
    class Kit(BaselineContract):
        """On the image itself."""

        component, options, many = CallableRow, {"function": f"my_depth:{function}"}, 32

        def encoder(self) -> Encoder:
            return encoder(self.config)

    for name in dir(Kit):
        if name.startswith("test_"):
            getattr(Kit(), name)()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("colours", r"returned an array of shape \[2, 2, 3\], expected a map \[h, w\]"),
        ("short", r"gave \[5\] for 6 points, expected one depth each"),
        ("nothing", r'finds no function "my_depth:nothing"'),
        ("number", r"needs its option function"),
    ],
)
def test_what_is_no_such_function_is_refused(function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        answered(function)


def test_a_change_of_the_module_is_another_row(tmp_path: Path) -> None:
    config = CallableRow.Config(function="my_depth:wall")
    before = encoder(config).digest()
    assert encoder(config).digest() == before
    (tmp_path / "my_depth.py").write_text(MODULE + "\n# changed\n")
    assert encoder(config).digest() != before
    with pytest.raises(ConfigError, match='no module "my_deep" with a file'):
        encoder(CallableRow.Config(function="my_deep:wall"))


def test_a_suite_scores_it_beside_the_others(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames")
    rows = '[constant, {use: callable, function: "my_depth:ramp"}]'
    suite = write_suite(tmp_path / "suite.yaml", frames, base=SMALL, steps=1, baselines=rows)
    ran = CliRunner().invoke(app, ["run", str(suite), "--runs", str(tmp_path / "runs"), "--skip", "small"])
    assert ran.exit_code == 0, ran.output
    from spd_bench.report.collect import collect

    compared = collect(tmp_path / "runs")
    value = next(row for row in compared.rows if row.name == "callable").values["absrel", 8][0]
    # the frames' depth rises from s to 4 s metres with s within ±30 %: 1 + 2 x lies 5 to 70 % off, far from 0
    assert 0.05 < value < 0.7
    assert np.isfinite(value)
