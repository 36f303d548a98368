"""Starts `spd-bench run` in a supervised child process, alone or beside others."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spd_bench.errors import BusyError
from spd_bench.process.locks import Holder, holder, suite_lock
from spd_bench.process.supervise import Limits, _made, supervised
from spd_bench.store import records
from spd_bench.suite.axes import Selection
from spd_bench.suite.load import load_suite


def run_suite(
    suite: str,
    *,
    profile: str | None,
    sets: Sequence[str],
    data: str | None,
    root: Path,
    device: str,
    selection: Selection,
    limits: Limits,
    join: bool,
    command: str,
    tell: Callable[[str], None],
) -> Mapping[str, Any]:
    """`run.session.run_suite` under supervision; what it leaves (`run.session.Finished`) as a mapping.

    join: help the process that leads this suite, if there is one. Raises BusyError, without it, if there is one.
    """
    name = load_suite(suite, profile=profile, sets=sets, data=data).suite
    arguments = {
        "suite": suite,
        "profile": profile,
        "sets": list(sets),
        "data": data,
        "root": str(root),
        "device": device,
        "selection": [list(selection.only), list(selection.skip)],
    }
    common = {"joined": join, "command": command}

    def go(leader: Holder, *, leads: bool) -> Mapping[str, Any]:
        watch = common | {"session": leader.session, "leads": leads}
        ended: Mapping[str, Any] = supervised(
            "spd_bench.run.session:work", arguments, watch=watch, limits=limits, tell=tell
        )
        return ended

    with _made(root):
        while True:
            try:
                with suite_lock(root, name, command=command) as me:
                    return go(me, leads=True)
            except BusyError:
                if not join:
                    raise
            if (leader := holder(root, name)) is None:
                continue  # it has just ended
            tell(f"helping {leader}")
            ended = go(leader, leads=False)
            died = holder(root, name) == leader  # or leads still; who ends in good order takes the name away
            with contextlib.suppress(BusyError), suite_lock(root, name, command=command, session=leader.session) as me:
                last = records.found_record(root / "suites" / f"{name}.json")
                if died or last is None or last.get("unfinished"):
                    return go(me, leads=True)
            return ended
