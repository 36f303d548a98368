"""Trains one model, or several side by side on the same batches."""

import time
from collections.abc import Sequence

from spd_bench.data.batches import BatchPlan
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures
from spd_bench.errors import DataError, ResourceError
from spd_bench.train.callback import Callback
from spd_bench.train.training import Training


def train(
    trainings: Sequence[Training],
    plan: BatchPlan,
    features: FrozenFeatures,
    *,
    callback: Callback | None = None,
    workers: int = 0,
) -> None:
    """Advances all `trainings` to the plan's last step; a batch is read and encoded once for all of them.

    They may stand at different steps: those ahead wait. callback: its `on_step`, `advancing`, `on_failure` and
    `stopping` are called. A DataError or ResourceError is always raised, since it would meet every model.
    """
    callback = callback or Callback()
    active = [training for training in trainings if training.step < plan.steps]
    try:
        for training in trainings:  # a training that was stopped during a validation has it still to do
            training.log_row()
        _advance(active, plan, features, callback=callback, workers=workers)
    except BaseException:
        if callback.stopping():
            for training in active:
                training.save()
        raise


def _advance(
    active: list[Training], plan: BatchPlan, features: FrozenFeatures, *, callback: Callback, workers: int
) -> None:
    """Loops over batches; a model that fails leaves `active`."""
    first = min((training.step for training in active), default=plan.steps)
    clock = time.monotonic()
    for step, batch in enumerate(plan.loader(first=first, workers=workers), start=first):
        due = [training for training in active if training.step == step]
        if not due:  # the model that was behind has been left out
            continue
        frozen = features.of(batch.views, unit_range(batch.images_B3HW.to(due[0].device)))
        shared_s = (time.monotonic() - clock) / len(due)
        losses = []
        for training in due:
            try:
                with callback.advancing(training):
                    losses.append(training.advance(batch, frozen, shared_s=shared_s))
            except (DataError, ResourceError):
                raise
            except (Exception, SystemExit) as error:  # a component may call sys.exit
                if not callback.on_failure(training, error):
                    raise
                active.remove(training)
        if not active:
            return
        callback.on_step(step + 1, sum(losses) / max(1, len(losses)))
        clock = time.monotonic()
