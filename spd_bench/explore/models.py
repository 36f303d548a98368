"""Trained runs that many pages ask at once: loaded once, each image encoded once, and nothing blocks the event loop.

Everything here is called on one event loop. Work runs in threads: one for loading and encoding, and one for each run's
questions, so that encoding a new image does not delay clicks into others.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from spd_bench.errors import ConfigError
from spd_bench.explore.offers import Offer
from spd_bench.explore.pictures import Picture

if TYPE_CHECKING:
    from spd_bench.ask.model import EncodedImage, RunModel

SCENES = 16
"""Encoded images that are kept, of all runs together: 45 MB each for v13 at 518×518."""

Result = TypeVar("Result")


class TimedScene(NamedTuple):
    """An encoded image, and what it cost."""

    scene: "EncodedImage"
    """The image, ready for questions."""
    encode_ms: float
    """What `RunModel.encode` took."""


class Timed(NamedTuple):
    """An answer, what it cost, and what the image had cost before."""

    value: Any
    """The answer."""
    decode_ms: float
    """What it took."""
    encode_ms: float
    """What encoding the image had taken."""


class Models:
    """The runs that are offered, by label."""

    def __init__(self, offered: Iterable[Offer], load: Callable[[Offer], "RunModel"], *, scenes: int = SCENES) -> None:
        """load: from an offer to its model; called once for each, in a thread."""
        from cachetools import LRUCache

        self.offers = {offer.label: offer for offer in offered}
        self._load = load
        self._heavy = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._asking = {label: ThreadPoolExecutor(1, thread_name_prefix="ask") for label in self.offers}
        self._models: dict[str, asyncio.Task[RunModel]] = {}
        self._scenes: Any = LRUCache(scenes)

    async def model(self, label: str) -> "RunModel":
        """The model of a run, loaded where it was not yet. Raises what `load` raises; another call then tries again."""
        if label not in self.offers:
            raise ConfigError(f"no run {label} is offered")
        return cast(
            "RunModel", await _once(self._models, label, partial(self._in, self._heavy, self._load, self.offers[label]))
        )

    async def encoded(self, label: str, picture: Picture) -> TimedScene:
        """The picture as the run has encoded it, once for everybody who asks."""
        model = await self.model(label)
        work = partial(self._in, self._heavy, _encode, model, picture)
        return cast(TimedScene, await _once(self._scenes, (label, picture.key), work))

    async def ask(self, label: str, picture: Picture, question: Callable[["RunModel", "EncodedImage"], Any]) -> Timed:
        """What a question about an encoded picture gives, and its time; questions to one run wait for each other."""
        scene, encode_ms = await self.encoded(label, picture)
        value, decode_ms = await self._in(self._asking[label], _timed, question, scene.owner, scene)
        return Timed(value, decode_ms, encode_ms)

    async def _in(self, executor: ThreadPoolExecutor, work: Callable[..., Result], *given: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *given)


def _encode(model: "RunModel", picture: Picture) -> TimedScene:
    scene, encode_ms = _timed(model.encode, picture.image_HW3)
    return TimedScene(scene, encode_ms)


def _timed(work: Callable[..., Result], *given: Any) -> tuple[Result, float]:
    started = time.perf_counter()
    result = work(*given)
    return result, 1e3 * (time.perf_counter() - started)


async def _once(cache: Any, key: Any, work: Callable[[], Any]) -> Any:
    """The result of `work`, shared by all who ask while it runs and after; a failure is not kept."""
    task = cache.get(key)
    if task is None:
        task = cache[key] = asyncio.ensure_future(work())
    try:
        return await asyncio.shield(task)  # a caller that stops waiting does not stop it for the others
    except BaseException:
        if task.done() and (task.cancelled() or task.exception()) and cache.get(key) is task:
            del cache[key]
        raise
