"""Strict YAML: what is read, what is refused, and that every value knows where it was written."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml.scanner import Scanner

from spd_bench.errors import ConfigError
from spd_bench.suite.yaml import Node, load_yaml, merge, parse_yaml, setting


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),  # PyYAML reads text here
        ("1e3", 1000.0),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+3", 3),
        ("0", 0),
        ("9223372036854775807", 2**63 - 1),
        ("no", "no"),  # and False, 8, 90, a date and 1000 in the next five
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2020-13-01", "2020-13-01"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("'null'", "null"),
        ('""', ""),
        ("|\n  two\n  lines", "two\nlines"),
        ("[1, [a, {b: 2}]]", [1, ["a", {"b": 2}]]),
        ("{}", {}),
        ("é Ω 深", "é Ω 深"),
    ],
)
def test_scalars_follow_yaml_1_2_without_its_surprises(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}", "f").plain()["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: [1, 2\nb: 3", "2:2", "not valid YAML"),
        ("a:\n\tb: 1", "2:1", "not valid YAML"),
        ("a: b: c", "1:5", "not valid YAML"),
        ('a: "open', "1:9", "not valid YAML"),
        ("a: @x", "1:4", "not valid YAML"),
        ("a: 1\n b: 2", "2:3", "not valid YAML"),
        ("a: 1\nb: 2\na: 3", "3:1", 'the key "a" is given twice; first at FILE:1:1'),
        ("a: {b: 1, b: 2}", "1:11", 'the key "b" is given twice; first at FILE:1:5'),
        ('a: !!python/object/apply:os.system ["true"]', "1:4", "tags (tag:yaml.org,2002:python/object"),
        ("a: !x 1", "1:4", "tags (!x) are not allowed"),
        ("!!map {a: 1}", "1:1", "tags"),
        ("a: &x 1", "1:4", "anchors (&x) are not allowed"),
        ("&x a: 1", "1:1", "anchors (&x) are not allowed"),
        ("a: *x", "1:4", "aliases (*x) are not allowed"),
        ("a: 1\n<<: {b: 2}", "2:1", "merge keys (<<) are not allowed"),
        ("%YAML 1.1\n---\na: no", "2:1", "directives are not part of a suite"),
        ("%TAG ! tag:x,1:\n---\na: 1", "2:1", "directives are not part of a suite"),
        ("a: 1\n---\nb: 2", "2:1", "a second document starts here"),
        ("", "1:1", "found nothing"),
        ("# only a comment\n", "1:1", "found nothing"),
        ("just text", "1:1", 'found the text "just text"'),
        ("- 1\n- 2", "1:1", "found a list"),
        ("7", "1:1", "found 7"),
        ("1: x", "1:1", "a key must be text, found 1"),
        ("true: x", "1:1", "a key must be text, found true"),
        ("a: {null: x}", "1:5", "a key must be text, found nothing"),
        ("? [a, b]\n: x", "1:3", "a key must be text, found a list"),
        ("a: .inf", "1:4", ".inf is not a finite number"),
        ("a: -.INF", "1:4", "-.INF is not a finite number"),
        ("a: [.nan]", "1:5", ".nan is not a finite number"),
        ("a: 1e999", "1:4", "1e999 is not a finite number"),
        ("a: 9223372036854775808", "1:4", "an integer outside 64 bits"),
        ("a: " + "9" * 5000, "1:4", "an integer outside 64 bits"),
        ("a: x\0", "1:5", "the character '\\x00' may not stand"),
        ("b: 1\na: \x07", "2:4", "the character '\\x07' may not stand"),
        ('a: "\\0"', "1:4", "the character '\\x00' may not stand in a suite"),
        ('a: "\\ud800"', "1:4", "the character '\\ud800' may not stand in a suite"),
        ('b: 1\na: "\\U99999999"', "2:1", "not valid YAML after this place"),
        ("%YAML 1.3\n---\na: 1", "1:1", "not valid YAML after this place"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "1:1", "not valid YAML after this place"),
        ("a: " + "[" * 60 + "]" * 60, "1:53", "nested deeper than 50 levels"),
        (b"a: 1\nb: \xff", "2:4", "not UTF-8 text"),
        ("a: 1".encode("utf-16"), "1:1", "not UTF-8 text"),
    ],
)
def test_everything_else_is_refused_with_its_place(tmp_path: Path, text: str | bytes, where: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_yaml(path)
    assert caught.value.where == f"{path}:{where}"
    assert message.replace("FILE", str(path)) in caught.value.message
    assert "\n" not in caught.value.message


def test_file_that_cannot_be_a_suite_is_refused_by_path(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path, "this is a folder"),
        (tmp_path / "none.yaml", "no such file"),
        (write(tmp_path, b"#" * (1024 * 1024 + 1)), "larger than 1048576 bytes"),
    ]:
        with pytest.raises(ConfigError, match=message) as caught:
            load_yaml(path)
        assert caught.value.where == str(path)
    assert load_yaml(write(tmp_path, b"a: 1 #" + b"x" * (1024 * 1024 - 6))).plain() == {"a": 1}


def test_utf8_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    assert load_yaml(write(tmp_path, b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")).plain() == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["[" * 40_000, "a: " + "{x: " * 40_000, "- " * 40_000, "[" * 20_000 + "]" * 20_000])
def test_deep_nesting_is_refused_before_the_rest_is_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading such a text to its end takes over a minute; the 51st level lies at its beginning."""
    tokens: list[object] = []
    fetch = Scanner.fetch_more_tokens
    monkeypatch.setattr(Scanner, "fetch_more_tokens", lambda self: (tokens.append(1), fetch(self))[1])
    with pytest.raises(ConfigError, match="nested deeper than 50 levels"):
        parse_yaml(text, "f")
    assert len(tokens) < len(text) / 10  # 1,075 for the first; without the limit it takes one for each character


def test_nesting_of_fifty_levels_is_read() -> None:
    assert parse_yaml("[" * 50 + "]" * 50, "f").plain() is not None


def test_every_value_knows_its_line_and_column() -> None:
    text = "suite: x\ntrain:\n  lr: 1e-4\n  betas: [0.9, 0.999]\nlist:\n- a\n- {b: 2}\n"
    tree = parse_yaml(text, "f.yaml")
    assert tree.places() == {
        (): "f.yaml:1:1",
        ("suite",): "f.yaml:1:8",
        ("train",): "f.yaml:2:1",  # a list or mapping is shown by its key
        ("train", "lr"): "f.yaml:3:7",
        ("train", "betas"): "f.yaml:4:3",
        ("train", "betas", 0): "f.yaml:4:11",
        ("train", "betas", 1): "f.yaml:4:16",
        ("list",): "f.yaml:5:1",
        ("list", 0): "f.yaml:6:3",
        ("list", 1): "f.yaml:7:3",
        ("list", 1, "b"): "f.yaml:7:7",
    }
    assert tree.nearest(("train", "lr")).key == "f.yaml:3:3"
    assert tree.nearest(("train", "momentum", "x")).head == "f.yaml:2:1"


def merged(base: str, override: str) -> Node:
    return merge(parse_yaml(base, "base"), parse_yaml(override, "over"))


@pytest.mark.parametrize(
    ("base", "override", "result"),
    [
        ("a: {x: 1, y: 2}", "a: {y: 3}\nb: 4", {"a": {"x": 1, "y": 3}, "b": 4}),
        ("a: [1, 2, 3]", "a: [4]", {"a": [4]}),
        ("a: {x: 1}", "a: 5", {"a": 5}),
        ("a: 5", "a: {x: 1}", {"a": {"x": 1}}),
        ("a: {x: 1, y: 2}", "a: {x: null}", {"a": {"y": 2}}),  # null takes away ...
        ("a: {y: 2}", "a: {x: null}", {"a": {"y": 2, "x": None}}),  # ... but what is not there stays to be judged
        ("c: {use: m, r: 1, s: 2}", "c: {use: m, r: 3}", {"c": {"use": "m", "r": 3, "s": 2}}),
        ("c: {use: m, r: 1, s: 2}", "c: {r: 3}", {"c": {"use": "m", "r": 3, "s": 2}}),
        ("c: {use: m, r: 1, s: 2}", "c: {use: n, t: 3}", {"c": {"use": "n", "t": 3}}),
        ("c: {use: m, r: 1, s: 2}", "c: {use: n}", {"c": {"use": "n"}}),
    ],
)
def test_override_merges_mappings_and_replaces_the_rest(base: str, override: str, result: object) -> None:
    assert merged(base, override).plain() == result


def test_merged_values_keep_the_place_that_they_came_from() -> None:
    tree = merged("a: {x: 1,\n y: 2}", "# later\na: {y: 3}")
    assert tree.nearest(("a", "x")).place == "base:1:8"
    assert tree.nearest(("a", "y")).place == "over:2:8"


def test_setting_is_a_partial_tree_placed_at_its_option() -> None:
    tree = setting("data.image_size=[224, 224]")
    assert tree.plain() == {"data": {"image_size": [224, 224]}}
    assert set(tree.places().values()) == {"--set data.image_size=[224, 224]"}
    assert setting("train.lr=1e-3").plain() == {"train": {"lr": 1e-3}}
    assert setting("a=b=c").plain() == {"a": "b=c"}
    assert setting("a=null").plain() == {"a": None}
    assert setting("a={use: m, r: 3}").plain() == {"a": {"use": "m", "r": 3}}


@pytest.mark.parametrize("text", ["train.lr", "=3", "a..b=3", ".a=3", "a.=3", "a=", "a= ", "a=[1", "a=&x 1", "a=.nan"])
def test_bad_setting_is_refused_with_the_option_as_its_place(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        setting(text)
    assert caught.value.where == f"--set {text}"


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}#&*!|>'\"%@, \n\t?0.e~<\\=é\0"), max_size=40))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        where = set(parse_yaml(text, "f").places().values())
    except ConfigError as error:
        where = {error.where or ""}
    assert all(re.fullmatch(r"f:\d+:\d+", place) for place in where)
