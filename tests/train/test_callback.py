"""Hooks: the base does nothing, and several callbacks hear of everything in order."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spd_bench.train.callback import Callback, Callbacks

HOOKS = [name for name, _ in inspect.getmembers(Callback, inspect.isfunction) if not name.startswith("_")]
TELLING = [name for name in HOOKS if name.startswith("on_") and name != "on_failure"]


def arguments(name: str) -> list[Any]:
    """A value of its own for each argument of a hook."""
    return [f"{name} {number}" for number in range(len(inspect.signature(getattr(Callback(), name)).parameters))]


class Heard(Callback):
    """Writes down what it hears; `asked` is what it answers."""

    def __init__(self, name: str, log: list[Any], *, asked: bool = False) -> None:
        self.name = name
        self.log = log
        self.asked = asked

    def __getattribute__(self, hook: str) -> Any:
        if hook not in TELLING:
            return super().__getattribute__(hook)
        return lambda *given: self.log.append((self.name, hook, *given))

    @contextmanager
    def advancing(self, training: Any) -> Iterator[None]:
        self.log.append((self.name, "in"))
        yield
        self.log.append((self.name, "out"))

    def on_failure(self, training: Any, error: BaseException) -> bool:
        return self.asked

    def stopping(self) -> bool:
        return self.asked


def test_there_are_hooks_to_look_at() -> None:
    assert {"on_step", "on_validation", "on_image", "on_job_end"} <= set(TELLING)


@pytest.mark.parametrize("hook", TELLING)
def test_every_event_reaches_every_callback_in_order(hook: str) -> None:
    """A hook that is added to the base and not to `Callbacks` is found here: the base's own does nothing."""
    log: list[Any] = []
    given = arguments(hook)
    getattr(Callbacks(Heard("a", log), Heard("b", log)), hook)(*given)
    assert log == [("a", hook, *given), ("b", hook, *given)]
    assert getattr(Callback(), hook)(*given) is None


def test_contexts_enclose_a_step_and_close_in_reverse() -> None:
    log: list[Any] = []
    with Callbacks(Heard("a", log), Heard("b", log)).advancing(None):  # type: ignore[arg-type]
        log.append("step")
    assert log == [("a", "in"), ("b", "in"), "step", ("b", "out"), ("a", "out")]


@pytest.mark.parametrize(("answers", "expected"), [((), False), ((False, False), False), ((False, True), True)])
def test_one_callback_that_agrees_suffices(answers: tuple[bool, ...], expected: bool) -> None:
    several = Callbacks(*(Heard("x", [], asked=answer) for answer in answers))
    assert several.on_failure(None, RuntimeError()) is expected  # type: ignore[arg-type]
    assert several.stopping() is expected
