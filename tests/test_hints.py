"""Every hint in the code, followed: the options, data sets, commands and values that it names exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import spd_bench
from spd_bench import registry
from spd_bench.cli import app
from spd_bench.suite.forms import dig
from spd_bench.suite.schema import json_schema

PACKAGE = Path(spd_bench.__file__).parent
ELSEWHERE = {"--auto", "--allow"}
"""What begins like an option and belongs to another program."""


def text_of(node: ast.AST) -> str:
    """The constant text of an expression; what is filled in later becomes N."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "N"
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "N"
    return " ".join(text_of(child) for child in ast.iter_child_nodes(node))


def hints() -> Iterator[tuple[str, str]]:
    """Place and text of whatever is given as a hint, or kept in a constant or function for one."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value: Any = None
            named = isinstance(node, ast.Assign) and any(
                "hint" in ast.unparse(target).lower() for target in node.targets
            )
            if (isinstance(node, ast.keyword) and node.arg == "hint") or named:
                value = node.value  # type: ignore[attr-defined]
            elif isinstance(node, ast.FunctionDef) and ("hint" in node.name or node.name in ("mend_for", "advice")):
                value = ast.Module(body=node.body[1:], type_ignores=[])
            if value is not None and (text := text_of(value)).strip():
                yield f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', value)}", text


HINTS = list(hints())


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for key, command in getattr(group, "commands", {}).items():
        yield f"{name} {key}".strip(), command
        yield from commands(command, f"{name} {key}".strip())


COMMANDS = dict(commands(typer.main.get_command(app)))
OPTIONS = {option for command in COMMANDS.values() for each in command.params for option in each.opts}
DATA_OPTIONS = {
    field for name in registry.names("dataset") for field in registry.load("dataset", name).Config.model_fields
}


def test_there_are_hints() -> None:
    assert len(HINTS) > 150
    assert {"--option", "--dataset", "--set", "--data"} <= OPTIONS


@pytest.mark.parametrize(("place", "text"), HINTS, ids=[place for place, _ in HINTS])
def test_a_hint_names_what_is_there(place: str, text: str) -> None:
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - ELSEWHERE:
        if f"`mogrify -{option[1:]}" not in text:
            assert option in OPTIONS, f"no command has {option}"
    for name in re.findall(r"--option '?([a-z_]+)=", text):
        known = {
            field for each in registry.names("dataset") for field in registry.load("dataset", each).Config.model_fields
        }
        assert name in known, f"no data set has the option {name}"
    for name in re.findall(r"--dataset ([a-z_0-9]+)", text):
        assert name in registry.names("dataset")
    for path in re.findall(r"--set ([a-z_.]+)=", text):
        properties = json_schema()
        first, _, second = path.partition(".")
        section = dig(properties, ("properties", first, "$ref"))
        known = dig(properties, ("$defs", section.rpartition("/")[2], "properties")) if section else {second: 1}
        assert path in ("path.to.key", "a.b") or second.partition(".")[0] in known, path
    for command in re.findall(r"`spd-bench ([a-z]+(?: [a-z]+)?)", text):
        assert command in COMMANDS or command.split()[0] in COMMANDS, f"no command {command}"


def test_commands_that_read_data_take_the_same_options() -> None:
    for name in ("run", "plan", "check", "score", "cache build", "sweep run", "data inspect", "data prepare"):
        options = {option for each in COMMANDS[name].params for option in each.opts}
        assert {"--dataset", "--option"} <= options, name
