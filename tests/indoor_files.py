"""Small folders in the exact form of each published layout, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

H, W = 24, 32
MM_HW = (np.arange(H * W).reshape(H, W) * 2 + 1000).astype(np.uint16)
"""1000 to 2534 mm, all different; its first pixel is unknown."""
MM_HW[0, 0] = 0
METRES_HW = (MM_HW / np.float32(1000)).astype(np.float32)


def color(path: Path, i: int = 0, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(image).save(path)


def png(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def npy(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def ultralytics(root: Path) -> None:
    for i in range(12):
        split = "train" if i < 10 else "val"
        color(root / f"images/{split}/room_{i}.jpg", i)
        png(root / f"depth/{split}/room_{i}.png", MM_HW)


def ultralytics_npy(root: Path) -> None:
    for i in range(12):
        split = ("train", "val", "test")[min(i // 4, 2)]
        color(root / f"images/{split}/room_{i}.png", i)
        npy(root / f"depth/{split}/room_{i}.npy", METRES_HW)


def scannet(root: Path) -> None:
    for scan in ("scene0000_00", "scene0000_01", "scene0001_00"):
        for part in ("pose", "intrinsic"):
            (root / scan / part).mkdir(parents=True)
        for i in range(10):
            color(root / scan / f"color/{10 * i}.jpg", i)
            png(root / scan / f"depth/{10 * i}.png", MM_HW)


def sun_rgbd(root: Path) -> None:
    rotated_HW = (MM_HW << 3) | (MM_HW >> 13)
    for i in range(12):
        frame = root / f"kv1/NYUdata/NYU{i:04d}"
        color(frame / f"image/NYU{i:04d}.jpg", i)
        for kind in ("depth", "depth_bfx"):
            png(frame / f"{kind}/NYU{i:04d}.png", rotated_HW)


def diode(root: Path) -> None:
    mask_HW = (MM_HW > 0).astype(np.float32)
    for split, scenes in (("train", range(12)), ("val", range(20, 22))):
        for scene in scenes:
            stem = root / f"{split}/indoors/scene_{scene:05d}/scan_00001/{scene:05d}_00001_indoors_000_000"
            color(stem.with_suffix(".png"), scene)
            npy(stem.with_name(f"{stem.name}_depth.npy"), np.where(MM_HW > 0, METRES_HW, np.float32(7))[..., None])
            npy(stem.with_name(f"{stem.name}_depth_mask.npy"), mask_HW)


def ibims1(root: Path) -> None:
    for i in range(3):
        color(root / f"rgb/room_{i:02d}.png", i)
        stored_HW = np.rint(np.where(MM_HW > 0, METRES_HW, 5) * 65535 / 50).astype(np.uint16)
        png(root / f"depth/room_{i:02d}.png", stored_HW)
        for mask in ("mask_invalid", "mask_transp"):
            png(root / f"{mask}/room_{i:02d}.png", ((MM_HW > 0) | (mask == "mask_transp")).astype(np.uint8) * 255)


def hypersim(root: Path) -> None:
    focal = W / 2 / np.tan(np.pi / 6)  # 60 degrees; at 1024 pixels 886.81
    x, y = np.meshgrid(np.arange(W) + 0.5 - W / 2, np.arange(H) + 0.5 - H / 2)
    distance_HW = METRES_HW * np.sqrt(focal**2 + x**2 + y**2) / focal
    distance_HW[MM_HW == 0] = np.nan
    for volume in range(1, 13):
        images = root / f"ai_{volume:03d}_001/images"
        color(images / "scene_cam_00_final_preview/frame.0000.tonemap.jpg", volume)
        (images / "scene_cam_00_geometry_hdf5").mkdir()
        with h5py.File(images / "scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5", "w") as file:
            file["dataset"] = distance_HW.astype(np.float32)


def arkitscenes(root: Path) -> None:
    for folder, videos in (("Training", range(12)), ("Validation", range(40, 42))):
        for video in videos:
            for i in range(2):
                color(root / f"{folder}/{video}/lowres_wide/{video}_{100 + i}.123.png", 10 * video + i)
                png(root / f"{folder}/{video}/lowres_depth/{video}_{100 + i}.124.png", MM_HW)


def replica(root: Path) -> None:
    stored_HW = np.rint(METRES_HW * 6553.5).astype(np.uint16)
    for room in ("room0", "office0"):
        for i in range(10):
            color(root / f"{room}/results/frame{i:06d}.jpg", i + 20 * (room == "room0"))
            png(root / f"{room}/results/depth{i:06d}.png", stored_HW)


def seven_scenes(root: Path) -> None:
    for sequence in range(1, 4):
        for i in range(10):
            frame = root / f"chess/seq-{sequence:02d}/frame-{i:06d}"
            color(frame.with_name(f"{frame.name}.color.png"), 10 * sequence + i)
            png(frame.with_name(f"{frame.name}.depth.png"), np.where(MM_HW == 0, 65535, MM_HW).astype(np.uint16))
    (root / "chess/TrainSplit.txt").write_text("sequence1\nsequence2\n")
    (root / "chess/TestSplit.txt").write_text("sequence3\n")


Case = tuple[str, Callable[[Path], None], dict[str, Any], tuple[int, int, int], float]
CASES: list[Case] = [  # name, files, options, frames by split, largest difference in metres
    ("ultralytics_depth", ultralytics, {}, (9, 1, 2), 0),  # val is scored; a tenth of ten is kept for model choice
    ("ultralytics_depth", ultralytics_npy, {}, (4, 4, 4), 0),
    ("scannet", scannet, {}, (21, 3, 6), 0),  # two rooms of 20 and 10 frames: 14 + 7, 2 + 1, 4 + 2
    ("sun_rgbd", sun_rgbd, {}, (8, 2, 2), 0),  # twelve scenes: 8.4 → 8, 9.6 → 10
    ("diode", diode, {}, (11, 1, 2), 0),  # 10.8 → 11
    ("ibims1", ibims1, {}, (0, 0, 3), 0.0004),  # half of 50 m / 65535
    ("hypersim", hypersim, {}, (8, 2, 2), 1e-6),
    ("arkitscenes", arkitscenes, {}, (22, 2, 4), 0),
    ("replica", replica, {}, (14, 2, 4), 0.0001),
    ("seven_scenes", seven_scenes, {"register_depth": False}, (18, 2, 10), 0),
]
