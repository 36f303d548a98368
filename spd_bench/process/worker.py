"""The child process of `spd_bench.process.supervise`: it may die in any way without harm to other processes.

It reads one line of JSON from its standard input: what to call, with which arguments, and the folder in which to report
its end. The supervisor keeps standard input open, and this process ends when it closes.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from spd_bench.errors import OUT_OF_MEMORY, SpdError, Stopped, shortage
from spd_bench.process.watch import Watch, watching
from spd_bench.store import files

CRUMB, ENDED, FAULT = "crumb", "ended.json", "fault.txt"
"""Files of the folder that a worker shares with its supervisor: where it stands, how it ended, its last frames."""
PR_SET_PDEATHSIG = 1
ORPHANED = 137


def main() -> None:
    """Does the work and writes how it ended; a process that ends without that file has died."""
    order = json.loads(sys.stdin.buffer.readline())
    folder = Path(order["folder"])
    at_hand = order["at_hand"] and Path(order["at_hand"])
    watch = Watch(folder / CRUMB, at_hand=at_hand, **order["watch"])
    watching.append(watch)
    if order["root"] is not None:
        files.keep(Path(order["root"]))
    for name in ("SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: watch.stop(signal.Signals(number).name))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor passes it on
    _end_with(order["supervisor"])
    fault = (folder / FAULT).open("w")
    faulthandler.enable(fault, all_threads=False)
    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, fault, all_threads=False)
    ended = _ended(order["call"], order["arguments"], watch)
    beside = folder / f"{ENDED}.tmp"
    beside.write_text(json.dumps(ended), encoding="utf-8")
    beside.replace(folder / ENDED)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)  # without waiting for threads that a plugin or a library left behind


def _ended(call: str, arguments: dict[str, Any], watch: Watch) -> dict[str, Any]:
    """What the call returns, or how it failed, as a JSON value."""
    module, _, name = call.partition(":")
    try:
        try:
            return {"returned": getattr(importlib.import_module(module), name)(arguments, watch)}
        except SpdError:
            raise
        except Exception:
            watch.check()  # the end of helper processes after a wish to stop is no failure of the work
            raise
    except Stopped as stopped:
        return {"stopped": stopped.reason}
    except SpdError as error:
        if error.message.startswith(OUT_OF_MEMORY):
            watch.ran_out_of_memory(error.message)
        return {"error": _plain(error)}
    except Exception as error:
        if short := shortage(error):
            if short.message.startswith(OUT_OF_MEMORY):
                watch.ran_out_of_memory(short.message)
            return {"error": _plain(short)}
        return {"bug": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


def _plain(error: SpdError) -> dict[str, Any]:
    return {"message": error.message, "where": error.where, "hint": error.hint, "exit_code": error.exit_code}


def _end_with(supervisor: int) -> None:
    """Makes this process end as soon as its supervisor does, even while it is stuck in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it was gone before
            os._exit(ORPHANED)
    threading.Thread(target=_await_end_of_input, daemon=True).start()


def _await_end_of_input() -> None:
    with contextlib.suppress(OSError):  # a plugin has closed it
        while os.read(0, 4096):
            pass
        os._exit(ORPHANED)


if __name__ == "__main__":
    main()
