"""Runs a suite in a supervised worker process, alone or beside other processes that share its jobs."""

import contextlib
from collections.abc import Callable

from spd_bench.errors import BusyError
from spd_bench.process.at_hand import AtHand
from spd_bench.process.boundary import from_json, to_json
from spd_bench.process.locks import Holder, holder, suite_lock
from spd_bench.process.supervise import Limits, made, supervised
from spd_bench.run.request import Finished, Request
from spd_bench.store import records
from spd_bench.store.run_root import SUITES, SuiteRecord


def launch_suite(
    request: Request, *, limits: Limits, join: bool, command: str, tell: Callable[[str], None]
) -> Finished:
    """What `run.session.run_suite` returns, computed in a worker process.

    join: help the process that leads this suite, if there is one; without it, raises BusyError if there is one.
    command: the command line, for provenance and for the messages of other processes. tell: gets a line where a
    process dies and another one continues.
    """
    root, name = request.root, request.load().suite
    common = {"joined": join, "command": command}

    def work(leader: Holder, *, leads: bool) -> Finished:
        watch = common | {"session": leader.session, "leads": leads}
        ended = supervised(
            "spd_bench.run.session:work_on_suite",
            to_json(request),
            watch=watch,
            limits=limits,
            at_hand=AtHand(root, name) if leads else None,
            tell=tell,
        )
        return from_json(Finished, ended)

    with made(root):
        while True:
            try:
                with suite_lock(root, name, command=command) as me:
                    return work(me, leads=True)
            except BusyError:
                if not join:
                    raise
            if (leader := holder(root, name)) is None:
                continue  # it has just ended
            tell(f"helping {leader}")
            ended = work(leader, leads=False)
            # the record of a leader that ended in good order is gone: one that is still there leads or has died
            died = holder(root, name) == leader
            with contextlib.suppress(BusyError), suite_lock(root, name, command=command, session=leader.session) as me:
                last = records.find(root / SUITES / f"{name}.json", SuiteRecord)
                if died or last is None or last.get("unfinished"):
                    return work(me, leads=True)
            return ended
