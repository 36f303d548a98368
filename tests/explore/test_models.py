"""Many pages ask the same runs: loaded once, encoded once, one question to a run at a time, and the loop stays free."""

import asyncio
from typing import Any

import numpy as np
import pytest
from explore.stub import StubModel, models_of

from spd_bench.errors import ConfigError, StateError
from spd_bench.explore.models import Models
from spd_bench.explore.pictures import Picture


def picture(shade: int = 0) -> Picture:
    return Picture("p", np.full((4, 5, 3), shade, np.uint8))


def at_origin(model: Any, scene: Any) -> float:
    return float(model.depth(scene, [(0, 0)])[0])


def test_ten_at_once_load_and_encode_once() -> None:
    model = StubModel(shift=1.5, seconds=0.01)

    async def ten(models: Models) -> list[Any]:
        return await asyncio.gather(*(models.ask("a", picture(), at_origin) for _ in range(10)))

    answers = asyncio.run(ten(models_of(a=model)))
    assert [answer.value for answer in answers] == [1.5] * 10
    assert model.log.count("load") == model.log.count("encode") == 1
    assert model.most_at_once == 1
    assert len({answer.encode_ms for answer in answers}) == 1
    assert all(answer.decode_ms > 0 for answer in answers)


def test_equal_pixels_are_encoded_once_and_others_again() -> None:
    model = StubModel()

    async def three(models: Models) -> None:
        for shade in (1, 1, 2):
            await models.ask("a", picture(shade), at_origin)

    asyncio.run(three(models_of(a=model)))
    assert model.log.count("encode") == 2


def test_encoded_images_are_bounded() -> None:
    """Two are kept: the first is encoded again after two others."""
    model = StubModel()

    async def four(models: Models) -> None:
        for shade in (1, 2, 3, 1):
            await models.ask("a", picture(shade), at_origin)

    asyncio.run(four(models_of(2, a=model)))
    assert model.log.count("encode") == 4


def test_the_event_loop_stays_free() -> None:
    """While a model works for 50 ms, something that waits 1 ms at a time gets its turns."""
    turns: list[int] = []

    async def both(models: Models) -> None:
        asked = asyncio.ensure_future(models.ask("a", picture(), at_origin))
        while not asked.done():
            turns.append(1)
            await asyncio.sleep(0.001)

    asyncio.run(both(models_of(a=StubModel(seconds=0.05))))
    assert len(turns) > 2


def test_a_failure_is_not_kept() -> None:
    attempts: list[str] = []

    def load(offered: Any) -> Any:
        attempts.append(offered.label)
        if len(attempts) == 1:
            raise StateError("busy")
        return StubModel()

    async def twice(models: Models) -> float:
        with pytest.raises(StateError, match="busy"):
            await models.ask("a", picture(), at_origin)
        return (await models.ask("a", picture(), at_origin)).value

    offered = models_of(a=StubModel()).offers.values()
    assert asyncio.run(twice(Models(offered, load))) == 0
    assert attempts == ["a", "a"]


def test_a_page_that_goes_does_not_stop_the_work_of_others() -> None:
    model = StubModel(seconds=0.02)

    async def one_leaves(models: Models) -> float:
        leaves = asyncio.ensure_future(models.ask("a", picture(), at_origin))
        stays = asyncio.ensure_future(models.ask("a", picture(), at_origin))
        await asyncio.sleep(0.005)
        leaves.cancel()
        return (await stays).value

    assert asyncio.run(one_leaves(models_of(a=model))) == 0
    assert model.log.count("encode") == 1


def test_only_offered_runs_answer() -> None:
    with pytest.raises(ConfigError, match="no run b is offered"):
        asyncio.run(models_of(a=StubModel()).ask("b", picture(), at_origin))
