"""The ViT through OpenVINO's CPU runtime.

The ViT is converted once per process and input size, which takes seconds; nothing is stored on disk.

Letters: B images, C channels, H W pixels, T tokens.
"""

import copy
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spd_bench.errors import ConfigError
from spd_components.encoders.backends import Backend, Precision, TorchBackend
from spd_components.encoders.support import PATCH


class _Key(NamedTuple):
    height: int
    width: int
    threads: int


class OpenVINOBackend(Backend):
    """OpenVINO on the CPU, in float32 or bfloat16 for any dtype of the weights, with torch's number of threads.

    Raises ConfigError if OpenVINO is not installed, for bfloat16 on a CPU without it, and for an image on another
    device.
    """

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision)
        if gap := self.missing(precision):
            raise ConfigError(gap, hint="or set the encoder's backend to torch")
        self._compiled: dict[_Key, Any] = {}

    @classmethod
    def missing(cls, precision: Precision) -> str | None:
        """The package, or bfloat16 on this CPU: without it OpenVINO silently computes in float32."""
        if not find_spec("openvino"):
            return "backend openvino needs the package openvino, not installed: pip install 'spd-bench[openvino]'"
        if precision == "bf16" and "BF16" not in _capabilities():
            return "backend openvino computes in bf16 only on a CPU that has bfloat16, and this one has not: set fp32"
        return None

    def taps(self, backbone: nn.Module, normal_B3HW: Tensor) -> Sequence[Tensor]:
        """The tokens, one image at a time: as fast as a batch (measured), and one graph serves every batch size."""
        if normal_B3HW.is_meta:  # shapes without arithmetic
            return TorchBackend(self.precision).taps(backbone, normal_B3HW)
        if normal_B3HW.device.type != "cpu":
            raise ConfigError(
                f"backend openvino computes on the CPU, the image is on {normal_B3HW.device}",
                hint="set the encoder's backend to torch, or device to cpu",
            )
        height, width = normal_B3HW.shape[-2:]
        key = _Key(height, width, torch.get_num_threads())
        if key not in self._compiled:
            self._compiled[key] = self._compile(backbone, key)
        images = normal_B3HW.float().contiguous().numpy()
        taps_B41TC = [self._compiled[key](images[i : i + 1]) for i in range(len(images))]
        return [torch.cat([torch.from_numpy(taps[tap]) for taps in taps_B41TC]) for tap in range(4)]

    def _compile(self, backbone: nn.Module, key: _Key) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[self.precision],
            "INFERENCE_NUM_THREADS": key.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # processes side by side would all be pinned to the same cores
        }
        return _openvino().Core().compile_model(_converted(backbone, key.height, key.width), "CPU", options)

    def __getstate__(self) -> dict[str, Any]:
        """State without compiled graphs: a copy may get other weights, as in the check on the meta device."""
        return self.__dict__ | {"_compiled": {}}


class _Taps(nn.Module):
    """The ViT for one input size, with a plain tuple as its output.

    It resizes the position embeddings once: OpenVINO does not resample an axis that keeps its number of cells, although
    the authors' factor moves its samples (R-23).
    """

    def __init__(self, backbone: Any, height: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        tokens = 1 + (height // PATCH) * (width // PATCH)
        positions = backbone.embeddings.position_embeddings
        fixed_1TC = backbone.embeddings.interpolate_pos_encoding(positions[:, :1].expand(1, tokens, -1), height, width)
        backbone.embeddings.interpolate_pos_encoding = lambda *_: fixed_1TC

    def forward(self, normal_13HW: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(normal_13HW).feature_maps)


def _converted(backbone: nn.Module, height: int, width: int) -> Any:
    """OpenVINO's model of a copy of the ViT, for one float32 image of this size."""
    with torch.autocast("cpu", enabled=False), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # raised inside torch.export
        taps = _Taps(copy.deepcopy(backbone).float(), height, width)
        exported = torch.export.export(taps, (torch.zeros(1, 3, height, width),))
        model = _openvino().convert_model(exported)
    model.reshape([1, 3, height, width])
    return model


def _capabilities() -> Sequence[str]:
    """Precisions that OpenVINO supports on this CPU: FP32, INT8, perhaps BF16."""
    found: Sequence[str] = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def _openvino() -> Any:
    """The package, imported without its telemetry, which reports imports and conversions to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
