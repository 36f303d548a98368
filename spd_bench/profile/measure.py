"""Measures the costs of a suite's models on this machine, with initial weights and without data (R-29).

Speed does not depend on training: every model has its initial weights, the image is random, and its features come from
the suite's encoder. If the encoder's weights are missing, random ones replace them at the same cost, and the profile
names this stand-in.

Letters: B images, K queries.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spd_bench import registry
from spd_bench.api import Encoder, Features, PointDepthModel
from spd_bench.cost.flops import decode_work, prepare_work
from spd_bench.cost.timing import Timing, measure, peak_memory, settings
from spd_bench.data.randomness import torch_seed
from spd_bench.errors import ConfigError, DataError, SpdError, quoted
from spd_bench.model import compose
from spd_bench.model.compose import ChosenPart
from spd_bench.profile.figures import profile_svg
from spd_bench.profile.results import (
    DENSE,
    LITERAL,
    SPARSE,
    ModelProfile,
    Profile,
    TrainingShape,
    crossovers,
    over_dense,
)
from spd_bench.profile.tables import profile_markdown
from spd_bench.run.planning.plan import build_model, with_width
from spd_bench.run.provenance import versions
from spd_bench.store import files
from spd_bench.store.run_root import REPORTS
from spd_bench.suite.axes import CompositionSpec, Selection, compositions
from spd_bench.suite.checks import check_options
from spd_bench.suite.schema import Choice, Suite
from spd_bench.tracking.entry import TrackedRun
from spd_bench.train.training import autocast, parameter_groups

REFERENCE = (LITERAL, DENSE, SPARSE, "bilinear_mlp")
"""Baselines that are measured beside the base by default."""
KS = (1, 64, 256, 1024, 4096)
ROUNDS = 7
PRECISIONS = ("fp32", "bf16")


class _Subject(NamedTuple):
    """A model to measure."""

    name: str
    kind: Any
    """`CompositionSpec.kind`."""
    model: PointDepthModel


def profile_suite(
    suite: Suite,
    *,
    only: Sequence[str] = (),
    ks: Sequence[int] = KS,
    rounds: int = ROUNDS,
    threads: int = 1,
    device: torch.device,
    precision: str = "fp32",
    reference: Sequence[str] = REFERENCE,
    training: TrainingShape | None = None,
    on_call: Callable[[int, int], None] = lambda done, total: None,
) -> Profile:
    """The costs of the suite's base, the compositions that `only` names, and the reference baselines on its encoder.

    training: also time training steps of this shape, of the base and of the literal transcription. A reference that is
    not registered, or not defined on this encoder, is listed in `Profile.skipped`. Raises ConfigError for any other
    model that cannot be built, and for invalid arguments.
    """
    ks = _checked(ks, rounds)
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {quoted(precision)}", where="--precision", hint=" or ".join(PRECISIONS))
    with _threads(threads):
        about = settings(device, precision=precision)
        encoder, stand_ins = _encoder(suite)
        image_B3HW = _random((1, 3, *suite.data.image_size), device, "image")
        features = encoder.to(device)(image_B3HW)
        subjects, skipped = _subjects(suite, only, reference, encoder, features)
        encode, models = _decoding(subjects, image_B3HW, features, ks, rounds, device, precision, on_call)
        if training:
            steps = _training(suite, subjects, features, training, rounds, device, precision)
            models = [replace(model, step=steps.get(model.name)) for model in models]
    return Profile(
        suite=suite.suite,
        profile=suite.profile or "(none)",
        encoder=suite.base.slots()["encoder"].use,
        image_size=suite.data.image_size,
        stand_ins=stand_ins,
        ks=ks,
        rounds=rounds,
        settings=about,
        encode=encode,
        models=tuple(models),
        skipped=skipped,
        training=training,
        versions=versions(),
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )


def _checked(ks: Sequence[int], rounds: int) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise ConfigError(f"K should be whole numbers from 1 on, found {list(ks)}", where="--k", hint="--k 1,64,256")
    if rounds < 1:
        raise ConfigError(f"at least one round is needed, found {rounds}", where="--rounds")
    return tuple(sorted(set(ks)))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    if count < 1:
        raise ConfigError(f"at least one thread is needed, found {count}", where="--threads")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _random(shape: tuple[int, ...], device: torch.device, *key: str) -> Tensor:
    generator = torch.Generator().manual_seed(torch_seed("profile", *key))
    return torch.rand(shape, generator=generator).to(device)


# Models


def _encoder(suite: Suite) -> tuple[Encoder, tuple[str, ...]]:
    """The suite's encoder and its stand-ins; with random weights if its own are missing."""
    choice = suite.base.slots()["encoder"]
    known = registry.load("encoder", choice.use)
    lack = known.missing(check_options(choice, "encoder"))
    if lack:
        if "random_weights" not in known.Config.model_fields:
            raise DataError(lack, where=suite.suite)
        kept = {option: value for option, value in choice.options.items() if option not in known.places}
        choice = Choice(use=choice.use, options={**kept, "random_weights": True})
    encoder = compose.build_encoder(
        ChosenPart(choice.use, check_options(choice, "encoder"), suite.place("base", "encoder"))
    )
    return encoder, (encoder.stand_in,) if encoder.stand_in else ()


def _subjects(
    suite: Suite, only: Sequence[str], reference: Sequence[str], encoder: Encoder, features: Features
) -> tuple[list[_Subject], dict[str, str]]:
    """The models to measure, the base first; and reference → why it is not measured."""
    found = compositions(suite)
    base = found[0]
    subjects = []
    for composition in Selection(only=tuple(only) or (base.name,)).of(found):
        if composition.slots["encoder"] != base.slots["encoder"]:
            raise ConfigError(
                f"{composition.name} has an encoder of its own: one profile never mixes encoders",
                where=composition.where,
                hint="profile it in a suite whose base has that encoder",
            )
        with registry.blamed(composition.name):
            model = build_model(with_width(composition, base, encoder), encoder, seed=0)
            if model.gt_aligned:
                raise ConfigError(f"{composition.name} needs ground truth to decode", where=composition.where)
            _try(model, features)
        subjects.append(_Subject(composition.name, composition.kind, model))
    skipped = {}
    taken = {subject.name for subject in subjects}
    for name in dict.fromkeys(reference):
        if name in taken:
            continue
        if name not in registry.names("baseline"):
            skipped[name] = "not registered as a baseline"
            continue
        try:
            model = _reference(name, base, encoder)
            _try(model, features)
        except (SpdError, RuntimeError) as error:  # the transcription is written for the sizes of one encoder
            skipped[name] = f"not defined here: {str(error).splitlines()[0]}"
            continue
        subjects.append(_Subject(name, "baseline", model))
    return subjects, skipped


@torch.no_grad()
def _try(model: PointDepthModel, features: Features) -> None:
    """Moves a model to the device of its features, in evaluation mode, and decodes one point as a test."""
    like = features.maps_BHWC[0]
    model.to(like.device).eval()
    model.fit_prior(torch.tensor([1.0, 2.0, 3.0]))
    model.decode(model.prepare(features), torch.full((1, 1, 2), 0.5, device=like.device))


def _reference(name: str, base: CompositionSpec, encoder: Encoder) -> PointDepthModel:
    """A baseline with default options, except those that a block of the base has under the same name."""
    known = registry.load("baseline", name).Config.model_fields
    blocks = [choice.options for slot, choice in base.slots.items() if slot != "encoder"]
    options = {option: value for given in blocks for option, value in given.items() if option in known}
    config = check_options(Choice(use=name, options=options), "baseline")
    return compose.build_baseline(ChosenPart(name, config), encoder, seed=0)


# Encoding, preparing and decoding


def _decoding(
    subjects: Sequence[_Subject],
    image_B3HW: Tensor,
    features: Features,
    ks: tuple[int, ...],
    rounds: int,
    device: torch.device,
    precision: str,
    on_call: Callable[[int, int], None],
) -> tuple[Timing, list[ModelProfile]]:
    """T_encode, and times, peak memory and work of every model."""

    def guarded(call: Callable[..., object], *args: Any) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode(), autocast(precision, device):
                return call(*args)

        return run

    xy_1K2 = _random((1, max(ks), 2), device, "queries")
    scenes = {subject.name: guarded(subject.model.prepare, features)() for subject in subjects}
    prepare = {s.name: guarded(s.model.prepare, features) for s in subjects}
    # all models at one K are adjacent in a round, so that compared times are measured close together
    decode = {(s.name, k): guarded(s.model.decode, scenes[s.name], xy_1K2[:, :k]) for k in ks for s in subjects}
    calls: dict[Any, Callable[[], object]] = {"encode": guarded(subjects[0].model.encode, image_B3HW)}
    calls |= {(name, "prepare"): call for name, call in prepare.items()} | decode
    timed = measure(calls, rounds=rounds, device=device, on_call=on_call)
    peak = partial(peak_memory, device=device)
    return timed["encode"], [
        ModelProfile(
            name=name,
            kind=kind,
            parameters=sum(parameter.numel() for _, parameter in model.trainable()),
            prepare=timed[name, "prepare"],
            decode={k: timed[name, k] for k in ks},
            prepare_peak=peak(prepare[name]),
            decode_peak={k: peak(decode[name, k]) for k in ks},
            prepare_work=prepare_work(model, features),
            decode_work=decode_work(model, features),
        )
        for name, kind, model in subjects
    ]


# Training


def _training(
    suite: Suite,
    subjects: Sequence[_Subject],
    features: Features,
    shape: TrainingShape,
    rounds: int,
    device: torch.device,
    precision: str,
) -> dict[str, Timing]:
    """Name → times of a training step, for the base and the literal transcription."""
    repeated = Features(tuple(map_BHWC.repeat(shape.batch, 1, 1, 1) for map_BHWC in features.maps_BHWC))  # type: ignore[arg-type]
    xy_BK2 = _random((shape.batch, shape.queries, 2), device, "training queries")
    depth_m_BK = 1 + 4 * _random((shape.batch, shape.queries), device, "training depths")
    trained = [subject for subject in subjects if subject.kind == "base" or subject.name == LITERAL]
    calls = {
        subject.name: _step(suite, subject.model, repeated, xy_BK2, depth_m_BK, device, precision)
        for subject in trained
    }
    timed = measure(calls, rounds=rounds, device=device)
    for subject in trained:
        subject.model.zero_grad(set_to_none=True)
        subject.model.eval()
    return timed


def _step(
    suite: Suite,
    model: PointDepthModel,
    features: Features,
    xy_BK2: Tensor,
    depth_m_BK: Tensor,
    device: torch.device,
    precision: str,
) -> Callable[[], object]:
    """A callable for one step of §7.3 on given features: forward, loss, backward, clipping and AdamW."""
    recipe = suite.train
    loss = registry.load("loss", recipe.loss.use)(check_options(recipe.loss, "loss"))
    optimiser = torch.optim.AdamW(
        parameter_groups(model, recipe.weight_decay), lr=recipe.lr, betas=recipe.betas, fused=True
    )
    parameters = [parameter for _, parameter in model.trainable()]

    def step() -> object:
        model.train()
        with autocast(precision, device):
            found_m_BK = model.decode(model.prepare(features), xy_BK2)
        parts = loss(found_m_BK.float(), depth_m_BK)
        optimiser.zero_grad(set_to_none=True)
        (parts.point + recipe.lambda_si * parts.structure).backward()
        nn.utils.clip_grad_norm_(parameters, recipe.clip)
        return optimiser.step()

    return step


# Files and tracking


def write_profile(profile: Profile, root: Path) -> list[Path]:
    """Writes `<root>/reports/<suite>.profile.json`, `.md` and `.svg`; returns their paths."""
    paths = profile_paths(root, profile.suite)
    files.write_json(paths[0], profile.to_json())
    files.write_text(paths[1], profile_markdown(profile))
    files.write_text(paths[2], profile_svg(profile))
    return paths


def profile_entry(profile: Profile, paths: Sequence[Path]) -> TrackedRun:
    """The MLflow run of a profile: medians in ms, shares of T_dpt, crossovers and the files."""
    about = profile.settings
    return TrackedRun(
        key=("profile", profile.suite, profile.finished),
        name=f"profile {profile.suite}",
        status="FINISHED",
        params={
            "profile": profile.profile,
            "encoder": profile.encoder,
            "image_size": "×".join(map(str, profile.image_size)),
            "threads": str(about.threads),
            "precision": about.precision,
            "rounds": str(profile.rounds),
        },
        tags={
            **profile.versions,
            "device": f"{about.device} ({about.machine})",
            "stand_ins": "; ".join(profile.stand_ins),
        },
        series=((0, metrics(profile)),),
        files=tuple(paths),
    )


def profile_paths(root: Path, suite: str) -> list[Path]:
    """The files that a profile of a suite is written to."""
    return [root / REPORTS / f"{suite}.profile{suffix}" for suffix in (".json", ".md", ".svg")]


def entries(root: Path) -> Iterator[TrackedRun]:
    """The MLflow run of the latest profile of each suite below a run root."""
    for path in sorted((root / REPORTS).glob("*.profile.json")):
        profile = Profile.from_json(json.loads(path.read_bytes()))
        yield profile_entry(profile, profile_paths(root, profile.suite))


def metrics(profile: Profile) -> Mapping[str, float]:
    """Medians, shares of T_dpt and crossovers, as {name: value}."""
    found = {"T_encode_ms": 1e3 * profile.encode.spread.median}
    for model in profile.models:
        found[f"{model.name}/T_prepare_ms"] = 1e3 * model.prepare.spread.median
        for k in profile.ks:
            found[f"{model.name}/T_decode_ms/K{k}"] = 1e3 * model.decode[k].spread.median
            found[f"{model.name}/peak_MB/K{k}"] = model.decode_peak[k] / 1e6
            share = over_dense(profile, model.whole(k), k)
            found |= {f"{model.name}/share_of_dense/K{k}": share.median} if share else {}
        found |= {f"{model.name}/step_s": model.step.spread.median} if model.step else {}
    beyond = {name: at.k for name, at in crossovers(profile).items() if not at.side}
    return found | {f"crossover_K/{name}": k for name, k in beyond.items()}
