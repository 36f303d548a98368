"""Published layouts: files made in their exact form come out in metres, in their splits, with their facts said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from spd_bench import registry
from spd_bench.api import DepthDataset
from spd_bench.data.inspect import inspect_data
from spd_bench.data.sets.indoor.seven_scenes import registered
from spd_bench.errors import DataError
from spd_bench.suite.load import recognised
from spd_bench.testing import DatasetContract

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


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1].__name__}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Case, DepthDataset]:
    case: Case = request.param
    case[1](tmp_path)
    component = registry.load("dataset", case[0])
    return case, component(component.Config(root=str(tmp_path), **case[2]))


def test_depth_is_metres_and_splits_are_the_format_s(made: tuple[Case, DepthDataset], tmp_path: Path) -> None:
    (name, _, options, counts, tolerance), data = made
    assert tuple(len(data.frames(split)) for split in ("train", "val", "test")) == counts
    for split in ("train", "test"):
        for frame in data.frames(split)[:1]:
            np.testing.assert_allclose(data.read(frame).depth_m_HW, METRES_HW, atol=tolerance, rtol=0)
    if not options:
        assert recognised(tmp_path, where="here", hint="") == name
    about = {key: value for key, value in options.items() if key != "register_depth"}
    found = inspect_data(tmp_path, dataset=name, options=options, protocol="full_frame", on_frame=lambda d, t: None)
    assert found.description == data.describe()
    assert about == {}


def test_every_layout_keeps_the_contract(made: tuple[Case, DepthDataset], tmp_path: Path) -> None:
    (name, _, options, _, _), data = made

    class Kit(DatasetContract):
        component = type(data)
        config = type(data).Config(root=str(tmp_path), **options)

    kit = Kit()
    for test in (test for test in dir(kit) if test.startswith("test_")):
        getattr(kit, test)()
    assert name


def test_every_option_changes_what_is_said(made: tuple[Case, DepthDataset], tmp_path: Path) -> None:
    (_, _, options, _, _), data = made
    values: dict[str, Any] = {
        "resize": "color", "shares": (0.5, 0.2, 0.3), "depth_scale": 900.0, "outdoor": True, "register_depth": True,
        "field_of_view_deg": 61.0, "depth": None, "color": None,
    }  # fmt: skip
    for option in type(data).Config.model_fields.keys() - {"root"}:
        value = values[option]
        if value is None:
            continue
        try:
            other = type(data)(type(data).Config(root=str(tmp_path), **{**options, option: value}))
        except DataError:
            continue  # refused: registration of so small a frame leaves nothing
        assert other.describe() != data.describe(), option


def test_scannet_s_two_sizes_need_the_user_s_word(tmp_path: Path) -> None:
    scannet(tmp_path)
    for path in tmp_path.glob("*/color/*.jpg"):
        color(path, size=(2 * H, 2 * W))
    component = registry.load("dataset", "scannet")
    with pytest.raises(DataError) as caught:
        component(component.Config(root=str(tmp_path)))
    assert "--option resize=color" in (caught.value.hint or "")
    data = component(component.Config(root=str(tmp_path), resize="color"))
    assert data.read(data.frames("test")[0]).image_HW3.shape == (H, W, 3)


def test_registration_by_hand() -> None:
    # a pixel at (320, 240) and 1 m is the point (0, 0, 1); R p + t = (−0.0079 − 0.02556, −0.00815 + 0.0001,
    # 0.99994 + 0.00203) = (−0.03346, −0.00805, 1.00197), seen at 320 − 525 · 0.03340 = 302.5 and 240 − 4.2 = 235.8
    depth_m_HW = np.zeros((480, 640), np.float32)
    depth_m_HW[240, 320] = 1
    moved_HW = registered(depth_m_HW)
    assert [tuple(at) for at in np.argwhere(moved_HW)] == [(236, 302)]
    assert moved_HW[236, 302] == np.float32(1.00197) or abs(moved_HW[236, 302] - 1.00197) < 1e-5
    # where two pixels meet, the nearer one stays: of a wall, the view of 480 · 525/585 rows is kept
    wall_m_HW = np.full((480, 640), 2, np.float32)
    rows = np.flatnonzero((registered(wall_m_HW) > 0).any(axis=1))
    assert len(rows) == pytest.approx(480 * 525 / 585, abs=4)
