"""Renders all frames of a split in several processes, in order, with a progress bar.

A rendering process loads only this module and its imports: no torch.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import product

from spd_bench.errors import ConfigError, ResourceError
from spd_rooms.render import Options, Rendered, render

MOST_WORKERS = 16
FRAMES_WORTH_A_PROCESS = 8
"""Fewest frames for which starting processes is worth it."""
IN_FLIGHT = 4
"""Largest number of frames per process that are rendered and not yet written; bounds memory."""

UNGUARDED = 'put the script\'s own code under `if __name__ == "__main__":`, so that processes can import it'


def render_scenes(options: Options, split: str, scenes: int, frames_per_scene: int) -> Iterator[Rendered]:
    """Every frame of a split, scene after scene. Raises ResourceError if the rendering processes die."""
    names = list(product(range(scenes), range(frames_per_scene)))
    workers = min(_processors(), MOST_WORKERS, len(names) // FRAMES_WORTH_A_PROCESS)
    # a daemon, such as a worker of a data loader, cannot start processes: it renders by itself
    if workers < 2 or multiprocessing.current_process().daemon:
        frames: Iterable[Rendered] = (render(options, split, scene, frame) for scene, frame in names)
    else:
        frames = _in_processes(options, split, names, workers)
    return _with_progress(frames, f"rendering {split} rooms", len(names))


def refuse_unguarded_main() -> None:
    """Raises ConfigError in a starting process whose main script builds this data set at import.

    Without this check, the process would wait for ever for the lock that its parent holds.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError("a starting process would render the data set again", hint=UNGUARDED)


def _in_processes(options: Options, split: str, names: list[tuple[int, int]], workers: int) -> Iterator[Rendered]:
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_leave_signals_to_parent)
    waiting: deque[Future[Rendered]] = deque()
    try:
        for scene, frame in names:
            waiting.append(executor.submit(render, options, split, scene, frame))
            if len(waiting) >= IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ResourceError(
            "a rendering process died",
            where=f"synthetic rooms, split {split}",
            hint=f"if memory ran out, ask for smaller frames; in a script of your own, {UNGUARDED}",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _leave_signals_to_parent() -> None:
    """Ignores Ctrl-C, which reaches the whole process group: the parent ends the work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_progress(frames: Iterable[Rendered], title: str, count: int) -> Iterator[Rendered]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(frames, total=count, description=title)
