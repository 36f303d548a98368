"""What one MLflow run holds, all of it read from records below the run root."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from spd_bench.store import records

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
Series = tuple[tuple[int, Mapping[str, float]], ...]
"""(step, {name: value}) rows."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One MLflow run in full. Logged twice, it is there once."""

    key: tuple[str, ...]
    """Identity of the run within its run root: `MlflowStore` finds it by a tag made of this."""
    name: str
    """What MLflow shows."""
    status: Status
    """RUNNING: more is to come."""
    parent: "TrackedRun | None" = None
    """The run that this one lies below."""
    params: Mapping[str, str] = field(default_factory=dict)
    """MLflow parameters."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """MLflow tags."""
    series: Series = ()
    """Metrics."""
    files: tuple[Path, ...] = ()
    """Copied into the run's artifacts under their names."""
    earlier: str = ""
    """MLflow filter that finds the run as versions without `spd.id` logged it: it is taken over."""
    unless: str = ""
    """MLflow filter: where a run fits it, this entry is not needed."""

    @cached_property
    def content(self) -> str:
        """SHA-256 of all that is logged."""
        rows = [[step, {name: repr(float(value)) for name, value in values.items()}] for step, values in self.series]
        files = {path.name: records.digest_of(path) for path in self.files}
        return records.sha256([self.name, self.status, dict(self.params), dict(self.tags), rows, files])

    @property
    def points(self) -> list[tuple[int, str, float]]:
        """(step, name, value) of every finite value; MLflow takes no other."""
        return [(step, name, value) for step, name, value in self._all_points() if math.isfinite(value)]

    @property
    def non_finite(self) -> int:
        """How many values of the series are not finite."""
        return len(self._all_points()) - len(self.points)

    def _all_points(self) -> list[tuple[int, str, float]]:
        return [(step, name, float(value)) for step, values in self.series for name, value in values.items()]
