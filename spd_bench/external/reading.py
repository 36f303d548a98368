"""How the numbers in files of predictions are taken: unit, quantity, alignment, crop."""

import re
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import ConfigError, DataError, did_you_mean
from spd_bench.external.alignment import FittedAlignment, How, Quantity, is_affine
from spd_bench.external.crops import CropBox, box_of, placed
from spd_bench.protocol import Protocol

UNITS = {"m": 1.0, "mm": 1000.0}
NO_ALIGNMENT = "none"
Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the numbers in the files are taken."""

    per_metre: float = 1.0
    """File units in one metre."""
    quantity: Quantity = "depth"
    """Whether the numbers rise with depth or fall."""
    align: How | None = None
    """How relative predictions are aligned to the ground truth of each image; None for predictions in metres."""
    gt_aligned: bool = False
    """Whether ground truth entered the predictions, here or before (R-27)."""
    crop: CropBox | str | None = None
    """Where in the frame the maps lie; "none" for all of it; None: as their size says (`crops.placed`)."""
    as_is: bool = False
    """Whether implausible predictions are scored all the same."""

    @classmethod
    def of(cls, *, unit: str, quantity: str, align: str, gt_aligned: bool, crop: str | None, as_is: bool) -> "Reading":
        """The options, checked."""
        for option, value, known in (
            ("--quantity", quantity, get_args(Quantity)),
            ("--align", align, (NO_ALIGNMENT, *get_args(How))),
        ):
            if value not in known:
                raise ConfigError(f'unknown value "{value}"', where=option, hint=did_you_mean(value, known))
        per_metre = UNITS.get(unit) or (float(unit) if re.fullmatch(r"\d+(\.\d+)?", unit) else 0.0)
        if not per_metre > 0:
            raise ConfigError(
                f'unknown unit "{unit}"', where="--unit", hint="m, mm, or the number of file units per metre"
            )
        if quantity == "disparity" and (align == NO_ALIGNMENT or per_metre != 1):
            raise ConfigError(
                "disparity has no metres before it is aligned, and no unit",
                where="--quantity disparity",
                hint="choose --align and leave --unit out, or convert the predictions to depth in metres",
            )
        how: Any = None if align == NO_ALIGNMENT else align
        return cls(
            per_metre=per_metre,
            quantity="depth" if quantity == "depth" else "disparity",
            align=how,
            gt_aligned=gt_aligned or how is not None,
            crop=box_of(crop),
            as_is=as_is,
        )


@dataclass(frozen=True)
class ReadMap:
    """One predicted map at the frame's pixels."""

    file_HW: Values
    """File values divided by the unit, NaN outside the map's box."""
    depth_m_HW: NDArray[np.float32]
    """Metres, after the alignment if there is one."""
    scale: float
    """Scale of the alignment, 1 without one."""
    box: CropBox | None
    """Where in the frame it lies; None for all of it."""


def read_map(
    map_HW: Values, truth_m_HW: Values, valid_HW: NDArray[np.bool_], reading: Reading, protocol: Protocol
) -> ReadMap:
    """A map of file units at the frame's pixels. DataError where a valid pixel has no usable prediction."""
    frame = truth_m_HW.shape[0], truth_m_HW.shape[1]
    file_HW, box = placed(map_HW / reading.per_metre, frame, protocol, reading.crop)
    file_V = file_HW[valid_HW]
    if reading.align is not None and is_affine(reading.align, reading.quantity):
        usable_V, wanted = np.isfinite(file_V), "finite numbers"
    elif reading.quantity == "disparity":
        usable_V, wanted = np.isfinite(file_V) & (file_V >= 0), "finite numbers, zero or above"
    else:
        usable_V, wanted = np.isfinite(file_V) & (file_V > 0), "positive, finite numbers"
    if not usable_V.all():
        bad = int(usable_V.size - np.count_nonzero(usable_V))
        within = f" (the map covers {box})" if box else ""
        raise DataError(f"at {bad} of {usable_V.size} valid pixels the predictions are not {wanted}{within}")
    if reading.align is None:
        return ReadMap(file_HW, file_HW.astype(np.float32), 1.0, box)
    fit = FittedAlignment.fit(reading.align, reading.quantity, file_V, truth_m_HW[valid_HW])
    return ReadMap(file_HW, fit.depth_m(file_HW).astype(np.float32), fit.scale, box)


def size_of(map_HW: Values, truth_m_HW: Values) -> str:
    """The map's size, or "" if it is the frame's; DataError for a map that lies on its side."""
    (height, width), (rows, columns) = map_HW.shape, truth_m_HW.shape
    if (height, width) == (rows, columns):
        return ""
    if (height > width) != (rows > columns) and height != width:
        raise DataError(f"the map is {height}×{width}, the frame {rows}×{columns}: rows and columns are exchanged")
    return f"{height}×{width}"
