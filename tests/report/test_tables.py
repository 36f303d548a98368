"""Tables say what the runs said: every row, every seed, what stands in for what, and no number they did not have."""

import csv
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from spd_bench.errors import ConfigError, StateError
from spd_bench.report.comparison import (
    Comparison,
    MetricInfo,
    Row,
    caption,
    difference,
    notes,
    one_line,
    ranked,
    summary,
)
from spd_bench.report.tables import ALIGNED_HEADING, FORMATS, WIDTH, render

ABSREL = MetricInfo(name="absrel", unit="", lower_is_better=True, formula="mean |d − g| / g", aggregation="per image")
RMSE = MetricInfo(name="rmse", unit="m", lower_is_better=True, formula="√ mean (d − g)²", aggregation="per image")
DELTA1 = MetricInfo(name="delta1", unit="", lower_is_better=False, formula="share < 1.25", aggregation="per image")
PEOPLE = ("terminal", "markdown", "latex", "html")


def row(name, absrel=(), *, seeds=(0, 1, 2), kind="ablation", **changes):
    """A row whose absrel is the given one at every K; rmse is ten times it and delta1 what is left to 1."""
    values = {}
    for k in (1, 64, 256):
        if absrel:
            values[("absrel", k)] = tuple(absrel)
            values[("rmse", k)] = tuple(10 * v for v in absrel)
            values[("delta1", k)] = tuple(1 - v for v in absrel)
    fields = {
        "name": name,
        "kind": kind,
        "axis": "swap",
        "difference": f"what sets {name} apart",
        "gt_aligned": False,
        "trainable_parameters": 1_234_567,
        "seeds": tuple(seeds) if absrel else (),
        "values": values,
        "seconds": {},
        "stand_ins": (),
        "failure": None,
        "aliases": (),
    }
    return Row(**fields | changes)


def comparison(*rows, **changes):
    fields = {
        "suite": "v13_ablation",
        "profile": "smoke",
        "dataset": "synthetic rooms, 16 test frames",
        "protocol": "nyu_bts: 1e-3 < d < 10 m",
        "images": 16,
        "stand_ins": ("patch descriptors instead of DAv2-S", "synthetic rooms instead of NYU"),
        "primary": ("absrel", 256),
        "ks": (1, 64, 256),
        "metrics": (ABSREL, RMSE, DELTA1),
        "rows": rows,
        "provenance": {"git": "0" * 40},
    }
    return Comparison(**fields | changes)


BASE = row("base", (0.10, 0.11, 0.12), kind="base", difference="")
WORSE = row("worse", (0.11, 0.12, 0.13))
BETTER = row("better", (0.09, 0.09, 0.09))
FAILED = row("lost", failure="seed 0: NonFiniteLoss at step 7")
ALIGNED = row("dense_fit", (0.01, 0.01, 0.01), kind="baseline", gt_aligned=True)
FIVE = comparison(BASE, WORSE, BETTER, FAILED, ALIGNED)


# The numbers


def test_mean_and_spread_over_seeds():
    found = summary(BASE, "absrel", 256)
    # mean (0.10 + 0.11 + 0.12) / 3 = 0.11; squares (0.01² + 0 + 0.01²) / (3 - 1) = 0.01²
    assert found.n == 3
    assert found.mean == pytest.approx(0.11, abs=1e-15)
    assert found.std == pytest.approx(0.01, abs=1e-15)
    assert (found.low, found.high) == (0.10, 0.12)


def test_one_seed_has_no_spread_and_nothing_measured_no_mean():
    assert math.isnan(summary(row("one", (0.1,), seeds=(4,)), "absrel", 256).std)
    assert summary(BASE, "absrel", 7) is None
    assert summary(FAILED, "absrel", 256) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_seed_without_a_number_makes_the_mean_not_a_number(bad):
    assert math.isnan(summary(row("sick", (0.1, bad, 0.1)), "absrel", 256).mean)


def test_differences_use_only_the_seeds_that_both_have():
    other = row("other", (0.22, 0.30), seeds=(1, 7))
    found = difference(other, BASE, "absrel", 256)
    # seed 1 alone is shared: 0.22 - 0.11 = 0.11, which is 100 % of 0.11; over all seeds it would be 136 %
    assert found.n == 1
    assert found.absolute == pytest.approx(0.11, abs=1e-15)
    assert found.percent == pytest.approx(100, abs=1e-12)
    # no seed in common: 8 and 9 stand beside 0 and 1 in order, (0.1 + 0.3)/2 − (0.10 + 0.11)/2
    stranger = difference(row("stranger", (0.3, 0.1), seeds=(9, 8)), BASE, "absrel", 256)
    assert (stranger.n, stranger.absolute) == (2, pytest.approx(0.095, abs=1e-15))
    assert difference(FAILED, BASE, "absrel", 256) is None
    assert math.isnan(difference(WORSE, row("zero", (0.0, 0.0, 0.0)), "absrel", 256).percent)


def test_ranking_puts_failed_and_nan_last_whichever_way_is_better():
    sick = row("sick", (0.0, math.nan, 0.0))
    partial = row("partial", (0.01, 0.01), seeds=(0, 1), failure="seed 2: killed")
    rows = [sick, partial, FAILED, BASE, WORSE, BETTER]
    for metric in (ABSREL, DELTA1):
        assert [r.name for r in ranked(rows, metric, 256)] == ["better", "base", "worse", "sick", "partial", "lost"]


def test_a_comparison_that_contradicts_itself_is_refused():
    with pytest.raises(StateError, match=r"absrel at K=1 has 3 values for 2 seeds"):
        replace(BASE, seeds=(0, 1))
    with pytest.raises(StateError, match="has no rows"):
        comparison()
    with pytest.raises(StateError, match='two rows "base"'):
        comparison(BASE, BASE)
    with pytest.raises(StateError, match="more than one base"):
        comparison(BASE, replace(BASE, name="base2"))
    with pytest.raises(StateError, match="primary metric absrel at K=1024"):
        comparison(BASE, primary=("absrel", 1024))


# The caption


def test_the_caption_begins_with_the_stand_ins():
    first, data, protocol, counts, *metrics = caption(FIVE)
    assert first.startswith("STAND-INS: patch descriptors instead of DAv2-S; synthetic rooms instead of NYU")
    assert "say nothing about the paper's numbers" in first
    assert "synthetic rooms, 16 test frames" in data
    assert "nyu_bts: 1e-3 < d < 10 m" in protocol
    assert "Images scored: 16. Seeds: 3 (0, 1, 2). Compositions and baselines: 5, of which failed: 1." in counts
    assert metrics[1] == "rmse [m], lower is better: √ mean (d − g)²; per image"
    assert metrics[2].startswith("delta1 [1], higher is better")
    assert caption(comparison(BASE, stand_ins=()))[0] == "Stand-ins: none in the base."


def test_fewer_than_three_seeds_is_called_exploratory():
    remark = "Exploratory: fewer than 3 seeds, no verdict."
    assert remark in caption(comparison(row("base", (0.1, 0.2), seeds=(0, 1), kind="base")))
    assert remark not in caption(FIVE)


def test_notes_tell_what_is_peculiar_to_a_row():
    odd = replace(WORSE, stand_ins=("a instead of b", "synthetic rooms instead of NYU"), aliases=("also", "this"))
    assert notes(comparison(BASE, odd, FAILED)) == [
        "STAND-IN in worse: a instead of b",
        "worse is also also, this",
        "FAILED lost: seed 0: NonFiniteLoss at step 7",
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_carries_caption_failures_and_both_sections(format):
    text = " ".join(render(FIVE, format=format).split())
    for said in (
        "STAND-INS: patch descriptors",
        "synthetic rooms instead of NYU",
        "16 test frames",
        "of which failed: 1",
    ):
        assert said in text
    assert "NonFiniteLoss at step 7" in text
    assert "lost" in text
    assert text.index("dense") > max(text.index(name) for name in ("base", "worse", "better", "lost"))


# Tables for people


def lines_of(text, name):
    return [line for line in text.splitlines() if re.match(rf"\W*{name}\b", line)]


def test_terminal_table_in_full():
    """Worked by hand: base 0.11, better 0.09 (−18.2 %), worse 0.12 (+9.1 %), each ± 0.01 but better."""
    text = render(FIVE, format="terminal", metric="absrel", ks=(256,))
    table = text[text.index("composition") : text.index("\n\n" + ALIGNED_HEADING)]
    assert [re.split(r" {2,}", line) for line in table.splitlines()[3:]] == [
        ["base", "–", "3", "0.1100±0.0100", "base"],
        ["worse", "what sets worse apart", "3", "0.1200±0.0100", "+9.1 %"],
        ["better", "what sets better apart", "3", "*0.0900±0.0000", "-18.2 %"],
        ["lost", "what sets lost apart", "0", "failed", "–"],
    ]
    (aligned,) = lines_of(text, "dense_fit")
    assert re.split(r" {2,}", aligned) == ["dense_fit", "what sets dense_fit apart", "3", "0.0100±0.0000"]


def test_default_table_has_the_primary_at_every_k_the_others_at_the_primary_k_and_costs():
    timed = replace(WORSE, seconds={"T_decode(1055)_ms": 0.4567, "train": 1234.4})
    table = render(comparison(BASE, timed), format="markdown").split("\n\n")[2]
    header, _, base, worse = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert header == [
        *("composition", "difference", "n", "absrel K=1", "absrel K=64", "absrel K=256", "Δ absrel K=256"),
        *("trainable parameters", "T_decode(1055) ms", "rmse K=256", "delta1 K=256", "train s"),
    ]
    assert worse[7:] == ["1,234,567", "0.457", "1.200 ± 0.100", "0.8800 ± 0.0100", "1234"]
    assert base[3:7] == ["**0.1100 ± 0.0100**"] * 3 + ["base"]
    assert base[8:] == ["–", "**1.100 ± 0.100**", "**0.8900 ± 0.0100**", "–"]


COSTLY = replace(
    WORSE,
    seconds={"T_prepare_ms": 9.5, "T_decode(1)_ms": 0.4567, "T_decode(64)_ms": 4, "T_decode(256)_ms": 16.04},
    macs={1: 0.3e9, 64: 0.5e9, 256: 1.234e9},
    peak_bytes={256: 107.4e6},
)


def test_costs_of_every_k_and_a_dash_for_a_row_that_an_earlier_version_scored():
    old = replace(BASE, seconds={"T_prepare_ms": 8.0, "T_decode(287)_ms": 30.0})
    text = render(comparison(old, COSTLY), format="markdown")
    lines = text.split("\n\n")[2].splitlines()
    header, _, base, worse = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    costs = ["T_prepare ms", "T_decode(287) ms", "T_decode(256) ms", "decoder GMACs K=256", "peak MB K=256"]
    assert header[8:13] == costs  # beside the primary metric: what is at its K
    assert header[-2:] == ["T_decode(1) ms", "T_decode(64) ms"]  # last: decoding at another K
    assert base[8:13] + base[-2:] == ["8", "30", "–", "–", "–", "–", "–"]
    assert worse[8:13] + worse[-2:] == ["9.5", "–", "16", "1.23", "107", "0.457", "4"]
    assert "a FLOP count is twice that" in text
    assert "FLOP" not in render(comparison(old, WORSE), format="markdown")
    assert "FLOP" not in render(comparison(old, COSTLY), format="markdown", metric="absrel")


def test_programs_get_costs_in_full():
    document = json.loads(render(comparison(BASE, COSTLY), format="json"))
    assert [r["decoder_macs"] for r in document["rows"]] == [{}, {"1": 0.3e9, "64": 0.5e9, "256": 1.234e9}]
    assert document["rows"][1]["peak_bytes"] == {"256": 107.4e6}
    assert document["rows"][1]["times"]["T_decode(256)_ms"] == 16.04
    lines = [line for line in render(comparison(BASE, COSTLY), format="csv").splitlines() if line[0] != "#"]
    base, worse = csv.DictReader(lines)
    assert (base["decoder_macs@256"], base["peak_bytes@256"]) == ("", "")
    assert [float(worse[f"decoder_macs@{k}"]) for k in (1, 64, 256)] == [0.3e9, 0.5e9, 1.234e9]
    assert float(worse["peak_bytes@256"]) == 107.4e6


def test_times_say_what_they_are_wherever_they_are_shown():
    timed = replace(WORSE, seconds={"T_prepare_ms": 1.0})
    said = "Times of one image as the runs took them"
    assert said in " ".join(render(comparison(BASE, timed), format="terminal").split())
    assert said not in render(comparison(BASE, timed), format="terminal", metric="absrel")
    assert said not in render(comparison(BASE, WORSE), format="terminal")


def test_accuracy_at_four_k_and_cost_stand_in_one_line():
    times = {"T_prepare_ms": 9.5, "T_decode(64)_ms": 7.5, "T_decode(256)_ms": 64.2, "train": 317.0}
    rows = [replace(r, seconds=times, macs={256: 1e9}) for r in (BASE, WORSE)]
    rows = [replace(r, values=r.values | {("absrel", 1024): r.values["absrel", 1]}) for r in rows]
    text = render(comparison(*rows, ks=(1, 64, 256, 1024)), format="terminal")
    (first, *_) = lines_of(text, "worse")
    cells = re.split(r" {2,}", first)
    # name, difference, n, absrel at four K, Δ, parameters, T_prepare, T_decode
    assert cells[3:7] == ["0.1200±0.0100"] * 4
    assert cells[8:11] == ["1,234,567", "9.5", "64.2"]


def test_one_seed_shows_neither_n_nor_spread():
    text = render(comparison(row("base", (0.1,), seeds=(0,), kind="base")), format="markdown")
    assert "±" not in text
    assert "|   n |" not in text


def test_the_best_is_never_gt_aligned_failed_or_not_a_number():
    partial = row("partial", (0.01, 0.01), seeds=(0, 1), failure="seed 2: killed")
    sick = row("sick", (math.nan, 0.0, 0.0))
    twin = replace(BASE, name="twin_fit", kind="baseline", gt_aligned=True)
    text = render(comparison(BASE, partial, sick, ALIGNED, twin), format="terminal", metric="absrel")
    assert "*0.1100±0.0100" in lines_of(text, "base")[0]
    for name in ("partial", "sick", "dense_fit", "twin_fit"):
        assert "*" not in "".join(lines_of(text, name))
    assert "partial (incomplete)" in text
    assert " nan " in lines_of(text, "sick")[0]


def test_equal_as_printed_is_equally_best():
    twin = row("twin", (0.100001, 0.11, 0.12))
    text = render(comparison(BASE, twin), format="terminal", metric="absrel", ks=[1])
    assert "*0.1100" in lines_of(text, "twin")[0]
    assert "*0.1100" in lines_of(text, "base")[0]


def test_gt_aligned_rows_are_not_compared_with_the_base():
    text = render(FIVE, format="terminal")
    own, aligned = text.split(ALIGNED_HEADING)
    assert "Δ absrel" in own
    assert "Δ" not in aligned
    assert "dense_fit" not in own
    with pytest.raises(ConfigError, match="GT-aligned: differences from it mean nothing"):
        render(FIVE, format="terminal", baseline="dense_fit")


def test_a_chosen_baseline_is_what_differences_are_taken_from():
    text = render(comparison(BASE, replace(BETTER, aliases=("nickname",))), format="terminal", baseline="nickname")
    # 0.11 against 0.09: + 2/9 = 22.2 %
    assert "+22.2 %" in "".join(lines_of(text, "base"))
    assert "reference" in text


def test_a_suite_without_a_base_has_no_differences():
    assert "Δ" not in render(comparison(WORSE, BETTER), format="terminal")


def test_a_small_negative_difference_is_not_minus_zero():
    near = row("near", (0.099999, 0.11, 0.12))
    assert "+0.0 %" in lines_of(render(comparison(BASE, near), format="terminal"), "near")[0]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_terminal_output_keeps_to_its_width(seeds):
    many = tuple(replace(RMSE, name=f"metric_number_{i}") for i in range(9))
    long = [row(f"{i:02}_{'n' * 60}", tuple(0.1 + s / 100 for s in seeds), seeds=seeds) for i in range(3)]
    long = [replace(r, difference="x: a → b, " * 30, failure="y" * 500) for r in long]
    wide = comparison(row("base", (0.1,) * len(seeds), seeds=seeds, kind="base"), *long, metrics=(ABSREL, *many))
    text = render(wide, format="terminal")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" in text
    for info in many:
        assert info.name in text


def test_every_block_of_a_folded_table_names_its_rows():
    many = tuple(replace(RMSE, name=f"metric_number_{i}") for i in range(9))
    text = render(comparison(BASE, WORSE, metrics=(ABSREL, *many)), format="terminal")
    assert len(lines_of(text, "worse")) == text.count("\ncomposition ") > 1


# External rows

THEIRS = Row(
    name="theirs",
    kind="external",
    axis="",
    difference="external: theirs (files of theirs.npy)",
    gt_aligned=False,
    trainable_parameters=None,
    seeds=(),
    values={("absrel", k): (0.055,) for k in (1, 64, 256)},
    seconds={},
    stand_ins=(),
    failure=None,
    aliases=(),
)


def test_an_external_row_has_one_value_whatever_the_seed():
    assert summary(THEIRS, "absrel", 256)[:2] == (1, 0.055)
    # 0.055 against the base's mean over its three seeds, 0.11: half of it less
    found = difference(THEIRS, BASE, "absrel", 256)
    assert (found.n, found.percent) == (3, pytest.approx(-50, abs=1e-12))
    assert difference(BASE, THEIRS, "absrel", 256).percent == pytest.approx(100, abs=1e-12)
    assert difference(THEIRS, replace(THEIRS, name="other"), "absrel", 256).absolute == 0
    assert difference(THEIRS, BASE, "rmse", 256) is None
    with pytest.raises(StateError, match="absrel at K=1 has 2 values"):
        replace(THEIRS, values={("absrel", 1): (0.1, 0.2)})


def test_an_external_row_is_ranked_and_says_what_is_not_known_of_it():
    mixed = comparison(BASE, WORSE, THEIRS)
    text = render(mixed, format="terminal", metric="absrel", ks=(256,))
    (shown,) = lines_of(text, "theirs")
    assert re.split(r" {2,}", shown) == ["theirs", THEIRS.difference, "–", "*0.0550", "-50.0 %"]
    assert "EXTERNAL theirs, not trained or timed here: external: theirs (files of theirs.npy)" in text
    assert "Compositions and baselines: 2, of which failed: 0. External predictions: 1." in " ".join(text.split())
    assert "Seeds: 3 (0, 1, 2)." in text
    (shown,) = lines_of(render(mixed, format="markdown"), "theirs")
    assert shown.split("|")[-2].strip() == "–"  # nobody counted its parameters
    body = [line for line in render(mixed, format="csv").splitlines() if not line.startswith("# ")]
    record = list(csv.DictReader(io.StringIO("\n".join(body))))[-1]
    assert (record["kind"], record["trainable_parameters"], record["absrel@256 mean"]) == ("external", "", "0.055")
    entry = json.loads(render(mixed, format="json"))["rows"][-1]
    assert (entry["kind"], entry["trainable_parameters"], entry["rank"], entry["seeds"]) == ("external", None, 1, [])


def test_a_gt_aligned_external_row_is_not_compared():
    text = render(comparison(BASE, replace(THEIRS, gt_aligned=True)), format="terminal", metric="absrel")
    own, aligned = text.split(ALIGNED_HEADING)
    assert not lines_of(own, "theirs")
    assert lines_of(aligned, "theirs")
    assert "*0.0550" not in text


# What they refuse


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r'unknown metric "absrl"(.|\n)*did you mean "absrel"'):
        render(FIVE, format="terminal", metric="absrl")
    with pytest.raises(ConfigError, match=r"nothing was scored at K=128(.|\n)*known K: 1, 64, 256"):
        render(FIVE, format="terminal", ks=[64, 128])
    with pytest.raises(ConfigError, match=r'unknown table format "latx"(.|\n)*did you mean "latex"'):
        render(FIVE, format="latx")
    with pytest.raises(ConfigError, match=r'unknown composition "wors"(.|\n)*did you mean "worse"'):
        render(FIVE, format="terminal", baseline="wors")


# What they escape


HOSTILE = r"a|b_{c} $\frac$ 5% & <script>~^#" + '"'


@pytest.fixture
def hostile():
    evil = replace(WORSE, name=HOSTILE, difference="=1+1", failure=None, aliases=("`*x*`\n# heading",))
    dangerous = replace(BETTER, name="plus", difference="+cmd|' /C calc'!A0", axis="@sum", stand_ins=("-2+3",))
    return comparison(BASE, evil, dangerous, dataset="two\nlines\x1b[31m", stand_ins=("x\n\\end{table}",))


def test_markdown_cells_cannot_break_their_table(hostile):
    table = render(hostile, format="markdown").split("\n\n")[2]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
    assert len(columns) == 1
    assert r"a\|b\_{c} \$\\frac\$ 5% \& \<script\>\~^#" in table
    assert r"\`\*x\*\` # heading" in render(hostile, format="markdown")


def test_latex_is_escaped_and_its_comments_stay_comments(hostile):
    text = render(hostile, format="latex")
    body = [line for line in text.splitlines() if not line.startswith("% ")]
    assert (
        r"a\textbar{}b\_\{c\} \$\textbackslash{}frac\$ 5\% \& \textless{}script\textgreater{}"
        r"\textasciitilde{}\textasciicircum{}\#"
    ) in text
    assert sum(line.strip() == r"\end{table}" for line in body) == 1
    # an unescaped % would eat the rest of a row; the one that ends the resizebox line is meant
    assert [line for line in body if re.search(r"(?<!\\)%", line)] == [r"\resizebox{\linewidth}{!}{%"]
    assert r"$\pm$" in text
    assert r"\caption{STAND-INS: x \textbackslash{}end\{table\} ---" in text


def test_csv_cells_cannot_act_as_formulas(hostile):
    text = render(hostile, format="csv")
    body = [line for line in text.splitlines() if not line.startswith("# ")]
    records = list(csv.DictReader(io.StringIO("\n".join(body))))
    assert [r["composition"] for r in records] == ["base", HOSTILE, "plus"]
    assert records[1]["difference"] == "'=1+1"
    assert records[2]["difference"].startswith("'+cmd")
    assert records[2]["axis"] == "'@sum"
    assert records[2]["stand_ins"] == "'-2+3"
    assert float(records[2]["absrel@256 difference percent"]) < 0  # numbers stay numbers


def test_html_is_escaped(hostile):
    text = render(hostile, format="html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("format", FORMATS)
def test_control_characters_reach_no_output(hostile, format):
    assert "\x1b" not in render(hostile, format=format)
    assert one_line("a\r\n\tb\x1b[0m") == "a b�[0m"


# Formats for programs


def test_csv_holds_full_precision_and_puts_gt_aligned_rows_last():
    third = row("third", (1 / 3,), seeds=(0,))
    text = render(comparison(ALIGNED, BASE, third, FAILED), format="csv")
    lines = text.splitlines()
    assert lines.index(f"# {ALIGNED_HEADING}") == len(lines) - 2
    body = [line for line in lines if not line.startswith("# ")]
    base, exact, failed, aligned = csv.DictReader(io.StringIO("\n".join(body)))
    assert [r["gt_aligned"] for r in (base, exact, failed, aligned)] == ["false", "false", "false", "true"]
    assert float(exact["absrel@256 mean"]) == 1 / 3
    assert exact["absrel@256 std"] == ""
    assert failed["absrel@256 mean"] == ""
    assert failed["failure"] == "seed 0: NonFiniteLoss at step 7"
    assert aligned["absrel@256 difference percent"] == ""


def test_json_holds_every_seed_and_no_nan():
    sick = row("sick", (math.nan, 0.1, 0.1))
    document = json.loads(render(comparison(BASE, WORSE, sick, FAILED, ALIGNED), format="json"))
    assert document["stand_ins"] == ["patch descriptors instead of DAv2-S", "synthetic rooms instead of NYU"]
    assert document["caption"][0].startswith("STAND-INS")
    base, worse, nan, failed = document["rows"]
    assert worse["values"]["absrel"]["256"]["per_seed"] == [0.11, 0.12, 0.13]
    assert worse["difference_percent"] == pytest.approx(100 / 11)
    assert [r["rank"] for r in (base, worse, nan, failed)] == [1, 2, None, None]
    assert nan["values"]["absrel"]["256"] == {"mean": None, "std": None, "per_seed": [None, 0.1, 0.1]}
    assert failed["values"] == {}
    assert failed["failure"].startswith("seed 0")
    assert [r["composition"] for r in document["gt_aligned_rows"]] == ["dense_fit"]
    assert document["gt_aligned_rows"][0]["difference_percent"] is None
    assert document["metrics"][1]["formula"] == "√ mean (d − g)²"
    assert document["compared_at"] == {"metric": "absrel", "k": 256}


def test_reports_and_tracking_import_nothing_heavy():
    code = (
        "import sys, spd_bench.report.html, spd_bench.report.tables, spd_bench.report.figures, spd_bench.tracking\n"
        "print({'torch', 'mlflow', 'matplotlib', 'scipy', 'jinja2', 'tabulate', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
