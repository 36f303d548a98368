"""What one point looked at: places, attention and shares that agree with what the blocks computed."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spd_bench
from spd_bench import RunModel, cli
from spd_bench.api import Looked
from spd_bench.ask.model import EncodedImage
from spd_bench.errors import ConfigError
from spd_bench.fused import forms
from spd_bench.geometry import grid_sample
from spd_bench.inside.trace import Inside, look_inside
from spd_bench.model.compose import ComposedModel

POINT = (70.0, 12.25)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """90×37 pixels."""
    return np.random.default_rng(0).integers(0, 256, (37, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def scene(model: RunModel, image: np.ndarray) -> EncodedImage:
    return model.encode(image)


@pytest.fixture(scope="module")
def inside(model: RunModel, scene: EncodedImage) -> Inside:
    return look_inside(model, scene, POINT)


def network(model: RunModel) -> ComposedModel:
    assert isinstance(model.network, ComposedModel)
    return model.network


def unit(model: RunModel, scene: EncodedImage) -> torch.Tensor:
    """The point in the unit square: ((70 + ½) / 90, (12.25 + ½) / 37)."""
    return torch.tensor([[[70.5 / 90, 12.75 / 37]]])


def test_depth_is_that_of_predict(model: RunModel, scene: EncodedImage, inside: Inside) -> None:
    assert inside.depth_m == model.depth(scene, [POINT])[0]


def test_attention_and_anchors_are_those_of_the_blocks(model: RunModel, scene: EncodedImage, inside: Inside) -> None:
    """L4 of a 56×56 input: 4×4 cells pooled to 2×2 sites, whose centres are at ¼ and ¾ of width and height."""
    with torch.inference_mode():
        state = network(model).trace(scene.prepared, unit(model, scene))
    assert state.attention_BKS is not None
    assert state.anchors is not None
    assert inside.attention is not None
    assert inside.attention.weights.shape == (2, 2)
    assert inside.attention.covers == (1.0, 1.0)
    np.testing.assert_allclose(inside.attention.weights.ravel(), state.attention_BKS[0, 0].numpy(), atol=1e-6)
    assert inside.attention.weights.sum() == pytest.approx(1, abs=1e-5)
    sites = state.anchors.site_BKR[0, 0].tolist()
    expected = [((s % 2 + 0.5) / 2 * 90 - 0.5, (s // 2 + 0.5) / 2 * 37 - 0.5) for s in sites]
    np.testing.assert_allclose(inside.anchors[:, :2], expected, atol=1e-4)
    np.testing.assert_allclose(inside.anchors[:, 2], inside.attention.weights.ravel()[sites], atol=1e-6)


def test_samples_are_where_the_read_looks(model: RunModel, scene: EncodedImage, inside: Inside) -> None:
    """3 anchors × 6 heads × 4 samples on each level; of an anchor and head the weights over all levels sum to 1."""
    names = [f"b4 samples of L{level}" for level in (2, 3, 4)]
    assert [len(inside.places[name]) for name in names] == [72, 72, 72]
    weight_ARNM = np.stack([inside.places[name][:, 2].reshape(3, 6, 4) for name in names])
    np.testing.assert_allclose(weight_ARNM.sum(axis=(0, 3)), 1, atol=1e-5)


def test_samples_read_what_the_block_reads(model: RunModel, scene: EncodedImage) -> None:
    """Σ weight · value at the places, head by head, is the evidence before W_O; shifted by a cell it is not."""
    block, prepared = network(model).block("b4"), scene.prepared.prepared["b4"]
    with torch.inference_mode(), forms.stock():
        _, before, after = next(
            step for step in network(model).states(scene.prepared, unit(model, scene)) if step[0] == "b4"
        )
        looked = block.looked(before, scene.prepared)
        found_RNE = torch.zeros(3, 6, 32)
        shifted_RNE = torch.zeros(3, 6, 32)
        for (xy_11N2, weight_11N), table in zip(looked.points.values(), prepared.values.levels, strict=True):
            rows = table.rows_NC.view(table.height + 2 * table.pad, -1, 192)
            map_1CHW = rows[table.pad : -table.pad, table.pad : -table.pad].permute(2, 0, 1)[None]
            lvl_1N2 = (xy_11N2[0] * torch.tensor(table.cells))[None]
            for shift, sum_RNE in ((0.0, found_RNE), (1.0, shifted_RNE)):
                read_NC = grid_sample(map_1CHW, lvl_1N2 + shift)[0, :, 0].T.reshape(3, 6, 4, 6, 32)
                own_RNME = torch.stack([read_NC[:, head, :, head] for head in range(6)], dim=1)
                sum_RNE.add_((weight_11N.view(3, 6, 4, 1) * own_RNME).sum(2))
        evidence_RD = block.out(found_RNE.flatten(1)) + block.evidence_embed
        wrong_RD = block.out(shifted_RNE.flatten(1)) + block.evidence_embed
    token_RD = after.tokens[-1].tokens_BKTD[0, 0]
    torch.testing.assert_close(evidence_RD, token_RD, rtol=1e-4, atol=1e-5)
    assert (wrong_RD - token_RD).abs().max() > 1e-3


def test_learned_offsets_are_within_their_reach(inside: Inside) -> None:
    """L1 of a 56×56 input has 16×16 cells: six of them are 6/16 of the image's width and height."""
    points = inside.places["b1 learned offsets"]
    assert len(points) == 8
    apart = np.abs(points[:, :2] - POINT)
    assert (apart[:, 0] <= 6 / 16 * 90 + 1e-4).all()
    assert (apart[:, 1] <= 6 / 16 * 37 + 1e-4).all()
    assert apart.max() > 0.1
    assert (points[:, 2] == 1).all()


def test_shares_of_tokens_are_those_of_the_softmax(model: RunModel, scene: EncodedImage, inside: Inside) -> None:
    """24 + 8 + 25 + 25 + 9 = 91 tokens in B2, and one of each anchor more in B5."""
    assert list(inside.shares) == ["b2", "b5"]
    (b2,), (b5,) = inside.shares["b2"], inside.shares["b5"]
    assert list(b2) == ["L1 around", "L1 learned", "L2", "L3", "L4"]
    assert list(b5) == [*b2, "evidence"]
    assert sum(b2.values()) == pytest.approx(1, abs=1e-5)
    assert sum(b5.values()) == pytest.approx(1, abs=1e-5)
    with torch.inference_mode(), forms.stock():
        _, before, _ = next(
            step for step in network(model).states(scene.prepared, unit(model, scene)) if step[0] == "b5"
        )
        layer = network(model).block("b5").get_submodule("layers.0")
        norm = network(model).block("b5").get_submodule("token_norm")
        tokens_TD = torch.cat([part.tokens_BKTD for part in before.tokens or ()], dim=2)[0, 0]
        query_NE = layer.query(layer.query_norm(before.h_BKD[0, 0])).view(6, 32)
        key_TNE = layer.key(norm(tokens_TD)).view(-1, 6, 32)
        alpha_NT = (torch.einsum("ne,tne->nt", query_NE, key_TNE) / 32**0.5).softmax(-1)
    assert b5["evidence"] == pytest.approx(float(alpha_NT.mean(0)[91:].sum()), abs=1e-5)
    assert b5["L1 learned"] == pytest.approx(float(alpha_NT.mean(0)[24:32].sum()), abs=1e-5)


def test_the_calibration_is_that_of_the_head(model: RunModel, scene: EncodedImage, inside: Inside) -> None:
    calibration = scene.prepared.prepared["depth_head"]
    assert inside.values["depth_head s"] == pytest.approx(float(calibration.scale_B1))
    assert inside.values["depth_head b"] == pytest.approx(float(calibration.shift_B1))


def test_a_block_that_says_nothing_is_one_group(
    model: RunModel, scene: EncodedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(network(model).block("b1")), "looked", lambda self, state, scene: Looked())
    found = look_inside(model, scene, POINT)
    assert list(found.shares["b5"][0]) == ["b1", "evidence"]
    assert "b1 learned offsets" not in found.places


def test_a_baseline_has_no_inside(trained: Path, image: np.ndarray) -> None:
    constant = spd_bench.load("tiny/constant", runs=trained, device="cpu")
    with pytest.raises(ConfigError, match="has no blocks"):
        look_inside(constant, constant.encode(image), POINT)


# the command


@pytest.fixture
def inspect(trained: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs `spd-bench inspect tiny/v13 --image image.png ARGUMENTS` in an empty folder; (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(image).save("image.png")

    def run(*args: str) -> tuple[int, str, str]:
        argv = ["spd-bench", "inspect", "tiny/v13", "--image", "image.png", *args, "--runs", str(trained)]
        monkeypatch.setattr(sys, "argv", [*argv, "--device", "cpu"])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


def test_the_command_says_it_and_draws_it(inspect: Any, inside: Inside) -> None:
    code, out, err = inspect("--at", "70,12.25", "--save", "a.png")
    assert code == 0, err
    assert f"depth at (70, 12.25): {inside.depth_m:.3f} m" in out
    assert "3 anchors" in out
    assert "written: a.png" in out
    assert Image.open("a.png").width == 1500


def test_pictures_are_the_same_twice(inspect: Any) -> None:
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        inspect("--at", "70,12.25", "--save", name)
    for form in ("svg", "png"):
        assert Path(f"a.{form}").read_bytes() == Path(f"b.{form}").read_bytes()
    assert Path("a.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_json_holds_everything(inspect: Any, inside: Inside) -> None:
    code, out, err = inspect("--at", "70,12.25", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["run"]["composition"] == "v13"
    assert {key: found[key] for key in inside.plain()} == json.loads(json.dumps(inside.plain()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--at", "90,1"), "outside the image"),
        (("--at", "x"), "expected U,V"),
        (("--at", "1,1", "--save", "a.gif"), ".svg"),
    ],
)
def test_bad_input_is_refused(inspect: Any, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = inspect(*arguments)
    assert (code, out) == (2, "")
    assert said in err
