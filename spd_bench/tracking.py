"""The only file that imports MLflow: runs, series and files into its database, never at a run's expense.

Run folders are the record; MLflow is a copy of it to browse. So no call here raises, and the first one that fails,
or the time that calls take beyond what is usual, switches tracking off for the rest of the process, with one warning.
What could not be told waits below `<run_root>/untold`, one file per call, until `Tracker.sync`. The database is the
one that MLFLOW_TRACKING_URI names, else `<run_root>/mlflow.db`.
"""

import logging
import math
import os
import posixpath
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from spd_bench.errors import ResourceError, SpdError
from spd_bench.store import files, records

EXPERIMENT = "spd-bench"
DATABASE = "mlflow.db"
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
LOCK_TIMEOUT_S = 120.0
"""For making a database of our own, and for waiting until another process has made it."""
USUAL_S = 0.5
PATIENCE_S = 8.0
"""What all calls of a process together may take beyond the usual time of each."""
UNTOLD = "untold"
OURS = "spd.run"
"""Tag of the name that a run had before MLflow gave it an id, by which what is told later finds it."""
RECORD_LATER = "run `spd-bench sync` once it works"

Status = Literal["FINISHED", "FAILED", "KILLED"]
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Tracker:
    """Records suites and their runs; making one touches neither disk nor network.

    When tracking is off, `open_suite` and `open_run` return a name of ours in place of an id, and what is told of such
    a run is kept for later. Every method takes None for a run id and does nothing.
    """

    def __init__(self, run_root: Path) -> None:
        self.run_root = run_root.absolute()
        self._client: Any = None
        self._experiment_id = ""
        self._off = False
        self._started_ms: dict[str, int] = {}
        self._skipped: dict[str, set[tuple[str, int]]] = {}
        self._ids: dict[str, str] = {}
        self._waited_s = 0.0
        self._kept = 0

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
        return self._opened(name, None, params, tags, resume_id)

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
        return self._opened(name, parent_id, params, tags, resume_id)

    def log_series(self, run_id: str | None, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log (step, {name: value}) rows, for example "eval/K64/absrel"; the same rows again change nothing.

        Values that are not finite are left out; the tag `spd.non_finite` counts them.
        """
        # exact, and as JSON has no other way to say what is not finite
        texts = [[step, {name: repr(float(value)) for name, value in values.items()}] for step, values in rows]
        self._tell({"call": "series", "run": run_id, "rows": texts})

    def log_files(self, run_id: str | None, paths: Iterable[Path]) -> None:
        """Copy files into the run's artifacts; the tag `spd.missing_files` names those that are not there."""
        self._tell({"call": "files", "run": run_id, "paths": [str(path.absolute()) for path in paths]})

    def log_text(self, run_id: str | None, text: str, name: str) -> None:
        """Store a text as the artifact `name`."""
        self._tell({"call": "text", "run": run_id, "text": text, "name": name})

    def close(self, run_id: str | None, status: Status) -> None:
        """End a run."""
        self._tell({"call": "close", "run": run_id, "status": status})

    def sync(self) -> tuple[int, int]:
        """Tells MLflow what could not be told before; how many calls that was, and how many still wait.

        What was told in part, or twice, is told once: runs are found by their names, and equal values are dropped.
        Raises ResourceError where MLflow refuses; what was told until then is done.
        """
        try:
            return self._sync()
        except SpdError:
            raise
        except Exception as error:
            reason = _without_password(" ".join(str(error).split()))[:200]
            hint = "the same command goes on from there"
            raise ResourceError(f"not taken: {type(error).__name__}: {reason}", where=self.store, hint=hint) from error

    def _sync(self) -> tuple[int, int]:
        told, before = 0, -1
        while told > before:  # what was kept in another order, by a clock that was set back, comes in the next round
            before = told
            for path in self._waiting():
                call = records.read_record(path)
                if call["store"] != self.store:
                    continue
                if self._is_gone(call):  # somebody has deleted the run
                    files.remove(path)
                elif self._is_known(call):
                    self._do(call)
                    files.remove(path)
                    told += 1
        return told, len(self._waiting())

    def _waiting(self) -> list[Path]:
        return sorted((self.run_root / UNTOLD).glob("*.json"))

    def _is_gone(self, call: Mapping[str, Any]) -> bool:
        """Whether MLflow had the run that a call is about, and has it no more."""
        run: str = call["run"]
        return call["call"] != "open" and not run.startswith(UNTOLD) and _find(self._connected(), run) is None

    def _is_known(self, call: Mapping[str, Any]) -> bool:
        """Whether the run that a call is about is there, or is made by it."""
        return call["call"] == "open" or self._id(call["run"]) is not None

    def _opened(
        self,
        name: str,
        parent_id: str | None,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        resume_id: str | None,
    ) -> str | None:
        about = {"name": name, "parent": parent_id, "params": dict(params), "tags": dict(tags)}
        call = {"call": "open", "run": resume_id or f"{UNTOLD}-{uuid.uuid4().hex}", "resumed": bool(resume_id), **about}
        found: str | None = self._guarded(lambda: self._open(call))
        if self._off:
            self._keep(call)
            return str(call["run"])
        return found

    def _tell(self, call: Mapping[str, Any]) -> None:
        """Does a call, or keeps it for later."""
        if call["run"] is not None:
            self._guarded(lambda: self._do(call))
            if self._off:
                self._keep(call)

    def _keep(self, call: Mapping[str, Any]) -> None:
        """Keeps a call for `sync`; where even that cannot be, it is lost, as the run folders have everything."""
        self._kept += 1
        path = self.run_root / UNTOLD / f"{time.time_ns():020d}-{os.getpid()}-{self._kept:06d}.json"
        try:
            records.write_record(path, {**call, "store": self.store})
        except (SpdError, OSError) as error:
            _log.debug("%s: %s", path, error)

    def _guarded(self, act: Callable[[], T]) -> T | None:
        """What `act` returns, or None if tracking is off or goes off by it."""
        if self._off:
            return None
        try:
            with _urllib3_quiet():
                self._connect()
                return self._in_time(act, USUAL_S + PATIENCE_S - self._waited_s)
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

    def _in_time(self, act: Callable[[], T], limit_s: float) -> T:
        """What `act` returns; TimeoutError where it takes longer than this, and it is then left to itself."""
        ended: list[Callable[[], T]] = []

        def work() -> None:
            try:
                found = act()
                ended.append(lambda: found)
            except BaseException as error:
                ended.append(_raising(error))

        started = time.monotonic()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(max(limit_s, USUAL_S))
        self._waited_s += max(0.0, time.monotonic() - started - USUAL_S)
        if not ended:
            raise TimeoutError(f"no answer within {limit_s:.0f} s")
        return ended[0]()

    def _connect(self) -> None:
        """Opens the database once; one process at a time, as MLflow cannot create it twice.

        What importing MLflow and making a database of our own take is no delay: it is the same for everybody.
        """
        if self._client is not None:
            return
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from filelock import FileLock
        from mlflow.tracking import MlflowClient

        def connect() -> tuple[Any, str]:
            client = MlflowClient(tracking_uri=self._uri())
            return client, self._experiment(client)

        files.make_folder(self.run_root)
        with FileLock(self.run_root / ".mlflow.lock", timeout=LOCK_TIMEOUT_S):
            new = self._uri() == self._own_uri() and not (self.run_root / DATABASE).exists()
            before = self._waited_s
            self._client, self._experiment_id = self._in_time(connect, LOCK_TIMEOUT_S if new else PATIENCE_S)
            self._waited_s = before if new else self._waited_s

    def _connected(self) -> Any:
        """The client."""
        self._connect()
        return self._client

    def _uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or self._own_uri()

    def _own_uri(self) -> str:
        return f"sqlite:///{(self.run_root / DATABASE).as_posix()}"

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is not None:
            return str(found.experiment_id)
        on_server = self._uri().startswith(("http:", "https:", "databricks"))
        place = None if on_server else (self.run_root / "mlflow-artifacts").as_uri()
        return str(client.create_experiment(EXPERIMENT, artifact_location=place))

    def _id(self, run: str | None) -> str | None:
        """MLflow's id of a run: its own, or that of the run with our name; None if there is none."""
        if run is None or not run.startswith(f"{UNTOLD}-"):
            return run
        if run not in self._ids:
            found = self._connected().search_runs([self._experiment_id], f"tags.`{OURS}` = '{run}'", max_results=1)
            if not found:
                return None
            self._ids[run] = str(found[0].info.run_id)
            self._started_ms[self._ids[run]] = found[0].info.start_time
        return self._ids[run]

    def _open(self, call: Mapping[str, Any], *, again: bool = False) -> str:
        """The id of a run that is opened or reopened; our own name of it, if it has gone by that.

        again: it may have been opened by this very call before.
        """
        client, name = self._connected(), str(call["run"])
        known = self._id(name) if call["resumed"] or again else None
        run = _find(client, known) if known else None
        if run is None:
            tags = {OURS: name} if name.startswith(UNTOLD) else {}
            parent = self._id(call["parent"])
            tags |= {"mlflow.parentRunId": parent} if parent else {}
            run = client.create_run(self._experiment_id, tags=tags, run_name=call["name"])
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        run_id = str(run.info.run_id)
        self._started_ms[run_id] = run.info.start_time
        _log_params(client, run_id, call["params"], known=run.data.params)
        _log_tags(client, run_id, call["tags"])
        if name.startswith(UNTOLD):
            self._ids[name] = run_id
        return name if call["resumed"] and name.startswith(UNTOLD) else run_id

    def _do(self, call: Mapping[str, Any]) -> None:
        """One call, now or later."""
        kind, client = call["call"], self._connected()
        if kind == "open":
            self._open(call, again=True)
            return
        run_id = self._id(call["run"])
        if run_id is None:
            raise KeyError(f"no run {call['run']}")
        if kind == "series":
            self._log_series(
                run_id, [(step, {n: float(v) for n, v in values.items()}) for step, values in call["rows"]]
            )
        elif kind == "files":
            self._log_files(run_id, [Path(path) for path in call["paths"]])
        elif kind == "text":
            client.log_text(run_id, call["text"], call["name"])
        else:
            client.set_terminated(run_id, call["status"])

    def _log_series(self, run_id: str, rows: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        client = self._connected()
        names = {name: _legal(name) for _, values in rows for name in values}
        # one time stamp for the whole run: MLflow drops an equal (name, step, time, value), so a resume adds nothing
        if run_id not in self._started_ms:  # opened by another process
            self._started_ms[run_id] = client.get_run(run_id).info.start_time
        now = self._started_ms[run_id]
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


def _raising(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


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
