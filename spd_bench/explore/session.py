"""What one page shows and asks, without any widget: a picture, runs, a point, a line, and the answers."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spd_bench.errors import ConfigError, SpdError, printable
from spd_bench.explore import cloud, profile
from spd_bench.explore.cloud import Cloud
from spd_bench.explore.models import Models, Timed
from spd_bench.explore.overlays import Point
from spd_bench.explore.pictures import Picture
from spd_bench.explore.profile import COLOURS, DepthProfile
from spd_bench.inside.trace import Inside, look_inside

MOST_RUNS = len(COLOURS)
"""Runs that are compared at once."""


@dataclass(frozen=True)
class RunReading:
    """What one run says of the point."""

    run: str
    """Label of the run."""
    depth_m: float
    """Depth in metres."""
    truth_m: float | None
    """True depth in metres; None where it is unknown."""
    outside: bool
    """Whether the depth lies outside the range that training saw."""
    encode_ms: float
    """What encoding the image took, pre-compute included; it is done once."""
    decode_ms: float
    """What this answer took."""

    @property
    def error_m(self) -> float | None:
        """Depth minus truth in metres; None without a truth."""
        return None if self.truth_m is None else self.depth_m - self.truth_m


@dataclass(frozen=True)
class Problem:
    """Why a run did not answer."""

    run: str
    """Label of the run."""
    text: str
    """One line."""


class Session:
    """The state of one page."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self.chosen: tuple[str, ...] = tuple(list(models.offers)[:1])
        """Runs that are asked."""
        self.picture: Picture | None = None
        """The image that is shown."""
        self.point: Point | None = None
        """The point (u, v) that is asked for; whole numbers are centres of pixels."""
        self.start: Point | None = None
        """Where a line begins whose end is not chosen yet."""
        self.line: tuple[Point, Point] | None = None
        """The line that was drawn."""

    @property
    def colours(self) -> dict[str, str]:
        """A colour for each chosen run."""
        return dict(zip(self.chosen, COLOURS, strict=False))

    def choose(self, labels: Sequence[str]) -> None:
        """Changes the runs that are asked. ConfigError for more than MOST_RUNS."""
        if len(labels) > MOST_RUNS:
            raise ConfigError(f"at most {MOST_RUNS} runs are compared at once")
        self.chosen = tuple(labels)

    def show(self, picture: Picture) -> None:
        """Shows another picture; point and line are gone."""
        self.picture, self.point, self.start, self.line = picture, None, None, None

    def point_at(self, image_x: float, image_y: float) -> None:
        """Asks for the pixel under a place in image coordinates, (0, 0) the upper left corner of the image.

        It ends a line that was begun.
        """
        self._ask_at(self._pixel_of(image_x, image_y))

    def move(self, right: int, down: int) -> None:
        """Moves the point by whole pixels, within the image; the first time from its middle."""
        picture = self._shown()
        u, v = self.point or ((picture.width - 1) // 2, (picture.height - 1) // 2)
        if self.point is not None:
            u, v = u + right, v + down
        self.point = _within(u, v, picture)

    def draw(self, from_x: float, from_y: float, to_x: float, to_y: float) -> None:
        """Draws a line between two places in image coordinates."""
        self._draw(self._pixel_of(from_x, from_y), self._pixel_of(to_x, to_y))

    def begin_or_end_line(self) -> None:
        """Begins a line at the point, or ends there the one that was begun. ConfigError where there is no point."""
        if self.point is None:
            raise ConfigError("choose a point first: the line begins there")
        if self.start is None:
            self.start = self.point
        else:
            self._draw(self.start, self.point)

    def clear(self) -> None:
        """Takes point and line away."""
        self.point, self.start, self.line = None, None, None

    async def readings(self) -> list[RunReading | Problem]:
        """What each chosen run says of the point."""
        picture, point = self._shown(), self.point
        if point is None:
            return []
        truth_m = picture.truth_m(*point)

        def read(label: str, answer: Timed) -> RunReading:
            depth_m, outside = answer.value
            return RunReading(label, depth_m, truth_m, outside, answer.encode_ms, answer.decode_ms)

        return await self._of_each(picture, lambda model, scene: _one_depth(model, scene, point), read)

    async def profile(self) -> tuple[DepthProfile, list[Problem]]:
        """Depth along the line by each chosen run, and the runs that gave none. ConfigError where there is no line."""
        picture = self._shown()
        if self.line is None:
            raise ConfigError("draw a line first")
        uv_N2 = profile.points_along(*self.line)
        answers = await self._of_each(
            picture, lambda model, scene: model.depth(scene, uv_N2), lambda label, answer: (label, answer.value)
        )
        problems = [answer for answer in answers if isinstance(answer, Problem)]
        depths: dict[str, npt.NDArray[np.float32]] = dict(a for a in answers if not isinstance(a, Problem))
        truth_m_N = profile.truth_along(picture, uv_N2)
        return DepthProfile(profile.distances(uv_N2), truth_m_N, depths), problems

    async def unfamiliar(self) -> list[str]:
        """How the picture differs from what the chosen runs were trained on, one line each; of runs that answer."""
        picture = self._shown()
        found: dict[str, None] = {}
        for label in self.chosen:
            with suppress(SpdError):
                found |= dict.fromkeys((await self.models.encoded(label, picture)).scene.unfamiliar)
        return list(found)

    async def inside(self, label: str) -> Inside:
        """What a run looked at for the point. ConfigError where there is none, and for a baseline."""
        picture, point = self._shown(), self.point
        if point is None:
            raise ConfigError("choose a point first")
        answer = await self.models.ask(label, picture, lambda model, scene: look_inside(model, scene, point))
        seen: Inside = answer.value
        return seen

    async def cloud(self, label: str) -> Cloud:
        """The picture's depths by a run as points in space."""
        picture = self._shown()
        uv_N2 = cloud.spread(**picture.size)
        depth_m_N = (await self.models.ask(label, picture, lambda model, scene: model.depth(scene, uv_N2))).value
        return Cloud(cloud.in_space(uv_N2, depth_m_N, **picture.size), cloud.colours(picture.image_HW3, uv_N2))

    async def _of_each(
        self, picture: Picture, question: Callable[[Any, Any], Any], read: Callable[[str, Timed], Any]
    ) -> list[Any]:
        """Each chosen run's answer, as `read` makes it of label and value, or the problem that it met."""

        async def one(label: str) -> Any:
            try:
                return read(label, await self.models.ask(label, picture, question))
            except SpdError as error:
                return Problem(label, one_line(error))

        return list(await asyncio.gather(*map(one, self.chosen)))

    def _shown(self) -> Picture:
        if self.picture is None:
            raise ConfigError("choose a test image, or drop one in")
        return self.picture

    def _pixel_of(self, image_x: float, image_y: float) -> Point:
        picture = self._shown()
        return _within(int(np.floor(image_x)), int(np.floor(image_y)), picture)

    def _ask_at(self, point: Point) -> None:
        if self.start is not None:
            self._draw(self.start, point)
        self.point = point

    def _draw(self, start: Point, end: Point) -> None:
        self.start = None
        if start == end:
            raise ConfigError("a line needs two different points")
        self.line = start, end


class Latest:
    """Runs the newest of several requests, one at a time; those that a newer one overtakes while they wait are left."""

    def __init__(self) -> None:
        self._waiting: Callable[[], Awaitable[None]] | None = None
        self._busy = False

    async def __call__(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` now, after what runs, or never."""
        self._waiting = work
        if self._busy:
            return
        self._busy = True
        try:
            while self._waiting is not None:
                work, self._waiting = self._waiting, None
                await work()
        finally:
            self._busy = False


def one_line(error: SpdError) -> str:
    """An error as a page shows it."""
    text = f"{error.where}: {error.message}" if error.where else error.message
    return " ".join(printable(f"{text} ({error.hint})" if error.hint else text, keep="\n").split())


def _one_depth(model: Any, scene: Any, point: Point) -> tuple[float, bool]:
    depth_m_1 = model.depth(scene, [point])
    return float(depth_m_1[0]), bool(model.unfamiliar(depth_m_1)[0])


def _within(u: float, v: float, picture: Picture) -> Point:
    return min(max(u, 0), picture.width - 1), min(max(v, 0), picture.height - 1)
