"""The command line: what it prints, its exit codes, and that a mistake gets one message and never a traceback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spd_bench import cli

SCRIPT = Path(sys.executable).with_name("spd-bench")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no data set, no weights, no colours."""
    monkeypatch.chdir(tmp_path)
    for name in ("DAV2_WEIGHTS", "SPD_BENCH_RUNS", "SPD_BENCH_PLUGINS", "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the entry point of the console script in this process."""

    def run(*args: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["spd-bench", *args])
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def script(*args: str) -> Done:
    """Runs the installed console script in a process of its own."""
    done = subprocess.run([SCRIPT, *args], capture_output=True, text=True, check=False, encoding="utf-8")
    return Done(done.returncode, done.stdout, done.stderr)


def suite(text: str, name: str = "mine.yaml") -> str:
    """Writes a suite file into the working folder."""
    Path(name).write_text(text, encoding="utf-8")
    return name


def assert_refused(done: Done, code: int, *parts: str) -> None:
    """One message on stderr that begins with "error:" and holds the parts; nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert "bug in spd-bench" not in done.err
    for part in parts:
        assert part in done.err


# --- the installed script -------------------------------------------------------------------------------------------


def test_script_shows_its_commands() -> None:
    done = script("--help")
    assert done.code == 0
    for name in ("run", "compare", "check", "plan", "list", "describe", "params"):
        assert f" {name} " in done.out


def test_script_lists_components_as_json() -> None:
    done = script("list", "b4", "--json")
    assert done.code == 0
    found = [(row["slot"], row["name"]) for row in json.loads(done.out)]
    assert found == [("b4", name) for name in ("deformable_read", "fixed_offsets", "nearest_read", "skip")]


def test_script_counts_the_parameters_of_the_paper() -> None:
    done = script("params")
    assert done.code == 0
    assert "4,142,315" in done.out  # R-09, a golden number
    assert "~4,167K" in done.out  # §9


def test_script_refuses_without_a_traceback() -> None:
    assert_refused(script("check", "smok"), 2, 'no suite "smok"', 'hint: did you mean "smoke"?')


def test_script_explains_what_data_is_missing_and_exits_with_3() -> None:
    file = suite("suite: mine\nextends: v13_ablation\nfallback: null\nprofiles:\n  full: {seeds: [0]}\n")
    done = script("run", file, "--profile", "full")
    assert_refused(done, 3, "--profile full", "nyu_depth_v2_labeled.mat", "DAV2_WEIGHTS=")
    assert not Path("runs").exists()


def test_script_survives_a_reader_that_leaves() -> None:
    process = subprocess.Popen([SCRIPT, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() in (0, 1, 141)  # typer ends with 1 on a broken pipe
    assert "Traceback" not in err


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_script_prints_in_any_encoding(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([SCRIPT, "describe", "b4/deformable_read"], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()


# --- showing --------------------------------------------------------------------------------------------------------


def test_without_arguments_it_shows_help(command: Command) -> None:
    done = command()
    assert done.code == 2
    assert "Usage:" in done.out
    assert " compare " in done.out


def test_list_is_a_table_of_every_slot(command: Command) -> None:
    done = command("list")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["slot", "name", "from"]
    assert any(line.split()[:2] == ["dataset", "nyu_eigen"] for line in lines)


def test_list_check_imports_every_component(command: Command) -> None:
    done = command("list", "--check", "--json")
    assert done.code == 0
    assert {row["state"] for row in json.loads(done.out)} == {"ok"}


def test_describe_shows_formula_fields_and_replacement(command: Command) -> None:
    done = command("describe", "b4/deformable_read")
    assert done.code == 0
    assert "spd_components.blocks.b4_deformable_read:DeformableRead" in done.out
    assert "§6.4" in done.out
    for line in ("reads: anchors, h, tokens", "writes: tokens", "left out: b4 → skip, routing → none"):
        assert line in done.out.splitlines()


def test_describe_shows_options_with_defaults_and_meaning(command: Command) -> None:
    done = command("describe", "nearest")
    assert "  r: int, default 32\n      Number of anchors R." in done.out


def test_params_as_json_adds_up(command: Command) -> None:
    *rows, total = json.loads(command("params", "--json").out)
    assert sum(row["counted"] for row in rows) == total["counted"] == 4_142_315


def test_plan_writes_nothing(command: Command) -> None:
    done = command("plan", "smoke", "--json")
    assert done.code == 0
    assert [row["composition"] for row in json.loads(done.out)] == ["v13", "no-b3"]
    assert list(Path().iterdir()) == []


# --- refusing -------------------------------------------------------------------------------------------------------


def test_unknown_command_and_option_are_usage_errors(command: Command) -> None:
    assert command("frobnicate").code == 2
    done = command("list", "--chekc")
    assert done.code == 2
    assert "--check" in done.err


@pytest.mark.parametrize("name", ["check", "plan", "run", "params"])
def test_unknown_suite_gets_the_nearest(command: Command, name: str) -> None:
    assert_refused(command(name, "v13_ablatoin"), 2, 'no suite "v13_ablatoin"', 'did you mean "v13_ablation"?')


def test_unknown_component_gets_its_place_and_the_nearest(command: Command) -> None:
    file = suite("suite: mine\nextends: smoke\nbase:\n  b4: deformable_raed\n")
    # line 4, and "deformable_raed" begins in column 7
    assert_refused(
        command("check", file), 2, 'mine.yaml:4:7: base.b4: unknown b4 "deformable_raed"', '"deformable_read"'
    )


def test_unknown_key_gets_its_place_and_the_nearest(command: Command) -> None:
    file = suite("suite: mine\nextends: smoke\ntrain: {step: 3}\n")
    assert_refused(command("check", file), 2, "mine.yaml:3:9: train.step: unknown key", 'did you mean "steps"?')


def test_unknown_option_of_a_component_gets_its_place_and_the_nearest(command: Command) -> None:
    file = suite("suite: mine\nextends: smoke\nbase:\n  b2: {use: local_cross_attention, layerz: 2}\n")
    assert_refused(command("plan", file), 2, "mine.yaml:4:36: base.b2.layerz: unknown option", 'did you mean "layers"?')


def test_wrong_type_says_what_was_found(command: Command) -> None:
    file = suite("suite: mine\nextends: smoke\ntrain:\n  steps: many\n")
    assert_refused(command("check", file), 2, "mine.yaml:4:10: train.steps: ", "integer", '"many"')


def test_chain_that_cannot_work_names_both_sides(command: Command) -> None:
    file = suite("suite: mine\nextends: smoke\nbase: {b3: skip}\naxes: null\n")
    done = command("plan", file)
    assert_refused(done, 2, 'topk_attention reads "attention", which nothing before it writes', "b3: skip")
    assert "b3: global_cross_attention" in done.err  # what would write it


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("nonsense", ("expected path.to.key=value",)),
        ("train.step=3", ("train.step: unknown key", 'did you mean "steps"?')),
        ("train.steps=many", ("train.steps: ", "integer")),
        ("eval.k=[0]", ("eval.k[0]: ",)),
    ],
)
def test_bad_setting_is_quoted(command: Command, setting: str, parts: tuple[str, ...]) -> None:
    assert_refused(command("check", "smoke", "--set", setting), 2, f"--set {setting}: ", *parts)


def test_unknown_profile_lists_the_known_ones(command: Command) -> None:
    done = command("check", "v13_ablation", "--profile", "smoek")
    assert_refused(done, 2, 'unknown profile "smoek"', 'did you mean "smoke"?')


@pytest.mark.parametrize("name", ["run", "plan"])
def test_profile_that_was_asked_for_never_falls_back(command: Command, name: str) -> None:
    done = command(name, "v13_ablation", "--profile", "cpu", "--set", "base.encoder=dav2_small")
    assert_refused(done, 3, "the weights of Depth Anything V2 Small are needed", "DAV2_WEIGHTS=")
    assert not Path("runs").exists()


def test_data_that_is_not_there(command: Command) -> None:
    assert_refused(command("plan", "smoke", "--data", "nowhere"), 3, "--data nowhere: no such file or folder")


def test_device_that_is_no_device(command: Command) -> None:
    assert_refused(command("run", "smoke", "--device", "abacus"), 2, 'unknown device "abacus"', "auto, cpu, cuda")


def test_unknown_slot_and_component(command: Command) -> None:
    assert_refused(command("list", "rooting"), 2, 'unknown slot "rooting"', '"routing"')
    assert_refused(command("describe", "deformable_raed"), 2, 'no component "deformable_raed"', '"deformable_read"')


def test_compare_before_any_run_says_how_to_run(command: Command) -> None:
    assert_refused(command("compare"), 2, "no suite has been run below runs", "hint: spd-bench run ")


def test_a_bug_is_reported_as_one_and_keeps_its_traceback_in_a_file(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fails(slot: str | None = None) -> list[object]:
        raise RuntimeError("something of ours")

    monkeypatch.setattr("spd_bench.registry.entries", fails)
    done = command("list")
    assert done.code == 1
    assert done.err.startswith("error: a bug in spd-bench: RuntimeError: something of ours\n")
    assert "Traceback" not in done.err
    (crash,) = tmp_path.glob("spd-bench-*.txt")
    assert str(crash) in done.err
    assert "Traceback (most recent call last)" in crash.read_text(encoding="utf-8")


@pytest.fixture
def interrupted(command: Command, monkeypatch: pytest.MonkeyPatch) -> Done:
    def interrupt(slot: str | None = None) -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("spd_bench.registry.entries", interrupt)
    return command("list")


def test_ctrl_c_ends_with_130(interrupted: Done) -> None:
    assert (interrupted.code, interrupted.out) == (130, "")
    assert "Traceback" not in interrupted.err


def test_ctrl_c_says_how_to_go_on(interrupted: Done) -> None:
    assert interrupted.err == "stopped; the same command goes on from here\n"
