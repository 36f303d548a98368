"""What is left of a plan, in minutes, estimated from what runs below the same root took on the same kind of device.

Nothing is measured here, so that planning stays quick and writes nothing. A finished run says how many seconds an
image of training and an image of testing cost; a job of the same model, else of the base, else of any other model of
the suite on the same encoder and data is expected to cost as much per image. What a first run also does once, such as
encoding views that are kept, is in the figures of whichever run did it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from spd_bench.run.plan import Job
from spd_bench.run.runner import Runner
from spd_bench.store import records

UNKNOWN = "unknown (no run here yet; the first one tells)"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Seconds that a job will take, None where nothing comparable was run; source: what that is estimated from."""

    seconds: float | None
    source: str


class _Pace(NamedTuple):
    """Seconds per image of one run's training or evaluation, at a number of images and points a step."""

    model: str
    sizes: str
    seconds: float
    label: str = ""


class Forecast:
    """Estimates for the jobs of a runner's experiment."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._names: dict[str, str] = {}
        for job in runner.experiment.jobs:
            self._names.setdefault(_model(job.train_identity), job.composition.name)
        self._base = _model(runner.experiment.jobs[0].train_identity)
        self._training: dict[str, list[_Pace]] = {}
        self._testing: dict[str, list[_Pace]] = {}
        for path in sorted((runner.root / "trained").glob("*/run.json")):
            self._take(path)

    def of(self, job: Job, state: str) -> Estimate:
        """What a job in a state (`Runner.state`) will take."""
        if state not in ("to train", "to resume", "to evaluate", "to score"):
            return Estimate(seconds=0.0, source="")
        sources: list[str] = []
        training = 0.0 if state == "to evaluate" else self._train_seconds(job, sources)
        testing = self._seconds(job, self._testing, _points(job.eval_identity), sources)
        if training is None or testing is None:
            return Estimate(seconds=None, source=UNKNOWN)
        images = len(self.runner.experiment.data.frames("test"))
        return Estimate(seconds=training + testing * images, source="; ".join(dict.fromkeys(sources)))

    def _train_seconds(self, job: Job, sources: list[str]) -> float | None:
        if not self.runner.experiment.is_trained(job.composition):
            return 0.0
        done, taken = _progress(self.runner.folder(job) / "checkpoint.pt")
        if done:
            steps = self.runner.steps(job)
            sources.append(f"its own first {done} of {steps} steps")
            return taken / done * (steps - done)
        found = self._seconds(job, self._training, _batch(job.train_identity), sources)
        # without a run on these data their frames are not asked for: some data sets make them first
        return None if found is None else found * self.runner.steps(job) * job.composition.train.batch_size

    def _seconds(self, job: Job, measured: Mapping[str, list[_Pace]], sizes: str, sources: list[str]) -> float | None:
        """Mean seconds per image of the runs that are most like a job; their names go to `sources`."""
        paces = measured.get(_setting(job.train_identity), [])
        model = _model(job.train_identity)

        def unlike(pace: _Pace) -> tuple[bool, bool, bool]:
            return pace.model != model, pace.sizes != sizes, pace.model not in (model, self._base)

        nearest = min(map(unlike, paces), default=None)
        alike = [pace for pace in paces if unlike(pace) == nearest]
        if not alike or nearest is None:
            return None
        names = dict.fromkeys(self._names[pace.model] for pace in alike)
        who = "it" if not nearest[0] else ", ".join(names)
        other = f" with other {alike[0].label}" if nearest[1] else ""
        sources.append(f"{len(alike)} run{'s' if len(alike) > 1 else ''} of {who}{other}")
        return fmean(pace.seconds for pace in alike)

    def _take(self, path: Path) -> None:
        """Notes what a finished run of one of the suite's models took."""
        about, log = records.found_record(path), records.found_record(path.with_name("done.json"))
        if about is None or log is None or about.get("device", self.runner.device_label) != self.runner.device_label:
            return
        identity = about["identity"]
        model, setting = _model(identity), _setting(identity)
        if model not in self._names:
            return
        if log["rows"]:
            images = int(log["rows"][-1][0]) * int(identity["train"]["batch_size"])
            pace = _Pace(model, _batch(identity), float(log["seconds"]) / images, "batch size or queries")
            self._training.setdefault(setting, []).append(pace)
        self._testing.setdefault(setting, []).extend(_tested(path.parent, model))


def _tested(folder: Path, model: str) -> Iterator[_Pace]:
    for path in sorted(folder.glob("eval-*/scores.json")):
        record = records.found_record(path)
        if record is not None and "seconds" in record:  # earlier versions did not say
            yield _Pace(model, _points(record["identity"]), float(record["seconds"]) / int(record["images"]), "K")


def _model(identity: Mapping[str, Any]) -> str:
    """Which model an identity of a training is of."""
    return records.canonical(identity["model"])


def _setting(identity: Mapping[str, Any]) -> str:
    """What a step of one model takes longer or shorter for, beside the numbers of images and points."""
    return records.canonical([identity["encoder"], identity["data"], identity["train"]["precision"]])


def _batch(identity: Mapping[str, Any]) -> str:
    return records.canonical([identity["train"]["batch_size"], identity["train"]["queries"]])


def _points(eval_identity: Mapping[str, Any]) -> str:
    return records.canonical([eval_identity["k"], eval_identity["k1_draws"]])


def _progress(checkpoint: Path) -> tuple[int, float]:
    """Steps that an interrupted training has behind it, and the seconds that they took."""
    if not checkpoint.exists():
        return 0, 0.0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return int(state["step"]), float(state["log"]["seconds"])
    except Exception:  # `run` says what is wrong with it
        return 0, 0.0
