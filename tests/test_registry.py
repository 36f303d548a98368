"""Components are listed from metadata, loaded on use, and a bad one is named, never fatal to the others."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spd_bench import registry
from spd_bench.errors import ConfigError

Install = Callable[..., None]

GOOD = """
from pydantic import BaseModel


class Good:
    slot = "b3"

    class Config(BaseModel):
        pass
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution by hand: a dist-info folder and one module on sys.path."""
    before = set(sys.modules)

    def make(distribution: str, points: dict[str, dict[str, str]], module: str = "", source: str = GOOD) -> None:
        site = tmp_path / distribution
        info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        groups = ["\n".join([f"[{group}]", *(f"{n} = {v}" for n, v in of.items())]) for group, of in points.items()]
        (info / "entry_points.txt").write_text("\n".join(groups))
        if module:
            (site / f"{module}.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(site))

    yield make
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def test_own_components_are_listed_from_metadata_alone() -> None:
    listed = registry.entries("b3")
    assert [(e.name, e.distribution) for e in listed] == [
        ("global_cross_attention", "spd-bench"),
        ("skip", "spd-bench"),
        ("with_position", "spd-bench"),
    ]
    assert {e.slot for e in registry.entries()} == set(registry.SLOTS)


def test_front_of_the_harness_imports_nothing_heavy() -> None:
    code = """
        import sys
        from spd_bench import registry
        from spd_bench.suite import axes, load, schema, yaml
        registry.entries()
        load.load_suite("v13_ablation", profile="smoke")
        schema.json_schema()
        print(sorted({"torch", "mlflow", "optuna", "scipy", "transformers", "h5py", "kornia"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plugin_is_listed_without_import_and_loaded_on_use(install: Install) -> None:
    install("my-plugin", {"spd_bench.b3": {"mine": "fake_good:Good"}}, "fake_good")
    assert "mine" in registry.names("b3")
    assert "fake_good" not in sys.modules
    assert registry.load("b3", "mine") is sys.modules["fake_good"].Good
    assert registry.find("b3", "mine") == registry.Entry("b3", "mine", "my-plugin", "1.2", "fake_good:Good")
    assert registry.status("b3", "mine").ok


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def broken(:", "SyntaxError: "),
        ("x = 1", "AttributeError: "),
    ],
)
def test_plugin_that_fails_to_import_is_named_with_its_cause(install: Install, source: str, cause: str) -> None:
    install("my-plugin", {"spd_bench.b3": {"mine": "fake_bad:Good"}}, "fake_bad", source)
    with pytest.raises(registry.PluginError) as caught:
        registry.load("b3", "mine")
    assert caught.value.message.startswith('b3 "mine" of distribution my-plugin 1.2 cannot be imported: ' + cause)
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2
    assert "Traceback (most recent call last)" in caught.value.traceback
    assert cause.partition(":")[0] in caught.value.traceback

    broken = registry.status("b3", "mine")
    assert not broken.ok
    assert broken.problem == caught.value.message
    assert "Traceback" in broken.traceback
    assert "mine" in registry.names("b3")  # still listed, and the others still work
    assert registry.find("b3", "skip").distribution == "spd-bench"


def test_ctrl_c_during_an_import_stays_ctrl_c(install: Install) -> None:
    install("my-plugin", {"spd_bench.b3": {"mine": "fake_int:Good"}}, "fake_int", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.load("b3", "mine")


def test_what_a_plugin_prints_at_import_leaves_stdout_clean(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("my-plugin", {"spd_bench.b3": {"mine": "fake_loud:Good"}}, "fake_loud", "print('hello')\n" + GOOD)
    registry.load("b3", "mine")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


@pytest.mark.parametrize(
    ("source", "group", "message"),
    [
        (GOOD, "neck", 'neck "mine" of distribution my-plugin 1.2 is a component for slot "b3", not "neck"'),
        ("Good = 3", "b3", "is not a component: fake_odd:Good is 3"),
        ("class Good:\n    slot = 'b3'", "b3", "is not a component: fake_odd:Good is <class"),
        ("class Good:\n    slot = 'b3'\n    Config = dict", "b3", "is not a component"),
    ],
)
def test_entry_that_is_no_component_of_its_slot_is_refused(
    install: Install, source: str, group: str, message: str
) -> None:
    install("my-plugin", {f"spd_bench.{group}": {"mine": "fake_odd:Good"}}, "fake_odd", source)
    with pytest.raises(registry.PluginError) as caught:
        registry.load(group, "mine")
    assert message in caught.value.message
    assert caught.value.traceback == ""


def test_one_name_from_two_distributions_has_to_be_qualified(install: Install) -> None:
    install("plugin-one", {"spd_bench.b3": {"mine": "fake_one:Good"}}, "fake_one")
    install("plugin-two", {"spd_bench.b3": {"mine": "fake_two:Good"}}, "fake_two")
    with pytest.raises(ConfigError) as caught:
        registry.load("b3", "mine")
    assert caught.value.message == 'b3 "mine" is registered by plugin-one and plugin-two'
    assert (caught.value.hint or "").startswith('write "plugin-one:mine" or "plugin-two:mine", or leave plugins out')
    assert registry.load("b3", "plugin-two:mine").__module__ == "fake_two"
    assert registry.names("b3") == [
        "global_cross_attention",
        "plugin-one:mine",
        "plugin-two:mine",
        "skip",
        "with_position",
    ]


def test_unknown_name_gets_the_nearest_one_and_the_slots_that_have_it() -> None:
    with pytest.raises(ConfigError) as caught:
        registry.load("b3", "globl_cross_attention")
    assert caught.value.message == 'unknown b3 "globl_cross_attention"'
    assert caught.value.hint == 'did you mean "global_cross_attention"?'
    with pytest.raises(ConfigError, match=r'unknown b3 "nearest"; there is a routing of that name'):
        registry.find("b3", "nearest")
    with pytest.raises(ConfigError, match=r'unknown slot "neckk"\n  hint: did you mean "neck"\?'):
        registry.entries("neckk")


def test_variable_narrows_which_distributions_are_seen(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("plugin-one", {"spd_bench.b3": {"one": "fake_one:Good"}}, "fake_one")
    install("plugin-two", {"spd_bench.b3": {"two": "fake_two:Good"}}, "fake_two")
    own = ["global_cross_attention", "skip", "with_position"]

    assert registry.names("b3") == sorted([*own, "one", "two"])
    monkeypatch.setenv("SPD_BENCH_PLUGINS", "")
    assert registry.names("b3") == own
    monkeypatch.setenv("SPD_BENCH_PLUGINS", "Plugin_Two")  # indices compare names this way
    assert registry.names("b3") == sorted([*own, "two"])
    monkeypatch.setenv("SPD_BENCH_PLUGINS", "plugin-tow")
    with pytest.raises(ConfigError) as caught:
        registry.names("b3")
    assert caught.value.where == "SPD_BENCH_PLUGINS"
    assert caught.value.hint == 'did you mean "plugin-two"?'
