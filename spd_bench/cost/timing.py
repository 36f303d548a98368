"""What the calls of a model cost, measured: times taken in turn in one process, and peak memory (R-29).

Time on a shared machine drifts by more than the differences that matter, so callables are never timed one after the
other: every round calls each of them once, each round begins one callable later, and two are compared round by round.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import torch

PINNED: Mapping[str, str] = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment of every measurement, beside the number of threads.

With glibc's own thresholds every large temporary is mapped, zeroed and unmapped again: a dense head loses 15 to 25 %
by that and a decoder in chunks nothing, so the setting moves their ratio. All are read when a process starts.
"""
BUSY = 0.5
"""Load average before the measurement from which the machine counts as busy."""

Name = TypeVar("Name")


class Spread(NamedTuple):
    """Median and quartiles of the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, these by linear interpolation between the sorted values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


@dataclass(frozen=True)
class Timing:
    """Seconds of one callable in each round."""

    seconds: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """Median and quartiles in seconds."""
        return spread(self.seconds)

    @property
    def least(self) -> float:
        """The fastest round in seconds."""
        return min(self.seconds)

    def __add__(self, other: "Timing") -> "Timing":
        """Both callables one after the other, round by round."""
        return Timing(tuple(a + b for a, b in zip(self.seconds, other.seconds, strict=True)))


def ratio(timing: Timing, reference: Timing) -> Spread:
    """How many times as long as the reference, of the ratios within each round: what slowed both cancels."""
    return spread([a / b for a, b in zip(timing.seconds, reference.seconds, strict=True)])


@dataclass(frozen=True)
class Work:
    """Arithmetic in multiply-adds (a FLOP count is twice that) and the least traffic in bytes."""

    macs: float
    bytes: float


@dataclass(frozen=True)
class DecodeWork:
    """Work of a decode: what each query adds, and what is done once for all queries that are decoded together."""

    query: Work
    chunk: Work


def measure(
    calls: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    device: Any,
    warm_up: int = 1,
    on_call: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, Timing]:
    """Times every callable once per round, the order rotated by one from round to round.

    On CUDA by events on the current stream, from an idle device; on a CPU by the monotonic clock. What a call
    returns is freed outside its time, and garbage is collected between rounds only. on_call: told (calls done, of how
    many).
    """
    names, seconds = list(calls), {name: [0.0] * rounds for name in calls}
    total = len(names) * (warm_up + rounds)
    clock = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    for turn in range(warm_up + rounds):
        first = turn % len(names)
        with _NoCollection():
            for position, name in enumerate(names[first:] + names[:first]):
                found = clock(calls[name])
                if turn >= warm_up:
                    seconds[name][turn - warm_up] = found
                on_call(turn * len(names) + position + 1, total)
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def _cpu_seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    result = call()
    ended = time.perf_counter()
    del result
    return ended - started


def _cuda_seconds(call: Callable[[], object]) -> float:
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    result = call()
    end.record()
    torch.cuda.synchronize()
    del result
    return float(start.elapsed_time(end)) / 1e3


class _NoCollection:
    """Garbage is collected before the block and not within it."""

    def __enter__(self) -> None:
        gc.collect()
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *exc: object) -> None:
        if self.was_enabled:
            gc.enable()


def peak_memory(call: Callable[[], object], *, device: Any) -> int:
    """Bytes that one call holds at most above what was held before it, its result included.

    On CUDA by the caching allocator's own statistics. On a CPU every allocation and release of a tensor is replayed
    from PyTorch's profiler: exact for tensors and the same in every run, where the resident size of a process depends
    on what the allocator keeps (all of it, under PINNED). Scratch memory that a library takes past PyTorch's allocator
    is not seen: a process whose first call this was grew by 18 to 26 MB more (dense head 132 against 107 MB).
    """
    return _cuda_peak(call, device) if device.type == "cuda" else _cpu_peak(call)


def _cuda_peak(call: Callable[[], object], device: Any) -> int:
    import torch

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return int(peak)


def _cpu_peak(call: Callable[[], object]) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes a line on stderr for every start and stop
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    return highest(change for _, change in sorted(changes, key=lambda at: at[0]))


def highest(changes: Iterable[int]) -> int:
    """The largest running sum, at least 0."""
    held = most = 0
    for change in changes:
        held += change
        most = max(most, held)
    return most


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a measurement was taken under. load: the machine's load average before it; None where there is none.

    operators: which form of the decoder's operators runs on a CPU.
    """

    device: str
    machine: str
    cores: int
    threads: int
    interop_threads: int
    precision: str
    torch: str
    environment: Mapping[str, str]
    load: float | None
    operators: str = ""

    def lines(self) -> list[str]:
        """For people: one line each for machine, threads and allocator, then what to be wary of."""
        pins = ", ".join(f"{name}={value}" for name, value in self.environment.items())
        return [
            f"Machine: {self.device} ({self.machine}), {self.cores} cores, load {_load(self.load)} before",
            f"Threads: {self.threads} (between operations: {self.interop_threads}), {self.precision}, "
            f"torch {self.torch}",
            f"Operators on a CPU: {self.operators}",
            f"Environment: {pins}",
            *self.warnings(),
        ]

    def warnings(self) -> list[str]:
        """What makes times less trustworthy here."""
        found = []
        if self.load is not None and self.load > BUSY:
            found.append(f"WARNING: the machine was busy (load {self.load:.1f}): trust ratios, not milliseconds")
        wrong = [name for name, value in PINNED.items() if self.environment.get(name) != value]
        if wrong:
            found.append(f"WARNING: not pinned: {', '.join(wrong)}; ratios to a dense model depend on it")
        return found


def _load(load: float | None) -> str:
    return "unknown" if load is None else f"{load:.1f}"


def settings(device: Any, *, precision: str) -> Settings:
    """The settings of this process, now."""
    import torch

    from spd_bench.fused import build

    pins = [*PINNED, "OMP_NUM_THREADS", "LD_PRELOAD"]
    return Settings(
        device=str(device),
        machine=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        precision=precision,
        torch=torch.__version__,
        environment={name: os.environ.get(name, "(unset)") for name in pins},
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        operators=build.description(),
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def pinned_environment(threads: int) -> dict[str, str]:
    """PINNED with the number of threads."""
    return {**PINNED, "OMP_NUM_THREADS": str(threads)}


def is_pinned(threads: int) -> bool:
    """Whether this process was started under the pinned environment."""
    return all(os.environ.get(name) == value for name, value in pinned_environment(threads).items())


def run_pinned(command: Sequence[str], threads: int) -> int:
    """Runs a command (this very one: `sys.orig_argv`) in a child process that is pinned; its exit code."""
    return subprocess.run(command, env={**os.environ, **pinned_environment(threads)}, check=False).returncode  # noqa: S603


def now(device: "torch.device") -> float:
    """Seconds of the monotonic clock, when the device has done what it was given."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()
