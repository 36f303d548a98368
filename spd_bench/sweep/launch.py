"""Starts `spd-bench sweep` in a supervised child process."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spd_bench.process.supervise import Limits, _made, supervised


def run_sweep(
    sweep: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    storage: str | None,
    trials: int | None,
    timeout: float | None,
    limits: Limits,
    tell: Callable[[str], None],
) -> Mapping[str, Any]:
    """`sweep.worker.run_sweep` under supervision; what it leaves, in words, as a mapping (`sweep.worker.work`).

    A trial that ends the process has failed, and another process goes on with the next.
    """
    arguments = {
        "sweep": sweep,
        "profile": profile,
        "sets": list(sets),
        "data": data,
        "root": str(root),
        "device": device,
        "storage": storage,
        "trials": trials,
        "timeout": timeout,
        "began": time.monotonic(),
    }
    with _made(root):
        watch = {"session": uuid.uuid4().hex}
        ended: Mapping[str, Any] = supervised(
            "spd_bench.sweep.worker:work", arguments, watch=watch, limits=limits, tell=tell
        )
        return ended
