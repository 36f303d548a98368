"""Any text, any bytes and any mutation of a shipped suite is a suite or one error with its place, by the hundred."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from spd_bench.errors import ConfigError
from spd_bench.suite.load import load_suite, shipped

FILE = "mine.yaml"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(name: str, profile: str | None = None) -> ConfigError | None:
    """Returns the error with which `load_suite` refuses a suite, None where it loads; raises any other exception."""
    try:
        load_suite(name, profile=profile)
    except ConfigError as error:
        return error
    return None


PIECES = [
    "suite: ",
    "extends: smoke\n",
    "base:",
    "  b4: ",
    "skip",
    "[",
    "]",
    "{",
    "}",
    ",",
    ": ",
    "- ",
    "\n",
    "  ",
    "#",
]
PIECES += [
    "&a ",
    "*a",
    "<<: ",
    "!!int ",
    "|",
    ">",
    '"',
    "'",
    "\\",
    "%YAML 1.1\n",
    "---\n",
    "...\n",
    "?",
    "\t",
    "\0",
    "é",
]
PIECES += [
    "\u2028",
    "\ufeff",
    "1e9",
    ".nan",
    "0x1",
    "null",
    "~",
    "true",
    "profiles:",
    "train: {lr: ",
    "\r",
    "\x85",
    "😀",
]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=20).map("".join))
def test_any_text_is_a_suite_or_one_of_our_errors(text: str) -> None:
    Path(FILE).write_bytes(text.encode("utf-8", "surrogatepass"))
    said = refusal(FILE)
    assert said is None or str(said)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(raw=st.binary(max_size=60))
def test_any_bytes_are_a_suite_or_one_of_our_errors(raw: bytes) -> None:
    Path(FILE).write_bytes(b"suite: mine\nextends: smoke\n" + raw)
    said = refusal(FILE)
    assert said is None or str(said)


SHIPPED = [YAML(typ="safe", pure=True).load(path) for path in shipped().values()]
"""The shipped suites as plain values."""


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [spot for key, item in pairs for spot in [(value, key), *spots(item)]]


WILD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    1e-300,
    1e300,
    "",
    "x",
    "nan",
    "\n",
    "é" * 100,
    [],
    [[]],
    {},
    {"use": 1},
]
WILD += [{"use": "skip"}, {"": 0}, [None], {"a": {"b": []}}, "skip", "b4", {"routing.r": [8]}, ["b3", "b3"]]


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_mutation_of_a_valid_suite_is_a_suite_or_one_of_our_errors(data: st.DataObject) -> None:
    tree = copy.deepcopy(data.draw(st.sampled_from(SHIPPED)))
    for _ in range(data.draw(st.integers(1, 3))):
        places = spots(tree)
        container, key = places[data.draw(st.integers(0, len(places) - 1))] if places else (tree, "x")
        match data.draw(st.sampled_from(["replace", "remove", "copy", "rename"])):
            case "replace":
                container[key] = data.draw(st.sampled_from(WILD))
            case "remove":
                del container[key]
            case "copy":
                other, name = places[data.draw(st.integers(0, len(places) - 1))]
                container[key] = copy.deepcopy(other[name])
            case "rename" if isinstance(container, dict):
                container[data.draw(st.sampled_from(["use", "x", "", "train", "b4", "profiles", "set"]))] = container[
                    key
                ]
    Path(FILE).write_text(json.dumps(tree), encoding="utf-8")  # JSON is YAML
    profile = data.draw(st.sampled_from([None, "smoke"]))
    said = refusal(FILE, profile)
    assert said is None or said.where is not None or "\n" in said.message
