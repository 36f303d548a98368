"""`spd-bench export`: the folder answers as its run does, without this package, and is refused where it does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spd_bench import RunModel, cli
from spd_bench.errors import ResourceError
from spd_bench.export import compared, folder
from spd_bench.export.compared import UnfaithfulExport
from spd_bench.export.folder import export_run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 90×37 pixels."""
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)).save(path)
    return path


ALONE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("spd_bench", "spd_components", "transformers", "safetensors", "pydantic"):
            raise ImportError(name + " is not here")
sys.meta_path.insert(0, Nothing())
sys.argv = ["ask.py", *sys.argv[1:]]
import runpy
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def test_the_folder_answers_without_this_package(exported: Path, model: RunModel, photo: Path) -> None:
    """In a process that cannot import it, nor what it is built on."""
    points = ["3,4", "88.5,36", "0,0"]
    command = [sys.executable, "-c", ALONE, str(exported / "ask.py"), str(photo), *points]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split(",") for line in done.stdout.splitlines()]
    expected = model.depth(model.encode(photo), [(3, 4), (88.5, 36), (0, 0)])
    assert [(u, v) for u, v, _ in found] == [("3", "4"), ("88.5", "36"), ("0", "0")]
    np.testing.assert_allclose([float(depth) for *_, depth in found], expected, rtol=1e-5)


def test_the_folder_says_what_it_holds(exported: Path, model: RunModel) -> None:
    config = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    assert sorted(config["files"]) == ["ask.py", "decode.pt2", "prepare.pt2", "weights.safetensors"]
    assert config["image_size"] == [56, 56]
    assert config["run"]["stand_ins"] == ["patch descriptors instead of DAv2-S"]
    assert config["identity"] == model.run.identity
    (found,) = config["compared"]
    assert found["points"] == sum(compared.COUNTS)  # one test image
    assert 0 < found["largest_share"] < 1e-5
    assert set(config["weights"]) == set(dict(model.network.named_parameters()) | dict(model.network.named_buffers()))


def test_weights_lie_in_one_file(exported: Path, model: RunModel) -> None:
    """2.3 million float32 weights take 9 MB; graphs that held them would take more than twice that."""
    weights = sum(parameter.numel() for _, parameter in model.network.trainable()) * 4
    sizes = {path.name: path.stat().st_size for path in exported.iterdir()}
    assert sizes["weights.safetensors"] >= weights
    assert sizes["prepare.pt2"] + sizes["decode.pt2"] < weights / 2


@pytest.mark.parametrize("name", ["weights.safetensors", "decode.pt2"])
def test_a_file_that_was_changed_is_refused(exported: Path, tmp_path: Path, name: str) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copied"))
    content = bytearray((copied / name).read_bytes())
    content[-1] ^= 1
    (copied / name).write_bytes(content)
    code = f"import sys; sys.path.insert(0, {str(copied)!r}); import ask; ask.load({str(copied)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{name} is not the file that was exported" in done.stderr


def test_an_export_that_answers_otherwise_is_refused(
    model: RunModel, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script's answers are made 0.02 % too large: twice the bound."""
    monkeypatch.setattr(folder, "programs", lambda graphs: ())
    monkeypatch.setattr(folder, "_write", lambda model, graphs, place: None)
    right = lambda image, uv: model.depth(model.encode(image), uv)  # noqa: E731
    monkeypatch.setattr(folder, "_standalone", lambda *args: lambda image, uv: right(image, uv) * np.float32(1.0002))
    with pytest.raises(UnfaithfulExport, match="nothing was exported"):
        export_run(model, "x", tmp_path / "out", images=[photo], with_onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    monkeypatch.setattr(folder, "_standalone", lambda *args: right)
    assert export_run(model, "x", tmp_path / "out", images=[photo], with_onnx=False)[0].largest_m == 0


def refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["spd-bench", "export", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert err.startswith("error: ")
    return err


def test_bad_input_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--runs", str(trained)]
    (tmp_path / "there").mkdir()
    assert "is there already" in refused(["tiny/v13", str(tmp_path / "there"), *more], monkeypatch, capsys)
    said = refused(["tiny/constant", str(tmp_path / "out"), *more], monkeypatch, capsys)
    assert "does not look at the image" in said
    monkeypatch.setattr("spd_bench.export.folder.example_images", lambda model: [])
    assert "--image" in refused(["tiny/v13", str(tmp_path / "out"), *more], monkeypatch, capsys)
    monkeypatch.setattr("spd_bench.export.onnx.NEEDED", ("no_such_package",))
    asked = ["tiny/v13", str(tmp_path / "out"), "--image", "x.png", "--onnx", *more]
    assert "spd-bench[export]" in refused(asked, monkeypatch, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_cannot_be_exported_is_named(
    model: RunModel, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spd_bench.errors import ConfigError

    def data_dependent(graphs: object) -> None:
        torch.export.export(Branching(), (torch.ones(2),))

    monkeypatch.setattr(folder, "programs", data_dependent)
    with pytest.raises(ConfigError, match="v13 seed 0 cannot be exported"):
        export_run(model, "x", tmp_path / "out", images=[photo], with_onnx=False)
    assert not (tmp_path / "out").exists()


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 1) else -x


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_onnx_answers_as_the_run_does(model: RunModel, photo: Path, tmp_path: Path) -> None:
    """At 1, 2, 64 and 300 points by one file; ONNX Runtime and, where it is installed, OpenVINO."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed (spd-bench[export])")
    found = export_run(model, "tiny/v13", tmp_path / "out", images=[photo], with_onnx=True)
    assert [one.by for one in found][:2] == ["torch.export", "ONNX Runtime"]
    assert all(one.largest_share < 2e-5 for one in found)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"prepare.onnx", "decode.onnx"} < names


def test_a_folder_that_cannot_be_written_is_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("spd_bench.export.folder.tempfile.mkdtemp", full)
    with pytest.raises(ResourceError, match="Read-only"), folder._whole(tmp_path / "out"):
        raise AssertionError("nothing is written")
