"""Bad input gets one error with its place and its mend, of the class that its exit code is documented for."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spd_bench
from spd_bench import RunModel, registry
from spd_bench.ask.record import read_run
from spd_bench.errors import ConfigError, DataError, SpdError, StateError
from spd_bench.registry import PluginError
from spd_bench.store import records

Copy = Callable[[str], Path]


def refused(folder: Path, kind: type[SpdError], *parts: str) -> None:
    with pytest.raises(kind) as caught:
        spd_bench.load(folder, device="cpu")
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.where
    assert caught.value.hint


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes run.json and seals it again: a sound record of something else."""
    record = records.read_record(folder / "run.json")
    change(record)
    records.write_record(folder / "run.json", record)


# points


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0, 0), (64, 3)], "1 of 2 points lie outside the image, the first is (64, 3)"),
        ([(-1, 0)], "(-1, 0)"),
        ([(3, 47.6)], "(3, 47.6)"),
        ([(float("nan"), 1)], "(nan, 1)"),
        ([(float("inf"), 1)], "(inf, 1)"),
        ([1, 2], "shape [N, 2], found (2,)"),
        ([(1, 2, 3)], "shape [N, 2], found (1, 3)"),
        ([("a", "b")], "numbers of shape [N, 2]"),
    ],
)
def test_points_outside_the_image_are_refused(model: RunModel, points: list[Any], said: str) -> None:
    scene = model.encode(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(ConfigError) as caught:
        model.depth(scene, points)
    assert said in str(caught.value)


def test_the_rim_of_the_image_is_inside(model: RunModel) -> None:
    scene = model.encode(np.zeros((48, 64, 3), np.uint8))
    assert len(model.depth(scene, [(-0.5, -0.5), (63.5, 47.5)])) == 2
    assert model.depth(scene, []).shape == (0,)


# images


def claims_to_be_huge() -> bytes:
    """A PNG of 100 bytes whose header says 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"no image at all", claims_to_be_huge()], ids=["empty", "text", "huge"])
def test_files_that_are_no_image_are_refused(model: RunModel, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for image in (tmp_path / "a.png", content):
        with pytest.raises(DataError) as caught:
            model.encode(image)
        assert caught.value.where == (str(image) if isinstance(image, Path) else "the given bytes")


def test_a_damaged_image_is_refused(model: RunModel, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"a\.png"):
        model.encode(tmp_path / "a.png")


def test_a_missing_file_and_a_folder_are_refused(model: RunModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        model.encode(tmp_path / "none.png")
    with pytest.raises(DataError):
        model.encode(tmp_path)


def test_depth_is_no_image(model: RunModel) -> None:
    with pytest.raises(DataError, match="which is depth"):
        model.encode(Image.fromarray(np.zeros((4, 4), np.uint16)))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), "u1")]
)
def test_other_arrays_are_refused(model: RunModel, array: Any) -> None:
    with pytest.raises(ConfigError, match=r"expected a uint8 array \[H, W, 3\]"):
        model.encode(array)


def test_other_objects_are_refused(model: RunModel) -> None:
    with pytest.raises(ConfigError, match="found int"):
        model.encode(3)  # type: ignore[arg-type]


# runs


def test_a_run_needs_no_data_set(copied_run: Copy, model: RunModel, tmp_path: Path) -> None:
    alone = copied_run("v13")
    for evaluation in alone.glob("eval-*"):
        evaluation.rename(tmp_path / "gone")
    image = np.full((48, 64, 3), 77, np.uint8)
    moved = spd_bench.load(alone, device="cpu")
    assert (moved.dense(moved.encode(image)) == model.dense(model.encode(image))).all()


def test_a_run_of_an_earlier_version_answers(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: [record.pop(key) for key in ("trained_on", "local_options")])  # type: ignore[arg-type]
    old = spd_bench.load(folder, device="cpu")
    assert old.run.seen is None
    assert old.run.data == "rgbd_folder"
    scene = old.encode(np.zeros((500, 20, 3), np.uint8))
    assert scene.unfamiliar == ()
    assert not old.unfamiliar(old.depth(scene, [(1, 1)])).any()


def test_no_run_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run\.json"):
        read_run(tmp_path)


def test_a_training_that_is_not_finished(copied_run: Copy) -> None:
    folder = copied_run("v13")
    (folder / "done.json").unlink()
    refused(folder, StateError, "not finished")


def test_a_damaged_checkpoint(copied_run: Copy) -> None:
    folder = copied_run("v13")
    content = bytearray((folder / "checkpoint.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "checkpoint.pt").write_bytes(content)
    refused(folder, StateError, "checkpoint.pt", "cannot be read")
    (folder / "checkpoint.pt").unlink()
    refused(folder, StateError, "checkpoint.pt")


def test_a_checkpoint_of_another_model(copied_run: Copy) -> None:
    v13, constant = copied_run("v13"), copied_run("constant")
    (v13 / "checkpoint.pt").write_bytes((constant / "checkpoint.pt").read_bytes())
    refused(v13, StateError, "not the one that the finished training wrote")
    (v13 / "done.json").write_bytes((constant / "done.json").read_bytes())  # vouches for it
    refused(v13, StateError, "does not fit the model")


def test_a_damaged_record(copied_run: Copy) -> None:
    folder = copied_run("v13")
    text = (folder / "run.json").read_text(encoding="utf-8")
    (folder / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    refused(folder, StateError, "run.json", "SHA-256")


def test_a_record_without_what_a_run_needs(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"].pop("data"))
    refused(folder, StateError, "cannot be read as a run")


def test_another_format(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"].update(format=99))
    refused(folder, StateError, "format 99")


def test_a_component_that_is_gone(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"]["model"]["b4"].update(use="deformable_reed"))
    refused(folder, StateError, "b4: deformable_reed cannot be used", "install the version")


def test_a_component_of_another_version(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"]["model"]["b4"].update(version=7))
    refused(folder, StateError, "version 1 of b4: deformable_read is installed, the run was trained with 7")


def test_a_component_with_other_options(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"]["model"]["b4"]["options"].update(gone=1))
    refused(folder, StateError, "b4: deformable_read no longer takes its options", "gone")


def test_other_weights_of_the_encoder(copied_run: Copy) -> None:
    folder = copied_run("v13")
    edit(folder, lambda record: record["identity"]["encoder"].update(weights="0" * 64))
    refused(folder, DataError, "not those that the run was trained on")


def test_a_model_that_needs_ground_truth(copied_run: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied_run("constant")
    monkeypatch.setattr(registry.load("baseline", "constant"), "gt_aligned", True)
    refused(folder, ConfigError, "ground truth")


def test_a_component_that_raises_is_named(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = model.encode(np.zeros((48, 64, 3), np.uint8))

    def broken(scene: object, xy_BK2: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(model.network, "decode", broken)
    with pytest.raises(PluginError, match="v13 seed 0: KeyError: 'oops'"):
        model.depth(scene, [(1, 1)])


def test_depths_that_are_not_finite_are_refused(model: RunModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = model.encode(np.zeros((48, 64, 3), np.uint8))
    decode = model.network.decode
    monkeypatch.setattr(model.network, "decode", lambda prepared, xy: decode(prepared, xy) * float("nan"))
    with pytest.raises(SpdError, match="2 of 2 depths are not finite") as caught:
        model.depth(scene, [(1, 1), (2, 2)])
    assert caught.value.exit_code == 4


def test_records_are_plain_json(copied_run: Copy) -> None:
    record = json.loads((copied_run("v13") / "run.json").read_text(encoding="utf-8"))
    assert record["trained_on"]["sizes"] == [[48, 64]]
    assert record["local_options"] == {}
