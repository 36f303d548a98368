"""A suite is read, inherited, overridden and checked; every problem is told with its place and a suggestion."""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spd_bench import registry
from spd_bench.errors import ConfigError, DataError
from spd_bench.suite.checks import check_components, check_options
from spd_bench.suite.load import find_suite, load_suite, shipped
from spd_bench.suite.schema import MODEL_SLOTS, Choice, Suite, json_schema
from spd_bench.suite.yaml import parse_yaml

SUITE = """\
suite: mine
base:
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing: {use: topk_attention, r: 16}
  b4: deformable_read
  b5: fused_cross_attention
  depth_head: calibrated_inverse
data:
  dataset: synthetic_rooms
  image_size: [224, 224]
train: {epochs: 3, lr: 1e-3}
axes:
  leave_one_out: [b3]
  swap: {routing: [nearest, {use: random, seed: 1}]}
  grid: {routing.r: [8, 16]}
baselines: [constant]
profiles:
  quick:
    train: {epochs: null, steps: 5}
    base: {routing: nearest}
fallback: {profile: quick}
"""

PLUGIN = """
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    r: int = Field(default=32, ge=1)
    rate: float = 0.1
    mode: Literal["soft", "hard"] = "soft"
    pair: tuple[int, int] = (1, 2)


class Fake:
    slot = "routing"
    Config = Options


class Data:
    slot = "dataset"

    class Config(BaseModel):
        root: str = "nowhere"

    @classmethod
    def recognise(cls, path):
        return (Path(path) / "fake.marker").exists()


class Other(Data):
    pass
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return make


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with a routing and two data sets, on sys.path."""
    site = tmp_path / "site"
    info = site / "fake_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[spd_bench.routing]\nfake = fake_suite_plugin:Fake\nbroken = fake_suite_plugin:Nothing\n"
        "[spd_bench.dataset]\nfake_data = fake_suite_plugin:Data\nother_data = fake_suite_plugin:Other\n"
    )
    (site / "fake_suite_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("fake_suite_plugin", None)


def problems(path: Path, **how: Any) -> list[str]:
    """The lines of the refusal, with the file's own path left out."""
    with pytest.raises(ConfigError) as caught:
        load_suite(path, **how)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{path}:", "").replace("\n  hint: ", "; ").splitlines()


# ------------------------------------------------------------------------------------------------- reading


def test_suite_is_read_with_defaults_filled_in(write: Any) -> None:
    suite = load_suite(write(SUITE))
    assert list(suite.base.slots()) == list(MODEL_SLOTS)
    assert suite.base.routing == Choice(use="topk_attention", options={"r": 16})
    assert suite.base.neck == Choice(use="pyramid")
    assert suite.train.epochs == 3
    assert suite.train.lr == 1e-3
    assert (suite.train.batch_size, suite.train.queries, suite.train.min_lr) == (8, 256, 1e-6)  # §7.3
    assert (suite.train.weight_decay, suite.train.clip, suite.train.lambda_si) == (0.01, 1.0, 0.5)
    assert suite.eval.k == (1, 64, 256, 1024)  # §8
    assert suite.axes.swap == {"routing": (Choice(use="nearest"), Choice(use="random", options={"seed": 1}))}
    assert suite.axes.grid == {"routing.r": (8, 16)}
    assert suite.fallback is not None
    assert suite.fallback.profile == "quick"
    assert suite.profile is None


def test_dump_is_the_form_of_the_file_and_reads_back(write: Any) -> None:
    suite = load_suite(write(SUITE))
    dumped = suite.dump()
    assert dumped["base"]["routing"] == {"use": "topk_attention", "r": 16}
    assert dumped["train"]["betas"] == [0.9, 0.999]
    again = Suite.model_validate_json(json.dumps(dumped))
    assert again.dump() == dumped
    assert again.places == {(): ""}
    assert again.place("train", "lr") is None


def test_places_lead_to_line_and_column(write: Any) -> None:
    path = write(SUITE)
    suite = load_suite(path, profile="quick", sets=["train.lr=2e-3"])
    assert suite.place("base", "b3") == f"{path}:7:3"
    assert suite.place("base", "b3", "use") == f"{path}:7:7"
    assert suite.place("axes", "swap", "routing", 0) == f"{path}:18:20"
    assert suite.place("axes", "grid", "routing.r", 1) == f"{path}:19:25"
    assert suite.place("baselines", 0) == f"{path}:20:13"
    assert suite.place("base", "routing", "use") == f"{path}:24:21"  # the profile's line
    assert suite.place("train", "steps") == f"{path}:23:34"
    assert suite.place("train", "lr") == "--set train.lr=2e-3"
    assert suite.place("eval", "k", 3) == f"{path}:1:1"  # never written: the nearest that was


def test_profile_then_settings_override(write: Any) -> None:
    path = write(SUITE)
    quick = load_suite(path, profile="quick")
    assert quick.profile == "quick"
    assert (quick.train.epochs, quick.train.steps) == (None, 5)
    assert quick.base.routing == Choice(use="nearest")  # another component: topk's options do not stick to it
    assert quick.data == load_suite(path).data

    sets = ["train.steps=7", "base.routing.r=4", "axes.grid.routing.r=[2]", "train.steps=9", "baselines=null"]
    suite = load_suite(path, profile="quick", sets=sets)
    assert suite.train.steps == 9  # the last one wins
    assert suite.base.routing == Choice(use="nearest", options={"r": 4})
    assert suite.axes.grid == {"routing.r": (2,)}
    assert suite.baselines == ()
    assert load_suite(path, sets=["base.routing=topk_attention"]).base.routing.options == {"r": 16}
    assert load_suite(path, sets=["base.routing=random"]).base.routing.options == {}


def test_extends_inherits_all_but_name_and_description(write: Any) -> None:
    write(SUITE.replace("suite: mine", "suite: parent\ndescription: of the parent"), "parent.yaml")
    path = write("suite: child\nextends: parent\ntrain: {lr: 5e-4}\naxes: {grid: null}\nbase: {routing: {r: 4}}\n")
    suite = load_suite(path)
    assert (suite.suite, suite.description, suite.extends) == ("child", "", None)
    assert (suite.train.epochs, suite.train.lr) == (3, 5e-4)
    assert suite.base.routing == Choice(use="topk_attention", options={"r": 4})
    assert suite.axes.grid == {}
    assert suite.axes.leave_one_out == ("b3",)
    assert suite.place("base", "b3", "use") == f"{path.parent / 'parent.yaml'}:8:7"
    assert suite.place("train", "lr") == f"{path}:3:13"
    assert load_suite(path, profile="quick").train.steps == 5
    assert "1:1: suite: this key is required" in problems(write("extends: parent", "nameless.yaml"))


def test_extends_may_lead_into_a_folder_below_but_not_out(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write(SUITE, "below/parent.yaml")
    assert load_suite(write("suite: child\nextends: below/parent.yaml\n")).train.epochs == 3
    inner = write("suite: child\nextends: ../mine.yaml\n", "below/child.yaml")
    assert problems(inner) == ['2:10: extends: "../mine.yaml" leaves the folder of this suite']
    monkeypatch.chdir(inner.parent.parent)
    assert 'no suite "mine.yaml"' in problems(write("suite: child\nextends: mine.yaml\n", "below/third.yaml"))[0]
    outside = write("suite: child\nextends: /etc/hostname\n", "below/other.yaml")
    assert problems(outside)[0].startswith('2:10: extends: "/etc/hostname" leaves the folder of this suite')


def test_extends_refuses_circles_and_unknown_names(write: Any) -> None:
    write("suite: a\nextends: b\n", "a.yaml")
    write("suite: b\nextends: c\n", "b.yaml")
    path = write("suite: c\nextends: a\n", "c.yaml")
    with pytest.raises(
        ConfigError, match=r"b\.yaml:2:10: extends goes in a circle: .*c\.yaml → .*a\.yaml → .*b\.yaml → "
    ):
        load_suite(path)
    unknown = problems(write("suite: c\nextends: v13_ablatoin\n"))
    assert unknown[0].startswith('2:10: extends: no suite "v13_ablatoin"')
    assert unknown[0].endswith('did you mean "v13_ablation"?')
    assert problems(write("suite: c\nextends: [a]\n")) == ["2:10: extends: should be the name of a suite, found a list"]


def test_shipped_suites_are_found_by_name_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"v13_ablation", "smoke"} <= set(shipped())
    for name in ("v13_ablation", "v13_ablation.yaml", "suites/v13_ablation.yaml"):
        assert find_suite(name) == shipped()["v13_ablation"]
    with pytest.raises(ConfigError, match=r'no suite "v13_ablatoin".*\n.*did you mean "v13_ablation"\?'):
        find_suite("v13_ablatoin")
    with pytest.raises(ConfigError):
        find_suite("elsewhere/v13_ablation.yaml")
    with pytest.raises(ConfigError, match="no suite"):
        find_suite("x" * 300)
    (tmp_path / "smoke").mkdir()  # a folder hides nothing
    assert find_suite("smoke") == shipped()["smoke"]
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "v13_ablation.yaml").write_text("suite: own")
    assert find_suite("suites/v13_ablation.yaml") == Path(
        "suites/v13_ablation.yaml"
    )  # a file that is there comes first


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_suites_are_valid_in_every_profile(name: str) -> None:
    suite = load_suite(name)
    assert suite.suite == name
    for profile in suite.profiles:
        assert load_suite(name, profile=profile).profile == profile


def test_v13_ablation_is_the_paper_s_recipe() -> None:
    suite = load_suite("v13_ablation")
    assert suite.train.epochs == 30
    assert (suite.train.lr, suite.train.min_lr, suite.train.batch_size, suite.train.queries) == (1e-4, 1e-6, 8, 256)
    assert (suite.train.weight_decay, suite.train.clip, suite.train.precision) == (0.01, 1.0, "bf16")
    assert suite.data.augment.zoom == (0.8, 1.2)
    assert suite.eval.k == (1, 64, 256, 1024)
    smoke = load_suite("v13_ablation", profile="smoke")
    assert (smoke.data.dataset.use, smoke.base.encoder.use) == ("synthetic_rooms", "patch_descriptors")
    # a profile is smaller, not another question: fewer values of R, everything else alike
    assert smoke.axes.model_dump(exclude={"grid"}) == suite.axes.model_dump(exclude={"grid"})
    assert set(smoke.axes.grid["routing.r"]) < set(suite.axes.grid["routing.r"])


# ------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # unknown keys
        ("lr: 1e-3", "lrr: 1e-3", '15:20: train.lrr: unknown key; did you mean "lr"?'),
        ("suite: mine", "suite: mine\nlr: 1e-3", '2:1: lr: unknown key; did you mean "train.lr"?'),
        ("  neck:", "  nekc: x\n  neck:", '4:3: base.nekc: unknown key; did you mean "neck"?'),
        ("axes:", "axis:", '16:1: axis: unknown key; did you mean "axes"?'),
        # unknown components
        ("global_cross", "globl_cross", '7:7: base.b3: unknown b3 "globl_cross_attention"; did you mean "global_'),
        (
            "b3: global_cross_attention",
            "b3: nearest",
            '7:7: base.b3: unknown b3 "nearest"; there is a routing of that name; known: ',
        ),
        ("use: topk_attention", "use: topk_atention", '8:18: base.routing: unknown routing "topk_atention"; did you'),
        ("[nearest,", "[neerest,", '18:20: axes.swap.routing[0]: unknown routing "neerest"; did you mean "nearest"?'),
        ("use: random", "use: randm", '18:35: axes.swap.routing[1]: unknown routing "randm"; did you mean "random"?'),
        ("[constant]", "[konstant]", '20:13: baselines[0]: unknown baseline "konstant"; did you mean "constant"?'),
        (
            "dataset: synth",
            "dataset: snyth",
            '13:12: data.dataset: unknown dataset "snythetic_rooms"; did you mean "synthetic_rooms"?',
        ),
        (
            "fallback:",
            "report: {primary: {metric: absrle}}\nfallback:",
            '25:28: report.primary.metric: unknown metric "absrle"; did you mean "absrel"?',
        ),
        # wrong types and values
        ("lr: 1e-3", "lr: fast", '15:24: train.lr: should be a valid number, found the text "fast"'),
        ("lr: 1e-3", 'lr: "1e-3"', '15:24: train.lr: should be a valid number, found the text "1e-3"'),
        ("lr: 1e-3", "lr: -1", "15:24: train.lr: should be greater than 0, found -1"),
        ("lr: 1e-3", "lr: null", "15:24: train.lr: should be a valid number, found nothing"),
        ("lr: 1e-3", "batch_size: 8.5", "15:32: train.batch_size: should be a valid integer"),
        ("lr: 1e-3", "batch_size: true", "15:32: train.batch_size: should be a valid integer, found true"),
        ("lr: 1e-3", "workers: -1", "15:29: train.workers: should be greater than or equal to 0, found -1"),
        ("lr: 1e-3", "precision: fp16", "15:31: train.precision: should be 'fp32' or 'bf16', found the text \"fp16\""),
        (
            "lr: 1e-3",
            "steps: 5",
            "15:17: train: should give either epochs or steps, found both; null removes an inherited value",
        ),
        ("epochs: 3, ", "", "15:1: train: should give either epochs or steps, found neither"),
        ("train: {epochs: 3, lr: 1e-3}", "train: 5", "15:8: train: should be a mapping, found 5"),
        ("[224, 224]", "[224]", "14:3: data.image_size[1]: a value is missing here"),
        ("[224, 224]", "224", "14:15: data.image_size: should be a list, found 224"),
        (
            "  image_size",
            "  augment: {zoom: [1.2, 0.8]}\n  image_size",
            "14:13: data.augment.zoom: should be [low, high]",
        ),
        ("fallback:", "seeds: [0, 1, 0]\nfallback:", "25:1: seeds: lists 0 twice"),
        ("fallback:", "seeds: []\nfallback:", "25:1: seeds: should be a list of at least 1, found 0"),
        (
            "suite: mine",
            "suite: ../mine",
            "1:8: suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit, found",
        ),
        ("suite: mine\n", "", "1:1: suite: this key is required"),
        ("  b4: deformable_read\n", "", "2:1: base.b4: this key is required"),
        (
            "b4: deformable_read",
            "b4: {r: 3}",
            "9:3: base.b4: should be a component, as a name or as {use: name, option: value}, found a m",
        ),
        (
            "b4: deformable_read",
            "b4: [x]",
            "9:3: base.b4: should be a component, as a name or as {use: name, option: value}, found a list",
        ),
        (
            "[b3]",
            "[b33]",
            "17:19: axes.leave_one_out[0]: should be 'b1', 'b2', 'b3', 'routing', 'b4', 'b5' or 'depth_head', found",
        ),
        ("swap: {routing:", "swap: {rooting:", "18:10: axes.swap.rooting: should be 'encoder', 'neck',"),
        # values that contradict each other
        (
            "grid: {routing.r:",
            "grid: {rooting.r:",
            '19:10: axes.grid.rooting.r: should be slot.option, such as routing.r; did you mean "routing"?',
        ),
        ("grid: {routing.r:", "grid: {routing:", "19:10: axes.grid.routing: should be slot.option, such as routing.r"),
        (
            "fallback: {profile: quick}",
            "fallback: {profile: quik}",
            '25:21: fallback.profile: unknown profile "quik"; did you mean "quick"?',
        ),
        ("fallback:", "eval: {k: [1, 8]}\nfallback:", "1:1: report.primary.k: 256 is not one of eval.k, [1, 8]"),
        (
            "fallback:",
            "eval: {protocol: nyu_btss}\nfallback:",
            '25:18: eval.protocol: unknown protocol "nyu_btss"; did you mean "nyu_bts"?',
        ),
        # profiles that nobody asked for
        ("{epochs: null, steps: 5}", "{stepz: 5}", '23:13: train.stepz: unknown key; did you mean "steps"?'),
        (
            "{routing: nearest}",
            "{routing: neerest}",
            '24:21: base.routing: unknown routing "neerest"; did you mean "nearest"?',
        ),
        ("  quick:", "  quick:\n    fallback: null", "23:5: profiles.quick.fallback: a profile cannot change this"),
        ("  quick:", "  other: 5\n  quick:", "22:10: profiles.other: should be a mapping, found 5"),
        ("  quick:", "  Quick/x: {}\n  quick:", "22:3: profiles.Quick/x: should be at most 64 of"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_nearest_right_name(
    write: Any, old: str, new: str, expected: str
) -> None:
    assert SUITE.count(old) == 1
    told = problems(write(SUITE.replace(old, new)))
    assert len([line for line in told if line.startswith(expected)]) == 1, told


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write: Any) -> None:
    text = (
        SUITE.replace("neck: pyramid", "neck: pyramd")
        .replace("[224, 224]", "[224, 1]")
        .replace("lr: 1e-3", "lr: fast, clipp: 2")
        .replace("steps: 5", "steps: 0")
    )
    told = problems(write(text))
    assert [line.partition(" ")[0] for line in told] == ["4:9:", "14:21:", "15:24:", "15:30:", "23:34:"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trian.lr=1", '--set trian.lr=1: trian: unknown key; did you mean "train"?'),
        ("train.lrr=1", '--set train.lrr=1: train.lrr: unknown key; did you mean "lr"?'),
        ("lr=1", '--set lr=1: lr: unknown key; did you mean "train.lr"?'),
        ("train.lr=fast", '--set train.lr=fast: train.lr: should be a valid number, found the text "fast"'),
        ("base.b3=skp", '--set base.b3=skp: base.b3: unknown b3 "skp"; did you mean "skip"?'),
        ("train.lr.x=1", "--set train.lr.x=1: train.lr: should be a valid number, found a mapping"),
        ("train.lr", "--set train.lr: expected path.to.key=value"),
        ("extends=smoke", "--set extends=smoke: extends: can only be given in the file itself"),
    ],
)
def test_a_wrong_setting_is_told_by_its_option(write: Any, text: str, expected: str) -> None:
    assert any(line.startswith(expected) for line in problems(write(SUITE), sets=[text]))


def test_unknown_profile_gets_a_suggestion(write: Any) -> None:
    path = write(SUITE)
    with pytest.raises(ConfigError) as caught:
        load_suite(path, profile="quik")
    assert (caught.value.where, caught.value.message) == (str(path), 'unknown profile "quik"')
    assert caught.value.hint == 'did you mean "quick"?'


def test_grid_paths_may_be_nested_but_not_given_twice(write: Any) -> None:
    nested = SUITE.replace("{routing.r: [8, 16]}", "{routing: {r: [8, 16]}}")
    assert load_suite(write(nested)).axes.grid == {"routing.r": (8, 16)}
    twice = SUITE.replace("{routing.r: [8, 16]}", "{routing.r: [8], routing: {r: [16]}}")
    assert problems(write(twice))[0].startswith('19:36: "routing.r" is given twice')


def test_wrong_plugin_variable_is_one_problem_not_one_per_name(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_BENCH_PLUGINS", "not-here")
    told = problems(write(SUITE))
    assert told == ['SPD_BENCH_PLUGINS: no installed distribution "not-here" registers components; there is none']


# ------------------------------------------------------------------------------------------------- options


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("rr: 3", '8:34: base.routing.rr: unknown option; did you mean "r"?'),
        ("r: many", '8:37: base.routing.r: should be a valid integer, found the text "many"'),
        ("r: 0", "8:37: base.routing.r: should be greater than or equal to 1, found 0"),
        ("mode: medium", "8:40: base.routing.mode: should be 'soft' or 'hard', found the text \"medium\""),
        ("pair: [1]", "8:34: base.routing.pair[1]: a value is missing here"),
        ("pair: [1, x]", '8:44: base.routing.pair[1]: should be a valid integer, found the text "x"'),
    ],
)
def test_options_are_checked_against_the_component_with_their_place(write: Any, options: str, expected: str) -> None:
    path = write(SUITE.replace("{use: topk_attention, r: 16}", f"{{use: fake,           {options}}}"))
    suite = load_suite(path)
    with pytest.raises(ConfigError) as caught:
        check_options(suite.base.routing, "routing", suite=suite, keys=("base", "routing"))
    told = str(caught.value).replace(f"{path}:", "").replace("\n  hint: ", "; ")
    assert told == expected


@pytest.mark.usefixtures("plugin")
def test_good_options_come_back_validated_with_defaults() -> None:
    config = check_options(Choice(use="fake", options={"r": 8, "rate": 1, "pair": [3, 4]}), "routing")
    assert (config.r, config.rate, config.mode, config.pair) == (8, 1.0, "soft", (3, 4))
    with pytest.raises(ConfigError, match="r: should be a valid integer") as caught:
        check_options(Choice(use="fake", options={"r": "x"}), "routing")
    assert caught.value.where is None


@pytest.mark.usefixtures("plugin")
def test_broken_component_is_placed_and_keeps_its_traceback(write: Any) -> None:
    path = write(SUITE.replace("{use: topk_attention, r: 16}", "broken"))
    suite = load_suite(path)  # by name it is there
    with pytest.raises(registry.PluginError) as caught:
        check_options(suite.base.routing, "routing", suite=suite, keys=("base", "routing"))
    assert caught.value.where == f"{path}:8:3"
    assert 'routing "broken" of distribution fake-plugin 1.0 cannot be imported' in caught.value.message
    assert "AttributeError" in caught.value.traceback


@pytest.mark.usefixtures("plugin")
def test_all_options_and_grid_values_of_a_suite_are_checked(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = registry.load("routing", "fake")
    data = registry.load("dataset", "fake_data")
    monkeypatch.setattr(registry, "load", lambda slot, name: data if slot == "dataset" else fake)
    check_components(load_suite(write(SUITE.replace(", seed: 1", ""))))

    def told(text: str) -> list[str]:
        path = write(text)
        with pytest.raises(ConfigError) as caught:
            check_components(load_suite(path))
        return str(caught.value).replace(f"{path}:", "").replace("\n  hint: ", "; ").splitlines()

    assert told(SUITE.replace("r: 16", "r: x")) == [
        '8:37: base.routing.r: should be a valid integer, found the text "x"',
        "18:43: axes.swap.routing[1].seed: unknown option; known: mode, pair, r, rate",
    ]
    good = SUITE.replace(", seed: 1", "")
    assert told(good.replace("[8, 16]", "[8, 0, x]")) == [
        "19:25: axes.grid.routing.r[1]: should be greater than or equal to 1, found 0",
        '19:28: axes.grid.routing.r[2]: should be a valid integer, found the text "x"',
    ]
    assert told(good.replace("routing.r:", "routing.rr:")) == [
        '19:10: axes.grid.routing.rr: routing "topk_attention" has no option "rr"; did you mean "r"?'
    ]


@pytest.mark.usefixtures("plugin")
def test_data_option_finds_the_layout(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ["fake_data", "other_data"]
    monkeypatch.setattr(registry, "names", lambda slot: known if slot == "dataset" else [])
    folder = tmp_path / "frames"
    folder.mkdir()
    path = write(SUITE)
    with pytest.raises(DataError, match="no data set has this layout") as caught:
        load_suite(path, data=folder)
    assert (caught.value.where, caught.value.exit_code) == (f"--data {folder}", 3)
    assert "fake_data, other_data" in (caught.value.hint or "")

    (folder / "fake.marker").touch()
    with pytest.raises(DataError, match="several data sets have this layout: fake_data, other_data"):
        load_suite(path, data=folder)
    chosen = load_suite(path, data=folder, sets=["data.dataset=other_data"])
    assert chosen.data.dataset == Choice(use="other_data", options={"root": str(folder)})
    known.remove("other_data")
    suite = load_suite(path, data=folder)
    assert suite.data.dataset == Choice(use="fake_data", options={"root": str(folder)})
    assert suite.place("data", "dataset", "root") == f"--data {folder}"
    with pytest.raises(DataError, match="no such file or folder"):
        load_suite(path, data=tmp_path / "none")


# ------------------------------------------------------------------------------------------------- schema, fuzz


def test_json_schema_knows_keys_and_component_names() -> None:
    schema = json_schema()
    assert schema["required"] == ["suite"]
    assert schema["additionalProperties"] is False
    assert {"global_cross_attention", "skip"} <= set(schema["$defs"]["Base"]["properties"]["b3"]["anyOf"][0]["enum"])
    assert "lr" in schema["$defs"]["Train"]["properties"]
    assert "Learning rate" in schema["$defs"]["Train"]["properties"]["min_lr"]["description"]
    json.dumps(schema)


VALUES = st.sampled_from(
    ["null", "x", "-1", "0", "1e9", "[]", "{}", "[1, [2]]", "{a: {b: 1}}", "''", "true", "[null]", "{use: x}", "2.5"]
)
KEYS = sorted(
    {".".join(str(key) for key in keys if not isinstance(key, int)) for keys in parse_yaml(SUITE, "").places()}
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([key for key in KEYS if key]), VALUES), min_size=1, max_size=3))
def test_any_value_anywhere_is_accepted_or_refused_with_a_place(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "mine.yaml"
    path.write_text(textwrap.dedent(SUITE))
    try:
        told = [json.dumps(load_suite(path, sets=[f"{key}={value}" for key, value in changes]).dump())]
    except ConfigError as error:
        told = [line for line in str(error).splitlines() if not line.startswith("  hint: ")]
    assert all(line.startswith(("{", "--set ", f"{path}:")) for line in told)
    assert all(Suite.model_validate_json(line).dump() == json.loads(line) for line in told if line.startswith("{"))
