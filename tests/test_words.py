"""The language of the product: words that CONTRIBUTING lists are not used, and public fields are documented.

Prose is every string and comment of the code, and the text of documents and suites.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("spd_bench", "components", "baselines", "benchmarks")
RAW = ("docs/benchmarks",)
"""Recorded output of commands."""
NOT_YET: tuple[str, ...] = ()
"""Folders and files that still use listed words."""
NOT_YET_DOCUMENTED: tuple[str, ...] = ()
"""Folders and files whose public fields are not documented yet."""


def listed() -> list[str]:
    """The words of CONTRIBUTING's section "Words": every text in backquotes in the first column of its table."""
    section = re.search(
        r"^## Words\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section, 'CONTRIBUTING.md has no section "Words"'
    cells = [line.split("|")[1] for line in section[1].splitlines() if line.startswith("| `")]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`", cell)]


def found_in(prose: str, words: list[str]) -> list[str]:
    """The listed words that a text uses, in any case and across line breaks."""
    pattern = r"\b(?:" + "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in words) + r")\b"
    return [" ".join(found.lower().split()) for found in re.findall(pattern, prose, re.IGNORECASE)]


def of_code(source: str) -> Iterator[tuple[int, str]]:
    """(Line, text) of every string and comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], token.string


def of_document(path: Path) -> Iterator[tuple[int, str]]:
    """(Line, text) of every paragraph of a document; of a suite every line, without the list in CONTRIBUTING."""
    text = path.read_text("utf-8")
    if path.name == "CONTRIBUTING.md":
        text = re.sub(r"^## Words\n.*?(?=^## |\Z)", "", text, flags=re.MULTILINE | re.DOTALL)
    line = 1
    for paragraph in text.split("\n\n"):
        yield line, paragraph
        line += paragraph.count("\n") + 2


def files() -> list[Path]:
    """Everything that speaks for the product."""
    code = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    texts = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "suites").glob("*.yaml")]
    texts = [path for path in texts if not is_in(path, RAW)] + [ROOT / "pyproject.toml", ROOT / "noxfile.py"]
    return sorted(path for path in [*code, *texts] if not is_in(path, NOT_YET))


def is_in(path: Path, places: tuple[str, ...]) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


def test_the_product_speaks_plain_english() -> None:
    words = listed()
    assert len(words) > 10
    wrong = []
    for path in files():
        prose = of_code(path.read_text("utf-8")) if path.suffix == ".py" else of_document(path)
        wrong += [
            f"{path.relative_to(ROOT)}:{line}: {', '.join(found)}"
            for line, text in prose
            if (found := found_in(text, words))
        ]
    assert not wrong, "\n".join(wrong)


PLANTED = '''
def f(x):
    """What so
    many callers are Told."""
    # nobody's business
    raise ValueError(f"{x} is an error of ours")
'''


def test_planted_sentences_are_found() -> None:
    """A listed word is found in a docstring across lines and cases, in a comment and in an f-string."""
    words = listed()
    found = [word for _, text in of_code(PLANTED) for word in found_in(text, words)]
    assert sorted(found) == ["nobody", "of ours", "so many", "told"]
    assert not found_in("Untold numbers of hours, as a nobodyness that comes together", words)


# ------------------------------------------------------------------------------------------------- fields

RECORDS = {"dataclass", "NamedTuple", "BaseModel", "Section", "ComponentConfig", "TypedDict"}


def undocumented(source: str) -> Iterator[tuple[int, str]]:
    """(Line, class.field) of every public field of a public record without a string under it."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        bases = [*node.bases, *(d.func if isinstance(d, ast.Call) else d for d in node.decorator_list)]
        if not RECORDS & {ast.unparse(base).rpartition(".")[2] for base in bases}:
            continue
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if not is_field or field.target.id.startswith("_") or "ClassVar" in ast.unparse(field.annotation):
                continue
            if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
                yield field.lineno, f"{node.name}.{field.target.id}"


def test_public_fields_are_documented_under_the_field() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in CODE
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not is_in(path, NOT_YET_DOCUMENTED)
        for line, name in undocumented(path.read_text("utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("head", ["@dataclass(frozen=True)\nclass A:", "class A(NamedTuple):", "class A(Section):"])
def test_an_undocumented_field_is_found(head: str) -> None:
    assert [name for _, name in undocumented(f'{head}\n    """A."""\n    x: int\n    y: int\n    """Y."""\n')] == [
        "A.x"
    ]
