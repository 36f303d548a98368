"""What other toolboxes would print for the same files, and which rule makes the difference (`score --explain`).

Every toolbox is a set of `toolboxes.Rules`. Its numbers are computed, and those of this project's protocol with one
rule at a time exchanged for the toolbox's: how far each of these lies from the protocol's own is that rule's share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spd_bench.external.reading import ReadMap
from spd_bench.external.toolboxes import LOG_ERRORS, TOOLBOXES, Rules, Toolbox, own_rules
from spd_bench.protocol import Protocol

Values = NDArray[np.floating[Any]]


class Numbers(NamedTuple):
    """What a toolbox prints, in its own definitions."""

    absrel: float
    """Mean |g − p| / g."""
    rmse: float
    """√ mean (g − p)², in metres."""
    delta1: float
    """Share of max(g/p, p/g) < 1.25."""
    log_error: float
    """By the formula of the rules."""


class Sums(NamedTuple):
    """Sums over the pixels of one image that count."""

    pixels: int
    """How many pixels count."""
    relative: float
    """Sum of |g − p| / g."""
    squares: float
    """Sum of (g − p)²."""
    within: int
    """Pixels with max(g/p, p/g) < 1.25."""
    logs: float
    """Sum of e = ln p − ln g."""
    log_squares: float
    """Sum of e²."""


@dataclass(frozen=True)
class RuleShare:
    """What one rule does: the protocol's numbers with this rule alone exchanged."""

    rule: str
    """Which rule, and what it is there."""
    numbers: Numbers
    """The numbers under that exchange."""


@dataclass(frozen=True)
class Theirs:
    """What one toolbox would print."""

    toolbox: Toolbox
    """Whose rules."""
    numbers: Numbers
    """What it would print."""
    shares: tuple[RuleShare, ...]
    """One for each rule that differs from the protocol's."""


@dataclass(frozen=True)
class Explanation:
    """The protocol's own numbers over all pixels, and those of other toolboxes."""

    ours: Numbers
    """By this project's protocol."""
    theirs: tuple[Theirs, ...]
    """By the defaults of each toolbox."""

    def lines(self) -> list[str]:
        """As text, one line each."""
        from tabulate import tabulate

        def cells(name: str, log_error: str, numbers: Numbers) -> list[str]:
            return [name, *(f"{n:.4f}" for n in numbers[:3]), f"{numbers.log_error:.4f}  {log_error}"]

        rows = [cells("this protocol", LOG_ERRORS["silog"], self.ours)]
        rows += [cells(t.toolbox.name, LOG_ERRORS[t.toolbox.rules.log_error], t.numbers) for t in self.theirs]
        headers = ["for the same files", "AbsRel", "RMSE", "delta1", "log error"]
        text = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
        return ["All pixels, by the defaults of other toolboxes:", *text.splitlines(), "", *self._rules()]

    def _rules(self) -> Iterator[str]:
        for theirs in self.theirs:
            yield f"{theirs.toolbox.name} ({theirs.toolbox.source}):"
            if not theirs.shares:
                yield "  the same rules"
            idle = [share for share in theirs.shares if np.allclose(share.numbers, self.ours, rtol=0, atol=5e-5)]
            if idle:
                yield f"  without effect here: {', '.join(share.rule for share in idle)}"
            for share in (share for share in theirs.shares if share not in idle):
                found, ours = share.numbers, self.ours
                changes = [f"{a - b:+.4f}" for a, b in zip(found, ours, strict=True)]
                yield (
                    f"  {share.rule}: alone AbsRel {changes[0]}, RMSE {changes[1]}, delta1 {changes[2]}, "
                    f"log error {found.log_error:.4f}"
                )


class Explainer:
    """Collects images, one at a time."""

    def __init__(self, protocol: Protocol, toolboxes: Sequence[Toolbox] = TOOLBOXES) -> None:
        self.protocol = protocol
        self.toolboxes = toolboxes
        self._ours = own_rules(protocol)
        self._wanted = list(dict.fromkeys(_pixelwise(rules) for rules in self._every()))
        self._sums: Mapping[Rules, list[Sums]] = {rules: [] for rules in self._wanted}

    def _every(self) -> Iterator[Rules]:
        yield self._ours
        for toolbox in self.toolboxes:
            yield toolbox.rules
            yield from (changed for _, changed in exchanged(self._ours, toolbox.rules))

    def add(self, truth_m_HW: NDArray[np.float32], found: ReadMap, map_HW: Values) -> None:
        """One image: its truth, its map as it was read, and that map in file units per metre at its own size."""
        as_it_lies = found.box is not None or found.scale != 1 or map_HW.shape == truth_m_HW.shape
        corners_HW = None if as_it_lies else enlarged(map_HW, truth_m_HW.shape)
        for rules in self._wanted:
            read = corners_HW if rules.resizing == "corners" and corners_HW is not None else found.depth_m_HW
            sums = sums_of(truth_m_HW, read.astype(np.float64), rules)
            if sums.pixels >= rules.mask.fewest:
                self._sums[rules].append(sums)

    def explanation(self) -> Explanation:
        """The numbers of all images that were added."""
        return Explanation(
            self._numbers(self._ours),
            tuple(
                Theirs(
                    toolbox,
                    self._numbers(toolbox.rules),
                    tuple(
                        RuleShare(rule, self._numbers(changed))
                        for rule, changed in exchanged(self._ours, toolbox.rules)
                    ),
                )
                for toolbox in self.toolboxes
            ),
        )

    def _numbers(self, rules: Rules) -> Numbers:
        return averaged(self._sums[_pixelwise(rules)], rules)


def exchanged(ours: Rules, theirs: Rules) -> list[tuple[str, Rules]]:
    """Our rules with each of theirs that differs put in alone, and its name and value."""
    found = []
    for rule in fields(Rules):
        value = getattr(theirs, rule.name)
        if value != getattr(ours, rule.name):
            shown = LOG_ERRORS[theirs.log_error] if rule.name == "log_error" else value
            words = "none" if shown is None else str(shown)
            found.append((f"{rule.name.replace('_', ' ')} {words}", replace(ours, **{rule.name: value})))
    return found


def _pixelwise(rules: Rules) -> Rules:
    """The rules without what only matters once sums are there."""
    return replace(rules, averaging="per_image", log_error="silog")


def sums_of(truth_m_HW: NDArray[np.float32], predicted_m_HW: NDArray[np.float64], rules: Rules) -> Sums:
    """Sums over the pixels of one image that count under the rules."""
    valid_HW = rules.mask.of(truth_m_HW)
    if rules.crop is not None:
        inside_HW = np.zeros_like(valid_HW)
        inside_HW[slice(*rules.crop.rows), slice(*rules.crop.columns)] = True
        valid_HW = valid_HW & inside_HW
    g_V, p_V = truth_m_HW[valid_HW].astype(np.float64), predicted_m_HW[valid_HW]
    if not len(g_V):
        return Sums(0, 0.0, 0.0, 0, 0.0, 0.0)
    if rules.alignment == "median":
        known_V = np.isfinite(p_V)
        low = rules.clamping.low_m or 0.0
        p_V = p_V * (lower_median(g_V[known_V]) / lower_median(np.maximum(p_V[known_V], low)))
    p_V = rules.clamping.of(p_V)
    with np.errstate(divide="ignore", invalid="ignore"):
        g32_V, p32_V = g_V.astype(np.float32), p_V.astype(np.float32)
        ratio_V, e_V = np.maximum(p32_V / g32_V, g32_V / p32_V), np.log(p_V) - np.log(g_V)
    return Sums(
        pixels=len(g_V),
        relative=float(np.sum(np.abs(g_V - p_V) / g_V)),
        squares=float(np.sum((g_V - p_V) ** 2)),
        within=int(np.count_nonzero(ratio_V < 1.25)),
        logs=float(np.sum(e_V)),
        log_squares=float(np.sum(e_V**2)),
    )


def lower_median(values: Values) -> float:
    """The middle value, of an even number the lower of the two in the middle."""
    middle = (len(values) - 1) // 2
    return float(np.partition(values, middle)[middle])


def averaged(images: Sequence[Sums], rules: Rules) -> Numbers:
    """Numbers of a split from the sums of its images."""
    if not images:
        return Numbers(np.nan, np.nan, np.nan, np.nan)
    if rules.averaging == "pooled":
        total = [sum(column) for column in zip(*images, strict=True)]
        images = [Sums(int(total[0]), total[1], total[2], int(total[3]), total[4], total[5])]
    each = [
        (s.relative / s.pixels, np.sqrt(s.squares / s.pixels), s.within / s.pixels, _log_error(s, rules))
        for s in images
    ]
    return Numbers(*(float(np.mean(column)) for column in zip(*each, strict=True)))


def _log_error(sums: Sums, rules: Rules) -> float:
    mean, square = sums.logs / sums.pixels, sums.log_squares / sums.pixels
    if rules.log_error == "rmse_log":
        return float(np.sqrt(square))
    if rules.log_error == "silog_half":
        return float(np.sqrt(max(square - 0.5 * mean**2, 0.0)))
    return 100 * float(np.sqrt(max(square - mean**2, 0.0)))


def enlarged(map_HW: Values, size: tuple[int, ...]) -> Values:
    """The map at another size, bilinear with align_corners=True: the outermost pixels coincide."""
    import torch
    import torch.nn.functional as F

    map_11HW = torch.from_numpy(np.ascontiguousarray(map_HW))[None, None]
    resized: Values = F.interpolate(map_11HW, tuple(size), mode="bilinear", align_corners=True)[0, 0].numpy()
    return resized
