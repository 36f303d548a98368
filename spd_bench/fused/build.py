"""Compiles the kernels once for this machine, loads them and calls them from as many threads as PyTorch uses."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KERNELS = Path(__file__).with_name("kernels")
WHOLE = KERNELS / "training.cpp"
"""The file that is compiled: the kernels for training, which includes those for inference."""
FLAGS = ("-std=c++17", "-O3", "-fwrapv", "-fno-math-errno", "-fno-trapping-math", "-w", "-shared", "-fPIC")
FOR_THIS_MACHINE = ("-march=native", "-mcpu=native")
"""Flags for code that runs on this processor only; the first that the compiler accepts is used."""
SWITCH = "SPD_BENCH_FUSED"
"""Environment variable: 0 switches the kernels off."""
AT_LEAST = 32
"""Fewest items per thread that are worth starting one."""


def description() -> str:
    """The form that runs on this machine's CPU, in words for the records of a run."""
    return loaded()[1]


def pointers(tensors: Sequence[Tensor | None]) -> "ctypes.Array[Any]":
    """Addresses of tensors as a C array; null for None."""
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


def whole_numbers(numbers: Sequence[int]) -> "ctypes.Array[Any]":
    """Integers as a C array of int64."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def run(
    name: str, like: Tensor, items: int, *given: "int | Tensor | ctypes.Array[Any] | None", at_least: int = AT_LEAST
) -> None:
    """Calls a kernel on all items, in as many threads as PyTorch uses; ctypes releases the interpreter's lock."""
    function = _function(name, like.dtype, tuple(isinstance(value, int) for value in given))
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in given]
    threads = min(torch.get_num_threads(), items // at_least)
    if threads <= 1:
        function(0, items, *values)
        return
    ends = [items * i // threads for i in range(threads + 1)]
    list(_pool(os.getpid(), threads).map(lambda i: function(ends[i], ends[i + 1], *values), range(threads)))


@cache
def _function(name: str, dtype: torch.dtype, whole: tuple[bool, ...]) -> Callable[..., object]:
    """A kernel by name. It takes the first and last item, then integers and pointers in the given order."""
    function: Any = getattr(loaded()[0], f"{name}_{str(dtype).removeprefix('torch.')}")
    rest = [ctypes.c_int64 if is_whole else ctypes.c_void_p for is_whole in whole]
    function.argtypes, function.restype = [ctypes.c_int64, ctypes.c_int64, *rest], None
    found: Callable[..., object] = function
    return found


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # a forked child inherits no threads, so each process has its own pool
    return ThreadPoolExecutor(threads, thread_name_prefix="spd-bench-fused")


@cache
def loaded() -> tuple[ctypes.CDLL | None, str]:
    """The compiled kernels (None if unavailable), and in words which form runs and why."""
    if os.environ.get(SWITCH) == "0":
        return None, f"stock operators ({SWITCH}=0)"
    compiler = _compiler()
    if compiler is None:
        return None, "stock operators (no C++ compiler found)"
    try:
        return ctypes.CDLL(str(_built(compiler))), "fused kernels (float32 or float64 on a CPU)"
    except subprocess.SubprocessError:
        return None, f"stock operators ({Path(compiler[0]).name} does not compile the kernels)"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return None, f"stock operators (the compiled kernels cannot be kept or loaded: {error})"


def _compiler() -> list[str] | None:
    """The C++ compiler as a command: $CXX, else the usual names."""
    for command in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    return None


def _built(compiler: Sequence[str]) -> Path:
    """The library in the user's cache; compiled first if it is missing for these sources, flags and processor."""
    about = [
        *(path.read_bytes() for path in sorted(KERNELS.iterdir())),
        *(" ".join(words).encode() for words in (FLAGS, compiler)),
        _processor().encode(),
    ]
    key = hashlib.sha256(b"\0".join(about)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spd-bench"
    built = folder / f"fused-{key}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # each process compiles into its own folder; the last one replaces an identical file
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _compile(compiler, Path(work) / built.name)
            (Path(work) / built.name).replace(built)
    return built


def _compile(compiler: Sequence[str], to: Path) -> None:
    for native in FOR_THIS_MACHINE:
        command = [*compiler, *FLAGS, native, str(WHOLE), "-o", str(to)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=300)  # noqa: S603
        if done.returncode == 0:
            return
    done.check_returncode()


def _processor() -> str:
    """The processor's model and flags, as part of the cache key: different machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    relevant = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), platform.processor(), *relevant])
