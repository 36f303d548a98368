"""The only file that imports Optuna: a study in a database, and trials that survive the death of a worker.

Workers share nothing but the database. A worker claims a trial under a lock of the whole study, so that the total of
`trials` is never exceeded. A claimed trial sends heartbeats as long as its worker lives; when they stop, the next
worker that claims a trial queues it again with the same values. The trial that was repeated stays in the database as
failed and is not counted.
"""

import os
import platform
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from spd_bench.errors import ConfigError, ResourceError, did_you_mean
from spd_bench.store import files, records
from spd_bench.store.addresses import is_sqlite, sqlite_address, without_password
from spd_bench.sweep.file import Dimension, Sweep, label
from spd_bench.sweep.tables import REFUSED, SweepSummary, TrialRow

HEARTBEAT_S = 15
"""Seconds between two heartbeats of a running trial."""
GRACE_S = 120
"""Seconds without a heartbeat after which a worker counts as dead."""
MOST_DEATHS = 3
"""A trial whose worker died this many times has failed, since it may have killed them."""
CONNECT_S = 5
DATABASE = "sweeps.db"
HASH_LENGTH = 8


def default_url(root: Path) -> str:
    """The database of a run root."""
    return sqlite_address(root / DATABASE)


class Taken(BaseException):
    """Another worker has the trial, since this one sent no heartbeat. A BaseException, since it ends the work."""


NO_ANSWER = (
    "connection refused",
    "timeout expired",
    "timed out",
    "starting up",
    "shutting down",
    "closed the connection",
    "no route to host",
)
"""Words of a PostgreSQL server that does not answer, which is no mistake of the command line."""


class Database:
    """A database of studies: SQLite below a run root, or PostgreSQL for workers on many machines."""

    def __init__(self, url: str, root: Path) -> None:
        """Raises, within seconds, ConfigError for one that cannot be used, ResourceError if no server answers."""
        self.url = url
        self.shown = without_password(url)
        if is_sqlite(url):
            self._file_lock = root.absolute() / ".sweeps.lock"
            files.make_folder(root)
        elif not re.match(r"postgres(ql)?(\+\w+)?://", url):
            hint = f"{default_url(Path('runs'))} or postgresql://user@host/database"
            raise ConfigError("expected a SQLite or PostgreSQL address", where=f"--storage {self.shown}", hint=hint)
        self._quieten()
        with self._reaching():
            self._engine = self._connected()
            with self.lock():  # two processes cannot create one database
                self.storage = self._opened()

    @staticmethod
    def _quieten() -> None:
        """Silences Optuna's per-trial logging and ExperimentalWarnings; our tests cover the features used."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        import optuna
        import sqlalchemy.exc

        try:
            yield
        except ImportError as error:
            hint = "pip install 'spd-bench[postgres]'"
            raise ConfigError(f"its driver is not installed ({error})", where=self.shown, hint=hint) from error
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
            reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
            if any(words in reason.lower() for words in NO_ANSWER):
                raise ResourceError(
                    f"this database does not answer: {reason}",
                    where=f"--storage {self.shown}",
                    hint="the same command goes on once it is back",
                ) from error
            raise ConfigError(
                f"this database cannot be used: {reason}",
                where=f"--storage {self.shown}",
                hint="is it running, and yours?",
            ) from error

    def _connected(self) -> Any:
        """An engine whose connections hold locks, for PostgreSQL; None for SQLite."""
        import sqlalchemy

        if self.url.startswith("sqlite"):
            return None
        engine = sqlalchemy.create_engine(_with_driver(self.url), connect_args={"connect_timeout": CONNECT_S})
        engine.connect().close()
        return engine

    def _opened(self) -> Any:
        import optuna

        patience = {"timeout": 60} if self._engine is None else {"connect_timeout": CONNECT_S}
        return optuna.storages.RDBStorage(
            _with_driver(self.url),
            engine_kwargs={"connect_args": patience, "pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds a lock for one process at a time, on whatever machine; it ends with its holder."""
        if self._engine is None:
            from filelock import FileLock

            with FileLock(self._file_lock):
                yield
        else:
            import sqlalchemy

            with self._engine.begin() as connection:  # the lock ends with the transaction
                connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('spd-bench sweeps'))"))
                yield

    def names(self) -> list[str]:
        """Names of all studies, oldest first."""
        import optuna

        return [str(name) for name in optuna.get_all_study_names(self.storage)]

    def find(self, name: str | None) -> list[str]:
        """The studies of that name or of the sweep of that name, latest first. Raises ConfigError if none exists."""
        known = self.names()[::-1]
        found = [study for study in known if name is None or study == name or sweep_of(study) == name]
        if not found:
            hint = did_you_mean(str(name), {*known, *map(sweep_of, known)})
            raise ConfigError(f'no sweep "{name or ""}" has been run', where=self.shown, hint=hint)
        return found


def _with_driver(url: str) -> str:
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def sweep_of(study: str) -> str:
    """Name of the sweep that a study belongs to."""
    return study.rpartition("-")[0]


def study_name(sweep: Sweep, identity: Mapping[str, Any]) -> str:
    """The sweep's name with a hash of what its trials share: space, objectives, constraints and `identity`."""
    said = sweep.model_dump(mode="json", by_alias=True, include={"space", "objective", "constraints"})
    return f"{sweep.sweep}-{records.sha256([said, identity])[:HASH_LENGTH]}"


@dataclass(frozen=True)
class Waiting:
    """Nothing is left to claim while trials of other workers run."""

    running: int
    """Number of those trials."""


class Study:
    """One sweep's trials in a database."""

    def __init__(self, database: Database, name: str, sweep: Sweep, about: Mapping[str, Any] | None = None) -> None:
        """Opens a study; with `about`, which is stored in it, creates it if it does not exist."""
        import optuna

        self.database, self.name, self.sweep = database, name, sweep
        self.directions = {objective.name: _less_is_better(objective.metric) for objective in sweep.objective}
        if about is None:
            self._study = optuna.load_study(study_name=name, storage=database.storage)
            return
        with database.lock():
            directions = ["minimize" if less else "maximize" for less in self.directions.values()]
            self._study = optuna.create_study(
                study_name=name, storage=database.storage, directions=directions, load_if_exists=True
            )
            if "about" not in self._study.user_attrs:
                self._study.set_user_attr("about", dict(about))

    @classmethod
    def load(cls, database: Database, name: str) -> "Study":
        """Opens a study by its full name, with the sweep that was stored in it."""
        import optuna

        noted = optuna.load_study(study_name=name, storage=database.storage).user_attrs["about"]
        return cls(database, name, Sweep.model_validate(noted["sweep"], strict=False))

    def note(self, key: str, value: Any) -> None:
        """Stores a value with the study."""
        self._study.set_user_attr(key, value)

    def noted(self, key: str) -> Any:
        """A value stored with the study; None if there is none."""
        return self._study.user_attrs.get(key)

    def claim(self, *, validations: int, session: str = "") -> "Claim | Waiting | None":
        """Claims the next trial for this process; None when all are finished.

        validations: number of validations of each training. session: the supervisor's, for `abandoned`.
        """
        with self.database.lock():
            self._queue_lost()
            trials = self._trials()
            open_ = [t for t in trials if t.state.name == "WAITING"]
            if not open_ and len(trials) >= self.sweep.total:
                running = sum(t.state.name == "RUNNING" for t in trials)
                return Waiting(running) if running else None
            if not open_ and self.sweep.sampler.use == "grid":
                self._queue_next_of_grid(trials)
            self._study.sampler = self._sampler(len(trials))
            self._study.pruner = self._pruner(validations)
            trial = self._study.ask(
                {path: _distribution(dimension) for path, dimension in self.sweep.space.items()},
            )
            self.database.storage.record_heartbeat(trial._trial_id)
            trial.set_user_attr("session", session)
            trial.set_user_attr("worker", f"{platform.node()}:{os.getpid()}")  # last: it says that the trial beats
        return Claim(self, trial)

    def abandoned(self, session: str) -> "list[Claim]":
        """The unfinished trials of a session's earlier processes; a supervisor has one process at a time."""
        import optuna
        from optuna.trial import TrialState

        with self.database.lock():
            running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            mine = [trial for trial in running if session and trial.user_attrs.get("session") == session]
            return [Claim(self, optuna.trial.Trial(self._study, trial._trial_id)) for trial in mine]

    def _queue_lost(self) -> None:
        """Queues each trial that its worker left unfinished once again. Call it only under the lock."""
        import optuna
        from optuna.trial import TrialState

        optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "worker" not in trial.user_attrs:  # its worker died while it claimed this
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        for trial in self._trials():
            if trial.state == TrialState.FAIL and self._failure(trial) is None:
                self._study.add_trial(
                    optuna.create_trial(
                        state=TrialState.WAITING,
                        params=trial.params,
                        distributions=trial.distributions,
                        intermediate_values=trial.intermediate_values,
                        user_attrs={key: trial.user_attrs[key] for key in ("grid",) if key in trial.user_attrs},
                        system_attrs={
                            "failed_trial": (_history(trial) or [trial.number])[0],
                            "retry_history": [*_history(trial), trial.number],
                            **{key: v for key, v in trial.system_attrs.items() if key == "fixed_params"},
                        },
                    )
                )

    def _failure(self, trial: Any) -> str | None:
        """Why a failed trial is not repeated; None if it is."""
        if "failure" in trial.user_attrs:
            return str(trial.user_attrs["failure"])
        every = self._study.get_trials(deepcopy=False)
        deaths = [number for number in [*_history(trial), trial.number] if "left" not in every[number].user_attrs]
        return f"its workers died {len(deaths)} times" if len(deaths) >= MOST_DEATHS else None

    def _queue_next_of_grid(self, trials: Sequence[Any]) -> None:
        done = {trial.user_attrs.get("grid") for trial in trials}
        index, point = next((i, point) for i, point in enumerate(self.sweep.grid()) if i not in done)
        self._study.enqueue_trial(point, user_attrs={"grid": index})

    def _trials(self) -> list[Any]:
        """All trials but those that were repeated."""
        trials = self._study.get_trials(deepcopy=False)
        repeated = {number for trial in trials for number in _history(trial)}
        return [trial for trial in trials if trial.number not in repeated]

    def _sampler(self, number: int) -> Any:
        """The sampler, seeded for one trial: its proposal depends on the trials before, not on the worker.

        number: number of trials before; a repeated trial counts once.
        """
        from optuna import samplers

        how = self.sweep.sampler
        seed = int(records.sha256([how.seed, number])[:8], 16)
        if how.use == "tpe":
            return samplers.TPESampler(multivariate=True, n_startup_trials=how.startup, seed=seed)
        if how.use == "gp":
            return samplers.GPSampler(n_startup_trials=how.startup, seed=seed)
        return samplers.RandomSampler(seed=seed)

    def _pruner(self, validations: int) -> Any:
        from optuna import pruners

        if self.sweep.pruner.use == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=validations)
        if self.sweep.pruner.use == "median":
            return pruners.MedianPruner(n_warmup_steps=1)
        return pruners.WilcoxonPruner() if self.sweep.pruner.use == "wilcoxon" else pruners.NopPruner()

    def summary(self) -> SweepSummary:
        """The trials of the study, its best ones, and what was stored with it."""
        rows = {trial.number: self._row(trial) for trial in self._trials()}
        about = dict(self.noted("about")) | {"test": self.noted("test")}
        others = [name for name in self.database.names() if sweep_of(name) == sweep_of(self.name) and name != self.name]
        return SweepSummary(
            study=self.name,
            about=about,
            directions=self.directions,
            total=self.noted("total") or self.sweep.total,
            trials=list(rows.values()),
            best=[rows[number] for number in self._best()],
            importances=self._importances(),
            others=others,
        )

    def _best(self) -> list[int]:
        """The numbers of the front, or of the best trial that keeps the constraints."""
        if len(self.directions) > 1:
            return sorted(trial.number for trial in self._study.best_trials)
        try:
            return [self._study.best_trial.number]
        except ValueError:  # none is complete
            return []

    def _importances(self) -> dict[str, float]:
        import optuna

        complete = [t for t in self._trials() if t.state.name == "COMPLETE"]
        if len(self.directions) > 1 or len(self.sweep.space) < 2 or len({t.value for t in complete}) < 2:
            return {}
        return {str(k): float(v) for k, v in optuna.importance.get_param_importances(self._study).items()}

    def _row(self, trial: Any) -> TrialRow:
        state = str(trial.state.name).lower().replace("fail", "failed")
        notes = dict(trial.user_attrs)
        if state == "failed" and (failure := self._failure(trial)):
            notes["failure"] = failure
        elif state == "failed":  # it was left, and will be repeated
            state = "waiting"
        names = list(self.directions)
        complete = state == "complete" and trial.values is not None
        return TrialRow(
            number=trial.number,
            state=REFUSED if notes.get("refused") else state,
            values={path: trial.params.get(path) for path in self.sweep.space},
            objectives=dict(zip(names, trial.values, strict=True)) if complete else {},
            constraints=dict(notes.get("costs", {})),
            seconds=trial.duration.total_seconds() if trial.duration is not None else None,
            notes=notes,
        )


def _history(trial: Any) -> list[int]:
    """Numbers of the trials that this one repeats."""
    import optuna

    return list(optuna.storages.RetryHeartbeatStaleTrialCallback.retry_history(trial))


def _less_is_better(metric: str | None) -> bool:
    from spd_bench import registry

    return True if metric is None else bool(registry.load("metric", metric).lower_is_better)


def _distribution(dimension: Dimension) -> Any:
    from optuna import distributions

    if dimension.choice is not None:
        return distributions.CategoricalDistribution([label(value) for value in dimension.choice])
    low, high = dimension.range
    if dimension.int_ is not None:
        return distributions.IntDistribution(int(low), int(high), log=dimension.log, step=int(dimension.step or 1))
    return distributions.FloatDistribution(low, high, log=dimension.log, step=dimension.step)


class Claim:
    """A trial that this process works at; sends heartbeats inside `with`.

    It ends by `finish`, `prune` or `fail`. An exception from elsewhere, such as Ctrl-C, leaves it to the next worker.
    """

    def __init__(self, study: Study, trial: Any) -> None:
        self.study = study
        self.number: int = trial.number
        self.values: dict[str, Any] = dict(trial.params)
        self._trial = trial
        self._reported = set(study._study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"trial {trial.number}", daemon=True)

    def __enter__(self) -> Self:
        """Starts the heartbeats."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the heartbeats; leaves an unfinished trial to other workers."""
        self._over.set()
        self._thread.join()
        if error is not None and not isinstance(error, Taken):
            with suppress(Exception, Taken):  # it may be the database that failed
                self.leave()

    def leave(self) -> None:
        """Ends the trial unfinished; the next worker tries it again."""
        self.note("left", True)
        self._tell(state="FAIL")

    def _beat(self) -> None:
        import logging

        while not self._over.wait(HEARTBEAT_S):
            try:
                self.study.database.storage.record_heartbeat(self._trial._trial_id)
            except Exception as error:  # the database may be back before the next beat
                logging.getLogger("spd_bench").warning("trial %d: no sign of life given: %s", self.number, error)

    def note(self, key: str, value: Any) -> None:
        """Stores a value with the trial."""
        with self._mine():
            self._trial.set_user_attr(key, value)

    def report(self, step: int, value: float) -> None:
        """Reports an intermediate value to the pruner, unless that step was reported before."""
        if step not in self._reported:
            with self._mine():
                self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Returns whether the pruner gives this trial up."""
        with self._mine():
            return bool(self._trial.should_prune())

    def keep(self, costs: Mapping[str, float], excess: Mapping[str, float]) -> None:
        """Stores the constrained costs and by how much each exceeds its bound (negative where it does not)."""
        self.note("costs", dict(costs))
        with self._mine():
            for name, value in excess.items():
                self._trial.set_constraint(name, value)

    def finish(self, values: Sequence[float]) -> None:
        """Completes the trial with the values of its objectives."""
        self._tell(values=list(values))

    def prune(self) -> None:
        """Ends the trial as given up."""
        self._tell(state="PRUNED")

    def fail(self, why: str) -> None:
        """Ends the trial as failed; it is not repeated."""
        self.note("failure", why)
        self._tell(state="FAIL")

    def _tell(self, *, values: list[float] | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        final = TrialState[state] if state is not None else None
        with self._mine():
            self.study._study.tell(self._trial, values=values, state=final, skip_if_finished=True)

    @contextmanager
    def _mine(self) -> Iterator[None]:
        import optuna

        try:
            with database_lost(self.study.database.shown):  # not the trial's failure
                yield
        except optuna.exceptions.UpdateFinishedTrialError:
            raise Taken from None


@contextmanager
def database_lost(shown: str) -> Iterator[None]:
    """Raises ResourceError for a database that fails inside the block."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        hint = "trainings are kept; the same command goes on once it is back"
        raise ResourceError(f"the sweep's database failed: {reason}", where=shown, hint=hint) from error
