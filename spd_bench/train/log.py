"""What a training reports, row by row."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingLog:
    """A row of values per epoch and per validation, and the sums since the last row."""

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """(step, name → value) of each row."""
    sums: dict[str, float] = field(default_factory=dict)
    """name → sum over the steps since the last row."""
    summed: int = 0
    """Number of steps in `sums`."""
    seconds: float = 0.0
    """Time that the training has taken, in all its sessions."""

    def add(self, values: dict[str, float]) -> None:
        """Adds the values of one step to the sums."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.summed += 1

    def close_row(self, step: int, extra: dict[str, float]) -> None:
        """Makes the means since the last row, and `extra`, the row of `step`."""
        means = {f"train/{name}": total / self.summed for name, total in self.sums.items()}
        self.rows.append((step, means | extra))
        self.sums, self.summed = {}, 0

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TrainingLog":
        """The log that a checkpoint holds as plain values."""
        rows = [(int(step), dict(values)) for step, values in state["rows"]]
        return cls(rows, dict(state["sums"]), int(state["summed"]), float(state["seconds"]))
