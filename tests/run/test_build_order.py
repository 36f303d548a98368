"""The build order of §10.3: what its checks find, and that the walk stops at the first step that fails."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from spd_bench import registry
from spd_bench.api import CHAIN, Features, Level
from spd_bench.cli import app
from spd_bench.errors import ConfigError
from spd_bench.model.compose import ChosenPart, ComposedModel, build
from spd_bench.run.build_order import gates
from spd_bench.run.build_order.gates import Evidence, examine, neighbour_correlation, picture, principal_components
from spd_bench.score.metrics import AbsRel, Delta1
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Checks
from spd_bench.testing import PatchEncoder

BASE = {
    "neck": "pyramid",
    "b1": "local_tokens",
    "b2": "local_cross_attention",
    "b3": "global_cross_attention",
    "routing": "topk_attention",
    "b4": "deformable_read",
    "b5": "fused_cross_attention",
    "depth_head": "calibrated_inverse",
}
SIZE = (112, 140)  # 8 × 10 patches: L4 has 4 × 5 = 20 sites


def composed(**changes: Any) -> ComposedModel:
    """The full model, 5 anchors; a change is the name of another component."""
    names = BASE | changes
    options: dict[str, dict[str, int]] = {"routing": {"r": 5}}
    parts = {}
    for slot in CHAIN:
        config = registry.load(slot, names[slot]).Config
        parts[slot] = ChosenPart(names[slot], config(**(options.get(slot, {}) if "r" in config.model_fields else {})))
    return build(parts, PatchEncoder(), seed=0)


def evidence(model: ComposedModel, **changes: Any) -> Evidence:
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 10, 384) for _ in range(4)]
    given = Evidence(
        model=model,
        features=Features((maps[0], maps[1], maps[2], maps[3])),
        xy_BK2=torch.rand(2, 3, 2),
        image_size=SIZE,
        primary=(AbsRel(), 64),
        scores={"absrel@64": 0.2, "rmse@64": 0.5},
        baselines={"constant": 0.4, "dpt_trained": 0.19},
    )
    return replace(given, **changes)


def checks(**what: Any) -> Checks:
    return Checks.model_validate_json(json.dumps(what))


ALL_SHAPES = checks(shapes=["pyramid", "precompute", "tokens", "evidence"])


def test_the_full_model_has_the_papers_shapes() -> None:
    found = examine(ALL_SHAPES, evidence(composed()))
    assert all(finding.passed for finding in found), found
    by_name = {finding.check: finding.found for finding in found}
    # 8 × 10 patches: L1 has 32 × 40 cells, L4 4 × 5 (§4); 5 anchors give 5 tokens of evidence (§6.4)
    assert by_name["L1 [B, H, W, C]"] == "[2, 32, 40, 64]"
    assert by_name["L4 [B, H, W, C]"] == "[2, 4, 5, 384]"
    assert by_name["B1 tokens [B, K, T, D]"] == "[2, 3, 91, 192]"
    assert by_name["B4 evidence [B, K, R, D]"] == "[2, 3, 5, 192]"
    assert by_name["B4 projected L2 to L4 (§5.3)"] == "[(16, 20, 192), (8, 10, 192), (4, 5, 192)]"


def test_an_input_of_another_size_than_said_fails_every_level() -> None:
    found = examine(checks(shapes=["pyramid"]), evidence(composed(), image_size=(140, 140)))
    assert [finding.passed for finding in found] == [False] * 4


def test_a_level_that_is_not_finite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = composed()
    forward = model.neck.forward

    def broken(features: Features) -> Any:
        pyramid = forward(features)
        return replace(pyramid, l2=Level(pyramid.l2.map_BHWC * float("nan"), pyramid.l2.extent))

    monkeypatch.setattr(model.neck, "forward", broken)
    found = examine(checks(shapes=["pyramid"]), evidence(model))
    assert [finding.passed for finding in found] == [True, False, True, True]
    assert "not finite" in found[1].found


def test_what_a_chain_lacks_fails_its_shape() -> None:
    found = {f.check: f for f in examine(ALL_SHAPES, evidence(composed(b3="skip", routing="nearest")))}
    assert not found["B3 keys and values (§5.1)"].passed
    assert found["B4 evidence [B, K, R, D]"].passed
    found = {f.check: f for f in examine(ALL_SHAPES, evidence(composed(routing="none", b4="skip")))}
    assert not found["B4 evidence [B, K, R, D]"].passed  # 91 local tokens are not 0 anchors'


def test_lookups_are_counted() -> None:
    # 5 anchors of 6 heads × 3 levels × 4 samples = 5 · 72 = 360
    (right,) = examine(checks(watched={"b4/lookups": [360, 360]}), evidence(composed()))
    (wrong,) = examine(checks(watched={"b4/lookups": [2304, 2304]}), evidence(composed()))
    assert (right.passed, wrong.passed, wrong.found) == (True, False, "360")


def test_an_unknown_diagnostic_fails_and_lists_those_there_are() -> None:
    (found,) = examine(checks(watched={"b4/lockups": [0, 1]}), evidence(composed()))
    assert not found.passed
    assert "b4/lookups" in found.found


@pytest.mark.parametrize(
    ("what", "passed"),
    [
        ({"below": {"absrel": 0.21}}, True),
        ({"below": {"absrel": 0.2}}, False),  # strictly below
        ({"below": {"rmse": 0.4}}, False),
        ({"better_than": ["constant"]}, True),
        ({"better_than": ["dpt_trained"]}, False),
        ({"close_to": {"dpt_trained": 1.1}}, True),  # 0.2 ≤ 1.1 · 0.19 = 0.209
        ({"close_to": {"dpt_trained": 1.05}}, False),  # 0.2 > 1.05 · 0.19 = 0.1995
        ({"close_to": {"unheard_of": 9.0}}, False),
    ],
)
def test_accuracy(what: dict[str, Any], passed: bool) -> None:
    (found,) = examine(checks(**what), evidence(composed()))
    assert found.passed is passed


def test_a_metric_that_rises_is_compared_the_other_way() -> None:
    given = evidence(
        composed(), primary=(Delta1(), 64), scores={"delta1@64": 0.8}, baselines={"constant": 0.5, "dpt_trained": 0.9}
    )
    found = examine(checks(better_than=["constant", "dpt_trained"], close_to={"dpt_trained": 1.2}), given)
    # 0.8 > 0.5, 0.8 < 0.9, and 1.2 · 0.8 = 0.96 ≥ 0.9
    assert [finding.passed for finding in found] == [True, False, True]


def test_a_training_without_a_score_passes_nothing() -> None:
    given = evidence(composed(), scores={}, baselines={})
    found = examine(checks(below={"absrel": 9.0}, better_than=["constant"], close_to={"constant": 9.0}), given)
    assert [finding.passed for finding in found] == [False] * 3


def test_neighbours_of_a_ramp_correlate_and_those_of_noise_do_not() -> None:
    ramp_BHW3 = np.tile(np.arange(20.0)[:, None] + np.arange(20.0), (1, 1, 1))[..., None].repeat(3, axis=-1)
    assert neighbour_correlation(ramp_BHW3) == pytest.approx(1)
    # columns 0, 1, 0, 1, …: a cell and the one on its right correlate −1, a cell and the one below 1; mean 0
    stripes_BHW3 = np.zeros((1, 20, 20, 3))
    stripes_BHW3[:, :, 1::2] = 1
    assert neighbour_correlation(stripes_BHW3) == pytest.approx(0)
    noise_BHW3 = np.random.default_rng(0).standard_normal((1, 40, 40, 3))
    assert abs(neighbour_correlation(noise_BHW3)) < 0.05  # 9,360 pairs: sd about 0.01
    assert neighbour_correlation(np.zeros((1, 4, 4, 3))) == 0


def test_principal_components_by_hand() -> None:
    # channel 0 varies by ±2, channel 1 by ±1, independently; components are those two, scaled to unit variance
    map_BHWC = torch.zeros(1, 2, 2, 5)
    map_BHWC[0, :, :, 0] = torch.tensor([[2.0, 2.0], [-2.0, -2.0]])
    map_BHWC[0, :, :, 1] = torch.tensor([[1.0, -1.0], [1.0, -1.0]])
    found_BHW3 = principal_components(map_BHWC)
    assert np.abs(found_BHW3[..., :2]) == pytest.approx(np.ones((1, 2, 2, 2)))
    assert found_BHW3[0, 0, 0, 0] == pytest.approx(-found_BHW3[0, 1, 0, 0])
    assert found_BHW3[0, 0, 0, 1] == pytest.approx(-found_BHW3[0, 0, 1, 1])
    assert found_BHW3[..., 2] == pytest.approx(np.zeros((1, 2, 2)), abs=1e-9)


def test_the_picture_shows_images_above_components(tmp_path: Path) -> None:
    images_B3HW = torch.full((2, 3, 28, 42), 7 / 255)
    (tmp_path / "p.png").write_bytes(picture(np.zeros((2, 2, 3, 3)), images_B3HW))
    with Image.open(tmp_path / "p.png") as drawn:
        pixels = np.asarray(drawn)
    assert pixels.shape == (56, 84, 3)
    assert (pixels[:28] == 7).all()
    assert (pixels[28:] == 127).all()  # a component of 0 is mid-grey


def test_every_shape_check_can_be_asked_for() -> None:
    assert set(gates.SHAPES) == {"pyramid", "precompute", "tokens", "evidence"}


# the walk


SUITE = """
suite: order
extends: smoke
axes: null
data: {dataset: {train_scenes: 2, val_scenes: 1, test_scenes: 1, frames_per_scene: 2}}
train: {steps: 2}
steps:
  shapes:
    train: false
    checks: {shapes: [pyramid, tokens], picture: 0.1}
  local:
    set: {base: {b3: skip, routing: none, b4: skip, b5: skip}, train: {lambda_si: 0}}
    checks: {below: {absrel: BOUND}, close_to: {constant: 99}}
  full:
    checks: {below: {absrel: 9}}
"""


def run(tmp_path: Path, text: str) -> tuple[int, str]:
    (tmp_path / "order.yaml").write_text(text)
    command = ["run", str(tmp_path / "order.yaml"), "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    return result.exit_code, result.output


@pytest.mark.slow
def test_the_walk_stops_at_the_first_step_that_fails_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, said = run(tmp_path, SUITE.replace("BOUND", "0.001"))
    assert code == 4
    assert "STAND-INS" in said
    assert "step local: FAILED: absrel at K=16: expected < 0.001" in said
    assert "compare" not in said
    record = json.loads((tmp_path / "runs/reports/order.json").read_text())
    assert [step["passed"] for step in record["steps"]] == [True, False]
    table = (tmp_path / "runs/reports/order.md").read_text()
    assert "not reached" in table
    page = (tmp_path / "runs/reports/order.html").read_text()
    assert "data:image/png;base64," in page
    assert (tmp_path / "runs/reports/order.shapes.png").exists()
    trained = sorted(path.name for path in (tmp_path / "runs/trained").iterdir())
    assert len(trained) == 2  # local and its constant; full was not reached

    # a mended bound: what was trained is not trained again
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/trained").glob("*/checkpoint.pt")}
    code, said = run(tmp_path, SUITE.replace("BOUND", "9"))
    assert code == 0
    progress = capfd.readouterr().err  # of the process that worked
    assert "local seed 0" in progress
    assert "(done before)" in progress
    assert "all 3 steps passed" in said
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_a_plan_lists_the_jobs_of_every_step(tmp_path: Path) -> None:
    (tmp_path / "order.yaml").write_text(SUITE.replace("BOUND", "0.3"))
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "order.yaml"), "--runs", str(tmp_path / "runs"), "--json"])
    assert result.exit_code == 0, result.output
    names = [row["composition"] for row in json.loads(result.stdout)]
    assert names == ["shapes", "local", "constant", "full"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("lambda_si: 0", "lambda_sj: 0", "train.lambda_sj"),
        ("train: false\n    checks", "train: false\n    chekcs", "steps.shapes.chekcs: unknown key"),
        ("b3: skip", "b3: skid", 'unknown b3 "skid"'),
        ("set: {base", "set: {axes: {leave_one_out: [b2]}, base", "a step cannot change this"),
        ("absrel: BOUND", "absrl: 0.3", "unknown metric"),
        ("close_to: {constant: 99}", "close_to: {konstant: 99}", "konstant"),
        ("close_to: {constant: 99}", "better_than: [konstant]", "konstant"),
        ("axes: null", "axes: {leave_one_out: [b2]}", "neither axes nor baselines"),
        ("shapes: [pyramid", "shapes: [piramid", "piramid"),
    ],
)
def test_a_wrong_step_is_one_error_with_its_place(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in SUITE
    (tmp_path / "order.yaml").write_text(SUITE.replace(old, new).replace("BOUND", "0.3"))
    with pytest.raises(ConfigError) as found:
        load_suite(tmp_path / "order.yaml")
    assert words in str(found.value)
    assert "order.yaml:" in str(found.value)


def test_the_command_line_wins_over_a_step(tmp_path: Path) -> None:
    (tmp_path / "order.yaml").write_text(SUITE.replace("BOUND", "0.3"))
    suite = load_suite(tmp_path / "order.yaml", step="local")
    assert (suite.suite, suite.base.name, suite.train.lambda_si, suite.base.b4.use) == ("order", "local", 0, "skip")
    assert [choice.use for choice in suite.baselines] == ["constant"]
    assert load_suite(tmp_path / "order.yaml", step="local", sets=["train.lambda_si=0.7"]).train.lambda_si == 0.7


def test_the_shipped_order_has_the_papers_seven_steps() -> None:
    suite = load_suite("v13_build_order")
    assert len(suite.steps) == 7
    assert [step.description[:1] for step in suite.steps.values()] == list("1234567")
