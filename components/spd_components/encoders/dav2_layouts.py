"""Names and shapes of Depth Anything V2's tensors, in the three layouts of its files.

    upstream         `pretrained.*` and `depth_head.*`: depth_anything_v2_vits.pth, as the authors released it
    Depth Anything   `backbone.*`, `neck.*` and `head.*`: a Hugging Face conversion of the whole model
    plain DINOv2     `embeddings.*`, `encoder.*` and `layernorm.*`: a ViT alone, without a depth head

The upstream names and shapes are listed once; the Hugging Face layouts are derived from them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from spd_components.encoders.dav2_sizes import DAv2Size
from spd_components.encoders.support import PATCH


@dataclass(frozen=True)
class WeightEntry:
    """One tensor of a file."""

    name: str
    """Its name in the file, without prefix."""
    hugging_face: tuple[str, ...]
    """Its Hugging Face names; several: as many equal parts along the first axis."""
    shape: tuple[int, ...]
    """Its shape."""


def vit_entries(size: DAv2Size) -> Iterator[WeightEntry]:
    """The ViT as upstream stores it. qkv is one tensor there and three in a Hugging Face file."""
    d = size.dim
    yield WeightEntry("cls_token", ("embeddings.cls_token",), (1, 1, d))
    yield WeightEntry("mask_token", ("embeddings.mask_token",), (1, d))
    yield WeightEntry("pos_embed", ("embeddings.position_embeddings",), (1, 1 + size.grid**2, d))
    yield from _layer("patch_embed.proj", "embeddings.patch_embeddings.projection", shape=(d, 3, PATCH, PATCH))
    yield from _layer("norm", "layernorm", shape=(d,))
    for index in range(size.layers):
        old, new = f"blocks.{index}", f"encoder.layer.{index}"
        qkv = [f"{new}.attention.attention.{part}" for part in ("query", "key", "value")]
        yield from _layer(f"{old}.attn.qkv", *qkv, shape=(3 * d, d))
        yield from _layer(f"{old}.attn.proj", f"{new}.attention.output.dense", shape=(d, d))
        yield from _layer(f"{old}.mlp.fc1", f"{new}.mlp.fc1", shape=(4 * d, d))
        yield from _layer(f"{old}.mlp.fc2", f"{new}.mlp.fc2", shape=(d, 4 * d))
        for branch in (1, 2):
            yield from _layer(f"{old}.norm{branch}", f"{new}.norm{branch}", shape=(d,))
            yield WeightEntry(f"{old}.ls{branch}.gamma", (f"{new}.layer_scale{branch}.lambda1",), (d,))


def head_entries(size: DAv2Size) -> Iterator[WeightEntry]:
    """The DPT head as upstream stores it.

    Upstream counts fusion stages from fine to coarse, Hugging Face from coarse to fine. Stage 2 is not resized.
    """
    f, kernels = size.fusion, {0: 4, 1: 2, 3: 3}
    for stage, width in enumerate(size.reassembled):
        reassemble, fusion = f"neck.reassemble_stage.layers.{stage}", f"neck.fusion_stage.layers.{3 - stage}"
        refinement = f"scratch.refinenet{stage + 1}"
        yield from _layer(f"projects.{stage}", f"{reassemble}.projection", shape=(width, size.dim, 1, 1))
        if kernel := kernels.get(stage):
            yield from _layer(f"resize_layers.{stage}", f"{reassemble}.resize", shape=(width, width, kernel, kernel))
        yield WeightEntry(f"scratch.layer{stage + 1}_rn.weight", (f"neck.convs.{stage}.weight",), (f, width, 3, 3))
        yield from _layer(f"{refinement}.out_conv", f"{fusion}.projection", shape=(f, f, 1, 1))
        for unit in (1, 2):
            for conv in (1, 2):
                old = f"{refinement}.resConfUnit{unit}.conv{conv}"
                yield from _layer(old, f"{fusion}.residual_layer{unit}.convolution{conv}", shape=(f, f, 3, 3))
    yield from _layer("scratch.output_conv1", "head.conv1", shape=(f // 2, f, 3, 3))
    yield from _layer("scratch.output_conv2.0", "head.conv2", shape=(32, f // 2, 3, 3))
    yield from _layer("scratch.output_conv2.2", "head.conv3", shape=(1, 32, 1, 1))


def _layer(old: str, *new: str, shape: tuple[int, ...]) -> Iterator[WeightEntry]:
    """Weight and bias of one layer."""
    yield WeightEntry(f"{old}.weight", tuple(f"{name}.weight" for name in new), shape)
    yield WeightEntry(f"{old}.bias", tuple(f"{name}.bias" for name in new), shape[:1])


def as_released(entry: WeightEntry) -> Iterable[WeightEntry]:
    """An upstream tensor, kept whole."""
    return [entry]


def as_hugging_face(entry: WeightEntry) -> Iterable[WeightEntry]:
    """An upstream tensor under its Hugging Face names, each a tensor of its own."""
    rows = entry.shape[0] // len(entry.hugging_face)
    return [WeightEntry(name, (name,), (rows, *entry.shape[1:])) for name in entry.hugging_face]


@dataclass(frozen=True, kw_only=True)
class WeightLayout:
    """Naming of the tensors in one kind of file."""

    title: str
    """Description for people."""
    mark: str
    """Pattern that matches the beginning of some name in every such file."""
    stored: Callable[[WeightEntry], Iterable[WeightEntry]]
    """Upstream tensor → tensors as stored."""
    vit_prefix: str
    """Prefix of the encoder's names."""
    head_prefix: str | None
    """Prefix of the depth head's names; None without a depth head."""

    def vit(self, size: DAv2Size) -> dict[str, WeightEntry]:
        """Tensors of the encoder by their names in the file."""
        return {self.vit_prefix + part.name: part for entry in vit_entries(size) for part in self.stored(entry)}

    def head(self, size: DAv2Size) -> dict[str, WeightEntry]:
        """Tensors of the depth head by their names in the file; empty for a layout without a head."""
        if self.head_prefix is None:
            return {}
        return {self.head_prefix + part.name: part for entry in head_entries(size) for part in self.stored(entry)}


UPSTREAM = WeightLayout(
    title="upstream (pretrained.*, depth_head.*)",
    mark=r"pretrained\.blocks\.\d+\.ls\d",
    stored=as_released,
    vit_prefix="pretrained.",
    head_prefix="depth_head.",
)
DEPTH_ANYTHING = WeightLayout(
    title="Hugging Face Depth Anything (backbone.*, neck.*, head.*)",
    mark=r"backbone\.encoder\.layer\.\d+\.layer_scale",
    stored=as_hugging_face,
    vit_prefix="backbone.",
    head_prefix="",
)
PLAIN_DINOV2 = WeightLayout(
    title="Hugging Face DINOv2 (embeddings.*, encoder.*, layernorm.*)",
    mark=r"encoder\.layer\.\d+\.layer_scale",
    stored=as_hugging_face,
    vit_prefix="",
    head_prefix=None,
)


def layout_of(names: Iterable[str]) -> WeightLayout | None:
    """The layout of these names, complete or not; None for unknown names."""
    names = list(names)
    for layout in (UPSTREAM, DEPTH_ANYTHING, PLAIN_DINOV2):
        if any(re.match(layout.mark, name) for name in names):
            return layout
    return None
