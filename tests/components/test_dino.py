"""DINOv2 and DINOv3 through transformers: parity with its own models, on small random files in the published form."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spd_bench.errors import ConfigError, DataError
from spd_bench.testing import EncoderContract
from spd_components.encoders.dino import DinoEncoder, DINOv2Small, DINOv2SmallRegisters, DINOv3ConvNextTiny, DINOv3Small
from spd_components.encoders.support import IMAGENET_MEAN, IMAGENET_STD

SMALL_VIT = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 12}


class TinyV2(DINOv2Small):
    """24 channels."""

    channels = 24

    @classmethod
    def network_config(cls) -> Any:
        return _smaller(super().network_config(), **SMALL_VIT, image_size=70)


class TinyV2Registers(DINOv2SmallRegisters):
    """24 channels."""

    channels = 24

    @classmethod
    def network_config(cls) -> Any:
        return _smaller(super().network_config(), **SMALL_VIT, image_size=70)


class TinyV3(DINOv3Small):
    """24 channels."""

    channels = 24

    @classmethod
    def network_config(cls) -> Any:
        return _smaller(super().network_config(), **SMALL_VIT, intermediate_size=48)


class TinyConvNext(DINOv3ConvNextTiny):
    """Stages of 8 to 20 channels."""

    channels = 20
    widths = (8, 12, 16, 20)

    @classmethod
    def network_config(cls) -> Any:
        return _smaller(super().network_config(), hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1])


TINY = (TinyV2, TinyV2Registers, TinyV3, TinyConvNext)
VITS = (TinyV2, TinyV2Registers, TinyV3)


def _smaller(config: Any, **options: Any) -> Any:
    given = config.to_dict() | options
    for name in ("out_features", "stage_names", "_out_features", "_out_indices"):
        given.pop(name, None)
    return type(config)(**given)


def published(cls: type[DinoEncoder], folder: Path) -> Any:
    """A whole random model saved by transformers, as the published repositories are; returns the model."""
    import transformers

    name = cls.network().__name__.replace("Backbone", "Model")
    config = cls.network_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = getattr(transformers, name)(config).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def images(cls: type[DinoEncoder], rows: int = 4, columns: int = 6) -> Tensor:
    return torch.rand(2, 3, rows * cls.patch, columns * cls.patch, generator=torch.Generator().manual_seed(1))


def normal(image_B3HW: Tensor) -> Tensor:
    return (image_B3HW - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)


@pytest.mark.parametrize("cls", TINY)
def test_it_keeps_the_contract(cls: type[DinoEncoder]) -> None:
    class Kit(EncoderContract):
        """With random weights."""

        component, options, grid = cls, {"random_weights": True}, (3, 4)

    for name in dir(Kit):
        if name.startswith("test_"):
            getattr(Kit(), name)()


@pytest.mark.parametrize("cls", VITS)
def test_a_vit_equals_transformers_own_forward(cls: type[DinoEncoder], tmp_path: Path) -> None:
    model = published(cls, tmp_path)
    image_B3HW = images(cls)
    with torch.no_grad():
        found = cls(cls.Config(weights=str(tmp_path))).forward(image_B3HW).maps_BHWC
        whole = model(normal(image_B3HW), output_hidden_states=True)
        norm = model.norm if hasattr(model, "norm") else model.layernorm
        # its last hidden state is that of the deepest layer, through the final norm, with CLS and registers in front
        torch.testing.assert_close(
            found[3].flatten(1, 2), whole.last_hidden_state[:, cls.prefix_tokens :], rtol=1e-5, atol=1e-5
        )
        for map_BHWC, layer in zip(found, (3, 6, 9, 12), strict=True):
            if layer < 12:
                expected = norm(whole.hidden_states[layer])[:, cls.prefix_tokens :].unflatten(1, (4, 6))
                torch.testing.assert_close(map_BHWC, expected, rtol=1e-5, atol=1e-5)
        other = whole.last_hidden_state[:, cls.prefix_tokens - 1 : -1]  # the wrong twin: one prefix token too few
    assert (other - found[3].flatten(1, 2)).abs().max() > 1e-2


def test_the_stages_of_a_convnext_equal_transformers_own(tmp_path: Path) -> None:
    model = published(TinyConvNext, tmp_path)
    image_B3HW = images(TinyConvNext)  # 64×96: stages of 16×24, 8×12, 4×6 and 2×3 cells
    encoder = TinyConvNext(TinyConvNext.Config(weights=str(tmp_path / "model.safetensors")))
    with torch.no_grad():
        found = encoder(image_B3HW).maps_BHWC
        stages = model(normal(image_B3HW), output_hidden_states=True).hidden_states[-4:]
        assert [tuple(stage.shape[2:]) for stage in stages] == [(16, 24), (8, 12), (4, 6), (2, 3)]
        for map_BHWC, stage in zip(found, stages, strict=True):
            expected = F.interpolate(stage, (4, 6), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
            torch.testing.assert_close(map_BHWC, expected, rtol=1e-5, atol=1e-5)
        # an odd grid: the image's border is repeated up to a multiple of 32, and the grid's own cells are kept
        odd_B3HW = image_B3HW[:, :, :48, :80]
        padded_B3HW = F.pad(odd_B3HW, (0, 16, 0, 16), mode="replicate")
        for map_BHWC, wide_BHWC in zip(encoder(odd_B3HW).maps_BHWC, encoder(padded_B3HW).maps_BHWC, strict=True):
            torch.testing.assert_close(map_BHWC, wide_BHWC[:, :3, :5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cls", [DINOv2Small, DINOv2SmallRegisters, DINOv3Small, DINOv3ConvNextTiny])
def test_the_published_sizes(cls: type[DinoEncoder]) -> None:
    # parameters as the module's docstring gives them
    expected = next(
        line
        for line in (sys.modules[DinoEncoder.__module__].__doc__ or "").splitlines()
        if line.split()[:1] == [NAMES[cls]]
    )
    with torch.device("meta"):
        network = cls.network()(cls.network_config())
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" in expected


NAMES = {
    DINOv2Small: "dinov2_small",
    DINOv2SmallRegisters: "dinov2_small_registers",
    DINOv3Small: "dinov3_small",
    DINOv3ConvNextTiny: "dinov3_convnext_tiny",
}


@pytest.mark.parametrize("cls", TINY)
def test_without_weights_it_is_refused(cls: type[DinoEncoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DINO_WEIGHTS", raising=False)
    with pytest.raises(DataError, match=f"the weights {cls.release} are needed") as caught:
        cls(cls.Config())
    assert f"facebook/{cls.release}" in str(caught.value.hint)
    assert cls.release in str(cls.missing(cls.Config()))
    published(cls, tmp_path / cls.release)
    monkeypatch.setenv("DINO_WEIGHTS", str(tmp_path))
    assert cls.missing(cls.Config()) is None
    cls(cls.Config())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    published(TinyV2, tmp_path)
    with pytest.raises(DataError, match=r"does not fit DINOv3 ViT-S/16"):
        TinyV3(TinyV3.Config(weights=str(tmp_path)))
    with pytest.raises(DataError, match=r"does not fit DINOv2 ViT-S/14 with registers: .*register_tokens"):
        TinyV2Registers(TinyV2Registers.Config(weights=str(tmp_path)))


def test_sides_off_the_patch_are_refused() -> None:
    encoder = TinyV3(TinyV3.Config(random_weights=True))
    assert encoder.stand_in == "random weights instead of DINOv3 ViT-S/16"
    with pytest.raises(ConfigError, match="multiples of 16, got 64×70"):
        encoder(torch.rand(1, 3, 64, 70))
