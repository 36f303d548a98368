"""Depth Anything V2 written a second time, in plain torch: every map and every dense output must agree (R-22, R-23).

The ViT and the DPT head below follow their papers and read tensors by the released file's names. They are compared
with the encoder and the dense baselines at the real grids, 37×37 (518×518) and 37×49 (518×686), on a narrow model, and
once at 37×37 on all of ViT-S. The narrow model is compared in float64, where rounding excuses nothing, ViT-S in
float32, as it is used. Controls compute something else on purpose and must not agree.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from released import random_release
from safetensors.torch import save_file
from torch import Tensor

from spd_baselines import dpt_head
from spd_baselines.dav2_dense import DAv2Dense
from spd_baselines.dav2_metric_indoor import DAv2MetricIndoor
from spd_bench.report.collect import collect
from spd_bench.report.comparison import notes
from spd_bench.run import session
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request
from spd_bench.suite.load import load_suite
from spd_components.encoders.dav2 import DAv2Small
from spd_components.encoders.dav2_layouts import as_hugging_face, head_entries, vit_entries
from spd_components.encoders.dav2_release import METRIC_VARIABLE, VARIABLE
from spd_components.encoders.dav2_sizes import SIZES, SMALL, DAv2Size

NARROW = replace(SMALL, dim=32, layers=5, heads=2, taps=(0, 1, 3, 4), fusion=16, reassembled=(8, 12, 16, 24))
RELEASED = "depth_anything_v2_vits.pth"
METRIC = "depth_anything_v2_metric_hypersim_vits.pth"


class NarrowEncoder(DAv2Small):
    size = NARROW


@pytest.fixture(autouse=True)
def _here_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (VARIABLE, METRIC_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(dpt_head.SIZES, NARROW.dim, dpt_head.DPTSize(NARROW.reassembled, NARROW.fusion))
    torch.set_num_threads(1)


def hugging_face(state: Mapping[str, Tensor], size: DAv2Size) -> dict[str, Tensor]:
    """The same model as a Hugging Face conversion names it."""
    renamed = {}
    for prefix, new_prefix, entries in (
        ("pretrained.", "backbone.", vit_entries(size)),
        ("depth_head.", "", head_entries(size)),
    ):
        for entry in entries:
            parts = [part.name for part in as_hugging_face(entry)]
            tensors = state[prefix + entry.name].chunk(len(parts))
            renamed |= {new_prefix + name: part.clone() for name, part in zip(parts, tensors, strict=True)}
    return renamed


# ------------------------------------------------------------------- the model, a second time


def positions(place: Tensor, rows: int, columns: int, how: str) -> Tensor:
    """[1, 37·37, C] → [1, rows·columns, C]. The last two ways are wrong."""
    side = math.isqrt(place.shape[1])
    if (rows, columns) == (side, side):
        return place
    square = place.transpose(1, 2).unflatten(2, (side, side))
    if how == "authors":
        factors = ((rows + 0.1) / side, (columns + 0.1) / side)
        large = F.interpolate(square, scale_factor=factors, mode="bicubic")
    elif how == "transformers":
        large = F.interpolate(square.float(), size=(rows, columns), mode="bicubic").to(square.dtype)  # as they do
    elif how == "mirrored offset":
        large = F.interpolate(
            square.flip(-1), scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic"
        )
        large = large.flip(-1)
    else:
        assert how == "axes swapped"
        large = F.interpolate(square, scale_factor=((columns + 0.1) / side, (rows + 0.1) / side), mode="bicubic")
    return large.flatten(2).transpose(1, 2)


def reference_maps(
    state: Mapping[str, Tensor],
    image: Tensor,
    size: DAv2Size,
    *,
    place: str = "authors",
    order: str = "qkv",
    scaled: bool = True,
    normed: bool = True,
) -> list[Tensor]:
    """DINOv2 as its paper has it: four maps [B, rows, columns, C]. The last three keywords make wrong twins."""
    w = {k.removeprefix("pretrained."): v for k, v in state.items() if k.startswith("pretrained.")}
    d, heads = size.dim, size.heads
    mean, std = image.new_tensor([0.485, 0.456, 0.406]), image.new_tensor([0.229, 0.224, 0.225])
    x = (image - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    batch, _, rows, columns = x.shape
    cls = w["cls_token"] + w["pos_embed"][:, :1]
    x = x.flatten(2).transpose(1, 2) + positions(w["pos_embed"][:, 1:], rows, columns, place)
    x = torch.cat([cls.expand(batch, -1, -1), x], dim=1)
    maps = []
    for i in range(size.layers):
        b = {k.removeprefix(f"blocks.{i}."): v for k, v in w.items() if k.startswith(f"blocks.{i}.")}
        h = F.layer_norm(x, (d,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        parts = dict(zip(order, F.linear(h, b["attn.qkv.weight"], b["attn.qkv.bias"]).chunk(3, dim=-1), strict=True))
        q, k, v = (parts[p].unflatten(-1, (heads, d // heads)).transpose(1, 2) for p in "qkv")
        a = (q @ k.transpose(-1, -2) / math.sqrt(d // heads)).softmax(dim=-1) @ v
        a = F.linear(a.transpose(1, 2).flatten(2), b["attn.proj.weight"], b["attn.proj.bias"])
        x = x + (b["ls1.gamma"] * a if scaled else a)
        h = F.layer_norm(x, (d,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        h = F.linear(h, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        x = x + (b["ls2.gamma"] * h if scaled else h)
        if i in size.taps:
            tap = F.layer_norm(x, (d,), w["norm.weight"], w["norm.bias"], 1e-6) if normed else x
            maps.append(tap[:, 1:].reshape(batch, rows, columns, d))
    return maps


def reference_head(
    state: Mapping[str, Tensor], maps: list[Tensor], *, corners: bool = True, residual: bool = True
) -> Tensor:
    """The DPT head before its last activation: [B, 14·rows, 14·columns]. The keywords make wrong twins."""
    w = {k.removeprefix("depth_head."): v for k, v in state.items() if k.startswith("depth_head.")}

    def conv(x: Tensor, name: str, **how: int) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), **how)

    def unit(x: Tensor, name: str) -> Tensor:
        return x + conv(F.relu(conv(F.relu(x), f"{name}.conv1", padding=1)), f"{name}.conv2", padding=1)

    rows, columns = maps[0].shape[1:3]
    x1, x2, x3, x4 = (conv(one.permute(0, 3, 1, 2), f"projects.{i}") for i, one in enumerate(maps))
    x1 = F.conv_transpose2d(x1, w["resize_layers.0.weight"], w["resize_layers.0.bias"], stride=4)
    x2 = F.conv_transpose2d(x2, w["resize_layers.1.weight"], w["resize_layers.1.bias"], stride=2)
    x4 = conv(x4, "resize_layers.3", stride=2, padding=1)
    levels = [conv(x, f"scratch.layer{i}_rn", padding=1) for i, x in enumerate((x1, x2, x3, x4), start=1)]
    path: Tensor | None = None
    for i in (4, 3, 2, 1):  # coarse to fine
        level, stage = levels[i - 1], f"scratch.refinenet{i}"
        if path is not None:
            level = path + (unit(level, f"{stage}.resConfUnit1") if residual else level)
        finer = levels[i - 2].shape[2:] if i > 1 else [2 * side for side in level.shape[2:]]
        path = F.interpolate(unit(level, f"{stage}.resConfUnit2"), list(finer), mode="bilinear", align_corners=corners)
        path = conv(path, f"{stage}.out_conv")
    assert path is not None
    out = conv(path, "scratch.output_conv1", padding=1)
    out = F.interpolate(out, [14 * rows, 14 * columns], mode="bilinear", align_corners=corners)
    out = F.relu(conv(out, "scratch.output_conv2.0", padding=1))
    return conv(out, "scratch.output_conv2.2")[:, 0]


# ------------------------------------------------------------------- narrow, at the real grids


STATE = random_release(NARROW)
STATE64 = {name: value.double() for name, value in STATE.items()}


def picture(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@cache
def expected(height: int, width: int, place: str) -> tuple[list[Tensor], Tensor]:
    """The four maps and the head's raw output."""
    with torch.no_grad():
        maps = reference_maps(STATE64, picture(height, width), NARROW, place=place)
        return maps, reference_head(STATE64, maps)


def upstream_file(folder: Path) -> Path:
    torch.save(STATE, folder / "weights.pth")
    return folder / "weights.pth"


def hugging_face_folder(folder: Path) -> Path:
    save_file(hugging_face(STATE, NARROW), folder / "model.safetensors")
    return folder


def encoder_on(path: Path, **options: Any) -> DAv2Small:
    return NarrowEncoder(DAv2Small.Config(weights=str(path), **options))


def worst(maps: Any, reference: Any) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(maps, reference, strict=True))


@pytest.mark.parametrize("place", ["authors", "transformers"])
@pytest.mark.parametrize("write", [upstream_file, hugging_face_folder])
@pytest.mark.parametrize(("height", "width"), [(518, 518), (518, 686)])
def test_maps_and_dense_outputs_agree(tmp_path: Path, height: int, width: int, write: Any, place: str) -> None:
    path, image = write(tmp_path), picture(height, width)
    maps, raw = expected(height, width, place)
    relative = DAv2Dense(DAv2Dense.Config(), encoder_on(path, position_embeddings=place)).double()
    encoder = encoder_on(path, position_embeddings=place, release="metric_indoor")
    metric = DAv2MetricIndoor(DAv2MetricIndoor.Config(), encoder).double()
    with torch.no_grad():
        features = relative.encode(image)
        assert worst(features.maps_BHWC, maps) < 1e-5
        disparity = relative.prepare(features).disparity.map_BHW
        assert disparity.shape == (1, height, width)
        assert float((disparity - raw.relu()).abs().max()) < 1e-5
        assert float((metric.prepare(features).map_BHW - 20 * raw.sigmoid()).abs().max()) < 1e-5
    assert 0.2 < float((disparity > 0).double().mean()) < 1  # both sides of the ReLU were seen
    assert float(disparity.std()) > 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        {"place": "transformers"},  # the offset left out
        {"place": "mirrored offset"},
        {"place": "axes swapped"},
        {"order": "kqv"},
        {"order": "qvk"},
        {"scaled": False},
        {"normed": False},
    ],
    ids=str,
)
def test_a_wrong_vit_does_not_agree(wrong: dict[str, Any]) -> None:
    maps, _ = expected(518, 686, "authors")
    with torch.no_grad():
        twin = reference_maps(STATE64, picture(518, 686), NARROW, **wrong)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(twin, maps, strict=True))


@pytest.mark.parametrize("wrong", [{"corners": False}, {"residual": False}, {"backwards": True}], ids=str)
def test_a_wrong_head_does_not_agree(wrong: dict[str, Any]) -> None:
    maps, raw = expected(518, 518, "authors")
    step = -1 if wrong.pop("backwards", False) else 1
    with torch.no_grad():
        assert float((reference_head(STATE64, maps[::step], **wrong) - raw).abs().max()) > 1e-2


def test_at_the_training_grid_both_ways_to_resize_are_the_same(tmp_path: Path) -> None:
    path = upstream_file(tmp_path)
    authors, transformers = (encoder_on(path, position_embeddings=way) for way in ("authors", "transformers"))
    with torch.no_grad():
        assert worst(authors(picture(518, 518)).maps_BHWC, transformers(picture(518, 518)).maps_BHWC) == 0
        assert worst(authors(picture(504, 504)).maps_BHWC, transformers(picture(504, 504)).maps_BHWC) > 1e-3


# ------------------------------------------------------------------- all of ViT-S


def write_releases(folder: Path, size: DAv2Size) -> Path:
    """A folder with both releases of a model, in the released layout, from random numbers."""
    torch.save(random_release(size), folder / RELEASED)
    torch.save(random_release(size, seed=1), folder / METRIC)
    return folder


def test_vit_s_and_its_head_agree_at_full_size(tmp_path: Path) -> None:
    folder = write_releases(tmp_path, SMALL)
    model = DAv2Dense(DAv2Dense.Config(), DAv2Small(DAv2Small.Config(weights=str(folder))))
    image, state = picture(518, 518).float(), random_release(SMALL)
    with torch.no_grad():
        features = model.encode(image)
        maps = reference_maps(state, image, SMALL)
        assert worst(features.maps_BHWC, maps) < 1e-5
        disparity = model.prepare(features).disparity.map_BHW
        assert float((disparity - reference_head(state, maps).relu()).abs().max()) < 1e-5
    assert float(disparity.std()) > 0.01


def test_the_heads_of_encoders_and_of_baselines_have_the_same_sizes() -> None:
    """Components and baselines do not know each other: each holds these numbers itself."""
    for size in SIZES:
        with torch.device("meta"):
            head = dpt_head.DPTHead(channels=size.dim, output=torch.nn.ReLU())
        names = {part.name: part.shape for entry in head_entries(size) for part in as_hugging_face(entry)}
        assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == names


# ------------------------------------------------------------------- from files to scores


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both releases of a narrow "Small", which `dav2_small` then takes for its own."""
    monkeypatch.setattr(DAv2Small, "size", NARROW)
    return write_releases(tmp_path, NARROW)


SUITE = """
suite: dense
base:
  name: v13
  encoder: dav2_small
  neck: pyramid
  b1: local_tokens
  b2: local_cross_attention
  b3: global_cross_attention
  routing: {{use: topk_attention, r: 2}}
  b4: deformable_read
  b5: fused_cross_attention
  depth_head: calibrated_inverse
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 70]
  augment: {{enabled: false}}
train: {{steps: 1, batch_size: 2, queries: 8, lr: 1e-3, precision: fp32, validations: 1}}
eval: {{protocol: full_frame, k: [8], k1_draws: 1}}
seeds: [0]
baselines:
  - {{use: dpt_trained, init: released}}
  - dav2_metric_indoor
  - dav2_dense
  - {{use: dav2_dense, alignment: none}}
report: {{primary: {{metric: absrel, k: 8}}}}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite on ten frames of 48×64 whose depth rises to the right."""
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (tmp_path / "frames" / folder).mkdir(parents=True)
    for i in range(10):
        depth_mm = np.tile(np.linspace(1000, 4000, 64), (48, 1)).astype(np.uint16)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / f"frames/rgb/{i:03d}.png")
        Image.fromarray(depth_mm).save(tmp_path / f"frames/depth/{i:03d}.png")
    path = tmp_path / "dense.yaml"
    path.write_text(SUITE.format(root=tmp_path / "frames"), encoding="utf-8")
    return path


def test_one_suite_holds_both_releases(suite: Path, releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From files to scores; only the aligned baseline is marked as such, and no identity holds a path."""
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    monkeypatch.setenv(VARIABLE, str(releases))
    finished = session.run_suite(Request(suite=str(suite), root=suite.parent / "runs", device="cpu"))
    assert finished.failed == 0
    said = [note for note in notes(collect(suite.parent / "runs")) if note.startswith("INPUT")]
    # 518 · 64/48 = 690.7 = 49.3 · 14; the others see the suite's 56×70
    seen = "518×686 (aspect kept, shorter side 518, multiples of 14), not the suite's"
    assert f"INPUT of dav2_metric_indoor: {seen}" in said
    assert [note.split(":")[1].strip() for note in said] == [seen] * 3
    experiment = plan.Experiment(choose.choose(Request(suite=str(suite))).suite)
    aligned = {c.baseline.plain()["alignment"]: experiment.is_gt_aligned(c) for c in experiment.compositions[3:]}
    assert aligned == {"lsq_disparity": True, "none": False}
    assert not experiment.is_gt_aligned(experiment.compositions[2])
    digests = [job.train_identity["encoder"]["weights"] for job in experiment.jobs]
    assert digests[2] not in (digests[0], digests[1])
    assert digests[0] == digests[1] == digests[3] == digests[4]
    assert not any(str(releases) in str(job.train_identity) for job in experiment.jobs)


def test_where_the_weights_lie_is_no_part_of_an_identity(suite: Path, releases: Path) -> None:
    """The same bytes, once named by the folder and once by the file."""

    def identities(weights: Path, metric: Path) -> list[str]:
        text = re.sub("  - {.*}\n", "", suite.read_text(encoding="utf-8"))  # the other baselines
        text = text.replace("encoder: dav2_small", f"encoder: {{use: dav2_small, weights: {weights}}}")
        text = text.replace("- dav2_metric_indoor", f"- {{use: dav2_metric_indoor, weights: {metric}}}")
        path = suite.with_stem("moved")
        path.write_text(text, encoding="utf-8")
        return [job.train_id for job in plan.Experiment(choose.choose(Request(suite=str(path))).suite).jobs]

    assert identities(releases, releases) == identities(releases / RELEASED, releases / METRIC)


def test_without_the_metric_release_the_suite_says_so(
    suite: Path, releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(releases / RELEASED))  # a file, so the other one is not looked for beside it
    lacks = choose.missing(load_suite(str(suite), profile=None))
    assert len(lacks) == 1
    for words in ("metric indoor checkpoint is missing", METRIC, "DAV2_METRIC_WEIGHTS="):
        assert words in lacks[0]
    monkeypatch.setenv(METRIC_VARIABLE, str(releases))
    assert choose.missing(choose.choose(Request(suite=str(suite))).suite) == []
