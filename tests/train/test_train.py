"""Training: batches are functions of (seed, step), an interrupted training ends as an undisturbed one (§7.2, §7.3)."""

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId, PointDepthModel
from spd_bench.data.batches import Batch, BatchPlan
from spd_bench.data.queries import Uniform
from spd_bench.data.views import FrozenFeatures, View, Views
from spd_bench.errors import DataError, StateError
from spd_bench.model.compose import ChosenPart, build, build_encoder
from spd_bench.suite.schema import Augment
from spd_bench.train import loop
from spd_bench.train import training as trainings
from spd_bench.train.callback import Callback
from spd_bench.train.checkpoint import load_weights, save
from spd_bench.train.log import TrainingLog
from spd_bench.train.losses import HuberSilog, LossParts
from spd_bench.train.training import Optimisation, Training, TrainingDiverged, parameter_groups

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
CPU = torch.device("cpu")
LOSS = HuberSilog(HuberSilog.Config())


class Blobs(DepthDataset):
    """Frames of 40×48 whose depth follows their brightness: there is something to learn. Held in memory."""

    def __init__(self, count: int = 5) -> None:
        self.count = count
        self.reads: list[str] = []

    def frames(self, split: str) -> list[FrameId]:
        return [FrameId(f"{split}-{i}", f"scene-{i}") for i in range(self.count)]

    def read(self, frame: FrameId) -> Frame:
        self.reads.append(frame.frame)
        rng = np.random.default_rng(int(frame.frame.rpartition("-")[2]))
        v, u = np.mgrid[:40, :48]
        across, down = rng.uniform(-0.02, 0.02, 2)
        depth_m_HW = (rng.uniform(1.5, 6) + across * (u - 24) + down * (v - 20)).astype(np.float32)
        bright_HW = np.clip(255 - 25 * depth_m_HW + rng.normal(0, 3, depth_m_HW.shape), 0, 255)
        depth_m_HW[rng.random(depth_m_HW.shape) < 0.1] = 0  # holes
        return Frame(np.repeat(bright_HW[..., None], 3, axis=2).astype(np.uint8), depth_m_HW)

    def digest(self) -> str:
        return "blobs"

    def describe(self) -> str:
        return "blobs"


PLAIN = Augment(enabled=False)


def batch_plan(
    *, data: DepthDataset | None = None, augmentation: Augment | None = None, limit_bytes: int = 2**30, **changes: Any
) -> BatchPlan:
    data = data or Blobs()
    augmentation = augmentation or Augment()
    plan = BatchPlan(
        views=Views(data, image_size=(56, 70), augmentation=augmentation, limit_bytes=limit_bytes),
        frames=data.frames("train"),
        sampler=Uniform(Uniform.Config()),
        batch_size=2,
        queries=16,
        seed=0,
        steps=6,
    )
    return replace(plan, **changes)


def equal(one: Batch, other: Batch) -> bool:
    tensors = ("images_B3HW", "xy_BK2", "depth_m_BK")
    return one.views == other.views and all(torch.equal(getattr(one, n), getattr(other, n)) for n in tensors)


# batches


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    plan = batch_plan()
    batches = [plan[step] for step in range(6)]
    again = batch_plan()
    for step in (5, 0, 3):  # another object, another order
        assert equal(again[step], batches[step])
    assert not any(equal(batches[0], batch) for batch in batches[1:])
    assert not equal(batch_plan(seed=1)[0], batches[0])


def test_workers_change_nothing() -> None:
    plan = batch_plan()
    alone, shared = ([*plan.loader(first=0, workers=workers)] for workers in (0, 2))
    assert len(alone) == len(shared) == 6
    assert all(equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_a_loader_goes_on_where_it_is_told() -> None:
    plan = batch_plan()
    late = [*plan.loader(first=4, workers=0)]
    assert len(late) == 2
    assert all(equal(batch, plan[step]) for batch, step in zip(late, (4, 5), strict=True))
    assert [*plan.loader(first=6, workers=0)] == []


def test_batches_do_not_hang_on_the_global_generators() -> None:
    plan = batch_plan()
    torch.manual_seed(0)
    np.random.seed(0)
    first = plan[1]
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state()
    assert equal(plan[1], first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_epoch_takes_each_frame_at_most_once_and_leaves_out_the_rest() -> None:
    plan = batch_plan(steps=20)  # 5 frames, 2 at a time: 2 steps per epoch, one frame left out
    assert plan.steps_per_epoch == 2
    left_out = set()
    for epoch in range(10):
        seen = [view[0] for step in (2 * epoch, 2 * epoch + 1) for view in plan[step].views]
        assert len(set(seen)) == 4
        left_out |= {f.frame for f in plan.frames} - set(seen)
    assert len(left_out) > 1  # not always the same


def test_truth_is_the_depth_at_the_queried_pixels() -> None:
    data = Blobs()
    batch = batch_plan(data=data, augmentation=PLAIN)[0]
    assert all(view == Views.plain(FrameId(view.frame, "")) for view in batch.views)
    for i, view in enumerate(batch.views):
        depth_m_HW = data.read(FrameId(view[0], "")).depth_m_HW
        u, v = (batch.xy_BK2[i] * torch.tensor([48, 40])).floor().long().unbind(-1)
        assert torch.equal(batch.depth_m_BK[i], torch.from_numpy(depth_m_HW)[v, u])
        assert (batch.depth_m_BK[i] > 0).all()
    assert torch.allclose(batch.xy_BK2 * torch.tensor([48, 40]) % 1, torch.tensor(0.5), atol=1e-5)  # pixel centres


def test_augmented_views_come_again_after_their_number_and_queries_never() -> None:
    # one frame, one step per epoch: views 0, 1, 0, 1, … of seed 0
    endless, twice = (
        batch_plan(data=Blobs(1), batch_size=1, augmentation=Augment(views=views), queries=64) for views in (0, 2)
    )
    assert [twice[step].views[0] for step in range(4)] == [View("train-0", 0, v, again=True) for v in (0, 1, 0, 1)]
    assert [endless[step].views[0] for step in range(4)] == [View("train-0", 0, v, again=False) for v in range(4)]
    assert torch.equal(twice[0].images_B3HW, twice[2].images_B3HW)
    assert not torch.equal(twice[0].images_B3HW, twice[1].images_B3HW)
    assert not torch.equal(twice[0].xy_BK2, twice[2].xy_BK2)


def test_a_frame_with_too_little_depth_is_named() -> None:
    with pytest.raises(DataError, match=r"frame train-[0-4]: expected at least 2000 pixels"):
        batch_plan(queries=2000)[0]


# frozen features


class Marker(Encoder):
    """Four maps of one cell that hold the image's first value; counts the images it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded = 0

    def forward(self, image_B3HW: Tensor) -> Features:
        self.encoded += len(image_B3HW)
        first, second, third, fourth = (image_B3HW[:, :1, :1, :1].expand(-1, 1, 1, 384) + i for i in range(4))
        return Features((first, second, third, fourth))

    def digest(self) -> str:
        return "marker"


ONE_VIEW = 4 * 384 * 4
"""Bytes of the four float32 maps of one view."""


def views(*numbers: int) -> list[View]:
    return [View(f"frame-{n}", -1, -1, again=True) for n in numbers]


def marked(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 14, 14)


def read(features: FrozenFeatures, *numbers: int) -> list[float]:
    """Asks for these views and returns what each got; every map must agree."""
    maps = features.of(views(*numbers), marked(*numbers)).maps_BHWC
    assert all(torch.equal(m, maps[0] + i) for i, m in enumerate(maps))
    return maps[0][:, 0, 0, 0].tolist()


def test_a_view_is_encoded_once() -> None:
    features = FrozenFeatures(encoder := Marker())
    assert read(features, 1, 2) == [1, 2]
    assert read(features, 2, 3, 1) == [2, 3, 1]  # in the order asked for, whichever were held
    assert read(features, 3, 3) == [3, 3]
    assert encoder.encoded == 3


def test_views_of_one_frame_are_told_apart() -> None:
    features = FrozenFeatures(encoder := Marker())
    for seed, number in ((-1, -1), (0, 0), (0, 1), (1, 0)):
        features.of([View("a", seed, number, again=True)], marked(1))
    assert encoder.encoded == 4


def test_held_bytes_stay_below_the_limit() -> None:
    features = FrozenFeatures(encoder := Marker(), limit_bytes=2 * ONE_VIEW)
    for n in range(10):
        read(features, n)
        assert features._held.currsize == len(features._held) * ONE_VIEW <= 2 * ONE_VIEW
    assert read(features, 8, 9) == [8, 9]
    assert encoder.encoded == 10  # the last two were held
    assert read(features, 0) == [0]
    assert encoder.encoded == 11  # the first was dropped


def test_the_least_recently_used_is_dropped() -> None:
    features = FrozenFeatures(encoder := Marker(), limit_bytes=2 * ONE_VIEW)
    read(features, 1, 2)
    read(features, 1)  # 2 is now the one that was used longest ago
    read(features, 3)
    read(features, 1)
    assert encoder.encoded == 3
    read(features, 2)
    assert encoder.encoded == 4


def test_a_view_that_never_comes_again_is_not_held() -> None:
    features = FrozenFeatures(encoder := Marker())
    for _ in range(2):
        features.of([View("a", 0, 0, again=False)], marked(1))
    assert encoder.encoded == 2
    assert not features._held


def test_held_views_change_no_batch() -> None:
    held, fresh = (batch_plan(augmentation=Augment(views=2), steps=12, limit_bytes=n) for n in (2**30, 0))
    assert all(equal(held[step], fresh[step]) for step in (*range(12), 0, 1))
    assert len(held.views._held) == 10  # 5 frames, 2 views
    assert not fresh.views._held


def test_a_batch_larger_than_the_limit_is_still_right() -> None:
    features = FrozenFeatures(Marker(), limit_bytes=ONE_VIEW)
    assert read(features, 1, 2, 3) == [1, 2, 3]
    assert read(features, 3, 1, 2) == [3, 1, 2]
    assert read(none := FrozenFeatures(Marker(), limit_bytes=0), 1) == [1]
    assert not none._held


def test_held_features_carry_no_gradient_and_share_no_memory() -> None:
    class Learned(Marker):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, image_B3HW: Tensor) -> Features:
            maps = super().forward(image_B3HW).maps_BHWC
            return Features((maps[0] * self.weight, maps[1], maps[2], maps[3]))

    features = FrozenFeatures(Learned())
    maps = features.of(views(1, 2), marked(1, 2)).maps_BHWC
    assert not any(m.requires_grad for m in maps)
    maps[0].zero_()
    assert read(features, 1, 2) == [1, 2]


# the recipe


def how(**changes: Any) -> Optimisation:
    recipe = Optimisation(
        steps=6,
        lr=1e-3,
        min_lr=1e-5,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        clip=1.0,
        lambda_si=0.5,
        precision="fp32",
        validate_at=(2, 4, 6),
    )
    return replace(recipe, **changes)


def test_learning_rate_by_hand() -> None:
    # five steps, from 1 to 0.2: 0.2 + 0.8·½(1 + cos(π·s/4)), s = 0 … 4; cos π/4 = 1/√2
    recipe = how(steps=5, lr=1.0, min_lr=0.2)
    root = 1 / math.sqrt(2)
    expected = [1.0, 0.2 + 0.4 * (1 + root), 0.6, 0.2 + 0.4 * (1 - root), 0.2]
    assert [recipe.lr_at(step) for step in range(5)] == pytest.approx(expected, rel=0, abs=1e-12)
    assert how(steps=1).lr_at(0) == 1e-3
    long = how(steps=20_000, lr=1e-4, min_lr=1e-6)
    assert (long.lr_at(0), long.lr_at(19_999)) == (1e-4, 1e-6)


def test_the_optimiser_gets_the_rate_of_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (seen.append([g["lr"] for g in self.param_groups]), step(self))[1]
    )
    run(tmp_path, Probe())
    assert seen == [[how().lr_at(s)] * 2 for s in range(6)]
    assert seen[0] != seen[1]


def test_only_matrices_decay() -> None:
    names = {"neck": "pyramid", "b1": "local_tokens", "b2": "skip", "b3": "skip", "routing": "nearest"}
    names |= {"b4": "deformable_read", "b5": "mean_tokens", "depth_head": "calibrated_inverse"}
    model = build({s: ChosenPart(n, registry.load(s, n).Config()) for s, n in names.items()}, Marker(), seed=0)
    matrices, others = parameter_groups(model, 0.01)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    of = {id(p): name for name, p in model.trainable()}
    decaying, spared = ({of[id(p)] for p in group["params"]} for group in (matrices, others))
    assert decaying | spared == set(of.values())
    assert not decaying & spared
    assert {"b1.level_embed", "b1.rpe", "b4.evidence_embed", "neck.l1.norm.weight", "b4.offset.bias"} <= spared
    assert {"b1.seed.weight", "neck.l4.proj.weight", "depth_head.scale.weight"} <= decaying
    assert all(name.endswith(".weight") and "norm" not in name for name in decaying)


# training


class Probe(PointDepthModel):
    """The smallest model with everything that training has to handle: a matrix, a norm, dropout, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder(
            ChosenPart("patch_descriptors", registry.load("encoder", "patch_descriptors").Config())
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.norm = nn.LayerNorm(386)
            self.read = nn.Linear(386, 8)
            self.out = nn.Linear(8, 1)
        self.drop = nn.Dropout(0.3)
        self.register_buffer("calls", torch.zeros(()))
        self.xy_seen: list[Tensor] = []

    def prepare(self, features: Features) -> Tensor:
        return features.maps_BHWC[3].mean((1, 2))

    def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
        self.calls += 1
        self.xy_seen.append(xy_BK2)
        both = torch.cat([scene[:, None].expand(-1, xy_BK2.shape[1], -1), xy_BK2], dim=-1)
        code = self.out(self.drop(torch.tanh(self.read(self.norm(both)))))[..., 0]
        return 1 / (nn.functional.softplus(code) + 1e-3)


def weights(model: PointDepthModel) -> dict[str, Tensor]:
    return {n: v.clone() for n, v in model.state_dict().items() if not n.startswith("encoder.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def val(model: PointDepthModel) -> dict[str, float]:
    """Leaves the model in evaluation mode and the generator elsewhere, as a validation may."""
    model.eval()
    torch.manual_seed(99)
    return {"val/absrel": 0.25}


class Steps(Callback):
    """Calls a function after each step."""

    def __init__(self, on_step: Callable[[int, float], None]) -> None:
        self.after = on_step

    def on_step(self, step: int, loss: float) -> None:
        self.after(step, loss)


class Asked(Steps):
    """As in a process that has been asked to stop."""

    def stopping(self) -> bool:
        return True


def run(
    folder: Path,
    model: PointDepthModel,
    *,
    recipe: Optimisation | None = None,
    plan: BatchPlan | None = None,
    loss: Callable[[Tensor, Tensor], LossParts] = LOSS,
    on_step: Callable[[int, float], None] = lambda step, value: None,
    workers: int = 0,
) -> TrainingLog:
    recipe = recipe or how()
    plan = plan or batch_plan(steps=recipe.steps)
    training = begun(folder, model, recipe, loss, seed=plan.seed)
    loop.train([training], plan, FrozenFeatures(model.encoder), callback=Steps(on_step), workers=workers)
    return training.log


def begun(
    folder: Path,
    model: PointDepthModel,
    recipe: Optimisation,
    loss: Callable[[Tensor, Tensor], LossParts] = LOSS,
    *,
    seed: int,
) -> Training:
    checkpoint = folder / "checkpoint.pt"
    return Training(model, loss, recipe, seed=seed, checkpoint=checkpoint, validate=val, device=CPU)


def v13(**changes: Any) -> PointDepthModel:
    """A composition with attention dropout; small, as B2 has one layer and nothing stands after it."""
    names: dict[str, Any] = {"neck": "pyramid", "b1": "local_tokens", "b2": ("local_cross_attention", {"layers": 1})}
    names |= {"b3": "skip", "routing": "none", "b4": "skip", "b5": "mean_tokens", "depth_head": "calibrated_inverse"}
    parts = {}
    for slot, choice in (names | changes).items():
        name, options = (choice, {}) if isinstance(choice, str) else choice
        parts[slot] = ChosenPart(name, registry.load(slot, name).Config(**options))
    return build(parts, Probe().encoder, seed=0)


class Stop(Exception):
    """What a test raises in place of a killed process."""


def interrupt(at: int) -> Callable[[int, float], None]:
    def on_step(step: int, value: float) -> None:
        if step == at:
            raise Stop

    return on_step


@pytest.mark.parametrize("make", [Probe, v13])
@pytest.mark.parametrize("at", [3, 5])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, make: Any, at: int) -> None:
    """Checkpoints lie after steps 2 and 4; the training dies in step 3 or 5, and another process goes on."""
    undisturbed = make()
    log = run(tmp_path / "undisturbed", undisturbed)

    killed = make()
    with pytest.raises(Stop):
        run(tmp_path / "killed", killed, on_step=interrupt(at))
    torch.manual_seed(4711)  # a new process has another generator state
    resumed, steps = make(), []
    resumed_log = run(tmp_path / "killed", resumed, on_step=lambda step, value: steps.append(step))

    assert steps == [*range(at, 7)]  # goes on after the checkpoint, not from the start
    assert same(weights(resumed), weights(undisturbed))
    assert resumed_log.rows == log.rows
    assert (resumed_log.sums, resumed_log.summed) == (log.sums, log.summed) == ({}, 0)
    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("undisturbed", "killed")]
    moments = [s["optimiser"]["state"] for s in states]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.equal(moments[0][i][key], moments[1][i][key]) for i in moments[0] for key in moments[0][i])


def test_a_training_without_its_random_state_would_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the comparison above sees dropout that is not reseeded at each step."""
    run(tmp_path / "a", one := Probe())
    monkeypatch.setattr(trainings, "torch_seed", lambda *key: 1234)
    run(tmp_path / "b", other := Probe())
    assert not same(weights(one), weights(other))


LONG = 40
STOPPED = tuple(sorted(random.Random(0).sample(range(1, LONG), 30 if EVERYTHING else 3)))
"""After which of so many steps a training is stopped."""


@pytest.fixture(params=[1, 2] if EVERYTHING else [1])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def stopped_after(folder: Path, make: Callable[[], PointDepthModel], step: int, *, workers: int) -> list[Any]:
    """Everything that a training ends with which was stopped, as by a signal, and gone on with by another process."""
    recipe = how(steps=LONG, validate_at=(13, 26, LONG))
    plan = batch_plan(steps=LONG)
    for last in (step, None):
        torch.manual_seed(random.SystemRandom().randrange(2**31))
        training = begun(folder, make(), recipe, seed=0)
        on_step = (lambda step, value: None) if last is None else interrupt(last)
        frozen = FrozenFeatures(training.model.encoder)
        with suppress(Stop):
            loop.train([training], plan, frozen, callback=Asked(on_step), workers=workers)
    moments = training.optimiser.state_dict()["state"]
    log = replace(training.log, seconds=0.0)
    return [weights(training.model), {f"{i} {key}": v for i, m in moments.items() for key, v in m.items()}, log]


def alike(one: list[Any], other: list[Any]) -> bool:
    return same(one[0], other[0]) and same(one[1], other[1]) and one[2] == other[2]


@pytest.mark.usefixtures("threads")
@pytest.mark.timeout(3000 if EVERYTHING else 300)
@pytest.mark.parametrize("workers", [0, 2] if EVERYTHING else [0])
@pytest.mark.parametrize("make", [Probe, v13] if EVERYTHING else [Probe])
def test_a_training_that_is_stopped_after_any_step_ends_as_an_undisturbed_one(
    tmp_path: Path, make: Any, workers: int
) -> None:
    expected = stopped_after(tmp_path / "0", make, 0, workers=0)
    assert [step for step, _ in expected[2].rows] == [13, 26, LONG]
    differing = [k for k in STOPPED if not alike(stopped_after(tmp_path / f"{k}", make, k, workers=workers), expected)]
    assert differing == []


def test_a_training_whose_generator_is_not_restored_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: dropout draws from a generator that is seeded when a process begins, and then goes on."""
    drawn: list[int] = []
    begin = Training.__init__

    def begin_anew(training: Training, *args: Any, **more: Any) -> None:
        drawn.clear()
        begin(training, *args, **more)

    def seed(*key: Any) -> int:
        drawn.append(int(torch.randint(2**31, ())) if drawn else 1234)
        return drawn[-1]

    monkeypatch.setattr(Training, "__init__", begin_anew)
    monkeypatch.setattr(trainings, "torch_seed", seed)
    expected = stopped_after(tmp_path / "0", Probe, 0, workers=0)
    assert alike(stopped_after(tmp_path / "1", Probe, 0, workers=0), expected)
    assert not alike(stopped_after(tmp_path / "2", Probe, STOPPED[0], workers=0), expected)


def test_a_checkpoint_by_the_clock_keeps_the_sums_of_an_open_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = run(tmp_path / "undisturbed", undisturbed := Probe(), recipe=how(validate_at=(6,)))
    monkeypatch.setattr(trainings, "CHECKPOINT_EVERY_S", -1.0)
    with pytest.raises(Stop):
        run(tmp_path / "killed", Probe(), recipe=how(validate_at=(6,)), on_step=interrupt(4))
    state = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["log"]["summed"], state["log"]["rows"]) == (4, 4, [])
    resumed_log = run(tmp_path / "killed", resumed := Probe(), recipe=how(validate_at=(6,)))
    assert same(weights(resumed), weights(undisturbed))
    assert resumed_log.rows == log.rows


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    """It died after its last weights were written, which come without the optimiser, and before its log was."""
    log = run(tmp_path, model := Probe())
    save(tmp_path / "checkpoint.pt", model, None, 6, log)
    steps: list[int] = []
    again_log = run(tmp_path, again := Probe(), on_step=lambda step, value: steps.append(step))
    assert steps == []
    assert same(weights(again), weights(model))
    assert again_log == log


def test_training_does_not_depend_on_workers_or_the_generator_outside(tmp_path: Path) -> None:
    torch.manual_seed(1)
    log = run(tmp_path / "a", one := Probe())
    torch.manual_seed(2)
    other_log = run(tmp_path / "b", other := Probe(), workers=2)
    assert same(weights(one), weights(other))
    assert log.rows == other_log.rows


def test_two_models_see_the_same_batches(tmp_path: Path) -> None:
    """R-26's pairing in training: truth and images alike, whatever the model draws for itself."""

    def recorded(model: PointDepthModel, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
        truth_m: list[Tensor] = []
        images: list[Tensor] = []
        encode = model.encoder.forward
        model.encoder.forward = lambda image: (images.append(image), encode(image))[1]  # type: ignore[method-assign]
        run(folder, model, loss=lambda p, t: (truth_m.append(t), LOSS(p, t))[1])
        return truth_m, images

    for one, other in zip(recorded(Probe(), tmp_path / "a"), recorded(v13(), tmp_path / "b"), strict=True):
        assert len(one) == len(other) == 6
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Counted(FrozenFeatures):
    """Counts the images that are encoded."""

    def __init__(self, model: PointDepthModel) -> None:
        super().__init__(model.encoder, limit_bytes=0)
        self.asked = 0

    def of(self, views: Sequence[View], images_B3HW: Tensor) -> Features:
        self.asked += len(views)
        return super().of(views, images_B3HW)


def test_models_side_by_side_end_as_each_would_alone_and_share_the_encoder(tmp_path: Path) -> None:
    alone = {}
    for name, make in (("probe", Probe), ("v13", v13)):
        log = run(tmp_path / f"{name} alone", model := make())
        alone[name] = weights(model), log.rows
    models = {"probe": Probe(), "v13": v13()}
    plan = batch_plan(steps=how().steps)
    together = {name: begun(tmp_path / name, model, how(), seed=plan.seed) for name, model in models.items()}
    features = Counted(models["probe"])
    loop.train(list(together.values()), plan, features)
    assert features.asked == plan.steps * plan.batch_size  # once for both
    for name, training in together.items():
        assert same(weights(training.model), alone[name][0])
        assert training.log.rows == alone[name][1]


def test_a_model_that_is_ahead_waits_for_the_others(tmp_path: Path) -> None:
    run(tmp_path / "alone", expected := Probe())
    with pytest.raises(Stop):
        run(tmp_path / "ahead", Probe(), recipe=how(validate_at=(2, 6)), on_step=interrupt(4))
    run(tmp_path / "whole", whole := Probe(), recipe=how(validate_at=(2, 6)))
    plan = batch_plan(steps=6)
    ahead = begun(tmp_path / "ahead", Probe(), how(validate_at=(2, 6)), seed=plan.seed)
    behind = begun(tmp_path / "behind", Probe(), how(), seed=plan.seed)
    assert (ahead.step, behind.step) == (2, 0)
    loop.train([ahead, behind], plan, FrozenFeatures(behind.model.encoder))
    assert same(weights(ahead.model), weights(whole))
    assert same(weights(behind.model), weights(expected))


def test_a_model_that_fails_drops_out_and_the_others_go_on(tmp_path: Path) -> None:
    class Broken(Probe):
        def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
            if self.calls >= 2:
                raise RuntimeError("a bug of its own")
            return super().decode(scene, xy_BK2)

    run(tmp_path / "alone", expected := Probe())
    plan = batch_plan(steps=6)
    good = begun(tmp_path / "good", Probe(), how(), seed=plan.seed)
    bad = begun(tmp_path / "bad", Broken(), how(), seed=plan.seed)
    told: list[tuple[Training, str]] = []

    class LeftOut(Callback):
        def on_failure(self, training: Training, error: BaseException) -> bool:
            told.append((training, str(error)))
            return True

    loop.train([bad, good], plan, FrozenFeatures(good.model.encoder), callback=LeftOut())
    assert told == [(bad, "a bug of its own")]
    assert bad.step == 2
    assert same(weights(good.model), weights(expected))


def test_without_anybody_to_tell_a_failure_is_raised(tmp_path: Path) -> None:
    class Broken(Probe):
        def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
            raise RuntimeError("a bug of its own")

    with pytest.raises(RuntimeError, match="a bug of its own"):
        run(tmp_path, Broken())


def test_rows_are_means_since_the_row_before(tmp_path: Path) -> None:
    values: list[float] = []
    log = run(tmp_path, Probe(), on_step=lambda step, value: values.append(value))
    assert [step for step, _ in log.rows] == [2, 4, 6]
    for i, (step, row) in enumerate(log.rows):
        assert row["train/loss"] == pytest.approx((values[2 * i] + values[2 * i + 1]) / 2, abs=1e-12)
        assert row["train/loss"] == pytest.approx(row["train/point"] + 0.5 * row["train/silog"], abs=1e-6)
        assert row["lr"] == how().lr_at(step - 1)
        assert row["val/absrel"] == 0.25
    assert log.seconds > 0


def test_the_model_trains_again_after_a_validation(tmp_path: Path) -> None:
    training: list[bool] = []

    class Watched(Probe):
        def decode(self, scene: Tensor, xy_BK2: Tensor) -> Tensor:
            training.append(self.training)
            return super().decode(scene, xy_BK2)

    run(tmp_path, Watched())
    assert training == [True] * 6


def test_the_encoder_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    model = Probe()
    model.encoder.register_parameter("weight", nn.Parameter(torch.ones(3)))
    run(tmp_path, model)
    assert torch.equal(model.encoder.get_parameter("weight"), torch.ones(3))
    assert model.encoder.get_parameter("weight").grad is None
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
    assert saved.keys() == weights(model).keys()
    assert not any(name.startswith("encoder") for name in saved)


def test_bf16_keeps_the_loss_in_full_precision(tmp_path: Path) -> None:
    dtypes = set()

    def watched(predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        dtypes.update((predicted_m_BK.dtype, truth_m_BK.dtype))
        return LOSS(predicted_m_BK, truth_m_BK)

    run(tmp_path, model := Probe(), recipe=how(precision="bf16"), loss=watched)
    assert dtypes == {torch.float32}
    assert {v.dtype for v in weights(model).values()} == {torch.float32}
    run(tmp_path / "fp32", other := Probe())
    assert not same(weights(model), weights(other))  # it did run in bf16


# divergence


def bad_loss(at: int, spoil: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], LossParts]:
    calls = [0]

    def loss(predicted_m_BK: Tensor, truth_m_BK: Tensor) -> LossParts:
        calls[0] += 1
        parts = LOSS(predicted_m_BK, truth_m_BK)
        return LossParts(spoil(parts.point), parts.structure) if calls[0] == at else parts

    return loss


class NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * math.nan


SPOILS: Sequence[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda x: x * math.nan, "loss is nan at step 4"),
    (lambda x: x + math.inf, "loss is inf at step 4"),
    (NanGradient.apply, "a gradient is not finite at step 4"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILS)
def test_a_divergence_stops_before_the_step(tmp_path: Path, spoil: Any, message: str) -> None:
    at_step: dict[int, dict[str, Tensor]] = {}
    model = Probe()
    with pytest.raises(TrainingDiverged, match=message) as caught:
        run(
            tmp_path,
            model,
            loss=bad_loss(4, spoil),
            on_step=lambda step, value: at_step.update({step: weights(model)}),
        )
    assert "lower train.lr" in str(caught.value)
    assert caught.value.exit_code == 4
    assert [*at_step] == [1, 2, 3]
    left = weights(model)
    for name, value in at_step[3].items():
        assert name == "calls" or torch.equal(left[name], value), name
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 2  # the last good one is still there


def test_features_that_are_not_a_number_diverge_and_do_not_crash(tmp_path: Path) -> None:
    """NaN coordinates have no cell: the samplers pass them on as NaN, so that the loss is what stops."""
    model = v13(routing=("nearest", {"r": 2}), b4="deformable_read")
    encode = model.encoder.forward

    def broken(image_B3HW: Tensor) -> Features:
        maps = encode(image_B3HW).maps_BHWC
        return Features((maps[0] * math.nan, maps[1], maps[2], maps[3] * math.nan))

    model.encoder.forward = broken  # type: ignore[method-assign]
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1"):
        run(tmp_path, model)


# checkpoints


def test_a_checkpoint_loads_as_plain_tensors_and_values(tmp_path: Path) -> None:
    log = run(tmp_path, model := Probe())
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state.keys() == {"format", "step", "model", "optimiser", "log"}
    assert state["step"] == 6
    assert same(state["model"], weights(model))
    assert TrainingLog.from_state(state["log"]) == log
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]  # nothing is left beside it
    load_weights(tmp_path / "checkpoint.pt", other := Probe())
    assert same(weights(other), weights(model))


def refused(path: Path, match: str = "cannot be read", model: PointDepthModel | None = None) -> None:
    with pytest.raises(StateError, match=match) as caught:
        load_weights(path, model or Probe())
    assert str(caught.value).startswith(f"{path}: ")
    assert "hint: delete it and run again" in str(caught.value)
    assert caught.value.exit_code == 7


def test_damaged_weights_are_never_loaded(tmp_path: Path) -> None:
    """torch.load compares no checksum: a flipped bit of a weight would pass for the weight."""
    path = tmp_path / "checkpoint.pt"
    save(path, model := Probe(), None, 6, TrainingLog())
    whole = path.read_bytes()
    raw = weights(model)["read.weight"].numpy().tobytes()
    start = whole.index(raw)
    for place in [start, start + 3, start + len(raw) - 1]:
        torn = bytearray(whole)
        torn[place] ^= 1
        path.write_bytes(torn)
        assert torch.load(path, weights_only=True)["step"] == 6  # torch itself notices nothing
        refused(path, r"cannot be read \(BadZipFile: checksum of .* is wrong\)")
    for place in range(0, len(whole), 131):  # elsewhere: noticed, or harmless
        torn = bytearray(whole)
        torn[place] ^= 0xFF
        path.write_bytes(torn)
        try:
            load_weights(path, other := Probe())
        except StateError:
            continue
        assert same(weights(other), weights(model)), place


@pytest.mark.parametrize("kept", [0, 10, 1000, -1])
def test_cut_or_foreign_checkpoints_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, Probe(), None, 6, TrainingLog())
    path.write_bytes(path.read_bytes()[:kept])
    refused(path)
    with pytest.raises(StateError):  # a training does not start over on top of it either
        run(tmp_path, Probe())


def test_missing_code_carrying_or_other_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pt")
    torch.save({"model": Path("code")}, tmp_path / "code.pt")  # an object, which only running code can build
    refused(tmp_path / "code.pt", "UnpicklingError")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    class Wider(Probe):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(2, 2)

    save(path := tmp_path / "checkpoint.pt", Probe(), None, 6, TrainingLog())
    refused(path, r"does not fit the model: missing \['more.weight', 'more.bias'\]", Wider())
    save(path, Wider(), None, 6, TrainingLog())
    refused(path, "unexpected")
    model = Probe()
    model.read = nn.Linear(386, 9)
    refused(path, "size mismatch", model)


# learning


def test_a_composition_learns_two_images_by_heart(tmp_path: Path) -> None:
    """The loss falls to less than a third within 60 steps; without learning (lr 0 to 0) it stays where it was."""

    def losses(folder: str, lr: float) -> list[float]:
        values: list[float] = []
        recipe = how(steps=60, lr=lr, min_lr=lr / 10, validate_at=(60,))
        plan = batch_plan(data=Blobs(2), augmentation=PLAIN, steps=60, queries=32)
        run(tmp_path / folder, v13(), recipe=recipe, plan=plan, on_step=lambda step, value: values.append(value))
        return values

    values = losses("learning", 1e-3)
    first, last = np.mean(values[:5]), np.mean(values[-5:])
    assert last < first / 3
    values = losses("idle", 1e-12)
    assert np.mean(values[-5:]) > 0.8 * np.mean(values[:5])
