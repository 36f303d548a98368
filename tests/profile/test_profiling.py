"""What a profile counts, what follows from its times, and that everything of it is written and read back."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import V13, Clock
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import CHAIN, Encoder, Features, PointDepthModel
from spd_bench.cost import timing
from spd_bench.cost.flops import REST, decode_work, prepare_work
from spd_bench.cost.timing import DecodeWork, Settings, Timing, Work
from spd_bench.errors import ConfigError
from spd_bench.model.compose import ChosenPart, build, build_baseline
from spd_bench.profile import measure
from spd_bench.profile.figures import profile_svg
from spd_bench.profile.measure import entries, metrics, profile_entry, profile_suite, write_profile
from spd_bench.profile.results import Crossover, ModelProfile, Profile, TrainingShape, crossover, crossovers, targets
from spd_bench.profile.tables import WIDTH, profile_markdown, profile_terminal
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Suite
from spd_bench.testing import PatchEncoder

CPU = torch.device("cpu")
NAMES = (
    *("pyramid", "local_tokens", "local_cross_attention", "global_cross_attention"),
    *("topk_attention", "deformable_read", "fused_cross_attention", "calibrated_inverse"),
)
SUITE = f"""\
suite: tiny
{V13}data: {{dataset: synthetic_rooms, image_size: [56, 70], augment: {{enabled: false}}}}
train: {{steps: 4, precision: fp32}}
eval: {{k: [1, 8]}}
axes: {{leave_one_out: [b4]}}
baselines: [constant]
report: {{primary: {{metric: absrel, k: 8}}}}
"""

# ---------------------------------------------------------------------------------------------------------- work


class Plain(PointDepthModel):
    """Prepares with a Linear 384 → 5 over every cell, decodes with a Linear 2 → 3 over every query."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = PatchEncoder()
        self.cells = nn.Linear(384, 5, bias=False)
        self.points = nn.Linear(2, 3, bias=False)

    def prepare(self, features: Features) -> Tensor:
        found: Tensor = self.cells(features.maps_BHWC[0])
        return found

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        found_BK3: Tensor = self.points(xy_BK2)
        return found_BK3.sum(-1)


def features(height: int, width: int, device: str = "cpu") -> Features:
    maps = [torch.ones(1, height, width, 384, device=device) for _ in range(4)]
    return Features((maps[0], maps[1], maps[2], maps[3]))


def test_work_of_linear_layers_by_hand() -> None:
    # 2×3 cells of 384 → 5: 6·384·5 multiply-adds; 6·384 inputs, 384·5 weights and 6·5 outputs of four bytes
    assert prepare_work(Plain(), features(2, 3)) == {"cells": Work(11520, 4 * (2304 + 1920 + 30))}
    # a query adds 2·3 multiply-adds, 2 numbers read and 3 written; the 2·3 weights are read once for all
    assert decode_work(Plain(), features(2, 3)) == {"points": DecodeWork(Work(6, 4 * 5), Work(0, 4 * 6))}


def test_bilinear_reads_are_counted_by_what_they_gather() -> None:
    class Read(Plain):
        def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
            grid = nn.functional.grid_sample(scene.permute(0, 3, 1, 2), xy_BK2[:, None], align_corners=False)
            return grid[:, 0, 0]

    # four cells of five channels for each query, one multiply-add each
    assert decode_work(Read(), features(2, 3))[REST].query.macs == 4 * 5


def on_meta(name: str | None) -> PointDepthModel:
    """The full composition, or a baseline, without values."""
    encoder: Encoder = PatchEncoder()
    if name is not None:
        return (
            build_baseline(ChosenPart(name, registry.load("baseline", name).Config()), encoder, seed=0)
            .to("meta")
            .eval()
        )
    parts = {slot: ChosenPart(n, registry.load(slot, n).Config()) for slot, n in zip(CHAIN, NAMES, strict=True)}
    return build(parts, encoder, seed=0).to("meta").eval()


def queries(model: PointDepthModel) -> dict[str, float]:
    work = decode_work(model, features(37, 37, "meta"))
    return {block: part.query.macs / 1e6 for block, part in work.items()}


def test_the_full_model_at_518_has_the_arithmetic_counted_by_hand() -> None:
    fast, literal = queries(on_meta(None)), queries(on_meta("spd_v13_literal"))
    # counted from the formulas, in M per query: B1, B2, B3, B4, B5 with the depth head
    by_hand = {"b1": (0.47, 1.86), "b2": (1.30, 14.23), "b4": (2.95, 5.43)}
    for block, (absorbed, transcribed) in by_hand.items():
        assert fast[block] == pytest.approx(absorbed, rel=0.1)
        assert literal[block] == pytest.approx(transcribed, rel=0.1)
    assert fast["b3"] == pytest.approx(0.99, rel=0.1)
    assert fast["b5"] + fast["depth_head"] == pytest.approx(2.25, rel=0.1)
    assert literal["b5"] + literal["depth_head"] == pytest.approx(28.53, rel=0.1)
    assert sum(fast.values()) == pytest.approx(7.96, rel=0.1)
    # 51.0 has B3's keys and values once per image (§5.1); per query they are 2 layers · 2 · 324 sites · 384 · 192 more
    per_query = 2 * 2 * 324 * 384 * 192 / 1e6
    assert any(sum(literal.values()) - extra == pytest.approx(51.0, rel=0.1) for extra in (0, per_query))
    assert sum(literal.values()) > 5 * sum(fast.values())


def test_the_dense_head_does_everything_once_per_image() -> None:
    dense = on_meta("dpt_trained")
    assert sum(work.macs for work in prepare_work(dense, features(37, 37, "meta")).values()) == pytest.approx(
        10.94e9, rel=0.1
    )
    assert sum(queries(dense).values()) < 1e-4


# ------------------------------------------------------------------------------------------------ what follows


def test_a_crossover_lies_where_the_logarithms_cross() -> None:
    # the share goes from ¼ at 16 to 4 at 256: half of the way in log K, so at √(16·256) = 64
    found = crossover([1, 16, 256], [0.1, 0.25, 4.0])
    assert found.side == ""
    assert found.k == pytest.approx(64)
    # from ½ to 8 it is a quarter of the way: 16·16^¼ = 32
    assert crossover([16, 256], [0.5, 8.0]).k == pytest.approx(32)
    assert crossover([1, 64], [0.2, 0.9]) == Crossover(">", 64)
    assert crossover([1, 64], [1.5, 9.0]) == Crossover("<", 1)
    assert crossover([1, 64], [1.5, 9.0]).text == "< 1"


def model(name: str, kind: Any, prepare: float, decode: Mapping[int, float], **changes: Any) -> ModelProfile:
    """Made-up: two rounds, the second twice as slow as the first for every model alike."""
    fields: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "parameters": 1000,
        "prepare": Timing((prepare, 2 * prepare)),
        "decode": {k: Timing((s, 2 * s)) for k, s in decode.items()},
        "prepare_peak": 10_000_000,
        "decode_peak": dict.fromkeys(decode, 30_000_000),
        "prepare_work": {"neck": Work(2e6, 4e6)},
        "decode_work": {"b1": DecodeWork(Work(1e6, 2e3), Work(0, 1e6))},
    }
    return ModelProfile(**fields | changes)


BASE = model("v13", "base", 0.08, {256: 0.22, 1024: 1.92, 4096: 8.0}, step=Timing((1.0, 2.0)))
LITERAL = model("spd_v13_literal", "baseline", 0.4, {256: 1.98, 1024: 9.0, 4096: 40.0}, step=Timing((3.0, 6.0)))
DENSE = model("dpt_trained", "baseline", 1.0, {256: 0.0, 1024: 0.0, 4096: 0.0})
PROFILE = Profile(
    suite="made_up",
    profile="(none)",
    encoder="dav2_small",
    image_size=(518, 518),
    stand_ins=(),
    ks=(256, 1024, 4096),
    rounds=2,
    settings=Settings(
        device="cpu",
        machine="abacus",
        cores=2,
        threads=1,
        interop_threads=1,
        precision="fp32",
        torch="2",
        environment={},
        load=0.0,
    ),
    encode=Timing((4.0, 8.0)),
    models=(BASE, LITERAL, DENSE),
    skipped={"dpt_sparse": "not registered as a baseline"},
    training=TrainingShape(8, 256),
    versions={"torch": "2"},
    finished="2000-01-01T00:00:00Z",
)


def test_targets_by_hand() -> None:
    found = {target.what: (target.measured.split(" ")[0], target.met) for target in targets(PROFILE)}
    assert found["T_decode(256) / T_dpt"] == ("0.22", "final")  # ≤ 0.25
    assert found["T_decode(1024) / T_dpt"] == ("1.92", "no")  # not ≤ 1.6
    assert found["T_prepare / T_dpt"] == ("0.08", "first")  # ≤ 0.09, not ≤ 0.07
    assert found["T_decode(1) / T_dpt"] == ("–", "not measured")
    assert found["literal / base, T_decode(256)"] == ("9", "final")  # 1.98 / 0.22 ≥ 8
    assert found["literal / base, training step (B=8, K=256)"] == ("3", "first")  # ≥ 2.5, not ≥ 5
    assert found["decode memory above base at K=4096"] == ("30.0", "first")  # ≤ 40 MB, not ≤ 25
    assert found["T_prepare + T_decode(K) below the sparse-tail DPT up to K"] == ("–", "not measured")
    # shares of T_dpt 0.3 at 256 and 2.0 at 1024: 256 · 4^(ln 0.3 / ln 0.15) = 256 · 4^0.6346 = 617
    assert found["T_prepare + T_decode(K) below the dense head up to K"] == ("617", "first")
    assert crossovers(PROFILE)["dpt_trained"].k == pytest.approx(256 * 4 ** (math.log(0.3) / math.log(0.15)))


def test_a_gpu_has_a_target_of_its_own() -> None:
    (target,) = targets(replace(PROFILE, settings=replace(PROFILE.settings, device="cuda:0")))
    assert (target.what, target.final, target.met) == ("T_decode(1024) / T_dpt", "≤ 0.25", "no")


def test_json_round_trip_keeps_every_time() -> None:
    stored = json.loads(json.dumps(PROFILE.to_json(), allow_nan=False))
    assert Profile.from_json(stored) == PROFILE
    assert stored["models"][0]["decode"]["1024"]["seconds"] == [1.92, 3.84]
    assert stored["derived"]["crossover_k"] == {"dpt_trained": "617"}
    assert Profile.from_json(stored | {"rounds": 3}) != PROFILE


def test_tables_say_everything_in_both_forms() -> None:
    terminal, markdown = profile_terminal(PROFILE), profile_markdown(PROFILE)
    assert max(map(len, terminal.splitlines())) <= WIDTH
    for text in (" ".join(terminal.split()), " ".join(markdown.split())):
        for said in (
            "abacus",
            "NOT MEASURED dpt_sparse: not registered as a baseline",
            "WARNING: not pinned",
            "T_encode, the same for all models: 6000 (5000–7000) ms",
            "Crossover",
            "Training step (features given, B=8, K=256",
            "Targets",
            "not measured",
        ):
            assert said in text
    (row,) = [line for line in markdown.splitlines() if line.startswith("| T_decode(1024)")]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("T_decode(1024) / T_dpt", "≤ 1.6", "≤ 0.9", "1.92 (1.92–1.92)", "no")
    ]
    # 256 queries end to end: (4 + 0.08 + 0.22) / (4 + 1) = 0.86
    assert "0.86 (0.86–0.86)" in terminal


def test_without_the_references_there_are_no_ratios() -> None:
    alone = profile_terminal(replace(PROFILE, models=(replace(BASE, step=None),), training=None))
    assert "Shares of T_dpt" not in alone
    assert "Crossover" not in alone
    assert "Times in ms" in alone


def test_another_size_or_encoder_decides_no_target() -> None:
    said = "so it decides no target"
    assert said not in profile_terminal(PROFILE)
    assert said in profile_terminal(replace(PROFILE, image_size=(252, 336)))
    assert said in profile_terminal(replace(PROFILE, encoder="patch_descriptors"))
    stood_in = profile_terminal(replace(PROFILE, stand_ins=("random weights instead of DAv2-S",)))
    assert said not in stood_in  # what is timed does not depend on the weights
    assert stood_in.startswith("STAND-INS: random weights instead of DAv2-S")


def test_the_figure_marks_the_crossover_and_is_the_same_twice() -> None:
    text = profile_svg(PROFILE)
    assert text.startswith("<svg")
    assert "mathdefault" not in text
    assert text == profile_svg(PROFILE)
    faster = replace(PROFILE, models=(replace(BASE, decode=DENSE.decode), LITERAL, DENSE))
    assert "K=617" in text  # drawn as paths; the text itself stands in a comment
    assert "K=" not in profile_svg(faster)


# --------------------------------------------------------------------------------------------------- the whole


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return load_suite(path)


def quick(suite: Suite, **changes: Any) -> Profile:
    options: dict[str, Any] = {"ks": (8, 1), "rounds": 2, "device": CPU, "reference": ("spd_v13_literal", "nobody")}
    return profile_suite(suite, **options | changes)


def test_a_suite_is_profiled_written_and_read_back(suite: Suite, tmp_path: Path) -> None:
    found = quick(suite, only=("no-b4",), training=TrainingShape(2, 4))
    assert [m.name for m in found.models] == ["v13", "no-b4", "spd_v13_literal"]
    assert found.skipped == {"nobody": "not registered as a baseline"}
    assert found.ks == (1, 8)
    assert found.stand_ins == ("patch descriptors instead of DAv2-S",)
    for profiled in found.models:
        assert [len(profiled.decode[k].seconds) for k in (1, 8)] == [2, 2]
        assert min(profiled.prepare.seconds + profiled.decode[8].seconds) > 0
        assert profiled.decode_peak[8] > 0
        assert profiled.query_macs > 1e6
    assert found.base.query_macs < found.models[2].query_macs
    assert found.models[1].query_macs < found.base.query_macs
    assert [m.step is not None for m in found.models] == [True, False, True]
    paths = write_profile(found, tmp_path)
    assert [path.name for path in paths] == ["tiny.profile.json", "tiny.profile.md", "tiny.profile.svg"]
    assert Profile.from_json(json.loads(paths[0].read_text(encoding="utf-8"))) == found
    assert "spd_v13_literal" in paths[1].read_text(encoding="utf-8")


def test_a_slow_model_is_found_slow(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    known = registry.load("baseline", "constant")
    original = known.decode

    def slow(self: Any, scene: Any, xy_BK2: Tensor) -> Tensor:
        clock.sleep(xy_BK2.shape[1])
        found: Tensor = original(self, scene, xy_BK2)
        return found

    monkeypatch.setattr(known, "decode", slow)
    found = quick(suite, ks=(5, 50), reference=("constant",)).model("constant")
    assert found is not None
    seconds = {k: found.decode[k].spread.median for k in (5, 50)}
    assert seconds == {5: 5.0, 50: 50.0}


def test_the_literal_transcription_gets_the_options_of_the_base(suite: Suite) -> None:
    from spd_bench.suite.axes import compositions

    base = compositions(suite)[0]
    literal = measure._reference("spd_v13_literal", base, PatchEncoder())
    assert literal.config.r == 2  # type: ignore[union-attr]  # 32 on its own


def test_a_reference_that_is_not_defined_on_the_encoder_is_named(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, scene: Any, xy_BK2: Tensor) -> None:
        raise RuntimeError("shapes cannot be multiplied\nmore")

    monkeypatch.setattr(registry.load("baseline", "bilinear_mlp"), "decode", refuse)
    found = quick(suite, reference=("bilinear_mlp",))
    assert found.skipped == {"bilinear_mlp": "not defined here: shapes cannot be multiplied"}


def test_an_encoder_without_its_weights_gets_random_ones_and_says_so(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DAV2_WEIGHTS", "")
    monkeypatch.delenv("DAV2_WEIGHTS")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    base = suite.base.model_copy(update={"encoder": suite.base.encoder.model_copy(update={"use": "dav2_small"})})
    encoder, stand_ins = measure._encoder(suite.model_copy(update={"base": base}))
    assert stand_ins == ("random weights instead of DAv2-S",)
    assert encoder.channels == 384


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": ()}, r"--k: K should be whole numbers from 1 on, found \[\]"),
        ({"ks": (0, 64)}, r"found \[0, 64\]"),
        ({"rounds": 0}, "--rounds: at least one round"),
        ({"threads": 0}, "--threads: at least one thread"),
        ({"only": ("no-b9",)}, 'no composition "no-b9"'),
    ],
)
def test_what_cannot_be_is_refused(suite: Suite, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(suite, **options)


def test_threads_are_as_asked_and_then_as_before(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    assert quick(suite, threads=2, ks=(1,), rounds=1, reference=()).settings.threads == 2
    assert torch.get_num_threads() == before


def test_metrics_are_medians() -> None:
    found = metrics(PROFILE)
    assert found["T_encode_ms"] == pytest.approx(6000)  # of 4 s and 8 s
    assert found["v13/T_decode_ms/K256"] == pytest.approx(330)
    assert found["crossover_K/dpt_trained"] == pytest.approx(617, abs=1)
    assert all(math.isfinite(value) for value in found.values())


def test_sync_finds_the_profile_that_was_written(tmp_path: Path) -> None:
    paths = write_profile(PROFILE, tmp_path)
    (found,) = entries(tmp_path)
    assert found.content == profile_entry(PROFILE, paths).content
    assert found.name == f"profile {PROFILE.suite}"
    assert [path.name for path in found.files] == [path.name for path in paths]
