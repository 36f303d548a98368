"""The data set, protocol and metrics that a suite's predictions are scored with."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spd_bench import registry
from spd_bench.api import DepthDataset
from spd_bench.data.elsewhere import TestElsewhere
from spd_bench.protocol import Protocol, protocol
from spd_bench.score.metrics import Metric
from spd_bench.store import records
from spd_bench.suite.checks import check_options
from spd_bench.suite.identity import FORMAT
from spd_bench.suite.schema import Choice, Suite


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Everything needed to score predictions under a suite.

    It needs no model, encoder or weights, so that external predictions are scored like the suite's own.
    """

    suite: Suite
    """The suite."""
    data: DepthDataset
    """Its data set, opened."""
    protocol: Protocol
    """Its protocol."""
    metrics: tuple[Metric, ...]
    """Every registered metric."""

    @classmethod
    def of(cls, suite: Suite) -> "Judge":
        """The judge of a suite; opens its data set. Raises ConfigError for ground truth that the protocol rejects."""
        where = suite.place("eval", "protocol")
        judge = cls(
            suite=suite,
            data=_open_data(suite),
            protocol=protocol(suite.eval.protocol, where=where),
            metrics=tuple(registry.load("metric", name)() for name in sorted(metric_names())),
        )
        judge.protocol.check_truth(judge.data.truth, where=where)
        return judge

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that changes a score, except the predictions and the data."""
        return {
            "format": FORMAT,
            "protocol": self.protocol.identity(),
            "k": list(self.suite.eval.k),
            "k1_draws": self.suite.eval.k1_draws,
            "seed": self.suite.eval.seed,
            "metrics": {metric.name: metric.version for metric in self.metrics},
        }

    @cached_property
    def id(self) -> str:
        """SHA-256 of data and scoring: two numbers are comparable exactly if this is equal."""
        return records.sha256([self.data.digest(), self.identity])

    @property
    def caption(self) -> str:
        """The protocol and the seed of its query points, in one line for tables."""
        about = self.suite.eval
        return f"{self.protocol.caption()}; query points of seed {about.seed}, at K=1 mean of {about.k1_draws} draws"


def metric_names() -> list[str]:
    """Registered metrics; one of a plugin that has the name of another metric is left out."""
    return [name for name in registry.names("metric") if ":" not in name]


def _open_data(suite: Suite) -> DepthDataset:
    """The suite's data set; with `data.test`, its test split is that of the other one."""
    data: DepthDataset = component(suite, "dataset", suite.data.dataset, "data", "dataset")
    if suite.data.test is None:
        return data
    return TestElsewhere(data, component(suite, "dataset", suite.data.test, "data", "test"))


def component(suite: Suite, slot: str, choice: Choice, *keys: str) -> Any:
    """The component of a choice, configured; `keys` lead to the choice in the suite, for messages."""
    return registry.load(slot, choice.use)(check_options(choice, slot, suite=suite, keys=keys))
