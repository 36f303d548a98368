"""Encoders of §3: DAv2 read from every layout its weights come in, and the weight-free stand-in.

What the ViT computes is tested in test_dense_reference.py; names and shapes of the released file are written here
by hand.
"""

import copy
import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from spd_bench.errors import ConfigError, DataError
from spd_components.encoders import dav2, dav2_release
from spd_components.encoders.dav2 import DAv2Base, DAv2Encoder, DAv2Large, DAv2Small, backbone_config
from spd_components.encoders.dav2_layouts import head_entries, vit_entries
from spd_components.encoders.dav2_release import METRIC_VARIABLE, RELEASED_FILES, SHA256, VARIABLE
from spd_components.encoders.dav2_sizes import BASE, LARGE, SIZES, SMALL, DAv2Size
from spd_components.encoders.patch_descriptors import PatchDescriptors, dct_basis

TINY = replace(SMALL, dim=24, layers=4, heads=3, grid=5, taps=(0, 1, 2, 3))
MLP = 4 * TINY.dim
METRIC_FILE = "depth_anything_v2_metric_hypersim_vits.pth"


class TinyEncoder(DAv2Small):
    size = TINY


@pytest.fixture(autouse=True)
def _no_weights_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (VARIABLE, METRIC_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    torch.set_num_threads(1)


# ------------------------------------------------------------------- the released file, from random numbers


def released_state(seed: int = 0) -> dict[str, Tensor]:
    """Names and shapes of depth_anything_v2_vits.pth for a tiny ViT, written down here by hand."""
    d = TINY.dim
    shapes: dict[str, tuple[int, ...]] = {
        "pretrained.cls_token": (1, 1, d),
        "pretrained.mask_token": (1, d),
        "pretrained.pos_embed": (1, 1 + TINY.grid**2, d),
        "pretrained.patch_embed.proj.weight": (d, 3, 14, 14),
        "pretrained.patch_embed.proj.bias": (d,),
        "pretrained.norm.weight": (d,),
        "pretrained.norm.bias": (d,),
    }
    for i in range(TINY.layers):
        linear = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (MLP, d), "mlp.fc2": (d, MLP)}
        for name, shape in linear.items():
            shapes[f"pretrained.blocks.{i}.{name}.weight"] = shape
            shapes[f"pretrained.blocks.{i}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes[f"pretrained.blocks.{i}.{norm}.weight"] = (d,)
            shapes[f"pretrained.blocks.{i}.{norm}.bias"] = (d,)
        for scale in ("ls1", "ls2"):
            shapes[f"pretrained.blocks.{i}.{scale}.gamma"] = (d,)
    widths = (48, 96, 192, 384)
    for i, width in enumerate(widths):
        shapes[f"depth_head.projects.{i}.weight"] = (width, d, 1, 1)
        shapes[f"depth_head.projects.{i}.bias"] = (width,)
        shapes[f"depth_head.scratch.layer{i + 1}_rn.weight"] = (64, width, 3, 3)
        refine = f"depth_head.scratch.refinenet{i + 1}"
        shapes[f"{refine}.out_conv.weight"], shapes[f"{refine}.out_conv.bias"] = (64, 64, 1, 1), (64,)
        for unit in ("resConfUnit1", "resConfUnit2"):
            for conv in ("conv1", "conv2"):
                shapes[f"{refine}.{unit}.{conv}.weight"] = (64, 64, 3, 3)
                shapes[f"{refine}.{unit}.{conv}.bias"] = (64,)
    for i, kernel in ((0, 4), (1, 2), (3, 3)):
        shapes[f"depth_head.resize_layers.{i}.weight"] = (widths[i], widths[i], kernel, kernel)
        shapes[f"depth_head.resize_layers.{i}.bias"] = (widths[i],)
    for name, shape in {"output_conv1": (32, 64, 3, 3), "output_conv2.0": (32, 32, 3, 3)}.items():
        shapes[f"depth_head.scratch.{name}.weight"], shapes[f"depth_head.scratch.{name}.bias"] = shape, shape[:1]
    shapes["depth_head.scratch.output_conv2.2.weight"] = (1, 32, 1, 1)
    shapes["depth_head.scratch.output_conv2.2.bias"] = (1,)
    generator = torch.Generator().manual_seed(seed)
    factors = {name for name in shapes if name.endswith((".gamma", "norm.weight", "norm1.weight", "norm2.weight"))}
    return {
        name: 0.2 * torch.randn(shape, generator=generator) + (1.0 if name in factors else 0.0)
        for name, shape in shapes.items()
    }


def plain_dinov2_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ViT of a released state under the names of a Hugging Face DINOv2 file, renamed here by hand."""
    out = {}
    for old, value in state.items():
        if not old.startswith("pretrained."):
            continue
        name = old.removeprefix("pretrained.")
        if "attn.qkv" in name:
            stem, kind = name.replace("blocks.", "encoder.layer.").split(".attn.qkv.")
            third = value.shape[0] // 3
            for i, part in enumerate(("query", "key", "value")):
                out[f"{stem}.attention.attention.{part}.{kind}"] = value[i * third : (i + 1) * third].clone()
            continue
        for a, b in (
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("mask_token", "embeddings.mask_token"),
            ("pos_embed", "embeddings.position_embeddings"),
        ):
            name = name.replace(a, b)
        out[name.replace("norm.", "layernorm.") if name.startswith("norm.") else name] = value
    return out


@pytest.fixture
def released(tmp_path: Path) -> Path:
    path = tmp_path / "depth_anything_v2_vits.pth"
    torch.save(released_state(), path)
    return path


def encoder_of(path: Path, **options: object) -> DAv2Small:
    return TinyEncoder(DAv2Small.Config(weights=str(path), **options))


def picture(height: int, width: int, seed: int = 1) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def worst(maps: tuple[Tensor, ...], reference: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(maps, reference, strict=True))


# ------------------------------------------------------------------- layouts


def test_names_and_shapes_are_those_of_the_released_file() -> None:
    entries = {f"pretrained.{entry.name}": entry.shape for entry in vit_entries(TINY)}
    entries |= {f"depth_head.{entry.name}": entry.shape for entry in head_entries(TINY)}
    assert entries == {name: tuple(value.shape) for name, value in released_state().items()}


def test_hugging_face_layouts_give_the_same_maps(released: Path, tmp_path: Path) -> None:
    image, state = picture(70, 70), released_state()
    plain = plain_dinov2_state(state)
    save_file(plain, tmp_path / "vit.safetensors")
    expected = encoder_of(released)(image).maps_BHWC
    found = encoder_of(tmp_path / "vit.safetensors")(image).maps_BHWC
    assert worst(found, list(expected)) == 0.0


def test_a_directory_that_transformers_saved_is_read(tmp_path: Path) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

    sizes = DepthAnythingConfig(
        backbone_config=backbone_config(TINY), reassemble_hidden_size=TINY.dim, neck_hidden_sizes=[48, 96, 192, 384]
    )
    whole = DepthAnythingForDepthEstimation(sizes).eval()
    whole.save_pretrained(tmp_path / "hf")
    encoder = encoder_of(tmp_path / "hf", position_embeddings="transformers")
    image = picture(56, 70)
    normal = (image - encoder.get_buffer("mean_311")) / encoder.get_buffer("std_311")
    with torch.no_grad():
        taps = whole.backbone(normal).feature_maps
    assert worst(encoder(image).maps_BHWC, [tap[:, 1:].unflatten(1, (4, 5)) for tap in taps]) < 1e-6
    head = encoder.depth_head_state()
    assert torch.equal(head["neck.convs.0.weight"], whole.neck.convs[0].weight)
    assert set(head) == {n for n in whole.state_dict() if not n.startswith("backbone.")}


def test_the_head_of_the_released_file_keeps_its_place(released: Path) -> None:
    """Fusion stages are counted from the other end: upstream's refinenet4 is layer 0."""
    head, state = encoder_of(released).depth_head_state(), released_state()
    coarse, fine = "neck.fusion_stage.layers.0.", "neck.fusion_stage.layers.3."
    pairs = {
        f"{coarse}residual_layer2.convolution1.weight": "scratch.refinenet4.resConfUnit2.conv1.weight",
        f"{fine}residual_layer1.convolution2.bias": "scratch.refinenet1.resConfUnit1.conv2.bias",
        f"{fine}projection.bias": "scratch.refinenet1.out_conv.bias",
        "neck.reassemble_stage.layers.3.resize.weight": "resize_layers.3.weight",
        "neck.reassemble_stage.layers.1.projection.weight": "projects.1.weight",
        "neck.convs.2.weight": "scratch.layer3_rn.weight",
        "head.conv1.weight": "scratch.output_conv1.weight",
        "head.conv2.weight": "scratch.output_conv2.0.weight",
        "head.conv3.bias": "scratch.output_conv2.2.bias",
    }
    for new, old in pairs.items():
        assert torch.equal(head[new], state[f"depth_head.{old}"]), new
    assert len(head) == sum(name.startswith("depth_head.") for name in state)


def parameters(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize(
    ("size", "vit", "whole"),
    [
        # positions 1370·384 + 12 blocks of 1,775,232 + patches 3·14·14·384 + 384 + norm 768 + cls 384 + mask 384
        (SMALL, 1370 * 384 + 12 * 1_775_232 + 226_176 + 768 + 384 + 384, 24.8e6),
        # a block is 12·d² + 15·d: qkv 3d² + 3d, projection d² + d, MLP 8d² + 5d, two norms 4d, two scales 2d
        (BASE, 1370 * 768 + 12 * (12 * 768**2 + 15 * 768) + 589 * 768 + 4 * 768, 97.5e6),
        (LARGE, 1370 * 1024 + 24 * (12 * 1024**2 + 15 * 1024) + 589 * 1024 + 4 * 1024, 335.3e6),
    ],
    ids=["S", "B", "L"],
)
def test_every_size_has_the_published_number_of_parameters(size: DAv2Size, vit: int, whole: float) -> None:
    """The last column is the authors' table, in units of 100,000."""
    from transformers import Dinov2Backbone

    with torch.device("meta"):
        backbone = Dinov2Backbone(backbone_config(size))
    assert sum(p.numel() for p in backbone.parameters()) == vit
    assert parameters(entry.shape for entry in vit_entries(size)) == vit
    head = parameters(entry.shape for entry in head_entries(size))
    assert round((vit + head) / 1e5) == round(whole / 1e5)


def test_the_small_encoder_is_the_papers() -> None:
    assert parameters(entry.shape for entry in vit_entries(SMALL)) == 22_056_576
    assert parameters(entry.shape for entry in head_entries(SMALL)) == 2_728_513


def hollow(size: DAv2Size) -> dict[str, Tensor]:
    """A released file in full size that takes no space: every tensor repeats one number."""
    state = {f"pretrained.{entry.name}": torch.zeros(1).expand(entry.shape) for entry in vit_entries(size)}
    return state | {f"depth_head.{entry.name}": torch.zeros(1).expand(entry.shape) for entry in head_entries(size)}


@pytest.mark.parametrize("cls", [DAv2Base, DAv2Large])
def test_base_and_large_are_built_by_the_same_code(tmp_path: Path, cls: type[DAv2Encoder]) -> None:
    """Shapes only: reading their files, the ViT on the meta device, and the head for the dense baselines."""
    name = f"depth_anything_v2_vit{cls.size.name[0].lower()}.pth"
    torch.save(hollow(cls.size), tmp_path / name)
    config = cls.Config(weights=str(tmp_path))
    assert cls.missing(config) is None
    with torch.device("meta"):
        encoder = cls(config)
        maps = encoder(torch.empty(1, 3, 56, 70)).maps_BHWC
    assert [m.shape for m in maps] == [(1, 4, 5, encoder.channels)] * 4
    assert encoder.channels == cls.size.dim
    assert encoder.backbone.config.out_indices == [tap + 1 for tap in cls.size.taps]
    with pytest.raises(ConfigError, match=f"^{cls.size.encoder} needs an input"):
        encoder(torch.empty(1, 3, 56, 71, device="meta"))


# ------------------------------------------------------------------- frozen, exact, anywhere


def test_it_is_frozen_whatever_the_caller_does(released: Path) -> None:
    encoder = encoder_of(released)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(m.requires_grad for m in encoder(picture(56, 56)).maps_BHWC)


def test_float64_meta_and_a_meta_context(released: Path) -> None:
    encoder = encoder_of(released)
    image = picture(56, 70)
    double = copy.deepcopy(encoder).double()
    assert double(image).maps_BHWC[3].dtype == torch.float64
    assert worst(encoder(image).maps_BHWC, [m.float() for m in double(image).maps_BHWC]) < 1e-5
    with torch.device("meta"):
        shapes = encoder_of(released)(torch.empty(2, 3, 56, 70))
    assert shapes.maps_BHWC[0].is_meta
    assert shapes.maps_BHWC[0].shape == (2, 4, 5, TINY.dim)


def test_precision_is_its_own_and_not_the_callers(released: Path) -> None:
    image = picture(56, 70)
    exact, coarse = encoder_of(released), encoder_of(released, precision="bf16")
    expected = list(exact(image).maps_BHWC)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert worst(exact(image).maps_BHWC, expected) == 0.0
    found = coarse(image).maps_BHWC
    assert all(m.dtype == torch.float32 for m in found)
    assert 1e-4 < worst(found, expected) < 0.5


@pytest.mark.parametrize("size", [(480, 640), (56, 71), (0, 56)])
def test_sides_that_are_no_multiple_of_14_are_refused(released: Path, size: tuple[int, int]) -> None:
    for encoder in (encoder_of(released), PatchDescriptors(PatchDescriptors.Config())):
        with pytest.raises(ConfigError, match=rf"multiples of 14, got {size[0]}×{size[1]}") as caught:
            encoder(torch.rand(1, 3, *size))
        assert "518×518" in str(caught.value.hint)


# ------------------------------------------------------------------- refusals


def test_digest_is_the_files(released: Path) -> None:
    assert encoder_of(released).digest() == hashlib.sha256(released.read_bytes()).hexdigest()


def test_missing_and_unexpected_names_are_listed(released: Path) -> None:
    state = released_state()
    del state["pretrained.blocks.2.ls1.gamma"], state["depth_head.projects.3.bias"]
    state["pretrained.blocks.4.norm1.weight"] = torch.zeros(TINY.dim)
    torch.save(state, released)
    with pytest.raises(DataError) as caught:
        encoder_of(released)
    text = str(caught.value)
    assert "does not fit Depth Anything V2 Small, ViT-S/14: missing depth_head.projects.3.bias, pretrained." in text
    assert "missing depth_head.projects.3.bias, pretrained.blocks.2.ls1.gamma;" in text
    assert "unexpected pretrained.blocks.4.norm1.weight\n" in text
    assert text.startswith(str(released))


def test_names_are_checked_in_hugging_face_layouts_too(tmp_path: Path) -> None:
    plain = plain_dinov2_state(released_state())
    layernorm = plain.pop("layernorm.bias")
    save_file(plain, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"missing layernorm\.bias\n"):
        encoder_of(tmp_path)
    backbone = {f"backbone.{name}": value for name, value in plain.items()}
    save_file(backbone | {"backbone.layernorm.bias": layernorm}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"missing head\.conv1\.bias, .* and \d+ more"):
        encoder_of(tmp_path)


def test_another_width_is_refused_and_not_reinitialised(released: Path) -> None:
    state = released_state()
    state["pretrained.norm.weight"] = torch.ones(TINY.dim + 1)
    torch.save(state, released)
    with pytest.raises(DataError, match=r"wrong shape pretrained\.norm\.weight \(25,\) instead of \(24,\)\n"):
        encoder_of(released)


def test_a_file_of_another_size_names_the_encoder_that_reads_it(tmp_path: Path) -> None:
    torch.save(hollow(BASE), tmp_path / "weights.pth")
    with pytest.raises(DataError, match="does not fit Depth Anything V2 Small") as caught:
        DAv2Small(DAv2Small.Config(weights=str(tmp_path / "weights.pth")))
    assert caught.value.hint == "use the encoder dav2_base"


def test_tensors_of_another_family_are_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(DataError, match=r"not the tensors of Depth Anything V2: found conv1\.weight"):
        encoder_of(tmp_path / "resnet.pth")


def test_values_that_are_not_finite_are_refused(released: Path) -> None:
    state = released_state()
    state["pretrained.blocks.1.mlp.fc2.bias"][3] = math.nan
    torch.save(state, released)
    with pytest.raises(DataError, match=r"not finite in pretrained\.blocks\.1\.mlp\.fc2\.bias"):
        encoder_of(released)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


def test_a_file_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"pretrained.cls_token": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(DataError, match="cannot be read as weights"):
        encoder_of(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, released: Path, name: str) -> None:
    (tmp_path / name).write_bytes(released.read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read as weights") as caught:
        encoder_of(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_a_wrapped_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": released_state(), "epoch": 3}, tmp_path / "wrapped.pth")
    with pytest.raises(DataError, match="expected a table of named tensors"):
        encoder_of(tmp_path / "wrapped.pth")


@pytest.mark.parametrize("cls", [DAv2Small, DAv2Base, DAv2Large])
@pytest.mark.parametrize("release", ["relative", "metric_indoor"])
def test_without_weights_it_says_what_to_get(tmp_path: Path, cls: type[DAv2Encoder], release: str) -> None:
    letter = cls.size.name[0].lower()
    file = {"relative": f"v2_vit{letter}.pth", "metric_indoor": f"v2_metric_hypersim_vit{letter}.pth"}[release]
    variable = {"relative": "DAV2_WEIGHTS=", "metric_indoor": "DAV2_METRIC_WEIGHTS="}[release]
    absent = str(tmp_path / "absent.pth")
    for config in (cls.Config(release=release), cls.Config(release=release, weights=absent)):
        text = cls.missing(config)
        assert text is not None
        for word in (f"Depth Anything V2 {cls.size.name}", f"depth_anything_{file}", variable, f"-{cls.size.name} "):
            assert word in text
        with pytest.raises(DataError, match=variable):
            cls(config)


def test_a_directory_with_no_file_or_two_is_refused(tmp_path: Path, released: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "found neither" in str(DAv2Small.missing(DAv2Small.Config(weights=str(tmp_path / "empty"))))
    assert DAv2Small.missing(DAv2Small.Config(weights=str(tmp_path))) is None
    (tmp_path / "model.safetensors").touch()
    assert "found both" in str(DAv2Small.missing(DAv2Small.Config(weights=str(tmp_path))))


def test_the_environment_variable_is_the_default(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(released))
    assert DAv2Small.missing(DAv2Small.Config()) is None
    assert TinyEncoder(DAv2Small.Config()).digest() == encoder_of(released).digest()


def test_one_folder_may_hold_every_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, name in enumerate(RELEASED_FILES):
        torch.save({"seed": torch.tensor(seed)}, tmp_path / name)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for cls in (DAv2Small, DAv2Base, DAv2Large):
        letter = cls.size.name[0].lower()
        for release, infix in (("relative", ""), ("metric_indoor", "metric_hypersim_")):
            found = dav2_release.find_weights(cls.Config(release=release), cls.size)
            assert found == tmp_path / f"depth_anything_v2_{infix}vit{letter}.pth"


def test_the_metric_release_has_a_variable_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which wins: the option, then DAV2_METRIC_WEIGHTS, then the folder (never the file) of DAV2_WEIGHTS."""
    places = [tmp_path / name for name in ("option", "own", "shared")]
    for place in places:
        place.mkdir()
        (place / METRIC_FILE).touch()
    config = DAv2Small.Config(release="metric_indoor")
    monkeypatch.setenv(VARIABLE, str(places[2] / "depth_anything_v2_vits.pth"))
    assert "metric indoor checkpoint is missing" in str(DAv2Small.missing(config))
    monkeypatch.setenv(VARIABLE, str(places[2]))
    assert dav2_release.find_weights(config, SMALL).parent == places[2]
    monkeypatch.setenv(METRIC_VARIABLE, str(places[1] / METRIC_FILE))
    assert dav2_release.find_weights(config, SMALL).parent == places[1]
    config = config.model_copy(update={"weights": str(places[0])})
    assert dav2_release.find_weights(config, SMALL).parent == places[0]


def test_a_released_file_of_another_model_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / METRIC_FILE).touch()
    text = str(DAv2Small.missing(DAv2Small.Config(weights=str(tmp_path / METRIC_FILE))))
    assert "is the metric indoor checkpoint of Depth Anything V2 Small, expected the relative checkpoint" in text


def test_a_renamed_release_is_refused_by_its_bytes(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256(released.read_bytes()).hexdigest()
    monkeypatch.setattr(dav2, "SHA256", {sha256: RELEASED_FILES[METRIC_FILE]})
    with pytest.raises(DataError, match=r"is the metric indoor checkpoint .* expected the relative") as caught:
        encoder_of(released)
    assert "release to metric_indoor" in str(caught.value.hint)
    renamed = released.rename(released.with_name("renamed.pth"))
    assert encoder_of(renamed, release="metric_indoor").release == "metric_indoor"


def test_places_are_not_what_counts() -> None:
    assert DAv2Small.places == {"weights", "repo", "revision", "hub"}
    assert DAv2Small.version == 3  # position embeddings of inputs other than 518×518, and how frames are resized


# ------------------------------------------------------------------- what a file is


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hollow file of Small in the released layout and size."""
    folder = tmp_path_factory.mktemp("small")
    torch.save(hollow(SMALL), folder / "depth_anything_v2_vits.pth")
    return folder


def test_a_released_file_is_described(small_folder: Path) -> None:
    """ViT: 14 tensors in each of 12 blocks and 7 more. Head: 13 for each of 4 maps, 3·2 to resize, 3·2 at the end."""
    path = small_folder / "depth_anything_v2_vits.pth"
    expected = {
        "model": "Depth Anything V2 Small, ViT-S/14",
        "layout": "upstream (pretrained.*, depth_head.*)",
        "encoder": "175 tensors, 22,056,576 parameters",
        "depth head": "64 tensors, 2,728,513 parameters",
        "release": "none whose SHA-256 is known here",
        "SHA-256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "fits": "dav2_small",
    }
    for cls in (DAv2Small, DAv2Base, DAv2Large):  # whichever is asked
        assert cls.describe_weights(path) == expected
        assert cls.describe_weights(str(small_folder)) == expected


@pytest.mark.parametrize("size", [BASE, LARGE], ids=["B", "L"])
def test_base_and_large_are_told_apart_by_their_shapes(tmp_path: Path, size: DAv2Size) -> None:
    torch.save(hollow(size), tmp_path / "any name.pth")
    found = DAv2Small.describe_weights(tmp_path / "any name.pth")
    assert found is not None
    assert found["fits"] == size.encoder
    assert size.vit in found["model"]


def test_hugging_face_files_are_described(tmp_path: Path) -> None:
    """qkv is three tensors there: 12·4 more."""
    plain = {f"{name}": value.contiguous() for name, value in plain_dinov2_state(hollow(SMALL)).items()}
    save_file(plain, tmp_path / "model.safetensors")
    found = DAv2Small.describe_weights(tmp_path)
    assert found is not None
    assert found["layout"].startswith("Hugging Face DINOv2")
    assert found["encoder"] == "223 tensors, 22,056,576 parameters"
    assert found["depth head"] == "none"
    assert found["model"] == "DINOv2 ViT-S/14"


def test_known_releases_are_named(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_folder / "depth_anything_v2_vits.pth"
    known = {hashlib.sha256(path.read_bytes()).hexdigest(): RELEASED_FILES[METRIC_FILE]}
    monkeypatch.setattr("spd_components.encoders.dav2_weights.SHA256", known)
    found = DAv2Small.describe_weights(path)
    assert found is not None
    assert found["release"] == f"the metric indoor checkpoint of Depth Anything V2 Small, {METRIC_FILE}"
    assert [file.name for file in SHA256.values()] == ["depth_anything_v2_vits.pth", METRIC_FILE]
    assert all(len(sha256) == 64 for sha256 in SHA256)


def test_a_folder_of_several_files_has_a_line_for_each(tmp_path: Path) -> None:
    names = ["depth_anything_v2_vits.pth", METRIC_FILE]
    for name in names:
        torch.save(hollow(SMALL), tmp_path / name)
    found = DAv2Small.describe_weights(tmp_path)
    assert found is not None
    assert list(found) == names
    assert "fits" not in found
    assert all("dav2_small" in line for line in found.values())


@pytest.mark.parametrize("size", SIZES, ids=["S", "B", "L"])
def test_a_damaged_file_is_held_against_the_nearest_size(tmp_path: Path, size: DAv2Size) -> None:
    state = hollow(size)
    del state["pretrained.blocks.2.ls1.gamma"]
    state["pretrained.registers"] = torch.zeros(4)
    state["depth_head.projects.3.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=f"nearest to Depth Anything V2 {size.name} ") as caught:
        DAv2Small.describe_weights(tmp_path / "weights.pth")
    assert caught.value.message.endswith(
        "missing pretrained.blocks.2.ls1.gamma; unexpected pretrained.registers; "
        f"wrong shape depth_head.projects.3.bias (7,) instead of ({size.reassembled[3]},)"
    )


def test_a_truncated_or_poisoned_file_is_an_error_and_no_description(tmp_path: Path, small_folder: Path) -> None:
    content = (small_folder / "depth_anything_v2_vits.pth").read_bytes()
    (tmp_path / "depth_anything_v2_vits.pth").write_bytes(content[:-1000])
    with pytest.raises(DataError, match="cannot be read as weights"):
        DAv2Small.describe_weights(tmp_path)
    state = hollow(SMALL)
    state["pretrained.norm.bias"] = torch.full((384,), math.inf)
    torch.save(state, tmp_path / "depth_anything_v2_vits.pth")
    with pytest.raises(DataError, match=r"not finite in pretrained\.norm\.bias"):
        DAv2Small.describe_weights(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        DAv2Small.describe_weights(tmp_path / "nothing")


def test_what_is_of_no_known_family_has_no_description(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    torch.save({"encoder.layer.0.attention.self.query.weight": torch.zeros(1)}, tmp_path / "bert.pth")
    (tmp_path / "notes.txt").write_text("embeddings, backbone, pretrained")
    (tmp_path / "table.csv").write_bytes(bytes(range(256)))
    (tmp_path / "empty.bin").touch()
    for path in tmp_path.iterdir():
        assert DAv2Small.describe_weights(path) is None, path
    assert DAv2Small.describe_weights(tmp_path) is None


# ------------------------------------------------------------------- options


def test_a_repository_outside_the_cache_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = DAv2Small.Config(repo="somebody/something", revision="0" * 40)
    assert "hub: true" in str(DAv2Small.missing(config))
    assert DAv2Small.missing(DAv2Small.Config(repo="somebody/something", revision="0" * 40, hub=True)) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "a.pth", "random_weights": True}, "only one of"),
        ({"repo": "a/b"}, "go together"),
        ({"repo": "a/b", "revision": "main"}, "pattern"),
        ({"hub": True}, "give repo and revision"),
        ({"precision": "fp16"}, "fp32"),
        ({"wieghts": "a.pth"}, "Extra inputs"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DAv2Small.Config(**options)  # type: ignore[arg-type]


def test_random_weights_say_so_and_are_the_same_every_time() -> None:
    config = DAv2Small.Config(random_weights=True)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = TinyEncoder(config)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second = TinyEncoder(config)
    assert "random weights" in first.stand_in
    assert DAv2Small.stand_in == ""
    assert first.digest() == second.digest()
    image = picture(56, 56)
    assert worst(first(image).maps_BHWC, list(second(image).maps_BHWC)) == 0.0
    with pytest.raises(DataError, match="random weights has no depth head"):
        first.depth_head_state()


def test_the_depth_head_must_be_there_and_from_the_same_file(released: Path, tmp_path: Path) -> None:
    save_file(plain_dinov2_state(released_state()), tmp_path / "vit.safetensors")
    with pytest.raises(DataError, match="without a depth head"):
        encoder_of(tmp_path / "vit.safetensors").depth_head_state()
    encoder = encoder_of(released)
    torch.save(released_state(seed=9), released)
    with pytest.raises(DataError, match="has changed since"):
        encoder.depth_head_state()


# ------------------------------------------------------------------- patch descriptors


@pytest.fixture(scope="module")
def descriptors() -> PatchDescriptors:
    return PatchDescriptors(PatchDescriptors.Config())


def natural(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Colour noise whose amplitude falls with frequency, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.fft.rfft2(torch.randn(count, 3, height, width, generator=generator))
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))
    field = torch.fft.irfft2(noise / radius.clamp_min(1 / height), s=(height, width))
    colour = torch.tensor([[1.0, 0.3, 0.1], [1.0, 0.0, -0.1], [1.0, -0.3, 0.2]])
    field = torch.einsum("rc,bchw->brhw", colour, field / field.std())
    return (0.45 + 0.2 * field).clamp(0, 1)


def test_descriptor_maps_have_the_encoders_shape(descriptors: PatchDescriptors) -> None:
    maps = descriptors(natural(2, 56, 70)).maps_BHWC
    assert [tuple(m.shape) for m in maps] == [(2, 4, 5, 384)] * 4
    assert all(m.is_contiguous() and m.dtype == torch.float32 and not m.requires_grad for m in maps)
    assert "instead of DAv2-S" in descriptors.stand_in
    assert list(descriptors.parameters()) == []
    assert not descriptors.state_dict()


def test_descriptors_do_not_depend_on_the_batch_or_the_caller(descriptors: PatchDescriptors) -> None:
    images = natural(3, 70, 56)
    together = descriptors(images).maps_BHWC
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = descriptors(images[1:2]).maps_BHWC
    assert worst(alone, [m[1:2] for m in together]) < 1e-5
    double = copy.deepcopy(descriptors).double()(images).maps_BHWC
    assert double[0].dtype == torch.float64
    assert worst(together, [m.float() for m in double]) < 1e-3


def test_descriptors_run_on_the_meta_device(descriptors: PatchDescriptors) -> None:
    with torch.device("meta"):
        maps = PatchDescriptors(PatchDescriptors.Config())(torch.empty(1, 3, 56, 70)).maps_BHWC
    assert [m.shape for m in maps] == [(1, 4, 5, 384)] * 4
    assert copy.deepcopy(descriptors).to("meta")(torch.empty(1, 3, 56, 70, device="meta")).maps_BHWC[0].is_meta


def parts(one: Tensor) -> dict[str, Tensor]:
    """The groups of a map's 384 channels."""
    names = {"spectrum": 54, "edges": 32, "words": 216, "image": 24, "paths": 24, "likeness": 18, "position": 16}
    return dict(zip(names, one.split(list(names.values()), dim=-1), strict=True))


def test_a_grey_image_by_hand(descriptors: PatchDescriptors) -> None:
    """Grey 0.6: luma 0.1 gives 3·0.1/√(0.1 + 0.01); no edge is 4·√1e-4 − 0.5; the third grey word is full."""
    for one in descriptors(torch.full((1, 3, 56, 70), 0.6)).maps_BHWC:
        part = parts(one)
        words = part["words"].unflatten(-1, (9, 24))
        assert torch.allclose(part["spectrum"][..., 0], torch.tensor(0.3 / math.sqrt(0.11)), atol=1e-4)
        assert torch.allclose(part["spectrum"][..., 1:], torch.zeros(()), atol=1e-4)
        assert torch.allclose(part["edges"], torch.tensor(4 * 0.01 - 0.5), atol=1e-4)
        assert torch.allclose(words[..., 8 + 2], torch.tensor(2 * math.sqrt(1.001) - 0.3), atol=1e-4)
        assert torch.allclose(part["image"], words[..., 0, :], atol=1e-4)  # the image's mean is any block's
        assert torch.allclose(part["paths"].unflatten(-1, (4, 6))[..., :4], torch.ones(()), atol=1e-4)
        assert torch.allclose(part["likeness"], torch.ones(()), atol=1e-4)


def test_a_path_ends_at_the_first_edge(descriptors: PatchDescriptors) -> None:
    """A step of 1 between rows 27 and 28 of 56: both rows slope, so two half-cells (7 rows) have strength 1/7.

    From the top, clear is 1, 1, 1, e^(−6/7), then e^(−12/7) = 0.1801; cells average two: 1, 0.7122, 0.1801, 0.1801.
    Their mean, the reach, is 0.5181. Upright edges: none.
    """
    image = torch.zeros(1, 3, 56, 70)
    image[..., 28:, :] = 1.0
    top, right, bottom, left = parts(descriptors(image).maps_BHWC[0])["paths"].unflatten(-1, (4, 6))[0].unbind(-2)
    clear = torch.tensor([1.0, 0.7122, 0.1801, 0.1801])
    assert torch.allclose(top[:, 2, 1], clear, atol=1e-4)
    assert torch.allclose(top[:, 2, 3], torch.tensor(0.5181), atol=1e-4)
    centre = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert torch.allclose(top[:, 2, 5], torch.tanh(4 * (0.5181 - centre)), atol=1e-3)
    assert torch.allclose(top[..., 0], torch.ones(()), atol=1e-5)
    assert torch.allclose(bottom.flip(0), top, atol=1e-4)  # the step is in the middle
    assert torch.allclose(left[0], left[3], atol=1e-5)
    assert torch.allclose(left.flip(1), right, atol=1e-5)
    assert torch.allclose(left[0, :, 1], torch.ones(5), atol=1e-5)  # along row 0 there is no edge


def test_likeness_to_a_border_and_along_the_way(descriptors: PatchDescriptors) -> None:
    """Left half black, right half white; likeness to the right border is group 2 (own row), to the left group 5."""
    image = torch.zeros(1, 3, 56, 56)
    image[..., 28:] = 1.0
    groups = parts(descriptors(image).maps_BHWC[1])["likeness"].unflatten(-1, (6, 3))[0]
    for border, columns in ((2, [3, 2, 1, 0]), (5, [0, 1, 2, 3])):
        alike, so_far, line = groups[0, columns, border].unbind(-1)
        assert float(alike[0]) == 1.0
        assert float(alike[3]) < 0.1 < float(alike[1])
        assert torch.allclose(so_far, alike.cumsum(0) / torch.arange(1, 5), atol=1e-5)
        assert torch.allclose(line, alike.mean().expand(4), atol=1e-5)


def test_position_channels_by_hand(descriptors: PatchDescriptors) -> None:
    """First of 8 sines: sin(2π·½·x) with x the cell's centre, 0.5/5 to 4.5/5; second: the same in y."""
    where = parts(descriptors(natural(1, 56, 70)).maps_BHWC[2])["position"][0]
    assert torch.allclose(where[1, :, 0], torch.sin(math.pi * torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])), atol=1e-6)
    assert torch.allclose(where[:, 2, 1], torch.sin(math.pi * torch.tensor([0.125, 0.375, 0.625, 0.875])), atol=1e-6)


def test_a_vertical_edge_is_seen_in_its_direction_and_quadrants(descriptors: PatchDescriptors) -> None:
    """Dark left, bright right, the step at x = 28 of 56: right-pointing energy beside it, none pointing left."""
    image = torch.zeros(1, 3, 56, 56)
    image[..., 28:] = 1.0
    edges = parts(descriptors(image).maps_BHWC[0])["edges"][0].unflatten(-1, (4, 8))  # quadrants TL TR BL BR
    none = 4 * 0.01 - 0.5
    assert torch.allclose(edges[:, 1, 0, 0], torch.tensor(none), atol=1e-5)  # cell left of the step, left half
    assert bool((edges[:, 1, 1, 0] > 1).all())  # its right half, pointing right
    assert bool((edges[:, 2, 0, 0] > 1).all())  # next cell, left half
    assert torch.allclose(edges[..., 4], torch.tensor(none), atol=1e-5)  # nothing points left


def test_words_of_blocks_are_in_row_major_order(descriptors: PatchDescriptors) -> None:
    """Only the top-left cell of 4×4 is white: a cell at (1, 1) sees it in block 0, a cell at (1, 0) in block 1."""
    image = torch.zeros(1, 3, 56, 56)
    image[..., :14, :14] = 1.0
    light = parts(descriptors(image).maps_BHWC[0])["words"][0].unflatten(-1, (9, 24))[..., 12]
    dark, bright = float(light[3, 3, 4]), float(light[0, 0, 4])
    assert bright - dark > 1
    seen = [(r, c, b) for r in (1, 2) for c in (1, 2) for b in range(9) if float(light[r, c, b]) > dark + 0.5]
    assert seen == [(1, 1, 0)]
    assert [b for b in range(9) if float(light[1, 0, b]) > dark + 0.5] == [0, 1]  # column −1 repeats the border


def test_the_dct_is_orthogonal_and_amplified_by_frequency() -> None:
    """On n² samples the functions have squared norm (1 + |f|)² / n²; f = (0, 0), (0, 1), (1, 0), (1, 1)."""
    basis = dct_basis(5, 2).flatten(1)
    gain = torch.tensor([1.0, 2.0, 2.0, 1 + math.sqrt(2)], dtype=torch.float64)
    assert torch.allclose(basis @ basis.T, torch.diag(gain**2 / 25), atol=1e-12)


def test_channels_are_of_order_one_on_natural_images(descriptors: PatchDescriptors) -> None:
    for one in descriptors(natural(12, 112, 112)).maps_BHWC:
        flat = one.flatten(0, 2)
        assert float(flat.abs().max()) < 6
        assert float(flat[:, :86].std(0).min()) > 0.05
        assert float(flat.std(0).max()) < 2
        assert float(flat.mean(0).abs().max()) < 1.5


def test_the_definition_has_not_changed_without_a_new_version(descriptors: PatchDescriptors) -> None:
    """If this fails on purpose, raise PatchDescriptors.version and put the new numbers here."""
    ramp = torch.linspace(0, 1, 3 * 56 * 70).reshape(1, 3, 56, 70)
    wave = (0.5 + 0.5 * torch.sin(40 * ramp)) * torch.tensor([1.0, 0.7, 0.4]).view(3, 1, 1)
    weight = torch.linspace(-1, 1, 384).double()  # so that exchanged or mirrored channels change the number too
    found = [float((m * weight).mean()) for m in descriptors(wave).maps_BHWC]
    assert descriptors.version == 1
    assert found == pytest.approx([0.044902, 0.028708, 0.011397, 0.023606], abs=2e-5)


def test_descriptors_tell_what_position_cannot(descriptors: PatchDescriptors) -> None:
    """A red box at 1 m somewhere before a grey wall at 4 m: ridge regression to log depth on held-out images."""
    generator = torch.Generator().manual_seed(3)
    images = 0.3 + 0.05 * torch.randn(60, 3, 70, 70, generator=generator)
    log_depth = torch.full((60, 5, 5), math.log(4.0))
    for i in range(60):
        row, column = torch.randint(0, 4, (2,), generator=generator).tolist()
        images[i, :, 14 * row : 14 * row + 28, 14 * column : 14 * column + 28] += torch.tensor([0.4, 0, 0])[
            :, None, None
        ]
        log_depth[i, row : row + 2, column : column + 2] = 0.0
    features = torch.cat(descriptors(images.clamp(0, 1)).maps_BHWC, dim=-1).double()

    def error(channels: Tensor) -> float:
        x = torch.cat([channels, torch.ones(*channels.shape[:3], 1, dtype=torch.float64)], dim=-1)
        train, test = x[:48].flatten(0, 2), x[48:].flatten(0, 2)
        y = log_depth.double()
        weight = torch.linalg.solve(train.T @ train + torch.eye(x.shape[-1]) * 1.0, train.T @ y[:48].flatten())
        return float((torch.exp(test @ weight - y[48:].flatten()) - 1).abs().mean())

    position, everything = error(features[..., 368:384]), error(features)
    assert position > 0.3
    assert everything < 0.15
