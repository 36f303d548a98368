"""Two suites in one table: what stands beside what, which seeds are paired, and what is refused with its field."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spd_bench import cli
from spd_bench.data.randomness import generator
from spd_bench.errors import ConfigError, DataError
from spd_bench.report.collect import comparison
from spd_bench.report.compare import compared
from spd_bench.report.sources import gather
from spd_bench.report.verdicts import Verdicts, judge
from spd_bench.score.predict import NotFinite, Predictions, load, save
from spd_bench.store import records

IMAGES, SCENES, POINTS = 24, 8, 6
TEST = {
    "format": 1,
    "protocol": {"name": "full_frame", "rows": None, "columns": None},
    "k": [POINTS],
    "k1_draws": 1,
    "seed": 0,
    "metrics": {"absrel": 1, "rmse": 1},
}
"""What every evaluation here is judged by, as `plan.Judge.identity` has it."""


def predictions(error: float, *, name: str, seed: int) -> Predictions:
    """Predictions that are `error` too far, give or take a wobble of each image of 0.004."""
    truth_m_IP = generator("truth").uniform(1, 4, (IMAGES, POINTS)).astype(np.float32)
    wobble_I1 = generator("wobble", seed, name).normal(0, 0.004, (IMAGES, 1)).astype(np.float32)
    return Predictions(
        frames=tuple(f"{i:05d}" for i in range(IMAGES)),
        scenes=tuple(f"room {i % SCENES}" for i in range(IMAGES)),
        uv_img_IP2=generator("uv").integers(0, 50, (IMAGES, POINTS, 2)).astype(np.int32),
        truth_m_IP=truth_m_IP,
        predicted_m_IP=truth_m_IP * (1 + error + wobble_I1),
        draw_P=np.zeros(POINTS, np.int32),
    )


def run(root: Path, suite: str, composition: str, error: float, seed: int, **about: Any) -> dict[str, Any]:
    """The folder of one training and evaluation, and its row of the suite's record."""
    folder = f"trained/{suite}-{composition}-s{seed}"
    save(root / folder / "eval/predictions.h5", predictions(error, name=composition, seed=seed), {})
    cost = {"prepare_ms": 1.0, "decode_ms": 1.0, "points": POINTS}
    scores = {"identity": about["test"], "scores": {f"absrel@{POINTS}": error}, "images": IMAGES, "cost": cost}
    records.write_record(root / folder / "eval/scores.json", scores)
    identity = {"seed": seed, "train": {"lr": about["lr"]}, "data": {"digest": about["digest"]}}
    records.write_record(root / folder / "run.json", {"trainable_parameters": 1, "identity": identity})
    records.write_record(root / folder / "done.json", {"rows": [], "seconds": 1.0})
    kind = "base" if composition in ("v13", "main") else "ablation"
    return {
        "composition": composition,
        "kind": kind,
        "axis": "leave_one_out" if kind == "ablation" else "",
        "difference": "" if kind == "base" else composition,
        "aliases": [],
        "gt_aligned": False,
        "stand_ins": [],
        "seed": seed,
        "folder": folder,
        "evaluation": "eval",
        "failure": "",
    }


def suite_run(
    root: Path,
    name: str,
    errors: dict[str, float],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    test: dict[str, Any] = TEST,
    digest: str = "d0",
    lr: float = 1e-4,
) -> list[dict[str, Any]]:
    """What a run of a suite leaves; its rows."""
    rows = [run(root, name, c, e, seed, test=test, digest=digest, lr=lr) for c, e in errors.items() for seed in seeds]
    content = {
        "suite": {
            "suite": name,
            "eval": {"protocol": "full_frame", "k": [POINTS], "k1_draws": 1, "seed": 0},
            "report": {
                "primary": {"metric": "absrel", "k": POINTS},
                "family": ["leave_one_out"],
                "equivalence": 0.1,
            },
        },
        "rows": rows,
        "judge": records.sha256([digest, test]),
        "profile": None,
        "dataset": "made up",
        "protocol": "full_frame",
        "stand_ins": [],
        "provenance": {"device": f"machine of {name}"},
        "finished": "2026-01-01T00:00:00Z",
    }
    records.write_record(root / "suites" / f"{name}.json", content)
    return rows


def verdicts(root: Path, *sources: str, **options: Any) -> Verdicts:
    found = judge(gather(sources, root), metric="absrel", k=POINTS, **options)
    assert found is not None
    return found


def table(root: Path, *sources: str, **options: Any) -> str:
    return " ".join(compared(sources, root, **options).split())


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """mine: v13 and no-b3; theirs: v13 and no-b4, where v13 is 0.02 worse."""
    suite_run(tmp_path, "mine", {"v13": 0.10, "no-b3": 0.13})
    suite_run(tmp_path, "theirs", {"v13": 0.12, "no-b4": 0.1001}, lr=3e-4)
    return tmp_path


# --- what stands beside what ----------------------------------------------------------------------------------------


def test_rows_of_both_suites_stand_in_one_table_and_bases_are_compared(two: Path) -> None:
    found = verdicts(two, "mine", "theirs")
    assert found.reference == "mine/v13"
    # the wobble is 0.004 per image; 0.12 − 0.10 and a margin of a tenth of 0.1
    assert {name: f.verdict for name, f in found.findings.items()} == {"theirs/v13": "hurts"}
    assert found.findings["theirs/v13"].difference.mean == pytest.approx(0.02, abs=0.003)
    assert (found.declared, found.family) == (1, ("theirs/v13",))
    assert set(found.others) == {"no-b3", "no-b4"}  # names that do not collide stay as they are
    text = table(two, "mine", "theirs")
    assert "Family, what was asked to be compared: theirs/v13 (1 comparison, Holm)" in text
    assert "mine: suite mine below" in text
    assert "on machine of theirs" in text


def test_the_caption_says_in_what_the_trainings_differ(two: Path) -> None:
    assert "theirs/v13 against mine/v13: train.lr: 0.0001 → 0.0003" in table(two, "mine", "theirs")
    (row,) = [row for row in comparison(gather(("mine", "theirs"), two)).rows if row.name == "theirs/v13"]
    assert row.difference == "train.lr: 0.0001 → 0.0003"


def test_the_baseline_may_be_a_row_of_the_second_suite(two: Path) -> None:
    found = verdicts(two, "mine", "theirs", reference="theirs/v13")
    assert found.findings["mine/v13"].verdict == "helps"
    assert "no-b4" in found.others


def test_two_rows_of_one_suite(two: Path) -> None:
    found = verdicts(two, "mine/v13", "mine/no-b3")
    assert (found.reference, list(found.findings), found.others) == ("v13", ["no-b3"], {})
    swapped = verdicts(two, "mine/no-b3", "mine/v13")
    assert swapped.findings["v13"].difference.mean == pytest.approx(-0.03, abs=0.003)
    assert "Paired differences from no-b3" in table(two, "mine/no-b3", "mine/v13")


def test_runs_of_two_roots(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    suite_run(here, "mine", {"v13": 0.10})
    suite_run(there, "mine", {"v13": 0.12})
    found = verdicts(here, "mine", f"{there}:mine")
    assert (found.reference, list(found.findings)) == ("A/v13", ["B/v13"])
    text = table(here, "mine", f"{there}:")  # the suite that ran last there
    assert f"B: suite mine below {there}" in text
    assert "B/v13 against A/v13: the same training" in text
    assert verdicts(here, "mine", f"{there}:mine/v13").findings["B/v13"].verdict == "hurts"


def test_a_run_that_both_suites_share_is_called_so(two: Path) -> None:
    mine, theirs = (two / "suites" / f"{name}.json" for name in ("mine", "theirs"))
    shared, other = records.read_record(mine), records.read_record(theirs)
    records.write_record(theirs, other | {"rows": shared["rows"][:3]})
    found = verdicts(two, "mine", "theirs")
    assert found.pairing == {"theirs/v13": "the same runs"}
    assert found.findings["theirs/v13"].difference.mean == 0


def test_costs_and_accuracy_of_both_are_in_the_document(two: Path) -> None:
    document = json.loads(compared(("mine", "theirs"), two, format="json"))
    assert [row["composition"] for row in document["rows"]] == ["mine/v13", "no-b3", "theirs/v13", "no-b4"]
    assert document["reference"] == "mine/v13"
    assert document["provenance"]["theirs device"] == "machine of theirs"
    assert document["verdicts"]["findings"]["theirs/v13"]["verdict"] == "hurts"


# --- families -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "members"),
    [
        (["leave_one_out"], {"no-b3", "no-b4"}),
        (["no-*"], {"no-b3", "no-b4"}),
        (["theirs/*"], {"theirs/v13"}),
        (["no-b4", "theirs/v13"], {"no-b4", "theirs/v13"}),
        (["*"], {"no-b3", "no-b4", "theirs/v13"}),  # the reference is no comparison
    ],
)
def test_a_family_is_axes_or_patterns_of_names(two: Path, family: list[str], members: set[str]) -> None:
    found = verdicts(two, "mine", "theirs", family=family)
    assert set(found.findings) == members
    assert (found.declared, found.origin) == (len(members), "given by --family")


def test_holm_counts_the_family(two: Path) -> None:
    alone = verdicts(two, "mine", "theirs", family=["no-b3"]).findings["no-b3"]
    among = verdicts(two, "mine", "theirs", family=["*"]).findings["no-b3"]
    assert alone.p_adjusted is not None
    assert among.p_adjusted is not None
    assert among.p_adjusted >= 2 * alone.p_adjusted > 0  # one of three, and not the largest p


def test_a_family_of_one_suite_replaces_the_declared_one(two: Path) -> None:
    assert verdicts(two, "mine").origin == "declared by the suite"
    assert "given by --family" in table(two, "mine", family=["no-b3"])


def test_a_family_that_names_nothing_is_refused(two: Path) -> None:
    with pytest.raises(ConfigError, match=r'--family: "no-b5" is no axis and no row(.|\n)*did you mean "no-b'):
        verdicts(two, "mine", "theirs", family=["no-b5"])


# --- seeds ----------------------------------------------------------------------------------------------------------


def test_shared_seeds_are_paired_and_the_others_named(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10}, seeds=(0, 1, 2, 3))
    suite_run(tmp_path, "theirs", {"main": 0.12}, seeds=(1, 2, 3, 7))
    found = verdicts(tmp_path, "mine", "theirs")
    assert found.findings["main"].difference.seeds == 3
    assert found.pairing == {"main": "seed 0 of v13 not used; seed 7 of main not used"}
    assert "seed 7 of main not used" in table(tmp_path, "mine", "theirs")
    # the pairs are those of the shared seeds: the same as if nothing else had been trained
    suite_run(tmp_path, "mine", {"v13": 0.10}, seeds=(1, 2, 3))
    suite_run(tmp_path, "theirs", {"main": 0.12}, seeds=(1, 2, 3))
    again = verdicts(tmp_path, "mine", "theirs")
    assert again.pairing == {}
    assert again.findings["main"].difference == found.findings["main"].difference


def test_seeds_that_are_not_shared_stand_side_by_side_in_order(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10}, seeds=(0, 1, 2))
    suite_run(tmp_path, "theirs", {"main": 0.12}, seeds=(8, 9, 7, 11))
    found = verdicts(tmp_path, "mine", "theirs")
    assert found.findings["main"].difference.seeds == 3
    assert found.pairing["main"] == (
        "no seed in common: 0 beside 7, 1 beside 8, 2 beside 9 as independent runs; seed 11 of main not used"
    )


def test_too_few_pairs_give_no_verdict(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10}, seeds=(0, 1, 2))
    suite_run(tmp_path, "theirs", {"main": 0.12}, seeds=(2, 3, 4))
    found = verdicts(tmp_path, "mine", "theirs")
    assert found.findings["main"].verdict == "exploratory"  # seed 2 alone is shared


def test_predictions_from_elsewhere_are_one_run_whatever_the_seed(two: Path) -> None:
    folder = two / "external/release-0"
    save(folder / "predictions.h5", predictions(0.05, name="release", seed=0), {})
    record = records.read_record(two / "suites/mine.json")
    about = {"difference": "external: release", "gt_aligned": False, "stand_ins": [], "judge": record["judge"]}
    records.write_record(folder / "run.json", {"composition": "release", "identity": {}} | about)
    records.write_record(folder / "scores.json", {"scores": {f"absrel@{POINTS}": 0.05}, "images": IMAGES})
    found = verdicts(two, "mine", family=["release"])
    assert found.findings["release"].verdict == "exploratory"
    difference = found.findings["release"].difference
    assert difference.mean == pytest.approx(-0.05, abs=0.003)
    assert difference.interval is not None  # over the base's seeds and scenes
    assert found.pairing["release"] == "release is one set of predictions, the same for every seed"
    turned = verdicts(two, "mine/release", "theirs/v13")
    assert turned.findings["v13"].difference.mean == pytest.approx(0.07, abs=0.003)
    assert turned.control.passed is None


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the console script in this process: exit code and what it said."""

    def call(*args: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["spd-bench", *args])
        try:
            cli.main()
        except SystemExit as error:
            return int(error.code or 0), "".join(capsys.readouterr())
        return 0, "".join(capsys.readouterr())

    return call


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": TEST | {"k": [1, POINTS]}}, "eval.k: [6] there, [1,6] here"),
        ({"test": TEST | {"seed": 3}}, "eval.seed: 0 there, 3 here"),
        ({"test": TEST | {"k1_draws": 4}}, "eval.k1_draws: 1 there, 4 here"),
        (
            {"test": TEST | {"protocol": {"name": "full_frame", "rows": [45, 471], "columns": None}}},
            "protocol.rows: null there, [45,471] here",
        ),
        ({"test": TEST | {"metrics": {"absrel": 2, "rmse": 1}}}, "metrics.absrel: 1 there, 2 here"),
        ({"test": TEST | {"metrics": {"absrel": 1}}}, "metrics.rmse: 1 there, – here"),
        ({"test": TEST | {"format": 2}}, "format: 1 there, 2 here"),
        ({"digest": "d1"}, "data.digest: d0 there, d1 here"),
    ],
)
def test_another_test_is_one_error_that_names_the_field(
    tmp_path: Path, command: Callable[..., tuple[int, str]], change: dict[str, Any], said: str
) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10})
    suite_run(tmp_path, "theirs", {"main": 0.12}, **change)
    code, text = command("compare", "mine", "theirs", "--runs", str(tmp_path))
    assert code == 2
    assert text.startswith("error: theirs: was not scored on the same test as mine:")
    fields = [line.strip() for line in text.splitlines()[1:] if not line.startswith("  hint")]
    assert fields == [said]  # this field and no other


def test_every_field_that_differs_is_named_at_once(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10})
    suite_run(tmp_path, "theirs", {"main": 0.12}, test=TEST | {"seed": 3, "k1_draws": 4}, digest="d1")
    with pytest.raises(ConfigError) as error:
        gather(("mine", "theirs"), tmp_path)
    assert [line.split(":")[0].strip() for line in error.value.message.splitlines()[1:]] == [
        "eval.k1_draws",
        "eval.seed",
        "data.digest",
    ]


def test_records_that_do_not_name_their_test_are_compared_by_its_fields(two: Path) -> None:
    for name in ("mine", "theirs"):
        path = two / f"suites/{name}.json"
        old = records.read_record(path)
        del old["judge"]
        records.write_record(path, old)
    assert verdicts(two, "mine", "theirs").findings["theirs/v13"].verdict == "hurts"


def test_other_points_are_refused_whatever_the_records_say(two: Path, command: Callable[..., tuple[int, str]]) -> None:
    path = two / "trained/theirs-v13-s1/eval/predictions.h5"
    right = load(path)
    for change, said in (
        ({"uv_img_IP2": right.uv_img_IP2 + 1}, "other pixels"),
        ({"truth_m_IP": right.truth_m_IP + 1}, "other true depths"),
        ({"frames": (*right.frames[:-1], "x")}, "other images"),
    ):
        changes: dict[str, Any] = change
        save(path, replace(right, **changes), {})
        code, text = command("compare", "mine", "theirs", "--runs", str(two))
        assert (code, said in text) == (2, True), text
        assert "theirs/v13: was not scored at the same points" in text


def test_a_missing_image_is_refused_by_name_and_never_dropped(two: Path) -> None:
    path = two / "trained/theirs-v13-s1/eval/predictions.h5"
    right = load(path)
    per_image = ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "frames", "scenes")
    lacking: dict[str, Any] = {name: getattr(right, name)[:-1] for name in per_image}
    save(path, replace(right, **lacking), {})
    with pytest.raises(ConfigError, match=r"other images, .*\(1 in one record alone, the first 00023\)"):
        verdicts(two, "mine", "theirs")


def test_an_image_that_is_not_a_number_is_refused(two: Path) -> None:
    path = two / "trained/theirs-v13-s1/eval/predictions.h5"
    right = load(path)
    sick_m_IP = right.predicted_m_IP.copy()
    sick_m_IP[3] = np.nan
    save(path, replace(right, predicted_m_IP=sick_m_IP), {})
    with pytest.raises((NotFinite, DataError), match=r"not positive numbers|not finite"):
        verdicts(two, "mine", "theirs")


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        (("mine", "their"), r'suite "their" has not been run below(.|\n)*did you mean "theirs"'),
        (("mine", "theirs/no-b5"), r'unknown composition "no-b5"(.|\n)*did you mean "no-b4"'),
        (("mine", "mine"), "mine: is named twice"),
        (("mine/v13", "mine"), "mine: is named twice"),
        (("mine", "a/b/c"), r"a/b/c: cannot be read as \[ROOT:\]SUITE\[/COMPOSITION\]"),
        (("mine", "/nowhere:theirs"), 'suite "theirs" has not been run below /nowhere'),
    ],
)
def test_what_was_not_run_is_refused(two: Path, sources: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gather(sources, two)


def test_a_suite_without_a_base_needs_a_baseline(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"no-b3": 0.10})
    suite_run(tmp_path, "theirs", {"main": 0.12})
    with pytest.raises(ConfigError, match=r"mine: it has no base(.|\n)*--baseline"):
        compared(("mine", "theirs"), tmp_path)
    assert "Paired differences from no-b3" in table(tmp_path, "mine", "theirs", baseline="no-b3")


def test_a_reference_that_failed_is_refused(two: Path) -> None:
    path = two / "suites/mine.json"
    content = records.read_record(path)
    content["rows"][0]["failure"] = "ran out of luck"
    records.write_record(path, content)
    with pytest.raises(ConfigError, match=r'"mine/v13" has no complete result(.|\n)*--baseline'):
        verdicts(two, "mine", "theirs")


@pytest.mark.parametrize("named", ["suites/mine.yaml", "mine.yaml", "runs/reports/mine.html", "mine"])
def test_a_suite_may_be_named_by_its_file_or_report(two: Path, named: str) -> None:
    assert comparison(gather((named,), two)).suite == "mine"


def test_the_k_of_the_difference_is_one_that_is_shown(tmp_path: Path) -> None:
    suite_run(tmp_path, "mine", {"v13": 0.10, "no-b3": 0.13})
    with pytest.raises(ConfigError, match="nothing was scored at K=7"):
        compared(("mine",), tmp_path, ks=(7,))
    assert "Δ absrel K=6" in table(tmp_path, "mine", ks=(POINTS,), format="markdown")
