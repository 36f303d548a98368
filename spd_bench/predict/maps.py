"""Depth maps as files: `.npy` in metres, or 16-bit PNG in millimetres."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from spd_bench.errors import ConfigError
from spd_bench.store import files

LARGEST_MM = 65535


def write_npy(path: Path, depth_m_HW: npt.NDArray[np.float32]) -> None:
    """Writes float32 metres [H, W]."""
    buffer = io.BytesIO()
    np.save(buffer, depth_m_HW)
    files.write_bytes(path, buffer.getvalue())


def write_png(path: Path, depth_m_HW: npt.NDArray[np.float32]) -> None:
    """Writes whole millimetres as 16-bit grey. Raises ConfigError where a depth does not fit, 65.535 m or more."""
    depth_mm_HW = np.round(depth_m_HW * 1000.0)
    if depth_mm_HW.max() > LARGEST_MM or depth_mm_HW.min() < 0:
        raise ConfigError(
            f"depths from {depth_m_HW.min():g} to {depth_m_HW.max():g} m do not fit into 16 bits of millimetres",
            where=str(path),
            hint="use --map npy",
        )
    buffer = io.BytesIO()
    Image.fromarray(depth_mm_HW.astype(np.uint16)).save(buffer, format="PNG")
    files.write_bytes(path, buffer.getvalue())
