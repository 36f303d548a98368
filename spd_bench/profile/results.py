"""The results of a profile as plain values: raw times of every model, and their ratios, crossovers and targets.

T_encode, T_prepare and T_decode(K) are those of R-29. T_dpt(K) is the time of the dense head for K points: its prepare,
which computes the whole map, and the read of K points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from spd_bench.cost.timing import DecodeWork, Settings, Spread, Timing, Work, ratio

DENSE, SPARSE, LITERAL = "dpt_trained", "dpt_sparse", "spd_v13_literal"
"""Baselines for ratios: the dense head, the same head computed only at queries, the literal transcription."""
TARGETS_FOR = "dav2_small", (518, 518)
"""Encoder and image size that the targets are for; the values of the weights do not matter."""


@dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """The costs of one model."""

    name: str
    """Its name in the suite."""
    kind: Literal["base", "ablation", "baseline"]
    """Its role in the suite."""
    parameters: int
    """Trainable parameters."""
    prepare: Timing
    """T_prepare."""
    decode: Mapping[int, Timing]
    """K → T_decode(K)."""
    prepare_peak: int
    """Peak bytes of `prepare`."""
    decode_peak: Mapping[int, int]
    """K → peak bytes of `decode`."""
    prepare_work: Mapping[str, Work]
    """Block → work of `prepare`."""
    decode_work: Mapping[str, DecodeWork]
    """Block → work of `decode`."""
    step: Timing | None = None
    """One training step; None if it was not timed."""

    def whole(self, k: int) -> Timing:
        """T_prepare + T_decode(K), round by round."""
        return self.prepare + self.decode[k]

    @property
    def prepare_macs(self) -> float:
        """Multiply-adds per image."""
        return sum(work.macs for work in self.prepare_work.values())

    @property
    def query_macs(self) -> float:
        """Multiply-adds that each query adds."""
        return sum(work.query.macs for work in self.decode_work.values())


class TrainingShape(NamedTuple):
    """The size of a timed training step."""

    batch: int
    """Images."""
    queries: int
    """Queries per image."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The measured costs of a suite's models, for one image (B = 1)."""

    suite: str
    """Name of the suite."""
    profile: str
    """The suite's profile that was applied, or "(none)"."""
    encoder: str
    """Name of the encoder."""
    image_size: tuple[int, int]
    """[height, width] of the network's input."""
    stand_ins: tuple[str, ...]
    """What replaces the real encoder, in words."""
    ks: tuple[int, ...]
    """Measured numbers of query points, ascending."""
    rounds: int
    """Rounds of every time."""
    settings: Settings
    """Conditions of the measurement."""
    encode: Timing
    """T_encode."""
    models: tuple[ModelProfile, ...]
    """The models, the base first."""
    skipped: Mapping[str, str]
    """Reference → why it was not measured."""
    training: TrainingShape | None
    """Size of the timed training step; None if none was timed."""
    versions: Mapping[str, str]
    """Versions of code and libraries."""
    finished: str
    """Date and time, UTC."""

    @property
    def base(self) -> ModelProfile:
        """The suite's base."""
        return next(model for model in self.models if model.kind == "base")

    def model(self, name: str) -> ModelProfile | None:
        """The model of that name; None if it was not measured."""
        return next((model for model in self.models if model.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Every raw time, with crossovers and targets under "derived"."""
        from pydantic import TypeAdapter

        found: dict[str, Any] = TypeAdapter(Profile).dump_python(self, mode="json")
        crossings = {name: crossing.text for name, crossing in crossovers(self).items()}
        listed = [
            {"what": t.what, "first": t.first, "final": t.final, "measured": t.measured, "met": t.met}
            for t in targets(self)
        ]
        return found | {"derived": {"crossover_k": crossings, "targets": listed}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Profile":
        """The profile that `to_json` wrote."""
        from pydantic import TypeAdapter

        return TypeAdapter(Profile).validate_python({key: stored[key] for key in stored if key != "derived"})


def over_dense(profile: Profile, timing: Timing, k: int) -> Spread | None:
    """A time as a share of T_dpt(K); None if the dense head was not measured."""
    dense = profile.model(DENSE)
    return ratio(timing, dense.whole(k)) if dense else None


def literal_over(profile: Profile, k: int) -> Spread | None:
    """T_decode(K) of the literal transcription over that of the base; None if it was not measured."""
    literal = profile.model(LITERAL)
    return ratio(literal.decode[k], profile.base.decode[k]) if literal else None


class Crossover(NamedTuple):
    """The K at which two total times are equal."""

    side: Literal["", ">", "<"]
    """">" or "<" if it lies beyond the measured K; "" otherwise."""
    k: float
    """The K, or the outermost measured K."""

    @property
    def text(self) -> str:
        """Text such as "512", "> 4096" or "< 1"."""
        return f"{self.side} {self.k:.0f}".strip()


def crossover(ks: Sequence[int], shares: Sequence[float]) -> Crossover:
    """The last K, ascending, at which a share (one total over another) crosses 1.

    Between two measured K, log share is interpolated linearly in log K.
    """
    faster = [i for i, share in enumerate(shares) if share < 1]
    last = faster[-1] if faster else -1
    if last == len(ks) - 1:
        return Crossover(">", ks[-1])
    if last < 0:
        return Crossover("<", ks[0])
    below, above = math.log(shares[last]), math.log(shares[last + 1])
    part = below / (below - above)
    return Crossover("", ks[last] ** (1 - part) * ks[last + 1] ** part)


def crossovers(profile: Profile) -> dict[str, Crossover]:
    """Rival → crossover of T_prepare + T_decode(K) of the base with it: the dense head and the sparse-tail one."""
    base, found = profile.base, {}
    for name in (DENSE, SPARSE):
        rival = profile.model(name)
        if rival is not None:
            shares = [ratio(base.whole(k), rival.whole(k)).median for k in profile.ks]
            found[name] = crossover(profile.ks, shares)
    return found


@dataclass(frozen=True)
class SpeedTarget:
    """One speed or memory target for the base, as text."""

    what: str
    """The measured quantity."""
    first: str
    """Limit for a first version."""
    final: str
    """Final limit."""
    measured: str
    """The measured value."""
    met: Literal["final", "first", "no", "not measured"]
    """Which limit is met."""


class _Aim(NamedTuple):
    """A measured value (None: not measured) with its two limits (None: no limit)."""

    what: str
    measured: float | None
    text: str
    first: float | None
    final: float | None
    at_most: bool = True
    unit: str = ""

    def reached(self, limit: float | None) -> bool:
        if limit is None or self.measured is None:
            return False
        return self.measured <= limit if self.at_most else self.measured >= limit

    def target(self) -> SpeedTarget:
        """The same with every number as text, and which limit is met."""
        sign = "≤" if self.at_most else "≥"
        first, final = (f"{sign} {x:g}{self.unit}" if x is not None else "–" for x in (self.first, self.final))
        met: Literal["final", "first", "no", "not measured"] = "no"
        if self.measured is None:
            met = "not measured"
        elif self.reached(self.final):
            met = "final"
        elif self.reached(self.first):
            met = "first"
        return SpeedTarget(self.what, first, final, self.text, met)


def targets(profile: Profile) -> list[SpeedTarget]:
    """The project's targets for a DAv2-S encoder at 518×518, with the values of this profile.

    On a GPU the only target is the decode at K = 1024. At other image sizes ratios and crossovers differ.
    """
    if profile.settings.device.startswith("cuda"):
        return [_decode_aim(profile, 1024, None, 0.25).target()]
    decode = [_decode_aim(profile, k, *limits) for k, *limits in ((1, 0.02, 0.01), (256, 0.45, 0.25), (1024, 1.6, 0.9))]
    aims = [*decode, _prepare_aim(profile), *_crossover_aims(profile), *_literal_aims(profile), _memory_aim(profile)]
    return [aim.target() for aim in aims]


def _decode_aim(profile: Profile, k: int, first: float | None, final: float) -> _Aim:
    found = over_dense(profile, profile.base.decode[k], k) if k in profile.ks else None
    return _Aim(f"T_decode({k}) / T_dpt", *_measured(found), first, final)


def _prepare_aim(profile: Profile) -> _Aim:
    return _Aim("T_prepare / T_dpt", *_measured(over_dense(profile, profile.base.prepare, profile.ks[0])), 0.09, 0.07)


def _crossover_aims(profile: Profile) -> list[_Aim]:
    found = crossovers(profile)
    wanted = ((DENSE, "the dense head", 500, 1000), (SPARSE, "the sparse-tail DPT", 200, 1024))
    aims = []
    for name, rival, first, final in wanted:
        at = found.get(name)
        value, text = (at.k if at.side != "<" else 0.0, at.text) if at else (None, "–")
        aims.append(_Aim(f"T_prepare + T_decode(K) below {rival} up to K", value, text, first, final, at_most=False))
    return aims


def _literal_aims(profile: Profile) -> list[_Aim]:
    literal, base = profile.model(LITERAL), profile.base
    decode = literal_over(profile, 256) if 256 in profile.ks else None
    step = ratio(literal.step, base.step) if literal and literal.step and base.step else None
    shape = profile.training or TrainingShape(8, 256)
    return [
        _Aim("literal / base, T_decode(256)", *_measured(decode), 5, 8, at_most=False, unit=" ×"),
        _Aim(
            f"literal / base, training step (B={shape.batch}, K={shape.queries})",
            *_measured(step),
            2.5,
            5,
            at_most=False,
            unit=" ×",
        ),
    ]


def _memory_aim(profile: Profile) -> _Aim:
    peak = profile.base.decode_peak.get(4096)
    megabytes = None if peak is None else peak / 1e6
    text = "–" if megabytes is None else f"{megabytes:.1f} MB"
    return _Aim("decode memory above base at K=4096", megabytes, text, 40, 25, unit=" MB")


def _measured(found: Spread | None) -> tuple[float | None, str]:
    return (None, "–") if found is None else (found.median, spread_text(found))


def spread_text(found: Spread, *, scale: float = 1.0) -> str:
    """Median and quartiles with three digits: "0.412 (0.405–0.43)"."""
    return f"{digits(found.median * scale)} ({digits(found.low * scale)}–{digits(found.high * scale)})"


def digits(value: float) -> str:
    """A number with three significant digits; without decimals from 100."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
