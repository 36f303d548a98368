"""One `spd-bench sweep` from the command line to its table: any number of processes that give it share its trials."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from spd_bench.api import Encoder, PointDepthModel
from spd_bench.errors import ConfigError, DataError, ResourceError, SpdError, printable
from spd_bench.model.device import device_named
from spd_bench.process.watch import Watch
from spd_bench.run import plan
from spd_bench.run.display import Display
from spd_bench.run.outcome import Outcome
from spd_bench.run.plan import Experiment
from spd_bench.run.runner import VALIDATION_QUERIES
from spd_bench.run.session import stderr_console
from spd_bench.run.track import logging_beside
from spd_bench.score.predict import Predictions
from spd_bench.store import files, records
from spd_bench.suite.axes import CompositionSpec, compositions
from spd_bench.suite.load import load_suite
from spd_bench.suite.schema import Suite
from spd_bench.sweep.confirming import chosen_trial, confirming_suite
from spd_bench.sweep.file import Constraint, Objective, SweepPlan, built, keys_of, load_sweep
from spd_bench.sweep.page import sweep_page
from spd_bench.sweep.study import (
    DATABASE,
    Claim,
    Database,
    Study,
    Taken,
    Waiting,
    database_lost,
    default_url,
    study_name,
)
from spd_bench.sweep.tables import REFUSED, SweepSummary, TrialRow, caption, shown, terminal
from spd_bench.sweep.track import sweep_entry, trial_entry
from spd_bench.sweep.trial import OnValidation, Pruned, TrialCosts, TrialRunner
from spd_bench.tracking.entry import Status, TrackedRun
from spd_bench.tracking.tracker import Tracker

POLL_S = 2.0
"""How often a worker without a trial looks whether another worker's has been left."""
BEAT_S = 0.5
"""How often it says meanwhile that it gets on."""
IN_TIMES = 2
"""Fewest validations by which a training can be pruned."""

log = logging.getLogger("spd_bench")


@dataclass(frozen=True)
class Swept:
    """What a sweep leaves when this worker ends."""

    summary: SweepSummary
    table: str
    database: str
    tracking: str
    report: Path
    finished: bool
    """Whether every trial has come to an end."""


def work(arguments: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """`run_sweep` in a worker process (`spd_bench.process.supervise`): its arguments, and what it leaves in words."""
    given = {key: value for key, value in arguments.items() if key not in ("sweep", "root")}
    swept = run_sweep(arguments["sweep"], root=Path(arguments["root"]), **given, watch=watch)
    return {
        "table": swept.table,
        "study": swept.summary.study,
        "database": swept.database,
        "report": str(swept.report),
        "tracking": swept.tracking,
        "failed": swept.finished and not swept.summary.best,
    }


def run_sweep(
    sweep: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    storage: str | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    began: float | None = None,
    watch: Watch | None = None,
) -> Swept:
    """Works at a sweep until all its trials are done; the same command elsewhere shares them.

    began: when, by `time.monotonic`, the sweep's timeout began to run; by default now. watch: told where the work
    stands. Raises ConfigError or DataError before anything is trained.
    """
    began, watch = time.monotonic() if began is None else began, watch or Watch()
    watch.at("planning")
    console = stderr_console()
    found = load_sweep(sweep, profile=profile, sets=sets, data=data, trials=trials, timeout=timeout, at=watch.at)
    where = device_named(device)
    watch.at("opening the sweep's database")
    database = Database(storage or default_url(root), root)
    files.make_folder(root)
    with database_lost(database.shown):
        return Worker(found, database, root, where, console, watch).work(began + (found.sweep.timeout or float("inf")))


def show_sweep(name: str | None, *, root: Path, storage: str | None = None) -> SweepSummary:
    """What a study has found: by its full name, or the latest of a sweep, or (None) the latest of all."""
    database = _existing(root, storage)
    study = database.find(name)[0]
    return Study.load(database, study).summary()


def write_confirming(summary: SweepSummary, trial: int | None, path: Path) -> None:
    """Writes the suite that confirms a trial (the best one), and checks it as `run` would."""
    text = confirming_suite(summary, chosen_trial(summary, trial))
    if path.exists():
        raise ConfigError("there is a file already", where=str(path), hint="choose another name, or remove it")
    files.write_text(path, text)
    compositions(load_suite(path))


def write_page(summary: SweepSummary, root: Path) -> Path:
    """Writes the page of a study."""
    page = root / "reports" / f"{summary.study}.html"
    files.write_text(page, sweep_page(summary))
    return page


def _existing(root: Path, storage: str | None) -> Database:
    url = storage or default_url(root)
    if storage is None and not (root / DATABASE).exists():
        hint = "spd-bench sweep suites/sweep_lambda_si_r.yaml"
        raise ConfigError(f"no sweep has been run below {root}", hint=hint)
    return Database(url, root)


class Worker:
    """One process at a sweep."""

    def __init__(
        self, found: SweepPlan, database: Database, root: Path, device: torch.device, console: Console, watch: Watch
    ) -> None:
        self.found, self.sweep = found, found.sweep
        self.root, self.device, self.console, self.watch = root, device, console, watch
        self.encoders: dict[str, Encoder] = {}
        self.runner: TrialRunner | None = None
        first = {path: dimension.ends()[0][0] for path, dimension in self.sweep.space.items()}
        experiment = Experiment(found.suite(first), encoders=self.encoders)
        self.validations = self._check_validation(experiment)
        self.references = self._references(experiment)
        self.study = Study(
            database, study_name(self.sweep, _common(experiment, self.sweep.space)), self.sweep, self._about(experiment)
        )
        self.study.note("total", self.sweep.total)
        self.tracker = Tracker(root)
        self.about: Mapping[str, Any] = self.study.noted("about")

    def work(self, until: float) -> Swept:
        """Trial after trial, begun before `until`, and at the end the test split for the chosen one."""
        summary = self.study.summary()
        self._say(caption(summary))
        if summary.others and not summary.trials:
            known = ", ".join(summary.others)
            self._say(f"this space, suite or objective is new: a new study; earlier ones stay: {known}")
        status: Status = "KILLED"
        with logging_beside(self.tracker, self.watch):
            self.tracker.put(self._entry("RUNNING"))
            try:
                self._fail_abandoned()
                finished = self._trials(until)
                if finished:
                    self._score_chosen()
                summary = self.study.summary()
                self.about = summary.about
                report = write_page(summary, self.root)
                status = "FINISHED" if finished else "KILLED"
            finally:
                self.tracker.put(self._entry(status))
        return Swept(summary, terminal(summary), self.study.database.shown, self.tracker.store, report, finished)

    def _say(self, text: str) -> None:
        self.console.print(printable(text, keep="\n"), highlight=False, markup=False, soft_wrap=True)

    def _fail_abandoned(self) -> None:
        """Ends the trials that ended the process before this one."""
        for claim in self.study.abandoned(self.watch.session):
            if cause := self.watch.given_up.get(_key(claim.values)):
                with suppress(Taken):
                    self._fail(claim, cause)

    def _trials(self, until: float) -> bool:
        """Claims until nothing is left; whether every trial has ended."""
        running = 0
        with Display(self.console, 0) as display:
            while time.monotonic() < until:
                self.watch.at("choosing a trial")
                claim = self.study.claim(validations=self.validations, session=self.watch.session)
                if claim is None:
                    return True
                if isinstance(claim, Waiting):
                    if claim.running != running:
                        self._say(f"waiting for {claim.running} trial(s) of other workers")
                        running = claim.running
                    self._wait(POLL_S)
                    continue
                try:
                    with claim:
                        self._try(claim, display)
                except Taken:
                    self._say(f"trial {claim.number}: another worker has taken it over, this one gave no sign of life")
        self._say(f"no further trial is begun after {self.sweep.timeout:g} s; the same command goes on")
        return False

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.watch.at("waiting for trials of other workers")
            time.sleep(min(left, BEAT_S))

    def _try(self, claim: Claim, display: Display) -> None:
        """One trial to its end; whatever its values make of a component costs this trial alone."""
        key = _key(claim.values)
        failure = self.watch.given_up.get(key)
        if failure is None:
            with self.watch.on({key: f"trial {claim.number}"}):
                failure = self._attempt(claim, display)
        if failure:
            self._fail(claim, failure)

    def _fail(self, claim: Claim, failure: str) -> None:
        claim.fail(failure)
        self._tell(claim, f"FAILED: {failure}", "failed", failure=failure)

    def _attempt(self, claim: Claim, display: Display) -> str:
        """Works at a trial; why it failed, or "" where it has come to another end."""
        self.watch.at("building the model")
        try:
            experiment = self._experiment(claim.number, claim.values)
        except (DataError, ResourceError):
            raise
        except SpdError as error:  # values between those that were checked, which do not go together
            return str(error).splitlines()[0]
        runner = self._runner(experiment, lambda n, seen: _judge(claim, self, n, seen))
        self.runner = runner
        job = experiment.jobs[0]
        claim.note("identity", job.train_id)
        claim.note("difference", self._difference(claim.values))
        try:
            return runner.attempt(job, lambda: self._train(claim, runner, job, display))
        except Pruned:
            claim.prune()
            self._tell(claim, "pruned", "pruned")
            return ""

    def _train(self, claim: Claim, runner: TrialRunner, job: plan.Job, display: Display) -> None:
        """Measures what a trial costs, trains it, and judges it on the validation split."""
        costs = self._costs(runner, job.composition)
        excess = {c.name: _cost(costs, c) / c.below - 1 for c in self.sweep.constraints}
        if excess and costs is not None:
            claim.keep({c.name: _cost(costs, c) for c in self.sweep.constraints}, excess)
        broken = [name for name, over in excess.items() if over >= 0]
        if broken:
            claim.note("refused", ", ".join(broken))
            claim.prune()
            return self._tell(claim, f"refused, not trained: {', '.join(broken)} is too large", REFUSED)
        runner.check_data(display.frame)
        runner.build_features(self._say, display.view)
        reused = runner.train(job, display)
        values = [_objective(runner, job, objective, costs) for objective in self.sweep.objective]
        if reused:
            claim.note("reused", True)
        folder = str(runner.folder(job).relative_to(self.root))
        claim.note("folder", folder)
        claim.finish(values)
        named = {objective.name: value for objective, value in zip(self.sweep.objective, values, strict=True)}
        values_text = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        said = values_text + (" (trained before)" if reused else "")
        return self._tell(claim, said, "complete", objectives=named, folder=folder)

    def _experiment(self, number: int, values: Mapping[str, Any]) -> Experiment:
        return Experiment(self.found.suite(values, f"{self.sweep.sweep}-{number}"), encoders=self.encoders)

    def _runner(self, experiment: Experiment, tell: OnValidation) -> TrialRunner:
        return TrialRunner(experiment, self.root, self.device, like=self.runner, watch=self.watch, tell=tell)

    def _tell(
        self, claim: Claim, what: str, state: str, *, objectives: Mapping[str, float] | None = None, **notes: str
    ) -> None:
        """Prints a line about a trial that has ended, and logs its run in MLflow."""
        values = ", ".join(f"{path} {shown(value)}" for path, value in claim.values.items())
        self._say(f"trial {claim.number}: {values}: {what}")
        row = TrialRow(number=claim.number, state=state, values=claim.values, objectives=objectives or {}, notes=notes)
        self.tracker.put(trial_entry(self.root, self._entry("RUNNING"), row))

    # ---------------------------------------------------------------------------------------- before the first trial

    def _check_validation(self, experiment: Experiment) -> int:
        """How often each training is validated; refuses a sweep that has nothing to judge or prune by."""
        if not experiment.data.frames("val"):
            raise DataError("this data has no validation frames to choose by", where=self.found.sweep.sweep)
        validations = len(self._runner(experiment, _nobody).marks)
        if self.sweep.pruner.use != "none" and validations < IN_TIMES:
            raise ConfigError(
                f"pruner {self.sweep.pruner.use}: a training is validated {validations} time(s), nothing to prune by",
                where=self.found.tree.nearest(("pruner",)).head or None,
                hint="set: {train: {validations: 4}}, or pruner: none",
            )
        return validations

    def _references(self, experiment: Experiment) -> dict[str, PointDepthModel]:
        """The baselines that constraints refer to, on the same encoder."""
        models: dict[str, PointDepthModel] = {}
        for index, constraint in enumerate(self.sweep.constraints):
            if constraint.relative_to is None:
                continue
            plain = self.found.base.dump() | {"baselines": [constraint.relative_to.plain()]}
            other = compositions(Suite.model_validate_json(records.canonical(plain)))[-1]
            if other.slots["encoder"].plain() != experiment.compositions[0].slots["encoder"].plain():
                raise ConfigError(
                    f"constraints[{index}].relative_to: {constraint.relative_to.use} has an encoder of its own",
                    where=self.found.tree.nearest(("constraints", index, "relative_to")).head or None,
                    hint="compare with a baseline on the suite's encoder, such as dpt_trained",
                )
            models[constraint.relative_to.use] = built(self.found.base, other, self.encoders)
        return models

    def _about(self, experiment: Experiment) -> dict[str, Any]:
        """What is kept beside the study."""
        return {
            "sweep": self.sweep.model_dump(mode="json", by_alias=True, exclude_none=True),
            "suite": self.found.base.dump(),
            "suite_path": str(self.found.suite_path),
            "profile": self.found.base.profile,
            "why": self.found.why,
            "stand_ins": experiment.stand_ins(experiment.compositions[0]),
            "dataset": experiment.data.describe(),
            "images": len(experiment.data.frames("val")),
            "protocol": experiment.judge.caption,
            "device": str(self.device),
            "versions": plan.versions(),
        }

    def _entry(self, status: Status) -> TrackedRun:
        """The sweep's run in MLflow, shared by all its workers."""
        return sweep_entry(self.root, self.study.name, self.about, status)

    # ---------------------------------------------------------------------------------------------------- one trial

    def _difference(self, values: Mapping[str, Any]) -> str:
        """A trial as its difference from the suite's base."""
        before = self.found.base.dump()
        parts = []
        for path, value in values.items():
            old = _in_suite(before, path)
            if old != value:
                parts.append(f"{path}: {'default' if old is None else shown(old)} → {shown(value)}")
        return ", ".join(parts)

    def _costs(self, runner: TrialRunner, composition: CompositionSpec) -> TrialCosts | None:
        wanted: list[Constraint | Objective] = [*self.sweep.constraints]
        wanted += [objective for objective in self.sweep.objective if objective.cost is not None]
        if not wanted:
            return None
        model = runner.experiment.model(composition, 0).to(self.device)
        ks = sorted({item.k for item in wanted if item.k is not None})

        def on_call(done: int, total: int) -> None:
            self.watch.at(f"measuring costs, call {min(done + 1, total)} of {total}")

        on_call(0, 1)
        return TrialCosts({"": model} | self.references, runner.features(model), ks, self.device, on_call=on_call)

    def _score_chosen(self) -> None:
        """The test split for the best trial, as `run` scores it; by the worker that has its folder."""
        summary = self.study.summary()
        if len(summary.directions) > 1 or not summary.best:
            return
        best = summary.best[0]
        experiment = self._experiment(best.number, best.values)
        runner, suite, job = self._runner(experiment, _nobody), experiment.suite, experiment.jobs[0]
        if runner.state(job) not in ("to evaluate", "done"):
            self._say(
                f"trial {best.number} was trained on {best.notes.get('worker')}: give the command there to score it"
            )
            return
        with Display(self.console, 1) as display:
            outcome: Outcome = runner.test(job, display)
        if outcome.scores is None:
            log.warning("the chosen trial could not be scored on the test split: %s", outcome.failure)
            return
        primary = suite.report.primary
        metric = self.sweep.objective[0].metric or primary.metric
        ks = sorted({primary.k, *(k for k in suite.eval.k if k == self.sweep.objective[0].k)})
        scores = {f"{metric}@{k}": outcome.scores["scores"][f"{metric}@{k}"] for k in ks}
        self.study.note("test", scores)


def _key(values: Mapping[str, Any]) -> str:
    """What a supervisor knows a trial by; another one with the same values would end as this one did."""
    return records.sha256(dict(values))


def _nobody(number: int, predictions: Predictions) -> None:
    """Nobody listens."""


def _common(experiment: Experiment, space: Mapping[str, Any]) -> dict[str, Any]:
    """What all trials of a study have in common: everything that training and judging depend on but the space."""
    judged = {key: value for key, value in experiment.judge.identity.items() if key != "k"}
    return {"train": dict(experiment.jobs[0].train_identity), "judge": judged, "space": sorted(space)}


def _judge(claim: Claim, worker: Worker, number: int, predictions: Predictions) -> None:
    """Reports a validation to the pruner; raises Pruned where it gives the trial up."""
    use, metric = worker.sweep.pruner.use, worker.sweep.objective[0].metric
    assert worker.runner is not None
    if use == "none" or metric is None:
        return
    if use == "wilcoxon":
        errors = worker.runner.per_image(predictions, metric)
        for image, error in enumerate(errors):
            claim.report((number - 1) * len(errors) + image, error)
    else:
        claim.report(number, worker.runner.reported(predictions, metric))
    if number < worker.validations and claim.should_prune():
        raise Pruned


def _cost(costs: TrialCosts | None, constraint: Constraint) -> float:
    assert costs is not None
    if constraint.relative_to is not None:
        return costs.ratio("", constraint.relative_to.use, constraint.cost, constraint.k)
    return costs.of("", constraint.cost, constraint.k)


def _objective(runner: TrialRunner, job: plan.Job, objective: Objective, costs: TrialCosts | None) -> float:
    if objective.cost is not None:
        assert costs is not None
        return costs.of("", objective.cost, objective.k)
    assert objective.metric is not None
    return runner.validation(job, objective.k or VALIDATION_QUERIES)[objective.metric]


def _in_suite(dump: Mapping[str, Any], path: str) -> Any:
    """The value that a suite gives to a path of a space."""
    value: Any = dump
    for key in keys_of(path):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value["use"] if isinstance(value, Mapping) and set(value) == {"use"} else value
