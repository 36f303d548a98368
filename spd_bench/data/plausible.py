"""Whether depth looks like rooms in the unit that it is read in, and whether the pictures are different ones.

A unit that the user did not give is assumed, and what does not fit it is then a problem; where the user gave the unit,
most of it is a note, since some scenes are unusual. Numbers are those of every 16th known pixel.

Letters: H W rows and columns, N known pixels that are looked at.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.api import SPLITS
from spd_bench.data.planes import LEAST_VOTES, inverse_votes
from spd_bench.data.reading.frames import smoother_swapped
from spd_bench.errors import DataError

EVERY = 16
ROOM_M = (0.5, 7.0)
"""Between these lies the median depth of a data set of rooms."""
FAR_SHARE, FAR_NOTE = 0.1, 0.01
"""Shares of known pixels beyond the protocol's bound from which on it is a problem, and a note."""
SEQUENCES_APART = 3.0
"""Factor between the median depth of a sequence and that of all, from which on it is taken for another unit."""
LEAST_INVERSE = 3
"""Frames that must look like inverse depth: one may show something curved."""
LEAST_DISTINCT = 50
"""Different values that a common factor must be seen in: a wall at one distance has them all alike."""
MOST_SHARE = 0.98
OTHER_UNIT = "if their files have another unit, keep them in a data set of their own, with its --option depth_scale=N"
CONSTANT_SHARE = 0.01
"""Share of a frame's known pixels with its largest value from which on that value may mean unknown."""
NEAREST_LARGEST_M = 0.05
"""Below this, all of a frame's depth is metres that were read in another unit, not relative depth."""
FACTORS = {
    5: "as 5000 units per metre make of millimetres",
    8: "as the rotated bits of SUN RGB-D have them (read with --dataset sun_rgbd)",
    257: "as 8-bit values stretched to 16 bits have them",
}


@dataclass(frozen=True)
class Suspicion:
    """Something about all frames: an error to show as a problem, or a note, with places."""

    error: DataError
    """What is wrong, with expected, found and mend."""
    is_problem: bool
    """Whether the command reports it as a problem; a note otherwise."""
    places: tuple[str, ...] = ()
    """Texts that name frames or sequences it concerns, at most a few; empty where it names no place."""
    of_pictures: bool = False
    """Whether it is about colour; all others are about the unit of depth."""

    @property
    def note(self) -> str:
        """The same in one line."""
        places = f" ({', '.join(self.places)})" if self.places else ""
        return f"{self.error.message}{places}"


@dataclass
class StoredValues:
    """What the whole numbers in the files of one scene have in common."""

    pixels: int = 0
    """Number of known pixels that were looked at."""
    multiples: Counter[int] = field(default_factory=Counter)
    """Pixels whose value is a multiple of each of `FACTORS`."""
    divisor: int = 0
    """Greatest common divisor of all."""
    distinct: set[int] = field(default_factory=set)
    """Different values, in file units; no more frames are added once it holds `LEAST_DISTINCT`."""
    fractions: bool = False
    """Whether a frame has values that are no whole numbers."""

    def add(self, values_N: NDArray[np.int64]) -> None:
        """Looks at the known values of one frame."""
        self.pixels += values_N.size
        for factor in FACTORS:
            self.multiples[factor] += int(np.count_nonzero(values_N % factor == 0))
        self.divisor = int(np.gcd.reduce(np.append(values_N, self.divisor)))
        if len(self.distinct) < LEAST_DISTINCT:
            self.distinct.update(np.unique(values_N).tolist())

    def factor(self) -> int:
        """The common factor of all values, or of nearly all if it is a known one; 1 for none or too few values."""
        if self.fractions or not self.pixels or len(self.distinct) < LEAST_DISTINCT:
            return 1
        most = max(FACTORS, key=lambda factor: (self.multiples[factor], factor))
        if self.divisor > 1:
            return self.divisor
        return most if self.multiples[most] / self.pixels > MOST_SHARE else 1

    def __add__(self, other: "StoredValues") -> "StoredValues":
        """Both together."""
        return StoredValues(
            self.pixels + other.pixels,
            self.multiples + other.multiples,
            int(np.gcd(self.divisor, other.divisor)),
            self.distinct | other.distinct,
            self.fractions or other.fractions,
        )


@dataclass
class Plausibility:
    """Gathers what one pass over the frames shows, frame by frame, and says what it amounts to."""

    units_per_metre: float | None
    """File units in one metre; None where the data set states no unit."""
    assumed: bool
    """Whether the unit is assumed, so that everything that speaks against it is a problem."""
    max_m: float
    """Depth beyond which the protocol counts no pixel."""
    _medians_m: dict[str, list[float]] = field(default_factory=dict)
    _far: int = 0
    _looked_at: int = 0
    _values: dict[str, StoredValues] = field(default_factory=dict)
    _constants: Counter[int] = field(default_factory=Counter)
    _constant_pixels: Counter[int] = field(default_factory=Counter)
    _swapped: int = 0
    _planes: Counter[str] = field(default_factory=Counter)
    _relative: int = 0
    _largest: Counter[float] = field(default_factory=Counter)
    _measured: int = 0
    _frames: int = 0
    _pictures: dict[bytes, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, split: str, name: str, scene: str, image_HW3: NDArray[np.uint8], depth_m_HW: NDArray[Any]) -> None:
        """Looks at one frame."""
        self._frames += 1
        self._add_picture(split, name, image_HW3)
        known_m_N = depth_m_HW.ravel()[::EVERY]
        known_m_N = known_m_N[known_m_N > 0]
        if not known_m_N.size:
            return
        self._looked_at += known_m_N.size
        self._far += int(np.count_nonzero(known_m_N >= self.max_m))
        self._medians_m.setdefault(scene, []).append(float(np.median(known_m_N)))
        depth, inverse = inverse_votes(depth_m_HW)
        if depth + inverse >= LEAST_VOTES:
            self._planes["inverse" if inverse > 2 * depth else "others"] += 1
        self._measured += 1
        if self.units_per_metre is not None:
            self._add_values(scene, known_m_N, depth_m_HW)

    def findings(self) -> list[Suspicion]:
        """What there is to say, problems and notes."""
        if not self._medians_m:
            return self._same_pictures()
        return [
            *self._far_away(),
            *self._median(),
            *self._common_factor(),
            *self._no_metres(),
            *self._constant(),
            *self._exchanged_bytes(),
            *self._inverted(),
            *self._other_sequences(),
            *self._same_pictures(),
        ]

    # ---------------------------------------------------------------------------------------------- gathering

    def _add_picture(self, split: str, name: str, image_HW3: NDArray[np.uint8]) -> None:
        first = image_HW3[0, 0]
        if (image_HW3[::8, ::8] == first).all() and (image_HW3[::4] == first).all():
            return  # one colour shows nothing that could be known again
        digest = hashlib.blake2b(np.ascontiguousarray(image_HW3[::4]).data, digest_size=16).digest()
        self._pictures.setdefault(digest, []).append((split, name))

    def _add_values(self, scene: str, known_m_N: NDArray[Any], depth_m_HW: NDArray[Any]) -> None:
        assert self.units_per_metre is not None
        stored = self._values.setdefault(scene, StoredValues())
        units_N = known_m_N.astype(np.float64) * self.units_per_metre
        values_N = np.rint(units_N).astype(np.int64)
        if np.abs(units_N - values_N).max() > 0.05:
            stored.fractions = True
            if units_N.max() <= 1 or NEAREST_LARGEST_M < known_m_N.max() <= 1:
                self._relative += 1
                self._largest[round(float(depth_m_HW.max()), 6)] += 1
            return
        stored.add(values_N)
        largest = int(values_N.max())
        if (count := int(np.count_nonzero(values_N == largest))) > CONSTANT_SHARE * values_N.size:
            self._constants[largest] += 1
            self._constant_pixels[largest] += count
        if values_N.max() < 2**16:
            self._swapped += smoother_swapped(np.rint(depth_m_HW[::32] * self.units_per_metre).astype(np.uint16))

    # ------------------------------------------------------------------------------------------------- judging

    def _finding(self, message: str, hint: str, *, problem: bool, places: tuple[str, ...] = ()) -> Suspicion:
        said = "the unit is assumed" if self.assumed else "the unit was given"
        return Suspicion(DataError(f"{message}; {said}", hint=hint), problem, places)

    def _far_away(self) -> list[Suspicion]:
        share = self._far / self._looked_at
        if share < FAR_NOTE:
            return []
        message = f"{share:.1%} of the known pixels lie beyond the protocol's {self.max_m:g} m and are not scored"
        hint = self._unit_hint()
        return [self._finding(message, hint, problem=share > (FAR_SHARE if self.assumed else 0.5))]

    def _median(self) -> list[Suspicion]:
        median_m = self._median_m()
        if ROOM_M[0] <= median_m <= ROOM_M[1]:
            return []
        message = f"the median depth is {median_m:.3f} m, which is not that of rooms ({ROOM_M[0]:g} to {ROOM_M[1]:g} m)"
        return [self._finding(message, self._unit_hint(), problem=self.assumed)]

    def _common_factor(self) -> list[Suspicion]:
        """A factor that all values have, or those of some scenes, whose unit then is another one."""
        if (factor := self._stored().factor()) > 1:
            found = {factor: list(self._values)}
        else:
            found = {}
            for scene, stored in self._values.items():
                found.setdefault(stored.factor(), []).append(scene)
        return [
            self._multiples(factor, scenes)
            for factor, scenes in found.items()
            if factor > 1 and self.units_per_metre != 1000 * factor  # millimetres, stored as the unit says
        ]

    def _multiples(self, factor: int, scenes: list[str]) -> Suspicion:
        known = next((FACTORS[f] for f in sorted(FACTORS, reverse=True) if factor % f == 0), "as no sensor gives them")
        if len(scenes) == len(self._values):
            message = f"the stored values are multiples of {factor}, {known}"
            return self._finding(message, self._unit_hint(factor), problem=self.assumed)
        message = f"in {len(scenes)} of {len(self._values)} scenes the stored values are multiples of {factor}, {known}"
        return self._finding(message, OTHER_UNIT, problem=self.assumed, places=tuple(scenes[:5]))

    def _stored(self) -> StoredValues:
        return sum(self._values.values(), StoredValues())

    def _no_metres(self) -> list[Suspicion]:
        """Fractions up to 1: depth without a unit, or its inverse. A frame that was scaled by itself ends at 1."""
        if not self._measured or self._relative < self._measured:
            return []
        message = "every value is a fraction up to 1, as in files of disparity, inverse or relative depth"
        frames = self._largest.most_common(1)[0][1]
        by_itself = 2 * frames > self._frames and self._frames > 1
        if by_itself:
            message += (
                f"; the largest is the same in {frames} of {self._frames} frames, as if each was scaled by itself"
            )
        hint = "no unit makes metres of such values: convert the files; a map of them can be scored as a prediction"
        return [self._finding(message, hint, problem=self.assumed or by_itself)]

    def _constant(self) -> list[Suspicion]:
        """A largest value that most frames have at many pixels, as what means unknown has."""
        value, frames = next(iter(self._constants.most_common(1)), (0, 0))
        if 2 * frames <= self._frames or self.units_per_metre is None or len(self._stored().distinct) < LEAST_DISTINCT:
            return []
        share = self._constant_pixels[value] / self._stored().pixels
        at_m = value / self.units_per_metre
        message = f"the largest value, {value} ({at_m:.3f} m), stands at {share:.1%} of the known pixels"
        hint = f"if it means unknown, add it to the values that do: --option 'invalid=[0, 65535, {value}]'"
        return [Suspicion(DataError(message, hint=hint), at_m >= self.max_m)]

    def _exchanged_bytes(self) -> list[Suspicion]:
        if 2 * self._swapped <= self._frames:
            return []
        message = f"in {self._swapped} of {self._frames} frames the stored values are smooth only with bytes exchanged"
        return [Suspicion(DataError(message, hint="write the depth again in the byte order of its format"), True)]

    def _inverted(self) -> list[Suspicion]:
        """Planes that are planes only if the values are inverse depth."""
        inverse, frames = self._planes["inverse"], self._planes.total()
        if inverse < LEAST_INVERSE or 4 * inverse <= 3 * frames:
            return []
        message = f"in {inverse} of {frames} frames floors and walls are flat only if the values are inverse depth"
        hint = "if the files hold disparity, convert them to depth: focal length in pixels × baseline / disparity"
        if self.units_per_metre is not None:
            hint += f"; --option depth_scale={self.units_per_metre:g} if they hold depth in this unit"
        return [Suspicion(DataError(message, hint=hint), self.assumed)]

    def _other_sequences(self) -> list[Suspicion]:
        medians = {scene: float(np.median(values)) for scene, values in self._medians_m.items()}
        middle = median_low(medians.values())
        apart = {s: m for s, m in medians.items() if not 1 / SEQUENCES_APART < m / middle < SEQUENCES_APART}
        if not apart:
            return []
        places = tuple(f"{scene}: median {median:.3f} m" for scene, median in list(apart.items())[:5])
        message = f"{len(apart)} of {len(medians)} scenes have a median depth far from the others' {middle:.3f} m"
        return [self._finding(message, OTHER_UNIT, problem=self.assumed, places=places)]

    def _same_pictures(self) -> list[Suspicion]:
        across = [each for each in self._pictures.values() if len({split for split, _ in each}) > 1]
        within = sum(len(each) - 1 for each in self._pictures.values()) - sum(len(each) - 1 for each in across)
        found = []
        if across:
            firsts = [dict(reversed(each)) for each in across[:5]]
            places = tuple(" and ".join(f"{s} frame {first[s]}" for s in SPLITS if s in first) for first in firsts)
            message = f"{len(across)} pictures are in two splits: what is scored was trained on"
            hint = "keep one frame of each picture, or take the copies for one split"
            found.append(Suspicion(DataError(message, hint=hint), True, places, of_pictures=True))
        if within:
            found.append(
                Suspicion(DataError(f"{within} frames repeat the picture of another one of their split"), False)
            )
        return found

    def _median_m(self) -> float:
        return float(np.median([median for each in self._medians_m.values() for median in each]))

    def _unit_hint(self, factor: int = 1) -> str:
        if self.units_per_metre is None:
            return "check the data, or use another protocol"
        units = self._median_m() * self.units_per_metre
        likely = [unit for unit in (1, 256, 1000, 4000, 5000, 6553.5) if 1.0 <= units / unit <= 4.5]
        if factor > 1 and self.units_per_metre * factor not in likely:
            likely.append(self.units_per_metre * factor)
        others = [unit for unit in likely if unit != self.units_per_metre]
        named = " or ".join(f"{unit:g} (median {units / unit:.2f} m)" for unit in others) or "that of the files"
        return (
            f"say the number of file units in one metre, --option depth_scale=N: {named}; "
            f"--option depth_scale={self.units_per_metre:g} if it is as assumed"
        )
