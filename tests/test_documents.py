"""The documents name what exists: files, folders, links and layers; the picture of the README is the drawn one."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BASES = (ROOT, ROOT / "spd_bench", ROOT / "components" / "spd_components", ROOT / "docs")
"""Folders that a path in a document may start from."""


def paths_in(text: str) -> list[str]:
    """Everything in backquotes that is a path to a folder (`suite/`) or to a Python file."""
    return re.findall(r"`([\w./-]+(?:/|\.py))`", text)


def exists(path: str) -> bool:
    return any((base / path).exists() for base in BASES)


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_and_folders_of_the_map_exist(name: str) -> None:
    found = paths_in((ROOT / name).read_text("utf-8"))
    assert len(found) > 20
    assert not [path for path in found if not exists(path)]


def test_a_path_that_does_not_exist_is_found() -> None:
    assert [path for path in paths_in("`run/runner.pi`, `runn/`, `run/nothing.py`, `run/`") if not exists(path)] == [
        "runn/",
        "run/nothing.py",
    ]


def test_python_files_that_documents_name_exist() -> None:
    wrong = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in DOCUMENTS
        for path in re.findall(
            r"\b(?:spd_bench|tests|components|baselines|benchmarks)/[\w./-]+\.py\b", document.read_text("utf-8")
        )
        if not (ROOT / path).exists()
    ]
    assert not wrong


def test_links_between_documents_lead_somewhere() -> None:
    wrong = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", document.read_text("utf-8"))
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not wrong


def layers() -> list[list[str]]:
    """The harness's layers in pyproject.toml, from the top."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    contract = next(table for table in tables if table.get("containers") == ["spd_bench"])
    return [[name.strip() for name in line.split("|")] for line in contract["layers"]]


def test_the_map_lists_every_layer_in_order() -> None:
    """docs/architecture.md has one row for each layer of import-linter, in the same order."""
    table = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("\n\n")[2]
    cells = [line.split("|")[2] for line in table.splitlines()[2:]]
    assert [[path.rstrip("/").removesuffix(".py") for path in paths_in(cell)] for cell in cells] == layers()


def test_the_tour_lists_every_folder() -> None:
    tour = (ROOT / "CONTRIBUTING.md").read_text("utf-8").split("\n## ")[1]
    folders = {f"spd_bench/{path.parent.name}/" for path in (ROOT / "spd_bench").glob("*/__init__.py")}
    assert folders <= set(paths_in(tour))


def test_the_picture_is_the_drawn_one() -> None:
    """docs/method.py draws docs/method.svg: the same boxes and arrows, wherever fonts place their outlines."""
    spec = importlib.util.spec_from_file_location("method", ROOT / "docs" / "method.py")
    assert spec
    assert spec.loader
    method = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(method)
    drawn, kept = method.draw(method.boxes), (ROOT / "docs" / "method.svg").read_text("utf-8")
    assert drawn == method.draw(method.boxes)
    shapes = [re.findall(r"stroke-width: [\d.]+|fill: #[0-9a-f]{6}|<!-- (.*?) -->", text) for text in (drawn, kept)]
    assert shapes[0] == shapes[1]
    assert "once per query point: T_decode(K)" in kept
