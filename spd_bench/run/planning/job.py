"""One job of a suite."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spd_bench.store import records
from spd_bench.suite.axes import CompositionSpec


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and evaluation: a composition under one seed."""

    composition: CompositionSpec
    """What is trained."""
    seed: int
    """Seed of initial weights, batches and dropout."""
    train_identity: Mapping[str, Any]
    """Everything that the weights depend on."""
    eval_identity: Mapping[str, Any]
    """Everything that the scores depend on beside the training."""
    failure: str = ""
    """Why it cannot begin, "" if it can; with a failure, the identities only tell it from other jobs."""

    @cached_property
    def train_id(self) -> str:
        """Identity of the training: SHA-256, hexadecimal."""
        return records.sha256(self.train_identity)

    @cached_property
    def eval_id(self) -> str:
        """Identity of the evaluation, which includes the training's: SHA-256, hexadecimal."""
        return records.sha256([self.train_id, self.eval_identity])

    @property
    def name(self) -> str:
        """Composition and seed, for messages."""
        return f"{self.composition.name} seed {self.seed}"
