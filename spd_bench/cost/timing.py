"""Times of interleaved calls in one process, and peak memory (R-29).

Time on a shared machine drifts by more than the differences that matter. `measure` therefore interleaves: every round
calls each callable once, each round begins one callable later, and `ratio` compares two callables round by round.
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
"""Environment variables of every measurement, beside the number of threads; a process reads them at its start.

With glibc's own thresholds every large temporary is mapped, zeroed and unmapped again: this slows a dense head by 15 to
25 % and a decoder in chunks not at all, so it changes their ratio.
"""
BUSY = 0.5
"""Load average before a measurement above which the machine counts as busy."""

Name = TypeVar("Name")


class Spread(NamedTuple):
    """Median and quartiles of the rounds."""

    median: float
    """The median."""
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated linearly between the sorted values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


@dataclass(frozen=True)
class Timing:
    """Times of one callable."""

    seconds: tuple[float, ...]
    """Seconds in each round."""

    @property
    def spread(self) -> Spread:
        """Median and quartiles in seconds."""
        return spread(self.seconds)

    @property
    def least(self) -> float:
        """The fastest round in seconds."""
        return min(self.seconds)

    def __add__(self, other: "Timing") -> "Timing":
        """The sum of both callables, round by round."""
        return Timing(tuple(a + b for a, b in zip(self.seconds, other.seconds, strict=True)))


def ratio(timing: Timing, reference: Timing) -> Spread:
    """Time over that of the reference, from the ratio within each round, so that drift cancels."""
    return spread([a / b for a, b in zip(timing.seconds, reference.seconds, strict=True)])


@dataclass(frozen=True)
class Work:
    """Arithmetic and least memory traffic."""

    macs: float
    """Multiply-adds; a FLOP count is twice that."""
    bytes: float
    """Least traffic in bytes (`cost.flops`)."""


@dataclass(frozen=True)
class DecodeWork:
    """Work of a decode."""

    query: Work
    """Work that each query adds."""
    chunk: Work
    """Work done once for all queries that are decoded together."""


def measure(
    calls: Mapping[Name, Callable[[], object]],
    *,
    rounds: int,
    device: Any,
    warm_up: int = 1,
    on_call: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Name, Timing]:
    """Times of every callable, each called once per round, with the order rotated by one from round to round.

    On CUDA by events on the current stream, starting from an idle device; on a CPU by the monotonic clock. Results are
    freed outside the timed span, and garbage is collected between rounds only. on_call: receives (calls done, calls in
    all).
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
    """Context manager that collects garbage first and disables collection in its body."""

    def __enter__(self) -> None:
        gc.collect()
        self.was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *exc: object) -> None:
        if self.was_enabled:
            gc.enable()


def peak_memory(call: Callable[[], object], *, device: Any) -> int:
    """Peak memory of one call in bytes, above the memory held before it, with its result.

    On CUDA from the caching allocator's statistics. On a CPU from the allocations and releases that PyTorch's profiler
    records: exact for tensors and the same in every run, whereas the resident size of a process depends on what the
    allocator keeps (everything, under PINNED). It does not include scratch memory that a library allocates itself: in a
    fresh process 18 to 26 MB more were measured (dense head: 132 instead of 107 MB).
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
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it writes a line on stderr for every start and stop
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
    """The conditions of a measurement."""

    device: str
    """The torch device."""
    machine: str
    """Model of the CPU or GPU."""
    cores: int
    """CPU cores."""
    threads: int
    """Threads within an operator."""
    interop_threads: int
    """Threads between operators."""
    precision: str
    """fp32 or bf16."""
    torch: str
    """Version of PyTorch."""
    environment: Mapping[str, str]
    """Environment variables that change times."""
    load: float | None
    """Load average before the measurement; None if the system has none."""
    operators: str = ""
    """Which form of the decoder's operators runs on a CPU."""

    def lines(self) -> list[str]:
        """Lines for people: machine, threads, operators, environment, then warnings."""
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
        """Warnings about conditions that make these times unreliable."""
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
    """The current settings of this process."""
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
    """Runs a command (`sys.orig_argv`, to run this one again) in a pinned child process; returns its exit code."""
    return subprocess.run(command, env={**os.environ, **pinned_environment(threads)}, check=False).returncode  # noqa: S603


def now(device: "torch.device") -> float:
    """Seconds of the monotonic clock, read after the device has finished its work."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()
