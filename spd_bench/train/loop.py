"""Training of one model (§7.2, §7.3). Encoder frozen; every random number comes from (seed, step).

The dropout generator is reseeded at each step from (seed, step), so that a training that was interrupted goes on
from its last checkpoint exactly as if it had never stopped.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd_bench.api import Features, PointDepthModel
from spd_bench.data.batches import Batch, BatchPlan
from spd_bench.data.randomness import torch_seed
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures
from spd_bench.errors import DataError, ResourceError, SpdError, StateError
from spd_bench.model.compose import check_depth
from spd_bench.store import sealed
from spd_bench.train.losses import LossParts

CHECKPOINT = "spd-bench checkpoint"
"""What checkpoints say that they are."""
CHECKPOINT_FORMAT = 1
LOST = "restore it from a copy, or delete its folder: the same command then trains it anew"
CHECKPOINT_EVERY_S = 120.0
"""Longest time between two checkpoints, beside those at each validation."""


class TrainingDiverged(SpdError):
    """Loss or gradient is not finite: the run stops before the optimiser step."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """§7.3 and R-19, resolved: AdamW, cosine from lr to min_lr over all steps, clipping by global norm."""

    steps: int
    lr: float
    min_lr: float
    weight_decay: float
    betas: tuple[float, float]
    clip: float
    lambda_si: float
    precision: str
    validate_at: tuple[int, ...]
    """Steps after which the model is validated and saved; the last step is always one."""
    log_at: tuple[int, ...] = ()
    """Further steps after which the means since the last row are logged: the ends of epochs."""

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0 … steps − 1."""
        progress = step / max(1, self.steps - 1)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class TrainingLog:
    """What training reports: a row of values per epoch and per validation, and the sums since the last one."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    summed: int = 0
    seconds: float = 0.0

    def add(self, values: dict[str, float]) -> None:
        """One step's values."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.summed += 1

    def close_row(self, step: int, extra: dict[str, float]) -> None:
        """The means since the last row, and `extra`, become the row of `step`."""
        means = {f"train/{name}": total / self.summed for name, total in self.sums.items()}
        self.rows.append((step, means | extra))
        self.sums, self.summed = {}, 0

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TrainingLog":
        """From a checkpoint."""
        rows = [(int(step), dict(values)) for step, values in state["rows"]]
        return cls(rows, dict(state["sums"]), int(state["summed"]), float(state["seconds"]))


def parameter_groups(model: PointDepthModel, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on weight matrices only (R-19): not on biases, norms, embeddings and position tables."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.trainable():
        (matrices if name.endswith("weight") and parameter.dim() >= 2 else others).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Training:
    """One model on its way to its last step; advanced batch by batch, so that several models can share a batch.

    Goes on from `checkpoint` if it exists. validate: values logged at validations. watch: values logged with every
    row, at validations and ends of epochs.
    """

    def __init__(
        self,
        model: PointDepthModel,
        loss: Callable[[Tensor, Tensor], LossParts],
        how: Optimisation,
        *,
        seed: int,
        checkpoint: Path,
        validate: Callable[[PointDepthModel], dict[str, float]],
        watch: Callable[[PointDepthModel], dict[str, float]] = lambda model: {},
        device: torch.device,
    ) -> None:
        self.model = model
        self.loss = loss
        self.how = how
        self.seed = seed
        self.checkpoint = checkpoint
        self.validate = validate
        self.watch = watch
        self.device = device
        groups = parameter_groups(model, how.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=how.lr, betas=how.betas, fused=True)
        self.step, self.log = 0, TrainingLog()
        if checkpoint.exists():
            self.step, self.log = _restore(checkpoint, model, self.optimiser)
        self._saved_at = time.monotonic()

    def advance(self, batch: Batch, frozen: Features, *, shared_s: float = 0.0) -> float:
        """The next step, with its log row and checkpoint where they are due; returns the loss.

        shared_s: this model's share of the seconds that the batch and its features took. Raises TrainingDiverged for
        a loss or gradient that is not finite, PluginError for depths of a wrong shape or kind.
        """
        started = time.monotonic()
        values = self._optimise(batch, frozen)
        self.log.add(values)
        self.step += 1
        self.look()
        self.log.seconds += time.monotonic() - started + shared_s
        if self.step in self.how.validate_at or time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
            self.save()
        return values["loss"]

    def look(self) -> None:
        """Validates and logs a row where that is due after the last step, unless it is done already."""
        validating = self.step in self.how.validate_at
        logged = bool(self.log.rows) and self.log.rows[-1][0] == self.step
        if (validating or self.step in self.how.log_at) and not logged:
            watched = {"lr": self.how.lr_at(self.step - 1)} | self.watch(self.model)
            self.log.close_row(self.step, watched | (self.validate(self.model) if validating else {}))

    def save(self) -> None:
        """Leaves a checkpoint to go on from."""
        save(self.checkpoint, self.model, self.optimiser, self.step, self.log)
        self._saved_at = time.monotonic()

    def _optimise(self, batch: Batch, frozen: Features) -> dict[str, float]:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.how.lr_at(self.step)
        torch.manual_seed(torch_seed("step", self.seed, self.step))
        with autocast(self.how.precision, self.device):
            depth_m_BK = self.model.decode(self.model.prepare(frozen), batch.xy_BK2.to(self.device))
        check_depth(depth_m_BK, *batch.depth_m_BK.shape, name=f"step {self.step + 1}")
        parts = self.loss(depth_m_BK.float(), batch.depth_m_BK.to(self.device))
        total = parts.point + self.how.lambda_si * parts.structure
        if not torch.isfinite(total):
            raise TrainingDiverged(
                f"loss is {total.item()} at step {self.step + 1}", hint="lower train.lr, or use precision fp32"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        try:
            trained = [parameter for _, parameter in self.model.trainable()]
            nn.utils.clip_grad_norm_(trained, self.how.clip, error_if_nonfinite=True)
        except RuntimeError as error:
            raise TrainingDiverged(
                f"a gradient is not finite at step {self.step + 1}", hint="lower train.lr"
            ) from error
        self.optimiser.step()
        return {"loss": total.item(), "point": parts.point.item(), "silog": parts.structure.item()}


def train(
    trainings: Sequence[Training],
    plan: BatchPlan,
    features: FrozenFeatures,
    *,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_failure: Callable[[Training, BaseException], None] | None = None,
    at: Callable[[Training], AbstractContextManager[None]] = lambda training: nullcontext(),
    stopping: Callable[[], bool] = lambda: False,
    workers: int = 0,
) -> None:
    """Advances all `trainings` to the plan's last step; a batch is read and encoded once for all of them.

    They may stand at different steps: those ahead wait. on_step: step and mean loss. on_failure: told of a model that
    raised, which then drops out; without it the error is raised. A DataError or ResourceError is always raised: it is
    everybody's. at: entered while one of them is advanced. stopping: whether the work has been asked to stop; whatever
    ends the training then leaves checkpoints of the last whole step.
    """
    active = [training for training in trainings if training.step < plan.steps]
    try:
        for training in trainings:  # one that was stopped while it validated has that still to do
            training.look()
        _advance(active, plan, features, on_step=on_step, on_failure=on_failure, at=at, workers=workers)
    except BaseException:
        if stopping():
            for training in active:
                training.save()
        raise


def _advance(
    active: list[Training],
    plan: BatchPlan,
    features: FrozenFeatures,
    *,
    on_step: Callable[[int, float], None],
    on_failure: Callable[[Training, BaseException], None] | None,
    at: Callable[[Training], AbstractContextManager[None]],
    workers: int,
) -> None:
    """The loop over batches; a model that fails leaves `active`."""
    first = min((training.step for training in active), default=plan.steps)
    clock = time.monotonic()
    for step, batch in enumerate(plan.loader(first=first, workers=workers), start=first):
        due = [training for training in active if training.step == step]
        if not due:  # the one that was behind has dropped out
            continue
        frozen = features.of(batch.views, unit_range(batch.images_B3HW.to(due[0].device)))
        shared_s = (time.monotonic() - clock) / len(due)
        losses = []
        for training in due:
            try:
                with at(training):
                    losses.append(training.advance(batch, frozen, shared_s=shared_s))
            except (DataError, ResourceError):
                raise
            except (Exception, SystemExit) as error:
                if on_failure is None:
                    raise
                on_failure(training, error)
                active.remove(training)
        if not active:
            return
        on_step(step + 1, sum(losses) / max(1, len(losses)))
        clock = time.monotonic()


def autocast(precision: str, device: torch.device) -> Any:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def save(
    path: Path, model: PointDepthModel, optimiser: torch.optim.Optimizer | None, step: int, log: TrainingLog
) -> str:
    """Writes tensors and plain values only, so that `torch.load(weights_only=True)` reads them; the file's SHA-256."""
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    state = {
        "format": CHECKPOINT_FORMAT,
        "step": step,
        "model": weights,
        "optimiser": optimiser.state_dict() if optimiser else None,
        "log": asdict(log),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return sealed.write_archive(path, CHECKPOINT, buffer.getvalue())


def load_weights(path: Path, model: PointDepthModel, *, digest: str | None = None) -> dict[str, Any]:
    """Loads a checkpoint's weights into `model` and returns the checkpoint.

    digest: the SHA-256 that the file must have. Raises StateError if it is damaged, newer than this version, or does
    not fit.
    """
    try:
        content = path.read_bytes()
        sealed.check_archive(content, CHECKPOINT)  # torch.load itself compares no checksum
        if digest is not None and hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("it is not the one that the finished training wrote")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if (found := int(state.get("format", 0))) > CHECKPOINT_FORMAT:
            raise ValueError(f"a newer spd-bench wrote it, in format {found}, this one knows {CHECKPOINT_FORMAT}")
        missing, unexpected = model.load_state_dict(state["model"], strict=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise StateError(
            f"cannot be read ({type(error).__name__}: {reason})",
            where=str(path),
            hint=LOST if digest is not None else "delete it and run again",
        ) from error
    missing = [name for name in missing if not name.startswith("encoder.")]
    if missing or unexpected:
        raise StateError(
            f"does not fit the model: missing {missing[:3]}, unexpected {list(unexpected)[:3]}",
            where=str(path),
            hint="delete it and run again",
        )
    return state


def _restore(path: Path, model: PointDepthModel, optimiser: torch.optim.Optimizer) -> tuple[int, TrainingLog]:
    state = load_weights(path, model)
    if state["optimiser"] is not None:  # a training that came to its end keeps its weights only
        optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), TrainingLog.from_state(state["log"])
