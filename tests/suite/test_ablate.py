"""The axes of a suite become a stable list of different models, each with what sets it apart from the base."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spd_bench import registry
from spd_bench.errors import ConfigError
from spd_bench.suite.axes import Alias, CompositionSpec, Selection, compositions
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Choice

PLUGIN = """
from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Sized(Options):
    r: int = Field(default=32, ge=1)


class Rated(Options):
    layers: int = 2
    rate: float = 0.1


def component(slot, config=Options, **left_out):
    return type(slot, (), {"slot": slot, "Config": config, "left_out": left_out})


enc = component("encoder")
neck = component("neck")
flat = component("neck")
b1 = component("b1")
b2 = component("b2", Rated, b2="t_skip")
b2_deep = component("b2", Rated)
b2_skip = component("b2")
b3 = component("b3", b3="t_skip", routing="t_near")
b3_skip = component("b3")
topk = component("routing", Sized)
near = component("routing", Sized)
none = component("routing")
b4 = component("b4", b4="t_skip", routing="t_none")
b4_skip = component("b4")
b5 = component("b5", b5="t_mean")
b5_mean = component("b5")
b5_greedy = component("b5", b5="t_mean", b4="t_skip")
b5_void = component("b5", b5="t_void")
head = component("depth_head")
line = component("baseline", Rated)
own = component("baseline", Rated)
own.own_encoder = classmethod(lambda cls, config: {"use": "t_enc2"} if config.layers > 2 else None)
data = component("dataset")
"""

POINTS = {
    "encoder": {"t_enc": "enc", "t_enc2": "enc"},
    "neck": {"t_neck": "neck", "t_flat": "flat"},
    "b1": {"t_b1": "b1"},
    "b2": {"t_b2": "b2", "t_deep": "b2_deep", "t_skip": "b2_skip"},
    "b3": {"t_b3": "b3", "t_skip": "b3_skip"},
    "routing": {"t_topk": "topk", "t_near": "near", "t_none": "none"},
    "b4": {"t_b4": "b4", "t_skip": "b4_skip"},
    "b5": {"t_b5": "b5", "t_mean": "b5_mean", "t_greedy": "b5_greedy", "t_void": "b5_void"},
    "depth_head": {"t_head": "head"},
    "baseline": {"t_line": "line", "t_own": "own"},
    "dataset": {"t_data": "data"},
}

BASE = """\
suite: mine
base:
  name: full
  encoder: t_enc
  neck: t_neck
  b1: t_b1
  b2: t_b2
  b3: t_b3
  routing: t_topk
  b4: t_b4
  b5: t_b5
  depth_head: t_head
data: {dataset: t_data}
train: {steps: 5}
"""

Make = Callable[..., list[CompositionSpec]]


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Components without torch, in a distribution on sys.path."""
    site = tmp_path / "site"
    info = site / "fake_blocks-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-blocks\nVersion: 1.0\n")
    lines = [
        line
        for slot, names in POINTS.items()
        for line in (f"[spd_bench.{slot}]", *(f"{name} = fake_blocks_plugin:{value}" for name, value in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (site / "fake_blocks_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("fake_blocks_plugin", None)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def from_text(text: str, base: str = BASE, **how: Any) -> list[CompositionSpec]:
        path = tmp_path / "mine.yaml"
        path.write_text(base + text)
        return compositions(load_suite(path, **how))

    return from_text


def shown(made: list[CompositionSpec]) -> list[tuple[str, str]]:
    return [(c.name, c.difference) for c in made]


def test_base_alone_has_every_slot_with_all_options_filled_in(make: Make) -> None:
    (base,) = make("")
    assert (base.name, base.kind, base.axis, base.difference, base.baseline) == ("full", "base", "", "", None)
    assert list(base.slots) == ["encoder", "neck", "b1", "b2", "b3", "routing", "b4", "b5", "depth_head"]
    assert base.slots["routing"] == Choice(use="t_topk", options={"r": 32})
    assert base.slots["b2"] == Choice(use="t_b2", options={"layers": 2, "rate": 0.1})
    assert base.aliases == ()


def test_leave_one_out_puts_the_stand_ins_that_the_component_names(make: Make) -> None:
    made = make("axes: {leave_one_out: [b2, b3, b4, b5]}")
    assert shown(made) == [
        ("full", ""),
        ("no-b2", "b2: t_b2 → t_skip"),
        ("no-b3", "b3: t_b3 → t_skip, routing: t_topk → t_near"),
        ("no-b4", "routing: t_topk → t_none, b4: t_b4 → t_skip"),
        ("no-b5", "b5: t_b5 → t_mean"),
    ]
    assert {c.kind for c in made[1:]} == {"ablation"}
    assert {c.axis for c in made[1:]} == {"leave_one_out"}
    assert made[2].slots["b2"] == made[0].slots["b2"]


def test_swap_and_grid_differ_from_the_base_in_one_thing(make: Make) -> None:
    made = make(
        "axes:\n"
        "  swap: {neck: [t_flat], b2: [t_deep, {use: t_deep, layers: 4}, {use: t_b2, rate: 0}], encoder: [t_enc2]}\n"
        "  grid: {routing.r: [8, 64], b2.rate: [0.25]}\n"
    )
    assert shown(made) == [
        ("full", ""),
        ("neck-t_flat", "neck: t_neck → t_flat"),
        ("b2-t_deep", "b2: t_b2 → t_deep"),
        ("b2-t_deep-layers-4", "b2: t_b2 → t_deep (layers 4)"),
        ("b2-t_b2-rate-0", "b2.rate: 0.1 → 0.0"),
        ("encoder-t_enc2", "encoder: t_enc → t_enc2"),
        ("routing.r-8", "routing.r: 32 → 8"),
        ("routing.r-64", "routing.r: 32 → 64"),
        ("b2.rate-0.25", "b2.rate: 0.1 → 0.25"),
    ]
    base = made[0]
    for other in made[1:]:
        assert len([slot for slot in base.slots if base.slots[slot] != other.slots[slot]]) == 1


def test_replacement_keeps_the_options_that_the_suite_gave_and_that_it_knows(make: Make) -> None:
    base = BASE.replace("routing: t_topk", "routing: {use: t_topk, r: 16}").replace(
        "b2: t_b2", "b2: {use: t_b2, rate: 0.3}"
    )
    made = make("axes: {leave_one_out: [b2, b3], swap: {routing: [t_none, {use: t_near, r: 4}], b2: [t_deep]}}", base)
    by_name = {c.name: c for c in made}
    assert by_name["no-b3"].slots["routing"] == Choice(use="t_near", options={"r": 16})  # not its default, 32
    assert by_name["no-b2"].slots["b2"] == Choice(use="t_skip")
    assert by_name["routing-t_none"].slots["routing"] == Choice(use="t_none")
    assert by_name["routing-t_near-r-4"].slots["routing"].options == {"r": 4}
    assert by_name["b2-t_deep"].slots["b2"].options == {"layers": 2, "rate": 0.3}


def test_add_one_in_starts_from_nothing_once(make: Make) -> None:
    made = make("axes: {add_one_in: [b5, b3, b4]}")
    nothing = "b3: t_b3 → t_skip, routing: t_topk → t_none, b4: t_b4 → t_skip, b5: t_b5 → t_mean"
    assert shown(made) == [
        ("full", ""),
        ("no-b3-b4-b5", nothing),  # routing: b4, later in the chain, has the last word
        ("only-b5", "b3: t_b3 → t_skip, routing: t_topk → t_none, b4: t_b4 → t_skip"),
        ("only-b3", "routing: t_topk → t_none, b4: t_b4 → t_skip, b5: t_b5 → t_mean"),
        ("only-b4", "b3: t_b3 → t_skip, routing: t_topk → t_near, b5: t_b5 → t_mean"),
    ]
    assert {c.axis for c in made[1:]} == {"add_one_in"}


def test_axes_come_in_the_order_of_the_file(make: Make) -> None:
    made = make("axes:\n  grid: {routing.r: [8]}\n  swap: {b2: [t_deep], neck: [t_flat]}\n  leave_one_out: [b5, b2]\n")
    assert [c.name for c in made] == ["full", "routing.r-8", "b2-t_deep", "neck-t_flat", "no-b5", "no-b2"]
    again = make("axes:\n  leave_one_out: [b5, b2]\n  grid: {routing.r: [8]}\n")
    assert [c.name for c in again] == ["full", "no-b5", "no-b2", "routing.r-8"]


def test_same_model_is_made_once_and_keeps_its_other_names(make: Make) -> None:
    made = make(
        "axes:\n"
        "  leave_one_out: [b2, b5]\n"
        "  swap: {b2: [t_skip, {use: t_skip}], routing: [{use: t_topk, r: 8}]}\n"
        "  grid: {routing.r: [8, 32]}\n"
        "  add_one_in: [b2, b5]\n"
    )
    assert [c.name for c in made] == ["full", "no-b2", "no-b5", "routing-t_topk-r-8", "no-b2-b5"]
    by_name = {c.name: c for c in made}
    assert by_name["full"].aliases == (Alias("grid", "routing.r=32"),)
    assert by_name["no-b2"].aliases == (
        Alias("swap", "b2-t_skip"),
        Alias("swap", "b2-t_skip"),
        Alias("add_one_in", "only-b5"),
    )
    assert by_name["routing-t_topk-r-8"].aliases == (Alias("grid", "routing.r=8"),)
    assert by_name["no-b2"].on("leave_one_out")
    assert by_name["no-b2"].on("add_one_in")
    assert not by_name["no-b2"].on("grid")
    assert by_name["full"].on("grid")


def test_baselines_come_last_on_the_encoder_of_the_base(make: Make) -> None:
    made = make("axes: {leave_one_out: [b2]}\nbaselines: [t_line, {use: t_line, layers: 5}, {use: t_line, rate: 0.1}]")
    assert [(c.name, c.kind, c.difference) for c in made[2:]] == [
        ("t_line", "baseline", "baseline: t_line"),
        ("t_line-layers-5", "baseline", "baseline: t_line (layers 5)"),
    ]
    assert made[2].baseline == Choice(use="t_line", options={"layers": 2, "rate": 0.1})
    assert made[2].slots == {"encoder": Choice(use="t_enc")}
    assert len(made[2].aliases) == 1  # the third is the first, spelled out


def test_a_baseline_may_bring_its_own_encoder(make: Make) -> None:
    made = make("baselines: [t_own, {use: t_own, layers: 3}]")
    assert made[1].slots == {"encoder": Choice(use="t_enc")}
    assert made[2].slots == {"encoder": Choice(use="t_enc2")}


def test_a_selection_keeps_the_base_and_what_it_names(make: Make) -> None:
    made = make("axes: {leave_one_out: [b2, b3], grid: {routing.r: [8, 32]}}\nbaselines: [t_line]")
    assert [c.name for c in made] == ["full", "no-b2", "no-b3", "routing.r-8", "t_line"]

    def names(**options: tuple[str, ...]) -> list[str]:
        return [c.name for c in Selection(**options).of(made)]

    assert names() == [c.name for c in made]
    assert names(only=("no-*",)) == ["full", "no-b2", "no-b3"]
    assert names(only=("routing.r=32",)) == ["full"]  # another name of the base
    assert names(skip=("no-b2", "t_line")) == ["full", "no-b3", "routing.r-8"]
    assert names(only=("no-*",), skip=("no-b3",)) == ["full", "no-b2"]
    assert names(skip=("full",)) == [c.name for c in made[1:]]
    assert names(skip=("*",)) == ["full"]  # everything but the base
    assert str(Selection(only=("no-*",), skip=("no-b3",))) == "--only no-* --skip no-b3"


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_selection_of_nothing_there_is_refused(make: Make, option: str) -> None:
    with pytest.raises(ConfigError, match='no composition "no-b4"') as found:
        Selection(**{option: ("no-b4",)}).of(make("axes: {leave_one_out: [b2]}"))
    assert found.value.where == f"--{option}"
    assert "no-b2" in (found.value.hint or "")


def test_names_are_slugs_and_unique(make: Make) -> None:
    made = make("axes: {swap: {b2: [{use: t_deep, rate: 1e-9}, {use: t_deep, rate: 2.5}, 'fake-blocks:t_deep']}}")
    assert [c.name for c in made[1:]] == ["b2-t_deep-rate-1e-09", "b2-t_deep-rate-2.5", "b2-fake-blocks-t_deep"]
    long = ", ".join(f"{{use: t_deep, layers: {10**17 + i}, rate: 0.12345678901234567}}" for i in range(3))
    names = [c.name for c in make(f"axes: {{swap: {{b2: [{long}]}}}}")]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 64


def test_every_component_knows_the_line_that_asked_for_it(make: Make, tmp_path: Path) -> None:
    made = make("axes:\n  leave_one_out: [b3]\n  swap: {routing: [t_near]}\nbaselines: [t_line]\n")
    path = tmp_path / "mine.yaml"
    full, no_b3, near, line = made
    assert full.places["b3"] == f"{path}:8:7"
    assert no_b3.places["b3"] == no_b3.places["routing"] == no_b3.where == f"{path}:16:19"
    assert no_b3.places["b2"] == f"{path}:7:7"
    assert near.places["routing"] == near.where == f"{path}:17:20"
    assert line.places == {"encoder": f"{path}:4:12", "baseline": f"{path}:18:13"}


def test_a_profile_changes_the_models_too(make: Make) -> None:
    text = "axes: {leave_one_out: [b2]}\nprofiles: {small: {base: {encoder: t_enc2, routing: {r: 4}}}}\n"
    made = make(text, profile="small", sets=["base.b2.layers=1"])
    assert made[1].slots["encoder"].use == "t_enc2"
    assert made[1].slots["routing"].options == {"r": 4}
    assert made[0].slots["b2"].options["layers"] == 1


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("axes: {swap: {neck: [t_neck]}}", "15:22", "axes.swap.neck[0]: the same as the base"),
        ("axes: {swap: {neck: [t_flat, {use: t_neck}]}}", "15:30", "axes.swap.neck[1]: the same as the base"),
        ("axes: {swap: {b2: [{use: t_b2, rate: 0.1}]}}", "15:20", "axes.swap.b2[0]: the same as the base"),
        ("axes: {leave_one_out: [b2, b1]}", "15:28", 'axes.leave_one_out[1]: b1 "t_b1" names no stand-in'),
        ("axes: {add_one_in: [b2, depth_head]}", "15:25", 'axes.add_one_in[1]: depth_head "t_head" names no stand-in'),
        ("axes: {swap: {b2: [{use: t_deep, layer: 3}]}}", "15:34", "axes.swap.b2[0].layer: unknown option"),
        ("axes: {grid: {routing.r: [8, 0]}}", "15:30", "axes.grid.routing.r[1]: should be greater than or equal to 1"),
        ("axes: {grid: {routing.q: [8]}}", "15:15", 'axes.grid.routing.q: routing "t_topk" has no option "q"'),
        ("baselines: [{use: t_line, size: 3}]", "15:27", "baselines[0].size: unknown option"),
    ],
)
def test_mistakes_on_an_axis_are_refused_with_their_place(
    make: Make, tmp_path: Path, text: str, where: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(text)
    assert caught.value.where == f"{tmp_path / 'mine.yaml'}:{where}"
    assert caught.value.message.startswith(message)


def test_block_that_another_takes_along_cannot_be_added_alone(make: Make) -> None:
    base = BASE.replace("b5: t_b5", "b5: t_greedy")
    with pytest.raises(ConfigError, match=r'b4 cannot be added alone: leaving another out puts "t_skip" in its place'):
        make("axes: {add_one_in: [b4, b5]}", base)


def test_stand_in_that_does_not_exist_is_told_where_it_is_needed(make: Make, tmp_path: Path) -> None:
    registry.load("b5", "t_void").left_out["b5"] = "t_void2"
    with pytest.raises(ConfigError, match='unknown b5 "t_void2"') as caught:
        make("axes: {leave_one_out: [b5]}", BASE.replace("b5: t_b5", "b5: t_void"))
    assert caught.value.where == f"{tmp_path / 'mine.yaml'}:15:24"


def test_stand_in_equal_to_the_base_changes_nothing(make: Make) -> None:
    with pytest.raises(
        ConfigError, match=r"axes\.leave_one_out\[0\]: the same as the base: this ablation changes nothing"
    ):
        make("axes: {leave_one_out: [b5]}", BASE.replace("b5: t_b5", "b5: t_void"))
