"""Bad input: suites and command lines that people, editors and attackers write.

Each gets one message that begins with its place, or a line per problem, and the exit code 2, or 3 for data and weights;
no traceback, nothing on stdout, nothing written, in less than a second. Then text and mutated suites by the hundred.
"""

import copy
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from spd_bench import cli
from spd_bench.cost import timing
from spd_bench.errors import ConfigError
from spd_bench.suite.load import load_suite, shipped

SCRIPT = Path(sys.executable).with_name("spd-bench")
LONGEST_S = 1.0
FILE = "mine.yaml"
HEAD = "suite: mine\nextends: smoke\n"
"""What stands before the texts of `EXTENDING` and `PLANNED`: their first line is line 3."""

WHOLE: list[tuple[str, str | bytes, str, str]] = [
    ("empty", "", "1:1", "expected a mapping of keys at the top, found nothing"),
    ("comment", "# x\n", "1:1", "expected a mapping of keys at the top, found nothing"),
    ("list", "- a\n", "1:1", "expected a mapping of keys at the top, found a list"),
    ("scalar", "7", "1:1", "expected a mapping of keys at the top, found 7"),
    ("bom-empty", b"\xef\xbb\xbf", "1:1", "expected a mapping of keys at the top, found nothing"),
    ("nul", b"suite: m\x00ine\n", "1:9", "not valid YAML: the character '\\x00' may not stand in a text fil"),
    (
        "nul-all",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        "1:1",
        "not valid YAML: the character '\\x00' may not stand in a text fil",
    ),
    ("utf16", b"\xff\xfes\x00u\x00i\x00t\x00e\x00:\x00 \x00x\x00", "1:1", "not UTF-8 text"),
    (
        "utf16be",
        b"\x00s\x00u\x00i\x00t\x00e\x00:\x00 \x00x",
        "1:1",
        "not valid YAML: the character '\\x00' may not stand in a text fil",
    ),
    (
        "utf32",
        "suite: x".encode("utf-32"),
        "1:1",
        "not UTF-8 text",
    ),
    ("latin1", b"suite: mine\ndescription: caf\xe9\n", "2:17", "not UTF-8 text"),
    ("surrogate-utf8", b"suite: mine\ndescription: \xed\xa0\x80\n", "2:14", "not UTF-8 text"),
    (
        "tab",
        "suite: mine\nbase:\n\tb4: skip\n",
        "3:1",
        "not valid YAML: while scanning for the next token, found charact",
    ),
    ("int-str", "suite: 5\nextends: smoke\n", "1:8", "suite: should be a valid string, found 5"),
    (
        "pytag2",
        '!!python/object/new:os.system ["touch canary"]\n',
        "1:1",
        "tags (tag:yaml.org,2002:python/object/new:os.system) are not all",
    ),
    (
        "laughs",
        "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [{', '.join(['*a'] * 9)}]\n" for i in range(9)),
        "1:4",
        "anchors (&a) are not allowed",
    ),
    (
        "mergebomb",
        "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [*a, *a]}}\n" for i in range(22)),
        "1:4",
        "anchors (&a) are not allowed",
    ),
    ("deep", "[" * 40_000, "1:51", "nested deeper than 50 levels"),
    ("deepmap", "a: " + "{x: " * 2000, "1:197", "nested deeper than 50 levels"),
    ("deepseq", "- " * 3000, "1:101", "nested deeper than 50 levels"),
    (
        "deep51",
        "a: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
        "1:53",
        "nested deeper than 50 levels",
    ),
    ("big", "# " + "x" * (10 * 2**20), "mine.yaml", "larger than 1048576 bytes: this cannot be a suite"),
    ("homoglyph", "sуite: mine\nextends: smoke\n", "1:1", "suite: this key is required"),
    (
        "yaml11",
        "%YAML 1.1\n---\nsuite: mine\nextends: smoke\n",
        "2:1",
        "%YAML and %TAG directives are not part of a suite; this is YAML ",
    ),
    (
        "yaml9",
        "%YAML 9" + "9" * 5000 + ".1\n---\nsuite: mine\n",
        "1:1",
        "not valid YAML after this place: Exceeds the limit (4300 digits)",
    ),
    ("qmark", "?", "1:2", "a key must be text, found nothing"),
    ("dashdash", "---", "1:1", "expected a mapping of keys at the top, found nothing"),
    ("braces", "}", "1:1", "not valid YAML: while parsing a block node, expected the node co"),
    (
        "name-slash",
        "suite: a/b\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-dots",
        "suite: ../x\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-long",
        "suite: " + "a" * 300 + "\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-emoji",
        "suite: 🙂\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-upper",
        "suite: Mine\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-empty",
        'suite: ""\nextends: smoke\n',
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-space",
        "suite: a b\nextends: smoke\n",
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    (
        "name-nl-end",
        'suite: "mine\\n"\nextends: smoke\n',
        "1:8",
        "suite: should be at most 64 of a-z, 0-9, '.', '_' and '-', start",
    ),
    ("ext-self", "suite: mine\nextends: mine.yaml\n", "2:10", "extends goes in a circle: mine.yaml → mine.yaml"),
    (
        "ext-abs",
        "suite: mine\nextends: /etc/passwd\n",
        "2:10",
        'extends: "/etc/passwd" leaves the folder of this suite',
    ),
    (
        "ext-up",
        "suite: mine\nextends: ../other.yaml\n",
        "2:10",
        'extends: no suite "../other.yaml", as a file or among those ship',
    ),
    ("ext-none", "suite: mine\nextends: smok\n", "2:10", 'extends: no suite "smok", as a file or among those shipped'),
    ("ext-list", "suite: mine\nextends: [smoke]\n", "2:10", "extends: should be the name of a suite, found a list"),
    ("ext-int", "suite: mine\nextends: 5\n", "2:10", "extends: should be the name of a suite, found 5"),
    ("ext-empty", 'suite: mine\nextends: ""\n', "2:10", 'extends: no suite "."'),
    ("ext-null", "suite: mine\nextends: null\n", "1:1", "base: this key is required"),
    ("ext-dir", "suite: mine\nextends: d\n", "2:10", 'extends: no suite "d", as a file or among those shipped'),
    (
        "ext-nul",
        'suite: mine\nextends: "a\\nb"\n',
        "2:10",
        'extends: no suite "a\\nb", as a file or among those shipped',
    ),
    (
        "ext-long",
        "suite: mine\nextends: " + "a" * 5000 + "\n",
        "2:10",
        'extends: no suite "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    ),
    ("ext-dot", "suite: mine\nextends: .\n", "2:10", 'extends: no suite "."'),
    (
        "step-axes",
        "suite: mine\nextends: v13_build_order\naxes: {leave_one_out: [b3]}\n",
        "v13_build_order.yaml",
        "steps: a build order has neither axes nor baselines",
    ),
    ("case", "Suite: mine\nextends: smoke\n", "1:1", "suite: this key is required"),
]
"""(id, the whole file, line:column, what is said)."""

EXTENDING: list[tuple[str, str | bytes, str, str]] = [
    (
        "norway",
        "data: {augment: {enabled: no}}\n",
        "3:27",
        "data.augment.enabled: should be a valid boolean, found the text ",
    ),
    (
        "on",
        "data: {augment: {enabled: on}}\n",
        "3:27",
        "data.augment.enabled: should be a valid boolean, found the text ",
    ),
    (
        "yes",
        "data: {augment: {flip: yes}}\n",
        "3:24",
        'data.augment.flip: should be a valid number, found the text "yes',
    ),
    ("octal", "seeds: [010]\n", "3:9", 'seeds[0]: should be a valid integer, found the text "010"'),
    ("hexint", "seeds: [0x10]\n", "3:9", 'seeds[0]: should be a valid integer, found the text "0x10"'),
    ("octal12", "seeds: [0o17]\n", "3:9", 'seeds[0]: should be a valid integer, found the text "0o17"'),
    (
        "underscore",
        "train: {queries: 1_000}\n",
        "3:18",
        'train.queries: should be a valid integer, found the text "1_000"',
    ),
    ("sexagesimal", "train: {steps: 1:30}\n", "3:16", 'train.steps: should be a valid integer, found the text "1:30"'),
    ("date", "description: {a: 2020-01-01}\n", "3:1", "description: should be a valid string, found a mapping"),
    ("e3-int", "train: {steps: 1e3}\n", "3:16", "train.steps: should be a valid integer, found 1000.0"),
    ("float-int", "train: {steps: 4.0}\n", "3:16", "train.steps: should be a valid integer, found 4.0"),
    ("bool-int", "train: {steps: true}\n", "3:16", "train.steps: should be a valid integer, found true"),
    ("str-int", 'train: {steps: "4"}\n', "3:16", 'train.steps: should be a valid integer, found the text "4"'),
    ("bool-float", "train: {lr: true}\n", "3:13", "train.lr: should be a valid number, found true"),
    ("nan", "train: {lr: .nan}\n", "3:13", ".nan is not a finite number"),
    ("inf", "train: {lr: .inf}\n", "3:13", ".inf is not a finite number"),
    ("neginf", "train: {lr: -.inf}\n", "3:13", "-.inf is not a finite number"),
    ("1e999", "train: {lr: 1e999}\n", "3:13", "1e999 is not a finite number"),
    ("huge", "seeds: [99999999999999999999]\n", "3:9", "an integer outside 64 bits"),
    ("huge5000", "seeds: [" + "9" * 5000 + "]\n", "3:9", "an integer outside 64 bits"),
    ("nan-word", "train: {lr: nan}\n", "3:13", 'train.lr: should be a valid number, found the text "nan"'),
    ("dup", "seeds: [0]\nseeds: [1]\n", "4:1", 'the key "seeds" is given twice; first at mine.yaml:3:1'),
    (
        "dupnest",
        "train:\n  lr: 1e-3\n  clip: 1\n  lr: 1e-4\n",
        "6:3",
        'the key "lr" is given twice; first at mine.yaml:4:3',
    ),
    ("dup-quoted", 'train: {lr: 1e-3, "lr": 2e-3}\n', "3:19", 'the key "lr" is given twice; first at mine.yaml:3:9'),
    ("anchor", "seeds: &s [0]\n", "3:8", "anchors (&s) are not allowed"),
    ("alias", "seeds: *s\n", "3:8", "aliases (*s) are not allowed"),
    ("merge", "train:\n  <<: {lr: 1e-3}\n", "4:3", "merge keys (<<) are not allowed"),
    (
        "pytag",
        'description: !!python/object/apply:os.system ["touch canary"]\n',
        "3:14",
        "tags (tag:yaml.org,2002:python/object/apply:os.system) are not a",
    ),
    ("strtag", "description: !!str 5\n", "3:14", "tags (tag:yaml.org,2002:str) are not allowed"),
    ("custtag", "description: !env HOME\n", "3:14", "tags (!env) are not allowed"),
    (
        "long-list",
        "seeds: [" + ",".join(map(str, range(20_000))) + "]\n",
        "3:48864",
        "more than 10000 values: this cannot be a suite",
    ),
    ("long-key", "k" * 2000 + ": 1\n", "3:2001", "not valid YAML: while scanning a simple key, could not find expe"),
    (
        "long-key-q",
        '"' + "k" * 200_000 + '": 1\n',
        "3:200003",
        "not valid YAML: while scanning a simple key, could not find expe",
    ),
    (
        "long-val",
        "data: {dataset: " + "k" * 100_000 + "}\n",
        "3:17",
        'data.dataset: unknown dataset "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',
    ),
    ("homoglyph2", "trаin: {lr: 1e-3}\n", "3:1", "trаin: unknown key, spelt 'tr\\u0430in'"),
    ("zero-width", "train\u200b: {lr: 1e-3}\n", "3:1", "\"train\\u200b\": unknown key, spelt 'train\\u200b'"),
    ("rtl", 'base: {b4: "ski\u202ep"}\n', "3:12", 'base.b4: unknown b4 "ski\\u202ep"'),
    ("nbsp", "train:\xa0{lr: 1}\n", "3:1", "\"train:\\xa0{lr\": unknown key, spelt 'train:\\xa0{lr'"),
    ("env", "data: {dataset: {use: rgbd_folder, root: $HOME}}\nsuite2: ${HOME}\n", "4:1", "suite2: unknown key"),
    ("jinja", "train: {lr: {{ lr }}}\n", "3:14", "a key must be text, found a mapping"),
    ("two-docs", "---\nsuite: b\n", "3:1", "a second document starts here; a suite is one document"),
    ("docend", "...\nx\n", "4:1", "a second document starts here; a suite is one document"),
    ("esc", 'description: "\\e[31mred"\n', "3:14", "the character '\\x1b' may not stand in a suite"),
    ("esc2", 'description: "\\U99999999"\n', "3:1", "not valid YAML after this place: Python int too large to convert"),
    ("bell", "description: \x07\n", "3:14", "not valid YAML: the character '\\x07' may not stand in a text fil"),
    ("del", 'description: "\\x7f"\n', "3:14", "the character '\\x7f' may not stand in a suite"),
    ("intkey", "1: 2\n", "3:1", "a key must be text, found 1"),
    ("nullkey", "null: 2\n", "3:1", "a key must be text, found nothing"),
    ("boolkey", "true: 2\n", "3:1", "a key must be text, found true"),
    ("listkey", "? [a]\n: 2\n", "3:3", "a key must be text, found a list"),
    ("emptykey", '"": 2\n', "3:1", '"": unknown key'),
    ("floatkey", "1.5: 2\n", "3:1", "a key must be text, found 1.5"),
    ("unclosed", "seeds: [0\n", "4:1", "not valid YAML: while parsing a flow sequence, expected ',' or '"),
    ("unclosedq", 'description: "x\n', "4:1", "not valid YAML: while scanning a quoted scalar, found unexpected"),
    ("badindent", "train:\n  lr: 1e-3\n   clip: 1\n", "5:8", "not valid YAML: mapping values are not allowed here"),
    ("colon", "description: a: b\n", "3:15", "not valid YAML: mapping values are not allowed here"),
    ("at", "description: @x\n", "3:14", "not valid YAML: while scanning for the next token, found charact"),
    ("pct", "description: %x\n", "3:14", "not valid YAML: while scanning for the next token, found charact"),
    ("bang", "description: !\n", "3:14", "tags (!) are not allowed"),
    ("star", "description: *\n", "3:15", "not valid YAML: while scanning an alias, expected alphabetic or "),
    (
        "blockbad",
        "description: |9999999999\n  x\n",
        "3:16",
        "not valid YAML: while scanning a block scalar, expected chomping",
    ),
    ("ext-profile", "profiles: {p: {extends: smoke}}\n", "3:16", "profiles.p.extends: a profile cannot change this"),
    ("base-int", "base: 5\n", "3:7", "base: should be a mapping, found 5"),
    ("base-str", "base: x\n", "3:7", 'base: should be a mapping, found the text "x"'),
    ("base-list", "base: [1]\n", "3:1", "base: should be a mapping, found a list"),
    ("base-map", "base: {x: 1}\n", "3:8", "base.x: unknown key"),
    ("base-true", "base: true\n", "3:7", "base: should be a mapping, found true"),
    ("data-int", "data: 5\n", "3:7", "data: should be a mapping, found 5"),
    ("data-str", "data: x\n", "3:7", 'data: should be a mapping, found the text "x"'),
    ("data-list", "data: [1]\n", "3:1", "data: should be a mapping, found a list"),
    ("data-map", "data: {x: 1}\n", "3:8", "data.x: unknown key"),
    ("data-true", "data: true\n", "3:7", "data: should be a mapping, found true"),
    ("train-int", "train: 5\n", "3:8", "train: should be a mapping, found 5"),
    ("train-str", "train: x\n", "3:8", 'train: should be a mapping, found the text "x"'),
    ("train-list", "train: [1]\n", "3:1", "train: should be a mapping, found a list"),
    ("train-map", "train: {x: 1}\n", "3:9", "train.x: unknown key"),
    ("train-true", "train: true\n", "3:8", "train: should be a mapping, found true"),
    ("eval-int", "eval: 5\n", "3:7", "eval: should be a mapping, found 5"),
    ("eval-str", "eval: x\n", "3:7", 'eval: should be a mapping, found the text "x"'),
    ("eval-list", "eval: [1]\n", "3:1", "eval: should be a mapping, found a list"),
    ("eval-map", "eval: {x: 1}\n", "3:8", "eval.x: unknown key"),
    ("eval-true", "eval: true\n", "3:7", "eval: should be a mapping, found true"),
    ("seeds-int", "seeds: 5\n", "3:8", "seeds: should be a list, found 5"),
    ("seeds-str", "seeds: x\n", "3:8", 'seeds: should be a list, found the text "x"'),
    ("seeds-map", "seeds: {x: 1}\n", "3:1", "seeds: should be a list, found a mapping"),
    ("seeds-true", "seeds: true\n", "3:8", "seeds: should be a list, found true"),
    ("axes-int", "axes: 5\n", "3:7", "axes: should be a mapping, found 5"),
    ("axes-str", "axes: x\n", "3:7", 'axes: should be a mapping, found the text "x"'),
    ("axes-list", "axes: [1]\n", "3:1", "axes: should be a mapping, found a list"),
    ("axes-map", "axes: {x: 1}\n", "3:8", "axes.x: unknown key"),
    ("axes-true", "axes: true\n", "3:7", "axes: should be a mapping, found true"),
    ("baselines-int", "baselines: 5\n", "3:12", "baselines: should be a list, found 5"),
    ("baselines-str", "baselines: x\n", "3:12", 'baselines: should be a list, found the text "x"'),
    ("baselines-list", "baselines: [1]\n", "3:13", "baselines[0]: should be a component, as a name or as {use: name,"),
    ("baselines-map", "baselines: {x: 1}\n", "3:1", "baselines: should be a list, found a mapping"),
    ("baselines-true", "baselines: true\n", "3:12", "baselines: should be a list, found true"),
    ("report-int", "report: 5\n", "3:9", "report: should be a mapping, found 5"),
    ("report-str", "report: x\n", "3:9", 'report: should be a mapping, found the text "x"'),
    ("report-list", "report: [1]\n", "3:1", "report: should be a mapping, found a list"),
    ("report-map", "report: {x: 1}\n", "3:10", "report.x: unknown key"),
    ("report-true", "report: true\n", "3:9", "report: should be a mapping, found true"),
    ("steps-int", "steps: 5\n", "3:8", "steps: should be a mapping, found 5"),
    ("steps-str", "steps: x\n", "3:8", 'steps: should be a mapping, found the text "x"'),
    ("steps-list", "steps: [1]\n", "3:1", "steps: should be a mapping, found a list"),
    ("steps-map", "steps: {x: 1}\n", "3:12", "steps.x: should be a mapping, found 1"),
    ("steps-true", "steps: true\n", "3:8", "steps: should be a mapping, found true"),
    ("profiles-int", "profiles: 5\n", "3:11", "profiles: should be a mapping, found 5"),
    ("profiles-str", "profiles: x\n", "3:11", 'profiles: should be a mapping, found the text "x"'),
    ("profiles-list", "profiles: [1]\n", "3:1", "profiles: should be a mapping, found a list"),
    ("profiles-map", "profiles: {x: 1}\n", "3:15", "profiles.x: should be a mapping, found 1"),
    ("profiles-true", "profiles: true\n", "3:11", "profiles: should be a mapping, found true"),
    ("fallback-int", "fallback: 5\n", "3:11", "fallback: should be a mapping, found 5"),
    ("fallback-str", "fallback: x\n", "3:11", 'fallback: should be a mapping, found the text "x"'),
    ("fallback-list", "fallback: [1]\n", "3:1", "fallback: should be a mapping, found a list"),
    ("fallback-map", "fallback: {x: 1}\n", "3:1", "fallback.profile: this key is required"),
    ("fallback-true", "fallback: true\n", "3:11", "fallback: should be a mapping, found true"),
    ("description-int", "description: 5\n", "3:14", "description: should be a valid string, found 5"),
    ("description-list", "description: [1]\n", "3:1", "description: should be a valid string, found a list"),
    ("description-map", "description: {x: 1}\n", "3:1", "description: should be a valid string, found a mapping"),
    ("description-true", "description: true\n", "3:14", "description: should be a valid string, found true"),
    ("slot-int", "base: {b4: 5}\n", "3:12", "base.b4: should be a component, as a name or as {use: name, opti"),
    ("slot-list", "base: {b4: [skip]}\n", "3:8", "base.b4: should be a component, as a name or as {use: name, opti"),
    (
        "slot-useint",
        "base: {b4: {use: 5}}\n",
        "3:8",
        "base.b4: should be a component, as a name or as {use: name, opti",
    ),
    ("slot-unknown", "base: {b7: skip}\n", "3:8", "base.b7: unknown key"),
    ("slot-null", "base: {b4: null}\n", "v13_ablation.yaml", "base.b4: this key is required"),
    ("slot-dist", "base: {b4: 'spd-bench:skipp'}\n", "3:12", 'base.b4: unknown b4 "spd-bench:skipp"'),
    ("slot-module", "base: {b4: 'os:system'}\n", "3:12", 'base.b4: unknown b4 "os:system"'),
    (
        "slot-path",
        "base: {b4: 'spd_components.blocks.skip:SkipB4'}\n",
        "3:12",
        'base.b4: unknown b4 "spd_components.blocks.skip:SkipB4"',
    ),
    (
        "slot-dotted",
        "base: {b4: spd_components.blocks.skip.SkipB4}\n",
        "3:12",
        'base.b4: unknown b4 "spd_components.blocks.skip.SkipB4"',
    ),
    ("slot-wrong", "base: {b4: nearest}\n", "3:12", 'base.b4: unknown b4 "nearest"; there is a routing of that name'),
    ("slot-newline", 'base: {b4: "sk\\nip"}\n', "3:12", 'base.b4: unknown b4 "sk\\nip"'),
    ("size1", "data: {image_size: 224}\n", "3:20", "data.image_size: should be a list, found 224"),
    ("size3", "data: {image_size: [224,224,3]}\n", "3:8", "data.image_size: should be a list of at most 2, found 3"),
    (
        "size-odd",
        "data: {image_size: [225,224]}\n",
        "3:21",
        "data.image_size[0]: should be a multiple of 14, found 225",
    ),
    (
        "size-big",
        "data: {image_size: [22400,224]}\n",
        "3:21",
        "data.image_size[0]: should be less than or equal to 2048, found ",
    ),
    (
        "size-neg",
        "data: {image_size: [-14,224]}\n",
        "3:21",
        "data.image_size[0]: should be greater than or equal to 28, found",
    ),
    (
        "size-str",
        "data: {image_size: 224x224}\n",
        "3:20",
        'data.image_size: should be a list, found the text "224x224"',
    ),
    ("zoom-desc", "data: {augment: {zoom: [1.2, 0.8]}}\n", "3:18", "data.augment.zoom: should be [low, high]"),
    (
        "zoom-low",
        "data: {augment: {zoom: [0.5, 0.8]}}\n",
        "3:18",
        "data.augment: should have zoom reach 1 or more unless allow_padd",
    ),
    (
        "cache-disk",
        "data: {cache: disk, augment: {enabled: true, views: 0}}\n",
        "3:15",
        "data: cache: disk keeps views that come again, and with augment.",
    ),
    ("cache-ram", "data: {cache: ram}\n", "3:15", "data.cache: should be 'memory' or 'disk', found the text \"ram\""),
    ("limit0", "data: {cache_limit_gb: 0}\n", "3:24", "data.cache_limit_gb: should be greater than 0, found 0"),
    ("both", "train: {epochs: 3}\n", "3:17", "train: should give either epochs or steps, found both"),
    (
        "neither",
        "train: {steps: null}\n",
        "v13_ablation.yaml",
        "train: should give either epochs or steps, found neither",
    ),
    ("minlr", "train: {min_lr: 1}\n", "3:17", "train: should have min_lr no larger than lr"),
    ("lrneg", "train: {lr: -1}\n", "3:13", "train.lr: should be greater than 0, found -1"),
    ("lr0", "train: {lr: 0}\n", "3:13", "train.lr: should be greater than 0, found 0"),
    ("betas", "train: {betas: [0.9, 1.0]}\n", "3:22", "train.betas[1]: should be less than 1, found 1.0"),
    ("betas1", "train: {betas: [0.9]}\n", "3:9", "train.betas[1]: a value is missing here"),
    ("prec", "train: {precision: fp16}\n", "3:20", "train.precision: should be 'fp32' or 'bf16', found the text \"fp1"),
    ("b0", "train: {batch_size: 0}\n", "3:21", "train.batch_size: should be greater than or equal to 1, found 0"),
    ("q0", "train: {queries: 0}\n", "3:18", "train.queries: should be greater than or equal to 1, found 0"),
    ("wneg", "train: {workers: -1}\n", "3:18", "train.workers: should be greater than or equal to 0, found -1"),
    ("clip", "train: {clip: 0}\n", "3:15", "train.clip: should be greater than 0, found 0"),
    ("loss", "train: {loss: mse}\n", "3:15", 'train.loss: unknown loss "mse"'),
    ("k-empty", "eval: {k: []}\n", "3:8", "eval.k: should be a list of at least 1, found 0"),
    ("k0", "eval: {k: [0]}\n", "3:12", "eval.k[0]: should be greater than or equal to 1, found 0"),
    ("kneg", "eval: {k: [-5]}\n", "3:12", "eval.k[0]: should be greater than or equal to 1, found -5"),
    ("kdup", "eval: {k: [16, 16]}\n", "3:8", "eval.k: lists 16 twice"),
    ("kint", "eval: {k: 16}\n", "3:11", "eval.k: should be a list, found 16"),
    ("kfloat", "eval: {k: [1.5]}\n", "3:12", "eval.k[0]: should be a valid integer, found 1.5"),
    ("kstr", "eval: {k: ['16']}\n", "3:12", 'eval.k[0]: should be a valid integer, found the text "16"'),
    ("knull", "eval: {k: [null, 16]}\n", "3:12", "eval.k[0]: should be a valid integer, found nothing"),
    ("knotprim", "eval: {k: [1, 8]}\n", "smoke.yaml", "report.primary.k: 16 is not one of eval.k, [1, 8]"),
    ("knest", "eval: {k: [[16]]}\n", "3:12", "eval.k[0]: should be a valid integer, found a list"),
    ("draws", "eval: {k1_draws: 0}\n", "3:18", "eval.k1_draws: should be greater than or equal to 1, found 0"),
    ("prot", "eval: {protocol: nyu}\n", "3:18", 'eval.protocol: unknown protocol "nyu"'),
    (
        "protup",
        "eval: {protocol: NYU_BTS}\n",
        "3:18",
        "eval.protocol: should be at most 64 of a-z, 0-9, '.', '_' and '-",
    ),
    ("evseed", "eval: {seed: -1}\n", "3:14", "eval.seed: should be greater than or equal to 0, found -1"),
    ("seeds-empty", "seeds: []\n", "3:1", "seeds: should be a list of at least 1, found 0"),
    ("seeds-neg", "seeds: [-1]\n", "3:9", "seeds[0]: should be greater than or equal to 0, found -1"),
    ("seeds-dup", "seeds: [0, 0]\n", "3:1", "seeds: lists 0 twice"),
    ("seed-int", "seeds: 0\n", "3:8", "seeds: should be a list, found 0"),
    (
        "loo-bad",
        "axes: {leave_one_out: [b9]}\n",
        "3:24",
        "axes.leave_one_out[0]: should be 'b1', 'b2', 'b3', 'routing', 'b",
    ),
    ("loo-dup", "axes: {leave_one_out: [b3, b3]}\n", "3:8", "axes.leave_one_out: lists b3 twice"),
    ("loo-str", "axes: {leave_one_out: b3}\n", "3:23", 'axes.leave_one_out: should be a list, found the text "b3"'),
    (
        "swap-slot",
        "axes: {swap: {rooting: [nearest]}}\n",
        "3:15",
        "axes.swap.rooting: should be 'encoder', 'neck', 'b1', 'b2', 'b3'",
    ),
    ("swap-name", "axes: {swap: {routing: [neerest]}}\n", "3:25", 'axes.swap.routing[0]: unknown routing "neerest"'),
    (
        "swap-str",
        "axes: {swap: {routing: nearest}}\n",
        "3:24",
        'axes.swap.routing: should be a list, found the text "nearest"',
    ),
    ("grid-path", "axes: {grid: {lr: [1]}}\n", "3:15", "axes.grid.lr: should be slot.option, such as routing.r"),
    (
        "grid-slot",
        "axes: {grid: {rooting.r: [1]}}\n",
        "3:15",
        "axes.grid.rooting.r: should be slot.option, such as routing.r",
    ),
    (
        "grid-dots",
        "axes: {grid: {routing.r.x: [1]}}\n",
        "3:15",
        "axes.grid.routing.r.x: should be slot.option, such as routing.r",
    ),
    ("grid-scalar", "axes: {grid: {routing.r: 8}}\n", "3:26", "axes.grid.routing.r: should be a list, found 8"),
    ("axis-unk", "axes: {leave_two_out: [b3]}\n", "3:8", "axes.leave_two_out: unknown key"),
    ("bl-unk", "baselines: [dpt]\n", "3:13", 'baselines[0]: unknown baseline "dpt"'),
    ("bl-str", "baselines: constant\n", "3:12", 'baselines: should be a list, found the text "constant"'),
    ("bl-null", "baselines: [null]\n", "3:13", "baselines[0]: should be a component, as a name or as {use: name,"),
    ("bl-enc", "baselines: [dav2_small]\n", "3:13", 'baselines[0]: unknown baseline "dav2_small"; there is a encoder '),
    ("rep-metric", "report: {primary: {metric: abs_rel}}\n", "3:28", 'report.primary.metric: unknown metric "abs_rel"'),
    ("rep-k", "report: {primary: {k: 3}}\n", "3:23", "report.primary.k: 3 is not one of eval.k, [1, 16]"),
    (
        "rep-family",
        "report: {family: [seeds]}\n",
        "3:19",
        "report.family[0]: should be 'leave_one_out', 'leave_group_out', ",
    ),
    ("rep-eq", "report: {equivalence: 2}\n", "3:23", "report.equivalence: should be less than 1, found 2"),
    ("prof-unk", "profiles: {p: {trian: {lr: 1}}}\n", "3:16", "trian: unknown key"),
    ("prof-val", "profiles: {p: {train: {lr: x}}}\n", "3:28", 'train.lr: should be a valid number, found the text "x"'),
    ("prof-name", "profiles: {P Q: {}}\n", "3:12", "profiles.P Q: should be at most 64 of a-z, 0-9, '.', '_' and '-'"),
    ("prof-null", "profiles: {p: null}\n", "3:15", "profiles.p: should be a mapping, found nothing"),
    ("prof-suite", "profiles: {p: {suite: x}}\n", "3:16", "profiles.p.suite: a profile cannot change this"),
    ("prof-prof", "profiles: {p: {profiles: {}}}\n", "3:16", "profiles.p.profiles: a profile cannot change this"),
    ("fb", "fallback: {profile: nope}\n", "3:21", 'fallback.profile: unknown profile "nope"'),
    ("fb-str", "fallback: nope\n", "3:11", 'fallback: should be a mapping, found the text "nope"'),
    ("fb-none", "fallback: {}\n", "3:1", "fallback.profile: this key is required"),
    ("step-unk", "axes: null\nsteps: {s: {set: {trian: 1}, checks: {}}}\n", "4:19", "trian: unknown key"),
    ("step-nochecks", "axes: null\nsteps: {s: {}}\n", "4:9", "steps.s.checks: this key is required"),
    (
        "step-metric",
        "axes: null\nsteps: {s: {checks: {below: {foo: 1}}}}\n",
        "4:30",
        "steps.s.checks.below.foo: unknown metric",
    ),
    ("step-null", "axes: null\nsteps: {s: null}\n", "4:12", "steps.s: should be a mapping, found nothing"),
    ("step-list", "axes: null\nsteps: {s: [1]}\n", "4:9", "steps.s: should be a mapping, found a list"),
    (
        "step-setlist",
        "axes: null\nsteps: {s: {set: [1], checks: {}}}\n",
        "4:13",
        "steps.s.set: should be a mapping, found a list",
    ),
    (
        "step-bl",
        "axes: null\nsteps: {s: {checks: {better_than: [nope]}}}\n",
        "4:36",
        'baselines[0]: unknown baseline "nope"',
    ),
    (
        "step-close",
        "axes: null\nsteps: {s: {checks: {close_to: {nope: 1.0}}}}\n",
        "4:33",
        'baselines[0]: unknown baseline "nope"',
    ),
    (
        "step-watched",
        "axes: null\nsteps: {s: {checks: {watched: {x: [2]}}}}\n",
        "4:32",
        "steps.s.checks.watched.x[1]: a value is missing here",
    ),
    (
        "step-base",
        "axes: null\nsteps: {s: {set: {suite: x}, checks: {}}}\n",
        "4:19",
        "steps.s.set.suite: a step cannot change this",
    ),
    (
        "step-name",
        "axes: null\nsteps: {S T: {checks: {}}}\n",
        "4:9",
        "base.name: should be at most 64 of a-z, 0-9, '.', '_' and '-', s",
    ),
    ("data-root", "data: {root: /x}\n", "3:8", "data.root: unknown key"),
    ("aug-unk", "data: {augment: {rotate: 5}}\n", "3:18", "data.augment.rotate: unknown key"),
    (
        "aug-flip",
        "data: {augment: {flip: 2}}\n",
        "3:24",
        "data.augment.flip: should be less than or equal to 1, found 2",
    ),
    (
        "aug-hue",
        "data: {augment: {hue: 0.6}}\n",
        "3:23",
        "data.augment.hue: should be less than or equal to 0.5, found 0.6",
    ),
    ("test-unk", "data: {test: nyu}\n", "3:14", 'data.test: unknown dataset "nyu"'),
    ("qs", "data: {query_sampler: grid}\n", "3:23", 'data.query_sampler: unknown query_sampler "grid"'),
    ("test-true", "data: {test: true}\n", "3:14", "data.test: should be a component, as a name or as {use: name, op"),
    ("base-name", "base: {name: 'A/B'}\n", "3:14", "base.name: should be at most 64 of a-z, 0-9, '.', '_' and '-', s"),
    ("toplevel", "lr: 1e-3\n", "3:1", "lr: unknown key"),
]
"""(id, the lines after HEAD, line:column or the shipped file that the value came from, what is said)."""

PLANNED: list[tuple[str, str | bytes, str, str]] = [
    ("opt-unk", "base: {b2: {use: local_cross_attention, layerz: 2}}\n", "3:41", "base.b2.layerz: unknown option"),
    (
        "opt-type",
        "base: {b2: {use: local_cross_attention, layers: two}}\n",
        "3:49",
        'base.b2.layers: should be a valid integer, found the text "two"',
    ),
    ("opt-rng", "base: {routing: {r: 0}}\n", "3:21", "base.routing.r: should be greater than or equal to 1, found 0"),
    (
        "opt-huge",
        "base: {routing: {r: 100000}}\n",
        "v13_ablation.yaml",
        "routing.r: 100000 anchors asked of 64 sites of L4 (8×8)",
    ),
    (
        "grid-opt",
        "axes: {grid: {routing.q: [1]}}\n",
        "3:15",
        'axes.grid.routing.q: routing "topk_attention" has no option "q"',
    ),
    (
        "grid-val",
        "axes: {grid: {routing.r: [0]}}\n",
        "3:27",
        "axes.grid.routing.r[0]: should be greater than or equal to 1, fo",
    ),
    (
        "grid-type",
        "axes: {grid: {routing.r: [x]}}\n",
        "3:27",
        "axes.grid.routing.r[0]: should be a valid integer, found the tex",
    ),
    (
        "loo-base",
        "axes: {leave_one_out: [b1]}\n",
        "3:24",
        'axes.leave_one_out[0]: b1 "local_tokens" names no stand-in (left',
    ),
    (
        "swap-same",
        "axes: {swap: {neck: [pyramid]}}\n",
        "3:22",
        "axes.swap.neck[0]: the same as the base: this ablation changes n",
    ),
    (
        "chain",
        "base: {b3: skip}\naxes: null\n",
        "v13_ablation.yaml",
        'routing: topk_attention reads "attention", which nothing before ',
    ),
    (
        "ds-opt",
        "data: {dataset: {train_scenes: 0}}\n",
        "3:32",
        "data.dataset.train_scenes: should be greater than or equal to 1,",
    ),
    ("ds-rootless", "data: {dataset: rgbd_folder}\n", "3:8", "data.dataset.root: this option is required"),
    (
        "pattern",
        "data: {dataset: {use: rgbd_folder, root: ., color: 'x'}}\n",
        "3:52",
        "data.dataset.color: should match pattern '^[^{}]*\\{id\\}[^{}]*$',",
    ),
    ("opt-use", "base: {b2: {use: local_cross_attention, use2: 1}}\n", "3:41", "base.b2.use2: unknown option"),
    ("sampler-opt", "data: {query_sampler: {use: uniform, x: 1}}\n", "3:38", "data.query_sampler.x: unknown option"),
    ("loss-opt", "train: {loss: {use: huber_silog, delta: no}}\n", "3:34", "train.loss.delta: unknown option"),
    ("bl-opt", "baselines: [{use: constant, x: 1}]\n", "3:29", "baselines[0].x: unknown option"),
]
"""As above, for `plan`: options and chains, which need the components."""

USAGE = "Usage: "
"""Said in Typer's own words, with the command's usage above them."""

COMMANDS: list[tuple[str, int, str]] = [
    # argv, split at blanks; "…" stands for the empty text
    ("frobnicate", 2, "No such command 'frobnicate'"),
    ("check", 2, "Missing argument 'SUITE'"),
    ("check smoke extra", 2, "unexpected extra argument"),
    ("check smoke --bogus", 2, "No such option: --bogus"),
    ("check smoke --profile", 2, "'--profile' requires an argument"),
    ("check smoke --profile nope", 2, 'smoke.yaml: unknown profile "nope"'),
    ("check v13_ablation --profile smoek", 2, 'unknown profile "smoek"\n  hint: did you mean "smoke"?'),
    ("check nosuch", 2, 'no suite "nosuch", as a file or among those shipped'),
    ("check ../nosuch.yaml", 2, 'no suite "../nosuch.yaml"'),
    ("check empty", 2, "empty: expected a suite's file, found a folder"),
    ("check pipe.yaml", 2, "pipe.yaml: expected a suite's file, found a pipe or a device"),
    ("check loop.yaml", 2, 'no suite "loop.yaml"'),
    ("check dangling.yaml", 2, 'no suite "dangling.yaml"'),
    ("check /dev/null", 2, "/dev/null: expected a suite's file, found a pipe or a device"),
    ("check /dev/zero", 2, "/dev/zero: expected a suite's file, found a pipe or a device"),
    ("check /proc/self/mem", 2, "/proc/self/mem: cannot read this file: Input/output error"),
    ("check junk.bin/x", 2, 'no suite "junk.bin/x"'),
    ("check junk.bin", 2, "junk.bin:1:1: not UTF-8 text"),
    ("check " + "a" * 300, 2, 'no suite "aaaa'),
    ("check two\nlines", 2, r"two\nlines: expected a suite's file, found a folder"),
    ("check …", 2, "expected a suite's file, found a folder"),
    ("check \x1b[31mred", 2, r'no suite "\x1b[31mred"'),
    ("check smоke", 2, 'no suite "smоke"'),  # a Cyrillic о
    ("check - ", 2, 'no suite "-"'),
    ("check /etc/passwd", 2, "/etc/passwd:1:1: expected a mapping of keys at the top"),
    ("check smoke --set …", 2, "--set : expected path.to.key=value"),
    ("check smoke --set =", 2, "--set =: expected path.to.key=value"),
    ("check smoke --set x", 2, "--set x: expected path.to.key=value"),
    ("check smoke --set =3", 2, "--set =3: expected path.to.key=value"),
    ("check smoke --set a..b=3", 2, "--set a..b=3: expected path.to.key=value"),
    ("check smoke --set .a=3", 2, "--set .a=3: expected path.to.key=value"),
    ("check smoke --set a.=3", 2, "--set a.=3: expected path.to.key=value"),
    ("check smoke --set train.lr=", 2, "--set train.lr=: expected path.to.key=value"),
    ("check smoke --set train.lr=[1", 2, "--set train.lr=[1: not valid YAML"),
    ("check smoke --set train.lr=&x", 2, "anchors (&x) are not allowed"),
    ("check smoke --set train.lr=.nan", 2, ".nan is not a finite number"),
    ("check smoke --set train.lr=1e999", 2, "1e999 is not a finite number"),
    ("check smoke --set train.lr=!!python/name:os.system", 2, "tags (tag:yaml.org,2002:python/name:os.system)"),
    ("check smoke --set train.steps=many", 2, 'train.steps: should be a valid integer, found the text "many"'),
    ("check smoke --set train.steps=1.5", 2, "train.steps: should be a valid integer, found 1.5"),
    ("check smoke --set eval.k=[0]", 2, "eval.k[0]: should be greater than or equal to 1, found 0"),
    ("check smoke --set eval.k=[]", 2, "eval.k: should be a list of at least 1, found 0"),
    ("check smoke --set eval.k=16", 2, "eval.k: should be a list, found 16"),
    ("check smoke --set nonsense=1", 2, "--set nonsense=1: nonsense: unknown key"),
    ("check smoke --set train.stesp=1", 2, 'train.stesp: unknown key\n  hint: did you mean "steps"?'),
    ("check smoke --set base.b4=nope", 2, 'base.b4: unknown b4 "nope"'),
    ("check smoke --set base.b4.use=os:system", 2, 'base.b4: unknown b4 "os:system"'),
    ("check smoke --set suite=X/Y", 2, "suite: should be at most 64 of a-z"),
    ("check smoke --set extends=smoke", 2, "extends: can only be given in the file itself"),
    ("check smoke --set \x1b=1", 2, r'--set \x1b=1: "\x1b": unknown key'),
    ("check smoke --set base=null", 2, "base: this key is required"),
    ("check smoke --set " + "a." * 200 + "b=1", 2, "expected path.to.key=value"),
    ("check smoke --data nowhere", 3, "--data nowhere: no such file or folder"),
    ("check smoke --data empty", 3, "--data empty: no data set has this layout"),
    ("check smoke --data junk.bin", 3, "--data junk.bin: no data set has this layout"),
    ("check smoke --data pipe.yaml", 3, "--data pipe.yaml: expected a file or folder, found a pipe or a device"),
    ("check smoke --data /dev/zero", 3, "expected a file or folder, found a pipe or a device"),
    ("check smoke --data …", 2, "--data: expected a path, found nothing"),
    ("plan smoke --only nope", 2, '--only: no composition "nope"'),
    ("plan smoke --skip nope", 2, '--skip: no composition "nope"'),
    ("plan smoke --json=x", 2, "'--json' does not take a value"),
    ("plan nosuch", 2, 'no suite "nosuch"'),
    ("plan smoke --set data.dataset.use=packed", 2, "data.dataset.root: this option is required"),
    ("plan smoke --data wild --only v13", 3, "wild/rgb/0.png: expected an image, found a damaged or foreign file"),
    ("run nosuch", 2, 'no suite "nosuch"'),
    ("run smoke --device abacus", 2, '--device: unknown device "abacus"'),
    ("run smoke --device …", 2, '--device: unknown device ""'),
    ("run smoke --device cpu:x", 2, '--device: unknown device "cpu:x"'),
    ("run smoke --device meta", 2, '--device: unknown device "meta"'),
    ("run smoke --device cuda:99", 3, "--device cuda:99: there are"),
    ("run smoke --set train.steps=0", 2, "train.steps: should be greater than or equal to 1, found 0"),
    ("run smoke --data nowhere", 3, "--data nowhere: no such file or folder"),
    ("compare", 2, "no suite has been run below runs"),
    ("compare nosuch", 2, 'suite "nosuch" has not been run below runs'),
    ("compare --k x", 2, "Invalid value for '--k'"),
    ("compare --format pdf", 2, "Invalid value for '--format'"),
    ("compare --runs junk.bin", 2, "no suite has been run below junk.bin"),
    ("profile smoke --k 0", 2, '--k: expected positive whole numbers with commas, found "0"'),
    ("profile smoke --k 1,,2", 2, '--k: expected positive whole numbers with commas, found "1,,2"'),
    ("profile smoke --k -5", 2, "--k"),
    ("profile smoke --k 1e3", 2, '--k: expected positive whole numbers with commas, found "1e3"'),
    ("profile smoke --k …", 2, '--k: expected positive whole numbers with commas, found ""'),
    ("profile smoke --k ²", 2, '--k: expected positive whole numbers with commas, found "²"'),
    ("profile smoke --training 8", 2, '--training: expected 2 positive whole numbers with commas, found "8"'),
    ("profile smoke --rounds 1", 2, "Invalid value for '--rounds'"),
    ("profile smoke --threads 0", 2, "Invalid value for '--threads'"),
    ("profile smoke --precision fp16", 2, '--precision: unknown precision "fp16"'),
    ("profile smoke --device abacus", 2, '--device: unknown device "abacus"'),
    ("why nowhere nowhere", 2, "nowhere: no run.json there"),
    ("why empty empty", 2, "empty: no run.json there"),
    ("list rooting", 2, 'unknown slot "rooting"\n  hint: did you mean "routing"?'),
    ("list --chekc", 2, "No such option: --chekc"),
    ("describe nope", 2, 'no component "nope"'),
    ("describe b4/nope", 2, 'no component "b4/nope"'),
    ("describe b9/skip", 2, 'unknown slot "b9"'),
    ("describe …", 2, 'no component ""'),
    ("describe os:system", 2, 'no component "os:system"'),
    ("describe b4/two\nlines", 2, r'no component "b4/two\nlines"'),
    ("params nosuch", 2, 'no suite "nosuch"'),
    ("score nowhere.npy", 2, "Missing option '--name'"),
    ("score nowhere.npy --name x --suite smoke", 3, "nowhere.npy: there are no predictions here"),
    ("score junk.bin --name x --suite smoke", 3, "junk.bin: expected .npy, .h5, .hdf5 or a folder, found .bin"),
    ("score pipe.yaml --name x --suite smoke", 3, "pipe.yaml: expected a file or folder, found a pipe or a device"),
    ("score empty --name x --suite smoke", 3, "empty: 4 of 4 test frames have no prediction"),
    ("score empty --name A/B --suite smoke", 2, '"A/B" is no name for a row'),
    ("score empty --name x --suite smoke --unit yards", 2, '--unit: unknown unit "yards"'),
    ("score empty --name x --suite smoke --unit nan", 2, '--unit: unknown unit "nan"'),
    ("score empty --name x --suite smoke --unit 0", 2, '--unit: unknown unit "0"'),
    ("score empty --name x --suite smoke --quantity depht", 2, '--quantity: unknown value "depht"'),
    ("score empty --name x --suite smoke --align lsq", 2, '--align: unknown value "lsq"'),
    ("score empty --name x --suite smoke --names nowhere.txt", 2, "files in a folder have names already"),
    ("data frobnicate", 2, "No such command 'frobnicate'"),
    ("data inspect nowhere", 3, "nowhere: no such file or folder"),
    ("data inspect empty", 3, "empty: no data set has this layout"),
    ("data inspect junk.bin", 3, "junk.bin: no data set has this layout"),
    ("data inspect pipe.yaml", 3, "pipe.yaml: expected a file or folder, found a pipe or a device"),
    ("data inspect empty --dataset nope", 2, 'unknown dataset "nope"'),
    ("data inspect empty --dataset synthetic_rooms", 2, 'data set "synthetic_rooms" is not read from a path'),
    ("data inspect empty --dataset rgbd_folder --protocol nope", 2, 'unknown protocol "nope"'),
    ("data inspect empty --limit 0", 2, "Invalid value for '--limit'"),
    ("data prepare nowhere out.h5", 3, "nowhere: no such file or folder"),
    ("data prepare empty out.h5", 3, "empty: no data set has this layout"),
    ("data prepare empty", 2, "Missing argument"),
    ("data prepare empty out.h5 --option x", 2, "--option x: expected path.to.key=value"),
    ("data prepare empty out.h5 --option a=1 --dataset rgbd_folder", 2, "a: unknown option"),
    ("data prepare empty out.h5 --workers 0", 2, "Invalid value for '--workers'"),
    ("cache rm", 2, "cache rm: give one of KEY, --all, --older-than and --to-limit"),
    ("cache rm abc --all", 2, "cache rm: give one of KEY, --all, --older-than and --to-limit"),
    ("cache rm abc", 2, 'no key begins with "abc"'),
    ("cache rm --to-limit nan", 2, "Invalid value for '--to-limit'"),
    ("cache rm --older-than -1", 2, "Invalid value for '--older-than'"),
    ("cache verify abc", 2, 'no key begins with "abc"'),
    ("cache build nosuch", 2, 'no suite "nosuch"'),
    ("weights check nowhere", 3, "nowhere: no such file or folder"),
    ("weights check junk.bin", 3, "junk.bin: no encoder knows this file"),
    ("weights check empty", 3, "empty: no encoder knows this file"),
    ("weights check pipe.yaml", 3, "pipe.yaml: no encoder knows this file"),
    ("weights check /dev/zero", 3, "/dev/zero: no encoder knows this file"),
]

BY_SCRIPT = [
    "check smoke --bogus",
    "check nosuch",
    "check pipe.yaml",
    "check /dev/zero",
    "check two\nlines",
    "check \x1b[31mred",
    "check smoke --set train.lr=.nan",
    "check smoke --set train.steps=many",
    "check smoke --data nowhere",
    "check smoke --data /dev/zero",
    "compare",
    "list rooting",
    "cache rm",
    "data inspect pipe.yaml",
    "frobnicate",
]
"""Rows of `COMMANDS` that are run by the installed script in a process of its own, too."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it took of the processor."""

    code: int
    out: str
    err: str
    seconds: float


Command = Callable[..., Done]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """What one process imports once is not a case's own time."""
    from spd_bench import registry
    from spd_bench.run.preview import plan_suite
    from spd_bench.run.request import Request

    for name in registry.names("dataset"):
        registry.load("dataset", name)
    plan_suite(Request(suite="smoke"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with everything that is no suite; no colours; time is measured here, not in a pinned child."""
    monkeypatch.chdir(tmp_path)
    for name in ("DAV2_WEIGHTS", "SPD_BENCH_RUNS", "SPD_BENCH_PLUGINS", "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(timing, "is_pinned", lambda threads: True)
    Path("empty").mkdir()
    Path("two\nlines").mkdir()
    Path("junk.bin").write_bytes(b"\xff" * 50)
    Path("wild/rgb").mkdir(parents=True)
    Path("wild/depth").mkdir()
    Path("wild/rgb/0.png").write_bytes(b"\x89PNG")
    Path("wild/depth/0.png").write_bytes(b"\x89PNG")
    os.mkfifo("pipe.yaml")
    os.symlink("loop.yaml", "loop.yaml")
    os.symlink("nowhere.yaml", "dangling.yaml")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the entry point of the console script in this process."""

    def run(*args: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["spd-bench", *args])
        start = time.process_time()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capsys.readouterr(), time.process_time() - start)

    return run


def lie_here() -> list[str]:
    """Everything in the working folder, with sizes."""
    found = (path for path in Path().rglob("*"))
    return sorted(f"{path} {path.lstat().st_size if path.is_file() else ''}" for path in found)


def assert_refused(done: Done, code: int, message: str, before: list[str]) -> None:
    """One message of one line, with a hint perhaps, or a line per problem; nothing else anywhere."""
    assert (done.code, done.out) == (code, ""), done
    assert message in done.err
    assert lie_here() == before
    assert done.seconds < LONGEST_S
    for never in ("Traceback", "bug in spd-bench", "\x1b"):
        assert never not in done.err
    if USAGE in done.err or "╭─ Error" in done.err:
        return
    first, *others = done.err.splitlines()
    assert first.startswith("error: ")
    assert all(re.match(rf"  hint: |{FILE}:\d|  \S|\S*suites/\w+\.yaml:\d", line) for line in others), done.err
    assert max(map(len, done.err.splitlines())) < 1000


def refused_text(command: Command, name: str, text: str | bytes, where: str, message: str) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    Path(FILE).write_bytes(raw)
    before = lie_here()
    done = command(name, FILE)
    place = FILE if where == FILE else where if "yaml" in where else f"{FILE}:{where}: "
    assert_refused(done, 2, message, before)
    assert place in done.err


@pytest.mark.parametrize(("text", "where", "message"), [pytest.param(*row[1:], id=row[0]) for row in WHOLE])
def test_file(command: Command, text: str | bytes, where: str, message: str) -> None:
    refused_text(command, "check", text, where, message)


@pytest.mark.parametrize(("text", "where", "message"), [pytest.param(*row[1:], id=row[0]) for row in EXTENDING])
def test_suite(command: Command, text: str, where: str, message: str) -> None:
    refused_text(command, "check", HEAD + text, where, message)


@pytest.mark.parametrize(("text", "where", "message"), [pytest.param(*row[1:], id=row[0]) for row in PLANNED])
def test_plan(command: Command, text: str, where: str, message: str) -> None:
    refused_text(command, "plan", HEAD + text, where, message)


def argv(line: str) -> list[str]:
    return ["" if part == "…" else part for part in line.split(" ") if part]


@pytest.mark.parametrize(("line", "code", "message"), COMMANDS, ids=[repr(row[0])[1:-1][:50] for row in COMMANDS])
def test_command(command: Command, line: str, code: int, message: str) -> None:
    before = lie_here()
    assert_refused(command(*argv(line)), code, message, before)


@pytest.mark.parametrize("line", BY_SCRIPT, ids=[repr(line)[1:-1] for line in BY_SCRIPT])
def test_script(line: str) -> None:
    ((code, message),) = [row[1:] for row in COMMANDS if row[0] == line]
    before = lie_here()
    command = [SCRIPT, *argv(line)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", timeout=30)
    assert_refused(Done(done.returncode, done.stdout, done.stderr, 0.0), code, message, before)


def test_the_corpus_is_large_and_every_row_is_another() -> None:
    texts = [row[1] for table in (WHOLE, EXTENDING, PLANNED) for row in table]
    lines = [row[0] for row in COMMANDS]
    assert len(texts) + len(lines) >= 150
    assert len(BY_SCRIPT) >= 15
    assert len({str(text) for text in EXTENDING}) == len(EXTENDING)
    assert len(set(lines)) == len(lines)


CHECKED = """
import sys
from spd_bench import cli
sys.argv = ["spd-bench", "check", "v13_ablation"]
try:
    cli.main()
finally:
    heavy = {"torch", "scipy", "h5py", "mlflow", "PIL", "optuna", "transformers", "pandas", "matplotlib", "safetensors"}
    print(sorted(heavy & set(sys.modules)))
"""


def test_check_imports_no_component_and_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "[]"
    # of the processor, as other processes may have the cores; it takes 0.4
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


# ------------------------------------------------------------------------------------------- by the hundred


def refusal(name: str, profile: str | None = None) -> ConfigError | None:
    """What `load_suite` says against a suite; any other exception ends the test."""
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
