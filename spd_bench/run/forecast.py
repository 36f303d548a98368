"""How long the jobs of a plan will take, estimated from finished runs below the same root on the same kind of device.

Nothing is measured, so that planning stays quick and writes nothing. A finished run gives seconds per image of
training and of testing; a job takes those of its own model, else of the base, else of any other model of the suite on
the same encoder and data. What only a first run does, such as encoding views that are kept, is included in its figures.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from spd_bench.run.planning.job import Job
from spd_bench.run.provenance import device_label
from spd_bench.run.runner import Runner
from spd_bench.store import records
from spd_bench.store.records import canonical
from spd_bench.store.run_root import TRAINED, Identity, RunRecord, ScoresRecord, TrainedRecord

UNKNOWN = "unknown (no run here yet; the first one tells)"
SIZES = {"train": "batch size or queries", "test": "K"}
"""What differs between two runs of the same model at other sizes, for sources of estimates."""


class Estimate(NamedTuple):
    """How long a job will take."""

    seconds: float | None
    """None where nothing comparable was run."""
    source: str
    """What that is estimated from."""


class _Pace(NamedTuple):
    """Seconds per image of one finished training or evaluation, and what they depend on."""

    work: str
    setting: str
    model: str
    sizes: str
    seconds: float


class Forecast:
    """Estimates for the jobs of a runner's experiment."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        jobs, device = runner.experiment.jobs, device_label(runner.device)
        self._base = canonical(jobs[0].train_identity["model"])
        self._names = {canonical(job.train_identity["model"]): job.composition.name for job in reversed(jobs)}
        paths = sorted((runner.root / "trained").glob("*/run.json"))
        self._paces = [pace for path in paths for pace in _paces(path, device) if pace.model in self._names]

    def of(self, job: Job, state: str) -> Estimate:
        """How long a job in a state (`RunFolder.state`) will take."""
        if state not in ("to train", "to resume", "to evaluate", "to score"):
            return Estimate(0.0, "")
        sources: list[str] = []
        training = 0.0 if state == "to evaluate" else self._training(job, sources)
        testing = self._per_image(job, "test", sources)
        if training is None or testing is None:
            return Estimate(None, UNKNOWN)
        images = len(self.runner.experiment.data.frames("test"))
        return Estimate(training + testing * images, "; ".join(dict.fromkeys(sources)))

    def _training(self, job: Job, sources: list[str]) -> float | None:
        """Seconds of the steps that are left."""
        if not self.runner.experiment.is_trained(job.composition):
            return 0.0
        done, taken_s = _progress(self.runner.folder(job).checkpoint)
        if done:
            steps = self.runner.inputs.optimisation(job).steps
            sources.append(f"its own first {done} of {steps} steps")
            return taken_s / done * (steps - done)
        found = self._per_image(job, "train", sources)
        if found is None:  # the frames are then not asked for: some data sets have to make them first
            return None
        return found * self.runner.inputs.optimisation(job).steps * job.composition.train.batch_size

    def _per_image(self, job: Job, work: str, sources: list[str]) -> float | None:
        """Mean seconds per image of the runs that are most like a job; adds their names to `sources`."""
        identity = job.train_identity
        model, setting = canonical(identity["model"]), _setting(identity)
        sizes = _batch(identity) if work == "train" else _points(job.eval_identity)
        alike: dict[tuple[bool, ...], list[_Pace]] = {}
        for pace in self._paces:
            if (pace.work, pace.setting) == (work, setting):
                unlike = pace.model != model, pace.sizes != sizes, pace.model not in (model, self._base)
                alike.setdefault(unlike, []).append(pace)
        if not alike:
            return None
        (other_model, other_sizes, _), nearest = min(alike.items())
        names = dict.fromkeys(self._names[pace.model] for pace in nearest)
        who = ", ".join(names) if other_model else "it"
        what = f" with other {SIZES[work]}" if other_sizes else ""
        sources.append(f"{len(nearest)} run{'s' if len(nearest) > 1 else ''} of {who}{what}")
        return fmean(pace.seconds for pace in nearest)


def _paces(path: Path, device: str) -> Iterator[_Pace]:
    """The paces of the run whose run.json is at `path`, if it is finished and was made on this kind of device."""
    run, log = records.find(path, RunRecord), records.find(path.with_name(TRAINED), TrainedRecord)
    if run is None or log is None or run.get("device", device) != device:
        return
    identity = run["identity"]
    of = _setting(identity), canonical(identity["model"])
    if log["rows"]:
        images = int(log["rows"][-1][0]) * int(identity["train"]["batch_size"])
        yield _Pace("train", *of, _batch(identity), float(log["seconds"]) / images)
    for scores in sorted(path.parent.glob("eval-*/scores.json")):
        record = records.find(scores, ScoresRecord)
        if record is not None and "seconds" in record:  # earlier versions wrote no seconds
            yield _Pace("test", *of, _points(record["identity"]), float(record["seconds"]) / int(record["images"]))


def _setting(identity: Identity) -> str:
    """What changes the time of one model's step beside the numbers of images and points."""
    return canonical([identity["encoder"], identity["data"], identity["train"]["precision"]])


def _batch(identity: Identity) -> str:
    return canonical([identity["train"]["batch_size"], identity["train"]["queries"]])


def _points(eval_identity: Identity) -> str:
    return canonical([eval_identity["k"], eval_identity["k1_draws"]])


def _progress(checkpoint: Path) -> tuple[int, float]:
    """Steps done by an interrupted training, and the seconds that they took."""
    if not checkpoint.exists():
        return 0, 0.0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return int(state["step"]), float(state["log"]["seconds"])
    except Exception:  # `run` says what is wrong with it
        return 0, 0.0
