"""--only and --skip do what they say; what is wrong for every composition is found once, before anything is made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import SMALL, write_frames

from spd_bench.errors import ConfigError, DataError
from spd_bench.run import session
from spd_bench.run.preview import plan_suite
from spd_bench.run.request import Request
from spd_bench.suite.axes import Selection
from spd_bench.train import loop

SUITE = (
    "suite: tiny\n"
    + SMALL
    + """\
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{enabled: false}}
train: {{steps: 2, batch_size: 2, queries: 8, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [8], k1_draws: 1}}
seeds: [0]
axes: {{leave_one_out: [b2]}}
baselines: [constant]
report: {{primary: {{k: 8}}}}
"""
)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.format(root=write_frames(tmp_path / "frames", count=10)), encoding="utf-8")
    return path


def planned(suite: Path, **selection: tuple[str, ...]) -> dict[str, str]:
    rows, _ = plan_suite(Request(suite=str(suite), root=suite.parent / "runs", selection=Selection(**selection)))
    return {row["composition"]: row["state"] for row in rows}


def test_rows_that_train_nothing_cost_no_training_of_the_base(suite: Path) -> None:
    everything = {"small": "to train", "no-b2": "to train", "constant": "to score"}
    assert planned(suite) == everything
    assert planned(suite, only=("constant",)) == {"constant": "to score"}
    assert planned(suite, only=("constant", "small")) == {"small": "to train", "constant": "to score"}
    assert planned(suite, only=("no-b2",)) == {"small": "to train", "no-b2": "to train"}  # what it is compared with
    assert planned(suite, only=("no-b2",), skip=("small",)) == {"no-b2": "to train"}
    assert planned(suite, skip=("small", "no-*")) == {"constant": "to score"}
    with pytest.raises(ConfigError, match="no composition is left"):
        planned(suite, only=("constant",), skip=("constant", "small"))


def test_a_table_without_a_base_is_printed(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "train", lambda *args, **options: pytest.fail("something is trained"))
    selection = Selection(only=("constant",))
    finished = session.run_suite(
        Request(suite=str(suite), root=suite.parent / "runs", device="cpu", selection=selection)
    )
    assert finished.failed == 0
    assert "constant" in finished.table
    assert "small" not in finished.table.replace("smaller", "")


def test_batches_larger_than_the_training_split_are_refused_once(suite: Path) -> None:
    root = suite.parent / "runs"
    with pytest.raises(ConfigError) as caught:
        session.run_suite(Request(suite=str(suite), sets=("train.batch_size=8",), root=root, device="cpu"))
    assert "train.batch_size 8 is larger than the training split (7 frames)" in caught.value.message
    assert caught.value.where == "--set train.batch_size=8"
    assert "--set train.batch_size=7" in (caught.value.hint or "")
    assert not (root / "trained").exists()
    assert not (root / "checked").exists()  # before every frame is read, too
    # the mend works; a control in which one composition alone asks for too much costs that row alone
    session.run_suite(Request(suite=str(suite), sets=("train.batch_size=7",), root=root, device="cpu"))
    sets = ("axes.leave_one_out=null", "axes.grid.train.batch_size=[2,8]")
    assert session.run_suite(Request(suite=str(suite), sets=sets, root=root, device="cpu")).failed == 1


def test_a_run_is_refused_where_an_assumed_unit_is_implausible(suite: Path) -> None:
    root = suite.parent / "runs"
    for path in (suite.parent / "frames" / "depth").iterdir():  # 5000 file units in one metre
        Image.fromarray((np.asarray(Image.open(path)).astype(np.uint32) * 5).astype(np.uint16)).save(path)
    with pytest.raises(DataError) as caught:
        session.run_suite(Request(suite=str(suite), root=root, device="cpu"))
    assert "beyond the protocol's 10 m" in caught.value.message
    assert "5000 (median" in (caught.value.hint or "")
    assert "ASSUMED" in (caught.value.where or "")
    assert not (root / "trained").exists()
    finished = session.run_suite(
        Request(suite=str(suite), sets=("--option depth_scale=5000",), root=root, device="cpu")
    )
    assert finished.failed == 0
    assert "5000 units per metre, unknown are" in finished.table  # above the table, as the user said it
