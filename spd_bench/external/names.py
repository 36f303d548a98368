"""Which predictions belong to which frames, by name."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spd_bench.api import FrameId
from spd_bench.errors import DataError

SHOWN = 10
"""Names that a message lists; the rest are counted."""
AFFIXES = re.compile(
    r"^(?:pred|prediction|depth|disp|disparity|rgb|img|image)[_-]"
    r"|[_-](?:pred|prediction|depth|disp|disparity|pred_depth|depth_pred|raw_depth_meter|raw)$"
)
"""What tools write before or behind the name of the image."""


@dataclass(frozen=True)
class FramePredictions:
    """Predictions found for frames."""

    order: tuple[int, ...]
    """Of each frame, the place of its prediction; -1 without one."""
    surplus: tuple[str, ...]
    """Names that belong to no test frame."""


def match(
    keys: Sequence[str], frames: Sequence[FrameId], *, where: str, besides: str = "", every: bool = True
) -> FramePredictions:
    """One key for each frame. Names that belong to no frame are left over: predictions of other splits.

    A name is the frame's own, with or without `_` in place of `/`; ends in `rgb_NUMBER` as in the BTS lineage; is
    `TYPE_NUMBER` as mmsegmentation has it, TYPE being the scene's name without its number; or is the frame's name with
    what tools add to it (`AFFIXES`).

    besides: what else lies there, for messages. every: whether each frame needs a prediction; else one suffices.

    Raises DataError for a frame with several predictions, or with none where it needs one.
    """
    named: dict[str, set[int]] = {}
    for number, key in enumerate(keys):
        for form in _forms_of_key(key):
            named.setdefault(form, set()).add(number)
    own = {frame.frame: _own(named, keys, frame.frame) for frame in frames}
    taken = {number: name for name, numbers in own.items() for number in numbers}
    found = [_candidates(named, keys, frame, taken) for frame in frames]
    doubtful = [
        f"{frame.frame} ({', '.join(keys[n] for n in some)})"
        for frame, some in zip(frames, found, strict=True)
        if some[1:]
    ]
    missing = [frame.frame for frame, some in zip(frames, found, strict=True) if not some]
    if not every and len(missing) < len(frames):
        missing = []
    used = [number for some in found for number in some]
    often = {number for number, times in Counter(used).items() if times > 1}
    shared = [frame.frame for frame, some in zip(frames, found, strict=True) if often.intersection(some)]
    once = set(used)
    surplus = tuple(key for number, key in enumerate(keys) if number not in once)
    for problem, listed in (
        ("frames have more than one prediction", doubtful),
        ("frames share a prediction with another frame", shared),
        (f"of {len(frames)} test frames have no prediction", missing),
    ):
        if listed:
            there = f"; found {shortlist(surplus, 4)}" if surplus else ""
            raise DataError(
                f"{len(listed)} {problem}: {shortlist(listed)}{there}{besides}",
                where=where,
                hint=_hint(keys, frames, missing),
            )
    return FramePredictions(tuple(some[0] if some else -1 for some in found), surplus)


def shortlist(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def scene_type(scene: str) -> str:
    """`living_room` of `living_room_0013` and `living_room_0013b`."""
    return re.sub(r"_\d+[a-z]?$", "", scene)


def _forms_of_key(key: str) -> set[str]:
    forms = {key, stripped(key)}
    before, mark, number = key.rpartition("rgb_")
    if mark and number.isdigit() and before[-1:] in ("", "/", "_"):
        forms.add(f"rgb_{number}")
    return forms


def stripped(key: str) -> str:
    """The key without what tools add to a file's name, and without its folders."""
    name, before = key.rpartition("/")[2], ""
    while name != before:
        before, name = name, AFFIXES.sub("", name)
    return name


def _own(named: dict[str, set[int]], keys: Sequence[str], frame: str) -> set[int]:
    forms = (frame, frame.replace("/", "_"))
    return {number for form in forms for number in named.get(form, ()) if keys[number] in forms}


def _candidates(named: dict[str, set[int]], keys: Sequence[str], frame: FrameId, taken: dict[int, str]) -> list[int]:
    """Keys that may name a frame and are no other frame's own name."""
    last = frame.frame.rpartition("/")[2].removeprefix("rgb_")
    kind = scene_type(frame.scene)
    forms = {frame.frame, frame.frame.replace("/", "_"), f"rgb_{last}", f"{kind}_{last}"}
    forms |= set() if "/" in frame.frame else {last}
    found = {n for form in forms for n in named.get(form, ()) if taken.get(n, frame.frame) == frame.frame}
    if len(found) > 1:  # a training recording `bathroom_0001/rgb_00045` beside the test frame `bathroom/rgb_00045`
        of_kind = {n for n in found if re.search(rf"(?:^|/){re.escape(kind)}[/_](?:rgb_)?{re.escape(last)}$", keys[n])}
        found = of_kind if len(of_kind) == 1 else found
    return sorted(found)


def _hint(keys: Sequence[str], frames: Sequence[FrameId], missing: Sequence[str]) -> str:
    numbers = {int(found[-1]) for key in keys if (found := re.findall(r"\d+", key))}
    wanted = {int(found[-1]) for frame in frames if (found := re.findall(r"\d+", frame.frame))}
    if missing and not wanted <= numbers and {number + 1 for number in wanted} <= numbers:
        return f"their numbers seem to count from 1, those of the frames from 0: rename them, such as {frames[0].frame}"
    return f"name predictions by frame, such as {frames[0].frame}; one for each frame of the test split"
