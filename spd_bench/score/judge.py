"""What predictions are scored by: a suite's data set, protocol and metrics."""

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
    """What predictions are judged by under a suite: its data set, opened, its protocol and every registered metric.

    It needs no model, no encoder and no weights, so that anybody's predictions can be scored as a suite's own are.
    """

    suite: Suite
    data: DepthDataset
    protocol: Protocol
    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, suite: Suite) -> "Judge":
        """Opens the data set; ConfigError where its ground truth is not of the kind that the protocol is for."""
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
        """Everything that changes a score but the predictions and the data."""
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
        """Identity of the test: numbers may stand side by side exactly where this is the same."""
        return records.sha256([self.data.digest(), self.identity])

    @property
    def caption(self) -> str:
        """The protocol and where its query points come from, in one line for tables."""
        about = self.suite.eval
        return f"{self.protocol.caption()}; query points of seed {about.seed}, at K=1 mean of {about.k1_draws} draws"


def metric_names() -> list[str]:
    """Registered metrics; one of a plugin that has the name of another metric is left out."""
    return [name for name in registry.names("metric") if ":" not in name]


def _open_data(suite: Suite) -> DepthDataset:
    """The data set; with another one's test split where the suite says so."""
    data: DepthDataset = _component(suite, "dataset", suite.data.dataset, "data", "dataset")
    if suite.data.test is None:
        return data
    return TestElsewhere(data, _component(suite, "dataset", suite.data.test, "data", "test"))


def _component(suite: Suite, slot: str, choice: Choice, *keys: str) -> Any:
    return registry.load(slot, choice.use)(check_options(choice, slot, suite=suite, keys=keys))
