"""An encoder of another patch and with maps of their own widths: kits, check, training and gates ask the encoder."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import V13, write_frames, write_suite
from torch import Tensor
from typer.testing import CliRunner

from spd_bench import registry
from spd_bench.api import CHAIN, Encoder, Features
from spd_bench.cli import app
from spd_bench.errors import ConfigError
from spd_bench.model.compose import ChosenPart, build, build_baseline, check
from spd_bench.registry import PluginError
from spd_bench.run.build_order.gates import Evidence, examine
from spd_bench.score.metrics import AbsRel
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Checks
from spd_bench.testing import BaselineContract, EncoderContract, NeckContract, example_features

PLUGIN = '''
"""A ViT/16 in miniature: patches to tokens, four registers and CLS before them, maps of their own widths."""

import torch
import torch.nn.functional as F
from spd_bench.api import ComponentConfig, Encoder, Features
from spd_bench.errors import ConfigError


class MiniViT16(Encoder):
    """Linear maps of 16×16 patches."""

    patch = 16
    channels = 384
    widths = (96, 160, 256, 384)
    prefix_tokens = 5
    licence = "Example licence: name the example in publications"

    def __init__(self, config):
        super().__init__()
        random = torch.Generator().manual_seed(0)
        for index, width in enumerate(self.widths):
            self.register_buffer(f"filter_{index}", torch.randn(width, 3, 16, 16, generator=random) / 16)

    def forward(self, image_B3HW):
        if any(side % 16 for side in image_B3HW.shape[-2:]):
            raise ConfigError("sides must be multiples of 16")
        maps = []
        for index in range(4):
            grid = F.conv2d(image_B3HW, self.get_buffer(f"filter_{index}"), stride=16)
            tokens = F.pad(grid.flatten(2).transpose(1, 2), (0, 0, 5, 0))
            maps.append(tokens[:, self.prefix_tokens :].unflatten(1, grid.shape[-2:]))
        return Features(tuple(maps))

    def digest(self):
        return "16" * 32
'''


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    site = tmp_path / "site"
    info = site / "mini_vit-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mini-vit\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[spd_bench.encoder]\nmini_vit16 = mini_vit_plugin:MiniViT16\n")
    (site / "mini_vit_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))  # for the process that trains
    yield
    sys.modules.pop("mini_vit_plugin", None)


def encoder() -> Encoder:
    cls = registry.load("encoder", "mini_vit16")
    return cls(cls.Config()).requires_grad_(False)  # type: ignore[no-any-return]


def v13(on: Encoder, r: int = 4) -> Any:
    suite = load_suite("v13_ablation", profile="smoke")
    parts = {}
    for slot in CHAIN:
        choice = getattr(suite.base, slot)
        options = choice.options | ({"r": r} if slot == "routing" else {})
        parts[slot] = ChosenPart(choice.use, registry.load(slot, choice.use).Config(**options))
    return build(parts, on, seed=0)


class TestEncoder(EncoderContract):
    @property
    def component(self) -> type[Any]:  # type: ignore[override]
        return registry.load("encoder", "mini_vit16")


@pytest.mark.parametrize("name", ["pyramid", "last_layer", "top_down", "aligned"])
def test_necks_take_maps_of_their_own_widths(name: str) -> None:
    kit = NeckContract()
    kit.component, kit.options = registry.load("neck", name), {}
    kit.test_takes_maps_of_their_own_widths()


def test_a_neck_that_reads_one_width_fails_its_kit() -> None:
    class OneWidth(registry.load("neck", "pyramid")):  # type: ignore[misc]
        """Takes the deepest width for all four maps."""

        def __init__(self, config: Any, dims: Any) -> None:
            from dataclasses import replace

            super().__init__(config, replace(dims, widths=None))

    kit = NeckContract()
    kit.component, kit.options = OneWidth, {}
    kit.test_gives_the_pyramid()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        kit.test_takes_maps_of_their_own_widths()


BASELINES = ("bilinear_mlp", "dpt_trained", "dpt_sparse", "constant")


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_their_contract_on_it(name: str) -> None:
    class Kit(BaselineContract):
        """On the encoder of this file."""

        grid = (2, 3)

        def encoder(self) -> Encoder:
            return encoder()

    kit = Kit()
    kit.component, kit.options, kit.many = registry.load("baseline", name), {}, 32
    for test in ("gives_positive_depth_in_metres", "points_do_not_see_each_other", "trains_what_it_says"):
        getattr(kit, f"test_{test}")()


def test_both_forms_of_the_dpt_head_agree_at_patch_16() -> None:
    # 2×3 cells of 16 pixels: a dense map of 32×48
    on = encoder()
    dense, sparse = (
        build_baseline(ChosenPart(name, registry.load("baseline", name).Config()), on, seed=0).double()
        for name in ("dpt_trained", "dpt_sparse")
    )
    maps = example_features(*on.maps).maps_BHWC
    features = Features((maps[0][:, :2, :3], maps[1][:, :2, :3], maps[2][:, :2, :3], maps[3][:, :2, :3]))
    xy_BK2 = torch.rand(2, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert dense.prepare(features).shape == (2, 32, 48)
        expected, found = (model.decode(model.prepare(features), xy_BK2) for model in (dense, sparse))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        dense.encoder.__class__.patch = 14  # the wrong twin: cells of 14 pixels
        try:
            assert (sparse.decode(sparse.prepare(features), xy_BK2) - expected).abs().max() > 1e-6
        finally:
            dense.encoder.__class__.patch = 16


def test_the_full_model_fits_512_pixels() -> None:
    on = encoder()
    model = v13(on, r=32)
    check(model, name="v13", image_size=(512, 512))  # 32×32 cells: L4 has 256 sites
    # the neck's projections alone depend on the widths: 64·(384−96) + 128·(384−160) + 192·(384−256) parameters fewer
    counted = sum(parameter.numel() for _, parameter in model.trainable())
    assert counted == 4_142_315 - 64 * 288 - 128 * 224 - 192 * 128
    with pytest.raises(ConfigError, match=r"multiples of 16, at least 32, found data\.image_size 518×512") as caught:
        check(model, name="v13", image_size=(518, 512))
    assert caught.value.hint == "set data.image_size to 512×512"


def test_an_encoder_that_says_other_widths_than_it_gives_is_refused() -> None:
    on = encoder()
    model = v13(on)
    on.widths = (96, 160, 256, 383)
    with pytest.raises(PluginError, match=r"gave maps of .*expected \[\(2, 8, 8, 96\).*\(2, 8, 8, 383\)\]"):
        check(model, name="v13", image_size=(128, 128))


def test_gates_compute_their_shapes_from_its_patch() -> None:
    on = encoder()
    model = v13(on)
    image_B3HW: Tensor = F.interpolate(torch.rand(2, 3, 4, 5), size=(128, 160))
    evidence = Evidence(
        model=model,
        features=model.encode(image_B3HW),
        xy_BK2=torch.rand(2, 3, 2),
        image_size=(128, 160),
        primary=(AbsRel(), 64),
        scores={},
        baselines={},
    )
    found = examine(Checks(shapes=("pyramid", "precompute", "tokens", "evidence")), evidence)
    assert all(finding.passed for finding in found), found
    # 8 × 10 patches of 16: L1 has 32 × 40 cells
    assert next(f.expected for f in found if f.check.startswith("L1")) == "[2, 32, 40, 64]"


def test_a_suite_on_it_trains_and_is_scored(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames")
    base = V13.replace("patch_descriptors", "mini_vit16")
    suite = write_suite(tmp_path / "suite.yaml", frames, base=base, side=64, steps=1, baselines="[bilinear_mlp]")
    ran = CliRunner().invoke(app, ["run", str(suite), "--runs", str(tmp_path / "runs")])
    assert ran.exit_code == 0, ran.output
    table = {line.split()[0] for line in ran.stdout.splitlines() if line.strip()}
    assert {"v13", "bilinear_mlp"} <= table
    refused = CliRunner().invoke(app, ["plan", str(suite), "--set", "data.image_size=[64, 70]"])
    assert isinstance(refused.exception, ConfigError)
    assert refused.exception.message == "data.image_size[1]: should be a multiple of 16, found 70"
    assert refused.exception.hint == "encoder mini_vit16 sees patches of 16 pixels: 64, say"


def test_describe_says_what_it_is() -> None:
    shown = CliRunner().invoke(app, ["describe", "mini_vit16"]).output
    assert "patch: 16×16 pixels" in shown
    assert "channels of the four maps: 96, 160, 256, 384" in shown
    assert "tokens before the patches, in no map: 5" in shown
    assert "licence of the weights: Example licence: name the example in publications" in shown
    shown = CliRunner().invoke(app, ["describe", "dav2_base"]).output
    assert "channels of the four maps: 768, 768, 768, 768" in shown
    assert "licence of the weights: CC-BY-NC-4.0: no commercial use" in shown
