"""What a component does while a suite is planned costs its own compositions; a suite that is wrong is refused whole."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SMALL, write_frames, write_suite

from spd_baselines.bilinear_mlp import BilinearMLP
from spd_baselines.constant import Constant
from spd_bench import registry
from spd_bench.data.queries import Uniform
from spd_bench.errors import ConfigError, DataError, ResourceError
from spd_bench.process.watch import Watch
from spd_bench.registry import PluginError
from spd_bench.report.collect import collect
from spd_bench.run import session
from spd_bench.run.planning import choose, plan
from spd_bench.run.planning.quarantine import undisturbed
from spd_bench.run.request import Request
from spd_bench.run.tryout import try_loss, try_sampler
from spd_bench.store import records
from spd_bench.train.losses import HuberSilog, LossParts

SUITE = {
    "base": SMALL,
    "side": 28,
    "steps": 2,
    "lr": "1e-4",
    "queries": 4,
    "marks": 1,
    "ks": "[8]",
    "draws": 1,
    "seeds": "[0, 1]",
    "baselines": "[constant, bilinear_mlp]",
}


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite of two models and a constant on twenty frames of 24×32."""
    write_frames(tmp_path / "frames")
    path = write_suite(tmp_path / "tiny.yaml", tmp_path / "frames", **SUITE)
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    monkeypatch.setattr(registry, "_GIVEN_UP", {})
    return path


def broken(*args: Any, **more: Any) -> Any:
    raise KeyError("its own")


def experiment(suite: Path, watch: Watch | None, *sets: str) -> plan.Experiment:
    return plan.Experiment(choose.choose(Request(suite=str(suite), sets=sets), watch).suite, watch=watch)


def failures(planned: plan.Experiment) -> dict[str, str]:
    return {job.name: job.failure for job in planned.jobs}


BREAKAGES = [
    pytest.param(Constant, "__init__", id="built"),
    pytest.param(Constant, "prepare", id="checked"),
    pytest.param(Constant, "missing", id="asked what it lacks"),
    pytest.param(Constant, "own_encoder", id="asked for its encoder"),
    pytest.param(Constant.Config, "model_validate_json", id="options"),
]
"""Where a baseline's own code runs while a suite is planned."""


@pytest.mark.parametrize(("owner", "name"), BREAKAGES)
def test_a_component_that_raises_costs_its_own_composition(
    suite: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, broken, raising=False)
    planned = experiment(suite, Watch())
    assert [job.name for job in planned.jobs] == [
        f"{name} seed {seed}" for name in ("small", "constant", "bilinear_mlp") for seed in (0, 1)
    ]
    found = failures(planned)
    if name != "missing":  # what cannot say what it lacks may work all the same
        for seed in (0, 1):
            assert "KeyError: 'its own' (test_quarantine.py:" in found.pop(f"constant seed {seed}")
    assert set(found.values()) == {""}


@pytest.mark.parametrize(("owner", "name"), BREAKAGES)
def test_outside_of_a_run_it_is_one_error_that_names_it(
    suite: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, broken, raising=False)
    with pytest.raises(PluginError, match=r"constant.*: KeyError: 'its own' \(test_quarantine.py:\d+ in broken\)") as e:
        experiment(suite, None)
    assert e.value.exit_code == 2
    assert "in broken" in e.value.traceback


def test_what_ended_a_process_before_is_not_tried_again(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [job.train_id for job in experiment(suite, Watch()).jobs]
    monkeypatch.setattr(Constant, "__init__", lambda *args: pytest.fail("it is tried again"))
    planned = experiment(suite, Watch(given_up={"constant": "worker was killed by SIGSEGV while checking constant"}))
    assert failures(planned)["constant seed 1"] == "worker was killed by SIGSEGV while checking constant"
    assert sum(map(bool, failures(planned).values())) == 2
    left = [job.train_id for job in planned.jobs]
    assert left[:2] + left[4:] == whole[:2] + whole[4:]  # what the others are does not depend on it


def test_what_ended_a_process_while_it_was_imported_is_not_imported_again(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = registry.EntryPoint.load
    monkeypatch.setattr(registry.EntryPoint, "load", lambda self: (loaded.append(self.name), load(self))[1])
    planned = experiment(suite, Watch(given_up={"baseline constant": "worker was killed by SIGSEGV"}))
    said = 'baseline "constant" of distribution spd-bench .* cannot be imported: worker was killed by SIGSEGV'
    assert "constant" not in loaded
    assert "bilinear_mlp" in loaded
    assert [bool(failure) for failure in failures(planned).values()] == [False, False, True, True, False, False]
    with pytest.raises(PluginError, match=said):
        registry.load("baseline", "constant")


def test_without_the_base_there_is_nothing_to_compare(suite: Path) -> None:
    cause = "worker was killed by SIGSEGV while checking small"
    with pytest.raises(PluginError, match=f"small: {cause}") as caught:
        experiment(suite, Watch(given_up={"small": cause}))
    assert caught.value.exit_code == 2
    assert caught.value.where == f"{suite}:2:1"
    with pytest.raises(PluginError, match=r'b1 "local_tokens" of .* cannot be imported: worker'):
        experiment(suite, Watch(given_up={"b1 local_tokens": cause}))


@pytest.mark.parametrize(
    ("error", "sets", "said"),
    [
        (None, "axes.swap.b4=[deformable_read]", 'b4: deformable_read reads "[a-z0-9_]+", which nothing'),
        (None, "baselines=[{use: constant, option: 1}]", "unknown option"),
        (ConfigError("this encoder has too few layers"), "seeds=[0]", "this encoder has too few layers"),
        (DataError("weights are damaged", where="x.pt"), "seeds=[0]", "x.pt: weights are damaged"),
        (OSError(28, "No space left on device", "runs/x"), "seeds=[0]", "runs/x: No space left on device"),
    ],
)
def test_what_is_no_fault_of_a_component_refuses_the_suite(
    suite: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, sets: str, said: str
) -> None:
    """Parts that do not fit, options that do not exist, and what a component refuses in our words."""
    if error is not None:

        def refuse(*args: Any) -> None:
            raise error

        monkeypatch.setattr(Constant, "__init__", refuse)
    with pytest.raises((ConfigError, DataError, ResourceError), match=said) as caught:
        experiment(suite, Watch(), sets)
    assert not isinstance(caught.value, PluginError)


@pytest.mark.parametrize("how", ["data.cache=disk", "data.augment.enabled=true"])  # the latter trains side by side
def test_a_suite_with_a_component_that_cannot_be_used_runs_to_its_table(
    suite: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(Constant, "__init__", broken)
    request = Request(suite=str(suite), sets=(how, "seeds=[0]"), root=suite.parent / "runs", device="cpu")
    finished = session.run_suite(request, Watch())
    assert finished.failed == 1
    assert "KeyError: 'its own'" in finished.table.replace("\n", " ")
    assert {row.name: bool(row.failure) for row in collect(suite.parent / "runs").rows} == {
        "small": False,
        "constant": True,
        "bilinear_mlp": False,
    }
    assert not list((suite.parent / "runs/trained").glob("constant*"))
    monkeypatch.undo()  # and once it works, the same command does it
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)
    assert session.run_suite(request).failed == 0
    assert records.read_record(suite.parent / "runs/suites/tiny.json")["unfinished"] == 0


def test_a_broken_part_costs_the_ablations_that_put_it_in(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BilinearMLP, "__init__", broken)
    sets = ("axes.swap.neck=[pyramid]", "axes.cross=[{neck: [pyramid, last_layer], train.lr: [1e-3, 2e-3]}]")
    watch = Watch(given_up={"neck pyramid": "worker was killed by SIGSEGV"})
    planned = experiment(suite, watch, "seeds=[0]", *sets)
    found = {job.composition.name: job.failure for job in planned.jobs}
    lost = [name for name, failure in found.items() if failure]
    assert lost == ["neck-pyramid", "neck-pyramid-train.lr-0.001", "neck-pyramid-train.lr-0.002", "bilinear_mlp"]
    assert len(found) == 8  # and the base, two recipes of it, and the constant
    differences = [job.composition.difference for job in planned.jobs if job.composition.name == "neck-pyramid"]
    assert differences == ["neck: last_layer → pyramid"]


def test_what_a_component_sets_for_all_is_set_back(tmp_path: Path) -> None:
    before = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), Path.cwd())
    with undisturbed():
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(before[1] + 1)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.use_deterministic_algorithms(True)
        os.chdir(tmp_path)
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), Path.cwd()) == before
    assert torch.zeros(1).device.type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()


def lopsided(self: Any, predicted_m_BK: Any, truth_m_BK: Any) -> LossParts:
    return LossParts(predicted_m_BK - truth_m_BK, torch.zeros(()))


def detached(self: Any, predicted_m_BK: Any, truth_m_BK: Any) -> LossParts:
    value = (predicted_m_BK.detach() - truth_m_BK).abs().mean()
    return LossParts(value, torch.zeros((), requires_grad=True))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (broken, "loss huber_silog: KeyError: 'its own'"),
        (lopsided, "loss huber_silog: expected two finite scalars"),
        (detached, "loss huber_silog: expected a finite gradient at the predicted depth, found none"),
    ],
)
def test_a_loss_that_fails_for_every_training_is_found_once(
    suite: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str
) -> None:
    monkeypatch.setattr(HuberSilog, "__call__", fault)
    for watch in (None, Watch()):  # in plan and in a run
        with pytest.raises(PluginError, match=message):
            experiment(suite, watch)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (broken, "query_sampler uniform: KeyError: 'its own'"),
        (lambda self, depth, count, rng: np.zeros((count, 2)), r"integers \[8, 2\], found float64 \[8, 2\]"),
        (lambda self, depth, count, rng: np.zeros((count, 2), int), "expected different pixels of known depth"),
    ],
)
def test_a_sampler_that_fails_for_every_training_is_found_once_and_placed(
    suite: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, message: str
) -> None:
    monkeypatch.setattr(Uniform, "sample", fault)
    for watch in (None, Watch()):
        with pytest.raises(PluginError, match=message) as caught:
            experiment(suite, watch)
        assert "tiny.yaml" in (caught.value.where or "")


@pytest.mark.parametrize("name", registry.names("loss"))
def test_every_loss_passes_the_trial(name: str) -> None:
    component = registry.load("loss", name)
    try_loss(component(component.Config()), name)


@pytest.mark.parametrize("name", registry.names("query_sampler"))
def test_every_sampler_passes_the_trial(name: str) -> None:
    component = registry.load("query_sampler", name)
    try_sampler(component(component.Config()), name)
