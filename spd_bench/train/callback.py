"""Hooks of a run: a base class whose hooks do nothing, and one that passes events to several callbacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from spd_bench.train.training import Training

PerImage = Callable[[str], Sequence[float]]
"""Metric → its number on each image of a validation, in the order of the split; computed when it is called."""


class Callback:
    """Does nothing at each event of a run; a subclass overrides the hooks that it needs.

    The work calls each hook in its own thread and waits for it. An exception that a hook raises ends the work there,
    as `Stopped` and a sweep's `Pruned` do.
    """

    def on_message(self, text: str) -> None:
        """A line for the user."""

    def on_frame(self, done: int, total: int) -> None:
        """`done` of `total` frames have been checked."""

    def on_view(self, done: int, total: int) -> None:
        """`done` of `total` views have been encoded for the cache of features."""

    def on_job(self, name: str) -> None:
        """A job begins, or a group of jobs whose models train side by side."""

    def on_training(self, step: int, steps: int) -> None:
        """A training begins or continues; `step` of `steps` are done."""

    def on_step(self, step: int, loss: float) -> None:
        """`step` steps are done, with the row and the checkpoint that were due; loss: mean over the models at it."""

    def on_validation_image(self, done: int, total: int) -> None:
        """`done` of `total` validation images have been predicted."""

    def on_validation(self, values: Mapping[str, float], per_image: PerImage) -> None:
        """A model has been validated; its checkpoint is written before the next `on_step`.

        values: metric → reported number.
        """

    def on_training_end(self) -> None:
        """A training is finished, or all trainings of a group: their final weights are on disk."""

    def on_image(self, done: int, total: int) -> None:
        """`done` of `total` images of an evaluation have been predicted; called with 0 before the first."""

    def on_job_end(self, name: str, result: str) -> None:
        """A job has ended, or had ended before; result: its number or its failure, in words."""

    def advancing(self, training: Training) -> AbstractContextManager[None]:
        """A context that encloses each step of one model."""
        return nullcontext()

    def on_failure(self, training: Training, error: BaseException) -> bool:
        """A model raised at a step. Returns whether it is left out and the others continue; else `error` is raised."""
        return False

    def stopping(self) -> bool:
        """Returns whether the work has been asked to stop, so that what ends a training leaves a checkpoint."""
        return False


class Callbacks(Callback):
    """Passes every event to several callbacks, in order."""

    def __init__(self, *callbacks: Callback) -> None:
        self.callbacks = callbacks

    def on_message(self, text: str) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_message(text)

    def on_frame(self, done: int, total: int) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_frame(done, total)

    def on_view(self, done: int, total: int) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_view(done, total)

    def on_job(self, name: str) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_job(name)

    def on_training(self, step: int, steps: int) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_training(step, steps)

    def on_step(self, step: int, loss: float) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_step(step, loss)

    def on_validation_image(self, done: int, total: int) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_validation_image(done, total)

    def on_validation(self, values: Mapping[str, float], per_image: PerImage) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_validation(values, per_image)

    def on_training_end(self) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_training_end()

    def on_image(self, done: int, total: int) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_image(done, total)

    def on_job_end(self, name: str, result: str) -> None:
        """Passes the event on."""
        for callback in self.callbacks:
            callback.on_job_end(name, result)

    @contextmanager
    def advancing(self, training: Training) -> Iterator[None]:
        """Enters the contexts of all callbacks."""
        with ExitStack() as stack:
            for callback in self.callbacks:
                stack.enter_context(callback.advancing(training))
            yield

    def on_failure(self, training: Training, error: BaseException) -> bool:
        """Asks the callbacks in order; returns whether one of them leaves the model out."""
        return any(callback.on_failure(training, error) for callback in self.callbacks)

    def stopping(self) -> bool:
        """Returns whether one of the callbacks has been asked to stop."""
        return any(callback.stopping() for callback in self.callbacks)
