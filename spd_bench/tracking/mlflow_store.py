"""Writes entries into MLflow's database or server: the only module that imports MLflow.

A run is found by its tag `spd.id`, and is complete where its tag `spd.content` is that of the entry: what was written
in part is completed, what is complete is left alone. Nothing is created twice: a creation whose reply is lost is looked
for before it is repeated, and of two runs with one tag the one with less is deleted.
"""

import logging
import os
import posixpath
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from spd_bench.environment import set_defaults
from spd_bench.errors import ResourceError
from spd_bench.store import files, records
from spd_bench.store.addresses import sqlite_address, without_password
from spd_bench.store.run_root import TRACKING, TrackingRecord
from spd_bench.tracking.entry import TrackedRun

EXPERIMENT = "spd-bench"
DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
"""Limits of MLflow's REST interface."""

CUT = " … [cut]"
LOCK_TIMEOUT_S = 600.0
"""How long one process waits for another that writes to MLflow for the same run root."""
LOUD = ("urllib3.connectionpool", "mlflow", "sqlalchemy", "alembic")
"""Loggers of libraries that log an error, with its traceback or for every retry, and raise it too."""
RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
ID, CONTENT, ROOT, TRAINING, EVALUATION = "spd.id", "spd.content", "spd.root", "spd.training", "spd.evaluation"
"""Tags: which entry a run is, what is complete of it, and which run root and run folder it shows."""
PAGE = 1000
"""Runs that MLflow lists per call."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


def address(run_root: Path) -> str:
    """Where the runs of a root are tracked: MLFLOW_TRACKING_URI, or `<run_root>/mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(run_root.absolute() / DATABASE)


def import_mlflow() -> None:
    """Imports MLflow with telemetry off: seconds on a cold disk."""
    set_defaults()
    import mlflow.tracking  # noqa: F401


class MlflowStore:
    """The MLflow database or server of a run root. Making one touches neither disk nor network."""

    def __init__(self, run_root: Path) -> None:
        self.run_root = run_root.absolute()
        self._client: Any = None
        self._root: tuple[int, int] | None = None
        self._root_id = ""
        self._said: set[str] = set()
        self._doubtful = False
        self._complete: dict[str, str] = {}

    @property
    def shown(self) -> str:
        """The address without any password."""
        return without_password(address(self.run_root))

    @property
    def is_own(self) -> bool:
        """Whether it is the database below the run root."""
        return not os.environ.get("MLFLOW_TRACKING_URI")

    def log(self, entry: TrackedRun) -> bool:
        """Brings the run of an entry to what the entry says; returns whether anything was missing.

        Raises what MLflow, its database or its server raises; a repetition completes what was begun.
        """
        with self._alone(), _quiet():
            self._connect()
            if self._complete.pop(self._identity(entry), None) == entry.content:
                return False
            if entry.unless and self._search(entry.unless):
                return False
            run = self._find(entry)
            if run is not None and run.info.status == entry.status and entry.status != "RUNNING":
                if run.data.tags.get(CONTENT) == entry.content:
                    return False
                if CONTENT not in run.data.tags and entry.earlier:  # complete, as an earlier version logged it
                    self._log_tags(run.info.run_id, dict(entry.tags) | {CONTENT: entry.content})
                    return False
            run = self._opened(entry, run)
            if entry.status != "RUNNING":
                self._fill(run, entry)
            if self._doubtful:  # a creation without reply may have reached the server late
                self._find(entry)
                self._doubtful = False
            return True

    def _fill(self, run: Any, entry: TrackedRun) -> None:
        """Logs series and files, and ends the run; the tag that says it is complete comes last."""
        client, run_id = self._client, run.info.run_id
        self._log_series(run, entry)
        self._log_files(run_id, entry.files)
        client.set_tag(run_id, CONTENT, entry.content)
        client.set_terminated(run_id, entry.status)

    # ------------------------------------------------------------------------------------------------ connection

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time for a run root: MLflow cannot create a database twice, nor a run of one tag once."""
        from filelock import FileLock

        self._require_root()
        with FileLock(self.run_root / ".mlflow.lock", timeout=LOCK_TIMEOUT_S):
            yield

    def _require_root(self) -> None:
        """Makes the run root at first; raises ResourceError once it is gone, or another folder has its name."""
        if self._root is None:
            files.make_folder(self.run_root)
            self._root = _inode(self.run_root)
        elif _inode(self.run_root) != self._root:
            hint = "mount or move it back; the same command goes on"
            raise ResourceError("the run root is gone, or is another folder now", where=str(self.run_root), hint=hint)

    def _connect(self) -> None:
        if self._client is None:
            import_mlflow()
            from mlflow.tracking import MlflowClient

            self._root_id = self._root_name()
            client = MlflowClient(tracking_uri=address(self.run_root))
            self._client = client
            try:
                self._complete = self._list_complete()
            except BaseException:
                self._client = None
                raise

    def _list_complete(self) -> dict[str, str]:
        """`spd.id` → `spd.content` of this root's complete runs, in few calls: roots have thousands."""
        ids = [experiment.experiment_id for experiment in self._experiments()]
        found, token = {}, None
        wanted = f"tags.`{ROOT}` = '{self._root_id}' and attributes.status != 'RUNNING'"
        while True:
            page = self._client.search_runs(ids, wanted, max_results=PAGE, page_token=token)
            found.update({run.data.tags[ID]: run.data.tags.get(CONTENT, "") for run in page if ID in run.data.tags})
            token = page.token
            if not token:
                return found

    def _root_name(self) -> str:
        """The name of this run root in the store, made once; a copied or moved root keeps it."""
        path = self.run_root / TRACKING
        known = records.find(path, TrackingRecord)
        if known is None:
            known = TrackingRecord(root=uuid.uuid4().hex)
            records.write_record(path, known)
        return known["root"]

    def _experiments(self) -> list[Any]:
        """Returns the harness's active experiments, first the one that new runs go to.

        That is `spd-bench`; where it was deleted, or keeps its files below another run root, `spd-bench-2` and so on.
        """
        usable: list[Any] = []
        others: list[Any] = []
        number = 1
        while True:
            name = EXPERIMENT if number == 1 else f"{EXPERIMENT}-{number}"
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None and usable:
                return usable + others
            if experiment is None:
                self._client.create_experiment(name, artifact_location=self._artifacts())
                continue
            why_not = self._why_not(experiment)
            if not why_not:
                usable.append(experiment)
            elif experiment.lifecycle_stage == "active":
                others.append(experiment)
            if why_not and not usable:
                self._say(f"MLflow's experiment {name} {why_not}")
            number += 1

    def _why_not(self, experiment: Any) -> str:
        """Why new runs cannot go to an experiment; "" where they can."""
        if experiment.lifecycle_stage != "active":
            return (
                "has been deleted, so runs go to the next number. To restore it: "
                f"MLFLOW_TRACKING_URI='{self.shown}' mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}"
            )
        if self.is_own and experiment.artifact_location != self._artifacts():
            return f"keeps its files in {experiment.artifact_location}, so runs go to the next number"
        return ""

    def _artifacts(self) -> str | None:
        """Where a new experiment keeps files; None where a server decides."""
        on_server = address(self.run_root).startswith(("http:", "https:", "databricks"))
        return None if on_server else (self.run_root / ARTIFACTS).as_uri()

    def _say(self, text: str) -> None:
        """Logs a warning once."""
        if text not in self._said:
            self._said.add(text)
            _log.warning("%s", text)

    # ------------------------------------------------------------------------------------------------ runs

    def _search(self, wanted: str) -> list[Any]:
        """Returns the active runs that fit a filter, the oldest first."""
        ids = [experiment.experiment_id for experiment in self._experiments()]
        return list(self._client.search_runs(ids, wanted, order_by=["attributes.start_time ASC"]))

    def _identity(self, entry: TrackedRun) -> str:
        return records.sha256([self._root_id, *entry.key])[:32]

    def _find(self, entry: TrackedRun) -> Any:
        """The run of an entry; None if there is none. Deletes what a lost reply left beside it."""
        identity = self._identity(entry)
        runs = self._search(f"tags.`{ID}` = '{identity}'")
        if not runs and entry.earlier:
            runs = [run for run in self._search(entry.earlier) if ID not in run.data.tags][:1]
            for run in runs:
                self._log_tags(run.info.run_id, {ID: identity, ROOT: self._root_id})
        if not runs:
            return None
        kept = next((run for run in runs if CONTENT in run.data.tags), runs[0])
        for run in runs:
            if run is not kept:
                self._client.set_terminated(run.info.run_id, "KILLED")
                self._client.delete_run(run.info.run_id)
        return kept

    def _opened(self, entry: TrackedRun, run: Any) -> Any:
        """The run of an entry, created if `run` is None, RUNNING, with parameters and tags."""
        parent = self._parent(entry.parent) if entry.parent is not None else None
        run = run or self._created(entry, parent)
        if run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._log_params(run, entry.params)
        self._log_tags(run.info.run_id, dict(entry.tags) | _below(parent))
        return run

    def _parent(self, entry: TrackedRun) -> Any:
        """The run above, as it is, or opened."""
        return self._find(entry) or self._opened(entry, None)

    def _created(self, entry: TrackedRun, parent: Any) -> Any:
        """A new run. A creation without reply is looked for, then repeated once; MLflow itself repeats none."""
        tags = {ID: self._identity(entry), ROOT: self._root_id} | _below(parent)

        def create() -> Any:
            experiment = self._experiments()[0].experiment_id
            with _environment(RETRIES, "0"):
                return self._client.create_run(experiment, tags=tags, run_name=entry.name)

        try:
            return create()
        except Exception:  # the server may have made it all the same
            self._doubtful = True
            return self._find(entry) or create()

    def _log_params(self, run: Any, params: Mapping[str, str]) -> None:
        """Logs what the run does not have yet; MLflow's parameters never change, `spd.changed_params` names others.

        Values over MLflow's limit are cut, with a mark: the whole configuration is an artifact.
        """
        from mlflow.entities import Param

        run_id, known = run.info.run_id, run.data.params
        wanted = {_legal(name): _cut(value, PARAM_LENGTH) for name, value in params.items()}
        new = [Param(name, value) for name, value in wanted.items() if name not in known]
        for batch in _batches(new, PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=batch)
        changed = sorted(name for name, value in wanted.items() if known.get(name, value) != value)
        if changed:
            self._client.set_tag(run_id, "spd.changed_params", _cut(", ".join(changed), TAG_LENGTH))

    def _log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        wanted = [RunTag(_legal(name), _cut(value, TAG_LENGTH)) for name, value in tags.items()]
        for batch in _batches(wanted, PARAMS_PER_CALL):
            self._client.log_batch(run_id, tags=batch)

    def _log_series(self, run: Any, entry: TrackedRun) -> None:
        from mlflow.entities import Metric

        # One time stamp for the whole run: MLflow drops an equal (name, step, time, value), a repetition adds nothing.
        started = run.info.start_time
        metrics = [Metric(_legal(name), value, started, step) for step, name, value in entry.points]
        for batch in _batches(metrics, METRICS_PER_CALL):
            self._client.log_batch(run.info.run_id, metrics=batch)
        if entry.non_finite:
            self._client.set_tag(run.info.run_id, "spd.non_finite", str(entry.non_finite))

    def _log_files(self, run_id: str, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.exists():
                self._client.log_artifact(run_id, str(path))
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            self._client.set_tag(run_id, "spd.missing_files", _cut(", ".join(missing), TAG_LENGTH))


def _inode(folder: Path) -> tuple[int, int] | None:
    """What identifies a folder while it exists; None for a missing one."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _below(parent: Any) -> dict[str, str]:
    """The tag by which MLflow shows a run below another."""
    return {} if parent is None else {"mlflow.parentRunId": parent.info.run_id}


def _legal(name: str) -> str:
    """The name with "_" for what MLflow refuses (all but letters, digits and _ - . : / space), as a relative path."""
    allowed = re.sub(r"[^\w\-. :/]", "_", name)
    path = posixpath.normpath("/" + allowed.lstrip("/")).lstrip("/")
    return path[:NAME_LENGTH].rstrip("/") or "_"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - len(CUT)] + CUT


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what libraries log of an error that they also raise: the tracker logs one line."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
