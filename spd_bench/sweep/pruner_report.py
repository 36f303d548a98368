"""The callback that reports a trial's validations to its pruner."""

from collections.abc import Mapping, Sequence

from spd_bench.sweep.file import Pruner
from spd_bench.sweep.study import Claim
from spd_bench.train.callback import Callback, PerImage


class Pruned(BaseException):
    """The pruner has given the training up. Derives from BaseException, since it is no failure of the model."""


class PrunerReport(Callback):
    """Reports each validation once its checkpoint is on disk; raises Pruned where the pruner gives the trial up.

    A training that was stopped continues from that checkpoint, so that it reports nothing twice and skips nothing.
    """

    def __init__(self, claim: Claim, pruner: Pruner, metric: str | None, marks: Sequence[int]) -> None:
        """metric: the first objective's, None if that is a cost. marks: steps after which the trial is validated."""
        self.claim = claim
        self.pruner = pruner
        self.metric = metric
        self.marks = marks
        self._unreported: list[tuple[Mapping[str, float], PerImage]] = []

    def on_validation(self, values: Mapping[str, float], per_image: PerImage) -> None:
        """Keeps the numbers until the checkpoint is written."""
        self._unreported.append((values, per_image))

    def on_step(self, step: int, loss: float) -> None:
        """Reports what was kept."""
        self._report(step)

    def on_training_end(self) -> None:
        """Reports what was kept, where only the last validation was left to do."""
        self._report(self.marks[-1])

    def _report(self, step: int) -> None:
        unreported, self._unreported = self._unreported, []
        first = sum(mark <= step for mark in self.marks) - len(unreported) + 1
        for number, (values, per_image) in enumerate(unreported, start=first):
            self._judge(number, values, per_image)

    def _judge(self, number: int, values: Mapping[str, float], per_image: PerImage) -> None:
        if self.pruner.use == "none" or self.metric is None:
            return
        if self.pruner.use == "wilcoxon":
            errors = per_image(self.metric)
            for image, error in enumerate(errors):
                self.claim.report((number - 1) * len(errors) + image, error)
        else:
            self.claim.report(number, values[self.metric])
        if number < len(self.marks) and self.claim.should_prune():
            raise Pruned
