"""Fused forms of the two reads that stock operators do in several passes over memory, for inference on a CPU.

`fused.cpp` is compiled once for this machine by its own C++ compiler, into the user's cache. The functions here
compute what their stock forms do (geometry.Stack.read, the attention of §6.2), to rounding, and only where `ready`
says so: without gradients, on a CPU, in float32 or float64. Where there is no compiler, or SPD_BENCH_FUSED=0, the
stock forms run; `description` says which, and stands with every timing and every run.

Letters: Q items, T offsets of an item (heads × samples), N heads, D core width, E = D / N.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-w")
HEADS, WIDTH = 6, 32
"""What the kernels are compiled for: the paper's heads and width per head (§2)."""
SWITCH = "SPD_BENCH_FUSED"
AT_LEAST = 32
"""Items that a thread should have to be worth its start."""

_off = 0


@contextmanager
def stock() -> Iterator[None]:
    """Within it the stock forms run: to count their arithmetic, and to compare with."""
    global _off  # noqa: PLW0603 - a switch of the process
    _off += 1
    try:
        yield
    finally:
        _off -= 1


def ready(*tensors: Tensor, heads: int, width: int) -> bool:
    """Whether the fused forms can take these tensors."""
    if _off or torch.is_grad_enabled() or (heads, width) != (HEADS, WIDTH):
        return False
    kind = tensors[0].dtype
    fits = kind in (torch.float32, torch.float64) and all(t.dtype == kind and t.device.type == "cpu" for t in tensors)
    return fits and _library() is not None


def description() -> str:
    """Which form runs on a CPU here, for records of what a number came from."""
    if os.environ.get(SWITCH) == "0":
        return f"stock operators ({SWITCH}=0)"
    if _library() is None:
        return "stock operators (no C++ compiler that builds spd_bench/fused.cpp)"
    return "fused kernels (inference in float32 or float64 on a CPU)"


def levels_read(
    rows_NC: Tensor,
    rows_per_image: int,
    *,
    scale: tuple[Tensor, Tensor],
    limit: tuple[Tensor, Tensor],
    stride_S: Tensor,
    corner_S: Tensor,
    site_BKR: Tensor,
    site_xy_S2: Tensor,
    x_QT: Tensor,
    y_QT: Tensor,
    weight_QT: Tensor,
) -> Tensor:
    """`geometry.Stack.read`: [Q, D]. The first four are given per sample of a head (S), the same for every head."""
    kept = [t.contiguous() for t in (*scale, *limit, stride_S, corner_S, site_BKR, site_xy_S2, x_QT, y_QT, weight_QT)]
    items, samples = x_QT.shape[0], len(stride_S)
    rows_NC = rows_NC.contiguous()
    out_QD = rows_NC.new_empty(items, HEADS * WIDTH)
    per_image = site_BKR[0].numel()
    head = [_at(rows_NC), _int(rows_per_image), _int(per_image), _int(HEADS), _int(samples)]
    _shared(_function("levels_read", rows_NC), items, *head, *map(_at, kept), _at(out_QD))
    return out_QD


def attend(query_QND: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """softmax(q·t) t of every head over all tokens, given in parts [Q, T, D]: [Q, N, D]."""
    query_QND = query_QND.contiguous()
    parts = [part_QTD.contiguous() for part_QTD in tokens]
    out_QND = torch.empty_like(query_QND)
    where = (ctypes.c_void_p * len(parts))(*[part.data_ptr() for part in parts])
    count = (ctypes.c_int64 * len(parts))(*[part.shape[1] for part in parts])
    width = _int(query_QND.shape[-1])
    function = _function("attend", query_QND)
    _shared(function, len(query_QND), _int(len(parts)), where, count, width, _at(query_QND), _at(out_QND))
    return out_QND


def _int(value: int) -> ctypes.c_int64:
    return ctypes.c_int64(value)


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _function(name: str, like: Tensor) -> Callable[..., object]:
    found: Callable[..., object] = getattr(_library(), f"{name}_{str(like.dtype).removeprefix('torch.')}")
    return found


def _shared(function: Callable[..., object], items: int, *given: object) -> None:
    """Calls function(first, last, ...) for all items, in as many threads as PyTorch uses; ctypes frees the lock."""
    threads = min(torch.get_num_threads(), items // AT_LEAST)
    if threads <= 1:
        function(_int(0), _int(items), *given)
        return
    ends = [items * i // threads for i in range(threads + 1)]
    list(_pool(os.getpid(), threads).map(lambda i: function(_int(ends[i]), _int(ends[i + 1]), *given), range(threads)))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # a forked child has none of its parent's threads, so it needs a pool of its own
    return ThreadPoolExecutor(threads, thread_name_prefix="spd-bench-fused")


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be built."""
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if os.environ.get(SWITCH) == "0" or compiler is None:
        return None
    try:
        built = _built(compiler)
        return ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None


def _built(compiler: str) -> Path:
    """The library in the user's cache, compiled if this source on this processor has not been yet."""
    about = [SOURCE.read_bytes(), " ".join(FLAGS).encode(), compiler.encode(), _processor().encode()]
    key = hashlib.sha256(b"\0".join(about)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spd-bench"
    built = folder / f"fused-{key}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / built.name
            command = [compiler, *FLAGS, "-shared", "-fPIC", str(SOURCE), "-o", str(made)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603
            made.replace(built)
    return built


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return "\n".join([platform.machine(), platform.processor(), *told])
