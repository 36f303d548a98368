"""Small folders and archives in the exact form of each NYU layout, for tests.

Three labelled test frames (0-based 0, 1 and 8), one training frame and one for validation are written in each layout,
at full size, from the formulas below. Sparse files and empty chunks stand in for the frames between them.
"""

import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat

from spd_bench.api import FrameId
from spd_bench.data.sets.nyu_densedepth import CROP, DEPTH, RGB
from spd_bench.data.sets.nyu_scenes import labelled_frames

HEIGHT, WIDTH = 480, 640
TEST = (0, 1, 8)
NAMES = [FrameId("00000", "kitchen_0004"), FrameId("00001", "kitchen_0004"), FrameId("00008", "office_0005")]
TRAIN = {2: "office_0003", 57: "bedroom_0012"}  # 0-based labelled index → scene; the second one serves for validation
HOLES = np.s_[:9, :30]


# the frames


def image_of(index: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and of another colour for each frame."""
    v, u = np.mgrid[: size[0], : size[1]]
    return np.stack([np.full_like(u, index * 40 % 256), v // 2, u // 3], axis=-1).astype(np.uint8)


def filled_mm(index: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    v, u = np.mgrid[: size[0], : size[1]]
    return (1000 + 100 * index + v + u).astype(np.uint16)


def raw_mm(index: int) -> np.ndarray:
    depth_mm_HW = filled_mm(index)
    depth_mm_HW[HOLES] = 0
    return depth_mm_HW


def metres(depth_mm_HW: np.ndarray) -> np.ndarray:
    return depth_mm_HW.astype(np.float32) / np.float32(1000)


# the layouts


def png(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, options.pop("format", "png"), **options)
    return stream.getvalue()


def h5(rgb_3HW: np.ndarray, depth_HW: np.ndarray) -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["rgb"], file["depth"] = rgb_3HW, depth_HW
    return stream.getvalue()


def frame_h5(index: int, depth_mm_HW: np.ndarray) -> bytes:
    return h5(image_of(index).transpose(2, 0, 1), metres(depth_mm_HW))


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        root.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(name).write_bytes(content)
    return root


def write_tar(path: Path, files: Mapping[str, bytes], *, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def h5_files() -> dict[str, bytes]:
    """Recordings with a letter, numbers of their own, and the test frames by their 1-based index."""
    train = {f"train/{scene}a/00001.h5": frame_h5(index, raw_mm(index)) for index, scene in TRAIN.items()}
    return train | {f"val/official/{index + 1:05d}.h5": frame_h5(index, filled_mm(index)) for index in TEST}


def marigold_files(*, filled: Callable[[int], np.ndarray] = raw_mm) -> dict[str, bytes]:
    files = {}
    for index in (*TEST, *TRAIN):
        row = labelled_frames()[index]
        kinds = {"rgb": image_of(index), "depth": raw_mm(index), "filled": filled(index)}
        files |= {f"{row.split}/{row.scene}/{kind}_{index + 1:04d}.png": png(a) for kind, a in kinds.items()}
    return files


def bts_files() -> dict[str, bytes]:
    files, lists = {}, {"train": "", "test": ""}
    folders = [("test", "official_splits/test", "a_type", index) for index in TEST]
    folders += [("train", "sync", f"{scene}a", index) for index, scene in TRAIN.items()]
    for split, root, folder, index in folders:
        files[f"{root}/{folder}/rgb_{index:05d}.jpg"] = png(image_of(index), format="jpeg", quality=95)
        files[f"{root}/{folder}/sync_depth_{index:05d}.png"] = png(raw_mm(index))
        lists[split] += f"{folder}/rgb_{index:05d}.jpg {folder}/sync_depth_{index:05d}.png 518.8579\n"
    return files | {f"nyudepthv2_{split}_files_with_gt.txt": text.encode() for split, text in lists.items()}


def write_mat(root: Path) -> Path:
    """The first 58 frames; of those without content, HDF5 stores nothing."""
    root.mkdir()
    count = 58
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        images = file.create_dataset("images", (count, 3, WIDTH, HEIGHT), "u1", chunks=(1, 3, WIDTH, HEIGHT))
        depths = {
            name: file.create_dataset(name, (count, WIDTH, HEIGHT), "f4", chunks=(1, WIDTH, HEIGHT))
            for name in ("rawDepths", "depths")
        }
        cells = file.create_dataset("scenes", (1, count), dtype=h5py.ref_dtype)
        for i in range(count):
            file[f"#refs#/{i}"] = np.array([[ord(letter)] for letter in labelled_frames()[i].scene], dtype=np.uint16)
            cells[0, i] = file[f"#refs#/{i}"].ref
        for i in (*TEST, *TRAIN, 54, 56):  # the last ones of train and test
            images[i] = image_of(i).transpose(2, 1, 0)
            depths["rawDepths"][i], depths["depths"][i] = metres(raw_mm(i)).T, metres(filled_mm(i)).T
    numbers = {
        f"{split}Ndxs": np.array([[i + 1] for i in range(count) if labelled_frames()[i].split == split])
        for split in ("train", "test")
    }
    savemat(root / "splits.mat", numbers)
    return root


def write_stack(path: Path, shape: tuple[int, ...], dtype: str, frames: Mapping[int, np.ndarray]) -> None:
    """A .npy file whose other frames are a hole in the file."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        )
        start, size = file.tell(), int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
        for place, frame in frames.items():
            file.seek(start + place * size)
            file.write(frame.astype(dtype).tobytes())
        file.truncate(start + shape[0] * size)


def write_densedepth(root: Path, size: tuple[int, int] = (HEIGHT, WIDTH), dtype: str = "f4") -> Path:
    """Frames 0, 1 and 8 are the first three test frames; 1448 is the last one."""
    root.mkdir(parents=True, exist_ok=True)
    places = {0: 0, 1: 1, 2: 8, 653: 1448}
    write_stack(root / RGB, (654, *size, 3), "u1", {place: image_of(i, size) for place, i in places.items()})
    depths = {place: metres(filled_mm(i % 100, size)) for place, i in places.items()}
    write_stack(root / DEPTH, (654, *size), dtype, depths)
    np.save(root / CROP, np.array([20, 459, 24, 615]))
    return root


def write_zip(path: Path, files: Mapping[str, bytes], *, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
