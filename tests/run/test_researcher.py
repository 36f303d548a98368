"""Day two: NYU in BTS folders and both released checkpoints, from the command line to the table.

The weights are random numbers in the released layout, so the numbers mean nothing; what is tested is that the full
profile runs on the real loaders, that each baseline gets the checkpoint it was released with, and what the table says.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from spd_bench.cli import app
from spd_bench.data.sets.nyu_bts import NYUBTS
from spd_bench.data.sets.nyu_scenes import LabelledFrame, is_validation_scene, labelled_frames
from spd_components.encoders.dav2_layouts import head_entries, vit_entries
from spd_components.encoders.dav2_sizes import SMALL

pytestmark = pytest.mark.slow

TRAIN, VAL, TEST = 4, 2, 3


def write_weights(path: Path, seed: int) -> None:
    """A file in the released layout and in full size: 24,785,089 random numbers."""
    rng = torch.Generator().manual_seed(seed)
    entries = {f"pretrained.{e.name}": e.shape for e in vit_entries(SMALL)}
    entries |= {f"depth_head.{e.name}": e.shape for e in head_entries(SMALL)}
    assert sum(torch.Size(shape).numel() for shape in entries.values()) == 24_785_089
    torch.save({name: 0.05 * torch.randn(shape, generator=rng) for name, shape in entries.items()}, path)


def write_pair(color: Path, depth: Path, seed: int) -> None:
    """480×640: colour noise in blocks, and a tilted plane of 1.5 to 4 m with a hole, in millimetres."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    color.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize((640, 480), Image.Resampling.BILINEAR).save(color)
    v, u = np.mgrid[:480, :640]
    millimetres = (1500 + 2 * u * rng.uniform(0.5, 1) + 2 * v * rng.uniform(0.5, 1)).astype(np.uint16)
    millimetres[200:220, 300:330] = 0
    depth.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(millimetres).save(depth)


@pytest.fixture(scope="module")
def bts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few synced training pairs and test images with their lists, as the BTS lineage has them."""
    root = tmp_path_factory.mktemp("nyu_bts")
    rows = list(labelled_frames().values())

    def scenes(wanted: bool) -> list[str]:
        found = [r.scene for r in rows if r.split == "train" and is_validation_scene(r.scene) is wanted]
        return list(dict.fromkeys(found))

    lines = []
    for number, scene in enumerate(scenes(False)[:TRAIN] + scenes(True)[:VAL]):
        names = f"/{scene}a/rgb_{number:05d}.jpg", f"/{scene}a/sync_depth_{number:05d}.png"
        write_pair(root / "sync" / names[0][1:], root / "sync" / names[1][1:], seed=number)
        lines.append(f"{names[0]} {names[1]} 518.8579")
    (root / "nyudepthv2_train_files_with_gt.txt").write_text("\n".join(lines))
    test: list[LabelledFrame] = [row for row in rows if row.split == "test"][:TEST]
    lines = []
    for row in test:
        names = f"kind/rgb_{row.index0:05d}.jpg", f"kind/sync_depth_{row.index0:05d}.png"
        folder = root / "official_splits/test"
        write_pair(folder / names[0], folder / names[1], seed=1000 + row.index0)
        lines.append(f"{names[0]} {names[1]} 518.8579")
    (root / "nyudepthv2_test_files_with_gt.txt").write_text("\n".join(lines))
    assert NYUBTS.recognise(root)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both releases under their published names."""
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder / "depth_anything_v2_vits.pth", seed=1)
    write_weights(folder / "depth_anything_v2_metric_hypersim_vits.pth", seed=2)
    return folder


def small(**more: object) -> list[str]:
    """Settings that make the full profile a matter of seconds; 168×168 is the smallest input with sites for R = 32."""
    values = {
        "data.image_size": "[168, 168]",
        "train.epochs": "null",
        "train.steps": "2",
        "train.batch_size": "2",
        "train.queries": "16",
        "train.precision": "fp32",
        "train.validations": "1",
        "eval.k": "[1, 16]",
        "eval.k1_draws": "2",
        "report.primary.k": "16",
        "seeds": "[0]",
    } | more
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def test_the_full_profile_runs_on_nyu_and_both_checkpoints(
    bts: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAV2_WEIGHTS", str(weights))
    monkeypatch.setenv("COLUMNS", "200")
    command = ["v13_ablation", "--profile", "full", "--data", str(bts), "--runs", str(tmp_path / "runs"), *small()]
    wanted = ["dpt_trained", "constant", "dav2_dense", "dav2_metric_indoor"]
    chosen = [part for name in wanted for part in ("--only", name)]
    result = CliRunner().invoke(app, ["run", *command, *chosen, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "STAND-IN" not in result.output
    assert "FALL-BACK" not in result.output
    assert "nyu_bts: raw ground truth" in result.output
    # the aligned row has a section of its own, after the others
    own, aligned = result.output.split("Ground-truth-aligned", maxsplit=1)
    assert "dav2_metric_indoor" in own
    assert "dav2_dense" in aligned

    digests = {}
    for path in (tmp_path / "runs/trained").glob("*/run.json"):
        record = json.loads(path.read_text())
        digests[record["composition"]] = record["identity"]["encoder"]["weights"]
        assert str(weights) not in path.read_text()  # where a file lies is no part of a run's identity
    assert digests["v13"] == digests["dav2_dense"] == digests["dpt_trained"]
    assert digests["dav2_metric_indoor"] != digests["v13"]
    record = json.loads((tmp_path / "runs/suites/v13_ablation.json").read_text())
    assert {row["composition"]: row["gt_aligned"] for row in record["rows"]} == {
        "v13": False,
        "dpt_trained": False,
        "constant": False,
        "dav2_metric_indoor": False,
        "dav2_dense": True,
    }

    log = json.loads(next((tmp_path / "runs/trained").glob("v13-*/done.json")).read_text())["rows"][-1][1]
    assert {
        "diagnose/b3/attention_entropy",
        "diagnose/routing/anchor_overlap",
        "diagnose/depth_head/scale_mean",
    } <= set(log)

    # somebody else's predictions: the truth, 10 % too far, is an AbsRel of 0.1 in the same table
    maps = tmp_path / "theirs"
    maps.mkdir()
    data = NYUBTS(NYUBTS.Config(root=str(bts)))
    for frame in data.frames("test"):
        depth_m_HW = data.read(frame).depth_m_HW
        np.save(maps / f"{frame.frame}.npy", np.where(depth_m_HW > 0, 1.1 * depth_m_HW, 2).astype(np.float32))
    scored = CliRunner().invoke(app, ["score", str(maps), "--name", "theirs", "--suite", *command])
    assert scored.exit_code == 0, scored.output
    table = CliRunner().invoke(
        app, ["compare", "--runs", str(tmp_path / "runs"), "--metric", "absrel", "--format", "csv"]
    )
    (row,) = [line for line in table.output.splitlines() if line.startswith("theirs")]
    assert "0.1" in row


def test_a_missing_checkpoint_names_its_row_and_the_way_round(
    bts: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAV2_METRIC_WEIGHTS", raising=False)
    monkeypatch.setenv("DAV2_WEIGHTS", str(weights / "depth_anything_v2_vits.pth"))
    command = ["plan", "v13_ablation", "--profile", "full", "--data", str(bts), "--runs", str(tmp_path), *small()]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    message = str(result.exception)
    assert "dav2_metric_indoor (--skip dav2_metric_indoor leaves it out)" in message
    assert "depth_anything_v2_metric_hypersim_vits.pth" in message
    result = CliRunner().invoke(app, [*command, "--skip", "dav2_metric_indoor", "--only", "dav2_*"])
    assert result.exit_code == 0, result.output


def test_weights_check_says_what_the_files_are(weights: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["weights", "check", str(weights / "depth_anything_v2_vits.pth")])
    assert result.exit_code == 0, result.output
    for words in ("22,056,576", "2,728,513", "dav2_small", "SHA-256"):
        assert words in result.output
    other = tmp_path / "notes.pth"
    other.write_text("not weights")
    result = CliRunner().invoke(app, ["weights", "check", str(other)])
    assert "no encoder knows this file" in str(result.exception)


def test_data_is_inspected_and_packed(bts: Path, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["data", "inspect", str(bts)])
    assert found.exit_code == 0, found.output
    assert "nyu_bts" in found.output
    pack = tmp_path / "nyu.h5"
    packed = CliRunner().invoke(app, ["data", "prepare", str(bts), str(pack), "--workers", "1"])
    assert packed.exit_code == 0, packed.output
    again = CliRunner().invoke(app, ["data", "inspect", str(pack), "--json"])
    assert again.exit_code == 0, again.output
    about = json.loads(again.stdout)
    assert about["problems"] == []
    assert [split["frames"] for split in about["splits"].values()] == [TRAIN, VAL, TEST]
