"""A component that fails while a suite is planned disables only the compositions that use it.

Planning imports components, builds models and runs each once without data. If the process dies or hangs meanwhile, the
supervisor starts another one with the cause (`Watch.given_up`), as for trainings.
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
"""(getter, setter) of each global that a component may change for later ones; random numbers use no global state."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restores the defaults of PyTorch and the working directory at the end of the block."""
    before = [get() for get, _ in _SHARED]
    try:
        yield
    finally:
        for (get, put), value in zip(_SHARED, before, strict=True):
            if get() != value:
                put(value)


class Quarantine:
    """Plans the compositions of a suite one at a time; `failures` says why some are left out.

    The base is never left out, since all others are compared with it: its failure raises PluginError.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        """watch: that of a run, which records what is planned and knows what ended a process before.

        Without it no composition is left out: every failure raises a PluginError that names the composition.
        """
        self.failures: dict[str, str] = {}
        self._leaves_out = watch is not None
        self._watch = watch or Watch()

    def compositions(self, suite: Suite) -> list[CompositionSpec]:
        """The compositions of `suite.axes.compositions`; imports each component on its own before."""
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
            registry.give_up(slot, name, self._watch.given_up[key], exit_code=self._code(key))
        with self._watch.blaming({key: key}), undisturbed():
            self._watch.at(f"importing {key}")
            registry.status(slot, name)  # keeps the problem for those that need the component

    def _code(self, key: str) -> int:
        """Exit code where the base was at hand when a process ended: from outside it is no error of the suite."""
        return ResourceError.exit_code if key in self._watch.outside else PluginError.exit_code

    def attempt(self, composition: CompositionSpec, act: Callable[[], T]) -> T | None:
        """What `act`, which calls the components of a composition, returns; None if the composition is left out.

        Raises ConfigError for parts that do not fit; PluginError for a component's failure where none is left out.
        """
        name = composition.name
        try:
            if cause := self.failures.get(name) or self._watch.given_up.get(name):
                raise PluginError(f"{name}: {cause}", exit_code=self._code(name))
            with self._watch.blaming({name: name}), undisturbed(), blamed(name):
                self._watch.at(f"checking {name}")
                done = act()
            self._watch.at("planning")
            return done
        except (PluginError, ResourceError) as error:
            if error.message.startswith(OUT_OF_MEMORY):
                self._watch.ran_out_of_memory(error.message, {name: name})
            alone = isinstance(error, PluginError) or error.message.startswith(OUT_OF_MEMORY)
            if not alone or not self._leaves_out or composition.kind == "base":
                raise error.at(composition.where or name) from None
            self.failures[name] = error.message.removeprefix(f"{name}: ")
            return None
