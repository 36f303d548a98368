"""The only file that imports MLflow: runs, series and files into its database, never at a run's expense.

Run folders are the record; MLflow is a copy of it to browse. So no call here raises, and the first one that fails
switches tracking off for the rest of the process, with one warning. The database is the one that
MLFLOW_TRACKING_URI names, else `<run_root>/mlflow.db`.
"""

import logging
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

EXPERIMENT = "spd-bench"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Set where the user has not, before MLflow is imported. With its own defaults a dead server holds a call 4 minutes."""

METRICS_PER_CALL = 1000
PARAMS_PER_CALL = 100
NAME_LENGTH = 250
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
"""Limits of MLflow's REST interface."""

CUT = " … [cut]"
LOCK_TIMEOUT_S = 60.0
RECORD_LATER = "give the same command again once it works: finished runs are not repeated, only recorded"

Status = Literal["FINISHED", "FAILED", "KILLED"]
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tracker:
    """Records suites and their runs; making one touches neither disk nor network.

    When tracking is off, `open_suite` and `open_run` return None, and every method takes None for a run id and
    does nothing.
    """

    def __init__(self, run_root: Path) -> None:
        self.run_root = run_root.absolute()
        self._client: Any = None
        self._experiment_id = ""
        self._off = False
        self._started_ms: dict[str, int] = {}
        self._skipped: dict[str, set[tuple[str, int]]] = {}

    @property
    def active(self) -> bool:
        """False once a call has failed."""
        return not self._off

    @property
    def store(self) -> str:
        """Where runs are recorded, without any password."""
        return _without_password(self._uri())

    def open_suite(
        self, name: str, *, params: Mapping[str, str], tags: Mapping[str, str], resume_id: str | None
    ) -> str | None:
        """Open (or, with the id of an earlier one, reopen) the parent run of a suite. Returns its id."""
        return self._guarded(lambda: self._open(name, None, params, tags, resume_id))

    def open_run(
        self,
        name: str,
        *,
        parent_id: str | None,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        resume_id: str | None,
    ) -> str | None:
        """Open or reopen the run of one composition and seed below a suite's. Returns its id."""
        return self._guarded(lambda: self._open(name, parent_id, params, tags, resume_id))

    def log_series(self, run_id: str | None, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, {name: value}) rows, for example "eval/K64/absrel"; the same rows again change nothing.

        Values that are not finite are left out; the tag `spd.non_finite` counts them.
        """
        if run_id is not None:
            self._guarded(lambda: self._log_series(run_id, rows))

    def log_files(self, run_id: str | None, paths: Iterable[Path]) -> None:
        """Copy files into the run's artifacts; the tag `spd.missing_files` names those that are not there."""
        if run_id is not None:
            self._guarded(lambda: self._log_files(run_id, list(paths)))

    def log_text(self, run_id: str | None, text: str, name: str) -> None:
        """Store a text as the artifact `name`."""
        if run_id is not None:
            self._guarded(lambda: self._connected().log_text(run_id, text, name))

    def close(self, run_id: str | None, status: Status) -> None:
        """End a run."""
        if run_id is not None:
            self._guarded(lambda: self._connected().set_terminated(run_id, status))

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """What `act` returns, or None if tracking is off or goes off by it."""
        if self._off:
            return None
        try:
            with _urllib3_quiet():
                return act()
        except Exception as error:
            self._off = True
            reason = _without_password(" ".join(str(error).split()))[:200]
            _log.warning(
                "MLflow tracking is off from here on: %s: %s. Nothing is lost: results are complete in the run "
                "folders below %s. To record them in MLflow, %s.",
                type(error).__name__,
                reason,
                self.run_root,
                RECORD_LATER,
            )
            return None

    def _connected(self) -> Any:
        """The client. The first call opens the database; one process at a time, as MLflow cannot create it twice."""
        if self._client is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from filelock import FileLock
            from mlflow.tracking import MlflowClient

            self.run_root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.run_root / ".mlflow.lock", timeout=LOCK_TIMEOUT_S):
                client = MlflowClient(tracking_uri=self._uri())
                self._experiment_id = self._experiment(client)
            self._client = client
        return self._client

    def _uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(self.run_root / 'mlflow.db').as_posix()}"

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        on_server = self._uri().startswith(("http:", "https:", "databricks"))
        place = None if on_server else (self.run_root / "mlflow-artifacts").as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=place))

    def _open(
        self,
        name: str,
        parent_id: str | None,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        resume_id: str | None,
    ) -> str:
        client = self._connected()
        run = _find(client, resume_id) if resume_id else None
        if run is None:
            parent = {"mlflow.parentRunId": parent_id} if parent_id else {}
            run = client.create_run(self._experiment_id, tags=parent, run_name=name)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        self._started_ms[run_id] = run.info.start_time
        _log_params(client, run_id, params, known=run.data.params)
        _log_tags(client, run_id, tags)
        return run_id

    def _log_series(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        client = self._connected()
        names = {name: _legal(name) for _, values in rows for name in values}
        # one time stamp for the whole run: MLflow drops an equal (name, step, time, value), so a resume adds nothing
        now = self._started_ms.get(run_id, 0)
        points = [(names[name], value, step) for step, values in rows for name, value in values.items()]
        finite = [Metric(name, float(value), now, step) for name, value, step in points if math.isfinite(value)]
        for batch in _batches(finite, METRICS_PER_CALL):
            client.log_batch(run_id, metrics=batch)
        if len(finite) < len(points):
            skipped = self._skipped.setdefault(run_id, set())
            skipped.update((name, step) for name, value, step in points if not math.isfinite(value))
            client.set_tag(run_id, "spd.non_finite", str(len(skipped)))

    def _log_files(self, run_id: str, paths: Sequence[Path]) -> None:
        client = self._connected()
        for path in paths:
            if path.exists():
                client.log_artifact(run_id, str(path))
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            client.set_tag(run_id, "spd.missing_files", _cut(", ".join(missing), TAG_LENGTH))


def _without_password(text: str) -> str:
    return re.sub(r"//[^/\s]*@", "//…@", text)


def _find(client: Any, run_id: str) -> Any:
    """The run of that id; None if the database has none, or has it deleted: a new one takes its place."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _log_params(client: Any, run_id: str, params: Mapping[str, str], *, known: Mapping[str, str]) -> None:
    """Log what the run does not have yet. MLflow's parameters never change; `spd.changed_params` names those that did.

    Values over MLflow's limit are cut, with a mark: the whole configuration is an artifact.
    """
    from mlflow.entities import Param

    wanted = {_legal(name): _cut(value, PARAM_LENGTH) for name, value in params.items()}
    new = [Param(name, value) for name, value in wanted.items() if name not in known]
    for batch in _batches(new, PARAMS_PER_CALL):
        client.log_batch(run_id, params=batch)
    changed = sorted(name for name, value in wanted.items() if known.get(name, value) != value)
    if changed:
        client.set_tag(run_id, "spd.changed_params", _cut(", ".join(changed), TAG_LENGTH))


def _log_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    wanted = [RunTag(_legal(name), _cut(value, TAG_LENGTH)) for name, value in tags.items()]
    for batch in _batches(wanted, PARAMS_PER_CALL):
        client.log_batch(run_id, tags=batch)


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
def _urllib3_quiet() -> Iterator[None]:
    """Its warning for every retry says what our one warning says."""
    logger = logging.getLogger("urllib3.connectionpool")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
