"""The identity of a run: every field of the configuration is part of it, or is not for a reason that is written down.

A field that nobody has classed fails here. So does one that is classed as part and changes nothing, and the reverse: an
old result would be served for a new question, or everything trained again for nothing.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from spd_bench import registry
from spd_bench.api import ComponentConfig, Encoder
from spd_bench.model import compose
from spd_bench.run.planning.identity import of_components
from spd_bench.run.planning.plan import Experiment
from spd_bench.suite.identity import EVALUATION, IDENTITY, TRAINING
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Choice, Suite

CHANGES: Mapping[str, Any] = {
    "suite": "another",
    "description": "another",
    "extends": "v13_ablation",
    "base.name": "another",
    "base.encoder": {"use": "dav2_small", "random_weights": True},
    "base.neck": "last_layer",
    "base.b1": "ring_3x3",
    "base.b2": {"use": "local_cross_attention", "dropout": 0.2},
    "base.b3": {"use": "global_cross_attention", "dropout": 0.2},
    "base.routing": {"use": "topk_attention", "r": 16},
    "base.b4": {"use": "deformable_read", "samples": 2},
    "base.b5": {"use": "fused_cross_attention", "dropout": 0.2},
    "base.depth_head": "log_depth",
    "data.dataset": {"use": "synthetic_rooms", "train_scenes": 3, "val_scenes": 1, "test_scenes": 1},
    "data.test": {"use": "synthetic_rooms", "train_scenes": 1, "val_scenes": 1, "test_scenes": 2, "seed": 9},
    "data.image_size": [224, 252],
    "data.query_sampler": "edges",
    "data.augment.enabled": True,
    "data.augment.flip": 0.4,
    "data.augment.zoom": [0.9, 1.2],
    "data.augment.allow_padding": True,
    "data.augment.brightness": 0.3,
    "data.augment.contrast": 0.3,
    "data.augment.saturation": 0.3,
    "data.augment.hue": 0.2,
    "data.augment.views": 3,
    "data.cache": "disk",
    "data.cache_limit_gb": 2.5,
    "train.epochs": 3,
    "train.steps": 5,
    "train.batch_size": 1,
    "train.queries": 17,
    "train.lr": 2e-4,
    "train.min_lr": 2e-6,
    "train.weight_decay": 0.02,
    "train.betas": [0.8, 0.999],
    "train.clip": 2.0,
    "train.loss": {"use": "huber_silog", "huber_delta": 2.0},
    "train.lambda_si": 0.25,
    "train.precision": "bf16",
    "train.validations": 2,
    "train.workers": 2,
    "eval.protocol": "nyu_densedepth",
    "eval.k": [1, 8, 16],
    "eval.k1_draws": 3,
    "eval.seed": 1,
    "seeds": [1],
    "axes.leave_one_out": ["b3"],
    "axes.leave_group_out": [["b2", "b5"]],
    "axes.parameter_matched": True,
    "axes.swap": {"neck": ["last_layer"]},
    "axes.grid": {"routing.r": [8]},
    "axes.cross": [{"routing.r": [8, 16]}],
    "axes.add_one_in": ["b3"],
    "baselines": ["constant"],
    "steps": {"first": {"checks": {}}},
    "report.primary.metric": "rmse",
    "report.primary.k": 1,
    "report.family": ["swap"],
    "report.equivalence": 0.05,
    "report.pictures.rows": ["no-b3"],
    "report.pictures.columns": 0,
    "profiles": {"quick": {"train": {"lr": 1e-3}}},
    "fallback.profile": "quick",
}
"""Another valid value for every field of the suite below."""

TINY = ["axes=null", "data.dataset.train_scenes=2", "data.dataset.test_scenes=1", "data.dataset.frames_per_scene=1"]
GOLDEN = {
    "train_id": "2dd1757729b687a236dbb45c818d5b474311960e574c9ca2e05c007b1964676a",
    "eval_id": "9ce9313f4d1a4ea928b401a5e4fd19dc233f39b19fda4ff32bee26e25a0cad4e",
}
"""Of the suite `smoke`'s base. They change only where a component's version is raised or an option added, knowingly:
everybody's finished runs then lose their results."""


@pytest.fixture(autouse=True)
def _own_components_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugin that happens to be installed: its metrics would be scored too."""
    monkeypatch.setenv(registry.PLUGINS_VARIABLE, "")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments without the check that their models run, which identities do not depend on."""
    monkeypatch.setattr(compose, "check", lambda model, **more: None)


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    """Encoders that all experiments of this file share."""
    return {}


def base_suite() -> Suite:
    return load_suite("smoke", sets=TINY)


def ids(suite: Suite, encoders: dict[str, Encoder]) -> tuple[str, str]:
    """Of the base under the first seed: the training's and the evaluation's."""
    job = Experiment(suite, encoders=encoders).jobs[0]
    assert job.composition.kind == "base"
    return job.train_id, job.eval_id


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every field of a suite by its path; what a component is given and what has names of the user's own is one."""
    for name, info in model.model_fields.items():
        choices = (info.annotation, *get_args(info.annotation)) if get_origin(info.annotation) is not dict else ()
        inner = [part for part in choices if is_part(part)]
        if inner:
            yield from fields(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def is_part(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Choice


def changed(suite: Suite, path: str, value: Any) -> Suite:
    """The suite with one value changed, and what must change with it for it to be valid."""
    plain = suite.dump()
    *above, last = path.split(".")
    place = plain
    for key in above:
        place[key] = place[key] or {}
        place = place[key]
    place[last] = value
    if path == "train.epochs":
        plain["train"]["steps"] = None
    return Suite.model_validate_json(json.dumps(plain))


# ------------------------------------------------------------------------------------------------ the suite


def test_every_field_of_a_suite_is_classed_and_nothing_else() -> None:
    assert set(fields(Suite)) == set(IDENTITY)
    assert set(CHANGES) == set(IDENTITY)
    reasons = [why for why in IDENTITY.values() if why not in (TRAINING, EVALUATION)]
    assert all(len(why.split()) > 1 for why in reasons)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("path", sorted(CHANGES))
def test_a_field_changes_the_identity_exactly_where_it_is_classed_so(path: str, encoders: dict[str, Encoder]) -> None:
    train_id, eval_id = ids(base_suite(), encoders)
    other = changed(base_suite(), path, CHANGES[path])
    if path == "eval.protocol":
        other = changed(other, "data.dataset", other.data.dataset.plain() | {"holes": False})
        train_id, eval_id = ids(changed(other, path, "nyu_bts"), encoders)
    new_train_id, new_eval_id = ids(other, encoders)
    assert (new_train_id != train_id) == (IDENTITY[path] == TRAINING)
    assert (new_eval_id != eval_id) == (IDENTITY[path] in (TRAINING, EVALUATION))


def test_the_identity_of_finished_runs_is_what_it_was() -> None:
    job = Experiment(load_suite("smoke")).jobs[0]
    assert {"train_id": job.train_id, "eval_id": job.eval_id} == GOLDEN


@pytest.mark.usefixtures("unchecked")
def test_machine_folder_and_threads_do_not_enter(
    encoders: dict[str, Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ids(base_suite(), encoders)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "SPD_BENCH_RUNS": "elsewhere",
        "HOME": str(tmp_path),
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        assert ids(base_suite(), {}) == before
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("slot", ["neck", "b4", "depth_head", "encoder", "dataset", "query_sampler", "loss", "metric"])
def test_the_version_of_a_component_enters(
    slot: str, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = base_suite()
    used = {**{s: c.use for s, c in suite.base.slots().items()}, "loss": suite.train.loss.use, "metric": "absrel"}
    used |= {"dataset": suite.data.dataset.use, "query_sampler": suite.data.query_sampler.use}
    before = ids(suite, encoders)
    component = registry.load(slot, used[slot])
    monkeypatch.setattr(component, "version", component.version + 1)
    after = ids(suite, encoders)
    assert (after[0] != before[0]) == (slot != "metric")
    assert after[1] != before[1]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("slot", ["encoder", "dataset"])
def test_the_digest_of_weights_and_of_data_enters(
    slot: str, encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = base_suite()
    before = ids(suite, encoders)
    component = registry.load(slot, {"encoder": suite.base.encoder, "dataset": suite.data.dataset}[slot].use)
    monkeypatch.setattr(component, "digest", lambda self: "of another file")
    after = ids(suite, encoders)
    assert after[0] != before[0]
    assert after[1] != before[1]


# ------------------------------------------------------------------------------------------------ components


def configured() -> list[tuple[str, str, str]]:
    """(slot, component, option) of everything that this distribution registers."""
    return [
        (slot, name, option)
        for slot in registry.SLOTS
        for name in own_names(slot)
        for option in registry.load(slot, name).Config.model_fields
    ]


def own_names(slot: str) -> list[str]:
    return [entry.name for entry in registry.entries(slot) if entry.distribution == registry.OWN]


def required(config: type[ComponentConfig]) -> dict[str, Any]:
    """Values for the options that have no default; all of them are paths."""
    return {name: "somewhere" for name, info in config.model_fields.items() if info.is_required()}


def other_values(info: FieldInfo, value: Any) -> list[Any]:
    """What might be another valid value of an option."""
    if get_origin(info.annotation) is Literal:
        return [choice for choice in get_args(info.annotation) if choice != value]
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value - 1, value * 2, value / 2]
        case tuple() | list():
            return [list(value)[::-1], list(value)[1:], [*value, 1]]
        case str():
            return [value + "x", "module:function"]
    return ["x", "0" * 40, 2.0, 2]


def reconfigured(config: type[ComponentConfig], option: str) -> dict[str, Any]:
    """Options under which `option` has another valid value than by default."""
    given = required(config)
    info = config.model_fields[option]
    value = given.get(option, None if info.is_required() else info.get_default(call_default_factory=True))
    for other in other_values(info, value):
        for beside in ({}, {"repo": "a/b", "revision": "0" * 40}):  # these two go together
            try:
                config.model_validate_json(json.dumps(given | beside | {option: other}))
            except ValidationError:
                continue
            return given | beside | {option: other}
    pytest.fail(f"no other valid value of {config.__qualname__}.{option} found: add one to other_values")


def test_places_are_options_and_are_paths_or_names_of_releases() -> None:
    for slot in registry.SLOTS:
        for name in own_names(slot):
            component = registry.load(slot, name)
            assert component.places <= set(component.Config.model_fields), name
            for option in component.places - {"hub"}:  # hub: whether to look among downloads
                adapter = TypeAdapter(component.Config.model_fields[option].annotation)
                assert adapter.validate_python("a/path") == "a/path", (name, option)


@pytest.mark.parametrize(("slot", "name", "option"), [row for row in configured() if row[0] != "dataset"], ids=str)
def test_every_option_of_a_component_enters_but_places(slot: str, name: str, option: str) -> None:
    component = registry.load(slot, name)
    given = required(component.Config)
    before = of_components({slot: Choice(use=name, options=given)})
    other = reconfigured(component.Config, option)
    assert other.keys() - given.keys() - {option} <= component.places
    after = of_components({slot: Choice(use=name, options=other)})
    assert (after != before) == (option not in component.places)


DATA: Mapping[str, Mapping[str, str]] = {
    "synthetic_rooms": {},
    "rgbd_folder": {
        "layout": "names of files, which enter, are what it finds",
        "color": "names of files, which enter, are what it finds",
        "depth": "names of files, which enter, are what it finds",
    },
    "nyu_eigen": {},
    "nyu_bts": {"test_only": "the frames of each split enter"},
    "nyu_h5": {"allow_float16": "a permission: the files' sizes, which enter, tell float16 from float32"},
    "nyu_marigold": {},
    "nyu_densedepth": {},
    "packed": {},
    "ultralytics_depth": {},
    "scannet": {},
    "sun_rgbd": {},
    "diode": {},
    "ibims1": {},
    "hypersim": {},
    "arkitscenes": {},
    "replica": {},
    "seven_scenes": {},
}
"""Data set → option that its digest does not hold in itself, though it is no place, and why."""


def test_options_of_data_sets_are_in_their_digests_or_excused() -> None:
    assert set(DATA) == set(own_names("dataset"))
    for name, excused in DATA.items():
        component = registry.load("dataset", name)
        assert set(excused) <= set(component.Config.model_fields) - component.places


@pytest.mark.parametrize("option", list(registry.load("dataset", "synthetic_rooms").Config.model_fields))
def test_every_option_of_the_synthetic_rooms_is_in_their_digest(option: str) -> None:
    component = registry.load("dataset", "synthetic_rooms")
    other = component.Config.model_validate_json(json.dumps(reconfigured(component.Config, option)))
    assert component(other).digest() != component(component.Config()).digest()


def folder(root: Path, count: int = 40) -> Path:
    """Frames with a noisy colour image each and depth of 2 m, as PNG."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for kind in ("rgb", "depth"):
            (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).save(root / "rgb" / f"{number}.png")
        Image.fromarray(np.full((6, 8), 2000, np.uint16)).save(root / "depth" / f"{number}.png")
    return root


def folder_digest(root: Path, **options: Any) -> str:
    component = registry.load("dataset", "rgbd_folder")
    config = component.Config.model_validate_json(json.dumps({"root": str(root), **options}))
    return str(component(config).digest())


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"depth_scale": 1001.0}, True),
        ({"invalid": [0, 65534]}, True),
        ({"shares": [0.6, 0.2, 0.2]}, True),
        ({"gap": 1}, True),
        ({"block": 5}, True),
        ({"layout": "folders"}, False),  # what "auto" finds
        ({"color": "rgb/{id}.png", "depth": "depth/{id}.png"}, False),
    ],
    ids=str,
)
def test_options_of_a_folder_count_where_they_change_its_frames(
    tmp_path: Path, options: dict[str, Any], counts: bool
) -> None:
    root = folder(tmp_path / "a")
    assert (folder_digest(root, **options) != folder_digest(root)) == counts


def test_files_of_a_folder_count_and_its_place_does_not(tmp_path: Path) -> None:
    before = folder_digest(folder(tmp_path / "a"))
    assert folder_digest(folder(tmp_path / "b")) == before
    os.utime(tmp_path / "b" / "rgb" / "3.png", (0, 0))
    assert folder_digest(tmp_path / "b") == before
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(
        tmp_path / "b" / "rgb" / "3.png"
    )  # one colour takes fewer bytes
    assert folder_digest(tmp_path / "b") != before
    (tmp_path / "a" / "rgb" / "7.png").unlink()
    assert folder_digest(tmp_path / "a") != before
