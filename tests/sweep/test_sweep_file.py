"""What a sweep file may say, and that everything else is refused at its place before the first trial."""

from pathlib import Path

import pytest

from spd_bench.errors import ConfigError
from spd_bench.sweep.file import Dimension, SweepPlan, json_schema, load_sweep
from spd_bench.sweep.request import SweepRequest

HEAD = """sweep: mine
suite: smoke
"""
TAIL = """objective: {metric: absrel, k: 256}
trials: 5
"""


def load(folder: Path, space: str, rest: str = TAIL) -> SweepPlan:
    path = folder / "mine.yaml"
    path.write_text(HEAD + space + rest, encoding="utf-8")
    return load_sweep(SweepRequest(sweep=str(path)))


def refusal(folder: Path, space: str, rest: str = TAIL) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, space, rest)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")


def test_a_trial_is_the_suites_base_with_other_values(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "space:\n  train.lambda_si: {float: [0.05, 2.0], log: true}\n  neck: {choice: [pyramid, last_layer]}\n",
    )
    suite = found.suite({"train.lambda_si": 0.3, "neck": "last_layer"}, "mine-7")
    assert suite.train.lambda_si == 0.3
    assert suite.base.neck.use == "last_layer"
    assert suite.base.name == "mine-7"
    assert suite.seeds == (0,)
    assert (suite.axes.leave_one_out, suite.baselines) == ((), ())
    assert found.base.train.lambda_si == 0.5  # the suite itself stays


def test_a_component_with_options_may_be_a_choice(tmp_path: Path) -> None:
    space = "space:\n  b5: {choice: [{use: fused_cross_attention, layers: 2}, mean_tokens]}\n"
    found = load(tmp_path, space)
    assert found.suite({"b5": '{"layers": 2, "use": "fused_cross_attention"}'}).base.b5.options == {"layers": 2}


def test_a_swept_number_of_steps_takes_the_place_of_epochs(tmp_path: Path) -> None:
    found = load(tmp_path, "set: {train: {epochs: 2, steps: null}}\nspace:\n  train.steps: {int: [4, 8]}\n")
    assert found.base.train.epochs == 2
    assert found.suite({"train.steps": 6}).train.steps == 6


def test_a_profile_of_the_suite_brings_the_sweeps_own_values_for_it() -> None:
    smoke, cpu = (
        load_sweep(SweepRequest(sweep="lambda_si_r", profile="smoke")),
        load_sweep(SweepRequest(sweep="lambda_si_r", profile="cpu")),
    )
    assert smoke.sweep.space["routing.r"].int_ == (4, 64)
    assert smoke.sweep.space["train.lambda_si"].float_ == (0.05, 2.0)
    assert (smoke.sweep.total, smoke.base.train.validations) == (12, 4)
    assert (cpu.sweep.total, cpu.base.train.steps) == (20, 300)


def test_the_shipped_sweep_falls_back_as_its_suite_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NYU_ROOT", raising=False)
    monkeypatch.delenv("DAV2_WEIGHTS", raising=False)
    found = load_sweep(SweepRequest(sweep="suites/sweep_lambda_si_r.yaml"))
    assert found.base.profile == "smoke"
    assert "DAV2_WEIGHTS" in found.why


def test_trials_and_timeout_of_the_command_line_come_last(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "space:\n  train.lr: {float: [1e-4, 1e-3]}\n" + TAIL, encoding="utf-8")
    found = load_sweep(SweepRequest(sweep=str(path), trials=9, timeout=60, sets=("train.steps=3",)))
    assert (found.sweep.total, found.sweep.timeout, found.base.train.steps) == (9, 60, 3)


def test_set_on_the_command_line_comes_after_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = HEAD + "set: {train: {steps: 7, queries: 8}}\nspace:\n  train.lr: {float: [1e-4, 1e-3]}\n" + TAIL
    path.write_text(text, encoding="utf-8")
    found = load_sweep(SweepRequest(sweep=str(path), sets=("train.steps=3",)))
    assert (found.base.train.steps, found.base.train.queries) == (3, 8)


@pytest.mark.parametrize(
    ("space", "where", "what"),
    [
        ("train.lamda_si: {float: [0.1, 1]}", "mine.yaml:4:", 'did you mean "lambda_si"?'),
        ("trian.lr: {float: [0.1, 1]}", "mine.yaml:4:3", 'did you mean "train"?'),
        ("train.lambda_si: {float: [1, 0.1]}", "mine.yaml:4:3", "lower end first"),
        ("train.lambda_si: {float: [1, 1]}", "mine.yaml:4:3", "lower end first"),
        ("train.lambda_si: {float: [0, 1], log: true}", "mine.yaml:4:3", "begin above 0 with log"),
        ("train.lambda_si: {float: [-1, 1]}", "mine.yaml:4:29", "greater than or equal to 0, found -1"),
        ("train.lambda_si: {int: [0, 1.5]}", "mine.yaml:4:", "integer"),
        ("train.lr: {flaot: [0.1, 1]}", "mine.yaml:4:14", 'did you mean "float"?'),
        ("train.lr: {float: [0.1, 1], int: [1, 2]}", "mine.yaml:4:3", "one of float, int and choice"),
        ("routing.r: {int: [4, 30], step: 4}", "mine.yaml:4:3", "the last step is 28"),
        ("routing.r: {int: [4, 32], step: 4, log: true}", "mine.yaml:4:3", "log or step, not both"),
        ("routing.r: {int: [0, 32]}", "mine.yaml:4:21", "found 0"),
        ("routing.r: {int: [4, 128]}", "mine.yaml:4:24", "128 anchors asked of 64 sites of L4"),
        ("routing.rr: {int: [4, 64]}", "mine.yaml:4:", 'did you mean "r"?'),
        ("neck: {choice: [pyramid, pyramide]}", "mine.yaml:4:28", 'did you mean "pyramid"?'),
        ("neck: {choice: [pyramid]}", "mine.yaml:4:10", "at least 2"),
        ("b3: {choice: [global_cross_attention, skip]}", "mine.yaml:4:", "topk_attention"),  # nothing writes attention
        ("eval.seed: {int: [0, 3]}", "mine.yaml:4:3", "does not say what is trained"),
        ("data.dataset: {choice: [synthetic_rooms, nyu_bts]}", "mine.yaml:4:3", "different data"),
        ("train.workers: {int: [0, 3]}", "mine.yaml:4:3", "numbers do not depend on it"),
        ("base.name: {choice: [a, b]}", "mine.yaml:4:3", "cannot be swept"),
    ],
)
def test_an_impossible_space_is_refused_at_its_place(tmp_path: Path, space: str, where: str, what: str) -> None:
    told = refusal(tmp_path, f"space:\n  {space}\n")
    assert where in told
    assert what in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("rest", "what"),
    [
        ("objective: {metric: absrell, k: 256}\ntrials: 5\n", 'did you mean "absrel"?'),
        ("objective: {metric: absrel}\ntrials: 5\n", "absrel needs k"),
        ("objective: {cost: parameters, k: 3}\ntrials: 5\n", "parameters does not depend on k"),
        ("objective: {cost: parameters}\ntrials: 5\n", "should have a metric"),
        ("objective: {metric: absrel, k: 256}\n", "how many trials"),
        ("objective: {metric: absrel, k: 256}\nsampler: grid\n", "grid needs a choice or a step"),
        ("objective: {metric: absrel, k: 256}\nsampler: tpee\ntrials: 5\n", "tpe"),
        (
            "objective: [{metric: absrel, k: 256}, {cost: parameters}]\npruner: median\ntrials: 5\n",
            "several objectives cannot be pruned",
        ),
        (TAIL + "constraints: [{cost: t_model, k: 256, below: 0}]\n", "greater than 0"),
        (TAIL + "constraints: [{cost: t_model, below: 1}]\n", "t_model needs k"),
        (TAIL + "set: {seeds: [1]}\n", "cannot change this"),
        (TAIL + "profile: smok\n", 'unknown profile "smok"'),
    ],
)
def test_the_rest_of_the_file_is_checked_as_well(tmp_path: Path, rest: str, what: str) -> None:
    told = refusal(tmp_path, "space:\n  train.lr: {float: [1e-4, 1e-3]}\n", rest)
    assert what in told


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    space = "space:\n  train.lamda_si: {float: [0.1, 1]}\n  routing.rr: {int: [4, 64]}\n  train.lr: {float: [-1, 1]}\n"
    told = refusal(tmp_path, space)
    assert "mine.yaml:4:" in told
    assert "mine.yaml:6:" in told


def test_an_unknown_sweep_and_an_unknown_suite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='did you mean "lambda_si_r"'):
        load_sweep(SweepRequest(sweep="lambda_si"))
    path = tmp_path / "mine.yaml"
    path.write_text("sweep: mine\nsuite: smoky\nspace: {train.lr: {float: [0, 1]}}\n" + TAIL, encoding="utf-8")
    with pytest.raises(ConfigError, match=r'mine.yaml:2:8.*no suite "smoky"'):
        load_sweep(SweepRequest(sweep=str(path)))


def test_the_grid_is_every_combination_in_the_order_of_the_file(tmp_path: Path) -> None:
    space = "space:\n  routing.r: {int: [4, 12], step: 4}\n  train.lr: {choice: [1e-3, 1e-4]}\n"
    found = load(tmp_path, space, "objective: {metric: absrel, k: 256}\nsampler: grid\n")
    assert found.sweep.total == 6  # 3 · 2
    first = found.sweep.grid()[:3]
    assert first == (
        {"routing.r": 4, "train.lr": 1e-3},
        {"routing.r": 4, "train.lr": 1e-4},
        {"routing.r": 8, "train.lr": 1e-3},
    )


def test_steps_of_a_range_are_counted_in_spite_of_rounding() -> None:
    tenths = Dimension.model_validate({"float": (0.1, 0.7), "step": 0.1})
    assert tenths.grid() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])


def test_there_is_a_schema_for_editors() -> None:
    schema = json_schema()
    assert {"sweep", "space", "objective", "constraints"} <= set(schema["properties"])
    assert "float" in schema["$defs"]["Dimension"]["properties"]
