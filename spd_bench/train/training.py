"""One model and its optimiser, step by step (§7.2, §7.3). The encoder is frozen; random numbers come from (seed, step).

The dropout generator is reseeded at each step from (seed, step), so that an interrupted training continues from its
last checkpoint exactly as if it had never stopped.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd_bench.api import Features, PointDepthModel
from spd_bench.data.batches import Batch
from spd_bench.data.randomness import torch_seed
from spd_bench.errors import SpdError
from spd_bench.model.compose import check_depth
from spd_bench.train import checkpoint as checkpoints
from spd_bench.train.log import TrainingLog
from spd_bench.train.losses import LossParts

CHECKPOINT_EVERY_S = 120.0
"""Longest time between two checkpoints; there is one after each validation, too."""


class TrainingDiverged(SpdError):
    """Loss or gradient is not finite; raised before the optimiser's step."""

    exit_code = 4


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """§7.3 and R-19, resolved: AdamW, cosine from lr to min_lr over all steps, clipping by global norm."""

    steps: int
    """Steps of the whole training."""
    lr: float
    """Learning rate of the first step."""
    min_lr: float
    """Learning rate of the last step."""
    weight_decay: float
    """Weight decay of weight matrices."""
    betas: tuple[float, float]
    """AdamW's betas."""
    clip: float
    """Bound of the gradient's global norm."""
    lambda_si: float
    """Weight of the structure term in the loss (§7.2)."""
    precision: str
    """fp32 or bf16."""
    validate_at: tuple[int, ...]
    """Steps after which the model is validated and saved; the last step is always one."""
    log_at: tuple[int, ...] = ()
    """Further steps after which the means since the last row are logged: the ends of epochs."""

    def lr_at(self, step: int) -> float:
        """The learning rate of `step`, 0 … steps − 1."""
        progress = step / max(1, self.steps - 1)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: PointDepthModel, weight_decay: float) -> list[dict[str, Any]]:
    """The optimiser's groups: weight decay on weight matrices, none on biases, norms, embeddings and tables (R-19)."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.trainable():
        (matrices if name.endswith("weight") and parameter.dim() >= 2 else others).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class Training:
    """One model on its way to its last step, advanced batch by batch so that several models can share a batch.

    Continues from `checkpoint` if it exists.
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
        diagnose: Callable[[PointDepthModel], dict[str, float]] = lambda model: {},
        device: torch.device,
    ) -> None:
        """validate: returns values that are logged at validations. diagnose: returns values for every row."""
        self.model = model
        self.loss = loss
        self.how = how
        self.seed = seed
        self.checkpoint = checkpoint
        self.validate = validate
        self.diagnose = diagnose
        self.device = device
        groups = parameter_groups(model, how.weight_decay)
        self.optimiser = torch.optim.AdamW(groups, lr=how.lr, betas=how.betas, fused=True)
        self.step, self.log = 0, TrainingLog()
        if checkpoint.exists():
            self.step, self.log = checkpoints.restore(checkpoint, model, self.optimiser)
        self._saved_at = time.monotonic()

    def advance(self, batch: Batch, frozen: Features, *, shared_s: float = 0.0) -> float:
        """Takes the next step and writes the log row and checkpoint that are due; returns the loss.

        shared_s: this model's share of the seconds that the batch and its features took. Raises TrainingDiverged for
        a loss or gradient that is not finite, PluginError for depths of a wrong shape or kind.
        """
        started = time.monotonic()
        values = self._optimise(batch, frozen)
        self.log.add(values)
        self.step += 1
        self.log_row()
        self.log.seconds += time.monotonic() - started + shared_s
        if self.step in self.how.validate_at or time.monotonic() - self._saved_at > CHECKPOINT_EVERY_S:
            self.save()
        return values["loss"]

    def log_row(self) -> None:
        """Validates and logs a row if one is due after the last step and not there yet."""
        validating = self.step in self.how.validate_at
        logged = bool(self.log.rows) and self.log.rows[-1][0] == self.step
        if (validating or self.step in self.how.log_at) and not logged:
            values = {"lr": self.how.lr_at(self.step - 1)} | self.diagnose(self.model)
            self.log.close_row(self.step, values | (self.validate(self.model) if validating else {}))

    def save(self) -> None:
        """Writes a checkpoint to continue from."""
        checkpoints.save(self.checkpoint, self.model, self.optimiser, self.step, self.log)
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


def autocast(precision: str, device: torch.device) -> Any:
    """A context: bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
