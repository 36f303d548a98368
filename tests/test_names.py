"""One class name has one meaning in the whole of the product code."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("spd_bench", "components", "baselines")
TWIN = "baselines/spd_baselines/spd_v13_literal.py"
"""The literal transcription of the paper names its classes by the paper's sections, as the components do."""
EVERYWHERE = {"Config"}
"""Each component has its own options under this name."""


def classes(root: Path) -> Iterator[tuple[str, str]]:
    """Name and file of each class below the product folders of `root`."""
    for folder in PRODUCT:
        for path in sorted((root / folder).rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            if relative != TWIN:
                tree = ast.parse(path.read_text(encoding="utf-8"))
                yield from ((node.name, relative) for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def twice(root: Path) -> dict[str, list[str]]:
    """Class names that two files define, with the files."""
    files: dict[str, set[str]] = defaultdict(set)
    for name, path in classes(root):
        files[name].add(path)
    return {name: sorted(paths) for name, paths in files.items() if len(paths) > 1 and name not in EVERYWHERE}


def test_a_class_name_is_defined_once() -> None:
    assert twice(ROOT) == {}


def test_a_second_definition_is_found(tmp_path: Path) -> None:
    for folder in PRODUCT:
        (tmp_path / folder).mkdir()
    (tmp_path / "spd_bench" / "one.py").write_text("class Costs:\n    pass\n", encoding="utf-8")
    (tmp_path / "baselines" / "two.py").write_text("class Costs:\n    class Config:\n        pass\n", encoding="utf-8")
    assert twice(tmp_path) == {"Costs": ["baselines/two.py", "spd_bench/one.py"]}
