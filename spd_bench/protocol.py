"""The evaluation protocol as a value: in every table's caption, part of a run's evaluation identity (§8, R-24)."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which pixels count and what happens to predictions before they are scored.

    rows, columns: half-open crop in pixels of the original frame, None for the whole frame.
    frame: the frame size (height, width) that the crop is meant for; other sizes are refused.
    A pixel counts if min_m < depth < max_m (strict). Predictions are clamped to [min_m, max_m] after a check that
    they are finite: a NaN is never turned into a legal depth.
    """

    name: str
    rows: tuple[int, int] | None
    columns: tuple[int, int] | None
    frame: tuple[int, int] | None
    min_m: float = 1e-3
    max_m: float = 10.0

    def valid(self, depth_m_HW: NDArray[np.floating[Any]], *, where: str) -> NDArray[np.bool_]:
        """The pixels that count: valid depth inside the crop. DataError for a frame of another size."""
        height, width = depth_m_HW.shape
        if self.frame is not None and (height, width) != self.frame:
            raise DataError(
                f"protocol {self.name} is for frames of {self.frame[0]}×{self.frame[1]}, found {height}×{width}",
                where=where,
                hint="use eval.protocol: full_frame, or frames of the original size",
            )
        mask = (depth_m_HW > self.min_m) & (depth_m_HW < self.max_m)
        inside = np.zeros_like(mask)
        inside[slice(*(self.rows or (0, height))), slice(*(self.columns or (0, width)))] = True
        counted: NDArray[np.bool_] = mask & inside
        return counted

    def clamp(self, depth_m: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Predictions as they are scored."""
        clamped: NDArray[np.floating[Any]] = np.clip(depth_m, self.min_m, self.max_m)
        return clamped

    def caption(self) -> str:
        """One line for tables."""
        crop = "no crop"
        if self.rows and self.columns:
            crop = f"rows {self.rows[0]}:{self.rows[1]}, columns {self.columns[0]}:{self.columns[1]}"
        return (
            f"{self.name}: {crop}, {self.min_m:g} < depth < {self.max_m:g} m, predictions clamped to that range,"
            " no alignment, no flip averaging, per image then mean"
        )

    def identity(self) -> dict[str, Any]:
        """Everything that changes a score."""
        return asdict(self)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="nyu_bts", rows=(45, 471), columns=(41, 601), frame=(480, 640)),
        Protocol(name="full_frame", rows=None, columns=None, frame=None),
    )
}


def protocol(name: str, *, where: str | None = None) -> Protocol:
    """The protocol of this name; ConfigError for an unknown one."""
    if name not in PROTOCOLS:
        raise ConfigError(f'unknown protocol "{name}"', where=where, hint=did_you_mean(name, PROTOCOLS))
    return PROTOCOLS[name]
