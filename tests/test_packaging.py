"""What is installed: the wheel holds all that a checkout has, entry points resolve, the front stays light."""

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement

from spd_bench import registry

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("spd_bench", "spd_components", "spd_baselines", "spd_rooms")
FOLDERS = (ROOT, ROOT / "components", ROOT / "baselines", ROOT / "components")
HEAVY = ("torch", "mlflow", "optuna", "scipy", "transformers", "h5py", "matplotlib", "kornia", "pandas", "jinja2")


def python(code: str, *args: str, **environment: str) -> str:
    """What a piece of code prints in a fresh interpreter that does not look into the working folder."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, and nothing else."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    return folder


def test_wheel_holds_its_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"spd_bench-{version('spd-bench')}.dist-info"}
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    shipped = {f"spd_bench/suites/{suite.name}" for suite in (ROOT / "suites").glob("*.yaml")}
    assert shipped
    assert shipped <= set(names)


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package, folder in zip(PACKAGES, FOLDERS, strict=True):
        files = [path for path in (folder / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert len(files) > 3
        missing = {str(path.relative_to(folder)) for path in files} - names
        assert not missing


def test_installed_wheel_works_outside_the_checkout(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = {"PYTHONPATH": str(site)}
    assert Path(python("import spd_bench; print(spd_bench.__file__)", **there).strip()).is_relative_to(site)
    command = "from spd_bench.cli import main; main()"
    from_wheel = json.loads(python(command, "list", "--json", **there))
    from_checkout = json.loads(python(command, "list", "--json"))
    assert from_wheel == from_checkout
    assert len(from_wheel) > 30
    assert "smoke: no problem found" in python(command, "check", "smoke", **there)
    found = python("from spd_bench.suite.load import load_suite; print(load_suite('v13_ablation').suite)", **there)
    assert found.strip() == "v13_ablation"


def test_installed_wheel_loads_every_component(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
        import sys
        from spd_bench import registry
        for entry in registry.entries():
            module = sys.modules[registry.load(entry.slot, entry.name).__module__]
            print(entry.slot, entry.name, module.__file__, sep="\\t")
    """
    rows = [line.split("\t") for line in python(code, PYTHONPATH=str(site)).splitlines()]
    assert len(rows) == len(registry.entries())
    assert [row for row in rows if not Path(row[2]).is_relative_to(site)] == []


# --- entry points ---------------------------------------------------------------------------------------------------


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_installed_entry_points_are_those_of_the_checkout() -> None:
    groups = project()["entry-points"]
    assert isinstance(groups, dict)
    written = {(group, name, value) for group, points in groups.items() for name, value in points.items()}
    own = [entry for entry in registry.entries() if entry.distribution == registry.OWN]
    installed = {(f"spd_bench.{entry.slot}", entry.name, entry.value) for entry in own}
    assert installed == written, "entry points have changed: `pip install -e .` again"


@pytest.mark.parametrize("entry", registry.entries(), ids=lambda entry: f"{entry.slot}/{entry.name}")
def test_every_entry_point_is_a_class_with_a_docstring(entry: registry.Entry) -> None:
    status = registry.status(entry.slot, entry.qualified)
    assert status.ok, status.traceback or status.problem
    component = registry.load(entry.slot, entry.qualified)
    assert isinstance(component, type)
    assert (component.__doc__ or "").strip()


# --- imports --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["list"], ["list", "--json"], ["run", "--help"], ["check", "smoke"]])
def test_light_commands_import_nothing_heavy(args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
        import sys
        from spd_bench.cli import main
        try:
            main()
        except SystemExit as error:
            assert not error.code, error.code
        print("\\nLOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
    """
    loaded = python(code, *args).rsplit("LOADED", 1)[1].split()
    assert "typer" in loaded  # the probe sees what is loaded
    assert set(HEAVY) & set(loaded) == set()


def test_probe_for_heavy_imports_can_fail() -> None:
    loaded = python(
        "import sys; import spd_bench.run.session; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert "torch" in loaded.split()


def test_registered_components_import_at_most_the_one_that_they_are_a_variant_of() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    modules = {entry.value.partition(":")[0] for entry in registry.entries()} & graph.modules
    arrows = {
        (module, other) for module in modules for other in modules & graph.find_modules_directly_imported_by(module)
    }
    of_variants = {
        (kind.__module__, base.__module__)
        for kind in (registry.load(entry.slot, entry.name) for entry in registry.entries())
        for base in kind.__mro__[1:]
        if base.__module__ in modules
    }
    assert arrows <= of_variants
    assert ("spd_components.blocks.b4_nearest_read", "spd_components.blocks.b4_fixed_offsets") in arrows


# --- what is written down beside the code ---------------------------------------------------------------------------


def test_constraints_pin_every_direct_dependency_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pin) == 2 and re.fullmatch(r"[0-9a-z.]+", pin[1]) for pin in pins)
    pinned = dict(pins)
    assert pinned["torch"] == "2.13.0"
    for text in requires("spd-bench") or ():
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert pinned.get(name), f"{name} is not pinned"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]} is not {requirement.specifier}"


def test_constraints_are_sorted_and_hold_no_path() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    names = [line.split("==")[0] for line in text.splitlines() if not line.startswith("#")]
    assert names == sorted(set(names))
    assert "/" not in text
    assert "@" not in text


def test_every_test_that_needs_an_extra_is_in_the_session_extras() -> None:
    text = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    marked = [
        path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark." + "extra" in path.read_text("utf-8")
    ]
    assert len(marked) >= 3
    assert [path for path in marked if f'"{path.relative_to(ROOT)}"' not in text] == []


def test_ci_runs_the_command_that_the_readme_shows() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert command.endswith("nox")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_version_is_in_the_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project()['version']}]" in text
    assert "### Results-affecting" in text
