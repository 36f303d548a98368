"""A run as one folder: graphs, weights, their digests, and a script that answers with PyTorch and NumPy alone.

config.json            what was trained, sizes, names, and the SHA-256 of every other file
weights.safetensors    every weight and buffer, the encoder's too
prepare.pt2            image → tensors of the scene      (torch.export)
decode.pt2             points, tensors → depth
ask.py                 loads, verifies and asks
prepare.onnx, decode.onnx, with `--onnx`: the same as ONNX, each with its weights
"""

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from spd_bench.ask.model import RunModel
from spd_bench.errors import ConfigError, SpdError
from spd_bench.export import onnx, standalone
from spd_bench.export.compared import Asked, Compared, compare
from spd_bench.export.graphs import MOST_POINTS, TwoGraphs, programs, state, two_graphs
from spd_bench.predict.answers import about
from spd_bench.store import files

CONFIG, WEIGHTS, SCRIPT = "config.json", "weights.safetensors", "ask.py"


def export_run(model: RunModel, name: str, out: Path, *, images: Sequence[Path], with_onnx: bool) -> list[Compared]:
    """Writes the folder `out`, whole or not at all, and returns how it compares with the run on `images`.

    Raises ConfigError where `out` is there already, for a model whose operators cannot be exported, and without the
    packages that ONNX needs; UnfaithfulExport where the exported model answers otherwise.
    """
    if with_onnx:
        onnx.check_installed()
    size = _fixed_size(model)
    if out.exists():
        raise ConfigError("is there already", where=str(out), hint="name a folder that is not there")
    with _whole(out) as folder:
        with _exportable(model):
            graphs = two_graphs(model.network, size)
            _write(model, graphs, folder)
            if with_onnx:
                onnx.write_onnx(graphs, folder)
        compared = [compare("torch.export", _standalone(model, graphs, folder, name), model, images)]
        if with_onnx:
            compared.append(compare("ONNX Runtime", onnx.onnxruntime(folder, graphs, size), model, images))
            if (asked := onnx.openvino(folder, graphs, size)) is not None:
                compared.append(compare("OpenVINO", asked, model, images))
        _write_config(model, graphs, folder, name, compared)
    return compared


def _fixed_size(model: RunModel) -> tuple[int, int]:
    """Input size of a network that takes every image at one size, by the resize that the script knows (R-23)."""
    if model.run.image_size is None or model.network.encoder.resampling != "antialiased":
        raise ConfigError(
            f"{model.run.label} takes images as its authors do, at a size of each image's own",
            where=str(model.run.folder),
            hint="export a run that was trained here",
        )
    return model.run.image_size


def _write(model: RunModel, graphs: TwoGraphs, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: value.contiguous().clone() for name, value in state(model.network).items()}, folder / WEIGHTS)
    for name, program in zip(("prepare.pt2", "decode.pt2"), programs(graphs), strict=True):
        program.example_inputs = None  # they hold the weights
        torch.export.save(program, folder / name)
    shutil.copyfile(standalone.__file__, folder / SCRIPT)


def _write_config(model: RunModel, graphs: TwoGraphs, folder: Path, name: str, compared: Sequence[Compared]) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.name != CONFIG and path.is_file())
    files.write_json(
        folder / CONFIG,
        {
            "run": {key: value for key, value in about(model.run, name).items() if key != "folder"},
            "identity": dict(model.run.identity),
            "image_size": list(_fixed_size(model)),
            "resize": "Pillow's bicubic filter, antialiased, on uint8 RGB; the aspect is not kept",
            "points": "[1, K, 2] float32, x = (u + 0.5) / width; K up to " + str(MOST_POINTS),
            "weights": list(state(graphs.network)),
            "scene": list(graphs.names),
            "torch": torch.__version__,
            "compared": [asdict(one) for one in compared],
            "files": {other: hashlib.sha256((folder / other).read_bytes()).hexdigest() for other in others},
        },
    )


def _standalone(model: RunModel, graphs: TwoGraphs, folder: Path, name: str) -> Asked:
    """What the script of the folder answers, loaded from the folder as a user of it does."""
    _write_config(model, graphs, folder, name, [])
    spec = importlib.util.spec_from_file_location("_exported_ask", folder / SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    writing, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(script)
    finally:
        sys.dont_write_bytecode = writing
    loaded = script.load(folder)
    return lambda image_HW3, uv_N2: loaded.depth(loaded.encode(image_HW3), uv_N2)


@contextmanager
def _exportable(model: RunModel) -> Iterator[None]:
    """Converts what PyTorch raises over an operator that it cannot export into a ConfigError."""
    try:
        yield
    except (SpdError, OSError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{model.run.label} cannot be exported ({type(error).__name__}: {said})",
            where=str(model.run.folder),
            hint="one of its components computes what PyTorch cannot export; choose another run",
        ) from error


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name at the end, and is removed where that is not reached."""
    files.make_folder(out.parent)
    with files.translate_os_errors(out):
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield beside
        beside.chmod(0o755)
        for file in beside.iterdir():
            file.chmod(0o644)
        os.rename(beside, out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def example_images(model: RunModel) -> list[Path]:
    """Test images that runs below the same root have left; [] where there are none."""
    return sorted((model.run.folder.parent.parent / "reports").glob("*.example.png"))
