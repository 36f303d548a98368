"""What a page asks, without any widget: points, lines, runs, and the answers of stub models."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from explore.stub import StubModel, models_of

from spd_bench.errors import ConfigError, DataError
from spd_bench.explore.pictures import Picture
from spd_bench.explore.session import MOST_RUNS, Latest, Problem, RunReading, Session, one_line


def picture(width: int = 8, height: int = 6, *, truth: bool = True) -> Picture:
    """True depth is 2 m, unknown in the left column."""
    depth_m_HW = np.full((height, width), 2.0, np.float32)
    depth_m_HW[:, 0] = 0
    image_HW3 = np.full((height, width, 3), width, np.uint8)
    return Picture("frame", image_HW3, depth_m_HW if truth else None)


def session_of(**by_label: StubModel | str) -> Session:
    session = Session(models_of(**by_label))
    session.choose(list(by_label))
    session.show(picture())
    return session


# points


def test_a_click_means_the_pixel_under_it() -> None:
    """Pixel (3, 2) covers [3, 4) × [2, 3) of the image."""
    session = session_of(a=StubModel())
    for image_x, image_y in [(3.0, 2.0), (3.999, 2.999), (3.5, 2.5)]:
        session.point_at(image_x, image_y)
        assert session.point == (3, 2)
    session.point_at(-1, 99)
    assert session.point == (0, 5)


def test_keys_move_the_point_within_the_image() -> None:
    session = session_of(a=StubModel())
    session.move(1, 0)
    assert session.point == (3, 2), "the first key shows the middle of 8×6"
    session.move(1, -1)
    assert session.point == (4, 1)
    session.move(10, -10)
    assert session.point == (7, 0)


def test_another_picture_takes_point_and_line_away() -> None:
    session = session_of(a=StubModel())
    session.draw(0, 0, 5, 5)
    session.point_at(1, 1)
    session.begin_or_end_line()
    session.show(picture())
    assert (session.point, session.start, session.line) == (None, None, None)


# answers


def test_each_run_answers_with_truth_and_error() -> None:
    """At (3, 2) the stub says 3 + 2/10 = 3.2 m; the truth is 2 m."""
    session = session_of(a=StubModel(), b=StubModel(shift=4.0))
    session.point_at(3.5, 2.5)
    a, b = asyncio.run(session.readings())
    assert isinstance(a, RunReading)
    assert isinstance(b, RunReading)
    assert (a.run, b.run) == ("a", "b")
    assert a.depth_m == pytest.approx(3.2)
    assert a.truth_m == 2
    assert a.error_m == pytest.approx(1.2)
    assert (a.outside, b.outside) == (False, True)


def test_an_unknown_truth_gives_no_error() -> None:
    session = session_of(a=StubModel())
    session.point_at(0, 0)
    (a,) = asyncio.run(session.readings())
    assert isinstance(a, RunReading)
    assert (a.truth_m, a.error_m) == (None, None)
    session.show(picture(truth=False))
    session.point_at(3, 3)
    (a,) = asyncio.run(session.readings())
    assert isinstance(a, RunReading)
    assert a.truth_m is None


def test_a_run_that_cannot_be_loaded_is_one_line_and_the_others_answer() -> None:
    session = session_of(a="checkpoint.pt is damaged", b=StubModel())
    session.point_at(1, 1)
    a, b = asyncio.run(session.readings())
    assert a == Problem("a", "a: checkpoint.pt is damaged")
    assert isinstance(b, RunReading)


def test_without_a_point_nothing_is_asked() -> None:
    model = StubModel()
    session = session_of(a=model)
    assert asyncio.run(session.readings()) == []
    assert model.log == []


def test_without_a_picture_the_page_says_what_to_do() -> None:
    session = Session(models_of(a=StubModel()))
    with pytest.raises(ConfigError, match="drop one in"):
        session.point_at(1, 1)


def test_so_many_runs_are_compared_and_no_more() -> None:
    labels = [f"r{number}" for number in range(MOST_RUNS + 1)]
    session = session_of(**{label: StubModel() for label in labels[:-1]})
    assert len(set(session.colours.values())) == MOST_RUNS
    with pytest.raises(ConfigError, match=f"at most {MOST_RUNS}"):
        session.choose(labels)
    assert session.chosen == tuple(labels[:-1])


def test_unfamiliar_images_are_said_once() -> None:
    session = session_of(a=StubModel(), b=StubModel(), c="gone")
    assert asyncio.run(session.unfamiliar()) == ["aspect 3.00"]


# lines


def test_a_line_gives_a_profile() -> None:
    """From (0, 2) to (3, 2): four pixels; depths u + 0.2, the truth unknown in the left column."""
    session = session_of(a=StubModel())
    session.draw(0.5, 2.5, 3.5, 2.5)
    profile, problems = asyncio.run(session.profile())
    assert problems == []
    assert profile.along_px_N.tolist() == [0, 1, 2, 3]
    assert profile.truth_m_N == (None, 2, 2, 2)
    np.testing.assert_allclose(profile.depth_m_N["a"], [0.2, 1.2, 2.2, 3.2], rtol=1e-6)


def test_a_line_by_keys_or_taps() -> None:
    session = session_of(a=StubModel())
    with pytest.raises(ConfigError, match="choose a point first"):
        session.begin_or_end_line()
    session.point_at(1, 1)
    session.begin_or_end_line()
    assert session.start == (1, 1)
    with pytest.raises(ConfigError, match="two different points"):
        session.begin_or_end_line()
    session.begin_or_end_line()
    session.point_at(4, 2)
    assert session.line == ((1, 1), (4, 2))
    assert session.start is None
    assert session.point == (4, 2)


def test_clear_takes_everything_away() -> None:
    session = session_of(a=StubModel())
    session.draw(1, 1, 3, 3)
    session.point_at(2, 2)
    session.clear()
    assert (session.point, session.start, session.line) == (None, None, None)


def test_a_cloud_holds_every_pixel_of_a_small_image() -> None:
    made = asyncio.run(session_of(a=StubModel()).cloud("a"))
    assert made.xyz_N3.shape == (48, 3)
    assert (made.colour_N3 == made.colour_N3[0]).all()


# requests that overtake each other


def test_the_newest_request_is_answered_and_those_between_are_left() -> None:
    done: list[int] = []

    def work(number: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            await asyncio.sleep(0.01)
            done.append(number)

        return run

    async def all_at_once() -> None:
        latest = Latest()
        await asyncio.gather(*(latest(work(number)) for number in range(5)))

    asyncio.run(all_at_once())
    assert done == [0, 4]


def test_a_failed_request_does_not_block_the_next() -> None:
    done: list[str] = []

    async def fails() -> None:
        raise ConfigError("no")

    async def works() -> None:
        done.append("yes")

    async def both() -> None:
        latest = Latest()
        with pytest.raises(ConfigError):
            await latest(fails)
        await latest(works)

    asyncio.run(both())
    assert done == ["yes"]


def test_an_error_is_one_line() -> None:
    error = DataError("expected an image\nfound\x1b[2J none", where="a.png", hint="copy it again")
    assert one_line(error) == "a.png: expected an image found\\x1b[2J none (copy it again)"
