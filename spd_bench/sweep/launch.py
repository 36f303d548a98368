"""Runs a sweep in a supervised worker process."""

import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from spd_bench.process.boundary import from_json, to_json
from spd_bench.process.supervise import Limits, made, supervised
from spd_bench.sweep.request import SweepEnd, SweepRequest


def launch_sweep(request: SweepRequest, *, limits: Limits, tell: Callable[[str], None]) -> SweepEnd:
    """What `sweep.worker.run_sweep` returns, computed in a worker process.

    A trial that ends the process has failed, and another process continues with the next one. tell: gets a line then.
    """
    arguments = to_json(replace(request, began=time.monotonic()))
    with made(request.root):
        watch = {"session": uuid.uuid4().hex}
        ended = supervised("spd_bench.sweep.worker:work_on_sweep", arguments, watch=watch, limits=limits, tell=tell)
        return from_json(SweepEnd, ended)
