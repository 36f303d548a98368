"""Runs a call in a child process; restarts it without the failing job if it crashes or hangs.

All the work is done in one child, so that compositions share data and frozen features. If that child dies or makes no
progress, a new child continues; `Verdict` says with which jobs. Signals reach the work as a
request to stop, and it stops in good order.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from spd_bench.errors import OUT_OF_MEMORY, TIME_LIMIT, ConfigError, ResourceError, SpdError, Stopped, WorkerBug
from spd_bench.process.at_hand import AtHand
from spd_bench.process.delays import Delays
from spd_bench.process.scratch import environment, scratch
from spd_bench.process.verdict import OWN_ERRORS, End, Verdict
from spd_bench.process.watch import Crumb, read_crumb
from spd_bench.process.worker import CRUMB, ENDED, FAULT
from spd_bench.store import files
from spd_bench.store.removal import is_own_folder, own_files, remove_own

STALL_S = 600.0
"""Seconds without a heartbeat after which the work counts as hung."""
GRACE_S = 60.0
"""Seconds that the work may take to stop in good order."""
LAST_WORDS_S = 0.5
POLL_S = 0.25
LIBRARY = Path(os.__file__).parent
STDERR = 2
"""File descriptor of what a worker, and so a plugin, prints; standard output is the command's."""
LOCK = r"\..+\.lock"
"""Names of the lock files of a run root, as a regular expression."""
STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1")


@dataclass(frozen=True)
class Limits:
    """How long the work may take."""

    stall_s: float = STALL_S
    """Seconds without a heartbeat."""
    total_s: float | None = None
    """Seconds in all; None: without limit."""


def supervised(
    call: str,
    arguments: Mapping[str, Any],
    *,
    watch: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    at_hand: AtHand | None = None,
    tell: Callable[[str], None],
) -> Any:
    """What `call` ("module:function") returns for (arguments, its `Watch`) in a child process, as a JSON value.

    watch: further arguments of its Watch. at_hand: where the child says where it stands, for later supervisors too.
    tell: gets a line when a child dies and another continues. Raises what the call raised, Stopped after a signal or
    at the time limit, ResourceError if children die without a job to blame.
    """
    limits = limits or Limits()
    verdict = Verdict()
    with _Signals(limits.total_s) as signals, scratch() as folder:
        if at_hand is not None:
            at_hand.begin(verdict, tell)
        while True:
            worker = _Worker(call, arguments, {**(watch or {}), **verdict.watch()}, folder, at_hand)
            with worker.running(), signals.to(worker):
                end = worker.watched(limits.stall_s, signals)
            ended = worker.ended()
            if at_hand is not None and (ended is not None or signals.reason):
                at_hand.end()
            if ended is not None:
                return _outcome(ended, signals)
            if signals.reason:
                if signals.overdue():
                    tell(f"the worker did not stop within {GRACE_S:g} s and was killed: a checkpoint may be older")
                raise Stopped(signals.reason)
            try:
                tell(verdict.after(worker.crumb(), end, worker.last_frame()))
            except ResourceError:
                if at_hand is not None:
                    at_hand.end()
                raise
            worker.forget()


def _outcome(ended: Mapping[str, Any], signals: "_Signals") -> Any:
    """What a worker returned; raises what it raised."""
    if "stopped" in ended:
        raise Stopped(signals.reason or ended["stopped"])
    if "bug" in ended:
        raise WorkerBug(ended["bug"], ended["traceback"])
    if "error" in ended:
        raised = ended["error"]
        error = SpdError(raised["message"], where=raised["where"], hint=raised["hint"])
        error.exit_code = raised["exit_code"]
        raise error
    return ended["returned"]


@contextlib.contextmanager
def made(root: Path) -> Iterator[None]:
    """Removes `root` at the end of the block if the block created it and left nothing but lock files in it."""
    new = not root.exists()
    try:
        yield
    finally:
        if new and is_own_folder(root) and set(root.iterdir()) == set(own_files(root, [LOCK])):
            remove_own(root, [LOCK])


class _Worker:
    """One process that works."""

    def __init__(
        self,
        call: str,
        arguments: Mapping[str, Any],
        watch: Mapping[str, Any],
        folder: Path,
        at_hand: AtHand | None = None,
    ) -> None:
        """folder: for its files. at_hand: where it also says where it stands, below a root that is there to stay."""
        self.folder = folder
        self.root = None if at_hand is None else at_hand.root
        self._root_is = None if self.root is None else self.root.stat()
        self.order = {
            "call": call,
            "arguments": arguments,
            "watch": watch,
            "folder": str(folder),
            "at_hand": at_hand and os.path.abspath(at_hand.path),
            "root": self.root and os.path.abspath(self.root),
            "supervisor": os.getpid(),
        }
        self.process: subprocess.Popen[bytes]
        self.delays = Delays(None)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Starts the process and kills it at the end of the block."""
        with _no_interrupt():  # it ignores SIGINT only once it runs
            self.process = subprocess.Popen(
                [sys.executable, "-m", "spd_bench.process.worker"],
                stdin=subprocess.PIPE,
                stdout=STDERR,
                env=environment(self.folder),
            )
        self.delays = Delays(self.process.pid)
        try:
            yield
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdin is not None
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def watched(self, stall_s: float, signals: "_Signals") -> End:
        """Waits for its end and says how it ended; kills it if it makes no progress or does not stop when asked.

        Time in which it could run and the machine did not let it is no part of a stall.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(self.order).encode() + b"\n")
            self.process.stdin.flush()
        beat, seen = -1, time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return _how(self.process.wait(POLL_S), self.crumb())
            signals.check_time()
            if signals.overdue():
                self.process.kill()
                return End("was killed", outside=True)
            self._require_root()
            if (now := self.crumb().beat) != beat:
                beat, seen = now, time.monotonic()
                self.delays.restart()
            elif time.monotonic() - seen - self.delays.seconds() > (stall_s if beat else max(stall_s, STALL_S)):
                self._ask_where()
                self.process.kill()
                return End(f"made no progress for {stall_s:g} s", outside=True)

    def _require_root(self) -> None:
        """Raises ResourceError if the folder is another one now, or gone; the caller kills the process."""
        if self.root is None or self._root_is is None:
            return
        try:
            same = os.path.samestat(self.root.stat(), self._root_is)
        except OSError:
            same = False
        if not same:
            raise ResourceError(
                "the folder of all runs is gone: it was moved or removed", where=str(self.root), hint=files.GONE
            )

    def _ask_where(self) -> None:
        """Makes it write its Python frames into a file, which works even while it is stuck in C."""
        if hasattr(signal, "SIGUSR2"):
            self.process.send_signal(signal.SIGUSR2)
            time.sleep(LAST_WORDS_S)

    def crumb(self) -> Crumb:
        """Where it last stood."""
        return read_crumb(self.folder / CRUMB) or Crumb()

    def forget(self) -> None:
        """Removes what it said, for the next one."""
        remove_own(self.folder, [CRUMB, re.escape(FAULT)], folder_too=False)

    def ended(self) -> Mapping[str, Any] | None:
        """How it ended, as it wrote itself; None if it died."""
        try:
            found: Mapping[str, Any] = json.loads((self.folder / ENDED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found

    def last_frame(self) -> str:
        """The innermost Python frame of a process that crashed or hung, as " (file:line in function)"; or "".

        A frame of Python's own library counts only if there is no other.
        """
        try:
            text = (self.folder / FAULT).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        _, _, current = text.partition("most recent call first")
        frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', current)
        others = [frame for frame in frames if Path(frame[0]).parent.parent != LIBRARY]
        return "".join(f" ({Path(file).name}:{line} in {name})" for file, line, name in (others or frames)[:1])


def _how(code: int, crumb: Crumb) -> End:
    """How a process ended, in words."""
    if crumb.cause:
        return End(crumb.cause, outside=crumb.cause.startswith(OUT_OF_MEMORY))
    if code >= 0:
        return End(f"ended with exit code {code} without a word", outside=False)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", perhaps for want of memory," if name == "SIGKILL" else ""
    return End(f"was killed by {name}{hint}", outside=name not in OWN_ERRORS)


class _Signals:
    """Passes signals and the time limit as one request to stop to the worker that runs. Use as a context."""

    def __init__(self, total_s: float | None) -> None:
        self.reason = ""
        self._until = None if total_s is None else time.monotonic() + total_s
        self._asked_at = 0.0
        self._worker: _Worker | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        """Installs the signal handlers, in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for name in STOPPING:
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        """Restores the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def to(self, worker: _Worker) -> Iterator[None]:
        """Requests inside the block go to this worker."""
        self._worker = worker
        try:
            if self.reason:
                self._pass_on()
            yield
        finally:
            self._worker = None

    def check_time(self) -> None:
        """Requests the stop when the time is up."""
        if self._until is not None and time.monotonic() > self._until and not self.reason:
            self._request(TIME_LIMIT)

    def overdue(self) -> bool:
        """Whether the work has not stopped in time after a request."""
        return bool(self.reason) and time.monotonic() - self._asked_at > GRACE_S

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.reason and name == "SIGINT":
            if self._worker is not None:
                self._worker.process.kill()
            raise Stopped(name)
        if not self.reason:
            self._request(name)

    def _request(self, reason: str) -> None:
        self.reason, self._asked_at = reason, time.monotonic()
        self._pass_on()

    def _pass_on(self) -> None:
        if self._worker is not None:
            self._worker.process.terminate()


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Blocks SIGINT inside the block; a process that is started there never receives it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_DURATION = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")


def seconds(text: str, *, where: str) -> float:
    """A time such as 3h30m, 90m or 45s in seconds; raises ConfigError for anything else."""
    found = _DURATION.fullmatch(text.strip())
    total = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not total:
        raise ConfigError(f'expected a time such as 3h30m, 90m or 45s, found "{text}"', where=where)
    return float(total)
