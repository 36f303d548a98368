"""From a suite file to the table: what is trained, what is skipped, what goes on, and what a failure costs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from tiny import leave_out_costs, write_frames, write_suite

from spd_bench.cli import main
from spd_bench.errors import BusyError, DataError
from spd_bench.report.collect import collect
from spd_bench.run import session
from spd_bench.run.outcome import Outcome
from spd_bench.run.planning import choose, plan
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Finished, Request
from spd_bench.run.runner import Runner
from spd_bench.train.callback import Callback
from spd_bench.train.training import Training
from spd_components.encoders.patch_descriptors import PatchDescriptors

SUITE = {"axes": "{leave_one_out: [b3]}", "baselines": "[constant]", "report": "{primary: {metric: absrel, k: 8}}"}


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty RGB-D frames of 48×64: brightness falls with depth, which rises to the right."""
    return write_frames(tmp_path_factory.mktemp("frames"), height=48, width=64)


@pytest.fixture
def suite(tmp_path: Path, frames: Path) -> Path:
    return write_suite(tmp_path / "tiny.yaml", frames, **SUITE)


@pytest.fixture
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow has tests of its own; here it would only cost its start-up."""
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)


@pytest.fixture
def no_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_costs(monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, frames: Path) -> tuple[Path, str]:
    """A folder with the suite and its finished runs, and the table that was printed."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_costs(patch)
        return home, run(write_suite(home / "tiny.yaml", frames, **SUITE)).table


@pytest.fixture
def done(finished: tuple[Path, str], suite: Path) -> Path:
    """The suite, with finished runs beside it that a test may change."""
    shutil.copytree(finished[0] / "runs", suite.parent / "runs")
    return suite


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The list of all training steps that are taken."""
    steps: list[int] = []
    original = Training.advance

    def counted(training: Training, *args: Any, **more: Any) -> float:
        steps.append(training.step)
        return original(training, *args, **more)

    monkeypatch.setattr(Training, "advance", counted)
    return steps


def run(suite: Path, *sets: str) -> Finished:
    root = suite.parent / "runs"
    return session.run_suite(Request(suite=str(suite), sets=sets, root=root, device="cpu"))


def outcome(suite: Path, root: Path, progress: Any = None) -> Outcome:
    """Runs the base's only job and returns its outcome."""
    experiment = plan.Experiment(choose.choose(Request(suite=str(suite))).suite)
    return Runner(experiment, root, torch.device("cpu")).run(experiment.jobs[0], progress or Callback())


@pytest.mark.usefixtures("no_tracking")
def test_a_suite_ends_in_a_table_that_its_folders_can_rebuild(suite: Path) -> None:
    finished = run(suite)
    assert finished.failed == 0
    assert "STAND-INS: patch descriptors instead of DAv2-S" in finished.table
    comparison = collect(suite.parent / "runs")
    assert [row.name for row in comparison.rows] == ["v13", "no-b3", "constant"]
    assert [row.trainable_parameters for row in comparison.rows] == [4_142_315, 3_105_131, 0]
    assert comparison.images == 4  # the last 20 % of 20 frames
    assert finished.report.read_text(encoding="utf-8").startswith("<!")
    assert comparison.provenance["torch"] == torch.__version__.split("+")[0] or comparison.provenance["torch"]


@pytest.mark.usefixtures("no_costs")
def test_what_is_done_is_not_done_again(done: Path, finished: tuple[Path, str], trainings: list[int]) -> None:
    assert run(done).table == finished[1]
    assert trainings == []


@pytest.mark.usefixtures("no_costs")
def test_views_that_never_come_again_are_encoded_once_for_all_models(
    suite: Path, trainings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = PatchDescriptors.forward

    def counted(encoder: PatchDescriptors, image_B3HW: Any) -> Any:
        if image_B3HW.device.type != "meta":
            encoded.append(len(image_B3HW))
        return original(encoder, image_B3HW)

    monkeypatch.setattr(PatchDescriptors, "forward", counted)
    alone = suite.with_name("alone.yaml")
    alone.write_text(suite.read_text().replace("enabled: false", "enabled: true, views: 2"))
    new = suite.with_name("new.yaml")
    new.write_text(suite.read_text().replace("enabled: false", "enabled: true"))

    finished = run(new)
    assert trainings == [0, 0, 1, 1, 2, 2, 3, 3]  # v13 and no-b3 side by side
    # 4 steps of 2 images for both, then 2 validation and 4 test images, which are held
    assert sum(encoded) == 4 * 2 + 2 + 4
    trainings.clear()
    run(alone)
    assert trainings == [0, 1, 2, 3] * 2
    assert run(new).table == finished.table


@pytest.mark.usefixtures("no_costs")
@pytest.mark.parametrize("new_views", [False, True])
def test_two_ways_to_compute_one_baseline_share_its_training(
    suite: Path, trainings: list[int], new_views: bool
) -> None:
    text = suite.read_text().replace("baselines: [constant]", "baselines: [dpt_sparse, dpt_trained]")
    text = text.replace("axes: {leave_one_out: [b3]}", "").replace(
        "enabled: false", f"enabled: {str(new_views).lower()}"
    )
    suite.write_text(text)
    run(suite)
    assert sorted(trainings) == sorted([0, 1, 2, 3] * 2)  # v13, and one of the two
    rows = {row.name: row for row in collect(suite.parent / "runs").rows}
    sparse, dense = (rows[name].values["absrel", 8][0] for name in ("dpt_sparse", "dpt_trained"))
    assert sparse == pytest.approx(dense, rel=1e-5)
    assert rows["dpt_sparse"].trainable_parameters == rows["dpt_trained"].trainable_parameters
    evaluations = list((suite.parent / "runs/trained").glob("dpt_*/eval-*/scores.json"))
    assert len(evaluations) == 2  # each is scored and timed itself
    trainings.clear()
    run(suite)
    assert trainings == []


@pytest.mark.usefixtures("no_costs")
def test_another_k_is_scored_without_training_again(done: Path, trainings: list[int]) -> None:
    run(done, "eval.k=[1, 8, 32]")
    assert trainings == []
    assert collect(done.parent / "runs").ks == (1, 8, 32)


@pytest.mark.usefixtures("no_costs")
def test_another_seed_trains_and_both_are_kept(done: Path, trainings: list[int]) -> None:
    run(done, "seeds=[0, 1]")
    assert trainings == [0, 1, 2, 3] * 2  # v13 and no-b3 with the new seed; a constant has no steps
    assert collect(done.parent / "runs").row("v13").seeds == (0, 1)


@pytest.mark.usefixtures("no_costs")
def test_an_interrupted_training_goes_on_to_the_same_numbers(suite: Path, tmp_path: Path, trainings: list[int]) -> None:
    undisturbed = outcome(suite, tmp_path / "a")

    class Impatient(Callback):
        def on_step(self, step: int, loss: float) -> None:
            if step == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome(suite, tmp_path / "b", Impatient())
    trainings.clear()
    resumed = outcome(suite, tmp_path / "b")
    assert trainings == [2, 3]  # from the checkpoint of the first validation, at half the steps
    assert resumed.scores is not None
    assert undisturbed.scores is not None
    assert resumed.scores["scores"] == undisturbed.scores["scores"]
    assert (resumed.log or {})["rows"] == (undisturbed.log or {})["rows"]


@pytest.mark.usefixtures("no_costs")
def test_a_composition_that_fails_fails_alone(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spd_components.blocks.skip import SkipB3

    def broken(self: Any, state: Any, scene: Any) -> Any:
        if state.xy_BK2.is_meta:
            return state
        raise RuntimeError("this block is broken")

    monkeypatch.setattr(SkipB3, "forward", broken)
    finished = run(suite)
    assert finished.failed == 1
    rows = {row.name: row for row in collect(suite.parent / "runs").rows}
    assert "this block is broken" in str(rows["no-b3"].failure)
    assert rows["v13"].failure is None
    assert rows["constant"].failure is None
    (told,) = (suite.parent / "runs").glob("trained/no-b3-*/failure.txt")
    assert "Traceback" in told.read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_costs")
def test_predictions_that_are_not_finite_are_a_failure(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spd_baselines.constant import Constant

    monkeypatch.setattr(Constant, "decode", lambda self, scene, xy_BK2: torch.full(xy_BK2.shape[:2], torch.nan))
    assert run(suite, "axes=null").failed == 1
    assert "not finite" in str(collect(suite.parent / "runs").row("constant").failure)


def test_a_suite_that_runs_elsewhere_is_refused(suite: Path) -> None:
    root = suite.parent / "runs"
    root.mkdir()
    with FileLock(root / ".tiny.lock"), pytest.raises(BusyError, match="another process"):
        run(suite)


def identity(suite: Path, *sets: str, index: int = 0) -> tuple[str, str]:
    job = plan.Experiment(choose.choose(Request(suite=str(suite), sets=sets)).suite).jobs[index]
    return job.train_id, job.eval_id


@pytest.mark.usefixtures("no_costs")
@pytest.mark.parametrize(
    "change",
    [
        "train.lr=2e-3",
        "train.steps=5",
        "train.lambda_si=0.1",
        "train.loss={use: huber_silog, huber_delta: 0.5}",
        "data.image_size=[56, 70]",
        "data.augment.enabled=true",
        "data.query_sampler=edges",
        "base.routing.r=3",
        "base.b2.dropout=0.2",
        "base.neck=last_layer",
        "seeds=[1]",
    ],
)
def test_what_training_depends_on_changes_its_identity(suite: Path, change: str) -> None:
    assert identity(suite, change)[0] != identity(suite)[0]


@pytest.mark.usefixtures("no_costs")
@pytest.mark.parametrize("change", ["eval.k=[8]", "eval.k1_draws=3", "eval.seed=1"])
def test_what_only_evaluation_depends_on_changes_only_that_identity(suite: Path, change: str) -> None:
    before, after = identity(suite), identity(suite, change, "report.primary.k=8")
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.usefixtures("no_costs")
@pytest.mark.parametrize("change", ["train.workers=1", "report.primary.k=1", "base.name=other"])
def test_what_changes_no_number_changes_no_identity(suite: Path, change: str) -> None:
    assert identity(suite, change) == identity(suite)


@pytest.mark.usefixtures("no_costs")
def test_data_and_component_versions_are_part_of_the_identity(
    suite: Path, tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity(suite)
    moved = tmp_path / "elsewhere"
    moved.symlink_to(frames, target_is_directory=True)
    assert identity(suite, f"data.dataset.root={moved}") == before  # the same frames at another place
    assert identity(suite, "data.dataset.depth_scale=500")[0] != before[0]
    from spd_components.blocks.b4_deformable_read import DeformableRead

    monkeypatch.setattr(DeformableRead, "version", 2)
    assert identity(suite)[0] != before[0]


def test_without_data_and_weights_the_suite_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NYU_ROOT", raising=False)
    monkeypatch.delenv("DAV2_WEIGHTS", raising=False)
    chosen = choose.choose(Request(suite="v13_ablation"))
    assert chosen.suite.profile == "smoke"
    assert "nyu_depth_v2_labeled.mat" in chosen.why
    assert "depth_anything_v2_vits" in chosen.why


def test_an_asked_for_profile_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NYU_ROOT", raising=False)
    monkeypatch.delenv("DAV2_WEIGHTS", raising=False)
    with pytest.raises(DataError, match="NYU_ROOT") as caught:
        choose.choose(Request(suite="v13_ablation", profile="full"))
    assert caught.value.exit_code == 3
    assert "DAV2_WEIGHTS" in str(caught.value)


def test_a_chain_that_reads_what_nothing_writes_is_placed(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = suite.read_text(encoding="utf-8").replace("b3: global_cross_attention", "b3: skip")
    suite.write_text(text.replace("axes: {leave_one_out: [b3]}", ""), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["spd-bench", "plan", str(suite)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2
    line = next(i for i, row in enumerate(suite.read_text(encoding="utf-8").splitlines(), 1) if "topk_attention" in row)
    assert f"tiny.yaml:{line}:" in told
    assert "topk_attention" in told
    assert "global_cross_attention" in told  # what would write it


def test_plan_says_what_run_would_do_and_writes_nothing(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = suite.parent / "runs"
    rows, title = plan_suite(Request(suite=str(suite), root=root))
    assert [row["state"] for row in rows] == ["to train", "to train", "to score"]
    assert "3 compositions" in title
    assert not root.exists()


@pytest.mark.usefixtures("no_costs")
def test_a_damaged_record_is_one_clear_error(suite: Path, tmp_path: Path) -> None:
    done = outcome(suite, tmp_path / "a")
    (done.folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    for path in done.folder.glob("eval-*/scores.json"):
        path.unlink()
    again = outcome(suite, tmp_path / "a")
    assert "checkpoint.pt" in again.failure
    assert "Traceback" not in again.failure


@pytest.mark.usefixtures("no_costs")
def test_run_records_hold_what_a_number_came_from(suite: Path, tmp_path: Path) -> None:
    done = outcome(suite, tmp_path / "a")
    record = json.loads((done.folder / "run.json").read_text(encoding="utf-8"))
    assert len(record["identity"]["encoder"]["weights"]) == 64
    assert len(record["identity"]["data"]["digest"]) == 64
    options = {"levels": [2, 3, 4], "samples": 4}
    assert record["identity"]["model"]["b4"] == {"use": "deformable_read", "version": 1, "options": options}
    assert record["parameters_by_slot"]["neck"] == 297_216


@pytest.fixture
def own_frames(frames: Path, tmp_path: Path) -> Path:
    """A copy of the frames that a test may damage."""
    return Path(shutil.copytree(frames, tmp_path / "own"))


def complaint(suite: Path, own: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        run(suite, f"data.dataset.root={own}")
    assert not (suite.parent / "runs" / "trained").exists()  # nothing was trained
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.usefixtures("no_costs")
def test_corrupt_images_are_all_named_before_anything_is_trained(suite: Path, own_frames: Path) -> None:
    for number, folder in (("003", "rgb"), ("017", "depth")):
        path = own_frames / folder / f"{number}.png"
        path.write_bytes(path.read_bytes()[:70])
    told = str(complaint(suite, own_frames))
    assert "2 of 20 frames cannot be used" in told
    assert "003.png" in told
    assert "017.png" in told


@pytest.mark.usefixtures("no_costs")
def test_depth_in_the_wrong_unit_is_refused_before_anything_is_trained(suite: Path, own_frames: Path) -> None:
    for path in (own_frames / "depth").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) / 10).astype(np.uint16)).save(path)  # centimetres
    assert "depth_scale" in str(complaint(suite, own_frames))


@pytest.mark.usefixtures("no_costs")
def test_too_few_valid_pixels_are_refused_before_anything_is_trained(suite: Path, own_frames: Path) -> None:
    depth = np.zeros((48, 64), np.uint16)
    depth[:2] = 2000  # 128 pixels; validation scores 256
    Image.fromarray(depth).save(own_frames / "depth" / "019.png")
    told = str(complaint(suite, own_frames))
    assert "019" in told
    assert "128 valid pixels" in told


@pytest.mark.usefixtures("no_costs")
def test_data_is_checked_once(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spd_bench.run.inputs.check_frames", lambda *args, **kw: pytest.fail("checked again"))
    run(done)
