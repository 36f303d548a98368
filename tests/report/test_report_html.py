"""The page is self-contained, says what stands in for what, and nothing that a name holds acts in it."""

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from spd_bench.pictures.album import album
from spd_bench.pictures.breakdown import by_part
from spd_bench.pictures.choose import Contrast
from spd_bench.pictures.scene import PictureScene, Rendering
from spd_bench.report.comparison import Comparison, MetricInfo, Row
from spd_bench.report.figures import by_k_svg, curves_svg, primary_svg
from spd_bench.report.html import html_report
from spd_bench.report.sortable import script, sortable

HOSTILE = "<script>alert(1)</script>\"' onload='x' {{7*7}} {% raw %} $\\frac$ </pre> --> ]]> &amp;"
VOID = {"meta", "img", "br"}


def row(name, level, *, kind="ablation", **changes):
    values = {(m, k): (level + k / 1e5, level + 0.01) for m in ("absrel", "rmse") for k in (1, 64)}
    fields = {
        "name": name,
        "kind": kind,
        "axis": "swap",
        "difference": f"{name} differs",
        "gt_aligned": False,
        "trainable_parameters": 10,
        "seeds": (0, 1),
        "values": values,
        "seconds": {"train": 1.0},
        "stand_ins": (),
        "failure": None,
        "aliases": (),
    }
    return Row(**fields | changes)


def metric(name, **changes):
    fields = {"name": name, "unit": "", "lower_is_better": True, "formula": "mean", "aggregation": "per image"}
    return MetricInfo(**fields | changes)


BASE = row("base", 0.1, kind="base")
FAILED = row("lost", 0.1, seeds=(), values={}, failure="out of memory")
ALIGNED = row("dense_fit", 0.01, kind="baseline", gt_aligned=True)
CONSTANT = row("constant", 0.9, kind="baseline")
CURVES = {"base": [(0, 0.9), (10, 0.2)], "sick": [(0, math.nan), (10, math.inf)]}


def comparison(*rows, **changes):
    fields = {
        "suite": "v13_ablation",
        "profile": "smoke",
        "dataset": "synthetic rooms",
        "protocol": "nyu_bts",
        "images": 16,
        "stand_ins": ("synthetic rooms instead of NYU",),
        "primary": ("absrel", 64),
        "ks": (1, 64),
        "metrics": (metric("absrel"), metric("rmse", unit="m")),
        "rows": rows,
        "provenance": {"git": "0123abc", "machine": "2 cores"},
    }
    return Comparison(**fields | changes)


PLAIN = comparison(BASE, row("without_b4", 0.12), FAILED, CONSTANT, ALIGNED)


class Page(HTMLParser):
    """Tags, attributes and text of a page, and whether its elements nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def images(page):
    sources = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    return [base64.b64decode(source.removeprefix("data:image/svg+xml;base64,")).decode() for source in sources]


def test_the_page_says_everything_once():
    text = html_report(PLAIN, CURVES, configuration="base:\n  b1: local_tokens\n")
    page = Page(text)
    shown = "".join(page.text)
    assert "STAND-INS: synthetic rooms instead of NYU" in shown
    assert ("p", "class", "stand-ins") in page.attributes
    for said in ("Exploratory", "FAILED lost: out of memory", "0123abc", "base:\n  b1: local_tokens\n", "rmse [m]"):
        assert said in shown
    assert page.tags.count("table") == 6  # two sections each: the main table, absrel and rmse at every K
    assert len(images(page)) == 3
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))


def test_without_curves_there_is_no_figure_of_them_and_no_banner_without_stand_ins():
    page = Page(html_report(comparison(BASE, stand_ins=()), {}, configuration=""))
    assert len(images(page)) == 2
    assert ("p", "class", "stand-ins") not in page.attributes


def test_a_comparison_of_gt_aligned_rows_alone_has_a_page():
    assert images(Page(html_report(comparison(ALIGNED), {}, configuration=""))) == []


def test_hostile_names_are_shown_and_do_nothing():
    evil = replace(
        row(HOSTILE, 0.12), difference=HOSTILE, failure=HOSTILE, stand_ins=(HOSTILE,), aliases=(HOSTILE + "2",)
    )
    every = comparison(
        BASE,
        evil,
        replace(ALIGNED, name=HOSTILE + "3"),
        suite=HOSTILE,
        dataset=HOSTILE,
        protocol=HOSTILE,
        stand_ins=(HOSTILE,),
        metrics=(metric("absrel", formula=HOSTILE), metric(HOSTILE)),
        provenance={HOSTILE: HOSTILE},
    )
    text = html_report(every, {HOSTILE: CURVES["base"]}, configuration=HOSTILE)
    assert text.count("<script>") == 1
    page = Page(text.replace(f"<script>{script()}</script>", ""))
    assert set(page.tags) <= {
        *("details", "summary"),
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "h4", "p", "strong", "ul", "li", "div"),
        *("table", "thead", "tbody", "tr", "th", "td", "br", "figure", "img", "figcaption", "dl", "dt", "dd", "pre"),
    }
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    shown = "".join(page.text)
    assert shown.count(HOSTILE) > 10
    assert "{{7*7}}" in shown
    for svg in images(page):
        assert "<script" not in svg


def test_nothing_refers_to_the_network():
    text = html_report(PLAIN, CURVES, configuration="")
    page = Page(text)
    policy = next(v for tag, name, v in page.attributes if (tag, name) == ("meta", "content") and "default-src" in v)
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        # printf %s "$(cat sortable.auto.min.js)" | openssl dgst -sha256 -binary | base64, of the file as published
        "script-src 'sha256-jM+wdviDHR9PXnhjwLiWDrZC5r/cJpARWBDa8nNiPnc='"
    )
    assert not re.search(r"(https?:)?//[a-z]|url\(|@import", text)
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, never fetched
    for svg in images(page):
        assert set(re.findall(r"https?://[^\"'\s<]*", svg)) <= namespaces


def test_figures_and_page_are_the_same_bytes_every_time(monkeypatch):
    first = html_report(PLAIN, CURVES, configuration="x")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "another", "text.parse_math": True}):
        assert html_report(PLAIN, CURVES, configuration="x") == first


@pytest.mark.parametrize("name", ["lr=$\\frac$", "a_{b}^c", "<b>&\"'", "-->", "_leading"])
def test_figures_draw_any_name_as_it_is(name):
    odd = comparison(BASE, row(name, 0.12))
    for svg in (primary_svg(odd), by_k_svg(odd), curves_svg({name: [(0, 1.0)]})):
        assert svg.startswith("<svg")
        assert svg.rstrip().endswith("</svg>")


def drawn(svg):
    """Texts of a figure: matplotlib keeps each as a comment beside its outlines."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", svg)]


def test_a_legend_leaves_no_line_out():
    assert "_leading" in drawn(by_k_svg(comparison(BASE, row("_leading", 0.12))))
    assert "_leading" in drawn(curves_svg({"_leading": [(0, 1.0)]}))


def test_the_primary_figure_shows_every_row_but_gt_aligned_ones():
    texts = drawn(primary_svg(PLAIN))
    assert [t for t in texts if t in {"base", "without_b4", "lost", "constant", "dense_fit"}][:4] == [
        *("base", "without_b4", "lost", "constant")
    ]
    assert "dense_fit" not in texts
    assert "failed" in texts
    assert "0.9053 ▶" in texts  # far beyond base and ablations: mean of 0.90064 and 0.91
    assert any(t.startswith("STAND-INS: synthetic rooms") for t in texts)


def test_the_figure_against_k_names_what_it_cannot_show():
    texts = drawn(by_k_svg(PLAIN, "rmse"))
    assert "rmse [m], lower is better" in texts
    assert "constant (beyond the axis)" in texts
    assert "lost (no value)" in texts
    assert "dense_fit" not in " ".join(texts)


def test_external_rows_are_drawn_in_a_look_of_their_own_and_do_not_set_the_axis():
    far = {(m, k): (5.0,) for m in ("absrel", "rmse") for k in (1, 64)}
    theirs = row("theirs", 5.0, kind="external", seeds=(), values=far, trainable_parameters=None, seconds={})
    mixed = comparison(BASE, row("without_b4", 0.12), theirs)
    texts = drawn(primary_svg(mixed))
    assert "external" in texts
    assert "5 ▶" in texts
    assert "theirs (beyond the axis)" in drawn(by_k_svg(mixed))
    shown = "".join(Page(html_report(mixed, {}, configuration="")).text)
    assert "EXTERNAL theirs, not trained or timed here: theirs differs" in shown
    aligned = drawn(primary_svg(comparison(BASE, replace(theirs, gt_aligned=True))))
    assert "theirs" not in aligned
    assert "external" not in aligned


def test_curves_leave_gaps_where_values_are_not_finite():
    texts = drawn(curves_svg(CURVES, ylabel="validation absrel"))
    assert {"base", "sick (no value)", "validation absrel", "step"} <= set(texts)


def test_tables_sort_by_the_number_that_a_cell_begins_with():
    cells = ["0.2625", "<strong>0.12 ± 0.02</strong>", "−1.5 %", "+22.8 %", "–", "", "no-b3", "say &quot;x&quot;"]
    rows = "".join(f"<tr><td>{cell}</td></tr>" for cell in cells)
    table = sortable(f"<table><thead><tr><th>x</th></tr></thead><tbody>{rows}</tbody></table>")
    keys = re.findall(r'data-sort="([^"]*)"', table)
    assert keys == ["0.2625", "0.12", "-1.5", "22.8", "", "", "no-b3", "say &quot;x&quot;"]
    assert table.startswith('<table class="sortable n-last asc">')  # the first click puts the lowest first


def test_every_table_of_numbers_can_be_sorted_and_long_parts_fold():
    page = Page(html_report(PLAIN, CURVES, configuration=""))
    classes = [value for tag, name, value in page.attributes if (tag, name) == ("table", "class")]
    assert classes
    assert set(classes) == {"sortable n-last asc"}
    assert page.tags.count("details") == len(PLAIN.metrics) + 1  # each metric, and the configuration


def test_pictures_of_test_images_stand_beside_each_other():
    made = album(
        "base",
        [Contrast("lost", {"best": 0, "worst": 0})],
        {0: scene("kitchen/<1>")},
        {"base": by_part(np.array([1.0]), np.array([1.1]), None)},
        metric="absrel",
        k=64,
    )
    text = html_report(PLAIN, CURVES, configuration="", album=made)
    assert text == html_report(PLAIN, CURVES, configuration="", album=made)
    page = Page(text.replace(script(), ""))
    shown = " ".join(page.text)
    assert "Depth of test images" in shown
    assert "kitchen/<1>: best image of lost against base; worst image of lost against base" in shown
    assert "0.1000 (bias +0.1000)" in shown


def scene(frame):
    rendering = Rendering(np.full((3, 4), 2.0, np.float32), np.array([0.1], np.float32), ())
    truth = np.full((3, 4), 1.9, np.float32)
    return PictureScene(
        frame, np.zeros((3, 4, 3), np.uint8), truth, np.array([[1.5, 1.5]], np.float32), {"base": rendering}
    )
