"""The checks, each in an environment of its own. `nox` runs `tests`; `nox -s NAME` runs one of the others."""

import json
import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

WITHIN = ("--constraint", "constraints.txt")
RELIABILITY = (
    *("durable", "faults", "power_loss", "damage", "mutants", "train", "long_runs"),
    *("no_silent_number", "supervision", "blame", "signals", "locks", "sweep_stops", "sweep_workers", "fused"),
)
"""Tests of which the default run takes a small share and SPD_BENCH_RELIABILITY=1 everything."""


EXTRAS = (
    "tests/components/test_encoder_backends.py",
    "tests/export/test_export.py",
    "tests/predict/test_predict.py",
    "tests/sweep/test_sweep_workers.py",
)
"""Where the tests with the mark `extra` are: pytest need not read the others."""


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that a change must pass; arguments after -- go to pytest."""
    session.install("--editable", ".[dev]", *WITHIN)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("lint-imports")
    # a process per core, each with one thread: files are shared out whole, so that their fixtures are made once
    session.run("pytest", "-n", "auto", "--dist", "loadfile", *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def extras(session: nox.Session) -> None:
    """The tests that need an extra: OpenVINO, ONNX, videos, and sweeps on a PostgreSQL server where one can be."""
    session.install("--editable", ".[openvino,postgres,video,export]", "pytest", "pytest-timeout", *WITHIN)
    lacking = _install_postgresql(session)
    # -rs lists what was skipped and why
    session.run("pytest", "-rs", "-m", "extra", *EXTRAS, *session.posargs, env={"OMP_NUM_THREADS": "1"})
    if lacking:
        session.warn(f"sweeps on PostgreSQL were not tested: {lacking}")


def _install_postgresql(session: nox.Session) -> str:
    """Installs Debian's PostgreSQL server if there is none; returns why it cannot, or ""."""
    if shutil.which("initdb") or any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return ""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return "no server is installed, and only root can install one with apt-get"
    apt = ("apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    session.run(*apt, "update", external=True, success_codes=range(256))
    package = ("install", "--yes", "--no-install-recommends", "postgresql")
    session.run(*apt, *package, env=quiet, external=True, success_codes=range(256))
    found = any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return "" if found else "apt-get could not install the package postgresql"


@nox.session
def reliability(session: nox.Session) -> None:
    """Every fault at every operation, every planted defect, 200 kills of the command, sweeps that lose workers."""
    session.install("--editable", ".[dev]", *WITHIN)
    files = [str(next(Path("tests").rglob(f"test_{name}.py"))) for name in RELIABILITY]
    session.run("pytest", "-rA", *files, *session.posargs, env={"SPD_BENCH_RELIABILITY": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style alone, in seconds."""
    session.install("ruff", *WITHIN)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel, in place of the checkout and away from it, has the same components and suites."""
    session.install("--editable", ".[dev]", *WITHIN)
    checkout = _components(session)
    folder = _empty_folder(session)
    session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder))
    (built,) = folder.glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(built))
    with session.chdir(folder):
        if _components(session) != checkout:
            session.error("the wheel and the checkout list different components")
        session.run("spd-bench", "list", "--check", silent=True)
        session.run("spd-bench", "plan", "smoke", "--runs", str(folder / "runs"))


@nox.session
def smoke(session: nox.Session) -> None:
    """suites/smoke.yaml from the command line to the table, twice: the second time there is nothing left to do."""
    session.install("--editable", ".", *WITHIN)
    runs = _empty_folder(session) / "runs"
    for _ in range(2):
        session.run("spd-bench", "run", "suites/smoke.yaml", "--runs", str(runs))
    session.run("spd-bench", "compare", "smoke", "--runs", str(runs), "--format", "markdown")


@nox.session
def browser(session: nox.Session) -> None:
    """`spd-bench explore` used by a headless Chromium; `-- --screenshots FOLDER` keeps what it looked like."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("no Chromium is installed here: apt-get install chromium")
    session.install("--editable", ".[dev,explore]", "playwright", *WITHIN)
    args, shots = list(session.posargs), "1"
    if "--screenshots" in args:
        at = args.index("--screenshots")
        shots = str(Path(args[at + 1]).resolve())
        Path(shots).mkdir(parents=True, exist_ok=True)
        del args[at : at + 2]
    session.run("pytest", "tests/explore", *args, env={"SPD_BENCH_BROWSER": shots, "OMP_NUM_THREADS": "1"})


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The decoder's speed and memory, refusals and small calls as ratios with limits; for an idle machine."""
    session.install("--editable", ".", *WITHIN)
    out = Path(session.create_tmp()).resolve() / "benchmarks.json"
    session.run(
        "python", "benchmarks/bench.py", "--out", str(out), "--check", "benchmarks/reference.json", *session.posargs
    )
    session.run("python", "benchmarks/refusals.py", "--check")


def _empty_folder(session: nox.Session) -> Path:
    """nox keeps a session's folder from one time to the next."""
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    folder.mkdir()
    return folder.resolve()


def _components(session: nox.Session) -> list[dict[str, str]]:
    listed = session.run("spd-bench", "list", "--json", silent=True)
    components: list[dict[str, str]] = json.loads(str(listed))
    return components
