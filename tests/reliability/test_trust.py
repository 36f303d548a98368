"""What is trusted and what is not: no dangerous call in our packages, suites that name entry points only, and reports
in which nothing that somebody else wrote can act.
"""

import ast
import csv
import io
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from spd_bench import registry
from spd_bench.cost.timing import DecodeWork, Settings, Timing, Work
from spd_bench.errors import ConfigError, printable, quoted
from spd_bench.profile.results import ModelProfile, Profile, TrainingShape
from spd_bench.profile.tables import profile_markdown, profile_terminal
from spd_bench.report.comparison import Comparison, MetricInfo, Row
from spd_bench.report.html import html_report
from spd_bench.report.sortable import script
from spd_bench.report.tables import render
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import MODEL_SLOTS
from spd_bench.sweep.page import sweep_page
from spd_bench.sweep.tables import SweepSummary, TrialRow, terminal

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("spd_bench", "components/spd_components", "components/spd_rooms", "baselines/spd_baselines")
    for path in (ROOT / folder).rglob("*.py")
)

ALLOWED = {
    ("spd_bench/data/pack.py", "pickle.loads"): "bytes that its own parent process made, and never a file",
    ("spd_bench/process/worker.py", "importlib.import_module"): "a function of ours, named by its own parent process",
    (
        "spd_bench/data/reading/depth_files.py",
        "importlib.import_module",
    ): "the OpenEXR package, an optional extra, by a name that is fixed in the code",
    (
        "spd_bench/explore/serve.py",
        "socket.socket",
    ): "listens on the loopback address alone, behind a guard with a token (tests/explore)",
    (
        "baselines/spd_baselines/callable_row.py",
        "importlib.import_module",
    ): "a module that the user's own suite names, to be run as a row of the table",
    (
        "spd_bench/export/folder.py",
        "spec.loader.exec_module",
    ): "the file that this export has just written from the package's own text",
    (
        "spd_bench/testing/trees.py",
        "pickle.loads",
    ): "a kit's copy of a component as another process would get it",
}
"""(file, call) → why it is no danger."""

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.load",
    "marshal.loads", "shelve.open", "dill.load", "joblib.load", "yaml.load", "yaml.unsafe_load", "tempfile.mktemp",
    "pandas.read_pickle", "torch.hub.load", "torch.jit.load", "xml.etree.ElementTree.parse", "runpy.run_path",
    "importlib.import_module", "webbrowser.open", "urllib.request.urlopen", "requests.get", "socket.socket",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "extract", "load_module", "exec_module", "torch_save"}
FORBIDDEN_IMPORTS = {"dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "telnetlib", "ftplib", "requests"}


# ------------------------------------------------------------------------------------------------ our source


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangers(source: str) -> Iterator[str]:
    """Returns what a source file does and must not do."""
    for name, call in calls(source):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN_CALLS or name.rpartition(".")[2] in FORBIDDEN_METHODS:
            yield name
        if given.get("shell", "False") != "False":
            yield f"{name} with a shell"
        if name == "torch.load" and given.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
            yield f"{name} without allow_pickle=False"
        if name.endswith("Environment") and given.get("autoescape", "True") != "True":
            yield "a template without escapes"
        if name.endswith("Environment") and "jinja" not in name and "autoescape" not in given:
            yield "a template without escapes"
        if name.endswith("YAML") and given.get("typ") != "'safe'":
            yield "YAML that is not safe"
        if name.endswith("from_pretrained") and given.get("trust_remote_code", "False") != "False":
            yield "code from a model hub"
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (f"import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_IMPORTS)


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_file_of_ours_does_what_data_could_abuse(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = [danger for danger in dangers(path.read_text(encoding="utf-8")) if (name, danger) not in ALLOWED]
    assert found == []


def test_every_allowance_is_used() -> None:
    for name, call in ALLOWED:
        assert call in list(dangers((ROOT / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import os\nos.system('x')",
        "import pickle\npickle.loads(b'')",
        "subprocess.run('x', shell=True)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
        "tar.extractall('x')",
        "tempfile.mktemp()",
        "import yaml\nyaml.load('x')",
        "YAML()",
        "Environment(loader=x)",
        "Environment(autoescape=False)",
        "from dill import load",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(dangers(source))


def test_ruffs_security_rules_are_on_and_hardly_any_is_off() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert {rule for rule in lint["ignore"] if rule.startswith("S") and rule[1:].isdigit()} == {"S101", "S311"}
    for pattern, rules in lint["per-file-ignores"].items():
        assert not [rule for rule in rules if rule.startswith("S") and rule[1:].isdigit()] or pattern == "tests/**"


# ------------------------------------------------------------------------------------------------ entry points

PATHS = [
    *(
        "os:system",
        "os.system",
        "spd_components.blocks.skip:SkipB4",
        "spd_components.blocks.skip.SkipB4",
        "builtins:eval",
    ),
    *("./plugin.py", "plugin.py:Evil", "/tmp/plugin.py", "file:///tmp/plugin.py", "https://host/plugin.py"),  # noqa: S108
    *(
        "git+https://host/x",
        "spd-bench:os:system",
        "..",
        "__import__('os')",
        "!!python/name:os.system",
        ":skip",
        "skip:",
    ),
]


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that leaves a file behind if anything imports it."""
    touched = tmp_path / "imported"
    (tmp_path / "plugin.py").write_text(f"open({str(touched)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return touched


@pytest.mark.parametrize("path", [*PATHS, "plugin:Evil", "plugin"])
def test_a_suite_names_entry_points_and_never_imports_a_path(path: str, tripwire: Path) -> None:
    for slot in (*MODEL_SLOTS, "baseline", "dataset", "query_sampler", "loss", "metric"):
        with pytest.raises(ConfigError, match=r"unknown|spd-bench"):
            registry.load(slot, path)
    Path("mine.yaml").write_text(f'suite: mine\nextends: smoke\nbase: {{b4: "{path}"}}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown b4"):
        load_suite("mine.yaml")
    assert not tripwire.exists()
    assert "plugin" not in sys.modules


def test_our_own_entry_points_lie_in_our_own_packages() -> None:
    own = {
        point.value.partition(":")[0].partition(".")[0]
        for slot in registry.SLOTS
        for point in entry_points(group=f"spd_bench.{slot}")
        if point.dist is not None and point.dist.name == registry.OWN
    }
    assert own == {"spd_bench", "spd_components", "spd_baselines", "spd_rooms"}


# ------------------------------------------------------------------------------------------------ reports

INJECTIONS = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script href='//evil'/></svg>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</pre><iframe src=//evil>",
    "</textarea><object data=//evil>",
    "<!--<img src=x onerror=alert(1)>-->",
    "--><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<a href=javascript:alert(1)>x</a>",
    "javascript:alert(1)",
    "<base href=//evil>",
    "<meta http-equiv=refresh content='0;url=//evil'>",
    "<link rel=stylesheet href=//evil>",
    "<form action=//evil><input name=x>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "{{7*7}}{% raw %}{{config}}",
    "{{''.__class__.__mro__[1].__subclasses__()}}",
    "${7*7}#{7*7}<%= 7*7 %>",
    "\u202e\u2066<b>right to left\u2069",
    "$\\frac{1}{0}$ \\input{/etc/passwd} \x1b[31m \x07",
    '=HYPERLINK("//evil","x")',
    "+cmd|' /C calc'!A0",
]
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "p", "strong", "ul", "li", "div"),
    *("table", "thead", "tbody", "tr", "th", "td", "br", "figure", "img", "figcaption", "dl", "dt", "dd", "pre"),
}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "role", "src", "alt", "style"}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.other: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def handle_pi(self, data: str) -> None:
        self.other.append(data)

    def unknown_decl(self, data: str) -> None:
        self.other.append(data)


def compared(evil: str) -> Comparison:
    """A comparison in which everything that is somebody's text is `evil`."""

    def row(name: str, kind: str, **changes: Any) -> Row:
        fields = {
            "name": name,
            "kind": kind,
            "axis": evil,
            "difference": evil,
            "gt_aligned": False,
            "trainable_parameters": 10,
            "seeds": (0, 1),
            "values": {("absrel", k): (0.1, 0.2) for k in (1, 64)},
            "seconds": {"train": 1.0},
            "stand_ins": (evil,),
            "failure": None,
            "aliases": (evil + "2",),
        }
        return Row(**fields | changes)

    return Comparison(
        suite=evil,
        profile=evil,
        dataset=evil,
        protocol=evil,
        images=16,
        stand_ins=(evil,),
        primary=("absrel", 64),
        ks=(1, 64),
        metrics=(MetricInfo(name="absrel", unit=evil, lower_is_better=True, formula=evil, aggregation=evil),),
        rows=(
            row("base", "base", axis="", difference="", aliases=()),
            row(evil, "ablation"),
            row("failed " + evil, "ablation", values={}, seeds=(), failure=evil),
            row("external " + evil, "external", seeds=(), values={("absrel", k): (0.3,) for k in (1, 64)}),
            row("aligned " + evil, "baseline", gt_aligned=True),
        ),
        provenance={"command " + evil: evil, "plugins": evil, "data": evil},
        sources=(evil,),
    )


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_nothing_acts_in_the_page(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.report.html._figures", lambda *_: [{"source": "data:,", "caption": evil}])
    watched = [{"run": evil, evil: evil}]
    text = html_report(compared(evil), {evil: [(0, 1.0)]}, configuration=evil, watched=watched)
    assert text.count(f"<script>{script()}</script>") == 1
    page = Page(text.replace(f"<script>{script()}</script>", ""))
    assert page.tags <= TAGS | {"details", "summary"}
    assert {name for name, _ in page.attributes} <= ATTRIBUTES | {"open", "data-sort"}
    assert all((value or "").startswith("data:") for name, value in page.attributes if name == "src")
    assert page.other == []
    assert not [value for name, value in page.attributes if name == "style" and "url" in (value or "")]
    assert "".join(page.text).count(evil) > 10  # shown as it is
    assert "default-src 'none'" in text


@pytest.mark.parametrize("evil", INJECTIONS[::8])  # drawing takes a while
def test_figures_hold_no_script_and_no_reference(evil: str) -> None:
    from spd_bench.profile.figures import profile_svg
    from spd_bench.report.figures import curves_svg, primary_svg
    from spd_bench.sweep.figures import figures

    drawn = [primary_svg(compared(evil)), curves_svg({evil: [(0, 1.0), (1, 0.5)]}), profile_svg(profiled(evil))]
    for svg in drawn + [svg for svg, _ in figures(replace(swept(evil), directions={evil: True, "parameters": True}))]:
        outside_comments = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
        assert not re.search(r"<(script|image|foreignObject|iframe|a)\b|\son\w+\s*=", outside_comments)
        assert set(re.findall(r"href=\"(.)", outside_comments)) <= {"#"}


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_markdown_shows_the_text_and_holds_no_html(evil: str) -> None:
    text = render(compared(evil), format="markdown")
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)\]\(", text)


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_no_cell_of_a_csv_is_a_formula(evil: str) -> None:
    text = render(compared(evil), format="csv")
    for delimiter in ",;\t":  # whichever a spreadsheet takes
        for line in text.splitlines():
            cells = next(csv.reader(io.StringIO(line), delimiter=delimiter))
            for cell in cells if delimiter == "," else cells[1:]:
                number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell.strip())
                assert number or not cell.strip().startswith(("=", "+", "-", "@")), cell


def swept(evil: str) -> SweepSummary:
    """A sweep in which everything that is somebody's text is `evil`."""

    def trial(number: int, state: str, **changes: Any) -> TrialRow:
        notes = dict.fromkeys(("worker", "identity", "folder", "difference", "note", evil), evil)
        fields = {"values": {evil: evil, "routing.r": number}, "constraints": {evil: 1.0}, "notes": notes, "seconds": 1}
        if state == "complete":
            fields["objectives"] = {evil: 0.1 * number, "parameters": 3.0}
        return TrialRow(number=number, state=state, **fields | changes)

    trials = [trial(1, "complete"), trial(2, "complete"), trial(3, "failed", notes={"failure": evil})]
    about: dict[str, Any] = dict.fromkeys(("suite_path", "profile", "why", "dataset", "protocol", "device"), evil)
    about |= {"stand_ins": [evil], "images": 2, "suite": {evil: evil}, "test": {evil: 0.1}}
    about["sweep"] = {"sweep": evil, "suite": evil, "description": evil, "space": {evil: {"choice": [evil]}}}
    return SweepSummary(
        study=evil,
        about=about,
        directions={evil: True},
        total=3,
        trials=trials,
        best=trials[:1],
        importances={evil: 1.0},
        others=[evil],
    )


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_nothing_acts_in_the_page_of_a_sweep(evil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.sweep.page.figures", lambda summary: [(f"<svg>{evil}</svg>", evil)])
    for directions in ({evil: True}, {evil: True, "parameters": True}):  # a best trial, a front
        text = sweep_page(replace(swept(evil), directions=directions))
        page = Page(text)
        assert page.tags <= TAGS
        assert {name for name, _ in page.attributes} <= ATTRIBUTES
        sources = [value or "" for name, value in page.attributes if name == "src"]
        assert [source.partition(",")[0] for source in sources] == ["data:image/svg+xml;base64"]
        assert page.other == []
        assert "".join(page.text).count(printable(evil)) > 10  # shown as it is, but for what no terminal should get
        assert "default-src 'none'" in text
    assert not Page(sweep_page(swept("x")).replace("<h1>", "<h1><script>x</script>")).tags <= TAGS


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_what_a_sweep_prints_holds_no_terminal_code(evil: str) -> None:
    text = terminal(swept(f"{evil}\n{evil}"))
    assert all(line.isprintable() for line in text.splitlines())


def profiled(evil: str) -> Profile:
    """A profile in which everything that is somebody's text is `evil`."""
    timed, decode = Timing((1.0, 2.0)), {64: Timing((1.0, 2.0))}
    models = [
        ModelProfile(
            name=name,
            kind=kind,
            parameters=1,
            prepare=timed,
            decode=decode,
            prepare_peak=1,
            decode_peak={64: 1},
            prepare_work={evil: Work(1, 1)},
            decode_work={evil: DecodeWork(Work(1, 1), Work(1, 1))},
            step=timed,
        )
        for name, kind in ((evil, "base"), (evil + "2", "ablation"), ("dpt_trained", "baseline"))
    ]
    settings = {"device": evil, "machine": evil, "precision": evil, "torch": evil, "environment": {evil: evil}}
    return Profile(
        suite=evil,
        profile=evil,
        encoder=evil,
        image_size=(56, 56),
        stand_ins=(evil,),
        ks=(64,),
        rounds=2,
        settings=Settings(**settings, cores=2, threads=1, interop_threads=1, load=0.0),
        encode=timed,
        models=tuple(models),
        skipped={evil: evil},
        training=TrainingShape(1, 1),
        versions={evil: evil},
        finished=evil,
    )


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_a_profile_as_markdown_holds_no_html(evil: str) -> None:
    text = profile_markdown(profiled(evil))
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)\]\(", text)
    assert all(line.isprintable() for line in text.splitlines())
    assert all(line.isprintable() for line in profile_terminal(profiled(evil)).splitlines())


def test_the_test_of_the_page_would_see_a_script() -> None:
    text = html_report(compared("x"), {}, configuration="x").replace("<h1>", "<h1><script>x</script>")
    assert not Page(text).tags <= TAGS


@pytest.mark.parametrize("evil", INJECTIONS, ids=range(len(INJECTIONS)))
def test_a_message_holds_no_terminal_code_and_no_second_line(evil: str) -> None:
    message = str(ConfigError(f"unknown {quoted(evil)}", where=f"a\n{evil}.yaml:1:1", hint=evil))
    first, *hint = message.splitlines()
    assert len(hint) == 1
    assert all(character.isprintable() for character in first + hint[0])
    assert printable(evil).isprintable()


def test_a_failed_row_says_so_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.report.html._figures", lambda *_: [])
    every = compared("<b>")
    rows = [replace(row, failure=None) for row in every.rows]
    assert "FAILED" not in html_report(replace(every, rows=tuple(rows)), {}, configuration="")
    assert "FAILED" in html_report(every, {}, configuration="")
