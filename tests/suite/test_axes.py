"""The wider axes of a suite: groups, crossings, recipes, the loss and parameter-matched controls."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_bench.errors import ConfigError
from spd_bench.model.matching import matched
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request
from spd_bench.suite.axes import Alias, CompositionSpec, compositions
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Choice, json_schema
from spd_components.encoders.patch_descriptors import PatchDescriptors

SUITE = """\
suite: mine
base:
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing: {use: topk_attention, r: 2}
  b4: deformable_read
  b5: fused_cross_attention
  depth_head: calibrated_inverse
data: {dataset: {use: synthetic_rooms, train_scenes: 2, val_scenes: 1, test_scenes: 1}, image_size: [56, 56]}
train: {steps: 4, batch_size: 2, queries: 8, precision: fp32, loss: {use: huber_silog, huber_delta: 0.5}}
eval: {protocol: full_frame, k: [1, 8], k1_draws: 2}
seeds: [0]
report: {primary: {metric: absrel, k: 8}}
"""
AFTER = SUITE.count("\n") + 1
"""The line that a test's own text starts on."""

Make = Callable[..., list[CompositionSpec]]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a chain works has tests of its own, and takes its time."""
    monkeypatch.setattr("spd_bench.model.compose.check", lambda *args, **more: None)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def from_text(text: str, base: str = SUITE, **how: Any) -> list[CompositionSpec]:
        path = tmp_path / "mine.yaml"
        path.write_text(base + text, encoding="utf-8")
        return compositions(load_suite(path, **how))

    return from_text


def shown(made: list[CompositionSpec]) -> list[tuple[str, str]]:
    return [(c.name, c.difference) for c in made[1:]]


# groups


def test_a_group_is_left_out_at_once(make: Make) -> None:
    made = make("axes: {leave_group_out: [[b5, b2], [b3, routing, b4]]}")
    assert shown(made) == [
        ("no-b2-b5", "b2: local_cross_attention → skip, b5: fused_cross_attention → mean_tokens"),
        (
            "no-b3-routing-b4",  # nothing reads anchors any more: b4's stand-in decides, not b3's (nearest)
            "b3: global_cross_attention → skip, routing: topk_attention → none, b4: deformable_read → skip",
        ),
    ]
    assert {c.axis for c in made[1:]} == {"leave_group_out"}


def test_a_group_with_routing_and_b3_keeps_what_b4_reads(make: Make) -> None:
    made = make("axes: {leave_one_out: [b3], leave_group_out: [[routing, b3]]}")
    assert [c.name for c in made] == ["base", "no-b3"]
    assert made[1].aliases == (Alias("leave_group_out", "no-b3-routing"),)


@pytest.mark.parametrize(
    ("axes", "column", "message"),
    [
        (
            "[[b2, b5], [b3, b4]]",
            36,
            'axes.leave_group_out[1]: without b3, routing becomes "nearest", and without b4 "none"',
        ),
        ("[[b2, b1]]", 31, 'axes.leave_group_out[0][1]: b1 "local_tokens" names no stand-in'),
        ("[[b2, b2]]", 26, "axes.leave_group_out[0]: lists b2 twice"),
        ("[b2, b5]", 26, "axes.leave_group_out[0]: should be a list, found"),
    ],
)
def test_a_group_that_cannot_be_left_out_is_refused_with_its_place(
    make: Make, tmp_path: Path, axes: str, column: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(f"axes: {{leave_group_out: {axes}}}")
    told = str(caught.value).splitlines()[0]
    assert told.startswith(f"{tmp_path / 'mine.yaml'}:{AFTER}:{column}: {message}"), told


# crossings and recipes


def test_every_combination_of_a_crossing(make: Make) -> None:
    made = make("axes: {cross: [{routing.r: [1, 2], b5.layers: [2, 3], neck: [pyramid, last_layer]}]}")
    assert shown(made) == [
        ("routing.r-1-b5.layers-2-neck-pyramid", "routing.r: 2 → 1, b5.layers: 3 → 2"),
        ("routing.r-1-b5.layers-2-neck-last_layer", "neck: pyramid → last_layer, routing.r: 2 → 1, b5.layers: 3 → 2"),
        ("routing.r-1-b5.layers-3-neck-pyramid", "routing.r: 2 → 1"),
        ("routing.r-1-b5.layers-3-neck-last_layer", "neck: pyramid → last_layer, routing.r: 2 → 1"),
        ("routing.r-2-b5.layers-2-neck-pyramid", "b5.layers: 3 → 2"),
        ("routing.r-2-b5.layers-2-neck-last_layer", "neck: pyramid → last_layer, b5.layers: 3 → 2"),
        ("routing.r-2-b5.layers-3-neck-last_layer", "neck: pyramid → last_layer"),
    ]
    assert made[0].aliases == (Alias("cross", "routing.r=2,b5.layers=3,neck=pyramid"),)


def test_an_option_goes_into_the_component_that_the_same_crossing_puts_there(make: Make) -> None:
    made = make("axes: {cross: [{routing: [topk_attention, nearest], routing.r: [1]}]}")
    assert shown(made) == [
        ("routing-topk_attention-routing.r-1", "routing.r: 2 → 1"),
        ("routing-nearest-routing.r-1", "routing: topk_attention → nearest (r 1)"),
    ]


def test_a_recipe_is_an_axis_too(make: Make) -> None:
    made = make(
        "axes:\n"
        "  grid: {train.lambda_si: [0, 0.5], train: {lr: [1e-3], loss: {huber_delta: [0.5, 1]}}, train.epochs: [3]}\n"
        "  cross: [{train.queries: [8, 16], train.loss: [huber_silog, l1]}]\n"
        "  swap: {loss: [l1, {use: huber_silog, huber_delta: 2}]}\n"
    )
    assert shown(made) == [
        ("train.lambda_si-0", "train.lambda_si: 0.5 → 0.0"),
        ("train.lr-0.001", "train.lr: 0.0001 → 0.001"),
        ("train.loss.huber_delta-1", "train.loss.huber_delta: 0.5 → 1.0"),
        ("train.epochs-3", "train.epochs: null → 3, train.steps: 4 → null"),
        ("train.queries-8-train.loss-l1", "train.loss: huber_silog → l1"),
        ("train.queries-16-train.loss-huber_silog", "train.queries: 8 → 16"),
        ("train.queries-16-train.loss-l1", "train.loss: huber_silog → l1, train.queries: 8 → 16"),
        ("loss-huber_silog-huber_delta-2", "train.loss.huber_delta: 0.5 → 2.0"),
    ]
    by_name = {c.name: c for c in made}
    assert by_name["train.queries-8-train.loss-l1"].aliases == (Alias("swap", "loss-l1"),)
    assert [alias.name for alias in made[0].aliases] == [
        "train.lambda_si=0.5",
        "train.loss.huber_delta=0.5",
        "train.queries=8,train.loss=huber_silog",
    ]
    # the suite's own option of the loss is kept by whatever knows it
    assert by_name["train.queries-16-train.loss-huber_silog"].train.loss.options["huber_delta"] == 0.5
    assert all(c.slots == made[0].slots for c in made)


@pytest.mark.parametrize(
    ("axes", "column", "message"),
    [
        ("{grid: {train.quries: [1]}}", 15, 'axes.grid.train.quries: train has no "quries"'),
        ("{grid: {train.workers: [1]}}", 15, "axes.grid.train.workers: no number depends on train.workers"),
        ("{grid: {train.lr: [1, -1]}}", 29, "axes.grid.train.lr[1]: should be greater than 0, found -1"),
        ("{grid: {train.lr: [1e-9]}}", 26, "axes.grid.train.lr[0]: should have min_lr no larger than lr"),
        ("{grid: {train.loss: [l3]}}", 28, 'axes.grid.train.loss[0]: unknown loss "l3"'),
        ("{grid: {train.loss: [3]}}", 28, "axes.grid.train.loss[0]: should be a component, as a name or as"),
        ("{grid: {train.loss.delta: [3]}}", 15, 'axes.grid.train.loss.delta: loss "huber_silog" has no option "delta"'),
        ("{grid: {neck: [pyramid]}}", 15, "axes.grid.neck: should be slot.option, such as routing.r"),
        ("{cross: [{rooting: [nearest]}]}", 17, "axes.cross[0].rooting: should be slot, slot.option or train.value"),
        ("{cross: [{neck: [pyramidd]}]}", 24, 'axes.cross[0].neck[0]: unknown neck "pyramidd"'),
        ("{cross: [{routing.r: [1, 0]}]}", 32, "axes.cross[0].routing.r[1]: should be greater than or equal to 1"),
        ("{cross: [{routing.r: []}]}", 17, "axes.cross[0].routing.r: should be a list of at least 1"),
        (
            "{cross: [{routing: [none, nearest], routing.r: [1]}]}",
            43,
            'axes.cross[0].routing.r: routing "none" has no option "r"',
        ),
        ("{cross: [{train.steps: [1], train.epochs: [1]}]}", 17, "axes.cross[0].train.steps: a training has either"),
        ("{cross: [{train.lr: [1e-4], train.min_lr: [1e-3]}]}", 16, "axes.cross[0]: should have min_lr no larger"),
        (
            "{cross: [{train.lr: [2e-6, 1e-4], train.min_lr: [1e-5]}]}",
            16,
            "axes.cross[0]: should have min_lr no larger",
        ),
        (f"{{cross: [{{b5.layers: {list(range(1001))}}}]}}", 16, "axes.cross[0]: makes 1,001 combinations"),
        ("{swap: {loss: [huber_silog]}}", 22, "axes.swap.loss[0]: the same as the base"),
        (
            "{parameter_matched: true}",
            27,
            "axes.parameter_matched: no axis leaves anything out that could have a control",
        ),
    ],
)
def test_a_mistake_on_an_axis_is_refused_with_its_place(
    make: Make, tmp_path: Path, axes: str, column: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(f"axes: {axes}")
    told = str(caught.value).splitlines()
    assert any(line.startswith(f"{tmp_path / 'mine.yaml'}:{AFTER}:{column}: {message}") for line in told), told


def test_values_that_only_go_together_may_be_crossed(make: Make) -> None:
    made = make("axes: {cross: [{train.lr: [1e-2], train.min_lr: [1e-3]}]}")  # the base's lr is 1e-4
    assert (made[1].train.lr, made[1].train.min_lr) == (1e-2, 1e-3)


def test_axes_can_be_set_from_the_command_line(make: Make) -> None:
    sets = ["axes.grid.train.loss.huber_delta=[1]", "axes.cross=[{routing: {r: [1]}, train.queries: [16]}]"]
    assert [c.name for c in make("", sets=sets)][1:] == ["train.loss.huber_delta-1", "routing.r-1-train.queries-16"]


def test_the_schema_of_suites_knows_the_axes() -> None:
    axes = json_schema()["$defs"]["Axes"]["properties"]
    assert "topk_attention" in str(axes["cross"]["items"]["properties"]["routing"])
    assert "huber_silog" in str(axes["grid"]["properties"]["train.loss"])
    assert "huber_silog" in str(axes["swap"]["properties"]["loss"])
    assert {"leave_group_out", "parameter_matched", "cross"} <= set(
        json_schema()["$defs"]["Report"]["properties"]["family"]["items"]["enum"]
    )


VALUES: dict[str, list[Any]] = {
    "routing.r": [1, 2, 3],
    "b5.layers": [1, 2, 3],
    "b2.dropout": [0, 0.1, 0.5],
    "neck": ["pyramid", "last_layer"],
    "train.lambda_si": [0, 0.5, 1],
    "train.loss": ["huber_silog", "l1"],
    "train.queries": [8, 16],
}
BASE: dict[str, Any] = {
    "routing.r": 2,
    "b5.layers": 3,
    "b2.dropout": 0.1,
    "neck": "pyramid",
    "train.lambda_si": 0.5,
    "train.loss": "huber_silog",
    "train.queries": 8,
}


def read(composition: CompositionSpec, path: str) -> Any:
    """The value that a composition has at a path."""
    match path.split("."):
        case ["train", "loss"]:
            return composition.train.loss.use
        case ["train", value]:
            return getattr(composition.train, value)
        case [slot, option]:
            return composition.slots[slot].options[option]
        case _:
            return composition.slots[path].use


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.dictionaries(st.sampled_from(sorted(VALUES)), st.just(None), min_size=1, max_size=4).flatmap(
        lambda paths: st.fixed_dictionaries(
            {path: st.lists(st.sampled_from(VALUES[path]), min_size=1, unique=True) for path in paths}
        )
    )
)
def test_a_crossing_has_every_combination_once_and_differs_in_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, crossing: dict[str, list[Any]]
) -> None:
    path = tmp_path_factory.mktemp("axes") / "mine.yaml"
    path.write_text(f"{SUITE}axes: {{cross: [{crossing}]}}\n".replace("'", ""), encoding="utf-8")
    base, *made = compositions(load_suite(path))
    through_base = all(BASE[name] in values for name, values in crossing.items())
    assert len(made) == math.prod(map(len, crossing.values())) - through_base
    assert len({c.name for c in made}) == len(made)
    wanted = [dict(zip(crossing, values, strict=True)) for values in itertools.product(*crossing.values())]
    found = [{name: read(c, name) for name in crossing} for c in made]
    assert found == [values for values in wanted if values != {name: BASE[name] for name in crossing}]
    for composition in made:
        differing = [name for name in BASE if read(composition, name) != BASE[name]]
        assert len(composition.difference.split(", ")) == len(differing)
        assert all(name in composition.difference for name in differing)
        # and in nothing else
        untouched = {slot for slot in base.slots if not any(name.split(".")[0] == slot for name in crossing)}
        assert all(composition.slots[slot] == base.slots[slot] for slot in untouched)


KEYS = [
    "axes.leave_group_out",
    "axes.parameter_matched",
    "axes.swap.loss",
    "axes.grid.train",
    "axes.grid.train.loss",
    "axes.grid.train.loss.x",
    "axes.cross",
]
ODD = st.sampled_from(
    [
        "null",
        "x",
        "-1",
        "[]",
        "{}",
        "[1, [2]]",
        "[{}]",
        "[{a: {b: 1}}]",
        "[{neck: [{use: 1}]}]",
        "[{train: [1]}]",
        "true",
        "[[b2, b5]]",
        "[[b3, 1]]",
        "[null]",
        "{use: x}",
        "[{train.loss: [l1], '': [1]}]",
        "[{neck.: [1], .: [2]}]",
        "{lr: [{}]}",
    ]
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(KEYS), ODD), min_size=1, max_size=2))
def test_anything_on_an_axis_is_accepted_or_refused_with_a_place(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "mine.yaml"
    path.write_text(SUITE, encoding="utf-8")
    try:
        compositions(load_suite(path, sets=[f"{key}={value}" for key, value in changes]))
    except ConfigError as error:
        told = [line for line in str(error).splitlines() if not line.startswith("  hint: ")]
        assert all(line.startswith(("--set ", f"{path}:")) for line in told), told


# identities


GOLDEN = {
    "base": "8f06e85cadaaed452f37748a2467c9719d7f683938641874c7448baa495acaa4",
    "no-b3": "e75ef534a52134e49b25d07b53399dfc865a9ae5fda7d631979793abf98a9e14",
    "neck-last_layer": "14cc8d714d11c542930f122c0bde91ef75e7c706e68941619b11be2966ab26e5",
    "routing.r-1": "a61b0a8ac6089b4aca977ecd04101969d19233a3694c6be3c3ab436a14b57f7e",
    "constant": "6323febf6df550747488e3f66e4141c6e05f2ca6c3fa1dfae07334decd20c8f4",
}
"""Identities of trainings before recipes were on any axis. They change where a component's version is raised or an
option is added, and finished runs are then trained again: that must be meant."""


def experiment(tmp_path: Path, text: str) -> plan.Experiment:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE + text, encoding="utf-8")
    return plan.Experiment(choose.choose(Request(suite=str(path))).suite)


def test_identities_of_what_does_not_touch_the_recipe_are_what_they_were(tmp_path: Path) -> None:
    text = "axes: {leave_one_out: [b3], swap: {neck: [last_layer]}, grid: {routing.r: [1]}}\nbaselines: [constant]\n"
    jobs = experiment(tmp_path, text).jobs
    assert {job.composition.name: job.train_id for job in jobs} == GOLDEN


def test_a_recipe_on_an_axis_has_the_identity_of_that_recipe_in_the_suite(tmp_path: Path) -> None:
    axis = experiment(tmp_path, "axes: {cross: [{train.lambda_si: [0], train.loss.huber_delta: [1]}]}\n").jobs[1]
    path = tmp_path / "mine.yaml"
    sets = ["train.lambda_si=0", "train.loss.huber_delta=1", "axes=null"]
    own = plan.Experiment(choose.choose(Request(suite=str(path), sets=sets)).suite).jobs[0]
    assert axis.train_id == own.train_id
    assert axis.eval_id == own.eval_id
    assert axis.train_id != GOLDEN["base"]


# controls


def test_a_control_has_the_parameters_of_the_base(make: Make) -> None:
    base, *made = make("axes: {leave_one_out: [b2, b3, b4, b5], leave_group_out: [[b2, b5]], parameter_matched: true}")
    encoder = PatchDescriptors(PatchDescriptors.Config())
    found = {c.name: plan.with_width(c, base, encoder) for c in [base, *made]}
    count = {
        name: sum(p.numel() for _, p in plan.build_model(c, encoder, seed=0).trainable()) for name, c in found.items()
    }
    bare = [f"no-{slot}" for slot in ("b2", "b3", "b4", "b5", "b2-b5")]
    assert sorted(found) == sorted(["base", *bare, *(f"{name}-matched" for name in bare)])
    for name in bare:
        control = found[f"{name}-matched"]
        assert count[name] < 0.95 * count["base"]
        # a unit of width is 385 parameters in each of at most 5 attention layers
        assert abs(count[control.name] - count["base"]) <= 5 * 385 / 2
        assert control.slots == found[name].slots
        assert control.on("parameter_matched")
        assert not control.on("leave_one_out")
        assert control.difference.startswith(f"{found[name].difference}, feed-forward width: 768 → {control.ffn} (")
        assert control.difference.endswith(" of base's parameters)")


def test_the_width_of_a_control_is_in_its_identity_alone(tmp_path: Path) -> None:
    made = experiment(tmp_path, "axes: {leave_one_out: [b3], parameter_matched: true}\n")
    base, bare, control = made.jobs
    assert (base.train_id, bare.train_id) == (GOLDEN["base"], GOLDEN["no-b3"])
    widths = {"dims": {"ffn": control.composition.ffn}}
    assert control.train_identity["model"] == bare.train_identity["model"] | widths


def control(make: Make) -> tuple[CompositionSpec, CompositionSpec]:
    base, _, found = make("axes: {leave_one_out: [b5], parameter_matched: true}")
    return base, found


def test_width_is_found_from_counts(make: Make) -> None:
    base, wanted = control(make)
    # 1000 + 10 per unit, and the base has 12 000: 1100 units
    found = matched(wanted, base, lambda c: 12_000 if c is base else 1000 + 10 * (c.ffn or 0))
    assert found.ffn == 1100
    assert found.difference.endswith("feed-forward width: 768 → 1100 (100.00% of base's parameters)")
    assert matched(base, base, lambda c: 0) is base


@pytest.mark.parametrize("per_unit", [0, 10_000])
def test_a_control_that_cannot_match_is_refused(make: Make, tmp_path: Path, per_unit: int) -> None:
    base, wanted = control(make)
    with pytest.raises(ConfigError, match=r"no-b5-matched: widening the feed-forward layers of what remains gives"):
        matched(wanted, base, lambda c: 12_000 if c is base else 1000 + per_unit * (c.ffn or 0))
    assert wanted.where == f"{tmp_path / 'mine.yaml'}:{AFTER}:24"


def test_loss_of_a_composition(tmp_path: Path) -> None:
    made = experiment(tmp_path, "axes: {swap: {loss: [l1]}}\n")
    assert [type(made.loss_of(c)).__name__ for c in made.compositions] == ["HuberSilog", "AbsoluteError"]
    assert made.compositions[0].train.loss == Choice(
        use="huber_silog", options={"huber_delta": 0.5, "lambda_var": 0.85}
    )
