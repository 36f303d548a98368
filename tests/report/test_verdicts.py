"""From run folders to verdicts: what is paired, what is refused, and what the tables say."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from spd_bench.cli import app
from spd_bench.data.randomness import generator
from spd_bench.errors import StateError
from spd_bench.report.collect import collect, recorded
from spd_bench.report.tables import FORMATS, render
from spd_bench.report.verdict_tables import banner, block, html_block, plain, rows
from spd_bench.report.verdicts import judge, judged
from spd_bench.score.predict import Predictions, load, save
from spd_bench.store import files

IMAGES, SCENES, POINTS = 24, 8, 6


def predictions(error: float, *, seed: int, wobble: float = 0.004, shift: int = 0) -> Predictions:
    """Predictions that are `error` too far, give or take a wobble of their image and one of their seed."""
    truth_m_IP = generator("truth").uniform(1, 4, (IMAGES, POINTS)).astype(np.float32)
    noise_I1 = generator("noise", seed, str(error)).normal(0, wobble, (IMAGES, 1)).astype(np.float32)
    uv_img_IP2 = generator("uv").integers(0, 50, (IMAGES, POINTS, 2)).astype(np.int32) + shift
    return Predictions(
        frames=tuple(f"{i:05d}" for i in range(IMAGES)),
        scenes=tuple(f"room {i % SCENES}" for i in range(IMAGES)),
        uv_img_IP2=uv_img_IP2,
        truth_m_IP=truth_m_IP,
        predicted_m_IP=truth_m_IP * (1 + error + noise_I1),
        draw_P=np.zeros(POINTS, np.int32),
    )


def suite_run(root: Path, errors: dict[str, float], seeds: Sequence[int], **report: Any) -> dict[str, Any]:
    """A suite's record and folders, as a run leaves them: v13 is the base, no-… are left out, the rest baselines."""
    stored: list[dict[str, Any]] = []
    for name, error in errors.items():
        for seed in seeds:
            folder = f"trained/{name}-s{seed}"
            save(root / folder / "eval" / "predictions.h5", predictions(error, seed=seed), {})
            scores = {"scores": {"absrel@6": error}, "images": IMAGES, "cost": {"prepare_ms": 1.0, "decode_ms": 1.0}}
            scores["cost"] |= {"points": POINTS}  # type: ignore[operator]
            files.write_json(root / folder / "eval" / "scores.json", scores)
            files.write_json(
                root / folder / "run.json", {"trainable_parameters": 1, "identity": {"seed": seed, "m": name}}
            )
            files.write_json(root / folder / "done.json", {"rows": [], "seconds": 1.0})
            kind = "base" if name == "v13" else "ablation" if name.startswith("no-") else "baseline"
            stored.append(
                {
                    "composition": name,
                    "kind": kind,
                    "axis": "leave_one_out" if kind == "ablation" else "",
                    "difference": name,
                    "aliases": [],
                    "gt_aligned": name == "aligned",
                    "stand_ins": [],
                    "seed": seed,
                    "folder": folder,
                    "evaluation": "eval",
                    "failure": "",
                }
            )
    primary = {"metric": "absrel", "k": POINTS}
    suite = {
        "suite": "made",
        "eval": {"protocol": "full_frame", "k": [POINTS], "k1_draws": 1, "seed": 0},
        "report": {"primary": primary, "family": ["leave_one_out"], "equivalence": None} | report,
    }
    about: dict[str, Any] = {
        "profile": None,
        "dataset": "made up",
        "protocol": "full_frame",
        "stand_ins": [],
        "provenance": {},
    }
    content = {"suite": suite, "rows": stored, "finished": "2026-01-01T00:00:00Z"} | about
    files.write_json(root / "suites" / "made.json", content)
    return recorded(root, "made")


ERRORS = {"v13": 0.10, "no-worse": 0.12, "no-same": 0.1001, "no-better": 0.08, "constant": 0.4}


def test_planted_effects_are_found_and_named(tmp_path: Path) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2), equivalence=0.1)
    found = judge(stored, metric="absrel", k=POINTS)
    assert found is not None
    verdicts = {name: finding.verdict for name, finding in found.findings.items()}
    # the wobble is 0.004 per image, 0.0005 in the mean of 72; differences are ±0.02, and 0.0001 in a margin of 0.01
    assert verdicts == {"no-worse": "hurts", "no-same": "equivalent", "no-better": "helps"}
    assert found.findings["no-worse"].difference.mean == pytest.approx(0.02, abs=0.003)
    assert (found.declared, found.family, list(found.others)) == (3, ("leave_one_out",), ["constant"])


def test_fewer_than_three_seeds_get_no_verdict(tmp_path: Path) -> None:
    found = judge(suite_run(tmp_path, ERRORS, (0, 1)), metric="absrel", k=POINTS)
    assert found is not None
    assert {finding.verdict for finding in found.findings.values()} == {"exploratory"}


def test_another_reference_changes_the_sign(tmp_path: Path) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2))
    found = judge(stored, metric="absrel", k=POINTS, reference="no-worse")
    assert found is not None
    assert found.reference == "no-worse"
    assert found.others["v13"].mean == pytest.approx(-0.02, abs=0.003)


def test_a_row_that_failed_counts_in_the_family_and_is_not_judged(tmp_path: Path) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2))
    stored["rows"][3]["failure"] = "ran out of luck"  # no-worse, its first seed
    found = judge(stored, metric="absrel", k=POINTS)
    assert found is not None
    assert (found.declared, list(found.findings)) == (3, ["no-same", "no-better"])


def test_gt_aligned_rows_are_not_compared(tmp_path: Path) -> None:
    found = judge(suite_run(tmp_path, ERRORS | {"aligned": 0.01}, (0,)), metric="absrel", k=POINTS)
    assert found is not None
    assert "aligned" not in found.others


@pytest.mark.parametrize("field", ["uv_img_IP2", "truth_m_IP", "frames"])
def test_other_points_are_refused(tmp_path: Path, field: str) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2))
    path = tmp_path / "trained/no-same-s1/eval/predictions.h5"
    right = load(path)
    wrong: Any = right.frames[::-1] if field == "frames" else getattr(right, field) + 1
    save(path, replace(right, **{field: wrong}), {})
    with pytest.raises(StateError, match="not scored at the same points") as error:
        judge(stored, metric="absrel", k=POINTS)
    assert error.value.where == "no-same"


def test_without_a_base_or_company_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert judge(suite_run(tmp_path, {"constant": 0.4}, (0,)), metric="absrel", k=POINTS) is None
    assert judge(suite_run(tmp_path, {"v13": 0.4}, (0,)), metric="absrel", k=POINTS) is None


def test_a_metric_that_needs_more_points_says_nothing(tmp_path: Path) -> None:
    assert judge(suite_run(tmp_path, ERRORS, (0,)), metric="silog", k=1) is None


def test_equal_seeds_raise_the_banner(tmp_path: Path) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2, 3, 4))
    for seed in (1, 2, 3, 4):
        path = tmp_path / f"trained/v13-s{seed}/eval/predictions.h5"
        path.write_bytes((tmp_path / "trained/v13-s0/eval/predictions.h5").read_bytes())
    found = judge(stored, metric="absrel", k=POINTS)
    assert found is not None
    assert banner(found).startswith("A/A CONTROL FAILED")
    assert "not two runs" in banner(found)
    for form in FORMATS:
        text = render(collect(tmp_path), format=form, verdicts=found)
        assert "A/A CONTROL FAILED" in text, form
    text = render(collect(tmp_path), format="latex", verdicts=found)
    assert r"\caption{A/A CONTROL FAILED" in text  # typeset, not a comment alone
    assert "A/A CONTROL FAILED" not in render(collect(tmp_path), format="csv")


def test_what_is_not_trained_has_no_seeds_to_control(tmp_path: Path) -> None:
    stored = suite_run(tmp_path, ERRORS, (0, 1, 2, 3, 4))
    for seed in range(5):
        folder = tmp_path / f"trained/constant-s{seed}"
        (folder / "eval/predictions.h5").write_bytes(
            (tmp_path / "trained/constant-s0/eval/predictions.h5").read_bytes()
        )
        files.write_json(folder / "run.json", {"trainable_parameters": 0, "identity": {}})
    found = judge(stored, metric="absrel", k=POINTS, reference="constant")
    assert found is not None
    assert found.control.passed is None
    assert banner(found) == ""
    assert "constant is not trained here" in " ".join(block(found, "terminal").split())


def test_the_tables_say_what_was_found(tmp_path: Path) -> None:
    suite_run(tmp_path, ERRORS, (0, 1, 2), equivalence=0.1)
    found = judged(tmp_path)
    assert found is not None
    by_name = {row[0]: row for row in rows(found)}
    assert by_name["no-worse"][1] == "hurts"
    assert by_name["constant"][1] == "–"
    assert by_name["constant"][-1] == "outside the family"
    text = block(found, "terminal")
    for words in ("24 images of 8 scenes, 3 seed(s)", "3 comparisons, Holm", "10.0% of v13", "A/A control not run"):
        assert words in text
    document = plain(found)
    assert json.loads(json.dumps(document))["findings"]["no-worse"]["verdict"] == "hurts"


def test_names_cannot_write_html(tmp_path: Path) -> None:
    found = judge(suite_run(tmp_path, {"v13": 0.1, "no-<b>": 0.2}, (0,)), metric="absrel", k=POINTS)
    assert found is not None
    assert "no-&lt;b&gt;" in html_block(found)
    assert "<b>" not in html_block(found)


def test_compare_prints_them_for_any_metric_and_reference(tmp_path: Path) -> None:
    suite_run(tmp_path, ERRORS, (0, 1, 2))
    result = CliRunner().invoke(app, ["compare", "--runs", str(tmp_path), "--metric", "absrel"])
    assert result.exit_code == 0, result.output
    assert "Paired differences from v13: absrel at K=6" in result.output
    assert "hurts" in result.output
    result = CliRunner().invoke(
        app,
        ["compare", "--runs", str(tmp_path), "--metric", "rmse_pooled", "--baseline", "no-better", "--format", "json"],
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)["verdicts"]
    assert (document["reference"], document["metric"]) == ("no-better", "rmse_pooled")


def test_why_names_the_fields_that_differ(tmp_path: Path) -> None:
    suite_run(tmp_path, ERRORS, (0, 1))
    runs = tmp_path / "trained"
    result = CliRunner().invoke(app, ["why", str(runs / "v13-s0"), str(runs / "v13-s1"), "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["field"] == "seed"
    assert list(row.values())[1:] == ["0", "1"]
    same = CliRunner().invoke(app, ["why", str(runs / "v13-s0"), str(runs / "v13-s0" / "run.json")])
    assert "the same identity" in same.output
    lost = CliRunner().invoke(app, ["why", str(runs / "v13-s0"), str(runs)])
    assert "no run.json there" in str(lost.exception)
