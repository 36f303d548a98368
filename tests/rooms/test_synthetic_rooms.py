"""Synthetic rooms: exact geometry, holes, colour that does not tell depth, and a cache that cannot be trusted twice."""

import logging
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from math import pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import PATIENCE_S

from spd_bench.api import FrameId
from spd_bench.errors import ConfigError, DataError
from spd_rooms import cache
from spd_rooms.camera import NYU_INTRINSICS, CameraView
from spd_rooms.layout import Light, Room, furnish
from spd_rooms.materials import Material
from spd_rooms.raycast import SHELL, cast, shadows
from spd_rooms.render import Options, choose_view, render
from spd_rooms.sensor import measure, projector_shadow
from spd_rooms.shading import shade
from spd_rooms.solids import Ball, Box, Cylinder, Solid
from spd_rooms.synthetic_rooms import SyntheticRooms

GREY = Material("plaster", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALL = Options(seed=0, height=48, width=64, holes=True, depth_noise=True)


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPD_BENCH_CACHE", str(tmp_path))
    return tmp_path


def rooms(**options: Any) -> SyntheticRooms:
    """A small data set: rendering it takes well under a second."""
    small = {"train_scenes": 2, "val_scenes": 1, "test_scenes": 1, "frames_per_scene": 2, "height": 48, "width": 64}
    return SyntheticRooms(SyntheticRooms.Config(**{**small, **options}))


def room(*solids: Solid, lights: tuple[Light, ...] = ()) -> Room:
    """A grey room of 4 × 6 × 2.5 m with these things in it."""
    shell = Box((2.0, 3.0, 1.25), size=(4.0, 6.0, 2.5), faces=(GREY,) * 6, hollow=True)
    return Room(shell, solids, lights, (0.3, 0.3, 0.3))


def level_view(x: float, y: float, z: float, *, yaw: float = 0.0, height: int = 480, width: int = 640) -> CameraView:
    return CameraView.posed((x, y, z), yaw=yaw, pitch=0.0, roll=0.0, height=height, width=width)


def box(centre: tuple[float, float, float], size: tuple[float, float, float], yaw: float = 0.0) -> Box:
    return Box(centre, yaw, size=size, faces=(GREY,) * 6)


# --- geometry -------------------------------------------------------------------------------------------------------


def test_wall_has_constant_z_depth() -> None:
    # The camera stands 3 m before the wall y = 6 and looks straight at it: every wall pixel is 3 m away in z.
    view = level_view(2.0, 3.0, 1.25)
    depth_m = cast(room(), view).depth_m_HW
    points = view.points(depth_m)
    wall = np.abs(points[1] - 6.0) < 1e-4
    assert wall.sum() > 100_000
    assert depth_m.dtype == np.float32
    np.testing.assert_allclose(depth_m[wall], 3.0, atol=2e-6)
    # Control: the length of the ray, the classic mistake, is 8 % more where the wall meets the side walls.
    ray_m = np.linalg.norm(points - view.position_3[:, None, None], axis=0)
    assert ray_m[wall].max() > 3.2


def test_floor_depth_is_height_times_focal_length_over_rows_below_the_horizon() -> None:
    # z = h · fy / (v − cy). Row 479, h = 1.25: 1.25 · 519.46961 / (479 − 253.73617) = 2.88256 m.
    depth_m = cast(room(), level_view(2.0, 1.0, 1.25)).depth_m_HW
    assert depth_m[479, 320] == pytest.approx(2.88256, abs=1e-4)
    rows = np.arange(400, 480)
    np.testing.assert_allclose(depth_m[400:, 320], 1.25 * 519.46961 / (rows - 253.73617), rtol=1e-5)


def test_camera_turns_left_with_yaw_and_up_with_pitch() -> None:
    # From (1, 3), a quarter turn to the left of +y looks along −x at the wall x = 0, 1 m away.
    straight = cast(room(), level_view(1.0, 3.0, 1.25, yaw=pi / 2)).depth_m_HW
    assert straight[254, 326] == pytest.approx(1.0, abs=1e-5)
    up = CameraView.posed((2.0, 3.0, 1.0), yaw=0.0, pitch=pi / 2, roll=0.0, height=480, width=640)
    assert cast(room(), up).depth_m_HW[254, 326] == pytest.approx(1.5, abs=1e-5)  # ceiling 2.5, camera 1.0


def test_intrinsics_scale_with_the_half_pixel_rule() -> None:
    # Half size: fx / 2 = 259.42895; cx' = (325.58245 + 0.5) / 2 − 0.5 = 162.541225; cy' = (253.73617 + 0.5) / 2 − 0.5.
    half = NYU_INTRINSICS.resized(down=0.5, across=0.5)
    assert (half.fx, half.cx) == pytest.approx((259.42895, 162.541225))
    assert (half.fy, half.cy) == pytest.approx((259.734805, 126.618085))
    # A pixel of the small picture is the middle of four of the large one: on the floor, 1 / z is their mean.
    large = cast(room(), level_view(2.0, 1.0, 1.25)).depth_m_HW
    small = cast(room(), level_view(2.0, 1.0, 1.25, height=240, width=320)).depth_m_HW
    inverse = (1 / large[400:, 200:440]).reshape(40, 2, 120, 2).mean((1, 3))
    np.testing.assert_allclose(1 / small[200:, 100:220], inverse, rtol=1e-5)


@pytest.mark.parametrize(
    ("solid", "depth_m"),
    [
        (box((2.0, 3.0, 1.25), (0.5, 0.8, 0.5)), 1.6),  # front face at y = 3 − 0.4, camera at y = 1
        (box((2.0, 3.0, 1.25), (0.8, 0.5, 0.5), yaw=pi / 2), 1.6),  # the same box, told another way
        (Ball((2.0, 3.0, 1.25), radius=0.3, material=GREY), 1.7),  # 2 − r
        (Cylinder((2.0, 3.0, 1.25), radius=0.25, height=0.5, material=GREY), 1.75),
    ],
)
def test_solid_straight_ahead(solid: Solid, depth_m: float) -> None:
    hits = cast(room(solid), level_view(2.0, 1.0, 1.25))
    assert hits.depth_m_HW[254, 326] == pytest.approx(depth_m, abs=1e-4)
    assert hits.solid_HW[254, 326] == 0
    assert hits.solid_HW[0, 0] == SHELL


def test_cylinder_from_above_shows_its_flat_end() -> None:
    # Camera 2.2 m up looking down at a cylinder 0.5 m high: its top is 1.7 m away.
    view = CameraView.posed((2.0, 3.0, 2.2), yaw=0.0, pitch=-pi / 2, roll=0.0, height=120, width=160)
    stool = Cylinder((2.0, 3.0, 0.25), radius=0.3, height=0.5, material=GREY)
    hits = cast(room(stool), view)
    np.testing.assert_allclose(hits.depth_m_HW[hits.solid_HW == 0], 1.7, atol=1e-5)
    # Radius in pixels: 0.3 / 1.7 · 518.8579 / 4 = 22.89, area π r² = 1646 px.
    assert (hits.solid_HW == 0).sum() == pytest.approx(1646, rel=0.02)


def brute_force(scene: Room, view: CameraView, light_3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and shadows with every solid tried at every pixel."""
    depth_m = scene.shell.span(view.rays(view.whole))[1]
    dark = np.zeros(depth_m.shape, bool)
    with np.errstate(all="ignore"):
        for solid in scene.solids:
            enter, leave = solid.span(view.rays(view.whole))
            depth_m = np.where((enter < leave) & (enter > 0.05) & (enter < depth_m), enter, depth_m)
        for solid in scene.solids:
            if solid.corners_83[:, 2].max() < light_3[2]:
                enter, leave = solid.span(view.rays_from(light_3, depth_m, view.whole))
                dark |= (enter < leave) & (enter > 0) & (enter < 0.999)
    return depth_m, dark


def test_windows_of_the_image_leave_nothing_out() -> None:
    # A solid is tried only where its window says that it, or its shadow, can be seen.
    furnished = furnish(np.random.default_rng(5))
    view = choose_view(furnished, np.random.default_rng(6), 60, 80)
    # A bench along the whole room, right under the camera: most of its corners are behind the camera.
    under = room(box((2.0, 3.0, 0.5), (0.6, 5.8, 0.1)), box((2.5, 2.9, 1.2), (0.1, 5.0, 0.05), yaw=0.1))
    for scene, seen in ((furnished, view), (under, level_view(2.0, 3.0, 1.0, height=60, width=80))):
        light_3 = np.array([scene.size[0] / 2, scene.size[1] / 2, scene.size[2] - 0.2])
        depth_m, dark = brute_force(scene, seen, light_3)
        hits = cast(scene, seen)
        np.testing.assert_array_equal(hits.depth_m_HW, depth_m)
        np.testing.assert_array_equal(shadows(scene.solids, light_3, seen, depth_m), dark)
        assert 0.02 < dark.mean() < 0.9
        assert (hits.solid_HW != SHELL).mean() > 0.1


def test_normals_look_at_the_camera_and_every_point_has_one_patch() -> None:
    solids = (
        box((1.2, 3.0, 0.6), (0.5, 0.4, 1.2), yaw=0.1),
        Cylinder((2.0, 3.0, 0.4), radius=0.25, height=0.8, material=GREY),
        Ball((2.8, 3.0, 0.6), radius=0.3, material=GREY),
    )
    view = CameraView.posed((2.0, 1.0, 1.6), yaw=0.0, pitch=-0.4, roll=0.1, height=120, width=160)
    scene = room(*solids)
    hits = cast(scene, view)
    points = view.points(hits.depth_m_HW)
    for index, solid in ((SHELL, scene.shell), *enumerate(solids)):
        own = points[:, hits.solid_HW == index]
        patches = list(solid.patches(own))
        assert sorted(np.concatenate([p.chosen_N for p in patches])) == list(range(own.shape[1]))
        assert len(patches) == {SHELL: 4, 0: 3, 1: 2, 2: 1}[index]  # walls and floor; three faces; side and end; all
        for patch in patches:
            normal = np.stack([np.broadcast_to(part, len(patch.chosen_N)) for part in patch.normal])
            np.testing.assert_allclose((normal**2).sum(0), 1, atol=1e-4)
            away = own[:, patch.chosen_N] - view.position_3[:, None]
            assert ((normal * away).sum(0) < 1e-3).all()
    # By hand: the top of the cylinder looks up; the ball's normal is (point − centre) / radius.
    top = next(iter(solids[1].patches(np.array([[2.0], [3.1], [0.8]], np.float32))))
    assert top.normal == [0.0, 0.0, 1.0]
    side = next(iter(solids[2].patches(np.array([[2.8], [2.7], [0.6]], np.float32))))
    np.testing.assert_allclose(np.ravel(side.normal), [0, -1, 0], atol=1e-6)


def test_shadow_has_the_size_that_similar_triangles_give() -> None:
    # A light 2 m up, a board 0.5 m wide 1 m below it, the floor 1 m below that: the shadow is 1 m wide.
    board = box((2.0, 4.0, 0.95), (0.5, 0.5, 0.1))
    light = Light(np.array([2.0, 4.0, 2.0]), (1.0, 1.0, 1.0), casts_shadows=True)
    view = CameraView.posed((2.0, 1.0, 1.6), yaw=0.0, pitch=-0.4, roll=0.0, height=240, width=320)
    hits = cast(room(board), view)
    x, y, z = view.points(hits.depth_m_HW)
    floor = (hits.solid_HW == SHELL) & (z < 1e-3)
    out_m = np.maximum(np.abs(x - 2.0), np.abs(y - 4.0))
    dark = shadows([board], light.position_3, view, hits.depth_m_HW)
    assert dark[floor & (out_m < 0.49)].all()
    assert not dark[floor & (out_m > 0.51)].any()
    assert (floor & (out_m < 0.49)).sum() > 200
    # The lit top of the board does not shade itself.
    top = (hits.solid_HW == 0) & (z > 0.999)
    assert top.sum() > 50
    assert not dark[top].any()


def test_surfaces_face_the_camera_and_darken_with_distance_from_the_light() -> None:
    light = Light(np.array([2.0, 5.0, 1.25]), (1.0, 1.0, 1.0), casts_shadows=False)
    view = level_view(2.0, 1.0, 1.25, height=120, width=160)
    scene = room(Ball((2.0, 4.0, 0.5), radius=0.4, material=GREY), lights=(light,))
    shaded = shade(scene, view, cast(scene, view))
    assert shaded.radiance_3HW.dtype == shaded.cosine_HW.dtype == np.float32
    assert shaded.cosine_HW.min() >= 0
    assert shaded.cosine_HW.max() <= 1 + 1e-5
    # The far wall, 1 m behind the light, is brighter in its middle than at its side.
    middle, side = shaded.radiance_3HW[0, 63, 81], shaded.radiance_3HW[0, 63, 40]
    assert middle > 1.2 * side


# --- the depth camera -----------------------------------------------------------------------------------------------


def test_projector_shadow_lies_right_of_near_things_and_is_as_wide_as_the_parallax() -> None:
    # A strip at 1 m in columns 10 to 19 before a wall at 2 m, f = 519 px, baseline 0.075 m.
    # The projector sees the strip's last column at 19 + 38.925 = 57.925, wall column u at u + 19.4625:
    # hidden while u + 19.4625 < 57.425 (half a pixel of slack), so columns 20 to 37.
    depth_m = np.full((2, 100), 2.0, np.float32)
    depth_m[:, 10:20] = 1.0
    hidden = projector_shadow(depth_m, focal_px=519.0)
    assert np.flatnonzero(hidden[0]).tolist() == list(range(20, 38))
    assert not projector_shadow(np.full((2, 100), 2.0, np.float32), focal_px=519.0).any()


def test_noise_grows_with_the_square_of_depth() -> None:
    # Deviation 1.5e-3 · z²: 6 mm at 2 m, 24 mm at 4 m. 300 000 draws know it to 0.13 %.
    for z, deviation in ((2.0, 0.006), (4.0, 0.024)):
        flat = np.full((500, 600), z, np.float32)
        error = measure(flat, np.random.default_rng(0), noise=True) - flat
        assert error.std() == pytest.approx(deviation, rel=0.01)
        assert error.mean() == pytest.approx(0, abs=deviation / 50)
    assert measure(flat, np.random.default_rng(0), noise=False) is flat


def test_without_holes_and_noise_depth_is_the_geometry_in_millimetres() -> None:
    options = Options(seed=3, height=48, width=64, holes=False, depth_noise=False)
    depth_mm = render(options, "val", 0, 1).depth_mm_HW
    scene = furnish(np.random.default_rng([3, 1, 0, 0, 0]))
    view = choose_view(scene, np.random.default_rng([3, 1, 0, 1, 1]), 48, 64)
    np.testing.assert_array_equal(depth_mm, np.rint(cast(scene, view).depth_m_HW * 1000))
    assert depth_mm.min() > 0


def test_holes_only_remove_depth() -> None:
    whole = render(Options(0, 48, 64, holes=False, depth_noise=True), "train", 0, 0)
    holed = render(SMALL, "train", 0, 0)
    kept = holed.depth_mm_HW > 0
    np.testing.assert_array_equal(holed.depth_mm_HW[kept], whole.depth_mm_HW[kept])
    np.testing.assert_array_equal(holed.rgb_HW3, whole.rgb_HW3)
    assert not kept.all()


def test_statistics_are_those_of_an_indoor_data_set() -> None:
    options = Options(seed=0, height=120, width=160, holes=True, depth_noise=True)
    frames = [render(options, "train", scene, 0) for scene in range(16)]
    valid = np.array([(f.depth_mm_HW > 0).mean() for f in frames])
    median_m = np.array([np.median(f.depth_mm_HW[f.depth_mm_HW > 0]) / 1000 for f in frames])
    assert 0.72 < valid.mean() < 0.90
    assert ((valid > 0.55) & (valid < 0.95)).all()
    assert 1.5 < np.median(median_m) < 4.0
    assert all(f.depth_mm_HW.max() < 10_500 for f in frames)
    # A band of at least 6 / 4 pixels along every border has no depth, at this quarter of the full size.
    assert all(f.depth_mm_HW[[0, -1]].max() == f.depth_mm_HW[:, [0, -1]].max() == 0 for f in frames)
    # Pictures use their range, and are neither black nor white.
    assert all(30 < f.rgb_HW3.mean() < 215 and f.rgb_HW3.std() > 10 for f in frames)


# --- colour -----------------------------------------------------------------------------------------------------------


def colour_and_depth(split: str, scenes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random valid pixels of some scenes: colours in [0, 1], depths in metres."""
    colours, depths = [], []
    for scene in range(scenes):
        frame = render(SMALL, split, scene, 0)
        valid = np.flatnonzero(frame.depth_mm_HW)
        chosen = np.random.default_rng(scene).choice(valid, 300)
        colours.append(frame.rgb_HW3.reshape(-1, 3)[chosen] / 255)
        depths.append(frame.depth_mm_HW.ravel()[chosen] / 1000)
    return np.concatenate(colours), np.concatenate(depths)


def explained(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """R² on `test` of the best quadratic function of colour on `train`."""

    def terms(rgb: np.ndarray) -> np.ndarray:
        r, g, b = rgb.T
        return np.stack([np.ones(len(rgb)), r, g, b, r * r, g * g, b * b, r * g, g * b, b * r], axis=1)

    weight = np.linalg.lstsq(terms(train[0]), train[1], rcond=None)[0]
    error = test[1] - terms(test[0]) @ weight
    return float(1 - (error**2).sum() / ((test[1] - test[1].mean()) ** 2).sum())


def test_colour_alone_does_not_tell_depth() -> None:
    train, test = colour_and_depth("train", 24), colour_and_depth("test", 16)
    assert explained(train, test) < 0.1

    # Control: the same colours, dimmed by a tenth per metre as by fog, give depth away.
    def fog(data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return data[0] * np.exp(-0.4 * data[1])[:, None], data[1]

    assert explained(fog(train), fog(test)) > 0.3


# --- identity ---------------------------------------------------------------------------------------------------------


def test_a_frame_is_a_function_of_its_name() -> None:
    forward = [render(SMALL, "train", s, f) for s, f in ((0, 0), (0, 1), (1, 0))]
    backward = [render(SMALL, "train", s, f) for s, f in ((1, 0), (0, 1), (0, 0))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.rgb_HW3, other.rgb_HW3)
        np.testing.assert_array_equal(one.depth_mm_HW, other.depth_mm_HW)
    # Every part of the name matters, and the seed does.
    others = [
        *forward[1:],
        render(SMALL, "val", 0, 0),
        render(Options(1, 48, 64, holes=True, depth_noise=True), "train", 0, 0),
    ]
    assert all((o.depth_mm_HW != forward[0].depth_mm_HW).mean() > 0.5 for o in others)


def test_frames_rendered_in_other_processes_are_the_same() -> None:
    # 9 x 2 frames are enough for two processes to be started.
    data = rooms(train_scenes=9)
    frames = data.frames("train")
    assert len(frames) == 18
    for index in (0, 7, 17):
        read, own = data.read(frames[index]), render(SMALL, "train", index // 2, index % 2)
        np.testing.assert_array_equal(read.image_HW3, own.rgb_HW3)
        np.testing.assert_array_equal(np.rint(read.depth_m_HW * 1000), own.depth_mm_HW)
        assert (read.image_HW3.dtype, read.depth_m_HW.dtype) == (np.uint8, np.float32)


def test_splits_are_disjoint_and_named_by_scene() -> None:
    data = rooms()
    splits = {split: data.frames(split) for split in ("train", "val", "test")}
    assert splits["train"] == [
        FrameId("train-0000-00", "train-0000"),
        FrameId("train-0000-01", "train-0000"),
        FrameId("train-0001-00", "train-0001"),
        FrameId("train-0001-01", "train-0001"),
    ]
    scenes = [{frame.scene for frame in frames} for frames in splits.values()]
    assert len(set.union(*scenes)) == sum(map(len, scenes)) == 4
    pictures = {data.read(f).image_HW3.tobytes() for frames in splits.values() for f in frames}
    assert len(pictures) == 8


def test_digest_depends_on_every_option_and_on_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "train_scenes": 3, "val_scenes": 3, "test_scenes": 3, "frames_per_scene": 3, "height": 96, "width": 96,
        "seed": 1, "holes": False, "depth_noise": False,
    }  # fmt: skip
    assert set(changes) == set(SyntheticRooms.Config.model_fields)
    digests = {rooms(**{name: value}).digest() for name, value in changes.items()} | {rooms().digest()}
    assert len(digests) == len(changes) + 1
    assert rooms().digest() == rooms().digest()
    monkeypatch.setattr(SyntheticRooms, "version", SyntheticRooms.version + 1)
    assert rooms().digest() not in digests


def test_describe_says_that_it_is_synthetic_and_nothing_is_rendered_for_it(cache_root: Path) -> None:
    data = rooms()
    assert "synthetic" in data.describe()
    assert "2x2 train, 1x2 val, 1x2 test" in data.describe()
    assert SyntheticRooms.stand_in
    assert list(cache_root.iterdir()) == []


def test_renderer_does_not_load_torch() -> None:
    code = "import sys, spd_rooms.cache; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the cache --------------------------------------------------------------------------------------------------------


def test_frames_are_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = rooms()
    frame = first.frames("val")[0]
    picture = first.read(frame).image_HW3
    monkeypatch.setattr(cache, "render_scenes", lambda *_: pytest.fail("rendered again"))
    second = rooms()
    assert second.frames("val") == first.frames("val")
    np.testing.assert_array_equal(second.read(frame).image_HW3, picture)
    with pytest.raises(pytest.fail.Exception):
        second.frames("test")


@pytest.mark.parametrize("damage", ["cut", "cut in header", "empty", "one bit", "zeroed block", "another file"])
def test_damaged_cache_is_rendered_again(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = rooms().folder / "val.h5"
    rooms().frames("val")
    sound = path.read_bytes()
    middle = len(sound) // 2
    path.write_bytes(
        {
            "cut": sound[:middle],
            "cut in header": sound[:40],
            "empty": b"",
            "one bit": sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :],
            "zeroed block": sound[:1024] + bytes(4096) + sound[5120:],
            "another file": b"not a cache" * 1000,
        }[damage]
    )
    with caplog.at_level(logging.WARNING):
        data = rooms()
        frames = data.frames("val")
    assert [r.getMessage() for r in caplog.records] == [f"{path} is damaged: rendering it again"]
    assert path.read_bytes() == sound
    own = render(SMALL, "val", 0, 0)
    np.testing.assert_array_equal(data.read(frames[0]).image_HW3, own.rgb_HW3)


def test_killed_renderer_leaves_nothing_behind() -> None:
    folder = rooms().folder
    folder.mkdir(parents=True)
    (folder / ".val.h5.tmp-12345").write_bytes(b"half")
    rooms().frames("val")
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == ["val.h5"]


def test_failed_rendering_publishes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        yield render(SMALL, "val", 0, 0)
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "render_scenes", broken)
    with pytest.raises(KeyboardInterrupt):
        rooms().frames("val")
    assert [p.name for p in rooms().folder.iterdir() if p.suffix != ".lock"] == []


ENSURE = """
    import sys
    from pathlib import Path
    from spd_rooms.cache import ensure
    from spd_rooms.render import Options
    job = (Path(sys.argv[1]), Options(0, 48, 64, True, True), "train", 9, 2)
"""


def script(tmp_path: Path, end: str) -> list[str]:
    """Command that runs ENSURE and then `end`, with the cache file to make as its argument."""
    file = tmp_path / "script.py"
    file.write_text(textwrap.dedent(ENSURE) + textwrap.dedent(end))
    return [sys.executable, str(file), str(tmp_path / "folder" / "train.h5")]


def test_two_processes_may_start_together(tmp_path: Path) -> None:
    command = script(tmp_path, 'if __name__ == "__main__":\n    ensure(*job)')
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert cache.is_sound(tmp_path / "folder" / "train.h5")
    # One of them rendered, the other waited for it.
    assert sum("rendering train rooms" in message for message in messages) == 1


def test_daemon_renders_without_children(tmp_path: Path) -> None:
    end = """
    from multiprocessing import Process
    if __name__ == "__main__":
        child = Process(target=ensure, args=job, daemon=True)
        child.start()
        child.join()
        sys.exit(child.exitcode)
    """
    assert subprocess.run(script(tmp_path, end), check=False, timeout=PATIENCE_S).returncode == 0
    assert cache.is_sound(tmp_path / "folder" / "train.h5")


def test_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    # Its rendering processes import it, and would wait for ever for the lock that it holds.
    done = subprocess.run(
        script(tmp_path, "ensure(*job)"), check=False, timeout=PATIENCE_S, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("so that processes can import it")
    assert "ResourceError" in done.stderr
    assert not (tmp_path / "folder" / "train.h5").exists()


def test_handles_are_not_shared_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rooms()
    frame = data.frames("val")[0]
    picture = data.read(frame).image_HW3
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301
    assert copy._open == {}
    np.testing.assert_array_equal(copy.read(frame).image_HW3, picture)
    here = data._file("val")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert data._file("val") is not here


def test_cache_that_goes_bad_while_open_is_an_error() -> None:
    data = rooms()
    frame = data.frames("val")[0]
    (data.folder / "val.h5").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"val\.h5.*\n.*start again"):
        data.read(frame)


@pytest.mark.skipif(sys.platform == "win32", reason="paths")
def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPD_BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="SPD_BENCH_CACHE"):
        rooms().frames("train")


def test_full_disk_is_noticed_before_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 x 2 frames of 48 x 64 pixels at 5 bytes: 61 440 bytes.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100_000, 38_561, 61_439))
    with pytest.raises(DataError, match="MB are free"):
        rooms().frames("train")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100_000, 38_560, 61_440))
    assert len(rooms().frames("train")) == 4


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_unknown_split_and_frame_are_refused() -> None:
    data = rooms()
    with pytest.raises(ConfigError, match='did you mean "train"'):
        data.frames("trian")
    for name in ("train-0002-00", "train-0000-02", "night-0000-00", "train-0000", "train-0000-0x", ""):
        with pytest.raises(ConfigError, match="named like train-0000-00"):
            data.read(FrameId(name, "train-0000"))


@pytest.mark.parametrize("option", [{"height": 8}, {"train_scenes": 0}, {"seed": -1}, {"holes": 1}, {"widht": 64}])
def test_options_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        rooms(**option)
