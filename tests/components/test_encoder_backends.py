"""Backends of the DAv2 encoders: the same features up to rounding, the same digest, whoever computes them.

Where a backend's package is not installed its tests are skipped with the encoder's own reason.
"""

import gc
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from spd_bench.api import Features
from spd_bench.errors import ConfigError
from spd_bench.testing import EncoderContract
from spd_components.encoders import openvino
from spd_components.encoders.dav2 import DAv2Small
from spd_components.encoders.dav2_sizes import SMALL


class TinyEncoder(DAv2Small):
    """A small ViT with random weights; 5×5 patches, so that any other grid resizes its position embeddings."""

    size = replace(SMALL, dim=24, layers=4, heads=3, grid=5, taps=(0, 1, 2, 3))


pytestmark = pytest.mark.extra


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _built(config: DAv2Small.Config) -> TinyEncoder:
    return TinyEncoder(config)


def encoder_of(**options: Any) -> TinyEncoder:
    """The encoder with these options, one for all tests; skips where this machine lacks what its backend needs."""
    config = TinyEncoder.Config(random_weights=True, **options)
    if reason := TinyEncoder.missing(config):
        pytest.skip(reason)
    return _built(config)


_graphs: dict[tuple[int, int], Any] = {}


def _converted_once(backbone: torch.nn.Module, height: int, width: int, convert: Any = openvino._converted) -> Any:
    if (height, width) not in _graphs:
        _graphs[height, width] = convert(backbone, height, width)
    return _graphs[height, width]


def picture(height: int = 56, width: int = 70) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def worst(found: Features, expected: Features) -> float:
    """Largest relative error of a cell's vector over the four maps."""
    pairs = zip(found.maps_BHWC, expected.maps_BHWC, strict=True)
    return max(float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max()) for a, b in pairs)


# ------------------------------------------------------------------- the same function


class TestOpenVINO(EncoderContract):
    """The contract of every encoder; the one on PyTorch is among the registered ones in test_contracts.py."""

    component = TinyEncoder
    options: Mapping[str, Any] = {"random_weights": True, "backend": "openvino"}
    image_size = (28, 42)

    @pytest.fixture(autouse=True)
    def converted_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All encoders here have the same weights: one conversion, 0.7 s, serves them all."""
        monkeypatch.setattr(openvino, "_converted", _converted_once)


@pytest.mark.parametrize(
    ("size", "positions"),
    [((70, 70), "authors"), ((56, 70), "authors"), ((56, 70), "transformers")],
    ids=["own grid", "resized", "resized by size"],
)
def test_float32_features_are_equal_up_to_rounding(size: tuple[int, int], positions: str) -> None:
    """A resize of the position embeddings by another convention is an error of 4e-3: on 4×5 cells the authors' moves
    the samples of both axes, though one of them keeps its five cells.
    """
    image = picture(*size)
    found = encoder_of(backend="openvino", position_embeddings=positions)(image)
    expected = encoder_of(position_embeddings=positions)(image)
    assert worst(found, expected) < 5e-6
    shifted = Features(tuple(m.roll(1, dims=2) for m in expected.maps_BHWC))  # type: ignore[arg-type]
    assert worst(found, shifted) > 0.01


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_costs_what_its_eight_bits_cost(backend: str) -> None:
    """One rounding of a value is at most 2^-9 = 0.002 of it; a wrong layer would cost 100 times as much."""
    image = picture()
    found = worst(encoder_of(backend=backend, precision="bf16")(image), encoder_of()(image))
    assert 5e-4 < found < 2e-2


def test_the_callers_autocast_does_not_reach_the_graph() -> None:
    image, expected = picture(84, 70), encoder_of()(picture(84, 70))
    encoder = encoder_of(backend="openvino")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(image)  # the first of this size: converted here
    assert worst(found, expected) < 5e-6


def test_the_graph_keeps_its_own_weights() -> None:
    """The copy of the ViT that it was converted from is gone; new tensors take its memory."""
    encoder, image = encoder_of(backend="openvino"), picture(70, 84)
    before = encoder(image)
    gc.collect()
    _ = [torch.full((size,), float("nan")) for size in (24, 96, 576, 2304) for _ in range(200)]
    assert worst(encoder(image), before) == 0.0


def test_the_digest_is_that_of_the_weights() -> None:
    digests = {encoder_of(backend=backend).digest() for backend in ("torch", "openvino")}
    assert len(digests) == 1


def test_the_backend_is_part_of_a_runs_identity() -> None:
    """Its rounding is in the features; only what says where things lie is left out."""
    assert "backend" in TinyEncoder.Config().model_dump()
    assert "backend" not in TinyEncoder.places


def test_it_follows_torchs_number_of_threads() -> None:
    encoder = encoder_of(backend="openvino")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        encoder(picture(28, 28))
    assert {key.threads: c.get_property("INFERENCE_NUM_THREADS") for key, c in compiled(encoder, 28, 28)} == {
        1: 1,
        2: 2,
    }


def compiled(encoder: TinyEncoder, height: int, width: int) -> list[tuple[Any, Any]]:
    graphs = encoder._backend._compiled  # type: ignore[attr-defined]
    return [(key, graph) for key, graph in graphs.items() if (key.height, key.width) == (height, width)]


# ------------------------------------------------------------------- refusals


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    config = TinyEncoder.Config(random_weights=True, backend="openvino")
    assert "pip install 'spd-bench[openvino]'" in str(TinyEncoder.missing(config))
    with pytest.raises(ConfigError, match=r"^backend openvino needs the package openvino, not installed") as caught:
        TinyEncoder(config)
    assert "backend to torch" in str(caught.value.hint)
    assert TinyEncoder.missing(TinyEncoder.Config(random_weights=True)) is None


def test_bfloat16_is_refused_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO takes the request for a hint and would compute in float32."""
    monkeypatch.setattr(openvino, "find_spec", lambda name: object())
    monkeypatch.setattr(openvino, "_capabilities", lambda: ["FP32", "INT8"])
    coarse = TinyEncoder.Config(random_weights=True, backend="openvino", precision="bf16")
    with pytest.raises(ConfigError, match="a CPU that has bfloat16, and this one has not: set fp32"):
        TinyEncoder(coarse)
    assert TinyEncoder.missing(coarse.model_copy(update={"precision": "fp32"})) is None


def test_an_image_on_another_device_is_refused() -> None:
    backend = encoder_of(backend="openvino")._backend
    with FakeTensorMode(), pytest.raises(ConfigError, match="computes on the CPU, the image is on cuda:0"):
        backend.taps(torch.nn.Identity(), torch.empty(1, 3, 56, 70, device="cuda:0"))


def test_nothing_reports_its_use() -> None:
    """`import openvino` sends its makers a message, unless the package that sends it cannot be imported."""
    encoder_of(backend="openvino")(picture())
    reporter = sys.modules["openvino.tools.ovc.telemetry_utils"].tm
    assert reporter.__name__ == "openvino.tools.ovc.telemetry_stub"
