"""The callback that keeps a supervisor informed, and ends the work when it is asked to stop."""

from spd_bench.process.watch import Watch
from spd_bench.train.callback import Callback


class Heartbeat(Callback):
    """Says at each event which item comes next (`Watch.at`); that raises Stopped once the work is asked to stop."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_frame(self, done: int, total: int) -> None:
        """The next frame."""
        self._next("checking frame", done, total)

    def on_view(self, done: int, total: int) -> None:
        """The next view."""
        self._next("encoding view", done, total)

    def on_training(self, step: int, steps: int) -> None:
        """The first step that is left."""
        self.watch.at(f"training at step {step + 1}")

    def on_step(self, step: int, loss: float) -> None:
        """The next step."""
        self.watch.at(f"training at step {step + 1}")

    def on_validation_image(self, done: int, total: int) -> None:
        """The next image."""
        self._next("validating at image", done, total)

    def on_image(self, done: int, total: int) -> None:
        """The next image."""
        self._next("scoring image", done, total)

    def stopping(self) -> bool:
        """Returns whether the supervisor has asked the work to stop."""
        return self.watch.stopping

    def _next(self, stage: str, done: int, total: int) -> None:
        self.watch.at(f"{stage} {min(done + 1, total)} of {total}")
