"""One process at a sweep, from the request to the table; any number of such processes share the trials."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from spd_bench.api import Encoder, PointDepthModel
from spd_bench.errors import ConfigError, DataError, ResourceError, SpdError
from spd_bench.model.device import device_named
from spd_bench.process.boundary import from_json, to_json
from spd_bench.process.watch import Watch
from spd_bench.run.display import CleanConsole, Display, stderr_console
from spd_bench.run.inputs import VALIDATION_QUERIES
from spd_bench.run.planning.plan import Experiment
from spd_bench.run.provenance import versions
from spd_bench.run.runner import Runner
from spd_bench.run.track import logging_beside
from spd_bench.store import files, records
from spd_bench.suite.axes import compositions
from spd_bench.suite.schema import Suite
from spd_bench.sweep.costs import TrialCosts
from spd_bench.sweep.file import Constraint, Objective, SweepPlan, built, keys_of, load_sweep
from spd_bench.sweep.pruner_report import Pruned, PrunerReport
from spd_bench.sweep.request import SweepEnd, SweepRequest
from spd_bench.sweep.show import write_page
from spd_bench.sweep.study import Claim, Database, Study, Taken, Waiting, database_lost, default_url, study_name
from spd_bench.sweep.tables import REFUSED, TrialRow, caption, shown, terminal
from spd_bench.sweep.track import sweep_entry, trial_entry
from spd_bench.sweep.trial import Trial
from spd_bench.tracking.entry import Status, TrackedRun
from spd_bench.tracking.tracker import Tracker
from spd_bench.train.callback import Callbacks

POLL_S = 2.0
"""Seconds between two looks of a worker without a trial whether another worker has left one."""
BEAT_S = 0.5
"""Seconds between two heartbeats of a worker that waits."""
IN_TIMES = 2
"""Fewest validations that pruning needs."""

log = logging.getLogger("spd_bench")


def work_on_sweep(arguments: Mapping[str, Any], watch: Watch) -> Any:
    """`run_sweep` in a worker process: the request and what the sweep leaves, as JSON (`process.boundary`)."""
    return to_json(run_sweep(from_json(SweepRequest, arguments), watch))


def run_sweep(request: SweepRequest, watch: Watch | None = None) -> SweepEnd:
    """Works at a sweep in this process until all its trials are done; the same command elsewhere shares them.

    watch: that of a worker process. Raises ConfigError or DataError before anything is trained.
    """
    began, watch = time.monotonic() if request.began is None else request.began, watch or Watch()
    watch.at("planning")
    console = stderr_console()
    found = load_sweep(request, at=watch.at)
    device = device_named(request.device)
    watch.at("opening the sweep's database")
    root = request.root
    database = Database(request.storage or default_url(root), root)
    files.make_folder(root)
    with database_lost(database.shown):
        return Worker(found, database, root, device, console, watch).work(began + (found.sweep.timeout or float("inf")))


class Worker:
    """One process at a sweep."""

    def __init__(
        self,
        found: SweepPlan,
        database: Database,
        root: Path,
        device: torch.device,
        console: CleanConsole,
        watch: Watch,
    ) -> None:
        self.found, self.sweep = found, found.sweep
        self.root, self.device, self.console, self.watch = root, device, console, watch
        self.encoders: dict[str, Encoder] = {}
        self.runner: Runner | None = None
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

    def work(self, until: float) -> SweepEnd:
        """Runs trials that begin before `until`, and at the end scores the chosen one on the test split."""
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
        return SweepEnd(
            table=terminal(summary),
            study=self.study.name,
            database=self.study.database.shown,
            report=report,
            tracking=self.tracker.store,
            finished=finished,
            failed=finished and not summary.best,
        )

    def _say(self, text: str) -> None:
        self.console.say(text)

    def _fail_abandoned(self) -> None:
        """Ends the trials of the processes before this one: those that are given up fail, others are tried again."""
        for claim in self.study.abandoned(self.watch.session):
            with suppress(Taken):
                if cause := self.watch.given_up.get(_key(claim.values)):
                    self._fail(claim, cause)
                else:
                    claim.leave()

    def _trials(self, until: float) -> bool:
        """Claims trials until none is left or the time is up; returns whether every trial has ended."""
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
        """Takes one trial to its end; a failure that its values cause in a component fails this trial alone."""
        key = _key(claim.values)
        failure = self.watch.given_up.get(key)
        if failure is None:
            with self.watch.blaming({key: f"trial {claim.number}"}):
                failure = self._attempt(claim, display)
        if failure:
            self._fail(claim, failure)

    def _fail(self, claim: Claim, failure: str) -> None:
        claim.fail(failure)
        self._report(claim, f"FAILED: {failure}", "failed", failure=failure)

    def _attempt(self, claim: Claim, display: Display) -> str:
        """Works at a trial; returns why it failed, or "" if it ended otherwise."""
        self.watch.at("building the model")
        try:
            experiment = self._experiment(claim.number, claim.values)
        except (DataError, ResourceError):
            raise
        except SpdError as error:  # values between those that were checked, which do not go together
            return str(error).splitlines()[0]
        trial = self._trial(experiment)
        claim.note("identity", trial.job.train_id)
        claim.note("difference", self._difference(claim.values))
        try:
            return trial.attempt(lambda: self._train(claim, trial, display))
        except Pruned:
            claim.prune()
            self._report(claim, "pruned", "pruned")
            return ""

    def _train(self, claim: Claim, trial: Trial, display: Display) -> None:
        """Measures what a trial costs, trains it, and judges it on the validation split."""
        costs = self._costs(trial)
        excess = {c.name: _cost(costs, c) / c.below - 1 for c in self.sweep.constraints}
        if excess and costs is not None:
            claim.keep({c.name: _cost(costs, c) for c in self.sweep.constraints}, excess)
        broken = [name for name, over in excess.items() if over >= 0]
        if broken:
            claim.note("refused", ", ".join(broken))
            claim.prune()
            return self._report(claim, f"refused, not trained: {', '.join(broken)} is too large", REFUSED)
        trial.runner.check_data(display)
        trial.runner.build_features(display)
        report = PrunerReport(claim, self.sweep.pruner, self.sweep.objective[0].metric, trial.marks)
        reused = trial.train(Callbacks(display, report))
        values = [_objective(trial, objective, costs) for objective in self.sweep.objective]
        if reused:
            claim.note("reused", True)
        folder = str(trial.folder.path.relative_to(self.root))
        claim.note("folder", folder)
        claim.finish(values)
        named = {objective.name: value for objective, value in zip(self.sweep.objective, values, strict=True)}
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in named.items())
        numbers += " (trained before)" if reused else ""
        return self._report(claim, numbers, "complete", objectives=named, folder=folder)

    def _experiment(self, number: int, values: Mapping[str, Any]) -> Experiment:
        return Experiment(self.found.suite(values, f"{self.sweep.sweep}-{number}"), encoders=self.encoders)

    def _trial(self, experiment: Experiment) -> Trial:
        """A trial that reuses the images and features of the trial before it."""
        self.runner = Runner(experiment, self.root, self.device, like=self.runner, watch=self.watch)
        return Trial(self.runner)

    def _report(
        self, claim: Claim, what: str, state: str, *, objectives: Mapping[str, float] | None = None, **notes: str
    ) -> None:
        """Prints a line about a trial that has ended, and logs its run to MLflow."""
        values = ", ".join(f"{path} {shown(value)}" for path, value in claim.values.items())
        self._say(f"trial {claim.number}: {values}: {what}")
        row = TrialRow(number=claim.number, state=state, values=claim.values, objectives=objectives or {}, notes=notes)
        self.tracker.put(trial_entry(self.root, self._entry("RUNNING"), row))

    # ---------------------------------------------------------------------------------------- before the first trial

    def _check_validation(self, experiment: Experiment) -> int:
        """The number of validations of each training. Raises an error if there is nothing to judge or prune by."""
        if not experiment.data.frames("val"):
            raise DataError("this data has no validation frames to choose by", where=self.found.sweep.sweep)
        validations = len(self._trial(experiment).marks)
        if self.sweep.pruner.use != "none" and validations < IN_TIMES:
            raise ConfigError(
                f"pruner {self.sweep.pruner.use}: a training is validated {validations} time(s), nothing to prune by",
                where=self.found.tree.nearest(("pruner",)).head or None,
                hint="set: {train: {validations: 4}}, or pruner: none",
            )
        return validations

    def _references(self, experiment: Experiment) -> dict[str, PointDepthModel]:
        """Name → model of the baselines that constraints refer to, on the sweep's encoder."""
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
        """What is stored with the study."""
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
            "versions": versions(),
        }

    def _entry(self, status: Status) -> TrackedRun:
        """The sweep's run in MLflow, which all its workers share."""
        return sweep_entry(self.root, self.study.name, self.about, status)

    # ---------------------------------------------------------------------------------------------------- one trial

    def _difference(self, values: Mapping[str, Any]) -> str:
        """The difference of a trial from the suite's base, in words."""
        before = self.found.base.dump()
        parts = []
        for path, value in values.items():
            old = _in_suite(before, path)
            if old != value:
                parts.append(f"{path}: {'default' if old is None else shown(old)} → {shown(value)}")
        return ", ".join(parts)

    def _costs(self, trial: Trial) -> TrialCosts | None:
        wanted: list[Constraint | Objective] = [*self.sweep.constraints]
        wanted += [objective for objective in self.sweep.objective if objective.cost is not None]
        if not wanted:
            return None
        model = trial.runner.experiment.model(trial.job.composition, 0).to(self.device)
        ks = sorted({item.k for item in wanted if item.k is not None})

        def on_call(done: int, total: int) -> None:
            self.watch.at(f"measuring costs, call {min(done + 1, total)} of {total}")

        on_call(0, 1)
        return TrialCosts({"": model} | self.references, trial.features(model), ks, self.device, on_call=on_call)

    def _score_chosen(self) -> None:
        """Scores the best trial on the test split, as `run` does, if this worker has its folder."""
        summary = self.study.summary()
        if len(summary.directions) > 1 or not summary.best:
            return
        best = summary.best[0]
        experiment = self._experiment(best.number, best.values)
        trial, suite = self._trial(experiment), experiment.suite
        if trial.folder.state not in ("to evaluate", "done"):
            self._say(
                f"trial {best.number} was trained on {best.notes.get('worker')}: give the command there to score it"
            )
            return
        with Display(self.console, 1) as display:
            outcome = trial.test(display)
        if outcome.scores is None:
            log.warning("the chosen trial could not be scored on the test split: %s", outcome.failure)
            return
        primary = suite.report.primary
        metric = self.sweep.objective[0].metric or primary.metric
        ks = sorted({primary.k, *(k for k in suite.eval.k if k == self.sweep.objective[0].k)})
        scores = {f"{metric}@{k}": outcome.scores["scores"][f"{metric}@{k}"] for k in ks}
        self.study.note("test", scores)


def _key(values: Mapping[str, Any]) -> str:
    """A trial's key for the supervisor: a trial with the same values would end the process in the same way."""
    return records.sha256(dict(values))


def _common(experiment: Experiment, space: Mapping[str, Any]) -> dict[str, Any]:
    """What all trials of a study share: everything that training and judging depend on, but for the space."""
    judged = {key: value for key, value in experiment.judge.identity.items() if key != "k"}
    return {"train": dict(experiment.jobs[0].train_identity), "judge": judged, "space": sorted(space)}


def _cost(costs: TrialCosts | None, constraint: Constraint) -> float:
    assert costs is not None
    if constraint.relative_to is not None:
        return costs.ratio("", constraint.relative_to.use, constraint.cost, constraint.k)
    return costs.of("", constraint.cost, constraint.k)


def _objective(trial: Trial, objective: Objective, costs: TrialCosts | None) -> float:
    if objective.cost is not None:
        assert costs is not None
        return costs.of("", objective.cost, objective.k)
    assert objective.metric is not None
    return trial.validation(objective.k or VALIDATION_QUERIES)[objective.metric]


def _in_suite(dump: Mapping[str, Any], path: str) -> Any:
    """The value of a suite at a path of the space."""
    value: Any = dump
    for key in keys_of(path):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value["use"] if isinstance(value, Mapping) and set(value) == {"use"} else value
