"""What the command line gives is in force, or refused by name; a plugin with a built-in's name stops nobody else."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import SMALL, write_frames

from spd_bench import registry
from spd_bench.cli.options import overrides
from spd_bench.errors import ConfigError, SpdError
from spd_bench.run.planning import choose
from spd_bench.run.request import Request
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Choice

SUITE = (
    "suite: mine\n"
    + SMALL
    + """\
data:
  dataset: {use: synthetic_rooms, train_scenes: 2}
train: {steps: 4, precision: fp32, loss: {use: huber_silog}}
eval: {protocol: full_frame, k: [8]}
report: {primary: {k: 8}}
profiles:
  other: {base: {b4: {use: deformable_read}}}
"""
)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "frames", count=10)


def refused(act: Any, *parts: str) -> None:
    with pytest.raises(SpdError) as caught:
        act()
    assert caught.value.exit_code == 2
    for part in parts:
        assert part in str(caught.value), str(caught.value)


# ------------------------------------------------------------------------------------------- options and data


@pytest.mark.parametrize("given", ["data.dataset.depth_scale=500", "--option depth_scale=500"])
def test_an_option_beside_data_belongs_to_the_data_set_at_that_path(suite: Path, frames: Path, given: str) -> None:
    loaded = load_suite(suite, data=frames, sets=[given])
    # not train_scenes: that is an option of the data set which --data puts aside
    assert loaded.data.dataset == Choice(use="rgbd_folder", options={"root": str(frames), "depth_scale": 500})
    assert load_suite(suite, data=frames).data.dataset.options == {"root": str(frames)}


@pytest.mark.parametrize("given", ["data.dataset.nonsense=1", "--option nonsense=1", "data.dataset.train_scenes=3"])
def test_an_option_that_the_data_set_lacks_is_refused_where_it_was_given(suite: Path, frames: Path, given: str) -> None:
    key = given.rpartition("=")[0].rpartition(".")[2].rpartition(" ")[2]
    refused(lambda: load_suite(suite, data=frames, sets=[given]), f"data.dataset.{key}: unknown option", given)
    with pytest.raises(ConfigError, match="unknown option"):
        choose.choose_data(Request(suite=str(suite), data=str(frames), sets=(given,)))


@pytest.mark.parametrize("named", ["data.dataset=rgbd_folder", "--dataset rgbd_folder"])
def test_a_data_set_that_is_named_need_not_recognise_the_path(suite: Path, tmp_path: Path, named: str) -> None:
    (tmp_path / "odd").mkdir()
    refused(lambda: load_suite(suite, data=tmp_path / "odd", sets=[named, "data.dataset.nonsense=1"]), "nonsense")
    loaded = load_suite(
        suite, data=tmp_path / "odd", sets=[named, "--option color=c/{id}.png", "--option depth=d/{id}.png"]
    )
    assert loaded.data.dataset.options == {
        "root": str(tmp_path / "odd"),
        "color": "c/{id}.png",
        "depth": "d/{id}.png",
    }


def test_a_root_beside_data_is_refused(suite: Path, frames: Path) -> None:
    other = "data.dataset.root=/elsewhere"
    refused(
        lambda: load_suite(suite, data=frames, sets=[other]), f"--data {frames}", "data.dataset.root", f"--set {other}"
    )


@pytest.mark.parametrize(
    ("sets", "lost"),
    [
        (["base.b2.layers=2", "base.b2=skip"], "base.b2.layers"),  # the component that had the option is gone
        (["train.loss.delta=2.0", "train.loss=l1"], "train.loss.delta"),
        (["data.dataset.train_scenes=3", "data.dataset=nyu_eigen"], "data.dataset.train_scenes"),
        (["axes.swap.b2=[skip]", "axes=null"], "axes.swap.b2"),
    ],
)
def test_a_value_that_another_option_takes_away_is_refused(suite: Path, sets: list[str], lost: str) -> None:
    refused(lambda: load_suite(suite, sets=sets), f"--set {sets[0]}: {lost}", "has no effect", f"--set {sets[1]}")


def test_the_same_key_again_is_no_conflict(suite: Path) -> None:
    assert load_suite(suite, sets=["train.steps=5", "train.steps=6"]).train.steps == 6
    assert (
        load_suite(suite, sets=["base.b2.layers=2", "base.b2.use=local_cross_attention"]).base.b2.options["layers"] == 2
    )


def test_profiles_are_not_set(suite: Path) -> None:
    refused(lambda: load_suite(suite, sets=["profiles.other.train.steps=9"]), "does not change profiles")


# ------------------------------------------------------------------------------------------------- shared names

PLUGIN = """
from spd_bench.api import Block
from spd_bench.score.metrics import AbsRel
from spd_bench.data.sets.rgbd_folder import RGBDFolder

class Mine(Block):
    slot = "b1"
    def forward(self, state, scene):
        return state

class Metric(AbsRel):
    "Another absrel."

class Folder(RGBDFolder):
    "Another folder."
"""


@pytest.fixture
def namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution whose components have the names of built-in ones."""
    site = tmp_path / "site"
    info = site / "namesake-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: namesake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[spd_bench.b1]\nlocal_tokens = namesake_plugin:Mine\n[spd_bench.metric]\nabsrel = namesake_plugin:Metric\n"
        "[spd_bench.dataset]\nrgbd_folder = namesake_plugin:Folder\n"
    )
    (site / "namesake_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("namesake_plugin", None)


@pytest.mark.usefixtures("namesake")
def test_shipped_suites_mean_the_harness_s_own(frames: Path) -> None:
    loaded = load_suite("v13_ablation", profile="smoke", data=frames)
    assert loaded.base.b1.use == "local_tokens"  # the identity of a training does not depend on what is installed
    assert loaded.data.dataset.use == "rgbd_folder"
    assert registry.find("b1", "local_tokens").distribution == "spd-bench"
    assert registry.find("b1", "namesake:local_tokens").distribution == "namesake"
    assert "namesake:local_tokens" in registry.names("b1")


@pytest.mark.usefixtures("namesake")
def test_a_file_of_the_user_s_must_say_which_it_means(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = 'write "namesake:local_tokens" or "spd-bench:local_tokens"'
    refused(lambda: load_suite(suite), "base.b1", "registered by namesake and spd-bench", hint, "SPD_BENCH_PLUGINS")
    assert load_suite(suite, sets=["base.b1=namesake:local_tokens"]).base.b1.use == "namesake:local_tokens"
    refused(lambda: load_suite("v13_ablation", profile="smoke", sets=["base.b1=local_tokens"]), "--set base.b1", hint)
    monkeypatch.setenv("SPD_BENCH_PLUGINS", "")
    assert load_suite(suite).base.b1.use == "local_tokens"


@pytest.mark.usefixtures("namesake")
def test_a_metric_of_the_same_name_does_not_replace_the_harness_s(frames: Path) -> None:
    from spd_bench.score.judge import Judge

    judge = Judge.of(load_suite("v13_ablation", profile="smoke", data=frames, sets=["eval.protocol=full_frame"]))
    absrel = [metric for metric in judge.metrics if metric.name == "absrel"]
    assert [type(metric).__module__ for metric in absrel] == ["spd_bench.score.metrics"]


def test_a_value_given_twice_is_refused() -> None:
    """--option would win over --set without a word; other values of both stand side by side."""
    assert overrides(["data.dataset.gap=0"], "packed", ["depth_scale=5000"]) == (
        "--dataset packed",
        "data.dataset.gap=0",
        "--option depth_scale=5000",
    )
    with pytest.raises(ConfigError, match="--option depth_scale=5000 gives the same value"):
        overrides(["data.dataset.depth_scale=4000"], None, ["depth_scale=5000"])
    with pytest.raises(ConfigError, match="--dataset packed gives the same value"):
        overrides(["data.dataset=rgbd_folder"], "packed")
