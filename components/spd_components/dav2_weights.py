"""Files that hold Depth-Anything-V2-Small, read into one layout: names as in a Hugging Face `model.safetensors`.

Three layouts are known, told apart by their names:

    upstream         `pretrained.*` and `depth_head.*`: depth_anything_v2_vits.pth, as the authors released it
    Depth Anything   `backbone.*`, `neck.*` and `head.*`: a Hugging Face conversion of the whole model
    plain DINOv2     `embeddings.*`, `encoder.*` and `layernorm.*`: a ViT alone, without a depth head

Every name must be expected and every expected name must be there; every value must be finite.
"""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spd_bench.errors import DataError

RELEASE = "Depth-Anything-V2-Small"
RELEASE_FILE = "depth_anything_v2_vits.pth"
HUGGING_FACE_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class ViTSize:
    """Sizes of a DINOv2 ViT: §3's ViT-S/14, trained on a `grid`×`grid` of patches, read after layers `taps`."""

    dim: int = 384
    layers: int = 12
    heads: int = 6
    grid: int = 37
    taps: tuple[int, int, int, int] = (3, 6, 9, 12)
    """Counted from 1: the layers [2, 5, 8, 11] of §3 counted from 0 (R-22)."""


VIT_S = ViTSize()


@dataclass(frozen=True)
class ReleasedWeights:
    """One file's tensors by Hugging Face name: `backbone` (prefix removed), `head` (neck.*, head.*) if it has one."""

    backbone: dict[str, Tensor]
    head: dict[str, Tensor] | None
    sha256: str


def read_weights(path: Path, *, layers: int) -> ReleasedWeights:
    """Read and check one file of any known layout.

    Raises DataError, with the file as its place, for a file that cannot be read, for missing or unexpected names
    (listed), and for values that are not finite.
    """
    tensors = _read_tensors(path)
    _refuse_non_finite(tensors, path)
    if any(name.startswith("pretrained.") for name in tensors):
        return _from_upstream(tensors, path, layers)
    if any(name.startswith("backbone.") for name in tensors):
        return _from_depth_anything(tensors, path, layers)
    expected = disk_names(backbone_names(layers))
    _check_names(tensors, expected, path)
    return ReleasedWeights(backbone=tensors, head=None, sha256=sha256_of_file(path))


def sha256_of_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def backbone_names(layers: int) -> dict[str, tuple[str, ...]]:
    """Upstream name → Hugging Face names of the ViT, prefixes removed. qkv is one tensor there and three here."""
    names: dict[str, tuple[str, ...]] = {
        "cls_token": ("embeddings.cls_token",),
        "mask_token": ("embeddings.mask_token",),
        "pos_embed": ("embeddings.position_embeddings",),
    }
    for kind in ("weight", "bias"):
        names[f"patch_embed.proj.{kind}"] = (f"embeddings.patch_embeddings.projection.{kind}",)
        names[f"norm.{kind}"] = (f"layernorm.{kind}",)
        for layer in range(layers):
            old, new = f"blocks.{layer}", f"encoder.layer.{layer}"
            names[f"{old}.attn.qkv.{kind}"] = tuple(
                f"{new}.attention.attention.{part}.{kind}" for part in ("query", "key", "value")
            )
            names[f"{old}.attn.proj.{kind}"] = (f"{new}.attention.output.dense.{kind}",)
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                names[f"{old}.{same}.{kind}"] = (f"{new}.{same}.{kind}",)
    for layer in range(layers):
        for branch in (1, 2):
            names[f"blocks.{layer}.ls{branch}.gamma"] = (f"encoder.layer.{layer}.layer_scale{branch}.lambda1",)
    return names


def head_names() -> dict[str, tuple[str, ...]]:
    """Upstream name → Hugging Face name of the DPT head, upstream's prefix removed.

    Upstream counts fusion stages from fine to coarse, Hugging Face from coarse to fine. Stage 2 is not resized.
    """
    names: dict[str, str] = {}
    for stage in range(4):
        fusion = f"neck.fusion_stage.layers.{3 - stage}"
        refinement = f"scratch.refinenet{stage + 1}"
        reassemble = f"neck.reassemble_stage.layers.{stage}"
        names[f"scratch.layer{stage + 1}_rn.weight"] = f"neck.convs.{stage}.weight"
        for kind in ("weight", "bias"):
            names[f"projects.{stage}.{kind}"] = f"{reassemble}.projection.{kind}"
            if stage != 2:
                names[f"resize_layers.{stage}.{kind}"] = f"{reassemble}.resize.{kind}"
            names[f"{refinement}.out_conv.{kind}"] = f"{fusion}.projection.{kind}"
            for unit in (1, 2):
                for conv in (1, 2):
                    names[f"{refinement}.resConfUnit{unit}.conv{conv}.{kind}"] = (
                        f"{fusion}.residual_layer{unit}.convolution{conv}.{kind}"
                    )
    for kind in ("weight", "bias"):
        names[f"scratch.output_conv1.{kind}"] = f"head.conv1.{kind}"
        names[f"scratch.output_conv2.0.{kind}"] = f"head.conv2.{kind}"
        names[f"scratch.output_conv2.2.{kind}"] = f"head.conv3.{kind}"
    return {old: (new,) for old, new in names.items()}


def disk_names(names: Mapping[str, tuple[str, ...]]) -> list[str]:
    """All Hugging Face names of a map."""
    return [new for group in names.values() for new in group]


def _from_upstream(tensors: Mapping[str, Tensor], path: Path, layers: int) -> ReleasedWeights:
    vit = {f"pretrained.{old}": new for old, new in backbone_names(layers).items()}
    dpt = {f"depth_head.{old}": new for old, new in head_names().items()}
    _check_names(tensors, [*vit, *dpt], path)
    return ReleasedWeights(backbone=_renamed(tensors, vit), head=_renamed(tensors, dpt), sha256=sha256_of_file(path))


def _from_depth_anything(tensors: Mapping[str, Tensor], path: Path, layers: int) -> ReleasedWeights:
    vit = [f"backbone.{name}" for name in disk_names(backbone_names(layers))]
    dpt = disk_names(head_names())
    _check_names(tensors, [*vit, *dpt], path)
    return ReleasedWeights(
        backbone={name.removeprefix("backbone."): tensors[name] for name in vit},
        head={name: tensors[name] for name in dpt},
        sha256=sha256_of_file(path),
    )


def _renamed(tensors: Mapping[str, Tensor], names: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Tensors under their Hugging Face names; one with several names is cut into as many equal parts."""
    return {
        new: part.clone()
        for old, group in names.items()
        for new, part in zip(group, tensors[old].chunk(len(group)), strict=True)
    }


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The file's table of tensors in float32. A `.pth` is read without running any code that it may hold."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        table = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().splitlines()
        raise DataError(
            f"cannot be read as weights ({type(error).__name__}: {reason[0] if reason else 'no reason given'})",
            where=str(path),
            hint=f"download {RELEASE} again; a file of weights is a .pth or a .safetensors",
        ) from error
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise DataError(
            "expected a table of named tensors, found something else",
            where=str(path),
            hint=f"use the released {RELEASE_FILE}, not a training checkpoint that wraps it",
        )
    return {name: value.float() for name, value in table.items()}


def _refuse_non_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        raise DataError(
            f"values that are not finite in {listed(broken)}", where=str(path), hint=f"download {RELEASE} again"
        )


def _check_names(found: Iterable[str], expected: Iterable[str], path: Path) -> None:
    found, expected = set(found), set(expected)
    problems = []
    if expected - found:
        problems.append(f"missing {listed(expected - found)}")
    if found - expected:
        problems.append(f"unexpected {listed(found - expected)}")
    if problems:
        raise DataError(
            "not the tensors of Depth Anything V2 Small: " + "; ".join(problems),
            where=str(path),
            hint=f"use {RELEASE_FILE} of the release {RELEASE}, or its Hugging Face conversion",
        )


def listed(names: Iterable[str], *, most: int = 12) -> str:
    """Names in order, the first `most` of them, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
