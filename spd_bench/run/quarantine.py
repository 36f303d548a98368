"""What a component does while a suite is planned costs the compositions that name it, and no other.

Planning imports components, builds models and runs each once without data. A process that ends or hangs meanwhile is
started again by its supervisor and told what it was at (`Watch.given_up`), as with trainings.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from spd_bench import registry
from spd_bench.errors import OUT_OF_MEMORY, ResourceError
from spd_bench.process.watch import Watch
from spd_bench.registry import PluginError, blamed
from spd_bench.suite import axes
from spd_bench.suite.axes import CompositionSpec
from spd_bench.suite.forms import choices
from spd_bench.suite.schema import Choice, Suite

T = TypeVar("T")

_SHARED: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (os.getcwd, os.chdir),
)
"""What a component may change for all that come after it; random numbers are drawn from no shared generator."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Afterwards the defaults of PyTorch and the working directory are what they were before."""
    before = [get() for get, _ in _SHARED]
    try:
        yield
    finally:
        for (get, put), value in zip(_SHARED, before, strict=True):
            if get() != value:
                put(value)


class Quarantine:
    """Keeps the compositions of a suite apart while they are planned; `failures` says why some are left out.

    watch: told what is at fault if the process ends, and what ended one before. Without it nothing is left out: what
    a component does is raised, as a PluginError that names the composition. So it is for the base, which all others
    are compared with.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.failures: dict[str, str] = {}
        self._leaves_out = watch is not None
        self._watch = watch or Watch()

    def compositions(self, suite: Suite) -> list[CompositionSpec]:
        """Those of `suite.axes.compositions`, each component imported on its own before."""
        named = [(slot, Choice.read(value).use) for _, slot, value in choices(suite.dump())]
        for slot, name in dict.fromkeys([*named, *(("metric", name) for name in registry.names("metric"))]):
            self._import(slot, name)
        self._watch.at("planning")
        found = axes.compositions(suite, broken_too=self._leaves_out)
        self.failures |= {composition.name: composition.failure for composition in found if composition.failure}
        return found

    def _import(self, slot: str, name: str) -> None:
        key = f"{slot} {name}"
        if key in self._watch.given_up:
            registry.give_up(slot, name, self._watch.given_up[key])
        with self._watch.on({key: key}), undisturbed():
            self._watch.at(f"importing {key}")
            registry.status(slot, name)  # whoever needs it meets its problem again

    def attempt(self, composition: CompositionSpec, act: Callable[[], T]) -> T | None:
        """What `act` returns, which calls the components of a composition; None if that is, or now has to be, left out.

        Raises errors of ours, such as ConfigError for parts that do not fit, PluginError only where nothing is left
        out.
        """
        name = composition.name
        try:
            if cause := self.failures.get(name) or self._watch.given_up.get(name):
                raise PluginError(f"{name}: {cause}")
            with self._watch.on({name: name}), undisturbed(), blamed(name):
                self._watch.at(f"checking {name}")
                done = act()
            self._watch.at("planning")
            return done
        except (PluginError, ResourceError) as error:
            alone = isinstance(error, PluginError) or error.message.startswith(OUT_OF_MEMORY)
            if not alone or not self._leaves_out or composition.kind == "base":
                raise error.at(composition.where or name) from None
            self.failures[name] = error.message.removeprefix(f"{name}: ")
            return None
