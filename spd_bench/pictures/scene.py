"""What is drawn of one test image, and the archive that keeps it, so that reports need neither data nor models."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd_bench.errors import StateError
from spd_bench.store import sealed

MARK = "spd-bench pictures"

Reader = Callable[[str], NDArray[np.generic]]
"""Name of an array in the archive → the array."""


@dataclass(frozen=True)
class Rendering:
    """What one row says of one image."""

    depth_m_hw: NDArray[np.float32]
    """Dense depth in metres, by querying the pixel centres of a grid: [h, w]."""
    error_P: NDArray[np.float32]
    """Signed relative error (p − g) / g at the scored points: [P]."""
    levels: tuple[NDArray[np.uint8], ...]
    """Principal components of L1 to L4 as colours, each [h, w, 3]; empty for a row without a pyramid."""


@dataclass(frozen=True)
class PictureScene:
    """One test image with its truth, its scored points and a rendering by each shown row."""

    frame: str
    """Name of the frame."""
    image_rc3: NDArray[np.uint8]
    """The image, made small: [r, c, 3]."""
    truth_m_hw: NDArray[np.float32]
    """True depth in metres at the pixels of the renderings, 0 where unknown: [h, w]."""
    uv_P2: NDArray[np.float32]
    """Scored points in pixels of `image_rc3`, x first: [P, 2]."""
    renderings: Mapping[str, Rendering]
    """Row → its rendering."""


def save(path: Path, scenes: Mapping[int, PictureScene]) -> str:
    """Writes the scenes, by index of the test image, as one sealed archive; returns the file's SHA-256."""
    arrays: dict[str, NDArray[np.generic]] = {}
    index: dict[str, object] = {}
    for number, scene in scenes.items():
        rows = {}
        for name in ("image_rc3", "truth_m_hw", "uv_P2"):
            arrays[f"{number}/{name}"] = getattr(scene, name)
        for position, (row, rendering) in enumerate(scene.renderings.items()):
            key = f"{number}/{position}"
            arrays[f"{key}/depth_m_hw"], arrays[f"{key}/error_P"] = rendering.depth_m_hw, rendering.error_P
            arrays |= {f"{key}/level{level}": colours for level, colours in enumerate(rendering.levels)}
            rows[row] = [position, len(rendering.levels)]
        index[str(number)] = {"frame": scene.frame, "rows": rows}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, "index.json", json.dumps(index).encode())
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            _write(archive, f"{name}.npy", content.getvalue())
    return sealed.write_archive(path, MARK, buffer.getvalue())


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """A member without the time of writing, so that equal content gives equal bytes."""
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def load(path: Path) -> dict[int, PictureScene]:
    """The scenes of an archive that `save` wrote; StateError for a damaged one."""
    try:
        content = path.read_bytes()
        sealed.check_archive(content, MARK)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            index = json.loads(archive.read("index.json"))

            def array(name: str) -> NDArray[np.generic]:
                found: NDArray[np.generic] = np.load(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
                return found

            return {int(number): _scene(number, about, array) for number, about in index.items()}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise StateError(
            f"cannot be read ({error})", where=str(path), hint="delete it and run the suite again"
        ) from error


def _scene(number: str, about: Mapping[str, object], array: Reader) -> PictureScene:
    rows = about["rows"]
    assert isinstance(rows, dict)
    renderings = {
        row: Rendering(
            depth_m_hw=np.asarray(array(f"{number}/{position}/depth_m_hw"), np.float32),
            error_P=np.asarray(array(f"{number}/{position}/error_P"), np.float32),
            levels=tuple(np.asarray(array(f"{number}/{position}/level{i}"), np.uint8) for i in range(levels)),
        )
        for row, (position, levels) in rows.items()
    }
    return PictureScene(
        frame=str(about["frame"]),
        image_rc3=np.asarray(array(f"{number}/image_rc3"), np.uint8),
        truth_m_hw=np.asarray(array(f"{number}/truth_m_hw"), np.float32),
        uv_P2=np.asarray(array(f"{number}/uv_P2"), np.float32),
        renderings=renderings,
    )
