"""The two graphs as ONNX, and the runtimes that read them (extra `export`; OpenVINO: extra `openvino`)."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spd_bench.errors import ConfigError
from spd_bench.export.compared import Asked
from spd_bench.export.graphs import MOST_POINTS, TwoGraphs
from spd_bench.export.standalone import network_input, unit_points

PREPARE, DECODE = "prepare.onnx", "decode.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def check_installed() -> None:
    """Raises ConfigError unless the packages are there that write ONNX and run it."""
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        hint = "pip install 'spd-bench[export]'"
        raise ConfigError(f"ONNX needs {', '.join(lacking)}, which are not installed", where="--onnx", hint=hint)


@torch.no_grad()
def write_onnx(graphs: TwoGraphs, folder: Path) -> None:
    """Writes both graphs with their weights; decode takes any number of points [1, K, 2]. Raises as `torch.export`."""
    points = torch.export.Dim("points", min=2, max=MOST_POINTS)
    prepare = torch.export.export(graphs.prepare.eval(), (graphs.image_13HW,))
    decode = torch.export.export(
        graphs.decode.eval(),
        (graphs.xy_1K2, *graphs.tensors),
        dynamic_shapes=({1: points}, tuple(None for _ in graphs.tensors)),
    )
    with _quiet():
        names = list(graphs.names)
        _converted(prepare, ["image"], names).save(folder / PREPARE)
        _converted(decode, ["points", *names], ["depth_m"]).save(folder / DECODE)


def _converted(program: Any, inputs: list[str], outputs: list[str]) -> Any:
    return torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on what it does not need, such as torchvision."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


class _Runtime:
    """The two graphs in one runtime: `run(graph, inputs)` → outputs by name."""

    def __init__(self, run: Any, names: tuple[str, ...], image_size: tuple[int, int]) -> None:
        self.run, self.names, self.image_size = run, names, image_size

    def __call__(self, image_HW3: npt.NDArray[np.uint8], uv_N2: npt.NDArray[np.float64]) -> Any:
        height, width = image_HW3.shape[:2]
        tensors = self.run(PREPARE, {"image": network_input(image_HW3, self.image_size)})
        xy_1K2 = unit_points(uv_N2, width, height)[None]
        return self.run(DECODE, {"points": xy_1K2, **tensors})["depth_m"][0]


def onnxruntime(folder: Path, graphs: TwoGraphs, image_size: tuple[int, int]) -> Asked:
    """The graphs of a folder in ONNX Runtime on the CPU."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.log_severity_level = 3
    sessions = {
        name: runtime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in (PREPARE, DECODE)
    }

    def run(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = [output.name for output in sessions[name].get_outputs()]
        wanted = {given.name for given in sessions[name].get_inputs()}
        found = sessions[name].run(None, {key: value for key, value in inputs.items() if key in wanted})
        return dict(zip(outputs, found, strict=True))

    return _Runtime(run, graphs.names, image_size)


def openvino(folder: Path, graphs: TwoGraphs, image_size: tuple[int, int]) -> Asked | None:
    """The graphs of a folder in OpenVINO on the CPU in float32; None where it is not installed."""
    if find_spec("openvino") is None:
        return None
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as runtime

    core = runtime.Core()
    how = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = {name: core.compile_model(str(folder / name), "CPU", how) for name in (PREPARE, DECODE)}

    def run(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        found = compiled[name](inputs)
        return {output.get_any_name(): np.array(found[output]) for output in compiled[name].outputs}

    return _Runtime(run, graphs.names, image_size)
