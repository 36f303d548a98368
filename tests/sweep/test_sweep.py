"""A sweep in one process: what is claimed, repeated, pruned, refused and chosen, and what a study says of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import leave_out_costs

from spd_bench import cli
from spd_bench.errors import ConfigError
from spd_bench.run import session
from spd_bench.run.request import Request
from spd_bench.suite.load import load_suite
from spd_bench.sweep.confirming import chosen_trial, confirming_suite
from spd_bench.sweep.file import Sweep
from spd_bench.sweep.page import sweep_page
from spd_bench.sweep.request import SweepEnd, SweepRequest
from spd_bench.sweep.show import show_sweep
from spd_bench.sweep.study import MOST_DEATHS, Claim, Database, Study, Waiting, default_url, study_name
from spd_bench.sweep.tables import SweepSummary, terminal
from spd_bench.sweep.worker import run_sweep
from spd_bench.train.training import Training

ABOUT = {
    "why": "",
    "profile": None,
    "stand_ins": ["nothing real"],
    "dataset": "no data",
    "images": 0,
    "protocol": "none",
    "suite": {},
}


def sweep_of(**changes: Any) -> Sweep:
    plain: dict[str, Any] = {
        "sweep": "mine",
        "suite": "smoke",
        "space": {"train.lr": {"float": [0.0, 1.0]}, "routing.r": {"int": [1, 64]}},
        "objective": [{"metric": "absrel", "k": 256}],
        "trials": 4,
    }
    return Sweep.model_validate_json(json.dumps(plain | changes))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(default_url(tmp_path), tmp_path)


def study_of(database: Database, sweep: Sweep) -> Study:
    noted = sweep.model_dump(mode="json", by_alias=True, exclude_none=True)
    return Study(database, study_name(sweep, {}), sweep, ABOUT | {"sweep": noted})


def claimed(study: Study) -> Claim:
    claim = study.claim(validations=3)
    assert isinstance(claim, Claim)
    return claim


def finished(study: Study, value: Callable[[dict[str, Any]], float] = lambda values: values["train.lr"]) -> Claim:
    with claimed(study) as claim:
        claim.finish([value(claim.values)])
    return claim


def leave(study: Study) -> Claim:
    """A claim whose worker is stopped by Ctrl-C after its first validation."""
    claim = claimed(study)
    try:
        with claim:
            claim.report(1, 0.5)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return claim


def test_trials_are_a_total_of_all_workers(database: Database) -> None:
    sweep = sweep_of(trials=3)
    first, second = study_of(database, sweep), study_of(database, sweep)
    claims = [claimed(first), claimed(second), claimed(first)]
    assert second.claim(validations=3) == Waiting(3)  # none is left, but those three may yet be
    for claim in claims:
        with claim:
            claim.finish([1.0])
    assert first.claim(validations=3) is None
    assert len({json.dumps(claim.values) for claim in claims}) == 3  # each is seeded by its number


def test_more_trials_go_on_with_the_same_study(database: Database) -> None:
    study = study_of(database, sweep_of(trials=1))
    finished(study)
    assert study.claim(validations=3) is None
    more = study_of(database, sweep_of(trials=2))
    assert more.name == study.name
    finished(more)
    assert len(more.summary().trials) == 2


def test_a_trial_that_was_left_is_repeated_with_the_same_values(database: Database) -> None:
    study = study_of(database, sweep_of(trials=1))
    left = leave(study)
    again = claimed(study)
    assert again.values == left.values
    assert again.number != left.number
    with again:
        again.report(1, 0.7)  # was reported before: passed over
        again.finish([0.1])
    assert study.claim(validations=3) is None
    (row,) = study.summary().trials
    assert (row.state, row.number) == ("complete", again.number)


def test_a_trial_without_a_sign_of_life_is_repeated_until_it_is_to_blame(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(database, sweep_of(trials=1))
    values = claimed(study).values
    monkeypatch.setattr(database.storage, "grace_period", -1)  # whoever is not inside `with` has given no sign
    for _ in range(MOST_DEATHS - 1):
        assert claimed(study).values == values
    assert study.claim(validations=3) is None
    (row,) = study.summary().trials
    assert row.state == "failed"
    assert row.notes["failure"] == f"its workers died {MOST_DEATHS} times"


def test_a_worker_that_dies_while_it_claims_loses_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(database, sweep_of(trials=1))

    def die(trial_id: int) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(database.storage, "record_heartbeat", die)
        with pytest.raises(SystemExit):
            study.claim(validations=3)
    finished(study)
    assert [trial.state for trial in study.summary().trials] == ["complete"]


def test_a_worker_whose_trial_was_given_away_stops_without_harm(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spd_bench.sweep.study import Taken

    study = study_of(database, sweep_of(trials=1))
    slow = claimed(study)
    with monkeypatch.context() as later:
        later.setattr(database.storage, "grace_period", -1)
        quick = claimed(study)
    with pytest.raises(Taken), slow:
        slow.report(1, 0.5)
    with quick:
        quick.finish([0.3])
    assert [trial.state for trial in study.summary().trials] == ["complete"]


def test_a_trial_that_fails_is_counted_and_not_repeated(database: Database) -> None:
    study = study_of(database, sweep_of(trials=1))
    with claimed(study) as claim:
        claim.fail("loss is nan")
    assert study.claim(validations=3) is None
    assert "failed: trial 0: loss is nan" in terminal(study.summary())


def test_a_grid_is_gone_through_once(database: Database) -> None:
    space = {"routing.r": {"int": [4, 12], "step": 4}, "neck": {"choice": ["pyramid", {"use": "last_layer"}]}}
    study = study_of(database, sweep_of(space=space, sampler={"use": "grid"}, trials=None))
    seen = [finished(study, lambda values: 1.0).values for _ in range(6)]
    assert study.claim(validations=3) is None
    assert seen == list(study.sweep.grid())


def test_the_best_trial_is_the_least_or_the_largest(database: Database) -> None:
    less = study_of(database, sweep_of())
    more = study_of(database, sweep_of(objective=[{"metric": "delta1", "k": 256}]))
    for study, best in ((less, min), (more, max)):
        values = [finished(study).values["train.lr"] for _ in range(4)]
        summary = study.summary()
        assert [trial.values["train.lr"] for trial in summary.best] == [best(values)]
        assert summary.ranked()[0] == summary.best[0]
    assert less.name != more.name


def test_several_objectives_have_a_front(database: Database) -> None:
    objectives = [{"metric": "absrel", "k": 256}, {"cost": "parameters"}]
    study = study_of(database, sweep_of(objective=objectives, trials=3))
    for values in ([1.0, 3.0], [2.0, 1.0], [2.0, 2.0]):  # the second beats the third
        with claimed(study) as claim:
            claim.finish(values)
    summary = study.summary()
    assert [trial.number for trial in summary.best] == [0, 1]
    assert "front of 2 trials" in terminal(summary)
    with pytest.raises(ConfigError, match="2 trials are best") as caught:
        chosen_trial(summary, None)
    assert "--trial: 0, 1" in str(caught.value)


def test_a_constraint_that_is_not_kept_is_never_the_best(database: Database) -> None:
    study = study_of(database, sweep_of(trials=2, constraints=[{"cost": "parameters", "below": 10}]))
    for cost, value in ((20, 0.1), (5, 0.9)):
        with claimed(study) as claim:
            claim.keep({"parameters": cost}, {"parameters": cost / 10 - 1})
            claim.finish([value])
    assert [trial.number for trial in study.summary().best] == [1]


def test_hyperband_gives_bad_trials_up(database: Database) -> None:
    study = study_of(database, sweep_of(trials=30, pruner={"use": "hyperband"}))
    pruned = 0
    for _ in range(30):
        with claimed(study) as claim:
            for validation in (1, 2):
                claim.report(validation, claim.values["train.lr"])
            if claim.should_prune():
                claim.prune()
                pruned += 1
            else:
                claim.finish([claim.values["train.lr"]])
    assert 0 < pruned < 30
    assert study.summary().count("pruned") == pruned


def test_the_page_has_figures_and_cannot_be_scripted(database: Database) -> None:
    objectives = [{"metric": "absrel", "k": 256}, {"cost": "parameters"}]
    space = {"train.lr": {"float": [1e-5, 1.0], "log": True}, "neck": {"choice": ["pyramid", "<script>"]}}
    study = study_of(database, sweep_of(space=space, objective=objectives, trials=4))
    for number in range(4):
        with claimed(study) as claim:
            claim.finish([claim.values["train.lr"], float(number)])
    page = sweep_page(study.summary())
    assert page.count("<img ") == 3  # slices, parallel coordinates, front
    assert "<script" not in page
    assert "STAND-INS: nothing real" in page
    assert sweep_page(study.summary()) == page


def test_another_space_is_another_study(database: Database) -> None:
    study_of(database, sweep_of())
    other = study_of(database, sweep_of(space={"train.lr": {"float": [0.0, 2.0]}}))
    assert len(other.summary().others) == 1
    assert database.find("mine")[0] == other.name  # the latest
    with pytest.raises(ConfigError, match='did you mean "mine"'):
        database.find("mien")


# from the command line

SWEEP = """
sweep: tiny
suite: tiny.yaml
space:
  train.lambda_si: {choice: [0.25, 0.5]}
sampler: grid
"""


@pytest.fixture
def folder(tiny_suite: Callable[[int], Path]) -> Path:
    return tiny_suite(2)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every training step that is taken."""
    leave_out_costs(monkeypatch)
    steps: list[int] = []
    original = Training.advance

    def counted(training: Training, *args: Any, **more: Any) -> float:
        steps.append(training.step)
        return original(training, *args, **more)

    monkeypatch.setattr(Training, "advance", counted)
    return steps


def summary_of(swept: SweepEnd, folder: Path) -> SweepSummary:
    return show_sweep(swept.study, root=folder / "runs")


def run(folder: Path, text: str, **options: Any) -> SweepEnd:
    (folder / "sweep.yaml").write_text(SWEEP + text, encoding="utf-8")
    return run_sweep(SweepRequest(sweep=str(folder / "sweep.yaml"), root=folder / "runs", device="cpu", **options))


@pytest.mark.slow
def test_what_a_suite_has_trained_costs_a_sweep_nothing_and_the_other_way_round(
    folder: Path, trainings: list[int]
) -> None:
    def suite(*sets: str) -> None:
        session.run_suite(Request(suite=str(folder / "tiny.yaml"), sets=sets, root=folder / "runs", device="cpu"))

    suite()
    assert trainings == [0, 1]
    swept = run(folder, "objective: {metric: absrel, k: 16}\n")
    assert trainings == [0, 1] * 2  # λ = 0.5 was there
    assert swept.finished
    (once,) = (trial for trial in summary_of(swept, folder).trials if trial.notes.get("reused"))
    assert once.values == {"train.lambda_si": 0.5}
    assert len(list((folder / "runs/trained").glob("*/val-*/scores.json"))) == 2  # K = 16 is no validation's
    suite("train.lambda_si=0.25")
    assert len(trainings) == 4
    again = run(folder, "objective: {metric: absrel, k: 16}\n")
    assert len(trainings) == 4
    assert again.table == swept.table


@pytest.mark.slow
def test_only_the_chosen_trial_is_scored_on_the_test_split_and_a_suite_confirms_it(
    folder: Path, trainings: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swept = run(folder, "objective: {metric: absrel, k: 256}\n")
    summary = show_sweep("tiny", root=folder / "runs")
    assert list(summary.about["test"]) == ["absrel@8"]
    assert "on the test split, scored once: absrel@8" in swept.table
    assert "STAND-INS: patch descriptors instead of DAv2-S" in swept.table
    scored = [path.parent.parent for path in (folder / "runs/trained").glob("*/eval-*/scores.json")]
    assert [path.relative_to(folder / "runs") for path in scored] == [Path(summary.best[0].notes["folder"])]

    trial = next(t for t in summary.trials if t.values["train.lambda_si"] == 0.25)
    base = next(t for t in summary.trials if t.values["train.lambda_si"] == 0.5)
    with pytest.raises(ConfigError, match="the base itself"):
        confirming_suite(summary, base)
    options = ["--runs", f"{folder}/runs", "--trial", str(trial.number), "--write-suite", f"{folder}/best.yaml"]
    monkeypatch.setattr("sys.argv", ["spd-bench", "sweep", "show", "tiny", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "spd-bench run" in capsys.readouterr().out
    written = load_suite(folder / "best.yaml")
    assert written.seeds == (1, 2, 3)  # none is the sweep's 0
    assert written.train.lambda_si == 0.5
    assert written.axes.cross == ({"train.lambda_si": (0.25,)},)


@pytest.mark.slow
def test_a_trial_that_breaks_a_constraint_is_not_trained(folder: Path, trainings: list[int]) -> None:
    swept = run(
        folder,
        "objective: {metric: absrel, k: 256}\n"
        "constraints: [{cost: parameters, below: 1000}, {cost: t_decode, k: 8, below: 100, relative_to: constant}]\n",
    )
    assert trainings == []
    assert [trial.state for trial in summary_of(swept, folder).trials] == ["refused"] * 2
    assert summary_of(swept, folder).best == []
    assert "no trial is complete" in swept.table


def test_pruning_needs_validations_to_prune_by(folder: Path) -> None:
    with pytest.raises(ConfigError, match="validated 1 time") as caught:
        run(folder, "objective: {metric: absrel, k: 256}\npruner: median\nset: {train: {validations: 1}}\n")
    assert "sweep.yaml:8:" in str(caught.value)


def test_nothing_to_show_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sweep has been run"):
        show_sweep(None, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_trial_without_a_suite_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option would have no effect; the refusal comes before the database is looked for."""
    monkeypatch.setattr("sys.argv", ["spd-bench", "sweep", "show", "--runs", f"{tmp_path}/runs", "--trial", "3"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "sweep show: --trial 3" in error
    assert "add --write-suite FILE" in error
