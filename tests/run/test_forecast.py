"""What `plan` says: what is left to do, what it is estimated to take, and that `run` does just that."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from spd_bench.cli import main
from spd_bench.errors import ConfigError
from spd_bench.run import session
from spd_bench.run.forecast import UNKNOWN, Forecast
from spd_bench.run.planning import choose, plan
from spd_bench.run.planning.job import Job
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Request
from spd_bench.run.runner import Runner, device_label
from spd_bench.store import records
from spd_bench.suite.load import load_suite
from spd_bench.train.callback import Callback
from spd_bench.train.training import Training

SUITE = """\
suite: tiny
base:
  name: v13
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: {use: local_cross_attention, layers: 1}
  b3: {use: global_cross_attention, layers: 1}
  routing: {use: topk_attention, r: 2}
  b4: deformable_read
  b5: {use: fused_cross_attention, layers: 1}
  depth_head: calibrated_inverse
data:
  dataset: {use: synthetic_rooms, train_scenes: 1, val_scenes: 1, test_scenes: 1, height: 48, width: 64}
  image_size: [56, 56]
  augment: {enabled: false}
train: {steps: 4, batch_size: 2, queries: 8, precision: fp32, validations: 2}
eval: {protocol: full_frame, k: [1, 8], k1_draws: 2}
seeds: [0]
axes: {leave_one_out: [b3]}
report: {primary: {metric: absrel, k: 8}}
"""
HERE = device_label(torch.device("cpu"))


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPD_BENCH_CACHE", str(tmp_path / "cache"))  # of rendered rooms
    monkeypatch.setattr(
        "spd_bench.model.compose.check", lambda *args, **more: None
    )  # has tests of its own, and takes its time
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


def runner(suite: Path, *sets: str) -> Runner:
    experiment = plan.Experiment(choose.choose(Request(suite=str(suite), sets=sets)).suite)
    return Runner(experiment, suite.parent / "runs", torch.device("cpu"))


def finished(run: Runner, job: Job, *, train_s: float, test_s: float | None, **about: Any) -> None:
    """The records of a job that took this many seconds."""
    folder = run.folder(job).path
    record: Mapping[str, Any] = {"identity": job.train_identity, "trainable_parameters": 1, "device": HERE} | about
    records.write_record(folder / "run.json", record)
    records.write_record(folder / "done.json", {"rows": [[run.inputs.optimisation(job).steps, {}]], "seconds": train_s})
    if test_s is not None:
        scores = {"identity": job.eval_identity, "images": 4, "seconds": test_s, "scores": {}}
        records.write_record(folder / f"eval-{job.eval_id[:10]}" / "scores.json", scores)


def test_without_a_run_nothing_is_made_up(suite: Path) -> None:
    run = runner(suite)
    found = Forecast(run).of(run.experiment.jobs[0], "to train")
    assert (found.seconds, found.source) == (None, UNKNOWN)


def test_a_job_is_estimated_from_its_own_model_then_from_the_base(suite: Path) -> None:
    run = runner(suite, "seeds=[0,1]")
    v13_0, v13_1, bare_0, bare_1 = run.experiment.jobs
    assert len(run.experiment.data.frames("test")) == 4
    finished(run, v13_0, train_s=60, test_s=20)
    forecast = Forecast(run)
    assert forecast.of(v13_0, "done").seconds == 0
    # the same model under another seed, and another model: as long as the base took
    assert (forecast.of(v13_1, "to train").seconds, forecast.of(v13_1, "to train").source) == (80, "1 run of it")
    assert (forecast.of(bare_0, "to train").seconds, forecast.of(bare_0, "to train").source) == (80, "1 run of v13")
    assert forecast.of(bare_0, "to evaluate").seconds == 20
    finished(run, bare_0, train_s=30, test_s=10)
    assert Forecast(run).of(bare_1, "to train").seconds == 40
    assert Forecast(run).of(v13_1, "to train").seconds == 80


def test_estimates_are_scaled_by_images_and_say_what_else_differs(suite: Path) -> None:
    run = runner(suite)
    finished(run, run.experiment.jobs[0], train_s=60, test_s=20)
    longer = runner(suite, "train.steps=12", "eval.k=[8]")
    found = Forecast(longer).of(longer.experiment.jobs[0], "to train")
    assert found.seconds == pytest.approx(3 * 60 + 20)
    assert found.source == "1 run of it; 1 run of it with other K"
    larger = runner(suite, "train.batch_size=4")  # 4 steps of 4 images: twice as many
    found = Forecast(larger).of(larger.experiment.jobs[0], "to train")
    assert found.seconds == pytest.approx(2 * 60 + 20)
    assert found.source == "1 run of it with other batch size or queries; 1 run of it"


@pytest.mark.parametrize("change", ["data.image_size=[70, 70]", "train.precision=bf16", "data.augment.enabled=true"])
def test_runs_that_a_step_took_longer_or_shorter_in_say_nothing(suite: Path, change: str) -> None:
    run = runner(suite)
    finished(run, run.experiment.jobs[0], train_s=60, test_s=20)
    other = runner(suite, change)
    assert Forecast(other).of(other.experiment.jobs[0], "to train").source == UNKNOWN


def test_runs_on_another_device_say_nothing(suite: Path) -> None:
    run = runner(suite)
    finished(run, run.experiment.jobs[0], train_s=60, test_s=20, device="cuda (H200), 1 threads")
    assert Forecast(run).of(run.experiment.jobs[1], "to train").source == UNKNOWN


def test_an_interrupted_training_is_estimated_from_itself(suite: Path) -> None:
    run = runner(suite)
    v13, bare = run.experiment.jobs
    finished(run, v13, train_s=60, test_s=20)
    folder = run.folder(bare).path
    folder.mkdir(parents=True)
    torch.save({"step": 1, "log": {"seconds": 7.0}}, folder / "checkpoint.pt")
    found = Forecast(run).of(bare, run.folder(bare).state)
    assert run.folder(bare).state == "to resume"
    assert found.seconds == 3 * 7 + 20  # three of four steps, and the evaluation as the base's
    assert found.source == "its own first 1 of 4 steps; 1 run of v13"


def planned(suite: Path, *sets: str) -> tuple[list[dict[str, Any]], str]:
    return plan_suite(Request(suite=str(suite), sets=sets, root=suite.parent / "runs", device="cpu"))


def test_a_plan_says_what_is_unknown(suite: Path) -> None:
    rows, title = planned(suite)
    assert [(row["state"], row["estimated_minutes"], row["estimated_from"]) for row in rows] == [
        ("to train", None, UNKNOWN)
    ] * 2
    assert title.splitlines()[-1] == f"2 to train: 2 {UNKNOWN}"
    json.dumps(rows)
    assert not (suite.parent / "runs").exists()
    assert not (suite.parent / "cache").exists()  # no room is rendered for a plan


def test_run_does_what_the_plan_says(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    trained: list[Path] = []
    original = Training.__init__

    def noted(training: Training, *args: Any, **more: Any) -> None:
        trained.append(more["checkpoint"].parent)
        original(training, *args, **more)

    monkeypatch.setattr(Training, "__init__", noted)
    root = suite.parent / "runs"

    def check(*sets: str) -> tuple[list[str], str]:
        """States and summary of a plan, after whose run just that has been trained and everything is done."""
        rows, title = planned(suite, *sets)
        trained.clear()
        done = session.run_suite(Request(suite=str(suite), sets=sets, root=root, device="cpu"))
        assert done.failed == 0
        due = [row["identity"] for row in rows if row["state"] in ("to train", "to resume")]
        assert sorted(folder.name[-10:] for folder in trained) == sorted(due)
        assert {row["state"] for row in planned(suite, *sets)[0]} == {"done"}
        return [row["state"] for row in rows], title.splitlines()[-1]

    assert check("axes=null")[0] == ["to train"]
    states, summary = check("axes.leave_one_out=null", "axes.grid.train={lambda_si: [0, 0.5], queries: [16]}")
    assert states == ["done", "to train", "to train"]
    assert summary.startswith("1 done, 2 to train: estimated ")
    assert summary.endswith(" min in all, from finished runs")
    assert check("axes=null", "eval.k=[8]")[0] == ["to evaluate"]


def test_only_recipes_that_share_their_batches_train_side_by_side(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = "axes.grid.train={lambda_si: [0], lr: [1e-3], queries: [16], batch_size: [4], steps: [5], loss: [l1]}"
    run = runner(suite, "data.augment.enabled=true", grid)  # with new views every epoch
    groups: list[list[str]] = []
    monkeypatch.setattr(
        run, "_train_group", lambda group, callback: groups.append([j.composition.name for j in group.values()])
    )
    run.train_in_step(run.experiment.jobs, Callback())
    assert groups == [
        ["v13", "no-b3", "train.lambda_si-0", "train.lr-0.001", "train.loss-l1"],
        ["train.queries-16"],
        ["train.batch_size-4"],
        ["train.steps-5"],
    ]


def test_two_jobs_of_one_training_are_planned_as_one(suite: Path) -> None:
    rows, _ = planned(suite, "axes=null", "baselines=[dpt_sparse, dpt_trained]")
    assert [row["state"] for row in rows] == ["to train", "to train", "to evaluate"]


# seeds


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("0,1,2", (0, 1, 2)), ("0-4", (0, 1, 2, 3, 4)), ("7, 0-1", (7, 0, 1))]
)
def test_seeds_are_numbers_and_ranges(suite: Path, text: str, seeds: tuple[int, ...]) -> None:
    loaded = load_suite(suite, sets=["seeds=[9]", f"--seeds {text}"])
    assert loaded.seeds == seeds
    assert loaded.place("seeds", 0) == f"--seeds {text}"


def test_seeds_of_the_command_line_reach_the_plan(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["spd-bench", "plan", str(suite), "--set", "axes=null", "--json", "--seeds"]
    monkeypatch.setattr("sys.argv", [*command, "3-4"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert [(row["seed"], row["estimated_from"]) for row in json.loads(capsys.readouterr().out)] == [
        (3, UNKNOWN),
        (4, UNKNOWN),
    ]
    monkeypatch.setattr("sys.argv", [*command, "many"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "--seeds many: expected seeds and ranges of seeds with commas" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'expected seeds and ranges of seeds with commas, found ""'),
        ("a", 'expected seeds and ranges of seeds with commas, found "a"'),
        ("-1", 'expected seeds and ranges of seeds with commas, found "-1"'),
        ("1,,2", 'expected seeds and ranges of seeds with commas, found ""'),
        ("4-0", 'expected seeds and ranges of seeds with commas, found "4-0"'),
        ("0-999999999", 'expected seeds and ranges of seeds with commas, found "0-999999999"'),
        ("1.5", 'expected seeds and ranges of seeds with commas, found "1.5"'),
        ("0,0-1", "seeds: lists 0 twice"),
    ],
)
def test_nonsense_for_seeds_is_refused(suite: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(suite, sets=[f"--seeds {text}"])
    assert (caught.value.where, caught.value.message) == (f"--seeds {text}", message)
    assert caught.value.exit_code == 2
